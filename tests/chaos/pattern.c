/* Writes and checks patterns page by page, at random, for some time: pattern MIB SECONDS SEED [mourns]. Every word of a page says which page it is and how often
 * it was written; half of the words are random, so that a page packs to half its size. Says "ops N" about once a second, and "verified N pages, L lost" at its
 * end. A lost page (SIGBUS at its access) ends it, unless it mourns: then it counts the page, discards it and writes it anew. */
#include "../programs/check.h"
#include <setjmp.h>
#include <signal.h>
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

static sigjmp_buf back;
static char *volatile touched;

static void lost_page(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    char *addr = info->si_addr;
    if (touched == NULL || addr < touched || addr >= touched + PAGE) {
        static const char wrong[] = "SIGBUS somewhere else than at the page that is touched\n";
        (void)!write(2, wrong, sizeof wrong - 1);
        _exit(4);
    }
    siglongjmp(back, 1);
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

static uint64_t *memory, *versions, seed, lost;

static uint64_t name_of(size_t index) { return mixed(seed) ^ (versions[index] << 32 | index); }

static void use_page(size_t index, int writes) {
    uint64_t *page = memory + index * WORDS;
    if (sigsetjmp(back, 1)) {
        lost++;
        versions[index] = 0;
        CHECK(madvise(page, PAGE, MADV_DONTNEED) == 0);
    }
    touched = (char *)page;
    if (versions[index]) check_page(page, name_of(index), index);
    if (!versions[index] || writes) {
        ++versions[index];
        for (size_t word = 0; word < WORDS; word++) page[word] = word_of(name_of(index), word);
    }
    touched = NULL;
}

int main(int count, char **arguments) {
    CHECK(count == 4 || count == 5);
    size_t pages = strtoul(arguments[1], NULL, 10) * MIB / PAGE;
    double end = seconds() + strtod(arguments[2], NULL), told = 0;
    seed = strtoull(arguments[3], NULL, 10);
    if (count == 5) {
        struct sigaction action = {.sa_sigaction = lost_page, .sa_flags = SA_SIGINFO};
        CHECK(strcmp(arguments[4], "mourns") == 0 && sigaction(SIGBUS, &action, NULL) == 0);
    }
    uint64_t random = seed, ops = 0;
    memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    versions = calloc(pages, sizeof *versions);
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
            use_page(random % pages, random >> 62 == 0);
        }
    }
    for (size_t index = 0; index < pages; index++) use_page(index, 0);
    printf("verified %zu pages, %llu lost\n", pages, (unsigned long long)lost);
    return 0;
}
