// Fills memory with pages that lz4 halves, then reads them in sequence and at random, each access timed and each page verified.
// Whether an access was a fault is known and not guessed: /proc/self/pagemap says just before it if the page is mapped, which
// holds for kernel swap and for userfaultfd alike. Prints one JSON object. It knows nothing of who pages it.
#include "measure.h"
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096UL
#define WORDS (PAGE / 8)
// Of each 128 bytes 56 are random and 72 repeat the unit before: lz4 makes 2.0 of it, with matches as long as in real heaps.
#define UNIT_WORDS 16
#define RANDOM_WORDS 7

static char *region;
static size_t pages, accesses;
static int pagemap;
static uint64_t seed = 1;

static void fill_page(size_t index) {
    uint64_t *word = (uint64_t *)(region + index * PAGE), state = seed ^ (index << 20), same[UNIT_WORDS], sum = index;
    for (int i = RANDOM_WORDS; i < UNIT_WORDS; i++) same[i] = next_random(&state);
    for (size_t unit = 0; unit < WORDS; unit += UNIT_WORDS) {
        for (int i = 0; i < RANDOM_WORDS; i++) word[unit + i] = next_random(&state);
        for (int i = RANDOM_WORDS; i < UNIT_WORDS; i++) word[unit + i] = same[i];
    }
    for (size_t i = 1; i < WORDS; i++) sum = (sum << 1 | sum >> 63) ^ word[i];
    word[0] = sum;
}

static void verify_page(size_t index) {
    const uint64_t *word = (const uint64_t *)(region + index * PAGE);
    uint64_t sum = index;
    for (size_t i = 1; i < WORDS; i++) sum = (sum << 1 | sum >> 63) ^ word[i];
    if (sum != word[0]) {
        fprintf(stderr, "pages: page %zu of %zu holds wrong bytes\n", index, pages);
        exit(3);
    }
}

static int is_mapped(const char *address) {
    uint64_t entry;
    if (pread(pagemap, &entry, 8, (off_t)((uintptr_t)address / PAGE * 8)) != 8) die("/proc/self/pagemap");
    return entry >> 63;
}

struct reader {
    uint64_t state;
    size_t accesses, fault_count, hit_count;
    uint32_t *fault_ns, *hit_ns;
};

static void *read_at_random(void *argument) {
    struct reader *r = argument;
    for (size_t i = 0; i < r->accesses; i++) {
        uint64_t random = next_random(&r->state);
        size_t index = random % pages;
        const char *word = region + index * PAGE + (random >> 40) % WORDS * 8;
        int mapped = is_mapped(word);
        uint64_t start = now_ns();
        *(const volatile uint64_t *)word;
        uint64_t took = now_ns() - start;
        if (mapped)
            r->hit_ns[r->hit_count++] = took;
        else
            r->fault_ns[r->fault_count++] = took;
        verify_page(index);
    }
    return NULL;
}

static void random_reads(int threads) {
    struct reader reader[16];
    pthread_t thread[16];
    uint32_t *faults = mmap(NULL, accesses * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), *hits = faults + accesses;
    if (faults == MAP_FAILED) die("mmap");
    memset(faults, 0, accesses * 8);
    uint64_t start = now_ns();
    for (int i = 0; i < threads; i++) {
        size_t share = accesses / threads;
        reader[i] = (struct reader){seed * 1000 + i, share, 0, 0, faults + i * share, hits + i * share};
        if (i > 0 && pthread_create(&thread[i], NULL, read_at_random, &reader[i])) die("pthread_create");
    }
    read_at_random(&reader[0]);
    for (int i = 1; i < threads; i++) pthread_join(thread[i], NULL);
    double elapsed_us = (now_ns() - start) / 1e3;
    size_t fault_count = 0, hit_count = 0;
    for (int i = 0; i < threads; i++) {
        memmove(faults + fault_count, reader[i].fault_ns, reader[i].fault_count * 4);
        fault_count += reader[i].fault_count;
        memmove(hits + hit_count, reader[i].hit_ns, reader[i].hit_count * 4);
        hit_count += reader[i].hit_count;
    }
    double touched_us = 0;
    for (size_t i = 0; i < fault_count; i++) touched_us += faults[i] / 1e3;
    for (size_t i = 0; i < hit_count; i++) touched_us += hits[i] / 1e3;
    print_spread("fault_us", faults, fault_count);
    print_spread("hit_us", hits, hit_count);
    printf("\"access_us\": %.3f, \"loop_us\": %.3f, ", touched_us / (fault_count + hit_count), elapsed_us / (accesses / threads * threads));
}

static double sequential_us(void) {
    uint64_t start = now_ns();
    for (size_t i = 0; i < pages; i++) verify_page(i);
    return (now_ns() - start) / 1e3 / pages;
}

// With -w the program stops after its fill and at its end until a line comes: time to look at its stores and threads.
static void pause_for_a_line(void) {
    fflush(stdout);
    while (getchar() != '\n' && !feof(stdin)) {}
}

static void fill_from(const char *path) {
    int file = open(path, O_RDONLY);
    if (file < 0) die(path);
    size_t done = 0, all = pages * PAGE;
    while (done < all) {
        ssize_t got = read(file, region + done, all - done);
        if (got < 0) die(path);
        if (got == 0 && lseek(file, 0, SEEK_SET) < 0) die(path);
        done += got;
    }
    close(file);
}

int main(int argc, char **argv) {
    int threads = 1, pause = 0, use_malloc = 0, random_only = 0, option;
    const char *source = NULL;
    pages = 131072;
    while ((option = getopt(argc, argv, "p:n:t:s:f:c:mrw")) != -1) {
        if (option == 'p') pages = strtoul(optarg, NULL, 0);
        else if (option == 'n') accesses = strtoul(optarg, NULL, 0);
        else if (option == 't') threads = atoi(optarg);
        else if (option == 's') seed = strtoul(optarg, NULL, 0);
        else if (option == 'f') source = optarg;
        else if (option == 'c') pin(atoi(optarg));
        else if (option == 'm') use_malloc = 1;
        else if (option == 'r') random_only = 1;
        else if (option == 'w') pause = 1;
        else return 2;
    }
    if (threads < 1 || threads > 16) return 2;
    pagemap = open("/proc/self/pagemap", O_RDONLY);
    if (pagemap < 0) die("/proc/self/pagemap");
    region = use_malloc ? malloc(pages * PAGE + PAGE) : mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED || region == NULL) die("512 MiB");
    if (use_malloc) region = (char *)(((uintptr_t)region + PAGE - 1) & ~(PAGE - 1));
    uint64_t start = now_ns();
    if (source)
        fill_from(source);
    else
        for (size_t i = 0; i < pages; i++) fill_page(i);
    double fill_s = (now_ns() - start) / 1e9;
    if (pause) {
        printf("filled\n");
        pause_for_a_line();
    }
    printf("{\"fill_s\": %.4f, ", fill_s);
    if (!source) {
        if (!random_only) printf("\"sequential_us\": %.3f, ", sequential_us());
        if (accesses) random_reads(threads);
    }
    printf("\"pages\": %zu, \"threads\": %d}\n", pages, threads);
    if (pause) pause_for_a_line();
    return 0;
}
