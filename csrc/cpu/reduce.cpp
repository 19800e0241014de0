// reduce: add f(y; s, b, c) over rows, exactly; nothing is stored. Compiled once for each instruction set (FR_ISA).
//
// Bytes: each row is read once, in order. Arithmetic is float64 throughout, so that the statistics do not depend on
// float32 rounding. Rows are added in groups, which share the loads and stores of the sums. Adding a group is
// interleaved with the dot products of the next rows, so that loads never stop.
#include <type_traits>

#include "dots.h"

namespace fastrealign {
namespace FR_ISA {
namespace {

// Rows of 16-bit elements are converted to float32 once, into a buffer that stays in the cache: both passes over a row
// need float64, and the conversion from float32 in memory is the cheapest.
template <typename T>
using Unpacked = std::conditional_t<sizeof(T) == 2, float, T>;

// Up to R good rows and their coefficients.
template <typename T, int R>
struct Group {
    const Unpacked<T>* rows[R];
    Coefficients k[R];
    int size = 0;
};

template <typename T, Terms terms, int R>
class Adder {
 public:
    using U = Unpacked<T>;

    Adder(const MapVectors& vectors, uint64_t* bits, int64_t d)
        : b_(vectors.b), c_(vectors.c), bits_(bits), d_(d), whole_(d / lanes * lanes), column_(whole_) {}

    FR_INLINE void begin(const Group<T, R>& group) {
        FR_UNROLL
        for (int i = 0; i < R; ++i) {
            rows_[i] = group.rows[i];
            alpha_[i] = splat(group.k[i].alpha);
            beta_[i] = splat(group.k[i].beta);
            gamma_[i] = splat(group.k[i].gamma);
        }
        column_ = 0;
        tail_ = whole_ < d_;
    }
    FR_INLINE bool unfinished() const { return column_ < whole_; }
    // Adds the next eight columns of the group.
    FR_INLINE void advance() {
        add([&](int i) FR_LAMBDA { return load_d8(rows_[i] + column_); });
        column_ += lanes;
    }
    void finish() {
        while (unfinished()) advance();
        if (tail_)
            add([&](int i)
                    FR_LAMBDA { return load_partial<double>(rows_[i] + whole_, static_cast<int>(d_ - whole_)); });
        tail_ = false;
    }

 private:
    template <typename Load>
    FR_INLINE void add(Load load) {
        uint64_t* bits = bits_ + column_;
        I8 sum = load_i8(bits);
        FR_UNROLL
        for (int i = 0; i < R; ++i) {
            if constexpr (terms == Terms::none) {
                sum = add_bits(sum, fma(alpha_[i], load(i), splat(rounding_offset)));
            } else {
                D8 shift = mul(beta_[i], load_d8(b_ + column_));
                if constexpr (terms == Terms::bc) shift = fma(gamma_[i], load_d8(c_ + column_), shift);
                sum = add_bits(sum, FR_ISA::add(fma(alpha_[i], load(i), shift), splat(rounding_offset)));
            }
        }
        put(bits, sum);
    }

    const double* b_;
    const double* c_;
    uint64_t* bits_;
    int64_t d_, whole_, column_;
    bool tail_ = false;
    const U* rows_[R];
    S8 alpha_[R], beta_[R], gamma_[R];
};

// The dot products of one row (and its elements as float32 in `buffer` where they are 16-bit), interleaved with the
// work of `adder`, which is copied in and out so that its coefficients stay in registers.
template <typename T, Terms terms, int R>
Dots interleaved_dots(const T* row, const char* ahead, Unpacked<T>* buffer, int64_t d, const MapVectors& vectors,
                      Adder<T, terms, R>& adder) {
    WideDots<terms> dots(vectors);
    const auto take = [&](int64_t j, auto set) FR_LAMBDA {
        constexpr int n = decltype(set)::value;
        if constexpr (sizeof(T) == 2) {
            const F8 x = load_f8(row + j);
            put(buffer + j, narrow(x, float{}));
            dots.template add<n>(j, to_d8(x));
        } else {
            dots.template add<n>(j, load_d8(row + j));
        }
    };
    constexpr std::integral_constant<int, 0> even{};
    constexpr std::integral_constant<int, 1> odd{};
    static_assert(R % 2 == 0);
    constexpr int64_t stride = R * lanes;
    const int64_t whole = d / lanes * lanes;
    int64_t j = 0;
    if (adder.unfinished()) {
        Adder<T, terms, R> local = adder;
        for (; j + stride <= whole && local.unfinished(); j += stride) {
            prefetch<stride* static_cast<int>(sizeof(T))>(ahead + j * static_cast<int64_t>(sizeof(T)));
            FR_UNROLL
            for (int i = 0; i < R; i += 2) {
                take(j + i * lanes, even);
                take(j + (i + 1) * lanes, odd);
            }
            local.advance();
        }
        adder = local;
    }
    for (; j + 2 * lanes <= whole; j += 2 * lanes) {
        prefetch<2 * lanes* static_cast<int>(sizeof(T))>(ahead + j * static_cast<int64_t>(sizeof(T)));
        take(j, even);
        take(j + lanes, odd);
    }
    for (; j < whole; j += lanes) take(j, even);
    if (j < d) {
        const D8 last = load_partial<double>(row + j, static_cast<int>(d - j));
        if constexpr (sizeof(T) == 2) {
            put(buffer + j, narrow(load_partial<float>(row + j, static_cast<int>(d - j)), float{}));
        }
        dots.template add<1>(j, last);
    }
    return dots.result();
}

template <typename T, Terms terms, int R>
void reduce_rows(ReduceBlock& block) {
    const int64_t d = block.in.d;
    const int64_t width = (d + lanes - 1) / lanes * lanes;
    Adder<T, terms, R> adder(block.vectors, block.sums.bits, d);
    Group<T, R> group;
    int half = 0;  // of the buffer: one half is being added, the other one filled
    static_assert(2 * R <= max_rows_unpacked);

    for (int64_t i = 0; i < block.in.count; ++i) {
        const T* row = reinterpret_cast<const T*>(block.in.data + i * block.in.stride);
        const Unpacked<T>* unpacked;
        Unpacked<T>* slot = nullptr;
        if constexpr (sizeof(T) == 2) {
            unpacked = slot = block.unpacked + (half * R + group.size) * width;
        } else {
            unpacked = row;
        }
        const Dots dots = interleaved_dots(row, ahead_of(row, block.in), slot, d, block.vectors, adder);
        RowState state = row_coefficients(*block.map, dots, group.k[group.size]);
        if (state == RowState::good) {
            group.rows[group.size] = unpacked;
            if (++group.size == R) {
                adder.finish();
                adder.begin(group);
                group.size = 0;
                half ^= 1;
            }
        } else {
            state = slow_path(*block.map, block.vectors, row, d, block.scratch);
            if (state == RowState::good) {
                for (int64_t j = 0; j < d; ++j) block.sums.bits[j] += sum_bits(block.scratch[j]);
            } else {
                block.bad.add(block.in.first + i, state);
            }
        }
        if (block.flags) block.flags[block.in.first + i] = static_cast<uint8_t>(state);
    }
    adder.finish();
    Adder<T, terms, 1> single(block.vectors, block.sums.bits, d);
    for (int i = 0; i < group.size; ++i) {
        Group<T, 1> one;
        one.rows[0] = group.rows[i];
        one.k[0] = group.k[i];
        single.begin(one);
        single.finish();
    }
    block.sums.rows += block.in.count - block.bad.count;
}

template <typename T>
void reduce(ReduceBlock& block) {
    switch (block.map->terms) {
        case Terms::none:
            return reduce_rows<T, Terms::none, sizeof(T) == 2 ? 2 : 4>(block);
        case Terms::b:
            return reduce_rows<T, Terms::b, 2>(block);
        case Terms::bc:
            return reduce_rows<T, Terms::bc, 2>(block);
    }
}

}  // namespace

const ReduceKernel reduce_kernels[dtype_count] = {reduce<float>, reduce<Half>, reduce<BFloat>, reduce<double>};

}  // namespace FR_ISA
}  // namespace fastrealign
