// The ceilings: how fast this machine copies and reads, with the threads and the buffers that the kernels get. Compiled
// at run time by ceilings.py with the system's compiler, -O3 -march=native.
//
// Which loop is fastest differs from machine to machine, so there are several of each; ceilings.py times them all on
// the buffers of the run, and the fastest is the ceiling. As in the kernels, threads live for one call and take blocks
// in turn.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t line = 64;
constexpr int64_t block = 256 * 1024;
constexpr int64_t large_block = 16 * 1024 * 1024;
constexpr int64_t page = 4096;

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

template <typename Work>
void over_blocks(int64_t bytes, int64_t block, int threads, const Work& work) {
    std::atomic<int64_t> next{0};
    const auto run = [&] {
        for (int64_t i = next.fetch_add(block); i < bytes; i = next.fetch_add(block)) {
            work(i, bytes - i < block ? bytes - i : block);
        }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(run);
    run();
    for (std::thread& other : others) other.join();
}

// --- copies of one block ---------------------------------------------------------------------------------------------

void copy_straight(const char* in, char* out, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += line) stream(out + i, at(in + i));
    finish_streaming();
}

template <int64_t ahead>
void copy_prefetched(const char* in, char* out, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += line) {
        __builtin_prefetch(in + i + ahead);
        stream(out + i, at(in + i));
    }
    finish_streaming();
}

// A page is brought into the cache, then written: the bus turns around less often.
template <int64_t pages>
void copy_in_bursts(const char* in, char* out, int64_t bytes) {
    for (int64_t first = 0; first < bytes; first += pages * page) {
        const int64_t size = bytes - first < pages * page ? bytes - first : pages * page;
        for (int64_t i = 0; i < size; i += line) __builtin_prefetch(in + first + i);
        for (int64_t i = 0; i < size; i += line) stream(out + first + i, at(in + first + i));
    }
    finish_streaming();
}

// Several places of the block at once: more of the memory's banks and of the prefetchers at work.
template <int streams, int64_t ahead>
void copy_abreast(const char* in, char* out, int64_t bytes) {
    const int64_t share = bytes / streams / line * line;
    for (int64_t i = 0; i < share; i += line) {
        for (int k = 0; k < streams; ++k) {
            __builtin_prefetch(in + k * share + i + ahead);
            stream(out + k * share + i, at(in + k * share + i));
        }
    }
    copy_straight(in + streams * share, out + streams * share, bytes - streams * share);
}

void copy_libc(const char* in, char* out, int64_t bytes) { memcpy(out, in, static_cast<size_t>(bytes)); }

// --- reads of one block ----------------------------------------------------------------------------------------------

template <int64_t ahead>
uint64_t read_straight(const char* in, int64_t bytes) {
    Line sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * line <= bytes; i += 4 * line) {
        for (int k = 0; k < 4; ++k) {
            if (ahead > 0) __builtin_prefetch(in + i + k * line + ahead);
            sums[k] += at(in + i + k * line);
        }
    }
    for (; i < bytes; i += line) sums[0] += at(in + i);
    const Line sum = sums[0] + sums[1] + sums[2] + sums[3];
    uint64_t total = 0;
    for (int k = 0; k < 8; ++k) total += sum[k];
    return total;
}

template <int streams, int64_t ahead>
uint64_t read_abreast(const char* in, int64_t bytes) {
    const int64_t share = bytes / streams / line * line;
    Line sums[streams] = {};
    for (int64_t i = 0; i < share; i += line) {
        for (int k = 0; k < streams; ++k) {
            if (ahead > 0) __builtin_prefetch(in + k * share + i + ahead);
            sums[k] += at(in + k * share + i);
        }
    }
    uint64_t total = read_straight<0>(in + streams * share, bytes - streams * share);
    for (int k = 0; k < streams; ++k) {
        for (int j = 0; j < 8; ++j) total += sums[k][j];
    }
    return total;
}

// The next page is fetched while this one is added up.
uint64_t read_in_bursts(const char* in, int64_t bytes) {
    uint64_t total = 0;
    for (int64_t first = 0; first < bytes; first += page) {
        const int64_t size = bytes - first < page ? bytes - first : page;
        for (int64_t i = 0; i < size; i += line) __builtin_prefetch(in + first + page + i);
        total += read_straight<0>(in + first, size);
    }
    return total;
}

struct Copy {
    const char* name;
    void (*run)(const char*, char*, int64_t);
    int64_t block;
};
struct Read {
    const char* name;
    uint64_t (*run)(const char*, int64_t);
    int64_t block;
};
const Copy copies[] = {
    {"straight", copy_straight, block},
    {"prefetched 512 B ahead", copy_prefetched<512>, block},
    {"prefetched 2 KiB ahead", copy_prefetched<2048>, block},
    {"bursts of 4 KiB", copy_in_bursts<1>, block},
    {"bursts of 16 KiB", copy_in_bursts<4>, block},
    {"two abreast", copy_abreast<2, 1024>, block},
    {"four abreast", copy_abreast<4, 1024>, block},
    {"memcpy", copy_libc, block},
    {"memcpy, large blocks", copy_libc, large_block},
};
const Read reads[] = {
    {"straight", read_straight<0>, block},
    {"prefetched 512 B ahead", read_straight<512>, block},
    {"prefetched 2 KiB ahead", read_straight<2048>, block},
    {"prefetched 4 KiB ahead", read_straight<4096>, block},
    {"two abreast", read_abreast<2, 0>, block},
    {"two abreast, prefetched 1 KiB ahead", read_abreast<2, 1024>, block},
    {"four abreast, prefetched 512 B ahead", read_abreast<4, 512>, block},
    {"four abreast, prefetched 1 KiB ahead", read_abreast<4, 1024>, block},
    {"four abreast, prefetched 4 KiB ahead", read_abreast<4, 4096>, block},
    {"eight abreast, prefetched 1 KiB ahead", read_abreast<8, 1024>, block},
    {"page by page", read_in_bursts, block},
};

}  // namespace

// Addresses must be multiples of 64, and so must `bytes`.
extern "C" {
int copy_variants() { return sizeof copies / sizeof copies[0]; }
const char* copy_name(int variant) { return copies[variant].name; }
void copy(int variant, const char* in, char* out, int64_t bytes, int threads) {
    const Copy& chosen = copies[variant];
    over_blocks(bytes, chosen.block, threads, [&](int64_t i, int64_t size) { chosen.run(in + i, out + i, size); });
}

int read_variants() { return sizeof reads / sizeof reads[0]; }
const char* read_name(int variant) { return reads[variant].name; }
// The sum of all 64-bit words, modulo 2^64.
uint64_t read_sum(int variant, const char* in, int64_t bytes, int threads) {
    std::atomic<uint64_t> total{0};
    const Read& chosen = reads[variant];
    over_blocks(bytes, chosen.block, threads, [&](int64_t i, int64_t size) { total += chosen.run(in + i, size); });
    return total;
}
}
