/* System calls into and out of memory that is not there: files, pipes, sockets, vectors, positions; the kernel faults, not the program. */
#include "check.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

enum { BYTES = 24 << 20 };

static int temporary(void) {
    char name[] = "/tmp/ramster-io-XXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && unlink(name) == 0);
    return fd;
}

static void files(void) {
    char *data = map_plain(BYTES), *copy = map_plain(BYTES);
    int fd = temporary();
    fill(data, BYTES, 1);
    fill(copy, BYTES, 2);
    push_out();
    CHECK(write(fd, data, BYTES) == BYTES);
    push_out();
    CHECK(pread(fd, copy, BYTES, 0) == BYTES);
    CHECK(holds(copy, BYTES, 1));
    /* Odd places and lengths, into pages that are out. */
    push_out();
    for (size_t at = 4000; at + 300000 < BYTES; at += 1234567) {
        CHECK(pread(fd, copy + at + 3, 300000, at) == 300000);
        CHECK(memcmp(copy + at + 3, data + at, 300000) == 0);
        CHECK(pread(fd, copy + at, 300003, at) == 300003);
    }
    CHECK(holds(copy, BYTES, 1));
    fill(copy, BYTES, 3);
    push_out();
    struct iovec parts[3] = {{copy, 5 * MIB}, {copy + 10 * MIB + 1, MIB + 6}, {copy + 20 * MIB, 3 * MIB}};
    CHECK(preadv(fd, parts, 3, 0) == (ssize_t)(9 * MIB + 6));
    CHECK(memcmp(copy, data, 5 * MIB) == 0 && memcmp(copy + 10 * MIB + 1, data + 5 * MIB, MIB + 6) == 0);
    CHECK(memcmp(copy + 20 * MIB, data + 6 * MIB + 6, 3 * MIB) == 0);
    CHECK(holds_from(copy + 5 * MIB, 5 * MIB, 3, 5 * MIB));
    CHECK(munmap(data, BYTES) == 0 && munmap(copy, BYTES) == 0 && close(fd) == 0);
}

struct end {
    int fd;
    char *data;
};

static void *writer(void *arg) {
    struct end *end = arg;
    for (size_t done = 0; done < BYTES;) {
        ssize_t n = write(end->fd, end->data + done, BYTES - done < 100001 ? BYTES - done : 100001);
        CHECK(n > 0);
        done += n;
    }
    return NULL;
}

static void streams(int from, int to) {
    char *data = map_plain(BYTES), *copy = map_plain(BYTES);
    fill(data, BYTES, 4);
    fill(copy, BYTES, 5);
    push_out();
    struct end end = {to, data};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, writer, &end) == 0);
    for (size_t done = 0; done < BYTES;) {
        ssize_t n = read(from, copy + done, BYTES - done < 70003 ? BYTES - done : 70003);
        CHECK(n > 0);
        done += n;
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(holds(copy, BYTES, 4));
    CHECK(munmap(data, BYTES) == 0 && munmap(copy, BYTES) == 0 && close(from) == 0 && close(to) == 0);
}

/* Structures that the kernel reads or writes: names, times, wait lists. */
static void arguments(void) {
    char *at = map_plain(MIB);
    for (int round = 0; round < 3; round++) {
        strcpy(at + 3 * PAGE - 3, "/dev/null");
        push_out();
        int fd = open(at + 3 * PAGE - 3, O_RDONLY);
        CHECK(fd >= 0);
        struct stat *status = (struct stat *)(at + 200 * PAGE - 64);
        CHECK(fstat(fd, status) == 0 && S_ISCHR(status->st_mode));
        push_out();
        CHECK(S_ISCHR(status->st_mode) && close(fd) == 0);
        CHECK(getcwd(at + 100 * PAGE - 2, PAGE) != NULL);
    }
    CHECK(munmap(at, MIB) == 0);
}

static void bad_buffers(void) {
    int fd = open("/dev/zero", O_RDONLY);
    char *at = map_plain(MIB);
    CHECK(fd >= 0 && mprotect(at + MIB / 2, MIB / 2, PROT_READ) == 0);
    CHECK_FAILS(read(fd, at + MIB / 2, PAGE), EFAULT);
    CHECK(munmap(at, MIB) == 0);
    CHECK_FAILS(read(fd, at, PAGE), EFAULT);
    CHECK(close(fd) == 0);
}

int main(void) {
    int ends[2];
    files();
    CHECK(pipe(ends) == 0);
    streams(ends[0], ends[1]);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    streams(ends[0], ends[1]);
    arguments();
    bad_buffers();
    return ok();
}
