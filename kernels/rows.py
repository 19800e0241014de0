"""Shared by the Triton kernels: tiles of rows, the coefficients of csrc/row_map.h, its slow path.

A program is one warp, so nothing in it waits at a barrier. It processes a tile of ROWS rows: one pass over its columns for the
dot products, BLOCK columns of all rows at a time, and one to write or add the rows, which then come from a cache.

The map is one float64 tensor, laid out as csrc/device_layout.h describes. All constants come from the C++ headers.
"""

from __future__ import annotations

import triton
import triton.language as tl

import fastrealign._core as _core

# csrc/device_layout.h: the header of the map, and the first bad row.
HEADER = tl.constexpr(_core.MAP_HEADER)
S = tl.constexpr(_core.MAP_S)
BB = tl.constexpr(_core.MAP_BB)
BC = tl.constexpr(_core.MAP_BC)
CC = tl.constexpr(_core.MAP_CC)
LARGEST_B = tl.constexpr(_core.MAP_LARGEST_B)
LARGEST_C = tl.constexpr(_core.MAP_LARGEST_C)
STATE_BITS = tl.constexpr(_core.STATE_BITS)
FIRST_BAD_BASE = tl.constexpr(_core.FIRST_BAD_BASE)

# csrc/row_map.h: the terms of a map, the states of a row, bounds.
TERMS_B = tl.constexpr(_core.TERMS_B)
TERMS_BC = tl.constexpr(_core.TERMS_BC)
GOOD = tl.constexpr(_core.GOOD)
ZERO = tl.constexpr(_core.ZERO)
NOT_FINITE = tl.constexpr(_core.NOT_FINITE)
COLLAPSED = tl.constexpr(_core.COLLAPSED)
RECOMPUTE = tl.constexpr(_core.RECOMPUTE)
SMALLEST_P = tl.constexpr(_core.SMALLEST_P)
LARGEST_P = tl.constexpr(_core.LARGEST_P)
COLLAPSED_BELOW = tl.constexpr(_core.COLLAPSED_BELOW)
CANCELLED_BELOW = tl.constexpr(_core.CANCELLED_BELOW)

# Blocks of columns whose loads are under way together.
UNROLL = tl.constexpr(4)


@triton.jit
def columns_at(at, D: tl.constexpr, BLOCK: tl.constexpr):
    """Indices of the next BLOCK columns, and which of them exist."""
    columns = at + tl.arange(0, BLOCK)
    return columns, columns < D


@triton.jit
def tile_mask(here, exists, D: tl.constexpr, BLOCK: tl.constexpr):
    mask = here[:, None] & tl.full([1, BLOCK], 1, tl.int1)
    if D % BLOCK != 0:
        mask = mask & exists[None, :]
    return mask


@triton.jit
def load_tile(ptr, rows, here, stride, at, D: tl.constexpr, BLOCK: tl.constexpr):
    """A tile in its own element type; zeros where the mask is false."""
    columns, exists = columns_at(at, D, BLOCK)
    return tl.load(ptr + rows[:, None] * stride + columns[None, :], mask=tile_mask(here, exists, D, BLOCK), other=0.0)


@triton.jit
def load_vector(ptr, at, D: tl.constexpr, BLOCK: tl.constexpr):
    columns, exists = columns_at(at, D, BLOCK)
    return tl.load(ptr + columns, mask=exists, other=0.0) if D % BLOCK != 0 else tl.load(ptr + columns)


@triton.jit
def rounded_for(ptr, value):
    """A float64 or float32 tile rounded to the element type of `ptr`, by way of float32, as on the CPU."""
    if ptr.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    return value.to(ptr.dtype.element_ty)


@triton.jit
def dots(
    x_ptr,
    map_ptr,
    rows,
    here,
    stride,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TERMS: tl.constexpr,
    REAL: tl.constexpr,
):
    """y.y, y.b and y.c of each row, added in REAL: float64 [ROWS]."""
    p = tl.zeros([ROWS, BLOCK], REAL)
    q = tl.zeros([ROWS, BLOCK], REAL)
    r = tl.zeros([ROWS, BLOCK], REAL)
    for at in tl.range(0, D, BLOCK, loop_unroll_factor=UNROLL):
        x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(REAL)
        p = tl.fma(x, x, p)
        if TERMS >= TERMS_B:
            b = load_vector(map_ptr + HEADER, at, D, BLOCK).to(REAL)
            q = tl.fma(x, tl.broadcast_to(b[None, :], [ROWS, BLOCK]), q)
        if TERMS == TERMS_BC:
            c = load_vector(map_ptr + HEADER + D, at, D, BLOCK).to(REAL)
            r = tl.fma(x, tl.broadcast_to(c[None, :], [ROWS, BLOCK]), r)
    return tl.sum(p, 1).to(tl.float64), tl.sum(q, 1).to(tl.float64), tl.sum(r, 1).to(tl.float64)


@triton.jit
def coefficients(p, q, r, map_ptr, CANCELLED: tl.constexpr, SHIFT: tl.constexpr, TERMS: tl.constexpr):
    """alpha, beta, gamma and the state of each row; the bounds as in csrc/row_map.h, SHIFT 0 for none."""
    s = tl.load(map_ptr + S)
    bb = tl.load(map_ptr + BB)
    bc = tl.load(map_ptr + BC)
    cc = tl.load(map_ptr + CC)
    good = (p >= SMALLEST_P) & (p <= LARGEST_P)
    rho = 1.0 / tl.sqrt(tl.where(good, p, 1.0))
    inv_u = tl.zeros_like(p) + 1.0
    inv_v = inv_u
    if TERMS >= TERMS_B:
        terms = s * s + bb
        uu = s * s + 2.0 * s * rho * q + bb
        good &= uu >= terms * CANCELLED
        inv_u = 1.0 / tl.sqrt(tl.where(good, uu, 1.0))
    if TERMS == TERMS_BC:
        vv = 1.0 + 2.0 * (s * rho * r + bc) * inv_u + cc
        good &= vv >= (1.0 + cc) * CANCELLED
        inv_v = 1.0 / tl.sqrt(tl.where(good, vv, 1.0))
    gamma = inv_v
    beta = inv_v * inv_u
    alpha = beta * rho
    if TERMS >= TERMS_B:
        alpha = alpha * s
    if SHIFT > 0.0:
        good &= beta * tl.load(map_ptr + LARGEST_B) + gamma * tl.load(map_ptr + LARGEST_C) <= SHIFT
    return alpha, beta, gamma, tl.where(good, GOOD, RECOMPUTE)


@triton.jit
def slow_path(
    x_ptr, map_ptr, rows, here, stride, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TERMS: tl.constexpr
):
    """Scale, unit, 1/|u|, 1/|v| and the state of each row, for `slow_path_values`; u and v are computed explicitly.

    All in float64. Rows are divided by their largest entry first, so that nothing over- or underflows.
    """
    largest = tl.zeros([ROWS], tl.float64)
    finite = here
    for at in range(0, D, BLOCK):
        x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(tl.float64)
        # x * 0 is not 0 for NaN and Inf only.
        finite &= tl.sum((x * 0.0 != 0.0).to(tl.int32), 1) == 0
        largest = tl.maximum(largest, tl.max(tl.where(x * 0.0 == 0.0, tl.abs(x), 0.0), 1))
    nothing = largest == 0.0
    scale = tl.where(nothing, 1.0, largest)
    p = tl.zeros([ROWS], tl.float64)
    for at in range(0, D, BLOCK):
        x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(tl.float64) / scale[:, None]
        p += tl.sum(x * x, 1)
    unit = 1.0 / tl.sqrt(tl.where(nothing | (finite == 0), 1.0, p))
    inv_u = tl.zeros([ROWS], tl.float64) + 1.0
    inv_v = inv_u
    collapsed = tl.zeros([ROWS], tl.int1)
    if TERMS >= TERMS_B:
        s = tl.load(map_ptr + S)
        bb = tl.load(map_ptr + BB)
        cc = tl.load(map_ptr + CC)
        unit = unit * s
        uu = tl.zeros([ROWS], tl.float64)
        for at in range(0, D, BLOCK):
            x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(tl.float64) / scale[:, None]
            u = unit[:, None] * x + load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
            uu += tl.sum(u * u, 1)
        norm_u = tl.sqrt(uu)
        collapsed = (norm_u > (tl.abs(s) + tl.sqrt(bb)) * COLLAPSED_BELOW) == 0
        inv_u = 1.0 / tl.where(collapsed, 1.0, norm_u)
    if TERMS == TERMS_BC:
        vv = tl.zeros([ROWS], tl.float64)
        for at in range(0, D, BLOCK):
            x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(tl.float64) / scale[:, None]
            u = unit[:, None] * x + load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
            v = u * inv_u[:, None] + load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]
            vv += tl.sum(v * v, 1)
        norm_v = tl.sqrt(vv)
        fallen = (norm_v > (1.0 + tl.sqrt(cc)) * COLLAPSED_BELOW) == 0
        inv_v = 1.0 / tl.where(fallen, 1.0, norm_v)
        collapsed |= fallen
    state = tl.where(finite == 0, NOT_FINITE, tl.where(nothing, ZERO, tl.where(collapsed, COLLAPSED, GOOD)))
    return scale, unit, inv_u, inv_v, state


@triton.jit
def slow_path_values(
    x, scale, unit, inv_u, inv_v, map_ptr, at, D: tl.constexpr, BLOCK: tl.constexpr, TERMS: tl.constexpr
):
    """f of a float64 tile, from the results of `slow_path`."""
    out = unit[:, None] * (x / scale[:, None])
    if TERMS >= TERMS_B:
        out = (out + load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]) * inv_u[:, None]
    if TERMS == TERMS_BC:
        out = (out + load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]) * inv_v[:, None]
    return out


@triton.jit
def bits_of_rows(chosen, ROWS: tl.constexpr):
    """One bit for each row of the tile, in one number."""
    return tl.sum(tl.where(chosen, 1 << tl.arange(0, ROWS), 0), 0)


@triton.jit
def of_row(values, i: tl.constexpr, ROWS: tl.constexpr):
    """The value of row i, which all threads get."""
    return tl.sum(tl.where(tl.arange(0, ROWS) == i, values, 0.0), 0)


@triton.jit
def row_mask(chosen, exists, D: tl.constexpr, BLOCK: tl.constexpr):
    # Compared, since in the interpreter one flag for all columns becomes integers, which Triton 3.9 takes for no mask.
    mask = tl.broadcast_to(chosen, [BLOCK]) != 0
    return mask & exists if D % BLOCK != 0 else mask


@triton.jit
def load_row(x_ptr, row, chosen, stride, at, D: tl.constexpr, BLOCK: tl.constexpr):
    """A part of one row, zeros where it is not `chosen`."""
    columns, exists = columns_at(at, D, BLOCK)
    return tl.load(x_ptr + row * stride + columns, mask=row_mask(chosen, exists, D, BLOCK), other=0.0)


@triton.jit
def fused(factor, x, more):
    """factor x + more, rounded once; factor and more may be scalars."""
    return tl.fma(tl.broadcast_to(factor, x.shape), x, tl.broadcast_to(more, x.shape))


@triton.jit
def record(bad_ptr, flags_ptr, rows, here, state, first_row, FLAGS: tl.constexpr):
    """Count the rows that are not good, locate the first one, and store the state of each."""
    bad = here & (state != GOOD)
    if tl.sum(bad.to(tl.int32), 0) > 0:
        tl.atomic_add(bad_ptr, tl.sum(bad.to(tl.int64), 0))
        packed = FIRST_BAD_BASE - (((first_row + rows) << STATE_BITS) + state)
        tl.atomic_max(bad_ptr + 1, tl.max(tl.where(bad, packed, 0), 0))
    if FLAGS:
        tl.store(flags_ptr + rows, state.to(tl.uint8), mask=here)
