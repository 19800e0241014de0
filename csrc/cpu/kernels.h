// What a kernel is told and what it answers, and the table of kernels an instruction set offers. The kernels work on
// one block of rows on one thread; dispatch.cpp cuts the rows into blocks.
#pragma once

#include <cstdint>

#include "element.h"
#include "exact_sum.h"
#include "row_map.h"

namespace fastrealign {

// The rows of a block, in the caller's memory.
struct Rows {
    const char* data;
    int64_t stride;  // bytes from row to row; may be negative
    int64_t count;
    int64_t first;  // index of the block's first row, for naming bad rows
    int64_t d;
};

// The map's vectors, padded with zeros to whole groups of eight: in both precisions, and in float32 with the even
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

// Sums under way: bit patterns of exact_sum.h a column, and how many rows they hold.
struct PartialSums {
    uint64_t* bits;  // d, padded to a multiple of eight; null: not wanted
    int64_t rows = 0;
};

struct ReduceBlock {
    Rows in;
    const RowMap* map;
    MapVectors vectors;
    uint8_t* flags;   // RowState of each row, indexed by in.first + i; may be null
    double* scratch;  // d values, for rows that take the long way
    float* unpacked;  // max_rows_unpacked * (d, padded to a multiple of eight) values
    PartialSums sums;
    BadRows bad;
};

constexpr int max_rows_unpacked = 8;

struct ApplyBlock {
    Rows in;
    char* out;
    int64_t out_stride;  // bytes
    bool stream;         // past the cache, where the output does not fit there
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
extern const ReduceKernel reduce_kernels[4];
extern const ApplyKernel apply_kernels[4][4];
extern const VjpKernel vjp_kernels[4];
}  // namespace avx512
namespace avx2 {
extern const ReduceKernel reduce_kernels[4];
extern const ApplyKernel apply_kernels[4][4];
extern const VjpKernel vjp_kernels[4];
}  // namespace avx2
namespace baseline {
extern const ReduceKernel reduce_kernels[4];
extern const ApplyKernel apply_kernels[4][4];
extern const VjpKernel vjp_kernels[4];
}  // namespace baseline

}  // namespace fastrealign
