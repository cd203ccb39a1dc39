/* mlock and its kin: locked pages are resident and stay so, their bytes are right, and the errors are the kernel's. */
#include "check.h"

static size_t resident(char *at, size_t bytes) {
    static unsigned char vec[16384];
    CHECK(mincore(at, bytes, vec) == 0);
    size_t count = 0;
    for (size_t i = 0; i < bytes / PAGE; i++) count += vec[i] & 1;
    return count;
}

int main(void) {
    size_t bytes = 4 * MIB;
    char *at = map_plain(bytes);
    fill(at, bytes, 1);
    push_out();
    CHECK(mlock(at + 100, bytes - 200) == 0);
    CHECK(resident(at, bytes) == bytes / PAGE);
    push_out();
    CHECK(resident(at, bytes) == bytes / PAGE && holds(at, bytes, 1));
    fill(at, bytes, 2);
    CHECK(munlock(at, bytes) == 0);
    push_out();
    CHECK(holds(at, bytes, 2));

    CHECK(mlock2(at, MIB, MLOCK_ONFAULT) == 0);
    CHECK(holds(at, bytes, 2));
    CHECK(munlock(at, MIB) == 0);
    CHECK_FAILS(mlock2(at, MIB, 64), EINVAL);

    CHECK(munmap(at + MIB, MIB) == 0);
    CHECK_FAILS(mlock(at, bytes), ENOMEM);
    CHECK_FAILS(munlock(at, bytes), ENOMEM);
    CHECK(munlockall() == 0);
    CHECK(holds(at, MIB, 2));
    CHECK_FAILS(mlockall(0), EINVAL);
    CHECK_FAILS(mlockall(64), EINVAL);
    CHECK(munmap(at, bytes) == 0);

    /* Everything that is there, and what comes. A little, so that it fits the local memory of the tests. */
    at = map_plain(MIB);
    fill(at, MIB, 3);
    CHECK(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
    CHECK(resident(at, MIB) == MIB / PAGE && holds(at, MIB, 3));
    char *more = map_plain(MIB);
    fill(more, MIB, 4);
    CHECK(resident(more, MIB) == MIB / PAGE);
    CHECK(munlockall() == 0);
    push_out();
    CHECK(holds(at, MIB, 3) && holds(more, MIB, 4));
    return ok();
}
