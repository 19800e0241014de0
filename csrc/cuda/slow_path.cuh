// The slow path of row_map.h for a thread group: float64, scaled so that nothing over- or underflows, with u and v
// computed explicitly for their norms. The row is reloaded for each step (from a cache), so that no storage of its size
// is needed.
#pragma once

#include "thread_group.cuh"

namespace fastrealign {
namespace cuda {

// 2^k for |k| <= 1022.
FR_DEVICE double power_of_two(int k) { return __longlong_as_double(static_cast<long long>(k + 1023) << 52); }

// Load: load(j) returns element j of the row in float64. All threads of a group call find() together and get the same
// result.
template <typename Load>
class SlowPathRow {
 public:
    // b and c: zeros where the map has none.
    __device__ __forceinline__ SlowPathRow(const RowMap& map, const double* b, const double* c, int d, Load load)
        : map_(map), b_(b), c_(c), d_(d), load_(load) {}

    template <typename Group>
    __device__ __forceinline__ RowState find(const Group& group) {
        double largest = 0.0;
        bool finite = true;
#pragma unroll 1
        for (int j = group.rank(); j < d_; j += group.size()) {
            const double a = fabs(load_(j));
            finite = finite && a <= largest_float64;
            largest = fmax(largest, a);
        }
        largest = group.max(finite ? largest : __longlong_as_double(0x7ff0000000000000ll));
        if (!(largest <= largest_float64)) return RowState::not_finite;
        if (largest == 0.0) return RowState::zero;
        // 2^-exponent may itself be out of range, so it is applied in two factors.
        const int exponent = static_cast<int>(__double_as_longlong(largest) >> 52) - 1022;
        half_scale_ = power_of_two(-(exponent / 2));
        other_half_ = power_of_two(-(exponent - exponent / 2));
        inv_y_ = 1.0 / norm(group, [&](int j) { return load_(j) * half_scale_ * other_half_; });
        if (map_.terms != Terms::none) {
            const double norm_u = norm(group, [&](int j) { return projected(j); });
            if (!(norm_u > collapsed_below * (fabs(map_.s) + sqrt(map_.bb)))) return RowState::collapsed;
            inv_u_ = 1.0 / norm_u;
        }
        if (map_.terms == Terms::bc) {
            const double norm_v = norm(group, [&](int j) { return value(j); });
            if (!(norm_v > collapsed_below * (1.0 + sqrt(map_.cc)))) return RowState::collapsed;
            inv_v_ = 1.0 / norm_v;
        }
        return RowState::good;
    }

    // Entries of pi(y), of pi(u) and of f(y).
    __device__ __forceinline__ double unit(int j) const { return load_(j) * half_scale_ * other_half_ * inv_y_; }
    __device__ __forceinline__ double projected(int j) const {
        return map_.terms == Terms::none ? unit(j) : fma(map_.s, unit(j), b_[j]) * inv_u_;
    }
    __device__ __forceinline__ double value(int j) const {
        return map_.terms == Terms::bc ? (projected(j) + c_[j]) * inv_v_ : projected(j);
    }

    __device__ __forceinline__ double inv_u() const { return inv_u_; }
    __device__ __forceinline__ double inv_v() const { return inv_v_; }
    // x / |y|; it may be in range where 1 / |y| is not.
    __device__ __forceinline__ double over_norm(double x) const { return x * inv_y_ * half_scale_ * other_half_; }

 private:
    template <typename Group, typename Entry>
    __device__ __forceinline__ double norm(const Group& group, Entry entry) const {
        double sum = 0.0;
#pragma unroll 1
        for (int j = group.rank(); j < d_; j += group.size()) {
            const double x = entry(j);
            sum = fma(x, x, sum);
        }
        return sqrt(group.sum(sum));
    }

    RowMap map_;
    const double* b_;
    const double* c_;
    int d_;
    Load load_;
    double half_scale_ = 1.0, other_half_ = 1.0;
    double inv_y_ = 1.0, inv_u_ = 1.0, inv_v_ = 1.0;
};

// Calls emit(j, value) with the entries of f(row) for j = rank, rank + size, ...; only for good rows.
template <typename Group, typename Load, typename Emit>
FR_DEVICE RowState map_row_slow_path(const Group& group, const RowMap& map, const double* b, const double* c, int d,
                                     Load load, Emit emit) {
    SlowPathRow<Load> row(map, b, c, d, load);
    const RowState state = row.find(group);
    if (state != RowState::good) return state;
#pragma unroll 1
    for (int j = group.rank(); j < d; j += group.size()) emit(j, row.value(j));
    return state;
}

}  // namespace cuda
}  // namespace fastrealign
