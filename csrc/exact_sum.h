// Exact, order-independent column sums of values in [-1, 1] (host and device).
//
// Each value is rounded once to an integer number of steps of 2^-40 and added as an integer. Integer addition is
// associative and commutative, so a sum has the same bits for any split into chunks, any order of the rows, any number
// of threads or workers. The rounding is one float64 addition: in [2^12, 2^13) neighbouring float64 numbers are 2^-40
// apart, so the low bits of (x + 1.5 * 2^12) are the value in steps. A kernel adds these bit patterns unchanged and
// subtracts the offsets once, at the end (modulo 2^64; the true sum is in range).
#pragma once

#include <cstdint>
#include <cstring>

#include "row_map.h"

namespace fastrealign {

constexpr double rounding_offset = 0x1.8p12;
constexpr int sum_fraction_bits = 40;
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

// A 128-bit total in two limbs: high * 2^64 + low.
FR_HOST_DEVICE void add_steps(int64_t steps, uint64_t& low, int64_t& high) {
    const uint64_t before = low;
    low += static_cast<uint64_t>(steps);
    high += (steps < 0 ? -1 : 0) + (low < before ? 1 : 0);
}

}  // namespace fastrealign
