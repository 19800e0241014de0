// Exact, order-independent column sums of values in [-1, 1] (host and device).
//
// Each value is rounded once to an integer number of steps of 2^-40 and added as an integer. Integer addition is
// associative and commutative, so a sum has the same bits for any split into chunks, any order of the rows, any number
// of threads or workers. Rounding costs one operation: in [2^12, 2^13) neighbouring float64 numbers are 2^-40 apart, so
// the low bits of (x + 1.5 * 2^12) are the value in steps.
//
// `reduce` needs no work per entry for b and c: the sum of f = alpha y + beta b + gamma c over rows is
//
//     sum(alpha y) + sum(beta) b + sum(gamma) c.
//
// The rows alpha y are added column by column, and beta and gamma are two more sums in steps of 2^-40. The totals have
// 88 fraction bits, 48 more than the steps: b and c are rounded once to 48 fraction bits, so sum(beta) b is an integer
// too, and the totals are the same for any split of the rows into sums of beta. A total holds 2^39 rows.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "row_map.h"

namespace fastrealign {

constexpr double rounding_offset = 0x1.8p12;
constexpr int step_fraction_bits = 40;    // of values, and of beta and gamma
constexpr int vector_fraction_bits = 48;  // of b and c
constexpr int sum_fraction_bits = step_fraction_bits + vector_fraction_bits;
constexpr uint64_t rounding_offset_bits = 0x40B8000000000000ull;

// Accumulators. A float64 that starts at the offset and stays in [2^12, 2^13) takes a value by one fused multiply-add,
// fma(alpha, y, accumulator), which rounds alpha y once to steps. That is exact and independent of the order unless
// alpha y lies half-way between two steps, where the rounding would depend on the sum so far. So the last bit of alpha
// is set (`odd`), a change of 2^-52 at most: alpha y = A m 2^e with an odd integer A >= 2^52 and an integer m;
// half-way, its lowest bit has the value 2^-41, so |alpha y| >= 2^52 2^-41 = 2^11, but no row of such a size is added.
// A value that is added as it is takes the odd factor 1 + 2^-52: half-way cases are rounded away from zero.
constexpr double stored_scale = 1.0 + 0x1p-52;

// The weight of a row bounds its absolute entries. Accumulators stay in range as long as the sum of weights since the
// last flush is at most this, which leaves room for the rounding. Rows of more than `largest_weight` are not added in
// this way but take the slow path.
constexpr double weight_before_flush = 2040.0;
constexpr double largest_weight = 128.0;
// Of a row of `apply` as stored: rounding to 16 bits may take an entry beyond 1.
constexpr double stored_weight = 1.0 + 0x1p-7;

// 16-bit results may be added as int32 in larger steps first, without rounding: every float16 is a multiple of 2^-24,
// and so is every bfloat16 of at least `smallest_integer` = 2^-17, whose 8 significant bits end at 2^-24. A result is
// at most `stored_weight`, so the sum of this number of rows stays below 2^31 steps.
constexpr double integer_step = 0x1p-24;
constexpr float smallest_integer = 0x1p-17f;
constexpr int integer_rows_before_flush = 126;
static_assert(integer_rows_before_flush * stored_weight < 0x1p31 * integer_step, "int32 would overflow");

FR_HOST_DEVICE uint64_t bits_of(double value) {
#if defined(__CUDA_ARCH__)
    return static_cast<uint64_t>(__double_as_longlong(value));
#else
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

FR_HOST_DEVICE double from_bits(uint64_t bits) {
#if defined(__CUDA_ARCH__)
    return __longlong_as_double(static_cast<long long>(bits));
#else
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

FR_HOST_DEVICE double odd(double alpha) { return from_bits(bits_of(alpha) | 1); }

// The bit pattern of one value in [-1, 1], rounded as an accumulator rounds it.
FR_HOST_DEVICE uint64_t sum_bits(double value) { return bits_of(fma(value, stored_scale, rounding_offset)); }

// The steps of an accumulator, or of one bit pattern.
FR_HOST_DEVICE int64_t sum_steps(uint64_t bits) { return static_cast<int64_t>(bits - rounding_offset_bits); }

// One value in steps.
FR_HOST_DEVICE int64_t value_steps(double value) { return sum_steps(sum_bits(value)); }

// Totals are 128-bit integers, kept in two limbs: high * 2^64 + low. Sums are modulo 2^128; the final one is in range.
using Total = unsigned __int128;

FR_HOST_DEVICE Total total_of_steps(int64_t steps) {
    return static_cast<Total>(static_cast<__int128>(steps)) << vector_fraction_bits;
}

// B b_j in a total: B a sum of beta 2^exponent in steps, and b_j as vector_steps gives it; modulo 2^128.
FR_HOST_DEVICE Total total_of_product(__int128 steps, int64_t vector_steps) {
    return static_cast<Total>(steps) * static_cast<Total>(static_cast<__int128>(vector_steps));
}

// The exponent by which b or c is divided, and beta or gamma multiplied, from its largest absolute entry: entries
// become less than 1/2, so that rounding beta to steps costs an entry at most half as much as rounding alpha y does,
// and beta stays below 2^10. Limited, so that powers of two are in range: smaller entries add nothing to a total, and
// larger ones leave no row on the fast path.
FR_HOST_DEVICE int vector_exponent(double largest) {
    if (!(largest > 0x1p-900)) return largest == 0.0 ? 0 : -900;
    return largest < 0x1p900 ? ilogb(largest) + 2 : 900;
}

// An entry of b or c, divided by 2^exponent, in steps of 2^-48. `scale` is 2^-exponent; in [2^52, 2^53) neighbouring
// float64 numbers are 1 apart.
FR_HOST_DEVICE int64_t vector_steps(double entry, double scale) {
    constexpr double offset = 0x1.8p52;
    return static_cast<int64_t>(bits_of(entry * scale * 0x1p48 + offset) - bits_of(offset));
}

FR_HOST_DEVICE void add_to_limbs(Total total, uint64_t& low, int64_t& high) {
    total += static_cast<Total>(static_cast<uint64_t>(high)) << 64 | low;
    low = static_cast<uint64_t>(total);
    high = static_cast<int64_t>(static_cast<uint64_t>(total >> 64));
}

}  // namespace fastrealign
