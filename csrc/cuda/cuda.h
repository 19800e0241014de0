// The CUDA backend as its caller sees it: addresses on the device, a stream, nothing of torch. Everything is
// asynchronous and safe to capture in a CUDA graph; nothing is allocated, and results are added to memory that the
// caller has zeroed.
#pragma once

#include <cstdint>

#include "element.h"

namespace fastrealign {
namespace cuda {

struct Matrix {
    void* data;
    DType type;
    int64_t rows;
    int64_t d;       // up to 2^31 - 1
    int64_t stride;  // bytes from row to row; may be negative
};

// The row map on the device: a header of eight float64 (s, b.b, b.c, c.c, the largest |b| and |c|, two that are not
// used), then b (d values), then c (d values); zeros where there is none. `prepare` fills in the header but for s.
constexpr int map_header = 8;
struct DeviceMap {
    double* values;
    int terms;  // Terms of row_map.h
};

// What is added to, all on the device; null: not wanted.
struct Results {
    uint64_t* low;   // (d,) 128-bit totals of exact_sum.h in two limbs
    uint64_t* high;  // (d,)
    uint64_t* bad;   // (2,) how many rows are bad, and the first of them, packed as below
    uint8_t* flags;  // (rows,) RowState of each row, stored, not added
};

struct Launch {
    int device;
    uintptr_t stream;
    int64_t first_row = 0;  // added to row numbers in `bad`, for rows that are part of more
    int blocks = 0;         // 0: as many as the device holds at once; results do not depend on it
};

// bad[1] is the largest of ~(row << state_bits | state) over bad rows, so that zeroed memory means none.
constexpr int state_bits = 2;

int device_count();        // 0 where there is no driver or no device
bool can_run(int device);  // whether this build has machine code for the device

void prepare(const DeviceMap& map, int64_t d, const Launch& launch);
void reduce(const Matrix& in, const DeviceMap& map, const Results& results, const Launch& launch);
void apply(const Matrix& in, const Matrix& out, const DeviceMap& map, const Results& results, const Launch& launch);

// out = J(y)^T g, J the Jacobian of f(.; s, b, c) at each row y of `in`, g the same row of `gradient`. Bad rows get
// zeros.
void vjp(const Matrix& in, const Matrix& gradient, const Matrix& out, const DeviceMap& map, const Launch& launch);

}  // namespace cuda
}  // namespace fastrealign
