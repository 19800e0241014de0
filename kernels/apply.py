"""apply: store f(y; s, b, c) and, on request, sum the stored rows. The Triton version of csrc/{cpu,cuda}/apply.

Bytes: each row comes from memory once (the second pass over a tile reads it from a cache) and is written once. Arithmetic, as
in CUDA: dot products in float64, or in float32 where input and output are 16 bits; entries alpha x + beta b + gamma c in
float32, or in float64 where input or output is float64 or float32 would lose digits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import (
    GOOD,
    HEADER,
    RECOMPUTE,
    bits_of_rows,
    coefficients,
    columns_at,
    dots,
    fused,
    load_row,
    load_tile,
    load_vector,
    of_row,
    record,
    rounded_for,
    row_mask,
    slow_path,
    slow_path_values,
    tile_mask,
)
from .sums import (
    ROUNDING_OFFSET,
    STORED_WEIGHT,
    WEIGHT_BEFORE_FLUSH,
    add_finished,
    add_stored,
    flush,
    load_accumulators,
    memory_of,
    start,
    store_accumulators,
)


@triton.jit
def store_tile(ptr, rows, here, stride, at, value, D: tl.constexpr, BLOCK: tl.constexpr):
    columns, exists = columns_at(at, D, BLOCK)
    tl.store(ptr + rows[:, None] * stride + columns[None, :], value, mask=tile_mask(here, exists, D, BLOCK))


@triton.jit(do_not_specialize=["n", "first_row"])
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
    LONG: tl.constexpr,
    TERMS: tl.constexpr,
    DOT: tl.constexpr,
    ENTRY: tl.constexpr,
    CANCELLED_BELOW: tl.constexpr,
    LARGEST_SHIFT: tl.constexpr,
    SUMS: tl.constexpr,
    FLAGS: tl.constexpr,
):
    """x and out (n, D), strides in elements; dots and entries in the types DOT and ENTRY; partial: sums.py, where SUMS."""
    if SUMS:
        steps_ptr, at_ptr, _ = memory_of(partial_ptr, D)
        start(steps_ptr, at_ptr, D, LONG)
    weight = tl.full([], 0.0, tl.float64)
    for tile in range(tl.program_id(0), tl.cdiv(n.to(tl.int64), ROWS), tl.num_programs(0)):
        first = tile * ROWS
        rows = first + tl.arange(0, ROWS).to(tl.int64)
        here = rows < n
        p, q, r = dots(x_ptr, map_ptr, rows, here, x_stride, D, ROWS, BLOCK, TERMS, DOT)
        alpha, beta, gamma, state = coefficients(p, q, r, map_ptr, CANCELLED_BELOW, LARGEST_SHIFT, TERMS)
        fast = here & (state == GOOD)
        chosen = bits_of_rows(fast, ROWS)
        # Zeros for the other rows, which so add nothing.
        alpha = tl.where(fast, alpha, 0.0).to(ENTRY)
        beta = tl.where(fast, beta, 0.0).to(ENTRY)
        gamma = tl.where(fast, gamma, 0.0).to(ENTRY)
        if SUMS:
            if weight + ROWS * STORED_WEIGHT > WEIGHT_BEFORE_FLUSH:
                flush(steps_ptr, at_ptr, D, LONG)
                weight = tl.full([], 0.0, tl.float64)
            weight += ROWS * STORED_WEIGHT
        for at in range(0, D, LONG):
            columns, exists = columns_at(at, D, LONG)
            b = load_vector(map_ptr + HEADER, at, D, LONG).to(ENTRY)
            c = load_vector(map_ptr + HEADER + D, at, D, LONG).to(ENTRY)
            if SUMS:
                sums = load_accumulators(at_ptr, columns, exists)
            for i in tl.static_range(ROWS):
                is_chosen = (chosen >> i) & 1 != 0
                x = load_row(x_ptr, first + i, is_chosen, x_stride, at, D, LONG).to(ENTRY)
                shift = fused(of_row(beta, i, ROWS), b, of_row(gamma, i, ROWS) * c)
                value = rounded_for(out_ptr, fused(of_row(alpha, i, ROWS), x, shift))
                tl.store(out_ptr + (first + i) * out_stride + columns, value, mask=row_mask(is_chosen, exists, D, LONG))
                if SUMS:
                    sums = add_stored(value, sums)
            if SUMS:
                store_accumulators(at_ptr, columns, exists, sums)
        recompute = here & (state == RECOMPUTE)
        if bits_of_rows(recompute, ROWS) != 0:
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
                    raised = add_stored(value, tl.full([ROWS, BLOCK], ROUNDING_OFFSET, tl.float64))
                    add_finished(steps_ptr, raised, slow, at, D, BLOCK)
        record(bad_ptr, flags_ptr, rows, here, state, first_row, FLAGS)
    if SUMS:
        flush(steps_ptr, at_ptr, D, LONG)
