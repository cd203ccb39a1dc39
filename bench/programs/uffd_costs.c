// What a fault in user space costs on this kernel, before any pager: round trips of one userfaultfd fault by placement of the
// handler, and the ioctls alone. Nothing of ramster is in here. Prints one JSON object of {what: {p50, mean, p99}} in microseconds.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef UFFDIO_MOVE
struct uffdio_move { uint64_t dst, src, len, mode; int64_t move; };
#define UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct uffdio_move)
#define UFFD_FEATURE_MOVE (1 << 16)
#endif
#define PAGE 4096UL

static int uffd;
static char *frame, *region;
static size_t pages;
static volatile int stop;
static int first_result = 1;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

static void pin(int cpu) {
    if (cpu < 0) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void result(const char *what, uint32_t *ns, size_t count, double per) {
    double sum = 0;
    for (size_t i = 0; i < count; i++) sum += ns[i];
    qsort(ns, count, sizeof *ns, by_value);
    printf("%s\"%s\": {\"p50\": %.2f, \"mean\": %.2f, \"p99\": %.2f}", first_result ? "{" : ",\n ", what, ns[count / 2] / per / 1e3,
           sum / count / per / 1e3, ns[count * 99 / 100] / per / 1e3);
    first_result = 0;
    fflush(stdout);
}

static void open_uffd(void) {
    int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    uffd = dev >= 0 ? ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC) : (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (uffd < 0) die("userfaultfd");
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MOVE};
    if (ioctl(uffd, UFFDIO_API, &api)) die("UFFDIO_API with MOVE");
}

static char *map(size_t bytes) {
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) die("mmap");
    return p;
}

static void watch(char *p, size_t bytes) {
    struct uffdio_register r = {.range = {(uint64_t)p, bytes}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &r)) die("UFFDIO_REGISTER");
}

// A handler blocked in read(): the kernel wakes every blocked reader, the first one gets the message.
static void *handler(void *cpu) {
    pin((int)(intptr_t)cpu);
    struct uffd_msg message;
    while (read(uffd, &message, sizeof message) == sizeof message) {
        struct uffdio_copy c = {.dst = message.arg.pagefault.address & ~(PAGE - 1), .src = (uint64_t)frame, .len = PAGE};
        if (ioctl(uffd, UFFDIO_COPY, &c) && errno != EEXIST) die("UFFDIO_COPY");
    }
    return NULL;
}

struct faulter { int cpu; size_t from, to; uint32_t *ns; };

static void *fault_all(void *argument) {
    struct faulter *f = argument;
    pin(f->cpu);
    for (size_t i = f->from; i < f->to; i++) {
        uint64_t start = now_ns();
        *(volatile char *)(region + i * PAGE);
        f->ns[i] = now_ns() - start;
    }
    return NULL;
}

// Handlers are left blocked and die with the process that this measurement is forked into.
static void round_trip(const char *what, const int *handlers, int handler_count, const int *faulters, int faulter_count) {
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        open_uffd();
        region = map(pages * PAGE);
        watch(region, pages * PAGE);
        pthread_t thread[8];
        for (int i = 0; i < handler_count; i++) pthread_create(&thread[i], NULL, handler, (void *)(intptr_t)handlers[i]);
        usleep(20000);
        uint32_t *ns = calloc(pages, sizeof *ns);
        struct faulter f[2];
        for (int i = 0; i < faulter_count; i++) {
            f[i] = (struct faulter){faulters[i], pages / faulter_count * i, pages / faulter_count * (i + 1), ns};
            pthread_create(&thread[4 + i], NULL, fault_all, &f[i]);
        }
        for (int i = 0; i < faulter_count; i++) pthread_join(thread[4 + i], NULL);
        result(what, ns, pages / faulter_count * faulter_count, 1);
        _exit(0);
    }
    int status;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (status) exit(1);
    first_result = 0;
}

static void *spin(void *cpu) {
    pin((int)(intptr_t)cpu);
    while (!stop) __asm__ volatile("pause");
    return NULL;
}

static void ioctls_alone(size_t run, const char *suffix) {
    char *src = map(pages * PAGE), *dst = map(pages * PAGE);
    watch(dst, pages * PAGE);
    watch(src, pages * PAGE);
    uint32_t *ns = calloc(pages, sizeof *ns);
    char what[80];
    struct uffdio_copy c = {0};
    for (size_t i = 0; i < pages; i += run) {
        c = (struct uffdio_copy){.dst = (uint64_t)dst + i * PAGE, .src = (uint64_t)frame, .len = run * PAGE};
        uint64_t start = now_ns();
        if (ioctl(uffd, UFFDIO_COPY, &c)) die("UFFDIO_COPY");
        ns[i / run] = now_ns() - start;
    }
    snprintf(what, sizeof what, "ioctl COPY %zu, per page%s", run, suffix);
    result(what, ns, pages / run, run);
    for (size_t i = 0; i < pages; i += run) {
        struct uffdio_move m = {.dst = (uint64_t)src + i * PAGE, .src = (uint64_t)dst + i * PAGE, .len = run * PAGE};
        uint64_t start = now_ns();
        if (ioctl(uffd, UFFDIO_MOVE, &m)) die("UFFDIO_MOVE");
        ns[i / run] = now_ns() - start;
    }
    snprintf(what, sizeof what, "ioctl MOVE %zu, per page%s", run, suffix);
    result(what, ns, pages / run, run);
    munmap(src, pages * PAGE);
    munmap(dst, pages * PAGE);
    free(ns);
}

int main(int argc, char **argv) {
    pages = argc > 1 ? strtoul(argv[1], NULL, 0) / 16 * 16 : 8192;
    frame = map(16 * PAGE);
    memset(frame, 7, 16 * PAGE);
    pin(0);
    region = map(pages * PAGE);
    uint32_t *ns = calloc(pages, sizeof *ns);
    struct faulter zero = {0, 0, pages, ns};
    fault_all(&zero);
    result("kernel zero-fill fault (read)", ns, pages, 1);
    round_trip("fault on core 0, handler on core 0", (int[]){0}, 1, (int[]){0}, 1);
    round_trip("fault on core 0, handler on core 1", (int[]){1}, 1, (int[]){0}, 1);
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    sched_setaffinity(0, sizeof all, &all);
    round_trip("fault anywhere, handler anywhere", (int[]){-1}, 1, (int[]){-1}, 1);
    round_trip("fault on core 0, handlers on both cores", (int[]){0, 1}, 2, (int[]){0}, 1);
    round_trip("faults on both cores, handlers on both cores", (int[]){0, 1}, 2, (int[]){0, 1}, 2);
    round_trip("faults on both cores, one handler on core 0", (int[]){0}, 1, (int[]){0, 1}, 2);
    round_trip("faults on both cores, two handlers anywhere", (int[]){-1, -1}, 2, (int[]){-1, -1}, 2);
    pin(0);
    open_uffd();
    ioctls_alone(1, "");
    ioctls_alone(16, "");
    pthread_t spinner;
    pthread_create(&spinner, NULL, spin, (void *)1);
    ioctls_alone(1, ", other core busy in this process");
    ioctls_alone(16, ", other core busy in this process");
    stop = 1;
    pthread_join(spinner, NULL);
    printf("}\n");
    return 0;
}
