// reduce and apply for rows that no other kernel takes: float64 input or output, and very wide rows. One warp per row,
// every row on the slow path, in float64. General rather than fast: a row is read up to five times, mostly from a
// cache.
#include "launch.h"
#include "rows.cuh"
#include "variants.h"

namespace fastrealign {
namespace cuda {
namespace {

constexpr int threads = 128;

// With four blocks per multiprocessor as the bound, ptxas uses 58 registers; without a bound it used 40 and spilled.
// `shared_sums`: the sums of a block accumulate in shared memory; where a row is too wide for that, each entry is added
// to the totals.
__global__ void __launch_bounds__(threads, 4)
    rows_of_any_type(const RowsParams p, const Target out, const bool shared_sums) {
    auto* const sums = reinterpret_cast<unsigned long long*>(shared_memory());
    if (shared_sums) {
        for (int j = static_cast<int>(threadIdx.x); j < p.d; j += static_cast<int>(blockDim.x)) sums[j] = 0;
        __syncthreads();
    }
    const Warp group(nullptr);
    const RowMap map = read_map(p);
    const auto work = [&](int64_t row) {
        const char* const from = p.in + row * p.in_stride;
        char* const to = out.data + row * out.stride;
        const auto load = [&](int j) { return load_any(from, p.type, j); };
        const RowState state = map_row_slow_path(group, map, map_b(p), map_c(p), p.d, load, [&](int j, double value) {
            if (out.data) value = store_any(to, out.type, j, value);
            const int64_t steps = value_steps(value);
            if (shared_sums) {
                atomicAdd(sums + j, static_cast<unsigned long long>(steps));
            } else if (p.low) {
                add_to_total(p.low + j, p.high + j, steps);
            }
        });
        if (state != RowState::good && out.data) {
            for (int j = group.rank(); j < p.d; j += group.size()) store_any(to, out.type, j, load(j));
        }
        record<1>(group, p, row, state);
    };
    over_tiles<1>(group, p.rows, work, [&] {
        if (!shared_sums) return;
        __syncthreads();
        for (int j = static_cast<int>(threadIdx.x); j < p.d; j += static_cast<int>(blockDim.x)) {
            add_to_total(p.low + j, p.high + j, static_cast<int64_t>(sums[j]));
            sums[j] = 0;
        }
        __syncthreads();
    });
}

}  // namespace

void any_rows(const Matrix& in, const Matrix* out, const DeviceMap& map, const Results& results, const Launch& launch) {
    const OnDevice on(launch.device);
    const size_t sums = sizeof(uint64_t) * static_cast<size_t>(in.d);
    const bool shared_sums = results.low && fits(sums, launch.device);
    launch_rows(rows_of_any_type, threads, shared_sums ? sums : 0, in.rows, threads / warp_size, launch,
                rows_params(in, map, results, launch, float64_throughout),
                out ? Target{static_cast<char*>(out->data), out->stride, out->type} : Target{}, shared_sums);
}

}  // namespace cuda
}  // namespace fastrealign
