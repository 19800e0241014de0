// Parameters and results of the kernels, and the table of kernels of each instruction set. A kernel processes one block
// of rows on one thread; dispatch.cpp splits the rows into blocks.
#pragma once

#include <cstdint>

#include "element.h"
#include "exact_sum.h"
#include "row_map.h"

namespace fastrealign {

constexpr int lanes = 8;            // of the vectors of simd.h
constexpr int sixteen = 2 * lanes;  // of its longest ones
constexpr int batch_rows = 8;       // rows that a kernel works on together
constexpr int64_t cache_line = 64;  // bytes

// The rows of a block, in the caller's memory.
struct Rows {
    const char* data;
    int64_t stride;  // bytes from row to row; may be negative
    int64_t count;
    int64_t first;  // index of the block's first row, to report bad rows
    int64_t d;
};

// The position of a column once the even columns of each whole group of sixteen precede its odd ones.
static inline int64_t even_odd(int64_t column, int64_t d) {
    const int64_t in_group = column % sixteen, start = column - in_group;
    return start + sixteen > d ? column : start + in_group / 2 + in_group % 2 * lanes;
}

// The map's vectors, padded with zeros (buffer.h): in both precisions, and in float32 with the even columns of each
// whole group of sixteen before its odd ones.
struct MapVectors {
    const double* b;
    const double* c;
    const float* b32;
    const float* c32;
    const float* b_even_odd;
    const float* c_even_odd;
};

struct BadRows {
    int64_t count = 0;
    int64_t first = -1;  // index of the first one
    RowState state = RowState::good;

    void add(int64_t row, RowState why) {
        ++count;
        if (first < 0 || row < first) {
            first = row;
            state = why;
        }
    }
    void merge(const BadRows& other) {
        const int64_t all = count + other.count;
        if (other.count > 0) add(other.first, other.state);
        count = all;
    }
};

// The exact sums of one thread (exact_sum.h): accumulators, and the totals that take them up. The functions are static
// for the reason given in row_map.h.
struct Sums {
    double* accumulators;   // d, padded; null: no sums
    int32_t* integers;      // d, padded: of 16-bit results
    Total* totals;          // d
    double weight = 0.0;    // of the rows in the accumulators and integers
    int integer_rows = 0;   // in the integers
    bool even_odd = false;  // whether the integers are in the order of even_odd(), those of all rows
    __int128 beta = 0, gamma = 0;
};

static inline void empty_integers(Sums& sums, int64_t d) {
    const auto empty = [&](auto place) {
        for (int64_t j = 0; j < d; ++j) {
            int32_t& integer = sums.integers[place(j)];
            sums.accumulators[j] += integer * integer_step;  // exact
            integer = 0;
        }
    };
    sums.even_odd ? empty([&](int64_t j) { return even_odd(j, d); }) : empty([](int64_t j) { return j; });
    sums.integer_rows = 0;
}

static inline void flush(Sums& sums, int64_t d) {
    if (sums.integer_rows > 0) empty_integers(sums, d);
    for (int64_t j = 0; j < d; ++j) {
        sums.totals[j] += total_of_steps(sum_steps(bits_of(sums.accumulators[j])));
        sums.accumulators[j] = rounding_offset;
    }
    sums.weight = 0.0;
}

// Before rows of this weight are added to the accumulators.
static inline void make_room(Sums& sums, double weight, int64_t d) {
    if (sums.weight + weight > weight_before_flush) flush(sums, d);
    sums.weight += weight;
}

static inline void make_room_for_integers(Sums& sums, int rows, int64_t d) {
    if (sums.integer_rows + rows > integer_rows_before_flush) empty_integers(sums, d);
    sums.integer_rows += rows;
}

// Adds a row of the slow path.
static inline void add_finished(Sums& sums, const double* row, int64_t d) {
    for (int64_t j = 0; j < d; ++j) sums.totals[j] += total_of_steps(value_steps(row[j]));
}

struct ReduceBlock {
    Rows in;
    const RowMap* map;
    MapVectors vectors;
    double b_scale, c_scale;  // 2^vector_exponent of b and c
    uint8_t* flags;           // RowState of each row, indexed by in.first + i; may be null
    double* scratch;          // d values, for rows that take the slow path
    float* unpacked;          // batch_rows * padded(d) values
    Sums& sums;
    BadRows bad;
};

struct ApplyBlock {
    Rows in;
    char* out;
    int64_t out_stride;  // bytes
    bool stream;         // use non-temporal stores
    const RowMap* map;
    MapVectors vectors;
    uint8_t* flags;
    double* scratch;
    Sums& sums;  // of the rows as stored
    BadRows bad;
};

struct VjpBlock {
    Rows in;
    const char* gradient;
    int64_t gradient_stride;  // bytes
    char* out;
    int64_t out_stride;
    const RowMap* map;
    MapVectors vectors;
    double* scratch;  // d values
    BadRows bad;
};

using ReduceKernel = void (*)(ReduceBlock&);
using ApplyKernel = void (*)(ApplyBlock&);
using VjpKernel = void (*)(VjpBlock&);

namespace avx512 {
extern const ReduceKernel reduce_kernels[dtype_count];
extern const ApplyKernel apply_kernels[dtype_count][dtype_count];
extern const VjpKernel vjp_kernels[dtype_count];
}  // namespace avx512
namespace avx512vl {  // 256-bit vectors, where they are faster
extern const ReduceKernel reduce_kernels[dtype_count];
}  // namespace avx512vl
namespace avx2 {
extern const ReduceKernel reduce_kernels[dtype_count];
extern const ApplyKernel apply_kernels[dtype_count][dtype_count];
extern const VjpKernel vjp_kernels[dtype_count];
}  // namespace avx2
namespace baseline {
extern const ReduceKernel reduce_kernels[dtype_count];
extern const ApplyKernel apply_kernels[dtype_count][dtype_count];
extern const VjpKernel vjp_kernels[dtype_count];
}  // namespace baseline

}  // namespace fastrealign
