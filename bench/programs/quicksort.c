// Quicksort of random 32-bit integers (incompressible) in one big array, verified. Prints one JSON object.
#include "measure.h"
#include <unistd.h>

static void sort(int32_t *a, size_t count) {
    while (count > 24) {
        int32_t x = a[0], y = a[count / 2], z = a[count - 1];
        int32_t pivot = x < y ? (y < z ? y : x < z ? z : x) : (x < z ? x : y < z ? z : y);
        size_t i = 0, j = count - 1;
        for (;; i++, j--) {
            while (a[i] < pivot) i++;
            while (a[j] > pivot) j--;
            if (i >= j) break;
            int32_t swap = a[i];
            a[i] = a[j];
            a[j] = swap;
        }
        sort(a, j + 1);
        a += j + 1;
        count -= j + 1;
    }
    for (size_t i = 1; i < count; i++) {
        int32_t v = a[i];
        size_t j = i;
        for (; j > 0 && a[j - 1] > v; j--) a[j] = a[j - 1];
        a[j] = v;
    }
}

int main(int argc, char **argv) {
    size_t count = (argc > 1 ? strtoul(argv[1], NULL, 0) : 512) * 1024 * 1024 / 4;
    int32_t *a = malloc(count * 4);
    uint64_t state = 1, before = 0, after = 0;
    if (!a) die("malloc");
    uint64_t start = now_ns();
    for (size_t i = 0; i < count; i++) before += a[i] = (int32_t)next_random(&state);
    double fill_s = (now_ns() - start) / 1e9;
    start = now_ns();
    sort(a, count);
    double sort_s = (now_ns() - start) / 1e9;
    for (size_t i = 0; i < count; i++) {
        after += a[i];
        if (i && a[i - 1] > a[i]) return 3;
    }
    if (before != after) return 3;
    printf("{\"seconds\": %.3f, \"fill_s\": %.3f}\n", sort_s + fill_s, fill_s);
    return 0;
}
