// The dot products of the rows of a batch. Several rows are read side by side, which loads b and c once for them; the
// bits do not depend on how many.
#pragma once

#include <algorithm>
#include <type_traits>

#include "batch.h"

namespace fastrealign {
namespace FR_ISA {

// Rows side by side: as many as registers hold sums of.
constexpr int rows_of_wide_dots(Terms terms) { return terms == Terms::none ? most_rows : most_sums / 2; }
constexpr int rows_of_narrow_dots = most_sums / 2;

// Whether rows are converted when their dot products are taken, for the second pass to read.
template <typename T, typename U>
constexpr bool unpacks = !std::is_same_v<T, U>;

// Converts a line of R rows from column j on. From addresses of the caller's: those in a Batch would be loaded for each
// store again, which might have changed them.
template <int R, typename T>
FR_INLINE void unpack_line(const T* const* from, float* const* to, int64_t j) {
    FR_UNROLL
    for (int64_t at = 0; at < Batch<T>::line; at += sixteen) {
        FR_UNROLL
        for (int k = 0; k < R; ++k) put(to[k] + j + at, narrow(load_f16(from[k] + j + at), float{}));
    }
}

// Converts the columns from j on, which are no whole line.
template <int R, typename T>
void unpack_rest(const T* const* from, float* const* to, int64_t j, int64_t d) {
    for (; j < d; j += sixteen) {
        const int count = static_cast<int>(std::min<int64_t>(sixteen, d - j));
        for (int k = 0; k < R; ++k)
            put(to[k] + j, narrow(load_f16(first_of<sixteen>(from[k] + j, count).values), float{}));
    }
}

struct Nothing {
    FR_INLINE void operator()(int64_t) const {}
};

// In float64. beside(j) is called for each line of the rows, from column j on: other work at the same time. Then the
// rows must be whole lines.
template <Terms terms, int R, typename T, typename U, typename Beside = Nothing>
FR_INLINE void wide_dots_of(Batch<T, U>& batch, int i, const MapVectors& vectors, int64_t d,
                            const Beside& beside = {}) {
    const T* in[R];
    decltype(batch.values[0] + 0) rows[R];
    using Sum = SumOf<D8, D8Part>;
    constexpr int part_lanes = lanes / Sum::parts;
    Sum p[R], q[R], r[R];
    FR_UNROLL
    for (int k = 0; k < R; ++k) {
        in[k] = batch.rows[i + k];
        rows[k] = batch.values[i + k];
    }
    const auto step = [&](int64_t j, auto values_of) FR_LAMBDA {
        FR_UNROLL
        for (int h = 0; h < Sum::parts; ++h) {
            const int64_t at = j + h * part_lanes;
            D8Part b, c;
            if constexpr (terms != Terms::none) b = load_part(vectors.b + at, D8Part{});
            if constexpr (terms == Terms::bc) c = load_part(vectors.c + at, D8Part{});
            FR_UNROLL
            for (int k = 0; k < R; ++k) {
                const D8Part x = load_part(values_of(k) + h * part_lanes, D8Part{});
                p[k].add(h, x, x);
                if constexpr (terms != Terms::none) q[k].add(h, x, b);
                if constexpr (terms == Terms::bc) r[k].add(h, x, c);
            }
        }
    };
    constexpr int64_t line = Batch<T, U>::line;
    const int64_t lines_end = d / line * line;
    if constexpr (unpacks<T, U>) {
        if (lines_end > 0) unpack_line<R>(in, rows, 0);
        unpack_rest<R>(in, rows, lines_end, d);
    }
    int64_t j = 0;
    for (; j < lines_end; j += line) {
        // A line ahead, so that what is stored is not read at once.
        if constexpr (unpacks<T, U>) {
            if (j + line < lines_end) unpack_line<R>(in, rows, j + line);
        }
        prefetch_rows<R, T, U>(in, rows, 0, i, j, batch.ahead);
        FR_UNROLL
        for (int64_t at = 0; at < line; at += lanes) step(j + at, [&](int k) FR_LAMBDA { return rows[k] + j + at; });
        beside(j);
    }
    if constexpr (std::is_same_v<Beside, Nothing>) {
        for (; j + lanes <= d; j += lanes) step(j, [&](int k) FR_LAMBDA { return rows[k] + j; });
        if (j < d) {
            const int count = static_cast<int>(d - j);
            First<lanes, U> ends[R];
            for (int k = 0; k < R; ++k) ends[k] = first_of<lanes>(rows[k] + j, count);
            step(j, [&](int k) FR_LAMBDA { return ends[k].values; });
        }
    }
    FR_UNROLL
    for (int k = 0; k < R; ++k) {
        batch.p[i + k] = total(p[k].all());
        if constexpr (terms != Terms::none) batch.q[i + k] = total(q[k].all());
        if constexpr (terms == Terms::bc) batch.r[i + k] = total(r[k].all());
    }
}

// Of one row, for those that are written again.
template <typename T>
FR_NOINLINE void wide_dots_of_row(Batch<T>& batch, int i, const MapVectors& vectors, int64_t d) {
    wide_dots_of<Terms::bc, 1>(batch, i, vectors, d);
}

template <Terms terms, typename T, typename U>
void wide_dots(Batch<T, U>& batch, const MapVectors& vectors, int64_t d) {
    constexpr int R = rows_of_wide_dots(terms);
    int i = 0;
    for (; i + R <= batch.size; i += R) wide_dots_of<terms, R>(batch, i, vectors, d);
    for (; i < batch.size; ++i) wide_dots_of<terms, 1>(batch, i, vectors, d);
}

// How many columns are summed in float32 before the sums are added to float64 ones: no lane sums more than 32 products
// in float32, so the error does not grow with the width.
constexpr int64_t narrow_columns = 512;

FR_INLINE D8 halves_sum(F16 x) { return add(to_d8(first_half(x)), to_d8(last_half(x))); }

// In float32, for 16-bit rows.
template <int R, typename T>
FR_INLINE void narrow_dots_of(Batch<T>& batch, int i, const MapVectors& vectors, int64_t d) {
    // bfloat16 are taken as the even columns of each group of sixteen, then the odd ones.
    constexpr bool even_odd = std::is_same_v<T, BFloat>;
    using Sum = SumOf<F16, F16Part>;
    const float* b32 = even_odd ? vectors.b_even_odd : vectors.b32;
    const float* c32 = even_odd ? vectors.c_even_odd : vectors.c32;
    const T* rows[R];
    D8 wide_p[R], wide_q[R], wide_r[R];
    FR_UNROLL
    for (int k = 0; k < R; ++k) {
        rows[k] = batch.rows[i + k];
        wide_p[k] = wide_q[k] = wide_r[k] = splat(0.0);
    }
    for (int64_t from = 0; from < d; from += narrow_columns) {
        const int64_t to = d < from + narrow_columns ? d : from + narrow_columns;
        Sum p[R], q[R], r[R];
        const auto step = [&](int64_t j, auto load) FR_LAMBDA {
            FR_UNROLL
            for (int h = 0; h < Sum::parts; ++h) {
                const int64_t at = j + h * (sixteen / Sum::parts);
                const F16Part b = load_part(b32 + at, F16Part{}), c = load_part(c32 + at, F16Part{});
                FR_UNROLL
                for (int k = 0; k < R; ++k) {
                    const F16Part x = load(k, h);
                    p[k].add(h, x, x);
                    q[k].add(h, x, b);
                    r[k].add(h, x, c);
                }
            }
        };
        const auto part = [](const T* x, int h) FR_LAMBDA {
            if constexpr (even_odd) {
                return load_even_odd(x, h, F16Part{});
            } else {
                return load_part(x + h * (sixteen / Sum::parts), F16Part{});
            }
        };
        int64_t j = from;
        for (; j + sixteen <= to; j += sixteen) {
            if (j % Batch<T>::line == 0) batch.template prefetch<R>(0, i, j);
            step(j, [&](int k, int h) FR_LAMBDA { return part(rows[k] + j, h); });
        }
        if (j < to) {
            const int count = static_cast<int>(to - j);
            First<sixteen, T> ends[R];
            for (int k = 0; k < R; ++k) ends[k] = first_of<sixteen>(rows[k] + j, count);
            step(j, [&](int k, int h)
                        FR_LAMBDA { return load_part(ends[k].values + h * (sixteen / Sum::parts), F16Part{}); });
        }
        FR_UNROLL
        for (int k = 0; k < R; ++k) {
            wide_p[k] = add(wide_p[k], halves_sum(p[k].all()));
            wide_q[k] = add(wide_q[k], halves_sum(q[k].all()));
            wide_r[k] = add(wide_r[k], halves_sum(r[k].all()));
        }
    }
    FR_UNROLL
    for (int k = 0; k < R; ++k) {
        batch.p[i + k] = total(wide_p[k]);
        batch.q[i + k] = total(wide_q[k]);
        batch.r[i + k] = total(wide_r[k]);
    }
}

template <typename T>
void narrow_dots(Batch<T>& batch, const MapVectors& vectors, int64_t d) {
    constexpr int R = rows_of_narrow_dots;
    int i = 0;
    for (; i + R <= batch.size; i += R) narrow_dots_of<R>(batch, i, vectors, d);
    for (; i < batch.size; ++i) narrow_dots_of<1>(batch, i, vectors, d);
}

}  // namespace FR_ISA
}  // namespace fastrealign
