// Shared by the row kernels: parameters, vectors of the map in shared memory, tiles of rows in registers.
#pragma once

#include <type_traits>

#include "slow_path.cuh"

namespace fastrealign {
namespace cuda {

struct RowsParams {
    const char* in;
    int64_t in_stride;
    int64_t rows;
    int d;
    DType type;         // of `in`
    const double* map;  // DeviceMap::values
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

FR_DEVICE RowMap read_map(const RowsParams& p) {
    const bool limited = p.limits.largest_shift > 0.0;
    return {p.map[map_field::s],
            p.map[map_field::bb],
            p.map[map_field::bc],
            p.map[map_field::cc],
            p.terms,
            p.limits.cancelled_below,
            limited ? p.map[map_field::largest_b] : 0.0,
            limited ? p.map[map_field::largest_c] : 0.0,
            p.limits.largest_shift};
}
// The map in shared memory, where it costs no registers; called by all threads of the block, and a barrier must follow.
FR_DEVICE const RowMap& share_map(const RowsParams& p, double* memory) {
    auto* const map = reinterpret_cast<RowMap*>(memory);
    if (threadIdx.x == 0) *map = read_map(p);
    return *map;
}
FR_DEVICE const double* map_b(const RowsParams& p) { return p.map + map_header; }
FR_DEVICE const double* map_c(const RowsParams& p) { return p.map + map_header + p.d; }

FR_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
FR_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

// A vector of the map in shared memory, in the access order of a thread group: thread `rank` reads chunks rank,
// rank + size, ... (V of them) of C entries, P entries (16 bytes) per load. Adjacent threads read 16 bytes apart, which
// is free of bank conflicts for every C. The vector is padded with zeros to the capacity of a group, so that loads need
// no bounds check.
template <typename Real, int C, int V, typename Group>
class SharedVector {
 public:
    using Entry = Real;
    static constexpr int P = C < 16 / static_cast<int>(sizeof(Real)) ? C : 16 / static_cast<int>(sizeof(Real));
    static constexpr int planes = C / P;
    // Entries of shared memory for a group of `group_size` threads.
    __host__ __device__ static constexpr int entries(int group_size) { return group_size * V * C; }

    __device__ __forceinline__ SharedVector(Real* memory, const Group& group)
        : memory_(memory), rank_(group.rank()), size_(group.size()) {}

    // Called by all threads of the block; a barrier must follow.
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

// Shared memory of a block: first the row map, then the buffer in which the warps of a Block exchange partial results,
// then what a kernel sums, then the vectors.
constexpr int map_doubles = (sizeof(RowMap) + 15) / 16 * 2;
template <typename Group>
__host__ __device__ constexpr int exchange_doubles(int threads) {
    const int exchange = std::is_same_v<Group, Block> ? (Block::exchange_doubles(threads / warp_size) + 1) / 2 * 2 : 0;
    return map_doubles + exchange;
}

// A tile of R rows in registers: each thread of the group holds V chunks of C elements of each row. Chunks beyond the
// width are zero; beyond the last row the tile repeats the last row.
template <typename In, int C, int V, int R, typename Group>
struct RowTile {
    Pack<In, C> x[R][V];

    __device__ __forceinline__ void load(const Group& group, const RowsParams& p, int64_t first) {
        const int chunks = p.d / C;
        const char* at = p.in + first * p.in_stride;
#pragma unroll
        for (int i = 0; i < R; ++i) {
            if (i > 0 && first + i < p.rows) at += p.in_stride;
            if constexpr (!std::is_same_v<In, Any>) {
                load_row<In>(group, at, chunks, x[i]);
            } else if (p.type == DType::float32) {
                load_row<float>(group, at, chunks, x[i]);
            } else {
                load_row<Half>(group, at, chunks, x[i]);
                // After all loads have been issued, not one by one.
                const bool half = p.type == DType::float16;
#pragma unroll
                for (int v = 0; v < V; ++v) {
                    uint32_t& w = x[i][v].w[0];
                    w = __float_as_uint(half ? to_float32<Half>(w) : to_float32<BFloat>(w));
                }
            }
        }
        // No load may sink below this: without it ptxas consumes the first packs before it has issued the last load.
        __syncwarp();
    }

    template <typename T>
    static __device__ __forceinline__ void load_row(const Group& group, const char* at, int chunks,
                                                    Pack<In, C> (&row)[V]) {
        const T* const mine = reinterpret_cast<const T*>(at) + group.rank() * C;
#pragma unroll
        for (int v = 0; v < V; ++v) {
            Pack<T, C> pack{};
            if (group.rank() + v * group.size() < chunks) pack = load_pack<T, C>(mine + v * group.size() * C);
#pragma unroll
            for (int k = 0; k < Pack<T, C>::words; ++k) row[v].w[k] = pack.w[k];
        }
    }

    // The dot products of each row with itself, b and c (which: 1 or 3 of them); lane l gets those of row l % R.
    template <typename Real, int which, typename Shared>
    __device__ __forceinline__ Dots dots(Group& group, const Shared& b, const Shared& c) const {
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
        group.sum_rows(sums, totals);
        if constexpr (which == 3) return {totals[0], totals[1], totals[2]};
        return {totals[0], 0.0, 0.0};
    }
};

// 64-bit sums of this many rows of a block cannot overflow: entries are at most largest_weight, and the scaled beta and
// gamma below 2^10 (vector_exponent), so that a row adds less than 2^10 2^40.
constexpr int block_rows_before_flush = 1 << 13;

// Calls work(first row) for the tiles of a group (grid-stride over tiles of R rows), and flush() before sums can
// overflow; all groups of a block call flush() equally often.
template <int R, typename Group, typename Work, typename Flush>
FR_DEVICE void over_tiles(const Group& group, int64_t rows, Work work, Flush flush) {
    const int64_t tiles = (rows + R - 1) / R;
    const int groups = group.groups_in_block();
    const int share = block_rows_before_flush / (R * groups);
    int left = share;
    // The same for all groups of a block, so that they meet in flush().
    int64_t tile = static_cast<int64_t>(blockIdx.x) * groups;
    for (bool last = false; !last;) {
        if (tile + group.index() < tiles) work((tile + group.index()) * R);
        tile += static_cast<int64_t>(gridDim.x) * groups;
        last = tile >= tiles;
        if (last || --left == 0) {
            flush();
            left = share;
        }
    }
}

// Records the state of `row`; one thread per row of the tile writes.
template <int R, typename Group>
FR_DEVICE void record(const Group& group, const RowsParams& p, int64_t row, RowState state) {
    if (group.rank() >= R || row >= p.rows) return;
    if (p.flags) p.flags[row] = static_cast<uint8_t>(state);
    if (state != RowState::good) record_bad(p.bad, p.first_row + row, state);
}

}  // namespace cuda
}  // namespace fastrealign
