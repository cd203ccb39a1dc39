/* What every behaviour program shares: checks that say where they failed, patterns that tell each word of each mapping apart, and a way to push
 * everything else out of a small local memory. A program prints OK and nothing else. */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE ((size_t)4096)
#define MIB ((size_t)1 << 20)

#define CHECK(what)                                                                                        \
    do {                                                                                                   \
        if (!(what)) {                                                                                     \
            fprintf(stderr, "%s:%d: pid %d: %s (errno %d)\n", __FILE__, __LINE__, getpid(), #what, errno); \
            _exit(1);                                                                                      \
        }                                                                                                  \
    } while (0)

/* A call that must fail, and with which errno. */
#define CHECK_FAILS(call, expected)                                                                              \
    do {                                                                                                         \
        errno = 0;                                                                                               \
        intptr_t got_ = (intptr_t)(call);                                                                        \
        if (got_ != -1 || errno != (expected)) {                                                                 \
            fprintf(stderr, "%s:%d: %s: %ld, errno %d not %d\n", __FILE__, __LINE__, #call, (long)got_, errno, (expected)); \
            _exit(1);                                                                                            \
        }                                                                                                        \
    } while (0)

static inline uint64_t word_at(uint64_t seed, size_t index) {
    uint64_t x = (seed << 40) ^ (index * 0x9e3779b97f4a7c15ull);
    x ^= x >> 29;
    /* Half of each page repeats, so that it compresses by about two. */
    return index & 1 ? seed : x * 0xbf58476d1ce4e5b9ull;
}

static inline void fill(void *start, size_t bytes, uint64_t seed) {
    uint64_t *words = (uint64_t *)start;
    for (size_t i = 0; i < bytes / 8; i++) words[i] = word_at(seed, i);
}

/* As if `start` lay `skipped` bytes behind where fill began. */
static inline int holds_from(const void *start, size_t bytes, uint64_t seed, size_t skipped) {
    const uint64_t *words = (const uint64_t *)start;
    for (size_t i = 0; i < bytes / 8; i++)
        if (words[i] != word_at(seed, i + skipped / 8)) return 0;
    return 1;
}

static inline int holds(const void *start, size_t bytes, uint64_t seed) { return holds_from(start, bytes, seed, 0); }

static inline int is_zero(const void *start, size_t bytes) {
    const uint64_t *words = (const uint64_t *)start;
    for (size_t i = 0; i < bytes / 8; i++)
        if (words[i]) return 0;
    return 1;
}

static inline void *map_plain(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    return at;
}

/* Writes and reads 32 MiB: twice the local memory of the tests, so whatever was there before has to leave. */
static inline void push_out(void) {
    size_t bytes = 32 * MIB;
    char *all = (char *)map_plain(bytes);
    fill(all, bytes, 99);
    CHECK(holds(all, bytes, 99));
    CHECK(munmap(all, bytes) == 0);
}

static inline int ok(void) {
    puts("OK");
    return 0;
}

#endif
