// vjp: for each row y and a gradient g of f(y; s, b, c), the gradient of y. Compiled once for each instruction set
// (FR_ISA).
//
// Bytes: y and g are read once each and the result is written once. Arithmetic is float64: six dot products, then
// A g + B y + C b + D c (row_gradient.h).
#include <cmath>

#include "row_gradient.h"
#include "simd.h"

namespace fastrealign {
namespace FR_ISA {
namespace {

struct SixDots {
    Dots y, g;  // y.y, y.b, y.c and g.y, g.b, g.c
};

template <typename T>
SixDots six_dots(const T* y, const T* g, const MapVectors& vectors, int64_t d) {
    using Sum = SumOf<D8, D8Part>;
    constexpr int part_lanes = lanes / Sum::parts;
    Sum sums[6];
    const auto add = [&](const T* a, const T* e, int64_t j) FR_LAMBDA {
        FR_UNROLL
        for (int h = 0; h < Sum::parts; ++h) {
            const int lane = h * part_lanes;
            const D8Part y_part = load_part(a + lane, D8Part{}), g_part = load_part(e + lane, D8Part{});
            const D8Part b = load_part(vectors.b + j + lane, D8Part{}), c = load_part(vectors.c + j + lane, D8Part{});
            sums[0].add(h, y_part, y_part);
            sums[1].add(h, y_part, b);
            sums[2].add(h, y_part, c);
            sums[3].add(h, g_part, y_part);
            sums[4].add(h, g_part, b);
            sums[5].add(h, g_part, c);
        }
    };
    int64_t j = 0;
    for (; j + lanes <= d; j += lanes) add(y + j, g + j, j);
    if (j < d) {  // b and c are padded with zeros
        const int count = static_cast<int>(d - j);
        add(first_of<lanes>(y + j, count).values, first_of<lanes>(g + j, count).values, j);
    }
    const auto dot = [&](int i) { return total(sums[i].all()); };
    return {{dot(0), dot(1), dot(2)}, {dot(3), dot(4), dot(5)}};
}

template <typename T>
double at(const T* x, int64_t j) {
    T value;
    memcpy(&value, x + j, sizeof value);
    return to_double(value);
}

// One row whose dot products lose digits or overflow: y divided by a power of two, u and v computed explicitly for
// their norms, then the same closed form. Overwrites `y`.
template <typename T>
RowState vjp_row_slow_path(const RowMap& map, const MapVectors& vectors, double* y, const T* g, T* out, int64_t d) {
    int exponent;
    const RowState state = scale_row(y, d, exponent);
    if (state != RowState::good) return state;
    SixDots dots{};
    for (int64_t j = 0; j < d; ++j) {
        const double e = at(g, j), b = vectors.b[j], c = vectors.c[j];
        dots.y.p += y[j] * y[j];
        dots.y.q += y[j] * b;
        dots.y.r += y[j] * c;
        dots.g.p += e * y[j];
        dots.g.q += e * b;
        dots.g.r += e * c;
    }
    const bool shifted = map.terms != Terms::none;
    const double unit = (shifted ? map.s : 1.0) / std::sqrt(dots.y.p);
    double uu = 0.0, vv = 0.0;
    for (int64_t j = 0; j < d; ++j) {
        const double u = unit * y[j] + vectors.b[j];
        uu += u * u;
    }
    const double norm_u = shifted ? std::sqrt(uu) : 1.0;
    if (shifted && !(norm_u > collapsed_below * (std::fabs(map.s) + std::sqrt(map.bb)))) return RowState::collapsed;
    for (int64_t j = 0; j < d; ++j) {
        const double v = (unit * y[j] + vectors.b[j]) / norm_u + vectors.c[j];
        vv += v * v;
    }
    const double norm_v = map.terms == Terms::bc ? std::sqrt(vv) : 1.0;
    if (map.terms == Terms::bc && !(norm_v > collapsed_below * (1.0 + std::sqrt(map.cc)))) return RowState::collapsed;
    const double beta = 1.0 / (norm_u * norm_v);
    const GradientCoefficients k = gradient_coefficients(map, dots.y, {beta * unit, beta, 1.0 / norm_v}, dots.g);
    for (int64_t j = 0; j < d; ++j) {
        const double value = k.g * at(g, j) + k.y * y[j] + k.b * vectors.b[j] + k.c * vectors.c[j];
        const T narrow = from_double<T>(std::ldexp(value, -exponent));
        memcpy(out + j, &narrow, sizeof narrow);
    }
    return RowState::good;
}

template <typename T>
void vjp(VjpBlock& block) {
    const int64_t d = block.in.d;
    const MapVectors& vectors = block.vectors;
    for (int64_t i = 0; i < block.in.count; ++i) {
        const T* y = reinterpret_cast<const T*>(block.in.data + i * block.in.stride);
        const T* g = reinterpret_cast<const T*>(block.gradient + i * block.gradient_stride);
        T* out = reinterpret_cast<T*>(block.out + i * block.out_stride);
        const SixDots dots = six_dots(y, g, vectors, d);
        Coefficients k;
        RowState state = row_coefficients(*block.map, dots.y, k);
        if (state == RowState::good) {
            const GradientCoefficients of = gradient_coefficients(*block.map, dots.y, k, dots.g);
            const auto value = [&](D8 a, D8 e, D8 b, D8 c) FR_LAMBDA {
                return narrow_to<T>(fma(splat(of.g), e, fma(splat(of.y), a, fma(splat(of.b), b, mul(splat(of.c), c)))));
            };
            int64_t j = 0;
            for (; j + lanes <= d; j += lanes) {
                put(out + j, value(load_d8(y + j), load_d8(g + j), load_d8(vectors.b + j), load_d8(vectors.c + j)));
            }
            if (j < d) {
                const int count = static_cast<int>(d - j);
                put_first<lanes>(
                    out + j,
                    value(load_d8(first_of<lanes>(y + j, count).values), load_d8(first_of<lanes>(g + j, count).values),
                          load_d8(vectors.b + j), load_d8(vectors.c + j)),
                    count);
            }
            continue;
        }
        for (int64_t j = 0; j < d; ++j) block.scratch[j] = at(y, j);
        state = vjp_row_slow_path(*block.map, vectors, block.scratch, g, out, d);
        if (state != RowState::good) {
            memset(static_cast<void*>(out), 0, static_cast<size_t>(d) * sizeof(T));  // 0.0 in every element type
            block.bad.add(block.in.first + i, state);
        }
    }
}

}  // namespace

const VjpKernel vjp_kernels[dtype_count] = {vjp<float>, vjp<Half>, vjp<BFloat>, vjp<double>};

}  // namespace FR_ISA
}  // namespace fastrealign
