/* Calls that the kernel refuses: each is made once through libc's functions on plain memory and once as a bare system call on memory mapped by bare system
 * calls; results and errno must agree. */
#include "check.h"
#include <sys/syscall.h>

struct target {
    char *at; /* 4 MiB, of which the second is a hole */
    int bare;
};

static long call(const struct target *target, long number, long a, long b, long c, long d, long e, long f) {
    if (target->bare) return syscall(number, a, b, c, d, e, f);
    switch (number) {
    case SYS_mmap: return (long)mmap((void *)a, b, c, d, e, f);
    case SYS_munmap: return munmap((void *)a, b);
    case SYS_mprotect: return mprotect((void *)a, b, c);
    case SYS_madvise: return madvise((void *)a, b, c);
    case SYS_mlock: return mlock((void *)a, b);
    case SYS_munlock: return munlock((void *)a, b);
    default: return (long)mremap((void *)a, b, c, d, e);
    }
}

struct step {
    long number;
    long offset; /* from the target, or an address with `absolute` */
    int absolute;
    long b, c, d, e, f;
};

#define PRIVATE (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)
#define TOP ((long)1 << 60)

static const struct step steps[] = {
    {SYS_mmap, 0, 1, 0, RW, PRIVATE, -1, 0},
    {SYS_mmap, 0, 1, -1, RW, PRIVATE, -1, 0},
    {SYS_mmap, 0, 1, TOP, RW, PRIVATE, -1, 0},
    {SYS_mmap, 0, 1, TOP, PROT_NONE, PRIVATE | MAP_NORESERVE, -1, 0},
    {SYS_mmap, 0, 1, 1 << 20, RW, MAP_ANONYMOUS, -1, 0},
    {SYS_mmap, 0, 1, 1 << 20, RW, MAP_PRIVATE, -1, 0},
    {SYS_mmap, 0, 1, 1 << 20, RW, MAP_PRIVATE, 9999, 0},
    {SYS_mmap, 1, 0, 1 << 20, RW, PRIVATE | MAP_FIXED, -1, 0},
    {SYS_mmap, 0, 0, 0, RW, PRIVATE | MAP_FIXED, -1, 0},
    {SYS_mmap, 0, 0, -1, RW, PRIVATE | MAP_FIXED, -1, 0},
    {SYS_mmap, 0, 0, 1 << 20, RW, MAP_PRIVATE | MAP_FIXED, 9999, 0},
    {SYS_mmap, TOP, 1, 1 << 20, RW, PRIVATE | MAP_FIXED, -1, 0},
    {SYS_munmap, 0, 0, 0, 0, 0, 0, 0},
    {SYS_munmap, 1, 0, 4096, 0, 0, 0, 0},
    {SYS_munmap, 0, 0, -1, 0, 0, 0, 0},
    {SYS_munmap, 0, 0, TOP, 0, 0, 0, 0},
    {SYS_mprotect, 0, 0, 0, PROT_READ, 0, 0, 0},
    {SYS_mprotect, 1, 0, 4096, PROT_READ, 0, 0, 0},
    {SYS_mprotect, 1 << 20, 0, 4096, PROT_READ, 0, 0, 0},
    {SYS_mprotect, 0, 0, -1, PROT_READ, 0, 0, 0},
    {SYS_mprotect, 0, 0, 4096, 0x4000, 0, 0, 0},
    {SYS_madvise, 0, 0, 0, MADV_DONTNEED, 0, 0, 0},
    {SYS_madvise, 1, 0, 4096, MADV_DONTNEED, 0, 0, 0},
    {SYS_madvise, 1 << 20, 0, 4096, MADV_DONTNEED, 0, 0, 0},
    {SYS_madvise, 0, 0, -1, MADV_DONTNEED, 0, 0, 0},
    {SYS_madvise, 0, 0, 4096, 9999, 0, 0, 0},
    {SYS_madvise, 0, 0, 4096, MADV_REMOVE, 0, 0, 0},
    {SYS_mlock, 0, 0, 0, 0, 0, 0, 0},
    {SYS_mlock, 1 << 20, 0, 4096, 0, 0, 0, 0},
    {SYS_mlock, 0, 0, -1, 0, 0, 0, 0},
    {SYS_munlock, 1 << 20, 0, 4096, 0, 0, 0, 0},
    {SYS_mremap, 1, 0, 4096, 8192, MREMAP_MAYMOVE, 0, 0},
    {SYS_mremap, 0, 0, 4096, 0, MREMAP_MAYMOVE, 0, 0},
    {SYS_mremap, 0, 0, 0, 4096, MREMAP_MAYMOVE, 0, 0},
    {SYS_mremap, 0, 0, 4096, 4096, 1024, 0, 0},
    {SYS_mremap, 0, 0, 1 << 20, TOP, MREMAP_MAYMOVE, 0, 0},
    {SYS_mremap, 1 << 20, 0, 4096, 8192, MREMAP_MAYMOVE, 0, 0},
    {SYS_mremap, 0, 0, 4096, 8192, MREMAP_DONTUNMAP | MREMAP_MAYMOVE, 0, 0},
    {SYS_mremap, 0, 0, 4096, 4096, MREMAP_FIXED, 4096, 0},
};

static long run(const struct target *target, const struct step *step, int *error) {
    long a = step->absolute ? step->offset : (long)target->at + step->offset;
    errno = 0;
    long result = call(target, step->number, a, step->b, step->c, step->d, step->e, step->f);
    *error = errno;
    return result;
}

int main(void) {
    struct target plain = {map_plain(4 * MIB), 0}, bare = {(char *)syscall(SYS_mmap, 0, 4 * MIB, RW, PRIVATE, -1, 0), 1};
    fill(plain.at, 4 * MIB, 1);
    fill(bare.at, 4 * MIB, 1);
    push_out();
    CHECK(munmap(plain.at + MIB, MIB) == 0 && syscall(SYS_munmap, bare.at + MIB, MIB) == 0);
    int failed = 0;
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int error, expected_error;
        long expected = run(&bare, &steps[i], &expected_error), got = run(&plain, &steps[i], &error);
        if (got != expected || error != expected_error) {
            fprintf(stderr, "step %zu: %ld errno %d, the kernel says %ld errno %d\n", i, got, error, expected, expected_error);
            failed = 1;
        }
    }
    CHECK(!failed);
    errno = 4711; /* a call that succeeds leaves errno alone */
    char *at = map_plain(8 * MIB);
    fill(at, 8 * MIB, 1);
    CHECK(mprotect(at, MIB, PROT_READ) == 0 && madvise(at + MIB, MIB, MADV_DONTNEED) == 0 && munmap(at, 8 * MIB) == 0);
    CHECK(errno == 4711);
    return ok();
}
