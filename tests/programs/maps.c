/* mmap and munmap: whole, partial, split, merged; MAP_FIXED of every kind over plain memory. */
#include "check.h"

static void whole(void) {
    char *at[24];
    for (int i = 0; i < 24; i++) fill(at[i] = map_plain(4 * MIB), 4 * MIB, i);
    for (int i = 23; i >= 0; i--) CHECK(holds(at[i], 4 * MIB, i));
    for (int i = 0; i < 24; i += 2) CHECK(munmap(at[i], 4 * MIB) == 0);
    for (int i = 1; i < 24; i += 2) CHECK(holds(at[i], 4 * MIB, i) && munmap(at[i], 4 * MIB) == 0);
}

/* Every third page goes, in an odd order; the others keep their bytes; the holes can be filled again. */
static void partial(void) {
    size_t bytes = 8 * MIB, pages = bytes / PAGE;
    char *at = map_plain(bytes);
    fill(at, bytes, 7);
    push_out();
    for (size_t i = 0; i < pages; i += 3) CHECK(munmap(at + (pages - 1 - i) / 3 * 3 * PAGE, PAGE) == 0);
    for (size_t i = 0; i < pages; i++)
        if (i % 3) CHECK(holds_from(at + i * PAGE, PAGE, 7, i * PAGE));
    for (size_t i = 0; i < pages; i += 3) {
        void *again = mmap(at + i * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        CHECK(again == at + i * PAGE && is_zero(again, PAGE));
        fill(again, PAGE, i);
    }
    push_out();
    for (size_t i = 0; i < pages; i++) CHECK(i % 3 ? holds_from(at + i * PAGE, PAGE, 7, i * PAGE) : holds(at + i * PAGE, PAGE, i));
    CHECK(munmap(at, bytes) == 0);
    CHECK(munmap(at, bytes) == 0); /* nothing there: still no error */
}

/* Two mappings that came to lie side by side are one range for munmap and mprotect. */
static void across(void) {
    char *at = map_plain(8 * MIB);
    CHECK(mmap(at + 4 * MIB, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 4 * MIB);
    fill(at, 8 * MIB, 3);
    push_out();
    CHECK(mprotect(at + 2 * MIB, 4 * MIB, PROT_READ) == 0);
    CHECK(holds(at, 8 * MIB, 3));
    CHECK(munmap(at + 3 * MIB, 2 * MIB) == 0);
    CHECK(holds(at, 3 * MIB, 3) && holds_from(at + 5 * MIB, 3 * MIB, 3, 5 * MIB));
    CHECK(munmap(at, 8 * MIB) == 0);
}

static int file_of(size_t bytes, uint64_t seed) {
    int fd = memfd_create("maps", 0);
    CHECK(fd >= 0 && ftruncate(fd, bytes) == 0);
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(at != MAP_FAILED);
    fill(at, bytes, seed);
    CHECK(munmap(at, bytes) == 0);
    return fd;
}

/* A private file, a shared file, shared anonymous and fresh private memory over the middle of plain memory, before and after it was evicted. */
static void fixed(int evicted) {
    size_t bytes = 10 * MIB;
    int fd = file_of(4 * MIB, 21);
    char *at = map_plain(bytes);
    fill(at, bytes, 5);
    if (evicted) push_out();
    CHECK(mmap(at + MIB, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, MIB) == at + MIB);
    CHECK(mmap(at + 3 * MIB, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 2 * MIB) == at + 3 * MIB);
    CHECK(mmap(at + 5 * MIB, MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 5 * MIB);
    CHECK(mmap(at + 7 * MIB, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 7 * MIB);
    CHECK(holds_from(at + MIB, MIB, 21, MIB) && holds_from(at + 3 * MIB, MIB, 21, 2 * MIB));
    CHECK(is_zero(at + 5 * MIB, MIB) && is_zero(at + 7 * MIB, MIB));
    for (size_t i = 0; i < 10; i += 2) CHECK(holds_from(at + i * MIB, MIB, 5, i * MIB));
    fill(at + MIB, MIB, 31);
    fill(at + 3 * MIB, MIB, 33);
    fill(at + 5 * MIB, MIB, 35);
    fill(at + 7 * MIB, MIB, 37);
    push_out();
    for (int i = 1; i < 9; i += 2) CHECK(holds(at + i * MIB, MIB, 30 + i));
    char *file = mmap(NULL, 4 * MIB, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(file != MAP_FAILED && holds_from(file + MIB, MIB, 21, MIB) && holds(file + 2 * MIB, MIB, 33));
    CHECK(munmap(file, 4 * MIB) == 0);
    /* What was taken away comes back as plain memory, and new mappings never land on the file. */
    CHECK(munmap(at + MIB, MIB) == 0);
    for (int i = 0; i < 40; i++) {
        char *other = map_plain(256 * 1024);
        CHECK(other + 256 * 1024 <= at + 3 * MIB || other >= at + 4 * MIB);
        fill(other, 256 * 1024, 1);
    }
    CHECK(mmap(at + 3 * MIB, MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 3 * MIB);
    CHECK(is_zero(at + 3 * MIB, MIB));
    fill(at + 3 * MIB, MIB, 43);
    push_out();
    CHECK(holds(at + 3 * MIB, MIB, 43) && holds(at + 5 * MIB, MIB, 35));
    CHECK(munmap(at + 2 * MIB, 8 * MIB) == 0 && munmap(at, MIB) == 0);
    CHECK(close(fd) == 0);
}

static void noreplace(void) {
    char *at = map_plain(MIB);
    CHECK_FAILS(mmap(at, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    CHECK(munmap(at, MIB) == 0);
}

static void odd_sizes(void) {
    size_t sizes[] = {1, 4095, 4097, 65535, 65536, 65537, 3 * MIB + 17, 5 * MIB - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *at = map_plain(sizes[i]);
        size_t whole = (sizes[i] + PAGE - 1) / PAGE * PAGE;
        CHECK((uintptr_t)at % PAGE == 0 && is_zero(at, whole));
        fill(at, whole, i);
        CHECK(holds(at, whole, i));
        CHECK(munmap(at, sizes[i]) == 0);
    }
    /* A reservation far larger than the machine, of which little is used. */
    size_t huge = (size_t)1 << 38;
    char *at = mmap(NULL, huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    for (size_t i = 0; i < 16; i++) {
        CHECK(mprotect(at + i * (huge / 16), MIB, PROT_READ | PROT_WRITE) == 0);
        fill(at + i * (huge / 16), MIB, i);
    }
    for (size_t i = 0; i < 16; i++) CHECK(holds(at + i * (huge / 16), MIB, i));
    CHECK(munmap(at, huge) == 0);
}

int main(void) {
    whole();
    partial();
    across();
    fixed(0);
    fixed(1);
    noreplace();
    odd_sizes();
    return ok();
}
