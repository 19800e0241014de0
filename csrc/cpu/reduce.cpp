// reduce: add f(y; s, b, c) over rows, exactly; nothing is stored. Compiled once for each instruction set (FR_ISA).
//
// Bytes: each row is read once, in order. Arithmetic is float64 throughout, so that the statistics do not depend on
// float32 rounding. A batch of eight rows is read twice, from memory for the dot products and from the cache to be
// added: one fused multiply-add an entry, and one load and store of the accumulators for eight rows (exact_sum.h).
#include <algorithm>
#include <type_traits>

#include "buffer.h"
#include "dots.h"

namespace fastrealign {
namespace FR_ISA {
namespace {

// Rows of 16-bit elements are converted to float32 once, into a buffer that stays in the cache: both passes over a
// batch need float64, and the conversion from float32 in memory is the cheapest.
template <typename T>
using Unpacked = std::conditional_t<sizeof(T) == 2, float, T>;

template <typename T, Terms terms>
class Reducer {
 public:
    using U = Unpacked<T>;

    explicit Reducer(ReduceBlock& block) : block_(block), d_(block.in.d) {}

    void run() {
        over_batches<T, U>(block_.in, [&](Batch<T, U>& batch) {
            if constexpr (unpacks<T, U>) {
                for (int i = 0; i < batch.size; ++i) batch.values[i] = block_.unpacked + i * padded(d_);
            }
            wide_dots<terms>(batch, block_.vectors, d_);
            batch.find_coefficients(*block_.map);
            add(batch);
        });
    }

 private:
    // Adds the good rows of a batch; other rows take the slow path.
    void add(Batch<T, U>& batch) {
        Sums& sums = block_.sums;
        const RowMap& map = *block_.map;
        const U* rows[batch_rows];
        double alphas[batch_rows];
        double weight = 0.0;
        int good = 0;
        for (int i = 0; i < batch.size; ++i) {
            const double of_row = std::fabs(batch.beta[i] * map.s);
            RowState& state = batch.states[i];
            if (state == RowState::good && of_row <= largest_weight) {
                weight += of_row;
                rows[good] = batch.values[i];
                alphas[good++] = odd(batch.alpha[i]);
                if constexpr (terms != Terms::none) sums.beta += value_steps(batch.beta[i] * block_.b_scale);
                if constexpr (terms == Terms::bc) sums.gamma += value_steps(batch.gamma[i] * block_.c_scale);
            } else {
                state = slow_path(map, block_.vectors, batch.rows[i], d_, block_.scratch);
                if (state == RowState::good) {
                    add_finished(sums, block_.scratch, d_);
                } else {
                    block_.bad.add(block_.in.first + batch.index(i), state);
                }
            }
            if (block_.flags) block_.flags[block_.in.first + batch.index(i)] = static_cast<uint8_t>(state);
        }
        make_room(sums, weight, d_);
        if (good == batch_rows) {
            add_rows<batch_rows>(batch, rows, alphas);
        } else {
            for (int i = 0; i < good; ++i) add_rows<1>(batch, rows + i, alphas + i);
        }
    }

    template <int R>
    void add_rows(const Batch<T, U>& batch, const U* const* rows, const double* alphas) {
        double* const sums = block_.sums.accumulators;
        S8 alpha[R];
        const U* row[R];
        const T* in[R];
        FR_UNROLL
        for (int i = 0; i < R; ++i) {
            alpha[i] = splat(alphas[i]);
            row[i] = rows[i];
            in[i] = batch.rows[i];
        }
        const int64_t ahead = batch.ahead;
        const auto add_columns = [&](int64_t j, auto vectors, auto load) FR_LAMBDA {
            constexpr int n = decltype(vectors)::value;
            D8 sum[n];
            FR_UNROLL
            for (int v = 0; v < n; ++v) sum[v] = load_d8(sums + j + v * lanes);
            FR_UNROLL
            for (int i = 0; i < R; ++i) {
                FR_UNROLL
                for (int v = 0; v < n; ++v) sum[v] = fma(alpha[i], load(row[i] + j + v * lanes), sum[v]);
            }
            FR_UNROLL
            for (int v = 0; v < n; ++v) put(sums + j + v * lanes, sum[v]);
        };
        const auto whole = [](const U* x) FR_LAMBDA { return load_d8(x); };
        constexpr int64_t line = Batch<T, U>::line;
        // Side by side, so that an addition does not wait for the one before it.
        constexpr int side_by_side = std::min<int>(2, line / lanes);
        const int64_t d = d_;  // a store of a sum might have changed the member
        int64_t j = 0;
        for (; j + line <= d; j += line) {
            if constexpr (R == batch_rows) prefetch_rows<R, T, U>(in, row, 1, 0, j, ahead);
            FR_UNROLL
            for (int64_t at = 0; at < line; at += side_by_side * lanes) {
                add_columns(j + at, std::integral_constant<int, side_by_side>{}, whole);
            }
        }
        constexpr std::integral_constant<int, 1> one;
        for (; j + lanes <= d; j += lanes) add_columns(j, one, whole);
        if (j < d) {
            const int count = static_cast<int>(d - j);
            add_columns(j, one, [&](const U* x) FR_LAMBDA { return load_d8(first_of<lanes>(x, count).values); });
        }
    }

    ReduceBlock& block_;
    int64_t d_;
};

template <typename T>
void reduce(ReduceBlock& block) {
    switch (block.map->terms) {
        case Terms::none:
            return Reducer<T, Terms::none>(block).run();
        case Terms::b:
            return Reducer<T, Terms::b>(block).run();
        case Terms::bc:
            return Reducer<T, Terms::bc>(block).run();
    }
}

}  // namespace

const ReduceKernel reduce_kernels[dtype_count] = {reduce<float>, reduce<Half>, reduce<BFloat>, reduce<double>};

}  // namespace FR_ISA
}  // namespace fastrealign
