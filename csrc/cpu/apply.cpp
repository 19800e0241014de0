// apply: store f(y; s, b, c) and, on request, sum the stored rows. Compiled once for each instruction set (FR_ISA).
//
// Bytes: each row is read once and written once, in order: a batch of eight rows is read from memory for the dot
// products, and from the cache to be written. An output that does not fit in the cache is written with non-temporal
// stores of whole cache lines, which saves the read for ownership of an ordinary store.
//
// Arithmetic: an entry is a sum of three products, in float64 where input or output is float64, else in float32. The
// dot products are float64 too, unless both input and output are 16-bit: in float32 a row with one large entry loses
// its small ones, an error of up to 7e-7.
#include <algorithm>
#include <type_traits>

#include "dots.h"

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

// Writes good rows, alpha x + beta b + gamma c, and sums what it stores.
template <typename In, typename Out, typename Real, bool sums>
class Writer {
    using A = Arithmetic<Real>;
    using Vector = typename A::Vector;
    using Scalar = typename A::Scalar;
    static constexpr int columns = A::columns;
    // Whether whole groups of sixteen are taken as even and odd columns.
    static constexpr bool may_pair = std::is_same_v<In, BFloat> && std::is_same_v<Out, BFloat> && columns == sixteen;

 public:
    Writer(const ApplyBlock& block, const Batch<In>& batch)
        : batch_(batch), vectors_(block.vectors), sums_(block.sums.accumulators), d_(block.in.d) {}

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

 private:
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
        const In* x[N];
        Out* out[N];
        Scalar alpha[N], beta[N], gamma[N];
        FR_UNROLL
        for (int k = 0; k < N; ++k) {
            x[k] = rows[k].x;
            out[k] = rows[k].out;
            alpha[k] = A::splat(rows[k].k.alpha);
            beta[k] = A::splat(rows[k].k.beta);
            gamma[k] = A::splat(rows[k].k.gamma);
        }
        for (int64_t j = from; j < to; j += columns) {
            const auto vector = [&](auto natural, const float* even_odd) FR_LAMBDA {
                if constexpr (paired) {
                    return A::load(even_odd + j);
                } else {
                    return A::load(natural + j);
                }
            };
            const Vector b = vector(A::b(vectors_), vectors_.b_even_odd);
            const Vector c = vector(A::c(vectors_), vectors_.c_even_odd);
            D8 sum[columns / lanes];
            if constexpr (sums) {
                FR_UNROLL
                for (int i = 0; i < columns / lanes; ++i) sum[i] = load_d8(sums_ + j + i * lanes);
            }
            if ((j - from) % Batch<In>::line == 0) batch_.template prefetch<N>(1, rows->i, j);
            FR_UNROLL
            for (int k = 0; k < N; ++k) {
                if constexpr (paired) {
                    store<streamed>(out[k] + j,
                                    narrow_even_odd(mapped(alpha[k], beta[k], gamma[k], load_even_odd(x[k] + j), b, c)),
                                    sum);
                } else {
                    store<streamed>(out[k] + j,
                                    narrow_to<Out>(mapped(alpha[k], beta[k], gamma[k], A::load(x[k] + j), b, c)), sum);
                }
            }
            if constexpr (sums) {
                FR_UNROLL
                for (int i = 0; i < columns / lanes; ++i) put(sums_ + j + i * lanes, sum[i]);
            }
        }
    }
    template <bool streamed, typename V>
    FR_INLINE void store(Out* to, const V& stored, D8* sum) const {
        if constexpr (streamed) {
            stream(to, stored);
        } else {
            put(to, stored);
        }
        if constexpr (sums) add(stored, sum);
    }
    template <typename V>
    FR_INLINE static void add(const V& stored, D8* sum) {
        const auto scale = FR_ISA::splat(stored_scale);
        if constexpr (columns == sixteen) {
            sum[0] = fma(scale, to_d8(widen(first_eight(stored), Out{})), sum[0]);
            sum[1] = fma(scale, to_d8(widen(last_eight(stored), Out{})), sum[1]);
        } else {
            sum[0] = fma(scale, to_d8(widen(stored, Out{})), sum[0]);
        }
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
                D8 sum[columns / lanes];
                for (int i = 0; i < columns / lanes; ++i) sum[i] = load_d8(sums_ + j + i * lanes);
                add(stored, sum);
                for (int i = 0; i < columns / lanes; ++i) put(sums_ + j + i * lanes, sum[i]);
            }
        }
    }

    const Batch<In>& batch_;
    MapVectors vectors_;
    double* sums_;
    int64_t d_;
};

// Rows that are written side by side. Measured: more are no faster, and eight streams of half cache lines halve the
// speed.
constexpr int rows_of_writer = 2;

template <typename In, typename Out, bool sums>
class Applier {
    using Real = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>, double, float>;
    static constexpr bool narrow = sizeof(In) == 2 && sizeof(Out) == 2;

 public:
    explicit Applier(ApplyBlock& block) : block_(block), d_(block.in.d), float64_map_(*block.map) {
        float64_map_.cancelled_below = float64_throughout.cancelled_below;
        float64_map_.largest_b = float64_map_.largest_c = float64_map_.largest_shift = 0.0;
    }

    void run() {
        over_batches<In>(block_.in, [&](Batch<In>& batch) {
            if constexpr (narrow) {
                narrow_dots(batch, block_.vectors, d_);
            } else {
                wide_dots<Terms::bc>(batch, block_.vectors, d_);
            }
            batch.find_coefficients(*block_.map);
            write(batch);
        });
        if (block_.stream) finish_streaming();
    }

 private:
    void write(Batch<In>& batch) {
        Row<In, Out> rows[batch_rows];
        int good = 0;
        for (int i = 0; i < batch.size; ++i) {
            const int64_t at = batch.index(i);
            Row<In, Out> row{i,
                             batch.rows[i],
                             reinterpret_cast<Out*>(block_.out + at * block_.out_stride),
                             {batch.alpha[i], batch.beta[i], batch.gamma[i]}};
            RowState state = batch.states[i];
            if (state == RowState::good) {
                rows[good++] = row;
            } else {
                state = write_again(batch, i, row);
                if (state != RowState::good) block_.bad.add(block_.in.first + at, state);
            }
            if (block_.flags) block_.flags[block_.in.first + at] = static_cast<uint8_t>(state);
        }
        if constexpr (sums) make_room(block_.sums, stored_weight * good, d_);
        const Writer<In, Out, Real, sums> writer(block_, batch);
        constexpr int N = rows_of_writer;
        const bool together = !block_.stream || block_.out_stride * batch.step % cache_line == 0;
        int i = 0;
        for (; together && i + N <= good; i += N) writer.template write<N>(rows + i, block_.stream);
        for (; i < good; ++i) writer.template write<1>(rows + i, block_.stream);
    }

    // A row whose digits are lost in the arithmetic of the others: in float64, or by the slow path.
    RowState write_again(Batch<In>& batch, int i, Row<In, Out>& row) {
        if constexpr (!std::is_same_v<Real, double>) {
            if constexpr (narrow) wide_dots_of<Terms::bc, 1>(batch, i, block_.vectors, d_);
            if (row_coefficients(float64_map_, {batch.p[i], batch.q[i], batch.r[i]}, row.k) == RowState::good) {
                if constexpr (sums) make_room(block_.sums, stored_weight, d_);
                Writer<In, Out, double, sums>(block_, batch).template write<1>(&row, false);
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
