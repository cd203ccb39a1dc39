/* Stacks in plain memory: threads, signal handlers and deep recursion with alloca on them; longjmp out of the depth. */
#include "check.h"
#include <alloca.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

static jmp_buf out;

static uint64_t dive(int depth, uint64_t seed) {
    char *here = alloca(3000 + depth % 7 * 100);
    memset(here, (int)(seed + depth), 3000);
    uint64_t below = depth ? dive(depth - 1, seed) : 1;
    for (int i = 0; i < 3000; i += 100) CHECK(here[i] == (char)(seed + depth));
    return below + (unsigned char)here[99];
}

static void dive_and_jump(volatile int depth) {
    char *here = alloca(5000);
    memset(here, depth, 5000);
    if (depth == 0) longjmp(out, 1);
    dive_and_jump(depth - 1);
    CHECK(here[77] == (char)depth);
}

static void *body(void *seed) {
    uint64_t first = dive(6000, (uint64_t)seed), again = dive(6000, (uint64_t)seed);
    CHECK(first == again);
    return NULL;
}

static volatile int handled;

static void on_usr1(int signal) {
    (void)signal;
    handled += dive(100, 3) > 0;
}

int main(void) {
    size_t bytes = 32 * MIB;
    char *stack[3];
    pthread_t thread[3];
    for (size_t i = 0; i < 3; i++) {
        pthread_attr_t attr;
        stack[i] = map_plain(bytes);
        CHECK(pthread_attr_init(&attr) == 0 && pthread_attr_setstack(&attr, stack[i], bytes) == 0);
        CHECK(pthread_create(&thread[i], &attr, body, (void *)(i + 1)) == 0);
        CHECK(pthread_attr_destroy(&attr) == 0);
    }
    for (int i = 0; i < 3; i++) CHECK(pthread_join(thread[i], NULL) == 0);
    for (int i = 0; i < 3; i++) CHECK(munmap(stack[i], bytes) == 0);

    stack_t alternative = {.ss_sp = map_plain(4 * MIB), .ss_size = 4 * MIB};
    struct sigaction action = {.sa_handler = on_usr1, .sa_flags = SA_ONSTACK};
    CHECK(sigaltstack(&alternative, NULL) == 0 && sigaction(SIGUSR1, &action, NULL) == 0);
    for (int i = 0; i < 10; i++) {
        push_out();
        CHECK(raise(SIGUSR1) == 0);
    }
    CHECK(handled == 10);
    for (int i = 0; i < 20; i++)
        if (setjmp(out) == 0) dive_and_jump(1000);
    return ok();
}
