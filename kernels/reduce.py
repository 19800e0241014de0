"""reduce: add f(y; s, b, c) over rows, exactly; nothing is stored. The Triton version of csrc/{cpu,cuda}/reduce.

Bytes: each row comes from memory once. A program adds ROWS rows of a column before it updates its sums, D int64 per program,
which stay in a cache. Arithmetic is float64 throughout, as on the CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import (
    GOOD,
    HEADER,
    RECOMPUTE,
    TERMS_B,
    TERMS_BC,
    add_columns,
    coefficients,
    dots,
    load_tile,
    load_vector,
    record,
    slow_path,
    slow_path_values,
)


@triton.jit
def reduce_kernel(
    x_ptr,
    map_ptr,
    partial_ptr,
    bad_ptr,
    flags_ptr,
    n,
    x_stride,
    first_row,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    TERMS: tl.constexpr,
    FLAGS: tl.constexpr,
):
    """x (n, D), stride in elements; partial (programs, D)."""
    program = tl.program_id(0)
    sums_ptr = partial_ptr + program.to(tl.int64) * D
    for tile in range(program, tl.cdiv(n, ROWS), tl.num_programs(0)):
        rows = tile * ROWS + tl.arange(0, ROWS).to(tl.int64)
        here = rows < n
        p, q, r = dots(x_ptr, map_ptr, rows, here, x_stride, D, ROWS, BLOCK, TERMS)
        alpha, beta, gamma, state = coefficients(p, q, r, map_ptr, -1.0, TERMS)
        fast = here & (state == GOOD)
        for at in range(0, D, BLOCK):
            value = alpha[:, None] * load_tile(x_ptr, rows, fast, x_stride, at, D, BLOCK).to(tl.float64)
            if TERMS >= TERMS_B:
                value += beta[:, None] * load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
            if TERMS == TERMS_BC:
                value += gamma[:, None] * load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]
            add_columns(sums_ptr, value, fast, at, D, BLOCK)
        recompute = here & (state == RECOMPUTE)
        if tl.sum(recompute.to(tl.int32), 0) > 0:
            scale, unit, inv_u, inv_v, found = slow_path(
                x_ptr, map_ptr, rows, recompute, x_stride, D, ROWS, BLOCK, TERMS
            )
            state = tl.where(recompute, found, state)
            slow = recompute & (found == GOOD)
            for at in range(0, D, BLOCK):
                x = load_tile(x_ptr, rows, slow, x_stride, at, D, BLOCK).to(tl.float64)
                value = slow_path_values(x, scale, unit, inv_u, inv_v, map_ptr, at, D, BLOCK, TERMS)
                add_columns(sums_ptr, value, slow, at, D, BLOCK)
        record(bad_ptr, flags_ptr, rows, here, state, first_row, FLAGS)
