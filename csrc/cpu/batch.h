// Rows are taken in batches of eight. The coefficients of a batch are computed in one vector pass: the square roots and
// divisions of a single row would be a long chain that nothing hides. The rows of a batch are read side by side, so
// that memory serves several streams, and while a batch is worked on, the next one is prefetched.
#pragma once

#include "kernels.h"
#include "simd.h"

namespace fastrealign {
namespace FR_ISA {

template <typename T>
struct Batch {
    const T* rows[batch_rows];
    int64_t first;  // index in the block
    int size;       // number of rows
    int64_t ahead;  // bytes from a row to the row that is prefetched meanwhile
    alignas(cache_line) double p[batch_rows], q[batch_rows], r[batch_rows];
    alignas(cache_line) double alpha[batch_rows], beta[batch_rows], gamma[batch_rows];
    RowState states[batch_rows];

    Batch(const Rows& in, int64_t from)
        : first(from),
          size(static_cast<int>(in.count - from < batch_rows ? in.count - from : batch_rows)),
          ahead(batch_rows * in.stride) {
        for (int i = 0; i < batch_rows; ++i) {
            rows[i] = reinterpret_cast<const T*>(in.data + (from + (i < size ? i : 0)) * in.stride);
            p[i] = 1.0;
            q[i] = r[i] = 0.0;
        }
    }

    // The coefficients of all rows from their dot products; one loop without branches, which the compiler vectorises.
    void find_coefficients(const RowMap& map) {
        for (int i = 0; i < batch_rows; ++i) {
            Coefficients k;
            states[i] = row_coefficients(map, {p[i], q[i], r[i]}, k);
            alpha[i] = k.alpha;
            beta[i] = k.beta;
            gamma[i] = k.gamma;
        }
    }
};

// Prefetches the cache lines of `bytes` bytes from `ahead` on into this cache (some lines twice, which costs nothing).
constexpr int in_first_cache = 3, in_second_cache = 2;
template <int bytes, int cache>
FR_INLINE void prefetch(const char* ahead) {
    FR_UNROLL
    for (int k = 0; k < bytes; k += static_cast<int>(cache_line)) __builtin_prefetch(ahead + k, 0, cache);
}

// The slow path for one row: f(row) in `scratch`, in float64, or the reason why there is none.
template <typename T>
RowState slow_path(const RowMap& map, const MapVectors& vectors, const T* row, int64_t d, double* scratch) {
    for (int64_t j = 0; j < d; ++j) {
        T value;
        memcpy(&value, row + j, sizeof value);
        scratch[j] = to_double(value);
    }
    return map_row_slow_path(map, scratch, vectors.b, vectors.c, d);
}

}  // namespace FR_ISA
}  // namespace fastrealign
