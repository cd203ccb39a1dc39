/* mremap: grow in place and by moving, shrink, to a fixed address, DONTUNMAP, in and out of plain memory; always with the pages evicted before. */
#include "check.h"

static void grow_and_shrink(void) {
    size_t bytes = MIB;
    char *at = map_plain(bytes);
    fill(at, bytes, 1);
    while (bytes < 64 * MIB) {
        char *moved = mremap(at, bytes, 2 * bytes, MREMAP_MAYMOVE);
        CHECK(moved != MAP_FAILED);
        CHECK(holds(moved, bytes, 1) && is_zero(moved + bytes, bytes));
        at = moved;
        bytes *= 2;
        fill(at, bytes, 1);
    }
    while (bytes > 64 * 1024) {
        CHECK(mremap(at, bytes, bytes / 4, 0) == at);
        bytes /= 4;
        CHECK(holds(at, bytes, 1));
    }
    CHECK(munmap(at, bytes) == 0);
}

/* Room behind a mapping can be grown into; a neighbour cannot. */
static void in_place(void) {
    char *at = map_plain(4 * MIB);
    fill(at, 4 * MIB, 2);
    push_out();
    CHECK(munmap(at + MIB, 2 * MIB) == 0);
    CHECK_FAILS(mremap(at, MIB, 4 * MIB, 0), ENOMEM);
    CHECK(holds(at, MIB, 2) && holds_from(at + 3 * MIB, MIB, 2, 3 * MIB));
    CHECK(mremap(at, MIB, MIB + 64 * 1024, 0) == at);
    CHECK(holds(at, MIB, 2) && is_zero(at + MIB, 64 * 1024));
    char *moved = mremap(at, MIB + 64 * 1024, 4 * MIB, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && moved != at && holds(moved, MIB, 2) && is_zero(moved + MIB, 3 * MIB));
    CHECK(munmap(moved, 4 * MIB) == 0 && munmap(at + 3 * MIB, MIB) == 0);
}

/* A mapping that grew in place is moved; mappings that move arrive beside others; all of it is evicted, and nobody's pages suffer. */
static void beside_others(void) {
    size_t piece = 8 * MIB;
    char *place = mmap(NULL, 5 * piece, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at[3];
    CHECK(place != MAP_FAILED);
    for (int i = 0; i < 3; i++) {
        at[i] = map_plain(2 * piece);
        CHECK(munmap(at[i] + piece / 2, piece + piece / 2) == 0);
        CHECK(mremap(at[i], piece / 2, piece, 0) == at[i]);
        fill(at[i], piece, 20 + i);
    }
    push_out();
    int order[3] = {1, 3, 2};
    for (int i = 0; i < 3; i++) {
        char *to = place + order[i] * piece;
        CHECK(mremap(at[i], piece, piece, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
    }
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++) CHECK(holds(place + order[i] * piece, piece, 20 + i));
        push_out();
    }
    /* All three are one mapping to the kernel, perhaps; they move on together only if it says so. */
    char *moved = mremap(place + piece, piece, 2 * piece, MREMAP_MAYMOVE);
    CHECK(moved != MAP_FAILED && holds(moved, piece, 20) && is_zero(moved + piece, piece));
    CHECK(holds(place + 2 * piece, piece, 22) && holds(place + 3 * piece, piece, 21));
    CHECK(munmap(moved, 2 * piece) == 0 && munmap(place, 5 * piece) == 0);
}

static void to_fixed(void) {
    char *from = map_plain(8 * MIB), *to = map_plain(16 * MIB);
    fill(from, 8 * MIB, 3);
    fill(to, 16 * MIB, 4);
    push_out();
    CHECK(mremap(from, 8 * MIB, 8 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, to + 4 * MIB) == to + 4 * MIB);
    CHECK(holds(to, 4 * MIB, 4) && holds(to + 4 * MIB, 8 * MIB, 3) && holds_from(to + 12 * MIB, 4 * MIB, 4, 12 * MIB));
    push_out();
    /* From the middle of one mapping, smaller: the rest of the old pages goes. */
    char *small = map_plain(MIB);
    CHECK(mremap(to + 4 * MIB, 2 * MIB, MIB, MREMAP_MAYMOVE | MREMAP_FIXED, small) == small);
    CHECK(holds(small, MIB, 3) && holds_from(to + 6 * MIB, 6 * MIB, 3, 2 * MIB));
    CHECK(munmap(to, 16 * MIB) == 0 && munmap(small, MIB) == 0);
}

static void keep_old(void) {
    char *from = map_plain(4 * MIB);
    fill(from, 4 * MIB, 5);
    push_out();
    char *to = mremap(from, 4 * MIB, 4 * MIB, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    CHECK(to != MAP_FAILED && to != from);
    CHECK(holds(to, 4 * MIB, 5) && is_zero(from, 4 * MIB));
    fill(from, 4 * MIB, 6);
    push_out();
    CHECK(holds(to, 4 * MIB, 5) && holds(from, 4 * MIB, 6));
    char *place = map_plain(4 * MIB);
    CHECK(mremap(to, 4 * MIB, 4 * MIB, MREMAP_MAYMOVE | MREMAP_DONTUNMAP | MREMAP_FIXED, place) == place);
    CHECK(holds(place, 4 * MIB, 5) && is_zero(to, 4 * MIB));
    CHECK(munmap(to, 4 * MIB) == 0 && munmap(from, 4 * MIB) == 0 && munmap(place, 4 * MIB) == 0);
}

/* Small mappings and shared ones are not managed: plain memory moves onto them and they move over plain memory. */
static void over_the_border(void) {
    char *shared = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *plain = map_plain(8 * MIB);
    CHECK(shared != MAP_FAILED);
    fill(shared, 4 * MIB, 7);
    fill(plain, 8 * MIB, 8);
    push_out();
    CHECK(mremap(shared, 2 * MIB, 2 * MIB, MREMAP_MAYMOVE | MREMAP_FIXED, plain + 2 * MIB) == plain + 2 * MIB);
    CHECK(holds(plain, 2 * MIB, 8) && holds(plain + 2 * MIB, 2 * MIB, 7) && holds_from(plain + 4 * MIB, 4 * MIB, 8, 4 * MIB));
    CHECK(mremap(plain + 6 * MIB, MIB, MIB, MREMAP_MAYMOVE | MREMAP_FIXED, shared + 2 * MIB) == shared + 2 * MIB);
    CHECK(holds_from(shared + 2 * MIB, MIB, 8, 6 * MIB) && holds_from(shared + 3 * MIB, MIB, 7, 3 * MIB));
    CHECK(munmap(plain, 8 * MIB) == 0 && munmap(shared, 4 * MIB) == 0);
}

static void errors(void) {
    char *at = map_plain(MIB);
    CHECK_FAILS(mremap(at + 1, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EINVAL);
    CHECK_FAILS(mremap(at, MIB, 0, MREMAP_MAYMOVE), EINVAL);
    CHECK_FAILS(mremap(at, MIB, MIB, 64), EINVAL);
    CHECK_FAILS(mremap(at, MIB, MIB, MREMAP_FIXED, at + 8 * MIB), EINVAL);
    CHECK_FAILS(mremap(at, MIB, MIB, MREMAP_FIXED | MREMAP_MAYMOVE, at + PAGE), EINVAL);
    CHECK_FAILS(mremap(at, MIB, MIB, MREMAP_FIXED | MREMAP_MAYMOVE, at + 8 * MIB + 1), EINVAL);
    CHECK_FAILS(mremap(at, MIB, 2 * MIB, MREMAP_DONTUNMAP | MREMAP_MAYMOVE), EINVAL);
    CHECK_FAILS(mremap(at, MIB, (size_t)1 << 60, MREMAP_MAYMOVE), EINVAL);
    CHECK(munmap(at, MIB) == 0);
    CHECK_FAILS(mremap(at, MIB, 2 * MIB, MREMAP_MAYMOVE), EFAULT);
}

int main(void) {
    grow_and_shrink();
    in_place();
    beside_others();
    to_fixed();
    keep_old();
    over_the_border();
    errors();
    return ok();
}
