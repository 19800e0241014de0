"""vjp: J(y)^T g, J the Jacobian of the row map at each row y. Triton version of csrc/{cpu,cuda}/vjp; see csrc/row_gradient.h.

Bytes: y and g come from memory once each, the result is written once. A row for which the map has no value gets zeros.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .apply import store_tile
from .rows import (
    BB,
    BC,
    CANCELLED_BELOW,
    GOOD,
    HEADER,
    RECOMPUTE,
    TERMS_B,
    TERMS_BC,
    coefficients,
    dots,
    load_tile,
    load_vector,
    rounded_for,
    slow_path,
)


@triton.jit
def gradient_dots(
    g_ptr,
    y_ptr,
    map_ptr,
    rows,
    here,
    g_stride,
    y_stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TERMS: tl.constexpr,
):
    """g.y, g.b and g.c of each row: float64 [ROWS]."""
    p = tl.zeros([ROWS, BLOCK], tl.float64)
    q = tl.zeros([ROWS, BLOCK], tl.float64)
    r = tl.zeros([ROWS, BLOCK], tl.float64)
    for at in range(0, D, BLOCK):
        g = load_tile(g_ptr, rows, here, g_stride, at, D, BLOCK).to(tl.float64)
        p += g * load_tile(y_ptr, rows, here, y_stride, at, D, BLOCK).to(tl.float64)
        if TERMS >= TERMS_B:
            q += g * load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
        if TERMS == TERMS_BC:
            r += g * load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]
    return tl.sum(p, 1), tl.sum(q, 1), tl.sum(r, 1)


@triton.jit
def combine(yy, yb, yc, gy, gb, gc, unit, inv_u, inv_v, map_ptr):
    """A, B, C, D of g_y = A g + B y + C b + D c, where u = unit y + b; dots of y, and of g, with y, b and c."""
    bb = tl.load(map_ptr + BB)
    bc = tl.load(map_ptr + BC)
    alpha = inv_v * inv_u * unit
    beta = inv_v * inv_u
    gamma = inv_v
    e_y = inv_u * unit  # e' = e_y y + inv_u b
    g_o = alpha * gy + beta * gb + gamma * gc
    o_y = alpha * yy + beta * yb + gamma * yc
    o_b = alpha * yb + beta * bb + gamma * bc
    gv_y = gamma * (gy - g_o * o_y)
    gv_b = gamma * (gb - g_o * o_b)
    gv_e = e_y * gv_y + inv_u * gv_b
    gu_y = inv_u * (gv_y - gv_e * (e_y * yy + inv_u * yb))
    outer = unit
    through = outer * inv_u
    of_y = -through * (gamma * g_o * alpha + gv_e * e_y) - outer * gu_y / yy
    return through * gamma, of_y, -through * (gamma * g_o * beta + gv_e * inv_u), -through * gamma * g_o * gamma


@triton.jit(do_not_specialize=["n"])
def vjp_kernel(
    y_ptr,
    g_ptr,
    out_ptr,
    map_ptr,
    n,
    y_stride,
    g_stride,
    out_stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TERMS: tl.constexpr,
):
    """y, g and out (n, D), strides in elements."""
    program = tl.program_id(0)
    for tile in range(program, tl.cdiv(n.to(tl.int64), ROWS), tl.num_programs(0)):
        rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        here = rows < n
        yy, yb, yc = dots(y_ptr, map_ptr, rows, here, y_stride, D, ROWS, BLOCK, TERMS, tl.float64)
        gy, gb, gc = gradient_dots(g_ptr, y_ptr, map_ptr, rows, here, g_stride, y_stride, D, ROWS, BLOCK, TERMS)
        alpha, beta, gamma, state = coefficients(yy, yb, yc, map_ptr, CANCELLED_BELOW, 0.0, TERMS)
        # alpha = beta s rho, and with scale 1 the unit is s rho.
        unit = alpha / tl.where(state == GOOD, beta, 1.0)
        inv_u = beta / tl.where(state == GOOD, gamma, 1.0)
        scale = tl.zeros_like(alpha) + 1.0
        recompute = here & (state == RECOMPUTE)
        if tl.sum(recompute.to(tl.int32), 0) > 0:
            s_scale, s_unit, s_inv_u, s_inv_v, found = slow_path(
                y_ptr, map_ptr, rows, recompute, y_stride, D, ROWS, BLOCK, TERMS
            )
            scale = tl.where(recompute, s_scale, scale)
            unit = tl.where(recompute, s_unit, unit)
            inv_u = tl.where(recompute, s_inv_u, inv_u)
            gamma = tl.where(recompute, s_inv_v, gamma)
            state = tl.where(recompute, found, state)
            # The dot products of y / scale: those of y itself may have over- or underflowed.
            p = tl.zeros([ROWS], tl.float64)
            q = tl.zeros([ROWS], tl.float64)
            r = tl.zeros([ROWS], tl.float64)
            m = tl.zeros([ROWS], tl.float64)
            for at in range(0, D, BLOCK):
                y = load_tile(y_ptr, rows, recompute, y_stride, at, D, BLOCK).to(tl.float64) / scale[:, None]
                g = load_tile(g_ptr, rows, recompute, g_stride, at, D, BLOCK).to(tl.float64)
                p += tl.sum(y * y, 1)
                m += tl.sum(g * y, 1)
                if TERMS >= TERMS_B:
                    q += tl.sum(y * load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :], 1)
                if TERMS == TERMS_BC:
                    r += tl.sum(y * load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :], 1)
            yy = tl.where(recompute, p, yy)
            yb = tl.where(recompute, q, yb)
            yc = tl.where(recompute, r, yc)
            gy = tl.where(recompute, m, gy)
        good = here & (state == GOOD)
        yy = tl.where(good, yy, 1.0)
        # All in terms of y / scale; the gradient with respect to y is divided by scale once more.
        of_g, of_y, of_b, of_c = combine(yy, yb, yc, gy, gb, gc, unit, inv_u, gamma, map_ptr)
        for at in range(0, D, BLOCK):
            y = load_tile(y_ptr, rows, good, y_stride, at, D, BLOCK).to(tl.float64) / scale[:, None]
            g = load_tile(g_ptr, rows, good, g_stride, at, D, BLOCK).to(tl.float64)
            value = of_g[:, None] * g + of_y[:, None] * y
            if TERMS >= TERMS_B:
                value += of_b[:, None] * load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
            if TERMS == TERMS_BC:
                value += of_c[:, None] * load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]
            value = tl.where(good[:, None], value / scale[:, None], 0.0)
            store_tile(out_ptr, rows, here, out_stride, at, rounded_for(out_ptr, value), D, BLOCK)
