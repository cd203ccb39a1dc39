/* Writes and checks patterns page by page, at random, for some time: pattern MIB SECONDS SEED. Every word of a page says which page it is and how often it was
 * written; half of the words are random, so that a page packs to half its size. Says "ops N" about once a second, and "verified N pages" at its end. */
#include "../programs/check.h"
#include <time.h>

#define WORDS (PAGE / 8)

static uint64_t mixed(uint64_t x) {
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t word_of(uint64_t name, size_t word) { return word % 2 ? name : mixed(name + word); }

static void check_page(const uint64_t *page, uint64_t name, size_t index) {
    for (size_t word = 0; word < WORDS; word++)
        if (page[word] != word_of(name, word)) {
            fprintf(stderr, "WRONG BYTES: page %zu word %zu is %llx, not %llx\n", index, word, (unsigned long long)page[word],
                    (unsigned long long)word_of(name, word));
            _exit(3);
        }
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

int main(int count, char **arguments) {
    CHECK(count == 4);
    size_t pages = strtoul(arguments[1], NULL, 10) * MIB / PAGE;
    double end = seconds() + strtod(arguments[2], NULL), told = 0;
    uint64_t seed = strtoull(arguments[3], NULL, 10), random = seed, ops = 0;
    uint64_t *memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint32_t *versions = calloc(pages, sizeof *versions);
    CHECK(memory != MAP_FAILED && versions != NULL);
    for (;;) {
        double now = seconds();
        if (now - told > 1) {
            printf("ops %llu\n", (unsigned long long)ops);
            fflush(stdout);
            told = now;
        }
        if (now > end) break;
        for (int turn = 0; turn < 16; turn++, ops++) {
            random = mixed(random);
            size_t index = random % pages;
            uint64_t *page = memory + index * WORDS;
            if (versions[index]) check_page(page, mixed(seed) ^ ((uint64_t)versions[index] << 32 | index), index);
            if (!versions[index] || random >> 62 == 0) {
                uint64_t name = mixed(seed) ^ ((uint64_t)++versions[index] << 32 | index);
                for (size_t word = 0; word < WORDS; word++) page[word] = word_of(name, word);
            }
        }
    }
    for (size_t index = 0; index < pages; index++)
        if (versions[index]) check_page(memory + index * WORDS, mixed(seed) ^ ((uint64_t)versions[index] << 32 | index), index);
    printf("verified %zu pages\n", pages);
    return 0;
}
