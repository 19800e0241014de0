// apply: store f(y; s, b, c), and if asked add up what was stored. Compiled once for each instruction set (FR_ISA).
//
// Bytes: each row is read once and written once, in order; where the output does not fit in the cache it is written
// past it, in whole 64-byte lines, which saves the read that an ordinary store begins with. While one row is written,
// the dot products of the next are taken, so that reading and writing never wait for each other.
//
// Arithmetic: an entry is one sum of three float32 products, or float64 ones where one side is float64. The dot
// products are float64 too, unless both sides are 16-bit: in float32 a row with one large entry loses its small ones,
// and up to 7e-7.
#include <algorithm>
#include <type_traits>

#include "dots.h"

namespace fastrealign {
namespace FR_ISA {
namespace {

constexpr int64_t line = 64;
constexpr int64_t step = 2 * lanes;  // columns a turn: two groups of eight

template <typename In, typename Out>
using Real = std::conditional_t<std::is_same_v<In, double> || std::is_same_v<Out, double>, double, float>;
// Whether whole turns are taken as even and odd columns.
template <typename In, typename Out, typename R>
constexpr bool even_odd = std::is_same_v<In, BFloat> && std::is_same_v<Out, BFloat> && std::is_same_v<R, float>;

// One good row on its way out: alpha x + beta b + gamma c, column by column, and the sums of what was stored.
template <typename In, typename Out, typename R, bool sums>
class RowWriter {
 public:
    using Vector = typename Pack<R>::type;

    RowWriter(const ApplyBlock& block)
        : vectors_(block.vectors),
          b_(pick(block.vectors, R{})),
          c_(pick_c(block.vectors, R{})),
          bits_(block.sums.bits),
          d_(block.in.d),
          column_(d_) {}

    // Writes the columns up to the first whole line; the others follow by `turn` and `finish`.
    void begin(const In* x, Out* out, const Coefficients& k, bool past_cache) {
        x_ = x;
        out_ = out;
        alpha_ = splat(static_cast<R>(k.alpha));
        beta_ = splat(static_cast<R>(k.beta));
        gamma_ = splat(static_cast<R>(k.gamma));
        const int64_t misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % line);
        const int64_t head = misplaced == 0 ? 0 : (line - misplaced) / static_cast<int64_t>(sizeof(Out));
        constexpr int64_t a_line = line / static_cast<int64_t>(sizeof(Out));
        const bool lines = past_cache && misplaced % static_cast<int64_t>(sizeof(Out)) == 0 && d_ >= head + a_line;
        column_ = 0;
        if (lines) ordinary(head);
        // Whole turns of whole lines.
        end_ = lines ? column_ + (d_ - column_) / std::max(a_line, step) * std::max(a_line, step) : d_ / step * step;
        streamed_ = lines;
        in_groups_ = column_ % step == 0;
    }
    FR_INLINE bool busy() const { return column_ < end_; }
    template <bool streamed>
    FR_INLINE void turn() {
        if (even_odd<In, Out, R> && in_groups_) {
            sixteen<streamed>(column_);
        } else {
            eight<streamed>(column_);
            eight<streamed>(column_ + lanes);
        }
        column_ += step;
    }
    bool streamed() const { return streamed_; }
    void finish() {
        if (streamed_) {
            while (busy()) turn<true>();
        }
        ordinary(d_);
        end_ = column_;
    }

 private:
    static const double* pick(const MapVectors& v, double) { return v.b; }
    static const float* pick(const MapVectors& v, float) { return v.b32; }
    static const double* pick_c(const MapVectors& v, double) { return v.c; }
    static const float* pick_c(const MapVectors& v, float) { return v.c32; }

    FR_INLINE Vector mapped(Vector x, Vector b, Vector c) const {
        return fma(alpha_, x, fma(beta_, b, mul(gamma_, c)));
    }
    FR_INLINE auto value(Vector x, Vector b, Vector c) const { return narrow_to<Out>(mapped(x, b, c)); }

    template <typename V>
    FR_INLINE I8 counted(const uint64_t* bits, V stored) const {
        return add_bits(load_i8(bits), add(to_d8(widen(stored, Out{})), splat(rounding_offset)));
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
    FR_INLINE void eight(int64_t j) const {
        const auto stored = value(Pack<R>::load(x_ + j), Pack<R>::load(b_ + j), Pack<R>::load(c_ + j));
        store<streamed>(j, stored);
        if constexpr (sums) put(bits_ + j, counted(bits_ + j, stored));
    }
    template <bool streamed>
    FR_INLINE void sixteen(int64_t j) const {
        if constexpr (even_odd<In, Out, R>) {
            const float* b = vectors_.b_even_odd + j;
            const float* c = vectors_.c_even_odd + j;
            const auto stored = narrow_even_odd(mapped(load_even(x_ + j), load_f8(b), load_f8(c)),
                                                mapped(load_odd(x_ + j), load_f8(b + lanes), load_f8(c + lanes)));
            store<streamed>(j, stored);
            if constexpr (sums) {
                put(bits_ + j, counted(bits_ + j, first_eight(stored)));
                put(bits_ + j + lanes, counted(bits_ + j + lanes, last_eight(stored)));
            }
        }
    }
    void ordinary(int64_t to) {
        for (; column_ + lanes <= to; column_ += lanes) eight<false>(column_);
        const int count = static_cast<int>(to - column_);
        if (count <= 0) return;
        // Fewer than eight: the columns behind them must neither be read nor counted.
        const int64_t j = column_;
        const auto stored =
            value(load_some<R>(x_ + j, count), load_some<R>(b_ + j, count), load_some<R>(c_ + j, count));
        put_some(out_ + j, stored, count);
        if constexpr (sums) {
            uint64_t all[lanes];
            memcpy(all, bits_ + j, static_cast<size_t>(count) * sizeof(uint64_t));
            std::fill(all + count, all + lanes, 0);
            put(all, counted(all, stored));
            memcpy(bits_ + j, all, static_cast<size_t>(count) * sizeof(uint64_t));
        }
        column_ = to;
    }

    MapVectors vectors_;
    const R* b_;
    const R* c_;
    uint64_t* bits_;
    int64_t d_;
    int64_t column_, end_ = 0;  // the next column, and where the turns end
    const In* x_ = nullptr;
    Out* out_ = nullptr;
    typename Pack<R>::Scalar alpha_, beta_, gamma_;
    bool streamed_ = false;
    bool in_groups_ = false;  // turns begin where the groups of sixteen of the even-odd vectors do
};

// The dot products of one row; meanwhile the row before goes on its way out.
template <typename Sums, bool pairs, bool streamed, typename In, typename Writer>
Dots dots_meanwhile(const In* row, const char* ahead, int64_t d, const MapVectors& vectors, Writer& writer) {
    Sums dots(vectors);
    using R = typename Sums::Real;
    const auto turn = [&](int64_t j) FR_LAMBDA {
        fetch<step* static_cast<int>(sizeof(In))>(ahead + j * static_cast<int64_t>(sizeof(In)));
        if constexpr (pairs) {
            dots.template add<0>(j, load_even(row + j));
            dots.template add<1>(j + lanes, load_odd(row + j));
        } else {
            dots.template add<0>(j, Pack<R>::load(row + j));
            dots.template add<1>(j + lanes, Pack<R>::load(row + j + lanes));
        }
    };
    // A copy, so that its coefficients can live in registers: a store through `out` could change them otherwise.
    Writer mine = writer;
    for (int64_t from = 0; from < d; from += dots_chunk) {
        const int64_t to = std::min(d, from + dots_chunk);
        int64_t j = from;
        for (; j + step <= to && mine.busy(); j += step) {
            turn(j);
            mine.template turn<streamed>();
        }
        for (; j + step <= to; j += step) turn(j);
        if (j + lanes <= to) {
            dots.template add<0>(j, Pack<R>::load(row + j));
            j += lanes;
        }
        if (j < to) dots.template add<1>(j, load_some<R>(row + j, static_cast<int>(to - j)));
        dots.move();
    }
    writer = mine;
    return dots.result();
}

// The coefficients of one row by float64 dot products.
template <typename In>
RowState careful_coefficients(const RowMap& map, const MapVectors& vectors, const In* row, int64_t d, Coefficients& k) {
    WideDots<Terms::bc> dots(vectors);
    int64_t j = 0;
    for (; j + lanes <= d; j += lanes) dots.template add<0>(j, load_d8(row + j));
    if (j < d) dots.template add<0>(j, load_some<double>(row + j, static_cast<int>(d - j)));
    return row_coefficients(map, dots.result(), k);
}

template <typename In, typename Out, bool sums>
void apply_rows(ApplyBlock& block) {
    using R = Real<In, Out>;
    constexpr bool pairs = even_odd<In, Out, R>;
    using Sums = std::conditional_t<sizeof(In) == 2 && sizeof(Out) == 2, NarrowDots<pairs>, WideDots<Terms::bc>>;
    const int64_t d = block.in.d;
    RowMap careful = *block.map;
    careful.cancelled_below = float64_throughout.cancelled_below;
    careful.largest_b = careful.largest_c = careful.largest_shift = 0.0;
    RowWriter<In, Out, R, sums> writer(block);
    for (int64_t i = 0; i < block.in.count; ++i) {
        const In* row = reinterpret_cast<const In*>(block.in.data + i * block.in.stride);
        Out* out = reinterpret_cast<Out*>(block.out + i * block.out_stride);
        const char* ahead = ahead_of(row, block.in);
        const Dots dots = writer.streamed() ? dots_meanwhile<Sums, pairs, true>(row, ahead, d, block.vectors, writer)
                                            : dots_meanwhile<Sums, pairs, false>(row, ahead, d, block.vectors, writer);
        writer.finish();
        Coefficients k;
        RowState state = row_coefficients(*block.map, dots, k);
        if (state == RowState::good) {
            writer.begin(row, out, k, block.stream);
        } else if (!std::is_same_v<R, double> &&
                   careful_coefficients(careful, block.vectors, row, d, k) == RowState::good) {
            state = RowState::good;
            RowWriter<In, Out, double, sums> slow(block);
            slow.begin(row, out, k, false);
            slow.finish();
        } else {
            // A row without a direction is stored as it came; the caller decides what becomes of it.
            state = long_way(*block.map, block.vectors, row, d, block.scratch);
            for (int64_t j = 0; j < d; ++j) {
                In as_read;
                memcpy(&as_read, row + j, sizeof as_read);
                const Out value = from_double<Out>(state == RowState::good ? block.scratch[j] : to_double(as_read));
                memcpy(out + j, &value, sizeof value);
                if (sums && state == RowState::good) block.sums.bits[j] += sum_bits(to_double(value));
            }
        }
        if (state == RowState::good) {
            block.sums.rows += 1;
        } else {
            block.bad.add(block.in.first + i, state);
        }
        if (block.flags) block.flags[block.in.first + i] = static_cast<uint8_t>(state);
    }
    writer.finish();
    if (block.stream) finish_streaming();
}

template <typename In, typename Out>
void apply(ApplyBlock& block) {
    block.sums.bits ? apply_rows<In, Out, true>(block) : apply_rows<In, Out, false>(block);
}

}  // namespace

const ApplyKernel apply_kernels[4][4] = {
    {apply<float, float>, apply<float, Half>, apply<float, BFloat>, apply<float, double>},
    {apply<Half, float>, apply<Half, Half>, apply<Half, BFloat>, apply<Half, double>},
    {apply<BFloat, float>, apply<BFloat, Half>, apply<BFloat, BFloat>, apply<BFloat, double>},
    {apply<double, float>, apply<double, Half>, apply<double, BFloat>, apply<double, double>},
};

}  // namespace FR_ISA
}  // namespace fastrealign
