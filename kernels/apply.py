"""apply: store f(y; s, b, c) and, on request, sum the stored rows. The Triton version of csrc/{cpu,cuda}/apply.

Bytes: each row comes from memory once (the second pass over a tile reads it from a cache) and is written once. Arithmetic, as
on the CPU: dot products in float64, entries alpha x + beta b + gamma c in float32, or in float64 where input or output is
float64 or float32 would lose digits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import (
    GOOD,
    HEADER,
    RECOMPUTE,
    add_columns,
    coefficients,
    columns_at,
    dots,
    load_tile,
    load_vector,
    record,
    rounded_for,
    slow_path,
    slow_path_values,
    tile_mask,
)


@triton.jit
def store_tile(ptr, rows, here, stride, at, value, D: tl.constexpr, BLOCK: tl.constexpr):
    columns, exists = columns_at(at, D, BLOCK)
    tl.store(ptr + rows[:, None] * stride + columns[None, :], value, mask=tile_mask(here, exists, D, BLOCK))


@triton.jit
def apply_kernel(
    x_ptr,
    out_ptr,
    map_ptr,
    partial_ptr,
    bad_ptr,
    flags_ptr,
    n,
    x_stride,
    out_stride,
    first_row,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TERMS: tl.constexpr,
    LARGEST_SHIFT: tl.constexpr,
    WIDE: tl.constexpr,
    SUMS: tl.constexpr,
    FLAGS: tl.constexpr,
):
    """x (n, D) and out (n, D), strides in elements; WIDE: entries in float64; partial (programs, D) where SUMS."""
    Real: tl.constexpr = tl.float64 if WIDE else tl.float32
    program = tl.program_id(0)
    sums_ptr = partial_ptr + program.to(tl.int64) * D
    for tile in range(program, tl.cdiv(n, ROWS), tl.num_programs(0)):
        rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        here = rows < n
        p, q, r = dots(x_ptr, map_ptr, rows, here, x_stride, D, ROWS, BLOCK, TERMS)
        alpha, beta, gamma, state = coefficients(p, q, r, map_ptr, LARGEST_SHIFT, TERMS)
        fast = here & (state == GOOD)
        for at in range(0, D, BLOCK):
            x = load_tile(x_ptr, rows, here, x_stride, at, D, BLOCK).to(Real)
            b = load_vector(map_ptr + HEADER, at, D, BLOCK).to(Real)[None, :]
            c = load_vector(map_ptr + HEADER + D, at, D, BLOCK).to(Real)[None, :]
            shift = tl.fma(beta.to(Real)[:, None] + tl.zeros_like(x), b + tl.zeros_like(x), gamma.to(Real)[:, None] * c)
            value = rounded_for(out_ptr, tl.fma(alpha.to(Real)[:, None] + tl.zeros_like(x), x, shift))
            store_tile(out_ptr, rows, fast, out_stride, at, value, D, BLOCK)
            if SUMS:
                add_columns(sums_ptr, value.to(tl.float64), fast, at, D, BLOCK)
        recompute = here & (state == RECOMPUTE)
        if tl.sum(recompute.to(tl.int32), 0) > 0:
            scale, unit, inv_u, inv_v, found = slow_path(
                x_ptr, map_ptr, rows, recompute, x_stride, D, ROWS, BLOCK, TERMS
            )
            state = tl.where(recompute, found, state)
            slow = recompute & (found == GOOD)
            for at in range(0, D, BLOCK):
                x = load_tile(x_ptr, rows, recompute, x_stride, at, D, BLOCK).to(tl.float64)
                value = slow_path_values(x, scale, unit, inv_u, inv_v, map_ptr, at, D, BLOCK, TERMS)
                # A row without a direction is stored unchanged; the caller decides what to do with it.
                value = rounded_for(out_ptr, tl.where(slow[:, None], value, x))
                store_tile(out_ptr, rows, recompute, out_stride, at, value, D, BLOCK)
                if SUMS:
                    add_columns(sums_ptr, value.to(tl.float64), slow, at, D, BLOCK)
        record(bad_ptr, flags_ptr, rows, here, state, first_row, FLAGS)
