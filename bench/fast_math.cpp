// A peer: what a competent programmer writes in C++ without intrinsics. Three dot products of a row, the coefficients,
// and one more loop over the row; the compiler vectorises both. Sums are float32 within a block of rows, float64
// across. Compiled at run time by native.py, -O3 -march=native -ffast-math.
#include <cmath>
#include <cstring>
#include <mutex>

#include "blocks.h"

namespace {

constexpr int64_t block_bytes = 256 * 1024;

struct bfloat16 {
    uint16_t bits;
    bfloat16(float x) {
        uint32_t u;
        memcpy(&u, &x, 4);
        bits = static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16);
    }
    operator float() const {
        const uint32_t u = static_cast<uint32_t>(bits) << 16;
        float x;
        memcpy(&x, &u, 4);
        return x;
    }
};

// terms: 0 the unit row, 1 with b, 2 with b and c.
template <int terms, bool stored, bool summed, typename T>
void map_rows(const T* x, T* out, int64_t rows, int64_t d, float s, const float* b, const float* c, float* sum) {
    float bb = 0, bc = 0, cc = 0;
    for (int64_t j = 0; j < d; ++j) {
        if (terms > 0) bb += b[j] * b[j];
        if (terms > 1) bc += b[j] * c[j], cc += c[j] * c[j];
    }
    for (; rows > 0; --rows, x += d, out += stored ? d : 0) {
        float p = 0, q = 0, r = 0;
        for (int64_t j = 0; j < d; ++j) {
            const float y = x[j];
            p += y * y;
            if (terms > 0) q += y * b[j];
            if (terms > 1) r += y * c[j];
        }
        const float rho = s / std::sqrt(p);
        const float u = 1 / std::sqrt(s * s + 2 * rho * q + bb);
        const float gamma = 1 / std::sqrt(1 + 2 * (rho * r + bc) * u + cc), beta = gamma * u, alpha = beta * rho;
        for (int64_t j = 0; j < d; ++j) {
            float f = alpha * static_cast<float>(x[j]);
            if (terms > 0) f += beta * b[j];
            if (terms > 1) f += gamma * c[j];
            if (stored) out[j] = static_cast<T>(f);
            if (summed) sum[j] += stored ? static_cast<float>(static_cast<T>(f)) : f;
        }
    }
}

template <typename T>
void run(const void* x, void* out, int64_t rows, int64_t d, float s, const float* b, const float* c, double* sums,
         int threads) {
    const auto work = !b     ? map_rows<0, false, true, T>
                      : !c   ? map_rows<1, false, true, T>
                      : !out ? map_rows<2, false, true, T>
                      : sums ? map_rows<2, true, true, T>
                             : map_rows<2, true, false, T>;
    const int64_t block = block_bytes / (d * static_cast<int64_t>(sizeof(T))) + 1;
    std::mutex mutex;
    over_blocks(rows, block, threads, [&](int64_t first, int64_t count) {
        std::vector<float> sum(sums ? d : 0);
        const T* from = static_cast<const T*>(x) + first * d;
        work(from, out ? static_cast<T*>(out) + first * d : nullptr, count, d, s, b, c, sum.data());
        const std::lock_guard<std::mutex> lock(mutex);
        for (size_t j = 0; j < sum.size(); ++j) sums[j] += sum[j];
    });
}

}  // namespace

// itemsize: 4 float32, 2 float16, -2 bfloat16. f(x; s, b, c) is stored in out, or summed, or with b and c both.
extern "C" void fast_math(int itemsize, const void* x, void* out, int64_t rows, int64_t d, float s, const float* b,
                          const float* c, double* sums, int threads) {
    (itemsize == 4   ? run<float>
     : itemsize == 2 ? run<_Float16>
                     : run<bfloat16>)(x, out, rows, d, s, b, c, sums, threads);
}
