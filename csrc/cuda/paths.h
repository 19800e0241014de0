// Which path a call takes through the kernels, and the constants of each.
//
// The paths: packs of 16 bytes a thread, a warp a row, for widths up to 512, 768, 1024 and 1280; the same with a block
// a row above; single elements, for rows that are not aligned or of odd width; and any.cu for what is left. A kernel
// takes narrower rows than its width, but leaves part of its registers empty. Each of them is compiled for each
// architecture, so their number is kept down: sums and mixed types share the wider ones.
#pragma once

#include "cuda.h"
#include "rows.cuh"

namespace fastrealign {
namespace cuda {

// Blocks that must fit on a multiprocessor of 65536 registers, where a thread keeps `kept` of them for rows and sums,
// some five for each of the C columns that it works on, and fifty more. The limits are where ptxas spilled nothing, for
// any architecture.
template <typename Team>
constexpr int blocks_of(int kept, int C) {
    if (std::is_same_v<Team, BlockTeam>) return 1;
    return kept + 5 * C <= 70 ? 4 : kept + 5 * C <= 138 ? 3 : 2;
}

// Columns a thread in the path of single elements.
constexpr int single_columns = 12;

// A row of `chunks` chunks, V of them a thread.
template <typename Team>
int threads_of(int chunks, int V) {
    if (std::is_same_v<Team, WarpTeam>) return Team::most_threads;
    return (chunks + V * warp_size - 1) / (V * warp_size) * warp_size;
}
template <typename Team>
int teams_of(int threads) {
    return std::is_same_v<Team, WarpTeam> ? threads / warp_size : 1;
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

// Rows of any type, width and alignment (of whole elements), in float64; `out` null: nothing is stored.
void any_rows(const Matrix& in, const Matrix* out, const DeviceMap& map, const Results& results, const Launch& launch);

}  // namespace cuda
}  // namespace fastrealign
