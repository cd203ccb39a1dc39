/* fork: the child sees what its parent had, both write and see their own; grandchildren; children that allocate; forks while other threads allocate. */
#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

enum { BYTES = 48 << 20 };

static void done(pid_t child) {
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static char *data;

static void both_write(void) {
    data = map_plain(BYTES);
    fill(data, BYTES, 1);
    int ready[2];
    CHECK(pipe(ready) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        char byte;
        CHECK(holds(data, BYTES / 2, 1));
        CHECK(read(ready[0], &byte, 1) == 1); /* now the parent has overwritten all of it */
        CHECK(holds_from(data + BYTES / 2, BYTES / 2, 1, BYTES / 2));
        fill(data, BYTES, 2);
        push_out();
        CHECK(holds(data, BYTES, 2));
        _exit(0);
    }
    fill(data, BYTES, 3);
    push_out();
    CHECK(write(ready[1], "x", 1) == 1);
    CHECK(holds(data, BYTES, 3));
    done(child);
    CHECK(holds(data, BYTES, 3));
    CHECK(close(ready[0]) == 0 && close(ready[1]) == 0);
}

/* Each generation changes its part, forks, and checks that nobody below touched what it has. */
static void generations(int depth) {
    size_t part = BYTES / 4;
    fill(data + depth * part, part, 10 + depth);
    if (depth == 3) {
        for (int i = 0; i < 4; i++) CHECK(holds(data + i * part, part, 10 + i));
        return;
    }
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        generations(depth + 1);
        _exit(0);
    }
    done(child);
    for (int i = 0; i <= depth; i++) CHECK(holds(data + i * part, part, 10 + i));
    for (int i = depth + 1; i < 4; i++) CHECK(holds_from(data + i * part, part, 3, i * part));
}

/* Siblings alive at once, each with the same snapshot. */
static void siblings(void) {
    pid_t child[3];
    fill(data, BYTES, 20);
    for (int i = 0; i < 3; i++) {
        child[i] = fork();
        CHECK(child[i] >= 0);
        if (child[i] == 0) {
            CHECK(holds(data, BYTES, 20 + i));
            fill(data, BYTES / 2, 30 + i);
            CHECK(holds(data, BYTES / 2, 30 + i));
            _exit(0);
        }
        fill(data, BYTES, 21 + i);
    }
    for (int i = 0; i < 3; i++) done(child[i]);
    CHECK(holds(data, BYTES, 23));
}

static void child_allocates(void) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(munmap(data + 8 * MIB, 8 * MIB) == 0);
        char *more = map_plain(32 * MIB);
        fill(more, 32 * MIB, 40);
        char *block = malloc(5 * MIB);
        fill(block, 5 * MIB, 41);
        block = realloc(block, 20 * MIB);
        CHECK(holds(more, 32 * MIB, 40) && holds(block, 5 * MIB, 41) && holds(data, 8 * MIB, 23));
        free(block);
        _exit(0);
    }
    done(child);
    CHECK(holds(data, BYTES, 23));
}

static atomic_int stop;

static void *allocate(void *arg) {
    uint64_t state = (uint64_t)arg + 1;
    void *block[64] = {0};
    while (!stop) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        size_t i = (state >> 33) % 64;
        free(block[i]);
        block[i] = malloc((state >> 40) % 64 ? (state >> 40) % 3000 : MIB / 4);
        *(char *)block[i] = 1;
    }
    for (int i = 0; i < 64; i++) free(block[i]);
    return NULL;
}

/* glibc promises that malloc works in the child whatever other threads did at the fork. */
static void while_others_allocate(void) {
    pthread_t thread[3];
    for (size_t i = 0; i < 3; i++) CHECK(pthread_create(&thread[i], NULL, allocate, (void *)i) == 0);
    for (int round = 0; round < 60; round++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(60); /* a lock left held would hang us */
            for (int i = 0; i < 300; i++) {
                char *block = malloc(i * 100 + 1);
                block[i] = 1;
                free(block);
            }
            char *big = malloc(MIB);
            fill(big, MIB, round);
            CHECK(holds(big, MIB, round));
            CHECK(holds(data, MIB, 23));
            _exit(0);
        }
        done(child);
    }
    stop = 1;
    for (int i = 0; i < 3; i++) CHECK(pthread_join(thread[i], NULL) == 0);
}

static void bare_fork(void) {
    pid_t child = _Fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(holds(data, BYTES, 23));
        fill(data, MIB, 50);
        CHECK(holds(data, MIB, 50));
        _exit(0);
    }
    done(child);
    CHECK(holds(data, BYTES, 23));
}

/* The parent is gone before the child reads. */
static void orphan(void) {
    int result[2];
    char byte = 0;
    CHECK(pipe(result) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        pid_t grandchild = fork();
        CHECK(grandchild >= 0);
        if (grandchild) _exit(0);
        while (getppid() == child) usleep(1000);
        usleep(100000);
        CHECK(holds(data, BYTES, 23));
        CHECK(write(result[1], "k", 1) == 1);
        _exit(0);
    }
    done(child);
    CHECK(close(result[1]) == 0);
    CHECK(read(result[0], &byte, 1) == 1 && byte == 'k');
}

int main(void) {
    both_write();
    generations(0);
    siblings();
    child_allocates();
    while_others_allocate();
    bare_fork();
    orphan();
    CHECK(munmap(data, BYTES) == 0);
    return ok();
}
