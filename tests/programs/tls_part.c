/* A library with a page of thread-local storage, for tls.c. */
#include <stdint.h>

static _Thread_local uint64_t words[512];

uint64_t *tls_part(void) { return words; }
