// The ceilings: how fast this machine copies and reads, with the threads and the buffers that the kernels get; and its
// clock. Compiled at run time by ceilings.py with the system's compiler, -O3 -march=native.
//
// Which loop is fastest differs from machine to machine, so there are several; ceilings.py times them all on the
// buffers of the run, and the fastest is the ceiling.
#include <cstring>

#include "blocks.h"
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t line = 64;
constexpr int64_t block = 256 * 1024;

// 64 bytes; the compiler splits it where registers are narrower. Integers, so that one loop reads every element type.
typedef uint64_t Line __attribute__((vector_size(line), aligned(line)));

const Line& at(const char* p) { return *reinterpret_cast<const Line*>(p); }

#if defined(__AVX512F__)
void stream(char* to, const Line& x) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), reinterpret_cast<__m512i>(x));
}
#elif defined(__AVX__)
void stream(char* to, const Line& x) {
    __m256i half[2];
    memcpy(half, &x, line);
    for (int i = 0; i < 2; ++i) _mm256_stream_si256(reinterpret_cast<__m256i*>(to) + i, half[i]);
}
#elif defined(__x86_64__)
void stream(char* to, const Line& x) {
    __m128i quarter[4];
    memcpy(quarter, &x, line);
    for (int i = 0; i < 4; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(to) + i, quarter[i]);
}
#else
void stream(char* to, const Line& x) { *reinterpret_cast<Line*>(to) = x; }
#endif

void finish_streaming() {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// Several places of a block at once: more of the memory's banks and of the prefetchers at work. Lines `ahead` bytes
// further on are fetched into the second-level cache. visit(offset, stream) sees every line.
template <int streams, int ahead, typename Visit>
void abreast(const char* in, int64_t bytes, const Visit& visit) {
    const int64_t share = bytes / streams / line * line;
    for (int64_t i = 0; i < share; i += line) {
        for (int k = 0; k < streams; ++k) {
            if (ahead) __builtin_prefetch(in + k * share + i + ahead, 0, 2);
            visit(k * share + i, k);
        }
    }
    for (int64_t i = streams * share; i < bytes; i += line) visit(i, 0);
}

template <int streams, int ahead>
void copy_block(const char* in, char* out, int64_t bytes) {
    abreast<streams, ahead>(in, bytes, [&](int64_t i, int) { stream(out + i, at(in + i)); });
    finish_streaming();
}

template <int streams, int ahead>
uint64_t read_block(const char* in, int64_t bytes) {
    Line sums[streams] = {};
    abreast<streams, ahead>(in, bytes, [&](int64_t i, int k) { sums[k] += at(in + i); });
    uint64_t total = 0;
    for (const Line& sum : sums) {
        for (int j = 0; j < 8; ++j) total += sum[j];
    }
    return total;
}

struct Loop {
    const char* name;
    void (*copy)(const char*, char*, int64_t);
    uint64_t (*read)(const char*, int64_t);
};
const Loop loops[] = {
    {"one stream", copy_block<1, 0>, read_block<1, 0>},
    {"one stream, 2 KiB ahead", copy_block<1, 2048>, read_block<1, 2048>},
    {"four streams, 1 KiB ahead", copy_block<4, 1024>, read_block<4, 1024>},
    {"eight streams", copy_block<8, 0>, read_block<8, 0>},
    {"eight streams, 1 KiB ahead", copy_block<8, 1024>, read_block<8, 1024>},
};

}  // namespace

// Addresses must be multiples of 64, and so must `bytes`.
extern "C" {
int loop_count() { return sizeof loops / sizeof loops[0]; }
const char* loop_name(int loop) { return loops[loop].name; }

void copy(int loop, const char* in, char* out, int64_t bytes, int threads) {
    over_blocks(bytes, block, threads, [&](int64_t i, int64_t size) { loops[loop].copy(in + i, out + i, size); });
}

// The sum of all 64-bit words, modulo 2^64.
uint64_t read_sum(int loop, const char* in, int64_t bytes, int threads) {
    std::atomic<uint64_t> total{0};
    over_blocks(bytes, block, threads, [&](int64_t i, int64_t size) { total += loops[loop].read(in + i, size); });
    return total;
}

// So many additions, each of which waits for the one before: a cycle each. The step is unknown to the compiler, and in
// a register: some processors add constants without a cycle.
uint64_t dependent_adds(int64_t count) {
    uint64_t x = 0, step = 1;
    __asm__ volatile("" : "+r"(step));
    for (int64_t i = 0; i < count; i += 8) {
        for (int k = 0; k < 8; ++k) {
            x += step;
            __asm__ volatile("" : "+r"(x));
        }
    }
    return x;
}
}
