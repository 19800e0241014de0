// Rows are taken in batches of eight. The coefficients of a batch are computed in one vector pass: the square roots and
// divisions of a single row would be a long chain that nothing hides. The rows of a batch lie far apart, an eighth of
// the block from one to the next, and the next batch are the rows after them: memory serves eight sequential streams,
// which the prefetchers of the hardware follow as well.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernels.h"
#include "simd.h"

namespace fastrealign {
namespace FR_ISA {

// Into the second cache: a cache line, at column j, of rows i to i + R - 1 of the next batch, which lies `ahead` bytes
// behind. A kernel passes over a batch twice; each pass does this for every other row, so that memory is never idle.
template <int R, typename T>
FR_INLINE void prefetch_rows(const T* const* rows, int pass, int i, int64_t j, int64_t ahead) {
    if (R == 1 && i % 2 != pass) return;
    FR_UNROLL
    for (int k = R == 1 ? 0 : pass; k < R; k += 2)
        __builtin_prefetch(reinterpret_cast<const char*>(rows[k] + j) + ahead, 0, 2);
}

// The same for rows that a kernel may read elsewhere, at `values`; if it does not, one set of registers has both.
template <int R, typename T, typename U>
FR_INLINE void prefetch_rows(const T* const* rows, const U* const* values, int pass, int i, int64_t j, int64_t ahead) {
    if constexpr (std::is_same_v<T, U>) {
        prefetch_rows<R>(values, pass, i, j, ahead);
    } else {
        prefetch_rows<R>(rows, pass, i, j, ahead);
    }
}

}  // namespace FR_ISA

template <>
inline FR_ISA::Register64 inverse_sqrt(FR_ISA::Register64 x) {
    return 1.0 / FR_ISA::square_root(x);
}

namespace FR_ISA {

// T: elements of the rows in memory. U: of the same rows as the kernel reads them.
template <typename T, typename U = T>
struct Batch {
    const T* rows[batch_rows];
    std::conditional_t<std::is_same_v<T, U>, const U*, U*> values[batch_rows];
    int64_t first, step;  // indices in the block: of the first row, and from one to the next
    int size;             // number of rows
    int64_t ahead;        // bytes from a row to the same row of the next batch
    alignas(cache_line) double p[batch_rows], q[batch_rows], r[batch_rows];
    alignas(cache_line) double alpha[batch_rows], beta[batch_rows], gamma[batch_rows];
    RowState states[batch_rows];

    Batch(const Rows& in, int64_t from, int64_t apart, int count)
        : first(from), step(apart), size(count), ahead(in.stride) {
        for (int i = 0; i < batch_rows; ++i) {
            rows[i] = reinterpret_cast<const T*>(in.data + index(i < size ? i : 0) * in.stride);
            if constexpr (std::is_same_v<T, U>) values[i] = rows[i];
            p[i] = 1.0;
            q[i] = r[i] = 0.0;
        }
    }
    int64_t index(int i) const { return first + i * step; }

    template <int R>
    FR_INLINE void prefetch(int pass, int i, int64_t j) const {
        prefetch_rows<R>(rows + i, pass, i, j, ahead);
    }
    static constexpr int64_t line = cache_line / static_cast<int64_t>(sizeof(T));  // columns

    // The coefficients of all rows from their dot products, for as many at once as a register holds: GCC compares the
    // lanes of a wider vector one by one.
    FR_NOINLINE void find_coefficients(const RowMap& map) {
        constexpr int at_once = sizeof(Register64) / sizeof(double);
        for (int i = 0; i < batch_rows; i += at_once) {
            const auto of_rows = [i](const double* all) {
                Register64 some;
                memcpy(&some, all + i, sizeof some);
                return some;
            };
            CoefficientsOf<Register64> k;
            const auto good =
                fastrealign::find_coefficients(map, DotsOf<Register64>{of_rows(p), of_rows(q), of_rows(r)}, k);
            memcpy(alpha + i, &k.alpha, sizeof k.alpha);
            memcpy(beta + i, &k.beta, sizeof k.beta);
            memcpy(gamma + i, &k.gamma, sizeof k.gamma);
            for (int j = 0; j < at_once; ++j) states[i + j] = good[j] ? RowState::good : RowState::recompute;
        }
    }
};

// Calls work(batch) for all rows of a block. Between two rows of a batch lies an odd number of rows, so that rows of 3
// KiB do not all fall into the same sets of the first cache.
template <typename T, typename U = T, typename Work>
void over_batches(const Rows& in, const Work& work) {
    const int64_t batches = in.count / batch_rows;
    const int64_t apart = batches % 2 == 0 && batches > 0 ? batches - 1 : batches;
    // One loop, so that the work is compiled once.
    for (int64_t k = 0; k * batch_rows < in.count; ++k) {
        const int64_t first = k < apart ? k : k * batch_rows;
        const int64_t count = k < apart ? batch_rows : std::min<int64_t>(batch_rows, in.count - first);
        Batch<T, U> batch(in, first, k < apart ? apart : 1, static_cast<int>(count));
        work(batch);
    }
}

// One row in float64. It may lie at any address.
template <typename T>
void widen_row(const T* row, int64_t d, double* out) {
    for (int64_t j = 0; j < d; ++j) {
        T value;
        memcpy(&value, row + j, sizeof value);
        out[j] = to_double(value);
    }
}

// The slow path for one row: f(row) in `scratch`, in float64, or the reason why there is none.
template <typename T>
FR_NOINLINE RowState slow_path(const RowMap& map, const MapVectors& vectors, const T* row, int64_t d, double* scratch) {
    widen_row(row, d, scratch);
    return map_row_slow_path(map, scratch, vectors.b, vectors.c, d);
}

}  // namespace FR_ISA
}  // namespace fastrealign
