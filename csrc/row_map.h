// The algebra of one row, shared by every backend (host and device).
//
// Every step of ReAlign (arXiv 2602.07026) is one row map
//
//     f(y; s, b, c) = pi( pi( s * pi(y) + b ) + c ),      pi(v) = v / |v|
//
// and needs three dot products of the row, p = y.y, q = y.b, r = y.c, besides the constants b.b, b.c and c.c:
//
//     rho = 1/sqrt(p)
//     |u|^2 = s^2 + 2 s rho q + b.b                    u = s rho y + b
//     |v|^2 = 1 + 2 (s rho r + b.c)/|u| + c.c          v = u/|u| + c
//     f = alpha y + beta b + gamma c,    gamma = 1/|v|,  beta = gamma/|u|,  alpha = beta s rho
//
// So each row is read once and written once. This header knows nothing of memory and threads: it takes dot products and
// returns coefficients.
//
// Fast path: dot products, coefficients, entries, in the arithmetic of the kernel. Where that would lose digits,
// row_coefficients returns RowState::recompute, and the kernel recomputes the row in float64 or takes the slow path,
// map_row_slow_path.
#pragma once

#include <cmath>
#include <cstdint>

// Internal linkage: this code is compiled for several instruction sets. With external linkage the linker could keep the
// copy of one translation unit for all of them, with instructions that the machine may not have.
#if defined(__CUDACC__)
#define FR_HOST_DEVICE static __host__ __device__ __forceinline__
#else
#define FR_HOST_DEVICE static inline
#endif

namespace fastrealign {

// Which of b and c the map has. It decides which dot products a kernel takes.
enum class Terms : int { none = 0, b = 1, bc = 2 };

struct RowMap {
    double s;           // scale of the unit row
    double bb, bc, cc;  // b.b, b.c, c.c
    Terms terms;
    // A squared norm below this fraction of the sum of its terms has lost digits to cancellation, and the row is
    // recomputed. The bound depends on the arithmetic of the dot products.
    double cancelled_below;
    // A row is also recomputed where its entries alpha x + beta b + gamma c may lose digits in float32. |alpha x| is at
    // most |result| + |shift|, so it is enough to bound the largest entries of b and c, times beta and gamma. All zero
    // where entries are float64.
    double largest_b, largest_c, largest_shift;
};

// The two bounds, by the arithmetic of a kernel. The error of a float32 entry is at most (2 |result| + 4 |shift| + 1)
// half-units of 2^-24, so a shift of at most 0.6 keeps it below 3e-7. Rounding a result to 16 bits is a thousand times
// coarser.
struct Limits {
    double cancelled_below;
    double largest_shift;  // 0: no bound
};
constexpr Limits float64_throughout{1.0 / 1024, 0.0};
constexpr Limits float32_entries{1.0 / 1024, 0.6};   // float64 dot products, float32 entries
constexpr Limits rounded_entries{1.0 / 1024, 8.0};   // the same, entries rounded to 16 bits
constexpr Limits float32_throughout{1.0 / 16, 8.0};  // float32 dot products, entries rounded to 16 bits
constexpr Limits float32_gradient{1.0 / 4, 0.0};     // float64 dot products, float32 entries that sum four products

// Real: float64, or a vector of one for each of several rows.
template <typename Real>
struct DotsOf {
    Real p, q, r;  // y.y, y.b, y.c
};
using Dots = DotsOf<double>;

template <typename Real>
struct CoefficientsOf {
    Real alpha, beta, gamma;
};
using Coefficients = CoefficientsOf<double>;

enum class RowState : uint8_t {
    good = 0,
    zero = 1,        // y = 0: no direction
    not_finite = 2,  // NaN or Inf in y
    collapsed = 3,   // s*pi(y) + b or pi(...) + c is zero: the map has no value here
    recompute = 4    // the fast path would lose digits; never the final state of a row
};

// A vector shorter than this fraction of the vectors it is the sum of is rounding noise, not a direction.
constexpr double collapsed_below = 0x1p-45;

// Squared norms outside this range over- or underflow in float32 products or in alpha.
constexpr double smallest_p = 0x1p-80;
constexpr double largest_p = 0x1p+80;

constexpr double largest_float64 = 1.7976931348623157e308;

template <typename Real>
FR_HOST_DEVICE Real inverse_sqrt(Real x) {
#if defined(__CUDA_ARCH__)
    return rsqrt(x);  // a third of the instructions of a root and a division
#else
    return 1.0 / sqrt(x);
#endif
}

// Returns for which rows the coefficients are good. Without branches that depend on the row, so that Real can be a
// vector. Written so that a NaN fails the comparisons.
template <typename Real>
FR_HOST_DEVICE auto find_coefficients(const RowMap& map, const DotsOf<Real>& dots, CoefficientsOf<Real>& out) {
    auto good = (dots.p >= smallest_p) & (dots.p <= largest_p);
    const Real rho = inverse_sqrt(dots.p);
    const Real one = Real{} + 1.0;
    Real inv_u = one, inv_v = one;
    if (map.terms != Terms::none) {
        const double ss = map.s * map.s;
        const Real uu = ss + 2.0 * map.s * rho * dots.q + map.bb;
        good &= uu >= map.cancelled_below * (ss + map.bb);
        inv_u = inverse_sqrt(uu);
    }
    if (map.terms == Terms::bc) {
        const Real vv = 1.0 + 2.0 * (map.s * rho * dots.r + map.bc) * inv_u + map.cc;
        good &= vv >= map.cancelled_below * (1.0 + map.cc);
        inv_v = inverse_sqrt(vv);
    }
    out.gamma = inv_v;
    out.beta = inv_v * inv_u;
    out.alpha = map.terms == Terms::none ? rho : out.beta * map.s * rho;
    good &= out.beta * map.largest_b + out.gamma * map.largest_c <= map.largest_shift;
    return good;
}

FR_HOST_DEVICE RowState row_coefficients(const RowMap& map, const Dots& dots, Coefficients& out) {
    return find_coefficients(map, dots, out) ? RowState::good : RowState::recompute;
}

// Divides a row by a power of two, 2^exponent, so that its largest entry is in [1/2, 1): its squares are in range.
FR_HOST_DEVICE RowState scale_row(double* row, int64_t d, int& exponent) {
    double largest = 0.0;
    for (int64_t j = 0; j < d; ++j) {
        const double a = fabs(row[j]);
        if (!(a <= largest_float64)) return RowState::not_finite;
        largest = a > largest ? a : largest;
    }
    if (largest == 0.0) return RowState::zero;
    frexp(largest, &exponent);
    for (int64_t j = 0; j < d; ++j) row[j] = ldexp(row[j], -exponent);
    return RowState::good;
}

// The slow path for one row, in float64: scales by a power of two so that nothing over- or underflows, then computes u
// and v explicitly and takes their norms. Overwrites `row` (d values) with f(row). Rare, so it is written for clarity.
FR_HOST_DEVICE RowState map_row_slow_path(const RowMap& map, double* row, const double* b, const double* c, int64_t d) {
    int exponent;
    const RowState state = scale_row(row, d, exponent);
    if (state != RowState::good) return state;
    double p = 0.0;
    for (int64_t j = 0; j < d; ++j) p += row[j] * row[j];
    const double unit = (map.terms == Terms::none ? 1.0 : map.s) / sqrt(p);
    double uu = 0.0;
    for (int64_t j = 0; j < d; ++j) {
        row[j] = unit * row[j] + (map.terms == Terms::none ? 0.0 : b[j]);
        uu += row[j] * row[j];
    }
    if (map.terms == Terms::none) return RowState::good;
    const double norm_u = sqrt(uu);
    if (!(norm_u > collapsed_below * (fabs(map.s) + sqrt(map.bb)))) return RowState::collapsed;
    double vv = 0.0;
    for (int64_t j = 0; j < d; ++j) {
        row[j] = row[j] / norm_u + (map.terms == Terms::bc ? c[j] : 0.0);
        vv += row[j] * row[j];
    }
    if (map.terms != Terms::bc) return RowState::good;
    const double norm_v = sqrt(vv);
    if (!(norm_v > collapsed_below * (1.0 + sqrt(map.cc)))) return RowState::collapsed;
    for (int64_t j = 0; j < d; ++j) row[j] /= norm_v;
    return RowState::good;
}

}  // namespace fastrealign
