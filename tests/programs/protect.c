/* mprotect on plain memory: who may not is told at the right address; reservations are opened piece by piece; evicted pages keep their bytes through all of it. */
#include "check.h"
#include <setjmp.h>
#include <signal.h>

static sigjmp_buf back;
static void *volatile bad_address;
static volatile int bad_code;

static void on_fault(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    bad_address = info->si_addr;
    bad_code = info->si_code;
    siglongjmp(back, 1);
}

enum access { READ, WRITE };

/* The fault's address, or NULL when there was none. */
static void *try(volatile char *at, enum access access) {
    bad_address = NULL;
    if (sigsetjmp(back, 1) == 0) {
        if (access == READ)
            (void)*at;
        else
            *at = 1;
    }
    return bad_address;
}

static void levels(int evicted) {
    size_t bytes = 12 * MIB;
    char *at = map_plain(bytes);
    fill(at, bytes, 1);
    if (evicted) push_out();
    CHECK(mprotect(at + 4 * MIB, 4 * MIB, PROT_READ) == 0);
    if (evicted) push_out();
    for (size_t i = 0; i < 4 * MIB; i += 300 * 1024 + 123) {
        CHECK(try(at + 4 * MIB + i, READ) == NULL);
        CHECK(try(at + 4 * MIB + i, WRITE) == at + 4 * MIB + i && bad_code == SEGV_ACCERR);
    }
    CHECK(holds(at, bytes, 1));
    CHECK(mprotect(at + 4 * MIB, 4 * MIB, PROT_NONE) == 0);
    push_out();
    for (size_t i = 0; i < 4 * MIB; i += 300 * 1024 + 123)
        CHECK(try(at + 4 * MIB + i, READ) == at + 4 * MIB + i && bad_code == SEGV_ACCERR);
    CHECK(holds(at, 4 * MIB, 1) && holds_from(at + 8 * MIB, 4 * MIB, 1, 8 * MIB));
    CHECK(mprotect(at, bytes, PROT_READ | PROT_WRITE) == 0);
    CHECK(holds(at, bytes, 1));
    fill(at, bytes, 2);
    push_out();
    CHECK(holds(at, bytes, 2));
    CHECK(munmap(at, bytes) == 0);
    CHECK(try(at + 5 * MIB + 17, READ) == at + 5 * MIB + 17);
}

/* A program that keeps its own write barrier: read-only, opened page by page by the handler's caller. */
static void write_barrier(void) {
    size_t pages = 2048;
    char *at = map_plain(pages * PAGE);
    fill(at, pages * PAGE, 3);
    CHECK(mprotect(at, pages * PAGE, PROT_READ) == 0);
    push_out();
    for (size_t i = 0; i < pages; i += 5) {
        char *here = at + i * PAGE + 8 * (i % 512);
        CHECK(try(here, WRITE) == here);
        CHECK(mprotect(at + i * PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
        fill(at + i * PAGE, PAGE, i);
    }
    push_out();
    for (size_t i = 0; i < pages; i++) CHECK(i % 5 ? holds_from(at + i * PAGE, PAGE, 3, i * PAGE) : holds(at + i * PAGE, PAGE, i));
    CHECK(munmap(at, pages * PAGE) == 0);
}

static void reservation(void) {
    size_t bytes = 256 * MIB, piece = 4 * MIB;
    char *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(at != MAP_FAILED);
    for (size_t i = 0; i < 16; i++) {
        char *here = at + i * 16 * MIB;
        CHECK(mprotect(here, piece, PROT_READ | PROT_WRITE) == 0);
        CHECK(is_zero(here, piece));
        fill(here, piece, i);
        CHECK(try(here + piece, READ) == here + piece);
    }
    for (size_t i = 0; i < 16; i++) CHECK(holds(at + i * 16 * MIB, piece, i));
    /* Committing by MAP_FIXED instead, as some allocators do; giving back the same way. */
    CHECK(mmap(at + 8 * MIB, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at + 8 * MIB);
    fill(at + 8 * MIB, piece, 77);
    CHECK(mmap(at, piece, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == at);
    push_out();
    CHECK(holds(at + 8 * MIB, piece, 77) && holds(at + 16 * MIB, piece, 1) && try(at, READ) == at);
    CHECK(munmap(at, bytes) == 0);
}

static void errors(void) {
    char *at = map_plain(4 * MIB);
    CHECK_FAILS(mprotect(at + 8, PAGE, PROT_READ), EINVAL);
    CHECK_FAILS(mprotect(at, PAGE, 0x1000), EINVAL);
    CHECK(mprotect(at, 0, PROT_READ) == 0);
    CHECK(munmap(at + 2 * MIB, MIB) == 0);
    CHECK_FAILS(mprotect(at, 4 * MIB, PROT_READ), ENOMEM);
    CHECK(munmap(at, 4 * MIB) == 0);
}

int main(void) {
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
    levels(0);
    levels(1);
    write_barrier();
    reservation();
    errors();
    return ok();
}
