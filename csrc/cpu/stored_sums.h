// The sums of rows as `apply` stores them, for one vector of columns: read once, added to for N rows, written once.
//
// In float64 a value takes a conversion and a fused multiply-add for eight columns (exact_sum.h). With AVX-512, 16-bit
// results are added as integers first: a multiplication, a conversion and an addition for sixteen.
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

#if defined(FR_512)

constexpr bool has_integer_sums = true;

// A bfloat16 below `smallest_integer`, zero included, may be no whole number of steps: its vectors are added in float64
// instead, those of all N rows.
template <typename Out, int N>
class IntegerSums {
 public:
    FR_INLINE IntegerSums(const SumsAddresses& sums, int64_t j)
        : sums_(sums), j_(j), sum_(load_i16(sums.integers + j)), smallest_(splat16(1.0f)) {}
    template <typename V>
    FR_INLINE void add(int k, const V& stored) {
        const F16 value = widen_f16(stored, Out{});
        if constexpr (std::is_same_v<Out, BFloat>) {
            stored_[k] = stored;
            smallest_ = smaller_magnitude(smallest_, value);
        }
        const F16 steps = mul(splat16(static_cast<float>(1.0 / integer_step)), value);
        sum_ = FR_ISA::add(sum_, to_i16(steps));
    }
    FR_INLINE void put_back() const {
        if constexpr (std::is_same_v<Out, BFloat>) {
            if (__builtin_expect(any_below(smallest_, smallest_integer), false)) {
                Float64Sums<Out, sixteen> wide(sums_, j_);
                for (int k = 0; k < N; ++k) wide.add(k, stored_[k]);
                return wide.put_back();
            }
        }
        put(sums_.integers + j_, sum_);
    }

 private:
    const SumsAddresses& sums_;
    int64_t j_;
    I16 sum_;
    F16 smallest_;
    __m256i stored_[N];
};

#else

constexpr bool has_integer_sums = false;

template <typename Out, int N>
using IntegerSums = Float64Sums<Out, sixteen>;

#endif

}  // namespace FR_ISA
}  // namespace fastrealign
