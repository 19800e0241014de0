"""What the Triton kernels share: tiles of rows, the coefficients of csrc/row_map.h, the long way, exact column sums.

A program holds a tile of ROWS rows and goes over their columns BLOCK at a time: once for the dot products, once more to
finish them, when the tile still lies in a cache. Arithmetic on a row's dot products is float64, as on the CPU.

The map is one float64 tensor: HEADER numbers (s, b.b, b.c, c.c, the largest |b| and |c|, and two that are not used), then
b and c, D values each, zeros where there is none.
"""

from __future__ import annotations

import triton
import triton.language as tl

HEADER = tl.constexpr(8)
# RowState of csrc/row_map.h.
GOOD = tl.constexpr(0)
ZERO = tl.constexpr(1)
NOT_FINITE = tl.constexpr(2)
COLLAPSED = tl.constexpr(3)
AGAIN = tl.constexpr(4)

SMALLEST_P = tl.constexpr(2.0**-80)
LARGEST_P = tl.constexpr(2.0**80)
COLLAPSED_BELOW = tl.constexpr(2.0**-45)
CANCELLED_BELOW = tl.constexpr(1.0 / 1024)

# csrc/exact_sum.h: a value in [-1, 1] plus this has the value in steps of 2^-40 as its low bits.
ROUNDING_OFFSET = tl.constexpr(1.5 * 2.0**12)
ROUNDING_OFFSET_BITS = tl.constexpr(0x40B8000000000000)

# The first bad row is the largest of FIRST_BAD - (row << 2 | state), so that zeroed memory means none.
FIRST_BAD = tl.constexpr(1 << 62)


@triton.jit
def columns_at(at, D: tl.constexpr, BLOCK: tl.constexpr):
    """Numbers of the next BLOCK columns, and which of them exist."""
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
    """A tile in its own element type, zeros where there is nothing."""
    columns, exists = columns_at(at, D, BLOCK)
    return tl.load(ptr + rows[:, None] * stride + columns[None, :], mask=tile_mask(here, exists, D, BLOCK), other=0.0)


@triton.jit
def load_vector(ptr, at, D: tl.constexpr, BLOCK: tl.constexpr):
    columns, exists = columns_at(at, D, BLOCK)
    return tl.load(ptr + columns, mask=exists, other=0.0)


@triton.jit
def rounded_for(ptr, value):
    """A float64 or float32 tile in the element type that `ptr` points to; by way of float32, as on the CPU."""
    if ptr.dtype.element_ty != tl.float64:
        value = value.to(tl.float32)
    return value.to(ptr.dtype.element_ty)


@triton.jit
def dots(
    x_ptr, map_ptr, rows, here, stride, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TERMS: tl.constexpr
):
    """y.y, y.b and y.c of each row: float64 [ROWS]."""
    p = tl.zeros([ROWS, BLOCK], tl.float64)
    q = tl.zeros([ROWS, BLOCK], tl.float64)
    r = tl.zeros([ROWS, BLOCK], tl.float64)
    for at in range(0, D, BLOCK):
        x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(tl.float64)
        p += x * x
        if TERMS >= 1:
            q += x * load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
        if TERMS == 2:
            r += x * load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]
    return tl.sum(p, 1), tl.sum(q, 1), tl.sum(r, 1)


@triton.jit
def coefficients(p, q, r, map_ptr, largest_shift, TERMS: tl.constexpr):
    """alpha, beta, gamma and the state of each row; largest_shift as in csrc/row_map.h, below 0 for none."""
    s = tl.load(map_ptr)
    bb = tl.load(map_ptr + 1)
    bc = tl.load(map_ptr + 2)
    cc = tl.load(map_ptr + 3)
    good = (p >= SMALLEST_P) & (p <= LARGEST_P)
    rho = 1.0 / tl.sqrt(tl.where(good, p, 1.0))
    inv_u = tl.zeros_like(p) + 1.0
    inv_v = inv_u
    if TERMS >= 1:
        terms = s * s + bb
        uu = s * s + 2.0 * s * rho * q + bb
        good &= uu >= terms * CANCELLED_BELOW
        inv_u = 1.0 / tl.sqrt(tl.where(good, uu, 1.0))
    if TERMS == 2:
        vv = 1.0 + 2.0 * (s * rho * r + bc) * inv_u + cc
        good &= vv >= (1.0 + cc) * CANCELLED_BELOW
        inv_v = 1.0 / tl.sqrt(tl.where(good, vv, 1.0))
    gamma = inv_v
    beta = inv_v * inv_u
    alpha = beta * rho
    if TERMS >= 1:
        alpha = alpha * s
    shift = beta * tl.load(map_ptr + 4) + gamma * tl.load(map_ptr + 5)
    good &= (largest_shift < 0.0) | (shift <= largest_shift)
    return alpha, beta, gamma, tl.where(good, GOOD, AGAIN)


@triton.jit
def the_long_way(
    x_ptr, map_ptr, rows, here, stride, D: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, TERMS: tl.constexpr
):
    """Scale, unit, 1/|u|, 1/|v| and the state of each row, for `mapped_the_long_way`: u and v themselves are formed.

    Everything in float64, and rows are divided by their largest entry first, so that nothing over- or underflows.
    """
    largest = tl.zeros([ROWS], tl.float64)
    finite = here
    for at in range(0, D, BLOCK):
        x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(tl.float64)
        # A NaN or an Inf is the only thing that is not zero times itself.
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
    if TERMS >= 1:
        s = tl.load(map_ptr)
        bb = tl.load(map_ptr + 1)
        cc = tl.load(map_ptr + 3)
        unit = unit * s
        uu = tl.zeros([ROWS], tl.float64)
        for at in range(0, D, BLOCK):
            x = load_tile(x_ptr, rows, here, stride, at, D, BLOCK).to(tl.float64) / scale[:, None]
            u = unit[:, None] * x + load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
            uu += tl.sum(u * u, 1)
        norm_u = tl.sqrt(uu)
        collapsed = (norm_u > (tl.abs(s) + tl.sqrt(bb)) * COLLAPSED_BELOW) == 0
        inv_u = 1.0 / tl.where(collapsed, 1.0, norm_u)
    if TERMS == 2:
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
def mapped_the_long_way(
    x, scale, unit, inv_u, inv_v, map_ptr, at, D: tl.constexpr, BLOCK: tl.constexpr, TERMS: tl.constexpr
):
    """f of a float64 tile."""
    out = unit[:, None] * (x / scale[:, None])
    if TERMS >= 1:
        out = (out + load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]) * inv_u[:, None]
    if TERMS == 2:
        out = (out + load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]) * inv_v[:, None]
    return out


@triton.jit
def add_columns(partial_ptr, value, counted, at, D: tl.constexpr, BLOCK: tl.constexpr):
    """Add the rows of a float64 tile that are `counted` to this program's sums, exactly."""
    steps = (value + ROUNDING_OFFSET).to(tl.int64, bitcast=True) - ROUNDING_OFFSET_BITS
    columns, exists = columns_at(at, D, BLOCK)
    sums = tl.load(partial_ptr + columns, mask=exists, other=0)
    tl.store(partial_ptr + columns, sums + tl.sum(tl.where(counted[:, None], steps, 0), 0), mask=exists)


@triton.jit
def record(bad_ptr, flags_ptr, rows, here, state, first_row, FLAGS: tl.constexpr):
    """Count the rows that are not good, locate the first, and note the state of each."""
    bad = here & (state != GOOD)
    if tl.sum(bad.to(tl.int32), 0) > 0:
        tl.atomic_add(bad_ptr, tl.sum(bad.to(tl.int64), 0))
        named = FIRST_BAD - ((first_row + rows) * 4 + state)
        tl.atomic_max(bad_ptr + 1, tl.max(tl.where(bad, named, 0), 0))
    if FLAGS:
        tl.store(flags_ptr + rows, state.to(tl.uint8), mask=here)


@triton.jit
def finish_kernel(partial_ptr, low_ptr, high_ptr, programs, D: tl.constexpr, BLOCK: tl.constexpr):
    """Add the sums of all programs to the 128-bit totals (low, high): exact, so in any order."""
    columns, exists = columns_at(tl.program_id(0) * BLOCK, D, BLOCK)
    high = tl.zeros([BLOCK], tl.int64)  # of the upper and of the lower 32 bits, neither of which can overflow
    low = tl.zeros([BLOCK], tl.int64)
    for i in range(programs):
        steps = tl.load(partial_ptr + i * D + columns, mask=exists, other=0)
        high += steps >> 32
        low += steps & 0xFFFFFFFF
    upper = ((high & 0xFFFFFFFF) << 32).to(tl.uint64, bitcast=True)
    sum_low = upper + low.to(tl.uint64, bitcast=True)
    sum_high = (high >> 32) + (sum_low < upper).to(tl.int64)
    before = tl.load(low_ptr + columns, mask=exists, other=0).to(tl.uint64, bitcast=True)
    total = before + sum_low
    carry = (total < before).to(tl.int64)
    tl.store(low_ptr + columns, total.to(tl.int64, bitcast=True), mask=exists)
    tl.store(high_ptr + columns, tl.load(high_ptr + columns, mask=exists, other=0) + sum_high + carry, mask=exists)
