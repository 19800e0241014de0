// Blocks of rows or bytes shared out to threads as the kernels do it: threads live for one call and take blocks in
// turn.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

// Calls work(first, size) until [0, total) is covered in steps of `block`, in `threads` threads.
template <typename Work>
void over_blocks(int64_t total, int64_t block, int threads, const Work& work) {
    std::atomic<int64_t> next{0};
    const auto run = [&] {
        for (int64_t i = next.fetch_add(block); i < total; i = next.fetch_add(block)) {
            work(i, total - i < block ? total - i : block);
        }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(run);
    run();
    for (std::thread& other : others) other.join();
}
