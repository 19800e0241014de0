// The vector-Jacobian product of the row map in closed form (host and device).
//
// With o = f(y), e' = pi(u) = v - c, and a gradient g of o, each projection keeps the part of the gradient that is
// orthogonal to its output:
//
//     g_v = gamma (g - (g.o) o),     g_u = (g_v - (g_v.e') e') / |u|,     g_y = rho s (g_u - rho^2 (g_u.y) y)
//
// o and e' are linear combinations of y, b and c, so every inner product follows from six dot products of the row, and
//
//     g_y = A g + B y + C b + D c
#pragma once

#include "row_map.h"

namespace fastrealign {

struct GradientCoefficients {
    double g, y, b, c;  // A, B, C, D
};

// k: the result of row_coefficients for `dots` (y.y, y.b, y.c); `with`: g.y, g.b, g.c.
FR_HOST_DEVICE GradientCoefficients gradient_coefficients(const RowMap& map, const Dots& dots, const Coefficients& k,
                                                          const Dots& with) {
    const double s = map.terms == Terms::none ? 1.0 : map.s;
    const double rho = 1.0 / sqrt(dots.p);
    const double inv_u = k.beta / k.gamma;
    const double e_y = s * rho * inv_u;  // e' = e_y y + inv_u b

    const double g_o = k.alpha * with.p + k.beta * with.q + k.gamma * with.r;
    const double o_dot_y = k.alpha * dots.p + k.beta * dots.q + k.gamma * dots.r;
    const double o_dot_b = k.alpha * dots.q + k.beta * map.bb + k.gamma * map.bc;
    const double gv_dot_y = k.gamma * (with.p - g_o * o_dot_y);
    const double gv_dot_b = k.gamma * (with.q - g_o * o_dot_b);
    const double gv_e = e_y * gv_dot_y + inv_u * gv_dot_b;
    const double gu_dot_y = inv_u * (gv_dot_y - gv_e * (e_y * dots.p + inv_u * dots.q));

    const double outer = rho * s;
    const double through = outer * inv_u;
    return {through * k.gamma, -through * (k.gamma * g_o * k.alpha + gv_e * e_y) - outer * rho * rho * gu_dot_y,
            -through * (k.gamma * g_o * k.beta + gv_e * inv_u), -through * k.gamma * g_o * k.gamma};
}

}  // namespace fastrealign
