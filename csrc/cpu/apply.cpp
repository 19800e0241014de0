// apply: store f(y; s, b, c) and, on request, sum the stored rows. Compiled once for each instruction set (FR_ISA).
//
// Bytes: each row is read once and written once, in order. An output that does not fit in the cache is written with
// non-temporal stores of whole cache lines, which saves the read for ownership of an ordinary store. Writing a row is
// interleaved with the dot products of the next one, so that loads and stores overlap.
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

constexpr int64_t step = 2 * lanes;  // columns per step: two vectors

template <typename In, typename Out>
using Real = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>, double, float>;
// Whether whole steps are taken as even and odd columns.
template <typename In, typename Out, typename R>
constexpr bool even_odd = std::is_same_v<In, BFloat> && std::is_same_v<Out, BFloat> && std::is_same_v<R, float>;

// Writes one good row, alpha x + beta b + gamma c, column by column, and sums what it stores.
template <typename In, typename Out, typename R, bool sums>
class RowWriter {
 public:
    using Vector = typename Pack<R>::type;

    RowWriter(const ApplyBlock& block)
        : vectors_(block.vectors),
          b_(b_of(block.vectors, R{})),
          c_(c_of(block.vectors, R{})),
          sums_(block.sums.accumulators),
          d_(block.in.d),
          column_(d_) {}

    // Writes the columns before the first whole cache line; `advance` and `finish` write the others.
    void begin(const In* x, Out* out, const Coefficients& k, bool non_temporal) {
        x_ = x;
        out_ = out;
        alpha_ = splat(static_cast<R>(k.alpha));
        beta_ = splat(static_cast<R>(k.beta));
        gamma_ = splat(static_cast<R>(k.gamma));
        const int64_t misalignment = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % cache_line);
        const int64_t head = misalignment == 0 ? 0 : (cache_line - misalignment) / static_cast<int64_t>(sizeof(Out));
        constexpr int64_t line_columns = cache_line / static_cast<int64_t>(sizeof(Out));
        const bool whole_lines =
            non_temporal && misalignment % static_cast<int64_t>(sizeof(Out)) == 0 && d_ >= head + line_columns;
        column_ = 0;
        if (whole_lines) write_cached(head);
        constexpr int64_t unit = std::max(line_columns, step);  // whole steps of whole cache lines
        end_ = whole_lines ? column_ + (d_ - column_) / unit * unit : d_ / step * step;
        streamed_ = whole_lines;
        in_groups_ = column_ % step == 0;
    }
    FR_INLINE bool unfinished() const { return column_ < end_; }
    template <bool streamed>
    FR_INLINE void advance() {
        if (even_odd<In, Out, R> && in_groups_) {
            write_sixteen<streamed>(column_);
        } else {
            write_eight<streamed>(column_);
            write_eight<streamed>(column_ + lanes);
        }
        column_ += step;
    }
    bool streamed() const { return streamed_; }
    void finish() {
        if (streamed_) {
            while (unfinished()) advance<true>();
        }
        write_cached(d_);
        end_ = column_;
    }

 private:
    static const double* b_of(const MapVectors& v, double) { return v.b; }
    static const float* b_of(const MapVectors& v, float) { return v.b32; }
    static const double* c_of(const MapVectors& v, double) { return v.c; }
    static const float* c_of(const MapVectors& v, float) { return v.c32; }

    FR_INLINE Vector mapped(Vector x, Vector b, Vector c) const {
        return fma(alpha_, x, fma(beta_, b, mul(gamma_, c)));
    }
    FR_INLINE auto value(Vector x, Vector b, Vector c) const { return narrow_to<Out>(mapped(x, b, c)); }

    template <typename V>
    FR_INLINE D8 accumulated(const double* sum, V stored) const {
        return fma(splat(stored_scale), to_d8(widen(stored, Out{})), load_d8(sum));
    }
    template <bool streamed, typename V>
    FR_INLINE void store(int64_t j, const V& stored) const {
        if constexpr (streamed) {
            stream(out_ + j, stored);
        } else {
            put(out_ + j, stored);
        }
    }
    template <bool streamed>
    FR_INLINE void write_eight(int64_t j) const {
        const auto stored = value(Pack<R>::load(x_ + j), Pack<R>::load(b_ + j), Pack<R>::load(c_ + j));
        store<streamed>(j, stored);
        if constexpr (sums) put(sums_ + j, accumulated(sums_ + j, stored));
    }
    template <bool streamed>
    FR_INLINE void write_sixteen(int64_t j) const {
        if constexpr (even_odd<In, Out, R>) {
            const float* b = vectors_.b_even_odd + j;
            const float* c = vectors_.c_even_odd + j;
            const auto stored = narrow_even_odd(mapped(load_even(x_ + j), load_f8(b), load_f8(c)),
                                                mapped(load_odd(x_ + j), load_f8(b + lanes), load_f8(c + lanes)));
            store<streamed>(j, stored);
            if constexpr (sums) {
                put(sums_ + j, accumulated(sums_ + j, first_eight(stored)));
                put(sums_ + j + lanes, accumulated(sums_ + j + lanes, last_eight(stored)));
            }
        }
    }
    void write_cached(int64_t to) {
        for (; column_ + lanes <= to; column_ += lanes) write_eight<false>(column_);
        const int count = static_cast<int>(to - column_);
        if (count <= 0) return;
        // Fewer than eight: the columns after them must be neither read nor summed.
        const int64_t j = column_;
        const auto stored =
            value(load_partial<R>(x_ + j, count), load_partial<R>(b_ + j, count), load_partial<R>(c_ + j, count));
        put_partial(out_ + j, stored, count);
        if constexpr (sums) {
            put(sums_ + j, accumulated(sums_ + j, stored));  // padded, and the values after the row are zeros
        }
        column_ = to;
    }

    MapVectors vectors_;
    const R* b_;
    const R* c_;
    double* sums_;
    int64_t d_;
    int64_t column_, end_ = 0;  // the next column, and the end of the whole steps
    const In* x_ = nullptr;
    Out* out_ = nullptr;
    typename Pack<R>::Scalar alpha_, beta_, gamma_;
    bool streamed_ = false;
    bool in_groups_ = false;  // steps coincide with the groups of sixteen of the even-odd vectors
};

// The dot products of one row, interleaved with writing the row before it.
template <typename Sums, bool pairs, bool streamed, typename In, typename Writer>
Dots interleaved_dots(const In* row, const char* ahead, int64_t d, const MapVectors& vectors, Writer& writer) {
    Sums dots(vectors);
    using R = typename Sums::Real;
    const auto add = [&](int64_t j) FR_LAMBDA {
        prefetch<step* static_cast<int>(sizeof(In)), in_first_cache>(ahead + j * static_cast<int64_t>(sizeof(In)));
        if constexpr (pairs) {
            dots.template add<0>(j, load_even(row + j));
            dots.template add<1>(j + lanes, load_odd(row + j));
        } else {
            dots.template add<0>(j, Pack<R>::load(row + j));
            dots.template add<1>(j + lanes, Pack<R>::load(row + j + lanes));
        }
    };
    // A local copy, so that its coefficients stay in registers: a store through `out` may alias the original.
    Writer local = writer;
    for (int64_t from = 0; from < d; from += dots_chunk) {
        const int64_t to = std::min(d, from + dots_chunk);
        int64_t j = from;
        for (; j + step <= to && local.unfinished(); j += step) {
            add(j);
            local.template advance<streamed>();
        }
        for (; j + step <= to; j += step) add(j);
        if (j + lanes <= to) {
            dots.template add<0>(j, Pack<R>::load(row + j));
            j += lanes;
        }
        if (j < to) dots.template add<1>(j, load_partial<R>(row + j, static_cast<int>(to - j)));
        dots.widen_sums();
    }
    writer = local;
    return dots.result();
}

// The coefficients of one row from float64 dot products.
template <typename In>
RowState float64_coefficients(const RowMap& map, const MapVectors& vectors, const In* row, int64_t d, Coefficients& k) {
    WideDots dots(vectors);
    int64_t j = 0;
    for (; j + lanes <= d; j += lanes) dots.template add<0>(j, load_d8(row + j));
    if (j < d) dots.template add<0>(j, load_partial<double>(row + j, static_cast<int>(d - j)));
    return row_coefficients(map, dots.result(), k);
}

template <typename In, typename Out, bool sums>
void apply_rows(ApplyBlock& block) {
    using R = Real<In, Out>;
    constexpr bool pairs = even_odd<In, Out, R>;
    using Sums = std::conditional_t<sizeof(In) == 2 && sizeof(Out) == 2, NarrowDots<pairs>, WideDots>;
    const int64_t d = block.in.d;
    RowMap float64_map = *block.map;
    float64_map.cancelled_below = float64_throughout.cancelled_below;
    float64_map.largest_b = float64_map.largest_c = float64_map.largest_shift = 0.0;
    RowWriter<In, Out, R, sums> writer(block);
    for (int64_t i = 0; i < block.in.count; ++i) {
        const In* row = reinterpret_cast<const In*>(block.in.data + i * block.in.stride);
        Out* out = reinterpret_cast<Out*>(block.out + i * block.out_stride);
        const char* ahead = ahead_of(row, block.in);
        const Dots dots = writer.streamed()
                              ? interleaved_dots<Sums, pairs, true>(row, ahead, d, block.vectors, writer)
                              : interleaved_dots<Sums, pairs, false>(row, ahead, d, block.vectors, writer);
        writer.finish();
        Coefficients k;
        RowState state = row_coefficients(*block.map, dots, k);
        if constexpr (sums) make_room(block.sums, stored_weight, d);
        if (state == RowState::good) {
            writer.begin(row, out, k, block.stream);
        } else if (!std::is_same_v<R, double> &&
                   float64_coefficients(float64_map, block.vectors, row, d, k) == RowState::good) {
            state = RowState::good;
            RowWriter<In, Out, double, sums> float64_writer(block);
            float64_writer.begin(row, out, k, false);
            float64_writer.finish();
        } else {
            // A row without a direction is stored unchanged; the caller decides what to do with it.
            state = slow_path(*block.map, block.vectors, row, d, block.scratch);
            for (int64_t j = 0; j < d; ++j) {
                In input;
                memcpy(&input, row + j, sizeof input);
                const Out value = from_double<Out>(state == RowState::good ? block.scratch[j] : to_double(input));
                memcpy(out + j, &value, sizeof value);
                if (sums && state == RowState::good) block.scratch[j] = to_double(value);
            }
            if (sums && state == RowState::good) add_finished(block.sums, block.scratch, d);
        }
        if (state != RowState::good) block.bad.add(block.in.first + i, state);
        if (block.flags) block.flags[block.in.first + i] = static_cast<uint8_t>(state);
    }
    writer.finish();
    if (block.stream) finish_streaming();
}

template <typename In, typename Out>
void apply(ApplyBlock& block) {
    block.sums.accumulators ? apply_rows<In, Out, true>(block) : apply_rows<In, Out, false>(block);
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
