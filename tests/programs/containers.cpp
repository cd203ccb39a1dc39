// C++ with its own allocators, exceptions and threads; strings and maps several times the local memory.
#include "check.h"
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

static void strings(size_t seed) {
    std::vector<std::string> all;
    for (size_t i = 0; i < 60000; i++) all.push_back(std::to_string(i * seed) + std::string(i % 100, 'x'));
    std::unordered_map<std::string, size_t> index;
    for (size_t i = 0; i < all.size(); i += 3) index[all[i]] = i;
    for (size_t i = 0; i < all.size(); i++) CHECK(all[i] == std::to_string(i * seed) + std::string(i % 100, 'x'));
    for (auto &entry : index) CHECK(all[entry.second] == entry.first);
}

static int deep(int depth) {
    std::string guard(depth % 500, 'd');
    if (depth == 0) throw std::runtime_error(std::string(1000, 'e'));
    return deep(depth - 1) + static_cast<int>(guard.size());
}

int main() {
    std::vector<std::thread> threads;
    for (size_t seed = 1; seed < 5; seed++) threads.emplace_back(strings, seed);
    for (auto &thread : threads) thread.join();

    std::map<uint64_t, std::unique_ptr<std::vector<uint64_t>>> tree;
    for (uint64_t i = 0; i < 3000; i++) tree[word_at(3, 2 * i)] = std::make_unique<std::vector<uint64_t>>(i, i);
    for (auto &entry : tree)
        for (uint64_t value : *entry.second) CHECK(value == entry.second->size());
    tree.clear();

    for (int i = 0; i < 100; i++) {
        try {
            deep(1000);
            CHECK(false);
        } catch (const std::runtime_error &error) {
            CHECK(std::string(error.what()).size() == 1000);
        }
    }
    struct alignas(256) Wide {
        char bytes[256];
    };
    std::vector<Wide> wide(1000);
    CHECK(reinterpret_cast<uintptr_t>(wide.data()) % 256 == 0);
    return ok();
}
