// Exact, order-independent column sums of values in [-1, 1] (host and device).
//
// Each value is rounded once to an integer number of steps of 2^-40 and added as an integer. Integer addition is
// associative and commutative, so a sum has the same bits for any split into chunks, any order of the rows, any number
// of threads or workers. The rounding is one float64 addition: in [2^12, 2^13) neighbouring float64 numbers are 2^-40
// apart, so the low bits of (x + 1.5 * 2^12) are the value in steps. A kernel adds these bit patterns unchanged and
// subtracts the offsets once, at the end (modulo 2^64; the true sum is in range).
//
// `reduce` needs no work per entry for b and c: the sum of f = alpha y + beta b + gamma c over rows is
//
//     sum(alpha y) + sum(beta) b + sum(gamma) c.
//
// The rows alpha y are added column by column, and beta and gamma are two more sums in steps of 2^-40. The totals have
// 88 fraction bits, 48 more than the steps: b and c are rounded once to 48 fraction bits, so sum(beta) b is an integer
// too, and the totals are the same for any split of the rows into sums of beta. A total holds 2^39 rows.
#pragma once

#include <cstdint>
#include <cstring>

#include "row_map.h"

namespace fastrealign {

constexpr double rounding_offset = 0x1.8p12;
constexpr int step_fraction_bits = 40;    // of values, and of beta and gamma
constexpr int vector_fraction_bits = 48;  // of b and c
constexpr int sum_fraction_bits = step_fraction_bits + vector_fraction_bits;
constexpr uint64_t rounding_offset_bits = 0x40B8000000000000ull;

// The absolute value of a sum of n values is at most n * 2^40 and must stay below 2^63, which 2^23 values of 1 reach.
constexpr int64_t rows_before_flush = int64_t{1} << 22;

FR_HOST_DEVICE uint64_t bits_of(double value) {
#if defined(__CUDA_ARCH__)
    return static_cast<uint64_t>(__double_as_longlong(value));
#else
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
#endif
}

// The bit pattern to add for one value in [-1, 1].
FR_HOST_DEVICE uint64_t sum_bits(double value) { return bits_of(value + rounding_offset); }

// The sum in steps of 2^-40, from the added bit patterns of `rows` values.
FR_HOST_DEVICE int64_t sum_steps(uint64_t bits, int64_t rows) {
    return static_cast<int64_t>(bits - static_cast<uint64_t>(rows) * rounding_offset_bits);
}

// Totals are 128-bit integers, kept in two limbs: high * 2^64 + low. Sums are modulo 2^128; the final one is in range.
using Total = unsigned __int128;

FR_HOST_DEVICE Total total_of_steps(int64_t steps) {
    return static_cast<Total>(static_cast<__int128>(steps)) << vector_fraction_bits;
}

FR_HOST_DEVICE void add_to_limbs(Total total, uint64_t& low, int64_t& high) {
    total += static_cast<Total>(static_cast<uint64_t>(high)) << 64 | low;
    low = static_cast<uint64_t>(total);
    high = static_cast<int64_t>(static_cast<uint64_t>(total >> 64));
}

}  // namespace fastrealign
