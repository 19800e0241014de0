// apply: store f(y; s, b, c) and, on request, sum the stored rows. Compiled once for each instruction set (FR_ISA).
//
// Bytes: each row is read once and written once: a batch of eight rows is read from memory for the dot products, and
// from the cache to be written. An output that does not fit in the cache is written with non-temporal stores of whole
// cache lines, which saves the read for ownership of an ordinary store.
//
// Arithmetic: an entry is a sum of three products, in float64 where input or output is float64, else in float32. The
// dot products are float64 too, unless both input and output are 16-bit: in float32 a row with one large entry loses
// its small ones, an error of up to 7e-7.
#include <algorithm>
#include <type_traits>

#include "dots.h"
#include "stored_sums.h"

namespace fastrealign {
namespace FR_ISA {
namespace {

// The vectors of an arithmetic: sixteen float32 or eight float64.
template <typename Real>
struct Arithmetic;
template <>
struct Arithmetic<float> {
    using Vector = F16;
    using Scalar = F16;
    static constexpr int columns = sixteen;
    static Scalar splat(double x) { return splat16(static_cast<float>(x)); }
    template <typename T>
    static Vector load(const T* x) {
        return load_f16(x);
    }
    static const float* b(const MapVectors& vectors) { return vectors.b32; }
    static const float* c(const MapVectors& vectors) { return vectors.c32; }
};
template <>
struct Arithmetic<double> {
    using Vector = D8;
    using Scalar = S8;
    static constexpr int columns = lanes;
    static Scalar splat(double x) { return FR_ISA::splat(x); }
    template <typename T>
    static Vector load(const T* x) {
        return load_d8(x);
    }
    static const double* b(const MapVectors& vectors) { return vectors.b; }
    static const double* c(const MapVectors& vectors) { return vectors.c; }
};

template <typename In, typename Out>
struct Row {
    int i;  // in the batch
    const In* x;
    Out* out;
    Coefficients k;
};

// Whether registers suffice to take the dot products of some rows while others are written.
constexpr bool registers_suffice = most_sums >= 8;

// Writes good rows, alpha x + beta b + gamma c, and sums what it stores.
template <typename In, typename Out, typename Real, bool sums>
class Writer {
    using A = Arithmetic<Real>;
    using Vector = typename A::Vector;
    using Scalar = typename A::Scalar;
    // Whether whole groups of sixteen are taken as even and odd columns.
    static constexpr bool may_pair = std::is_same_v<In, BFloat> && std::is_same_v<Out, BFloat> && A::columns == sixteen;

 public:
    static constexpr int columns = A::columns;
    // Whether rows are added as integers (make_room_for_integers), and whether in the order of even_odd().
    static constexpr bool natural_integers = sums && has_integer_sums<Out> && columns == sixteen;
    static constexpr bool even_odd_integers = sums && has_even_odd_sums && may_pair;

    explicit Writer(const ApplyBlock& block)
        : vectors_(block.vectors),
          sums_{block.sums.accumulators, block.sums.integers},
          d_(block.in.d),
          ahead_(block.in.stride) {}

    // N rows side by side, which loads b, c and the sums once for them. Streamed rows lie equally in their cache lines.
    template <int N>
    void write(const Row<In, Out>* rows, bool non_temporal) const {
        constexpr int64_t size = sizeof(Out), line = cache_line / size;
        constexpr int64_t unit = std::max<int64_t>(line, columns);  // whole vectors of whole cache lines
        const int64_t misalignment = static_cast<int64_t>(reinterpret_cast<uintptr_t>(rows->out) % cache_line);
        const int64_t head = misalignment == 0 ? 0 : (cache_line - misalignment) / size;
        if (non_temporal && misalignment % size == 0 && d_ >= head + unit) {
            for (int k = 0; k < N; ++k) write_cached(rows[k], 0, head);
            const int64_t end = head + (d_ - head) / unit * unit;
            write_whole<N, true>(rows, head, end);
            for (int k = 0; k < N; ++k) write_cached(rows[k], end, d_);
        } else {
            const int64_t end = d_ / columns * columns;
            write_whole<N, false>(rows, 0, end);
            for (int k = 0; k < N; ++k) write_cached(rows[k], end, d_);
        }
    }

    // N rows, a vector of each at a time. A vector is added to the sums after the next one is stored: until it is
    // computed, rounded and converted back, the operations that add it would hold up those behind them.
    template <int N, bool streamed, bool paired = false>
    struct Lines {
        // A vector of a row as it is stored.
        static FR_INLINE auto as_stored(Vector x) {
            if constexpr (paired) {
                return narrow_even_odd(x);
            } else {
                return narrow_to<Out>(x);
            }
        }
        using Stored = decltype(as_stored(Vector{}));

        const Writer& writer;
        const In* x[N];
        Out* out[N];
        Scalar alpha[N], beta[N], gamma[N];
        Stored last[N];   // the vectors stored last
        int64_t at = -1;  // their first column, if there are any

        Lines(const Writer& of, const Row<In, Out>* rows) : writer(of) {
            FR_UNROLL
            for (int k = 0; k < N; ++k) {
                x[k] = rows[k].x;
                out[k] = rows[k].out;
                alpha[k] = A::splat(rows[k].k.alpha);
                beta[k] = A::splat(rows[k].k.beta);
                gamma[k] = A::splat(rows[k].k.gamma);
            }
        }
        FR_INLINE void write(int64_t j) {
            Stored stored[N];
            store(j, stored);
            add_last();
            FR_UNROLL
            for (int k = 0; k < N; ++k) last[k] = stored[k];
            at = j;
        }
        FR_INLINE void store(int64_t j, Stored (&stored)[N]) const {
            const auto vector = [&](auto natural, const float* even_odd) FR_LAMBDA {
                if constexpr (paired) {
                    return A::load(even_odd + j);
                } else {
                    return A::load(natural + j);
                }
            };
            const Vector b = vector(A::b(writer.vectors_), writer.vectors_.b_even_odd);
            const Vector c = vector(A::c(writer.vectors_), writer.vectors_.c_even_odd);
            FR_UNROLL
            for (int k = 0; k < N; ++k) {
                const auto load = [](const In* at) FR_LAMBDA {
                    if constexpr (paired) {
                        return load_even_odd(at);
                    } else {
                        return A::load(at);
                    }
                };
                stored[k] = as_stored(mapped(alpha[k], beta[k], gamma[k], load(x[k] + j), b, c));
                if constexpr (streamed) {
                    stream(out[k] + j, stored[k]);
                } else {
                    put(out[k] + j, stored[k]);
                }
            }
        }
        FR_INLINE void add_last() const {
            if (at < 0) return;
            SumsOf<N, paired> sum(writer.sums_, at);
            FR_UNROLL
            for (int k = 0; k < N; ++k) sum.add(k, last[k]);
            sum.put_back();
        }
    };

 private:
    template <int N, bool paired>
    using SumsOf = std::conditional_t<
        !sums, NoSums,
        std::conditional_t<paired && even_odd_integers, EvenOddSums<N>,
                           std::conditional_t<natural_integers, IntegerSums<Out, N>, Float64Sums<Out, columns>>>>;

    FR_INLINE static Vector mapped(Scalar alpha, Scalar beta, Scalar gamma, Vector x, Vector b, Vector c) {
        return fma(alpha, x, fma(beta, b, mul(gamma, c)));
    }
    template <int N, bool streamed>
    void write_whole(const Row<In, Out>* rows, int64_t from, int64_t to) const {
        if constexpr (may_pair) {
            if (from % columns == 0) return write_whole<N, streamed, true>(rows, from, to);
        }
        write_whole<N, streamed, false>(rows, from, to);
    }
    template <int N, bool streamed, bool paired>
    void write_whole(const Row<In, Out>* rows, int64_t from, int64_t to) const {
        Lines<N, streamed, paired> lines(*this, rows);
        for (int64_t j = from; j < to; j += columns) {
            if ((j - from) % Batch<In>::line == 0) prefetch_rows<N>(lines.x, 1, rows->i, j, ahead_);
            lines.write(j);
        }
        lines.add_last();
    }
    // Columns before and after the whole cache lines or vectors. Columns beyond them are neither read nor stored.
    void write_cached(const Row<In, Out>& row, int64_t from, int64_t to) const {
        for (int64_t j = from; j < to; j += columns) {
            const int count = static_cast<int>(std::min<int64_t>(columns, to - j));
            const auto stored =
                narrow_to<Out>(mapped(A::splat(row.k.alpha), A::splat(row.k.beta), A::splat(row.k.gamma),
                                      A::load(first_of<columns>(row.x + j, count).values),
                                      A::load(first_of<columns>(A::b(vectors_) + j, count).values),
                                      A::load(first_of<columns>(A::c(vectors_) + j, count).values)));
            put_first<columns>(row.out + j, stored, count);
            if constexpr (sums) {
                // The others are zeros and add nothing.
                Float64Sums<Out, columns> sum(sums_, j);
                sum.add(0, stored);
                sum.put_back();
            }
        }
    }

    MapVectors vectors_;
    SumsAddresses sums_;
    int64_t d_, ahead_;
};

// Rows that are written side by side. Measured: more are no faster, and eight streams of half cache lines halve the
// speed.
constexpr int rows_of_writer = 2;
// Rows that are written while the dot products of as many others are taken, where registers suffice. Measured with
// AVX-512: as many as without writing; fewer are slower. Does not help with AVX2.
constexpr int rows_beside = most_sums / 2;
// Two non-temporal streams whose addresses are equal modulo a page hold up every load that has these bits soon after:
// up to ten times slower on Zen 3 with AVX2, up to 1.6 times on Zen 4 with AVX-512.
constexpr int64_t page = 4096;

// Rarely needed, so for all input types the same.
template <typename Out, bool sums>
FR_NOINLINE void write_float64(const ApplyBlock& block, const Row<double, Out>& row) {
    Writer<double, Out, double, sums>(block).template write<1>(&row, false);
}

template <typename In, typename Out, bool sums>
class Applier {
    using Real = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>, double, float>;
    static constexpr bool narrow = sizeof(In) == 2 && sizeof(Out) == 2;
    static constexpr bool may_write_beside = registers_suffice && !narrow;

 public:
    explicit Applier(ApplyBlock& block) : block_(block), d_(block.in.d), float64_map_(*block.map) {
        float64_map_.cancelled_below = float64_throughout.cancelled_below;
        float64_map_.largest_b = float64_map_.largest_c = float64_map_.largest_shift = 0.0;
    }

    void run() {
        over_batches<In>(block_.in, [&](Batch<In>& batch) {
            if (!dots_beside_writing(batch)) {
                write();
                dots(batch);
            }
            batch.find_coefficients(*block_.map);
            take(batch);
            if constexpr (!may_write_beside) write();
        });
        write();
        if (block_.stream) finish_streaming();
    }

 private:
    void dots(Batch<In>& batch) {
        if constexpr (narrow) {
            narrow_dots(batch, block_.vectors, d_);
        } else {
            wide_dots<Terms::bc>(batch, block_.vectors, d_);
        }
    }

    // The dot products of a batch, while the one before it is written, line by line: memory is read and written all
    // the time, and arithmetic hides behind it. False if the rows are not whole lines, or not all good.
    bool dots_beside_writing(Batch<In>& batch) {
        if constexpr (may_write_beside) {
            if (good_ < batch_rows || batch.size < batch_rows || d_ % Batch<In>::line != 0) return false;
            if (block_.stream && !(together_ && is_aligned(rows_->out) && is_aligned(rows_->out + d_))) return false;
            block_.stream ? dots_beside_writing<true>(batch) : dots_beside_writing<false>(batch);
            return true;
        }
        return false;
    }
    template <bool streamed>
    void dots_beside_writing(Batch<In>& batch) {
        constexpr int R = rows_beside;
        using W = Writer<In, Out, Real, sums>;
        const W writer = prepared<W>(good_);
        for (int i = 0; i < batch_rows; i += R) {
            typename W::template Lines<R, streamed> lines(writer, rows_ + i);
            // Half a row or half a page away from the dot products: where rows are a multiple of a page apart, the same
            // columns of all rows, read or written, share the sets of the first cache.
            constexpr int64_t line = Batch<In>::line, half_page = page / 2 / static_cast<int64_t>(sizeof(In));
            const int64_t away = std::min(d_ / 2, half_page) / line * line;
            wide_dots_of<Terms::bc, R>(batch, i, block_.vectors, d_, [&](int64_t j) FR_LAMBDA {
                batch.template prefetch<R>(1, i, j);
                const int64_t to = j < away ? j + (d_ - away) : j - away;
                FR_UNROLL
                for (int64_t at = 0; at < line; at += W::columns) lines.write(to + at);
            });
            lines.add_last();
        }
        good_ = 0;
    }
    // The lines that a streamed row shares with its neighbours are written through the cache, and no store after that
    // leaves the core before such a line is there.
    void prefetch_ends(const Out* row) const {
        if (!is_aligned(row)) __builtin_prefetch(row, 1);
        if (!is_aligned(row + d_)) __builtin_prefetch(row + d_, 1);
    }
    static bool is_aligned(const Out* at) { return reinterpret_cast<uintptr_t>(at) % cache_line == 0; }

    // Keeps the good rows of a batch, to be written. The others are written here.
    void take(Batch<In>& batch) {
        for (int i = 0; i < batch.size; ++i) {
            const int64_t at = batch.index(i);
            Row<In, Out> row{i,
                             batch.rows[i],
                             reinterpret_cast<Out*>(block_.out + at * block_.out_stride),
                             {batch.alpha[i], batch.beta[i], batch.gamma[i]}};
            RowState state = batch.states[i];
            if (state == RowState::good) {
                rows_[good_++] = row;
                if (block_.stream) prefetch_ends(row.out);
            } else {
                state = write_again(batch, i, row);
                if (state != RowState::good) block_.bad.add(block_.in.first + at, state);
            }
            if (block_.flags) block_.flags[block_.in.first + at] = static_cast<uint8_t>(state);
        }
        together_ = !block_.stream || block_.out_stride * batch.step % cache_line == 0;
    }
    void write() {
        const auto writer = prepared<Writer<In, Out, Real, sums>>(good_);
        constexpr int N = rows_of_writer;
        const bool one_by_one = block_.stream && block_.out_stride % page == 0;
        int i = 0;
        for (; together_ && !one_by_one && i + N <= good_; i += N) writer.template write<N>(rows_ + i, block_.stream);
        for (; i < good_; ++i) writer.template write<1>(rows_ + i, block_.stream);
        good_ = 0;
    }

    template <typename W>
    W prepared(int rows) {
        if constexpr (sums) make_room(block_.sums, stored_weight * rows, d_);
        if constexpr (W::natural_integers || W::even_odd_integers) make_room_for_integers(block_.sums, rows, d_);
        if constexpr (W::even_odd_integers) block_.sums.even_odd = true;
        return W(block_);
    }

    // A row whose digits are lost in the arithmetic of the others: in float64, or by the slow path.
    FR_NOINLINE RowState write_again(Batch<In>& batch, int i, Row<In, Out>& row) {
        if constexpr (!std::is_same_v<Real, double>) {
            if constexpr (narrow) wide_dots_of_row(batch, i, block_.vectors, d_);
            if (row_coefficients(float64_map_, {batch.p[i], batch.q[i], batch.r[i]}, row.k) == RowState::good) {
                widen_row(row.x, d_, block_.scratch);
                if constexpr (sums) make_room(block_.sums, stored_weight, d_);
                write_float64<Out, sums>(block_, {row.i, block_.scratch, row.out, row.k});
                return RowState::good;
            }
        }
        // A row without a direction is stored unchanged; the caller decides what to do with it.
        const RowState state = slow_path(*block_.map, block_.vectors, row.x, d_, block_.scratch);
        for (int64_t j = 0; j < d_; ++j) {
            In input;
            memcpy(&input, row.x + j, sizeof input);
            const Out value = from_double<Out>(state == RowState::good ? block_.scratch[j] : to_double(input));
            memcpy(row.out + j, &value, sizeof value);
            if (sums && state == RowState::good) block_.scratch[j] = to_double(value);
        }
        if (sums && state == RowState::good) add_finished(block_.sums, block_.scratch, d_);
        return state;
    }

    ApplyBlock& block_;
    int64_t d_;
    RowMap float64_map_;
    Row<In, Out> rows_[batch_rows];  // that are to be written
    int good_ = 0;                   // how many
    bool together_ = false;          // whether they lie equally in their cache lines
};

template <typename In, typename Out>
void apply(ApplyBlock& block) {
    block.sums.accumulators ? Applier<In, Out, true>(block).run() : Applier<In, Out, false>(block).run();
}

}  // namespace

const ApplyKernel apply_kernels[dtype_count][dtype_count] = {
    {apply<float, float>, apply<float, Half>, apply<float, BFloat>, apply<float, double>},
    {apply<Half, float>, apply<Half, Half>, apply<Half, BFloat>, apply<Half, double>},
    {apply<BFloat, float>, apply<BFloat, Half>, apply<BFloat, BFloat>, apply<BFloat, double>},
    {apply<double, float>, apply<double, Half>, apply<double, BFloat>, apply<double, double>},
};

}  // namespace FR_ISA
}  // namespace fastrealign
