// What the row kernels have in common: their parameters, vectors of the map in shared memory, exact sums in registers.
#pragma once

#include <type_traits>

#include "long_way.cuh"

namespace fastrealign {
namespace cuda {

struct RowsParams {
    const char* in;
    int64_t in_stride;
    int64_t rows;
    int d;
    DType type;         // of `in`
    const double* map;  // DeviceMap
    Terms terms;
    Limits limits;
    uint64_t* low;
    uint64_t* high;
    uint64_t* bad;
    uint8_t* flags;
    int64_t first_row;
};

struct Target {
    char* data;
    int64_t stride;
    DType type;
};

// `limited`: whether entries may be limited to shifts that float32 can bear; where never, it costs no registers.
template <bool limited = false>
FR_DEVICE RowMap read_map(const RowsParams& p) {
    RowMap map{p.map[0], p.map[1], p.map[2], p.map[3], p.terms, p.limits.cancelled_below, 0.0, 0.0, 0.0};
    if constexpr (limited) {
        map.largest_b = p.map[4];
        map.largest_c = p.map[5];
        map.largest_shift = p.limits.largest_shift;
    }
    return map;
}
FR_DEVICE const double* map_b(const RowsParams& p) { return p.map + map_header; }
FR_DEVICE const double* map_c(const RowsParams& p) { return p.map + map_header + p.d; }

FR_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
FR_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

// A vector of the map in shared memory, as a team reads it: thread `rank` takes chunks rank, rank + size, ... (V of
// them) of C entries, P entries (16 bytes) at a time. Entries lie so that neighbouring threads find theirs 16 bytes
// apart, which is free of bank conflicts for every C. It is filled up with zeros to all that a team can hold, so that
// reading needs no test.
template <typename Real, int C, int V, typename Team>
class SharedVector {
 public:
    using Entry = Real;
    static constexpr int P = C < 16 / static_cast<int>(sizeof(Real)) ? C : 16 / static_cast<int>(sizeof(Real));
    static constexpr int planes = C / P;
    // Entries of shared memory for a team of so many threads.
    __host__ __device__ static constexpr int entries(int team_size) { return team_size * V * C; }

    __device__ __forceinline__ SharedVector(Real* memory, const Team& team)
        : memory_(memory), rank_(team.rank()), size_(team.size()) {}

    // By all threads of the block, a barrier after it.
    __device__ __forceinline__ void fill(const double* from, int d) const {
        for (int j = static_cast<int>(threadIdx.x); j < entries(size_); j += static_cast<int>(blockDim.x)) {
            const int chunk = j / C;
            const int e = j % C;
            memory_[(e / P * V * size_ + chunk) * P + e % P] = static_cast<Real>(j < d ? from[j] : 0.0);
        }
    }

    // Entries plane * P .. plane * P + P - 1 of the thread's chunk v.
    __device__ __forceinline__ void load(int v, int plane, Real (&out)[P]) const {
        const Real* at = memory_ + rank_ * P + (plane * V + v) * size_ * P;
        if constexpr (P == 1) {
            out[0] = *at;
        } else if constexpr (sizeof(Real) == 4) {
            const float4 x = *reinterpret_cast<const float4*>(at);
            out[0] = x.x, out[1] = x.y, out[2] = x.z, out[3] = x.w;
        } else {
            const double2 x = *reinterpret_cast<const double2*>(at);
            out[0] = x.x, out[1] = x.y;
        }
    }

 private:
    Real* memory_;
    int rank_;
    int size_;
};

// Shared memory of a block: first what teams exchange (and stage sums in), then the vectors.
template <typename Team, int C, bool sums>
__host__ __device__ constexpr int exchange_doubles(int threads) {
    const int warps = threads / warp_size;
    if constexpr (std::is_same_v<Team, BlockTeam>) return (BlockTeam::exchange_doubles(warps) + 1) / 2 * 2;
    return sums ? warps * warp_size * C : 0;
}

// One group of R rows in registers: each thread of the team has V chunks of C elements of each row. Where a row has
// fewer chunks than the team can hold, the rest is zero; beyond the last row the last one is read again.
template <typename In, int C, int V, int R, typename Team>
struct RowGroup {
    Pack<In, C> x[R][V];

    __device__ __forceinline__ void load(const Team& team, const RowsParams& p, int64_t first) {
        const int chunks = p.d / C;
#pragma unroll
        for (int i = 0; i < R; ++i) {
            const int64_t row = first + i < p.rows ? first + i : p.rows - 1;
            const char* const at = p.in + row * p.in_stride;
            if constexpr (!std::is_same_v<In, Any>) {
                load_row<In>(team, at, chunks, x[i]);
            } else if (p.type == DType::float32) {
                load_row<float>(team, at, chunks, x[i]);
            } else {
                load_row<Half>(team, at, chunks, x[i]);
                // Once all loads are under way, not one by one.
                const bool half = p.type == DType::float16;
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    uint32_t& w = x[i][v].w[0];
                    w = __float_as_uint(half ? to_float32<Half>(w) : to_float32<BFloat>(w));
                }
            }
        }
        // No load may move behind this: without it ptxas starts on the first pieces before it has asked for the last.
        __syncwarp();
    }

    template <typename T>
    static __device__ __forceinline__ void load_row(const Team& team, const char* at, int chunks,
                                                    Pack<In, C> (&row)[V]) {
        const T* const mine = reinterpret_cast<const T*>(at) + team.rank() * C;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            Pack<T, C> pack{};
            if (team.rank() + v * team.size() < chunks) pack = load_pack<T, C>(mine + v * team.size() * C);
#pragma unroll
            for (int k = 0; k < Pack<T, C>::words; ++k) row[v].w[k] = pack.w[k];
        }
    }

    // The row's dot products with itself, b and c (which: 1 or 3 of them), lane l getting row l % R's.
    template <typename Real, int which, typename Shared>
    __device__ __forceinline__ Dots dots(Team& team, const Shared& b, const Shared& c) const {
        constexpr int P = Shared::P;
        Real sums[which][R] = {};
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int plane = 0; plane < Shared::planes; ++plane) {
                typename Shared::Entry at_b[P] = {}, at_c[P] = {};
                if constexpr (which == 3) {
                    b.load(v, plane, at_b);
                    c.load(v, plane, at_c);
                }
#pragma unroll
                for (int e = 0; e < P; ++e) {
#pragma unroll
                    for (int i = 0; i < R; ++i) {
                        const Real value = static_cast<Real>(element(x[i][v], plane * P + e));
                        sums[0][i] = fused(value, value, sums[0][i]);
                        if constexpr (which == 3) {
                            sums[1][i] = fused(value, static_cast<Real>(at_b[e]), sums[1][i]);
                            sums[2][i] = fused(value, static_cast<Real>(at_c[e]), sums[2][i]);
                        }
                    }
                }
            }
        }
        double totals[which];
        team.sum_rows(sums, totals);
        if constexpr (which == 3) return {totals[0], totals[1], totals[2]};
        return {totals[0], 0.0, 0.0};
    }
};

// Exact sums of a thread's columns, as bit patterns of exact_sum.h.
template <int C, int V, typename Team>
struct ColumnSums {
    uint64_t bits[V][C] = {};
    int rows = 0;

    // Adds them to the totals. All threads of a block call it together. Warps of a block meet in shared memory first,
    // so that a column costs one atomic addition a block.
    __device__ __forceinline__ void flush(const Team& team, const RowsParams& p, double* exchange) {
        const int chunks = p.d / C;
        if constexpr (std::is_same_v<Team, BlockTeam>) {
#pragma unroll
            for (int v = 0; v < V; ++v) {
                const int chunk = team.rank() + v * team.size();
                if (chunk >= chunks) continue;
#pragma unroll
                for (int e = 0; e < C; ++e) {
                    const int64_t j = static_cast<int64_t>(chunk) * C + e;
                    add_to_total(p.low + j, p.high + j, sum_steps(bits[v][e], rows));
                }
            }
        } else {
            auto* const stage = reinterpret_cast<int64_t*>(exchange);
#pragma unroll
            for (int v = 0; v < V; ++v) {
                __syncthreads();
#pragma unroll
                for (int e = 0; e < C; ++e) {
                    stage[(team.index() * C + e) * warp_size + team.lane()] = sum_steps(bits[v][e], rows);
                }
                __syncthreads();
                for (int k = static_cast<int>(threadIdx.x); k < warp_size * C; k += static_cast<int>(blockDim.x)) {
                    const int j = v * warp_size * C + k;
                    if (j >= p.d) break;
                    int64_t steps = 0;
                    for (int w = 0; w < team.teams(); ++w) steps += stage[(w * C + k % C) * warp_size + k / C];
                    add_to_total(p.low + j, p.high + j, steps);
                }
            }
        }
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int e = 0; e < C; ++e) bits[v][e] = 0;
        }
        rows = 0;
    }
};

// Calls work(first row) for every group of R rows that falls to a team, teams of all blocks taking turns, and flush()
// after each share that the sums can hold; every team of a block takes part in as many flushes.
template <int R, typename Team, typename Work, typename Flush>
FR_DEVICE void over_groups(const Team& team, int64_t rows, Work work, Flush flush) {
    const int64_t groups = (rows + R - 1) / R;
    const int64_t step = static_cast<int64_t>(gridDim.x) * team.teams();
    const int64_t share = rows_before_flush / (R * team.teams());
    const int64_t shares = (groups + share * step - 1) / (share * step);
    int64_t group = static_cast<int64_t>(blockIdx.x) * team.teams() + team.index();
    for (int64_t k = 0; k < shares; ++k) {
        const int64_t stop = min(groups, (k + 1) * share * step);
        for (; group < stop; group += step) work(group * R);
        flush();
    }
}

// The state of row `mine` (of a group) is known to the lanes that worked it out; one thread a row writes it down.
template <int R, typename Team>
FR_DEVICE void record(const Team& team, const RowsParams& p, int64_t row, RowState state) {
    if (team.rank() >= R || row >= p.rows) return;
    if (p.flags) p.flags[row] = static_cast<uint8_t>(state);
    if (state != RowState::good) record_bad(p.bad, p.first_row + row, state);
}

}  // namespace cuda
}  // namespace fastrealign
