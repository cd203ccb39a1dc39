/* The malloc family: bytes kept through storms of realloc, alignments, zeroes, usable sizes, refusals; several times the local memory is alive. */
#include "check.h"
#include <malloc.h>

static uint64_t state = 1;

static uint64_t next(void) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return state >> 33;
}

/* Mostly small, sometimes around the border between small and big, sometimes several MiB. */
static size_t any_size(void) {
    switch (next() % 16) {
    case 0: return next() % (3 * MIB);
    case 1: return 128 * 1024 - 64 + next() % 128;
    case 2: return next() % (256 * 1024);
    case 3: return next() % 9;
    default: return next() % 4000;
    }
}

static void put(char *block, size_t bytes, uint64_t seed) {
    for (size_t i = 0; i < bytes; i += 61) block[i] = (char)(seed * 31 + i);
    if (bytes) block[bytes - 1] = (char)(seed * 31 + bytes - 1);
}

static int kept(const char *block, size_t bytes, size_t whole, uint64_t seed) {
    for (size_t i = 0; i < bytes; i += 61)
        if (block[i] != (char)(seed * 31 + i)) return 0;
    return bytes == 0 || bytes != whole || block[bytes - 1] == (char)(seed * 31 + bytes - 1);
}

static void storm(void) {
    enum { BLOCKS = 600 };
    static char *block[BLOCKS];
    static size_t size[BLOCKS];
    for (int round = 0; round < 6000; round++) {
        size_t i = next() % BLOCKS, bytes = any_size();
        CHECK(kept(block[i], size[i], size[i], i));
        if (next() % 4 == 0) {
            free(block[i]);
            block[i] = malloc(bytes);
        } else {
            block[i] = realloc(block[i], bytes + 1);
            bytes++;
            CHECK(kept(block[i], size[i] < bytes ? size[i] : bytes, size[i], i));
        }
        CHECK(block[i] && (uintptr_t)block[i] % 16 == 0 && malloc_usable_size(block[i]) >= bytes);
        size[i] = bytes;
        put(block[i], bytes, i);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        CHECK(kept(block[i], size[i], size[i], i));
        free(block[i]);
    }
}

/* One block from a byte to 96 MiB and back. */
static void one_block(void) {
    char *block = NULL;
    size_t filled = 0;
    for (size_t bytes = 1; bytes < 96 * MIB; bytes += bytes / 3 + 1) {
        CHECK((block = realloc(block, bytes)) && kept(block, filled, filled, 5));
        put(block, filled = bytes, 5);
    }
    while (filled > 16) {
        CHECK(kept(block, filled, filled, 5));
        filled -= filled / 3 + 1;
        CHECK((block = realloc(block, filled)) && kept(block, filled, 0, 5));
        put(block, filled, 5);
    }
    free(block);
}

static void alignments(void) {
    for (size_t alignment = 8; alignment <= 4 * MIB; alignment *= 2) {
        size_t sizes[] = {1, 100, 5000, 128 * 1024, 300 * 1024 + 1};
        for (size_t i = 0; i < 5; i++) {
            void *block[3];
            CHECK(posix_memalign(&block[0], alignment, sizes[i]) == 0);
            CHECK((block[1] = aligned_alloc(alignment, sizes[i])) && (block[2] = memalign(alignment, sizes[i])));
            for (int k = 0; k < 3; k++) {
                CHECK((uintptr_t)block[k] % alignment == 0 && malloc_usable_size(block[k]) >= sizes[i]);
                put(block[k], sizes[i], k);
            }
            block[0] = realloc(block[0], 2 * sizes[i]);
            CHECK(block[0] && kept(block[0], sizes[i], sizes[i], 0));
            for (int k = 0; k < 3; k++) {
                CHECK(kept(block[k], sizes[i], sizes[i], k));
                free(block[k]);
            }
        }
    }
    void *block = valloc(10);
    CHECK((uintptr_t)block % PAGE == 0);
    free(block);
    block = pvalloc(5000);
    CHECK((uintptr_t)block % PAGE == 0 && malloc_usable_size(block) >= 2 * PAGE);
    free(block);
    block = (void *)1;
    CHECK(posix_memalign(&block, 3, 8) == EINVAL && posix_memalign(&block, 4, 8) == EINVAL && block == (void *)1);
}

static void zeroes(void) {
    for (int round = 0; round < 200; round++) {
        size_t count = any_size() / 8 + 1;
        char *dirty = malloc(count * 8);
        memset(dirty, 0xff, count * 8);
        free(dirty);
        char *block = calloc(count, 8);
        CHECK(block && is_zero(block, count * 8));
        free(block);
    }
}

static void refusals(void) {
    volatile size_t most = SIZE_MAX, half = SIZE_MAX / 2;
    void *block = malloc(100), *same = block;
    errno = 0;
    CHECK(malloc(most) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(malloc(half - 100) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(calloc(half, 3) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(realloc(same, most - 50) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(reallocarray(same, half, 3) == NULL && errno == ENOMEM);
    CHECK(posix_memalign(&same, 64, most - 500) == ENOMEM && same == block);
    free(block);
    block = malloc(MIB);
    put(block, MIB, 9);
    CHECK(realloc(block, half) == NULL && kept(block, MIB, MIB, 9));
    free(block);
    free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    block = malloc(0);
    CHECK(block);
    CHECK(realloc(block, 0) == NULL);
    errno = 4711;
    free(malloc(10));
    free(malloc(MIB));
    CHECK(errno == 4711);
}

/* A list of 1.5 million small blocks, some 70 MiB, walked twice. */
static void many_small(void) {
    struct node {
        struct node *next;
        uint64_t value, twice;
    } *list = NULL;
    uint64_t count = 1500000;
    for (uint64_t i = 0; i < count; i++) {
        struct node *node = malloc(sizeof *node + i % 5 * 8);
        node->next = list;
        node->value = i;
        node->twice = 2 * i;
        list = node;
    }
    uint64_t left = count;
    for (struct node *node = list; node; node = node->next) CHECK(node->value == --left && node->twice == 2 * left);
    while (list) {
        struct node *node = list;
        CHECK(node->twice == 2 * node->value);
        list = node->next;
        free(node);
    }
}

int main(void) {
    storm();
    one_block();
    alignments();
    zeroes();
    refusals();
    many_small();
    return ok();
}
