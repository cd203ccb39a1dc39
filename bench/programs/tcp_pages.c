// What 4 KiB pages cost over plain loopback TCP: 24 bytes ask, 4 KiB answer, one at a time or pipelined. The floor under every
// remote fault: nothing is compressed, checked or stored. Prints one JSON object. -k asks for RUN pages with one request.
#include "measure.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define ASK 24UL

static void read_all(int fd, char *into, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t got = read(fd, into + done, bytes - done);
        if (got == 0) exit(0);
        if (got < 0) die("read");
        done += got;
    }
}

static void write_all(int fd, const char *from, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        ssize_t put = write(fd, from + done, bytes - done);
        if (put < 0) die("write");
        done += put;
    }
}

// Answers each request with the next pages of its memory; ends when the client closes.
static void serve(int fd, char *memory, size_t pages, size_t run) {
    char ask[ASK];
    for (size_t next = 0;; next = (next + run) % pages) {
        read_all(fd, ask, ASK);
        write_all(fd, memory + next * PAGE, run * PAGE);
    }
}

int main(int argc, char **argv) {
    size_t pages = 65536, run = 1, depth = 1;
    int client_cpu = -1, server_cpu = -1, option, one = 1;
    while ((option = getopt(argc, argv, "p:k:d:c:s:")) != -1) {
        if (option == 'p') pages = strtoul(optarg, NULL, 0);
        else if (option == 'k') run = strtoul(optarg, NULL, 0);
        else if (option == 'd') depth = strtoul(optarg, NULL, 0);
        else if (option == 'c') client_cpu = atoi(optarg);
        else if (option == 's') server_cpu = atoi(optarg);
        else return 2;
    }
    pages -= pages % run;
    char *memory = malloc(pages * PAGE);
    memset(memory, 5, pages * PAGE);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (void *)&address, length) || listen(listener, 1) || getsockname(listener, (void *)&address, &length)) die("listen");
    pid_t server = fork();
    if (server == 0) {
        pin(server_cpu);
        int fd = accept(listener, NULL, NULL);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        serve(fd, memory, pages, run);
    }
    pin(client_cpu);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&address, length)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    size_t requests = pages / run;
    uint32_t *ns = calloc(requests, sizeof *ns);
    char ask[ASK] = {0};
    uint64_t start = now_ns();
    for (size_t sent = 0, got = 0; got < requests; got++) {
        uint64_t began = now_ns();
        for (; sent < requests && sent < got + depth; sent++) write_all(fd, ask, ASK);
        read_all(fd, memory + got * run * PAGE, run * PAGE);
        ns[got] = now_ns() - began;
    }
    double page_us = (now_ns() - start) / 1e3 / pages;
    close(fd);
    waitpid(server, NULL, 0);
    printf("{");
    print_spread("request_us", ns, requests);
    printf("\"page_us\": %.3f, \"pages\": %zu, \"pages_a_request\": %zu, \"depth\": %zu}\n", page_us, pages, run, depth);
    return 0;
}
