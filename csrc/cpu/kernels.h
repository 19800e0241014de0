// Parameters and results of the kernels, and the table of kernels of each instruction set. A kernel processes one block
// of rows on one thread; dispatch.cpp splits the rows into blocks.
#pragma once

#include <cstdint>

#include "element.h"
#include "exact_sum.h"
#include "row_map.h"

namespace fastrealign {

constexpr int lanes = 8;            // of the vectors of simd.h
constexpr int64_t cache_line = 64;  // bytes

// The rows of a block, in the caller's memory.
struct Rows {
    const char* data;
    int64_t stride;  // bytes from row to row; may be negative
    int64_t count;
    int64_t first;  // index of the block's first row, to report bad rows
    int64_t d;
};

// The map's vectors, padded with zeros to a multiple of `lanes`: in both precisions, and in float32 with the even
// columns of each whole group of sixteen before its odd ones.
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

// Partial sums: one bit pattern of exact_sum.h per column, and the number of rows added.
struct PartialSums {
    uint64_t* bits;  // d, padded to a multiple of `lanes`; null: no sums
    int64_t rows = 0;
};

struct ReduceBlock {
    Rows in;
    const RowMap* map;
    MapVectors vectors;
    uint8_t* flags;   // RowState of each row, indexed by in.first + i; may be null
    double* scratch;  // d values, for rows that take the slow path
    float* unpacked;  // max_rows_unpacked * (d, padded to a multiple of `lanes`) values
    PartialSums sums;
    BadRows bad;
};

constexpr int max_rows_unpacked = 8;

struct ApplyBlock {
    Rows in;
    char* out;
    int64_t out_stride;  // bytes
    bool stream;         // use non-temporal stores
    const RowMap* map;
    MapVectors vectors;
    uint8_t* flags;
    double* scratch;
    PartialSums sums;  // of the rows as stored
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
