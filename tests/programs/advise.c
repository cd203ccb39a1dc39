/* madvise and posix_madvise on plain memory, resident and evicted. */
#include "check.h"
#include <sys/wait.h>

static void dontneed(void) {
    size_t bytes = 32 * MIB;
    char *at = map_plain(bytes);
    fill(at, bytes, 1);
    for (int round = 0; round < 2; round++) {
        CHECK(madvise(at + 4 * MIB, 8 * MIB, MADV_DONTNEED) == 0);
        CHECK(holds(at, 4 * MIB, 1) && is_zero(at + 4 * MIB, 8 * MIB) && holds_from(at + 12 * MIB, 20 * MIB, 1, 12 * MIB));
        fill(at, bytes, 1);
        push_out();
    }
    for (size_t page = 0; page < bytes / PAGE; page += 2) CHECK(madvise(at + page * PAGE, PAGE, MADV_DONTNEED) == 0);
    for (size_t page = 0; page < bytes / PAGE; page++)
        CHECK(page % 2 ? holds_from(at + page * PAGE, PAGE, 1, page * PAGE) : is_zero(at + page * PAGE, PAGE));
    CHECK(munmap(at, bytes) == 0);
}

/* After FREE a page holds its old bytes or zeroes; once written, the new ones. */
static void lazily_free(void) {
    size_t bytes = 24 * MIB;
    char *at = map_plain(bytes);
    fill(at, bytes, 2);
    CHECK(madvise(at, bytes, MADV_FREE) == 0);
    for (size_t page = 0; page < bytes / PAGE; page += 4) fill(at + page * PAGE, PAGE, page);
    push_out();
    for (size_t page = 0; page < bytes / PAGE; page++) {
        char *here = at + page * PAGE;
        CHECK(page % 4 ? holds_from(here, PAGE, 2, page * PAGE) || is_zero(here, PAGE) : holds(here, PAGE, page));
    }
    CHECK(munmap(at, bytes) == 0);
}

/* Advice that may change speed but never bytes. */
static void harmless(void) {
    int all[] = {MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP, 20 /* COLD */, 21 /* PAGEOUT */};
    size_t bytes = 16 * MIB;
    char *at = map_plain(bytes);
    fill(at, bytes, 3);
    push_out();
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int result = madvise(at + (i % 3) * MIB, 8 * MIB, all[i]);
        CHECK(result == 0 || errno == EINVAL); /* kernels may lack one */
        CHECK(holds(at, bytes, 3));
    }
    push_out();
    CHECK(madvise(at, bytes, MADV_WILLNEED) == 0 && holds(at, bytes, 3));
    CHECK(posix_madvise(at, bytes, POSIX_MADV_DONTNEED) == 0 && holds(at, bytes, 3));
    CHECK(posix_madvise(at, bytes, POSIX_MADV_WILLNEED) == 0 && holds(at, bytes, 3));
    CHECK(posix_madvise(at, bytes, 77) == EINVAL);
    CHECK(munmap(at, bytes) == 0);
}

/* What the child must not get is not mapped there; what it gets is whole. */
static void not_for_the_child(void) {
    char *secret = map_plain(4 * MIB), *common = map_plain(4 * MIB), *wiped = map_plain(4 * MIB);
    fill(secret, 4 * MIB, 4);
    fill(common, 4 * MIB, 5);
    fill(wiped, 4 * MIB, 6);
    push_out();
    CHECK(madvise(secret, 4 * MIB, MADV_DONTFORK) == 0);
    int wipes = madvise(wiped, 4 * MIB, MADV_WIPEONFORK) == 0;
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        CHECK(holds(common, 4 * MIB, 5));
        CHECK(wipes ? is_zero(wiped, 4 * MIB) : holds(wiped, 4 * MIB, 6));
        volatile char *gone = secret;
        *gone; /* SIGSEGV */
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK(holds(secret, 4 * MIB, 4) && holds(common, 4 * MIB, 5) && holds(wiped, 4 * MIB, 6));
    CHECK(madvise(secret, 4 * MIB, MADV_DOFORK) == 0);
    child = fork();
    CHECK(child >= 0);
    if (child == 0) _exit(!holds(secret, 4 * MIB, 4));
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    CHECK(munmap(secret, 4 * MIB) == 0 && munmap(common, 4 * MIB) == 0 && munmap(wiped, 4 * MIB) == 0);
}

static void errors(void) {
    char *at = map_plain(4 * MIB);
    CHECK_FAILS(madvise(at + 1, PAGE, MADV_DONTNEED), EINVAL);
    CHECK_FAILS(madvise(at, PAGE, 12345), EINVAL);
    CHECK(madvise(at, 0, MADV_DONTNEED) == 0);
    CHECK(munmap(at + MIB, MIB) == 0);
    fill(at, MIB, 1);
    fill(at + 2 * MIB, 2 * MIB, 2);
    /* Over a hole: the advice is followed around it, and the result is ENOMEM. */
    CHECK_FAILS(madvise(at, 4 * MIB, MADV_DONTNEED), ENOMEM);
    CHECK(is_zero(at, MIB) && is_zero(at + 2 * MIB, 2 * MIB));
    CHECK(munmap(at, 4 * MIB) == 0);
}

int main(void) {
    dontneed();
    lazily_free();
    harmless();
    not_for_the_child();
    errors();
    return ok();
}
