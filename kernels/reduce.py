"""reduce: add f(y; s, b, c) over rows, exactly; nothing is stored. Triton twin of csrc/cpu/reduce.cpp and csrc/cuda/reduce.cu.

Bytes: each row comes from memory once. A program adds ROWS rows of a column before it touches its sums, D int64 a program,
which stay in a cache. Arithmetic is float64 throughout, as on the CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import (
    AGAIN,
    GOOD,
    HEADER,
    add_columns,
    coefficients,
    dots,
    load_tile,
    load_vector,
    mapped_the_long_way,
    record,
    the_long_way,
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
        quick = here & (state == GOOD)
        for at in range(0, D, BLOCK):
            value = alpha[:, None] * load_tile(x_ptr, rows, quick, x_stride, at, D, BLOCK).to(tl.float64)
            if TERMS >= 1:
                value += beta[:, None] * load_vector(map_ptr + HEADER, at, D, BLOCK)[None, :]
            if TERMS == 2:
                value += gamma[:, None] * load_vector(map_ptr + HEADER + D, at, D, BLOCK)[None, :]
            add_columns(sums_ptr, value, quick, at, D, BLOCK)
        again = here & (state == AGAIN)
        if tl.sum(again.to(tl.int32), 0) > 0:
            scale, unit, inv_u, inv_v, found = the_long_way(
                x_ptr, map_ptr, rows, again, x_stride, D, ROWS, BLOCK, TERMS
            )
            state = tl.where(again, found, state)
            slow = again & (found == GOOD)
            for at in range(0, D, BLOCK):
                x = load_tile(x_ptr, rows, slow, x_stride, at, D, BLOCK).to(tl.float64)
                value = mapped_the_long_way(x, scale, unit, inv_u, inv_v, map_ptr, at, D, BLOCK, TERMS)
                add_columns(sums_ptr, value, slow, at, D, BLOCK)
        record(bad_ptr, flags_ptr, rows, here, state, first_row, FLAGS)
