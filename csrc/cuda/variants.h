// The kernel variants, and the launch parameters of each.
//
// Variants: packs of 16 bytes per thread with one warp per row, for widths up to 512, 768, 1024 and 1280; the same with
// one block per row above that; single elements, for rows that are not aligned or of odd width; and any_type.cu for the
// rest. A variant also takes narrower rows, with some of its registers unused. Each one is compiled for every
// architecture, so there are few: mixed types share the wider ones. `fast_path` of apply.cu, reduce.cu and
// vjp.cu chooses one by types, width and alignment.
#pragma once

#include "api.h"
#include "rows.cuh"

namespace fastrealign {
namespace cuda {

// Minimum number of resident blocks per multiprocessor (of 65536 registers) for __launch_bounds__, where a thread needs
// `kept` registers for rows and sums, about five for each of the C columns in flight, and fifty more. With these
// thresholds ptxas spilled nothing on any architecture.
template <typename Group>
constexpr int blocks_of(int kept, int C) {
    if (std::is_same_v<Group, Block>) return 1;
    return kept + 5 * C <= 70 ? 4 : kept + 5 * C <= 138 ? 3 : 2;
}

// Columns per thread of the variant with one warp per row, for rows of up to this width.
constexpr int warp_columns(int width) { return width / warp_size; }

// Columns per thread in the variant of single elements.
constexpr int single_columns = 12;

// Threads per block for rows of `chunks` chunks, V of them per thread.
template <typename Group>
int threads_of(int chunks, int V) {
    if (std::is_same_v<Group, Warp>) return Group::max_block_threads;
    return (chunks + V * warp_size - 1) / (V * warp_size) * warp_size;
}
template <typename Group>
int groups_of(int threads) {
    return std::is_same_v<Group, Warp> ? threads / warp_size : 1;
}

inline RowsParams rows_params(const Matrix& in, const DeviceMap& map, const Results& results, const Launch& launch,
                              const Limits& limits) {
    return {static_cast<const char*>(in.data),
            in.stride,
            in.rows,
            static_cast<int>(in.d),
            in.type,
            map.values,
            static_cast<Terms>(map.terms),
            limits,
            results.low,
            results.high,
            results.bad,
            results.flags,
            launch.first_row};
}

// Rows of any type and width, aligned to their elements, in float64. `out` null: nothing is stored.
void any_rows(const Matrix& in, const Matrix* out, const DeviceMap& map, const Results& results, const Launch& launch);

}  // namespace cuda
}  // namespace fastrealign
