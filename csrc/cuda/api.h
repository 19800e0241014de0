// Interface of the CUDA backend: device addresses and a stream; it does not depend on torch. All calls are asynchronous
// and safe to capture in a CUDA graph. Nothing is allocated; results are added to memory that the caller has zeroed.
#pragma once

#include <cstdint>

#include "device_layout.h"
#include "element.h"

namespace fastrealign {
namespace cuda {

constexpr int64_t max_columns = INT32_MAX / 16;  // so that 32-bit indices do not overflow

struct Matrix {
    void* data;
    DType type;
    int64_t rows;
    int64_t d;       // 1 to max_columns
    int64_t stride;  // bytes from row to row; may be negative
};

// The row map on the device, as device_layout.h describes. `prepare` computes the header, s excepted, from b and c.
struct DeviceMap {
    double* values;
    int terms;  // Terms of row_map.h
};

// Outputs that are added to, all on the device; null: not requested.
struct Results {
    uint64_t* low;   // (d,) 128-bit totals of exact_sum.h in two limbs
    uint64_t* high;  // (d,)
    uint64_t* bad;   // (2,) the number of bad rows, and the first one as device_layout.h packs it
    uint8_t* flags;  // (rows,) RowState of each row, stored, not added
};

struct Launch {
    int device;
    uintptr_t stream;
    int64_t first_row = 0;  // added to row numbers in `bad`, for a call on part of the rows
    int blocks = 0;         // grid size; 0: as many as can be resident. Results do not depend on it
};

int device_count();        // 0 where there is no driver or no device
bool can_run(int device);  // whether this build has code for the device's architecture

void prepare(const DeviceMap& map, int64_t d, const Launch& launch);
void reduce(const Matrix& in, const DeviceMap& map, const Results& results, const Launch& launch);
void apply(const Matrix& in, const Matrix& out, const DeviceMap& map, const Results& results, const Launch& launch);

// out = J(y)^T g, J the Jacobian of f(.; s, b, c) at each row y of `in`, g the same row of `gradient`. Bad rows get
// zeros.
void vjp(const Matrix& in, const Matrix& gradient, const Matrix& out, const DeviceMap& map, const Launch& launch);

}  // namespace cuda
}  // namespace fastrealign
