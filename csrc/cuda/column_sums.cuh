// Exact sums of the columns of a thread: accumulators of exact_sum.h in registers, flushed by the weight of the rows.
#pragma once

#include "rows.cuh"

namespace fastrealign {
namespace cuda {

// C * V columns a thread, tiles of R rows. The accumulators of a warp are emptied into 64-bit sums in shared memory, a
// place for each thread, and those of the warps are added to the totals together. With one row a block, where the
// vectors of the map need that memory, accumulators are emptied into the totals.
//
// With b and c (`shifted`), the sums of beta and gamma are kept too, of the rows l % R in lane l.
template <int C, int V, int R, typename Group, bool shifted>
class ColumnSums {
    static constexpr int columns = C * V;
    static constexpr bool in_shared = std::is_same_v<Group, Warp>;

 public:
    // Shared memory, in doubles, for a block of `threads`.
    __host__ __device__ static constexpr int doubles(int threads) {
        return (in_shared ? threads * columns : 0) + (shifted ? threads / warp_size * 2 + 2 : 0);
    }

    // Called by all threads of the block; a barrier must follow.
    __device__ __forceinline__ ColumnSums(double* memory, const Group& group, const RowsParams& p)
        : sums_(reinterpret_cast<int64_t*>(memory)), group_(group), p_(p) {
        empty();
        if constexpr (in_shared) {
#pragma unroll
            for (int k = 0; k < columns; ++k) mine()[k * warp_size] = 0;
        }
        if (shifted && threadIdx.x == 0) {
            scales()[0] = ldexp(1.0, vector_exponent(p.map[map_field::largest_b]));
            scales()[1] = ldexp(1.0, vector_exponent(p.map[map_field::largest_c]));
        }
    }

    // Called before the rows of a tile are added, with the weight of row l % R of it in lane l.
    __device__ __forceinline__ void make_room(double weight) {
        weight_ += weight;
        if (__ballot_sync(all_lanes, weight_ > weight_before_flush / R)) {
            park();
            weight_ = weight;
        }
    }

    // Adds alpha x; `alpha` is odd or zero.
    __device__ __forceinline__ void add(int v, int e, double alpha, double x) {
        sum_[v][e] = fma(alpha, x, sum_[v][e]);
    }

    // Adds beta and gamma of row l % R in lane l.
    __device__ __forceinline__ void add_coefficients(const Coefficients& k) {
        beta_ += value_steps(k.beta * scales()[0]);
        gamma_ += value_steps(k.gamma * scales()[1]);
    }

    // Adds everything to the totals; called by all threads of a block.
    __device__ __forceinline__ void flush() {
        park();
        weight_ = 0.0;
        if constexpr (!in_shared && !shifted) return;
        int64_t beta = 0, gamma = 0;
        if constexpr (shifted) {
            beta = over_rows(beta_);
            gamma = over_rows(gamma_);
            beta_ = gamma_ = 0;
            if (in_shared && group_.lane() == 0) {
                of_warps()[2 * group_.index()] = beta;
                of_warps()[2 * group_.index() + 1] = gamma;
            }
        }
        __syncthreads();
        if constexpr (shifted && in_shared) {
            beta = gamma = 0;
            for (int w = 0; w < group_.groups_in_block(); ++w) {
                beta += of_warps()[2 * w];
                gamma += of_warps()[2 * w + 1];
            }
        }
        for (int j = static_cast<int>(threadIdx.x); j < p_.d; j += static_cast<int>(blockDim.x)) {
            Total total = 0;
            if constexpr (in_shared) total = total_of_steps(take(j));
            if constexpr (shifted) {
                total += total_of_product(beta, vector_steps(map_b(p_)[j], 1.0 / scales()[0]));
                total += total_of_product(gamma, vector_steps(map_c(p_)[j], 1.0 / scales()[1]));
            }
            add_to_total(p_.low + j, p_.high + j, total);
        }
        __syncthreads();
    }

 private:
    __device__ __forceinline__ void empty() {
#pragma unroll
        for (int v = 0; v < V; ++v) {
#pragma unroll
            for (int e = 0; e < C; ++e) sum_[v][e] = rounding_offset;
        }
    }

    __device__ __forceinline__ void park() {
#pragma unroll
        for (int v = 0; v < V; ++v) {
            const int chunk = group_.rank() + v * group_.size();
#pragma unroll
            for (int e = 0; e < C; ++e) {
                // No more loads or additions at once than these, or registers would not suffice.
                if (!in_shared || e == 0) __syncwarp();
                const int64_t steps = sum_steps(bits_of(sum_[v][e]));
                if constexpr (in_shared) {
                    mine()[(v * C + e) * warp_size] += steps;
                } else if (chunk * C < p_.d) {
                    const int64_t j = static_cast<int64_t>(chunk) * C + e;
                    add_to_total(p_.low + j, p_.high + j, steps);
                }
            }
        }
        empty();
    }

    // The 64-bit sums of column j over the warps of the block; they are zero then.
    __device__ __forceinline__ int64_t take(int j) {
        const int chunk = j / C;
        const int place = (chunk / warp_size * C + j % C) * warp_size + chunk % warp_size;
        int64_t steps = 0;
        for (int w = 0; w < group_.groups_in_block(); ++w) {
            int64_t& of_warp = sums_[w * columns * warp_size + place];
            steps += of_warp;
            of_warp = 0;
        }
        return steps;
    }

    __device__ __forceinline__ int64_t over_rows(int64_t x) const {
#pragma unroll
        for (int step = 1; step < R; step *= 2) x += __shfl_xor_sync(all_lanes, x, step);
        return x;
    }

    __device__ __forceinline__ int64_t* mine() const {
        return sums_ + group_.index() * columns * warp_size + group_.lane();
    }
    __device__ __forceinline__ int64_t* of_warps() const {
        return sums_ + (in_shared ? static_cast<int>(blockDim.x) * columns : 0);
    }
    // The powers of two of exact_sum.h that beta and gamma are multiplied by.
    __device__ __forceinline__ double* scales() const {
        return reinterpret_cast<double*>(of_warps() + static_cast<int>(blockDim.x) / warp_size * 2);
    }

    double sum_[V][C];
    double weight_ = 0.0;
    int64_t beta_ = 0, gamma_ = 0;
    int64_t* sums_;
    const Group& group_;
    const RowsParams& p_;
};

// In place of ColumnSums where nothing is summed.
struct NoSums {
    __host__ __device__ static constexpr int doubles(int) { return 0; }
    template <typename Group>
    __device__ __forceinline__ NoSums(double*, const Group&, const RowsParams&) {}
    __device__ __forceinline__ void make_room(double) {}
    __device__ __forceinline__ void flush() {}
};

}  // namespace cuda
}  // namespace fastrealign
