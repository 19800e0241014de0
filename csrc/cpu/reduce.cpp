// reduce: add f(y; s, b, c) over rows, exactly; nothing is stored. Compiled once for each instruction set (FR_ISA).
//
// Bytes: each row is read once, in order. Arithmetic is float64 throughout, so that the statistics do not depend on
// float32 rounding. A batch of eight rows is read twice, from memory for the dot products and from the cache to be
// added: one fused multiply-add an entry, and one load and store of the accumulators for eight rows (exact_sum.h).
#include <type_traits>

#include "batch.h"

namespace fastrealign {
namespace FR_ISA {
namespace {

// Rows of 16-bit elements are converted to float32 once, into a buffer that stays in the cache: both passes over a row
// need float64, and the conversion from float32 in memory is the cheapest.
template <typename T>
using Unpacked = std::conditional_t<sizeof(T) == 2, float, T>;

// Rows side by side in the dot products: as many as registers hold sums of.
constexpr int side_by_side(Terms terms) { return terms == Terms::none ? most_sums : most_sums / 2; }

template <typename T, Terms terms>
class Reducer {
 public:
    using U = Unpacked<T>;

    explicit Reducer(ReduceBlock& block) : block_(block), d_(block.in.d), whole_(d_ / lanes * lanes) {}

    void run() {
        for (int64_t first = 0; first < block_.in.count; first += batch_rows) {
            Batch<T> batch(block_.in, first);
            constexpr int R = side_by_side(terms);
            int i = 0;
            for (; i + R <= batch.size; i += R) dots<R>(batch, i);
            for (; i < batch.size; ++i) dots<1>(batch, i);
            batch.find_coefficients(*block_.map);
            add(batch);
        }
    }

 private:
    const U* unpacked(const Batch<T>& batch, int i) const {
        if constexpr (sizeof(T) == 2) {
            return block_.unpacked + i * ((d_ + lanes - 1) / lanes * lanes);
        } else {
            return batch.rows[i];
        }
    }

    // The dot products of rows i, i + 1, ... i + R - 1, and their elements as float32 where they are 16-bit.
    template <int R>
    void dots(Batch<T>& batch, int i) {
        const T* rows[R];
        float* to[R];
        D8 p[R], q[R], r[R];
        FR_UNROLL
        for (int k = 0; k < R; ++k) {
            rows[k] = batch.rows[i + k];
            if constexpr (sizeof(T) == 2) to[k] = const_cast<float*>(unpacked(batch, i + k));
            p[k] = q[k] = r[k] = splat(0.0);
        }
        const auto step = [&](int64_t j, auto load) FR_LAMBDA {
            D8 b, c;
            if constexpr (terms != Terms::none) b = load_d8(block_.vectors.b + j);
            if constexpr (terms == Terms::bc) c = load_d8(block_.vectors.c + j);
            FR_UNROLL
            for (int k = 0; k < R; ++k) {
                const D8 x = load(k);
                p[k] = fma(x, x, p[k]);
                if constexpr (terms != Terms::none) q[k] = fma(x, b, q[k]);
                if constexpr (terms == Terms::bc) r[k] = fma(x, c, r[k]);
            }
        };
        const auto take = [&](int64_t j) FR_LAMBDA {
            step(j, [&](int k) FR_LAMBDA {
                if constexpr (sizeof(T) == 2) {
                    const F8 x = load_f8(rows[k] + j);
                    put(to[k] + j, narrow(x, float{}));
                    return to_d8(x);
                } else {
                    return load_d8(rows[k] + j);
                }
            });
        };
        constexpr int64_t line = cache_line / static_cast<int64_t>(sizeof(T));
        int64_t j = 0;
        for (; j + line <= whole_; j += line) {
            FR_UNROLL
            for (int k = 0; k < R; ++k)
                prefetch<cache_line, in_second_cache>(reinterpret_cast<const char*>(rows[k] + j) + batch.ahead);
            FR_UNROLL
            for (int64_t at = 0; at < line; at += lanes) take(j + at);
        }
        for (; j < whole_; j += lanes) take(j);
        if (j < d_) {
            const int count = static_cast<int>(d_ - j);
            step(j, [&](int k) FR_LAMBDA {
                if constexpr (sizeof(T) == 2) put(to[k] + j, narrow(load_partial<float>(rows[k] + j, count), float{}));
                return load_partial<double>(rows[k] + j, count);
            });
        }
        FR_UNROLL
        for (int k = 0; k < R; ++k) {
            batch.p[i + k] = total(p[k]);
            if constexpr (terms != Terms::none) batch.q[i + k] = total(q[k]);
            if constexpr (terms == Terms::bc) batch.r[i + k] = total(r[k]);
        }
    }

    // Adds the good rows of a batch; other rows take the slow path.
    void add(Batch<T>& batch) {
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
                rows[good] = unpacked(batch, i);
                alphas[good++] = odd(batch.alpha[i]);
                if constexpr (terms != Terms::none) sums.beta += value_steps(batch.beta[i] * block_.b_scale);
                if constexpr (terms == Terms::bc) sums.gamma += value_steps(batch.gamma[i] * block_.c_scale);
            } else {
                state = slow_path(map, block_.vectors, batch.rows[i], d_, block_.scratch);
                if (state == RowState::good) {
                    add_finished(sums, block_.scratch, d_);
                } else {
                    block_.bad.add(block_.in.first + batch.first + i, state);
                }
            }
            if (block_.flags) block_.flags[block_.in.first + batch.first + i] = static_cast<uint8_t>(state);
        }
        make_room(sums, weight, d_);
        if (good == batch_rows) {
            add_rows<batch_rows>(rows, alphas);
        } else {
            for (int i = 0; i < good; ++i) add_rows<1>(rows + i, alphas + i);
        }
    }

    template <int R>
    void add_rows(const U* const* rows, const double* alphas) {
        double* const sums = block_.sums.accumulators;
        S8 alpha[R];
        const U* row[R];
        FR_UNROLL
        for (int i = 0; i < R; ++i) {
            alpha[i] = splat(alphas[i]);
            row[i] = rows[i];
        }
        const auto step = [&](int64_t j, auto load) FR_LAMBDA {
            D8 sum = load_d8(sums + j);
            FR_UNROLL
            for (int i = 0; i < R; ++i) sum = fma(alpha[i], load(row[i] + j), sum);
            put(sums + j, sum);
        };
        for (int64_t j = 0; j < whole_; j += lanes) step(j, [](const U* x) FR_LAMBDA { return load_d8(x); });
        if (whole_ < d_) {
            const int count = static_cast<int>(d_ - whole_);
            step(whole_, [&](const U* x) FR_LAMBDA { return load_partial<double>(x, count); });
        }
    }

    ReduceBlock& block_;
    int64_t d_, whole_;
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
