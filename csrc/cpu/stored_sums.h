// The sums of rows as `apply` stores them, for one vector of columns: read once, added to for N rows, written once.
//
// In float64 a value takes a conversion and a fused multiply-add for eight columns, two of each with AVX2
// (exact_sum.h). 16-bit results are added as integers first, where that is faster: a multiplication, a conversion and
// an addition for as many columns as a vector has 32-bit lanes.
#pragma once

#include <type_traits>

#include "simd.h"

namespace fastrealign {
namespace FR_ISA {

struct SumsAddresses {
    double* accumulators;
    int32_t* integers;
};

struct NoSums {
    FR_INLINE NoSums(const SumsAddresses&, int64_t) {}
    template <typename V>
    FR_INLINE void add(int, const V&) {}
    FR_INLINE void put_back() const {}
};

template <typename Out, int columns>
class Float64Sums {
 public:
    FR_INLINE Float64Sums(const SumsAddresses& sums, int64_t j) : at_(sums.accumulators + j) {
        FR_UNROLL
        for (int i = 0; i < columns / lanes; ++i) sum_[i] = load_d8(at_ + i * lanes);
    }
    template <typename V>
    FR_INLINE void add(int, const V& stored) {
        const auto scale = splat(stored_scale);
        if constexpr (columns == sixteen) {
            sum_[0] = fma(scale, to_d8(widen(first_eight(stored), Out{})), sum_[0]);
            sum_[1] = fma(scale, to_d8(widen(last_eight(stored), Out{})), sum_[1]);
        } else {
            sum_[0] = fma(scale, to_d8(widen(stored, Out{})), sum_[0]);
        }
    }
    FR_INLINE void put_back() const {
        FR_UNROLL
        for (int i = 0; i < columns / lanes; ++i) put(at_ + i * lanes, sum_[i]);
    }

 private:
    double* at_;
    D8 sum_[columns / lanes];
};

#if defined(__AVX2__)

// With AVX2, bfloat16 as integers is no faster.
template <typename Out>
constexpr bool has_integer_sums = std::is_same_v<Out, Half>;

template <typename Out, int N>
class IntegerSums {
 public:
    FR_INLINE IntegerSums(const SumsAddresses& sums, int64_t j)
        : at_(sums.integers + j), sum_(load_i16(sums.integers + j)) {}
    template <typename V>
    FR_INLINE void add(int, const V& stored) {
        add(widen_f16(stored, Out{}));
    }
    FR_INLINE void add(F16 value) {
        const F16 steps = mul(splat16(static_cast<float>(1.0 / integer_step)), value);
        sum_ = FR_ISA::add(sum_, to_i16(steps));
    }
    FR_INLINE void put_back() const { put(at_, sum_); }

 private:
    int32_t* at_;
    I16 sum_;
};

#if defined(FR_512)
template <>
constexpr bool has_integer_sums<BFloat> = true;

// A bfloat16 below `smallest_integer`, zero included, may be no whole number of steps: its vectors are added in float64
// instead, those of all N rows.
template <int N>
class IntegerSums<BFloat, N> {
 public:
    FR_INLINE IntegerSums(const SumsAddresses& sums, int64_t j)
        : whole_(sums, j), sums_(sums), j_(j), smallest_(splat16(1.0f)) {}
    FR_INLINE void add(int k, __m256i stored) {
        const F16 value = widen_f16(stored, BFloat{});
        stored_[k] = stored;
        smallest_ = smaller_magnitude(smallest_, value);
        whole_.add(value);
    }
    FR_INLINE void put_back() const {
        if (__builtin_expect(any_below(smallest_, smallest_integer), false)) {
            Float64Sums<BFloat, sixteen> wide(sums_, j_);
            for (int k = 0; k < N; ++k) wide.add(k, stored_[k]);
            return wide.put_back();
        }
        whole_.put_back();
    }

 private:
    IntegerSums<Half, N> whole_;
    const SumsAddresses& sums_;
    int64_t j_;
    F16 smallest_;
    __m256i stored_[N];
};
#endif

#else

template <typename Out>
constexpr bool has_integer_sums = false;

template <typename Out, int N>
using IntegerSums = Float64Sums<Out, sixteen>;

#endif

}  // namespace FR_ISA
}  // namespace fastrealign
