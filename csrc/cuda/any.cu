// reduce and apply for rows that have no path of their own: float64 in or out, and widths beyond the others' reach. A
// warp takes a row the long way, in float64, whatever the types. Correct everywhere and tuned nowhere: a row is read up
// to five times, mostly from a cache.
#include "launch.h"
#include "paths.h"
#include "rows.cuh"

namespace fastrealign {
namespace cuda {
namespace {

constexpr int threads = 128;

// Told that four blocks must fit, ptxas uses 58 registers; left alone it settled for 40 and spilled.
// `shared_sums`: the sums of a block gather in shared memory; where a row is too wide for that each entry goes to the
// totals.
__global__ void __launch_bounds__(threads, 4)
    rows_of_any_type(const RowsParams p, const Target out, const bool shared_sums) {
    auto* const sums = reinterpret_cast<unsigned long long*>(shared_memory());
    if (shared_sums) {
        for (int j = static_cast<int>(threadIdx.x); j < p.d; j += static_cast<int>(blockDim.x)) sums[j] = 0;
        __syncthreads();
    }
    const WarpTeam team(nullptr);
    const RowMap map = read_map(p);
    const auto work = [&](int64_t row) {
        const char* const from = p.in + row * p.in_stride;
        char* const to = out.data + row * out.stride;
        const auto load = [&](int j) { return load_any(from, p.type, j); };
        const RowState state = take_the_long_way(team, map, map_b(p), map_c(p), p.d, load, [&](int j, double value) {
            if (out.data) value = store_any(to, out.type, j, value);
            if (shared_sums) {
                atomicAdd(sums + j, static_cast<unsigned long long>(steps_of(value)));
            } else if (p.low) {
                add_to_total(p.low + j, p.high + j, steps_of(value));
            }
        });
        if (state != RowState::good && out.data) {
            for (int j = team.rank(); j < p.d; j += team.size()) store_any(to, out.type, j, load(j));
        }
        record<1>(team, p, row, state);
    };
    over_groups<1>(team, p.rows, work, [&] {
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
