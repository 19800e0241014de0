// Thread groups that share a row: a warp, or a whole block (as thread_block_tile<32> and thread_block of cooperative
// groups). Reductions within a group, and atomic sums across blocks.
#pragma once

#include "api.h"
#include "elements.cuh"
#include "exact_sum.h"
#include "row_map.h"

namespace fastrealign {
namespace cuda {

constexpr unsigned all_lanes = 0xffffffffu;
constexpr int warp_size = 32;

// The dynamic shared memory of the block, 16-byte aligned; kernels use no static shared memory.
FR_DEVICE unsigned char* shared_memory() {
    extern __shared__ __align__(16) unsigned char fr_shared[];
    return fr_shared;
}

FR_DEVICE double warp_sum(double x) {
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) x += __shfl_xor_sync(all_lanes, x, step);
    return x;
}
FR_DEVICE double warp_max(double x) {
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) x = fmax(x, __shfl_xor_sync(all_lanes, x, step));
    return x;
}

// The sums over a warp of R values per lane (R = 1, 2 or 4), one per row: lane l gets the sum of value l % R. The first
// steps halve the number of values instead of repeating each reduction R times: 6 shuffles for four rows, not 20. A
// row's sum has the same bits for every position and every R, since the reduction tree over the lanes is the same.
template <int R, typename Real>
FR_DEVICE Real warp_sum_rows(const Real (&value)[R], int lane) {
    Real x = value[0];
    int step = 1;
    if constexpr (R == 2) {
        const bool odd = lane & 1;
        x = (odd ? value[1] : value[0]) + __shfl_xor_sync(all_lanes, odd ? value[0] : value[1], 1);
        step = 2;
    } else if constexpr (R == 4) {
        const bool odd = lane & 1;
        const Real low = (odd ? value[1] : value[0]) + __shfl_xor_sync(all_lanes, odd ? value[0] : value[1], 1);
        const Real high = (odd ? value[3] : value[2]) + __shfl_xor_sync(all_lanes, odd ? value[2] : value[3], 1);
        const bool upper = lane & 2;
        x = (upper ? high : low) + __shfl_xor_sync(all_lanes, upper ? low : high, 2);
        step = 4;
    } else {
        static_assert(R == 1, "one, two or four rows");
    }
#pragma unroll
    for (; step < warp_size; step *= 2) x += __shfl_xor_sync(all_lanes, x, step);
    return x;
}

class Warp {
 public:
    static constexpr int max_block_threads = 128;  // four warps
    static constexpr int max_size = 32;
    __device__ __forceinline__ explicit Warp(double*) : rank_(static_cast<int>(threadIdx.x) % warp_size) {}
    __device__ __forceinline__ int rank() const { return rank_; }
    __device__ __forceinline__ int lane() const { return rank_; }
    __device__ __forceinline__ int size() const { return warp_size; }
    // The index of the group in its block, and the number of groups in the block.
    __device__ __forceinline__ int index() const { return static_cast<int>(threadIdx.x) / warp_size; }
    __device__ __forceinline__ int groups_in_block() const { return static_cast<int>(blockDim.x) / warp_size; }

    __device__ __forceinline__ double sum(double x) const { return warp_sum(x); }
    __device__ __forceinline__ double max(double x) const { return warp_max(x); }

    // Q sums for each of R rows: lane l gets the sums of row l % R.
    template <int R, int Q, typename Real>
    __device__ __forceinline__ void sum_rows(const Real (&values)[Q][R], double (&out)[Q]) {
#pragma unroll
        for (int k = 0; k < Q; ++k) out[k] = static_cast<double>(warp_sum_rows(values[k], rank_));
    }

 private:
    int rank_;
};

class Block {
 public:
    static constexpr int max_block_threads = 512;
    static constexpr int max_size = max_block_threads;
    // `exchange`: exchange_doubles() values in shared memory.
    __device__ __forceinline__ explicit Block(double* exchange) : exchange_(exchange), half_(0) {}
    __device__ __forceinline__ int rank() const { return static_cast<int>(threadIdx.x); }
    __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x) % warp_size; }
    __device__ __forceinline__ int size() const { return static_cast<int>(blockDim.x); }
    __device__ __forceinline__ int index() const { return 0; }
    __device__ __forceinline__ int groups_in_block() const { return 1; }

    __device__ __forceinline__ double sum(double x) const {
        return over_warps(warp_sum(x), [](double a, double b) { return a + b; });
    }
    __device__ __forceinline__ double max(double x) const {
        return over_warps(warp_max(x), [](double a, double b) { return fmax(a, b); });
    }

    // One barrier per call: calls alternate between the two halves of `exchange` (double buffering), and a warp that
    // rewrites a half has passed the barrier that every reader of it reached after reading.
    template <int R, int Q, typename Real>
    __device__ __forceinline__ void sum_rows(const Real (&values)[Q][R], double (&out)[Q]) {
        const int warps = size() / warp_size;
        const int warp = rank() / warp_size;
        double* here = exchange_ + (half_ ? warps * max_values : 0);
        half_ = !half_;
#pragma unroll
        for (int k = 0; k < Q; ++k) {
            const double x = static_cast<double>(warp_sum_rows(values[k], lane()));
            if (lane() < R) here[(warp * Q + k) * R + lane()] = x;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < Q; ++k) out[k] = 0.0;
        for (int w = 0; w < warps; ++w) {
#pragma unroll
            for (int k = 0; k < Q; ++k) out[k] += here[(w * Q + k) * R + lane() % R];
        }
    }

    static constexpr int max_values = 12;  // Q * R
    __host__ __device__ static constexpr int exchange_doubles(int warps) { return warps * (2 * max_values + 1); }

 private:
    template <typename Combine>
    __device__ __forceinline__ double over_warps(double x, Combine combine) const {
        const int warps = size() / warp_size;
        double* here = exchange_ + 2 * warps * max_values;
        if (lane() == 0) here[rank() / warp_size] = x;
        __syncthreads();
        x = here[0];
        for (int w = 1; w < warps; ++w) x = combine(x, here[w]);
        __syncthreads();
        return x;
    }

    double* exchange_;
    bool half_;
};

// Adds to a total in two limbs. The thread whose addition wraps the low limb sees that in the value that the atomic
// returns, and carries. Any order of any number of additions gives the same bits.
FR_DEVICE void add_to_total(uint64_t* low, uint64_t* high, Total total) {
    const auto add = static_cast<unsigned long long>(total);
    const unsigned long long before = atomicAdd(reinterpret_cast<unsigned long long*>(low), add);
    const unsigned long long carried = static_cast<unsigned long long>(total >> 64) + (before + add < before ? 1 : 0);
    if (carried != 0) atomicAdd(reinterpret_cast<unsigned long long*>(high), carried);
}
FR_DEVICE void add_to_total(uint64_t* low, uint64_t* high, int64_t steps) {
    add_to_total(low, high, total_of_steps(steps));
}

// Counts a bad row and keeps the first one (device_layout.h).
FR_DEVICE void record_bad(uint64_t* bad, int64_t row, RowState state) {
    if (!bad) return;
    auto* const words = reinterpret_cast<unsigned long long*>(bad);
    atomicAdd(words, 1ull);
    atomicMax(words + 1,
              static_cast<unsigned long long>(first_bad_base) -
                  (static_cast<unsigned long long>(row) << state_bits | static_cast<unsigned long long>(state)));
}

}  // namespace cuda
}  // namespace fastrealign
