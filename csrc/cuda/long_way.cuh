// row_the_long_way of row_map.h for a team of threads: float64, scaled so that nothing over- or underflows, u and v
// themselves and their norms. The row is read again for each step (it lies in a cache by then), so that nothing of its
// size is held.
#pragma once

#include "team.cuh"

namespace fastrealign {
namespace cuda {

// 2^k for |k| <= 1022.
FR_DEVICE double power_of_two(int k) { return __longlong_as_double(static_cast<long long>(k + 1023) << 52); }

// Load: load(j) gives element j of the row in float64. A team calls find() together and gets the same answer
// everywhere.
template <typename Load>
class LongRow {
 public:
    // b and c: zeros where the map has none.
    __device__ __forceinline__ LongRow(const RowMap& map, const double* b, const double* c, int d, Load load)
        : map_(map), b_(b), c_(c), d_(d), load_(load) {}

    template <typename Team>
    __device__ __forceinline__ RowState find(const Team& team) {
        constexpr double most = 1.7976931348623157e308;
        double largest = 0.0;
        bool finite = true;
#pragma unroll 1
        for (int j = team.rank(); j < d_; j += team.size()) {
            const double a = fabs(load_(j));
            finite = finite && a <= most;
            largest = fmax(largest, a);
        }
        largest = team.max(finite ? largest : __longlong_as_double(0x7ff0000000000000ll));
        if (!(largest <= most)) return RowState::not_finite;
        if (largest == 0.0) return RowState::zero;
        // 2^-exponent may itself be out of range: it is applied in two halves.
        const int exponent = static_cast<int>(__double_as_longlong(largest) >> 52) - 1022;
        half_scale_ = power_of_two(-(exponent / 2));
        other_half_ = power_of_two(-(exponent - exponent / 2));
        inv_y_ = 1.0 / norm(team, [&](int j) { return load_(j) * half_scale_ * other_half_; });
        if (map_.terms != Terms::none) {
            const double norm_u = norm(team, [&](int j) { return projected(j); });
            if (!(norm_u > collapsed_below * (fabs(map_.s) + sqrt(map_.bb)))) return RowState::collapsed;
            inv_u_ = 1.0 / norm_u;
        }
        if (map_.terms == Terms::bc) {
            const double norm_v = norm(team, [&](int j) { return value(j); });
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
    // x / |y|, which may be in range where 1 / |y| is not.
    __device__ __forceinline__ double over_norm(double x) const { return x * inv_y_ * half_scale_ * other_half_; }

 private:
    template <typename Team, typename Entry>
    __device__ __forceinline__ double norm(const Team& team, Entry entry) const {
        double sum = 0.0;
#pragma unroll 1
        for (int j = team.rank(); j < d_; j += team.size()) {
            const double x = entry(j);
            sum = fma(x, x, sum);
        }
        return sqrt(team.sum(sum));
    }

    RowMap map_;
    const double* b_;
    const double* c_;
    int d_;
    Load load_;
    double half_scale_ = 1.0, other_half_ = 1.0;
    double inv_y_ = 1.0, inv_u_ = 1.0, inv_v_ = 1.0;
};

// emit(j, value) takes f(row) for j = rank, rank + size, ..., and is called for good rows only.
template <typename Team, typename Load, typename Emit>
FR_DEVICE RowState take_the_long_way(const Team& team, const RowMap& map, const double* b, const double* c, int d,
                                     Load load, Emit emit) {
    LongRow<Load> row(map, b, c, d, load);
    const RowState state = row.find(team);
    if (state != RowState::good) return state;
#pragma unroll 1
    for (int j = team.rank(); j < d; j += team.size()) emit(j, row.value(j));
    return state;
}

}  // namespace cuda
}  // namespace fastrealign
