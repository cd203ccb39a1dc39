/* Libraries with thread-local storage are loaded and unloaded while threads run, with most of memory evicted: the dynamic linker's tables must stay readable
 * for everybody. The build makes tls_part.c into a library; copies of it count as different ones. */
#include "check.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>

enum { COPIES = 40, THREADS = 4 };

static uint64_t *(*part[COPIES])(void);
static atomic_int loaded, stop;

static void *touch(void *arg) {
    uint64_t own = (uint64_t)arg, rounds[COPIES] = {0};
    while (!stop)
        for (int i = 0; i < loaded; i++) {
            uint64_t *words = part[i]();
            CHECK(words[0] == (rounds[i] ? own : 0) && words[511] == rounds[i]);
            words[0] = own;
            words[511] = ++rounds[i];
        }
    return NULL;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    pthread_t thread[THREADS];
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&thread[i], NULL, touch, (void *)(i + 1)) == 0);
    char *data = map_plain(32 * MIB);
    fill(data, 32 * MIB, 1);
    void *library[COPIES];
    for (int i = 0; i < COPIES; i++) {
        char name[4096];
        snprintf(name, sizeof name, "%s.%d", argv[1], i);
        CHECK((library[i] = dlopen(name, RTLD_NOW)) != NULL);
        CHECK((part[i] = (uint64_t * (*)(void)) dlsym(library[i], "tls_part")) != NULL);
        loaded = i + 1;
        if (i % 4 == 0) push_out();
    }
    CHECK(holds(data, 32 * MIB, 1));
    stop = 1;
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(thread[i], NULL) == 0);
    for (int i = 0; i < COPIES; i++) CHECK(dlclose(library[i]) == 0);
    push_out();
    CHECK(holds(data, 32 * MIB, 1));
    return ok();
}
