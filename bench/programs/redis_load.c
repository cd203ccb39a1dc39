// Loads a redis-server with values that lz4 halves and then GETs them by keys drawn uniformly or zipf-like, one connection, a few
// requests in flight; every answer's length and its key's number inside are verified. Prints one JSON object.
#include "measure.h"
#include <arpa/inet.h>
#include <math.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#define VALUE_BYTES 1024
#define DEPTH 8
#define BUFFER (1 << 16)

static int fd;
static char buffer[BUFFER];
static size_t have, at;

static void write_all(const char *from, size_t bytes) {
    while (bytes) {
        ssize_t put = write(fd, from, bytes);
        if (put <= 0) die("write");
        from += put;
        bytes -= put;
    }
}

static char next_byte(void) {
    if (at == have) {
        ssize_t got = read(fd, buffer, BUFFER);
        if (got <= 0) die("redis closed the connection");
        have = got;
        at = 0;
    }
    return buffer[at++];
}

static void read_line(char *line, size_t room) {
    size_t length = 0;
    for (char c; (c = next_byte()) != '\n';)
        if (length + 1 < room) line[length++] = c;
    line[length] = 0;
}

// The first half of a value is random hexadecimal digits, the second half repeats its key.
static void make_value(size_t key, char *value) {
    uint64_t state = key;
    for (size_t i = 0; i < VALUE_BYTES / 2; i += 8) {
        uint64_t random = next_random(&state);
        memcpy(value + i, &random, 8);
    }
    char tail[17];
    snprintf(tail, sizeof tail, "key-%012zu", key);
    for (size_t i = VALUE_BYTES / 2; i < VALUE_BYTES; i += 16) memcpy(value + i, tail, 16);
}

static void expect_value(size_t key) {
    char line[64], value[VALUE_BYTES], expected[VALUE_BYTES];
    read_line(line, sizeof line);
    if (line[0] != '$' || atoi(line + 1) != VALUE_BYTES) {
        fprintf(stderr, "redis_load: key %zu: unexpected answer %s\n", key, line);
        exit(3);
    }
    for (size_t i = 0; i < VALUE_BYTES; i++) value[i] = next_byte();
    next_byte();
    next_byte();
    make_value(key, expected);
    if (memcmp(value, expected, VALUE_BYTES)) {
        fprintf(stderr, "redis_load: key %zu holds wrong bytes\n", key);
        exit(3);
    }
}

static void load(size_t keys) {
    char command[VALUE_BYTES + 128], line[64], value[VALUE_BYTES];
    for (size_t sent = 0, got = 0; got < keys; got++) {
        for (; sent < keys && sent < got + 16; sent++) {
            make_value(sent, value);
            int head = sprintf(command, "*3\r\n$3\r\nSET\r\n$16\r\nkey-%012zu\r\n$%d\r\n", sent, VALUE_BYTES);
            memcpy(command + head, value, VALUE_BYTES);
            memcpy(command + head + VALUE_BYTES, "\r\n", 2);
            write_all(command, head + VALUE_BYTES + 2);
        }
        read_line(line, sizeof line);
        if (line[0] != '+') exit(3);
    }
}

// Rank r is drawn with a weight of about 1/r (the continuous zipf with exponent 1); ranks are scattered over the keys.
static size_t draw(uint64_t *state, size_t keys, int zipf) {
    uint64_t random = next_random(state);
    if (!zipf) return random % keys;
    size_t rank = (size_t)exp((random >> 11) * 0x1p-53 * log((double)keys));
    return rank * 2654435761u % keys;
}

static double gets(size_t count, size_t keys, int zipf) {
    size_t asked[DEPTH];
    char command[128];
    uint64_t state = 7 + zipf, start = now_ns();
    for (size_t sent = 0, got = 0; got < count; got++) {
        for (; sent < count && sent < got + DEPTH; sent++) {
            asked[sent % DEPTH] = draw(&state, keys, zipf);
            write_all(command, sprintf(command, "*2\r\n$3\r\nGET\r\n$16\r\nkey-%012zu\r\n", asked[sent % DEPTH]));
        }
        expect_value(asked[got % DEPTH]);
    }
    return (now_ns() - start) / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int port = atoi(argv[1]), one = 1;
    size_t keys = strtoul(argv[2], NULL, 0), count = strtoul(argv[3], NULL, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (void *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    uint64_t start = now_ns();
    load(keys);
    double load_s = (now_ns() - start) / 1e9;
    double uniform_s = gets(count, keys, 0), zipf_s = gets(count, keys, 1);
    printf("{\"load_s\": %.3f, \"uniform_s\": %.3f, \"zipf_s\": %.3f}\n", load_s, uniform_s, zipf_s);
    return 0;
}
