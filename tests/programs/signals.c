/* Signals while pages come back: the handler itself touches evicted memory, maps and unmaps, jumps out of the middle of anything. */
#include "check.h"
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/time.h>

enum { BYTES = 32 << 20 };

static char *other;
static volatile sig_atomic_t ticks, maps_too, jumps;
static sigjmp_buf back;

static void on_tick(int signal) {
    (void)signal;
    int saved = errno;
    size_t page = (size_t)(++ticks * 7919) % (BYTES / PAGE);
    CHECK(holds_from(other + page * PAGE, PAGE, 2, page * PAGE));
    if (maps_too) {
        char *at = map_plain(256 * 1024);
        fill(at, 256 * 1024, 4);
        CHECK(holds(at, 256 * 1024, 4) && munmap(at, 256 * 1024) == 0);
    }
    errno = saved;
    if (jumps) siglongjmp(back, 1);
}

static void every_ms(int ms) {
    struct itimerval timer = {{0, ms * 1000}, {0, ms * 1000}};
    CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void *work(void *arg) {
    char *mine = map_plain(BYTES);
    fill(mine, BYTES, (uint64_t)arg);
    for (int i = 0; i < 2; i++) CHECK(holds(mine, BYTES, (uint64_t)arg));
    CHECK(munmap(mine, BYTES) == 0);
    return NULL;
}

static void busy(int enough) {
    int before = ticks;
    while (ticks - before < enough) {
        work((void *)5);
        char *block = malloc(MIB);
        block[5] = 1;
        free(block);
    }
}

int main(void) {
    other = map_plain(BYTES);
    fill(other, BYTES, 2);
    struct sigaction action = {.sa_handler = on_tick, .sa_flags = SA_RESTART};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    every_ms(2);
    busy(50);
    maps_too = 1;
    busy(50);
    /* With threads: any of them may get the signal. */
    pthread_t thread[3];
    for (size_t i = 0; i < 3; i++) CHECK(pthread_create(&thread[i], NULL, work, (void *)(i + 6)) == 0);
    busy(50);
    for (int i = 0; i < 3; i++) CHECK(pthread_join(thread[i], NULL) == 0);
    /* Out of the middle of faults and of mmap, again and again; only plain memory, since malloc may not be left that way. */
    maps_too = 0;
    char *mine = map_plain(BYTES);
    fill(mine, BYTES, 9);
    volatile int jumped = 0;
    if (sigsetjmp(back, 1)) jumped++;
    jumps = 1; /* only now is there somewhere to jump to */
    while (jumped < 100) {
        CHECK(holds(mine, BYTES, 9));
        char *at = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        at[0] = 1;
        munmap(at, MIB);
    }
    jumps = 0;
    every_ms(0);
    CHECK(holds(mine, BYTES, 9) && holds(other, BYTES, 2));
    return ok();
}
