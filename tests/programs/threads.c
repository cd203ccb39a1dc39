/* Many threads: on one page, on all pages, mapping and unmapping beside each other, allocating here and freeing there. */
#include "check.h"
#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 8 };

static void together(void *(*body)(void *), size_t count) {
    pthread_t thread[THREADS];
    for (size_t i = 0; i < count; i++) CHECK(pthread_create(&thread[i], NULL, body, (void *)i) == 0);
    for (size_t i = 0; i < count; i++) CHECK(pthread_join(thread[i], NULL) == 0);
}

static _Atomic uint64_t *one_page;
static atomic_int stop;

static void *count_up(void *arg) {
    size_t who = (size_t)arg;
    for (uint64_t i = 1; i <= 20000; i++) {
        CHECK(atomic_fetch_add(&one_page[who], 1) == i - 1);
        atomic_fetch_add(&one_page[100], 1);
    }
    return NULL;
}

static void *keep_pushing(void *arg) {
    (void)arg;
    while (!stop) push_out();
    return NULL;
}

/* Every thread counts in the same page while another keeps pushing it out. */
static void one_page_for_all(void) {
    one_page = map_plain(64 * 1024);
    pthread_t pusher;
    CHECK(pthread_create(&pusher, NULL, keep_pushing, NULL) == 0);
    together(count_up, THREADS);
    stop = 1;
    CHECK(pthread_join(pusher, NULL) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(one_page[i] == 20000);
    CHECK(one_page[100] == 20000 * THREADS);
}

static uint64_t *shared_words;
enum { SHARED_BYTES = 64 << 20, ROUNDS = 3 };

/* Thread t owns word t of every 64 bytes: all threads write all pages. */
static void *stripe(void *arg) {
    size_t who = (size_t)arg, words = SHARED_BYTES / 8;
    for (uint64_t round = 1; round <= ROUNDS; round++)
        for (size_t i = who; i < words; i += 8) {
            CHECK(shared_words[i] == (round == 1 ? 0 : word_at(round - 1, i)));
            shared_words[i] = word_at(round, i);
        }
    return NULL;
}

static void all_pages_for_all(void) {
    shared_words = map_plain(SHARED_BYTES);
    together(stripe, 8);
    CHECK(holds(shared_words, SHARED_BYTES, ROUNDS));
    CHECK(munmap(shared_words, SHARED_BYTES) == 0);
}

static void *churn(void *arg) {
    size_t who = (size_t)arg;
    char *keep[4] = {0};
    for (size_t round = 0; round < 60; round++) {
        size_t slot = round % 4, bytes = (1 + (round * 7 + who) % 5) * MIB / 2;
        static _Thread_local size_t size[4];
        if (keep[slot]) {
            CHECK(holds(keep[slot], size[slot], who * 4 + slot));
            if (round % 3 == 0) {
                char *moved = mremap(keep[slot], size[slot], size[slot] + MIB, MREMAP_MAYMOVE);
                CHECK(moved != MAP_FAILED && holds(moved, size[slot], who * 4 + slot) && is_zero(moved + size[slot], MIB));
                keep[slot] = moved;
                size[slot] += MIB;
            }
            CHECK(munmap(keep[slot], size[slot] / 2) == 0);
            CHECK(munmap(keep[slot] + size[slot] / 2, size[slot] - size[slot] / 2) == 0);
        }
        size[slot] = bytes;
        keep[slot] = map_plain(bytes);
        CHECK(is_zero(keep[slot], bytes));
        fill(keep[slot], bytes, who * 4 + slot);
        if (round % 5 == 0) {
            CHECK(madvise(keep[slot], bytes / 2, MADV_DONTNEED) == 0 && is_zero(keep[slot], bytes / 2));
            fill(keep[slot], bytes, who * 4 + slot);
        }
    }
    return NULL;
}

/* Blocks go from hand to hand: whoever finds one checks it, frees it and leaves another. */
static _Atomic(uint64_t *) hand[512];

static void *pass_on(void *arg) {
    uint64_t state = (uint64_t)arg + 1;
    for (int round = 0; round < 30000; round++) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        size_t words = 4 + (state >> 40) % 200;
        if (round % 300 == 0) words = 20000 + (state >> 40) % 50000;
        uint64_t *mine = malloc(words * 8);
        mine[0] = words;
        mine[1] = state;
        mine[words - 1] = ~words;
        uint64_t *other = atomic_exchange(&hand[(state >> 33) % 512], mine);
        if (other) {
            CHECK(other[other[0] - 1] == ~other[0]);
            free(other);
        }
    }
    return NULL;
}

/* Short-lived threads, each leaving blocks behind for others to free. */
static void *leave_behind(void *arg) {
    (void)arg;
    return malloc(1000);
}

int main(void) {
    one_page_for_all();
    all_pages_for_all();
    together(churn, 4);
    together(pass_on, THREADS);
    for (int i = 0; i < 2000; i++) {
        pthread_t thread;
        void *block;
        CHECK(pthread_create(&thread, NULL, leave_behind, NULL) == 0 && pthread_join(thread, &block) == 0);
        free(block);
    }
    return ok();
}
