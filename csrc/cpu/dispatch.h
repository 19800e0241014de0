// Interface of the CPU backend: rows in memory, a row map, the number of threads.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"
#include "prepared_map.h"

namespace fastrealign {

struct Matrix {
    void* data;
    DType type;
    int64_t rows;
    int64_t d;
    int64_t stride;  // bytes from row to row
};

// The 128-bit totals of the columns, of exact_sum.h, to add to; null: no sums.
struct Totals {
    uint64_t* low;
    int64_t* high;
};

struct Outcome {
    int64_t good = 0;
    BadRows bad;
};

struct Options {
    int threads;
    std::string isa;  // a name of `instruction_sets`, or empty for the best one that this machine supports
    uint8_t* flags;   // RowState of each row; may be null
};

// A smaller share is finished before its thread has started.
constexpr int64_t bytes_worth_a_thread = 512 * 1024;

// The instruction sets that this machine supports, best first.
std::vector<std::string> instruction_sets();

Outcome reduce(const Matrix& in, const PreparedMap& map, Totals totals, const Options& options);
Outcome apply(const Matrix& in, const Matrix& out, const PreparedMap& map, Totals totals, const Options& options);
// out = J(y)^T g, J the Jacobian of the map at each row y of `in`, g the same row of `gradient`; all of one element
// type. Bad rows get zeros.
Outcome vjp(const Matrix& in, const Matrix& gradient, const Matrix& out, const PreparedMap& map,
            const Options& options);

}  // namespace fastrealign
