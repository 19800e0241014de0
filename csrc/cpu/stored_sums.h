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
constexpr bool has_even_odd_sums = false;
template <int N>
using EvenOddSums = NoSums;

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
#else
// bfloat16 with AVX2: vectors that are computed as even and odd columns, and integers in that order. Other vectors take
// too many shuffles to be faster than in float64. A vector with an entry below `smallest_integer`, zero included, is
// added in float64 here too. Without the sign, bit patterns are in the order of magnitudes.
constexpr bool has_even_odd_sums = true;
template <int N>
class EvenOddSums {
 public:
    FR_INLINE EvenOddSums(const SumsAddresses& sums, int64_t j)
        : sums_(sums), j_(j), sum_(load_i16(sums.integers + j)), smallest_(_mm256_set1_epi16(0x7fff)) {}
    FR_INLINE void add(int k, __m256i stored) {
        stored_[k] = stored;
        smallest_ = _mm256_min_epu16(smallest_, _mm256_and_si256(stored, _mm256_set1_epi16(0x7fff)));
        const F16 steps = mul(splat16(static_cast<float>(1.0 / integer_step)), widen_even_odd(stored));
        sum_ = FR_ISA::add(sum_, to_i16(steps));
    }
    FR_INLINE void put_back() const {
        const __m256i below = _mm256_cmpgt_epi16(_mm256_set1_epi16(smallest_integer_bits), smallest_);
        if (__builtin_expect(!_mm256_testz_si256(below, below), false)) {
            Float64Sums<BFloat, sixteen> wide(sums_, j_);
            for (int k = 0; k < N; ++k) wide.add(k, stored_[k]);
            return wide.put_back();
        }
        put(sums_.integers + j_, sum_);
    }

 private:
    static constexpr int16_t smallest_integer_bits = (127 - 17) << 7;  // of a bfloat16
    static_assert(smallest_integer == 0x1p-17f);
    const SumsAddresses& sums_;
    int64_t j_;
    I16 sum_;
    __m256i smallest_, stored_[N];
};
#endif

#else

template <typename Out>
constexpr bool has_integer_sums = false;
constexpr bool has_even_odd_sums = false;
template <int N>
using EvenOddSums = NoSums;

template <typename Out, int N>
using IntegerSums = Float64Sums<Out, sixteen>;

#endif

}  // namespace FR_ISA
}  // namespace fastrealign
