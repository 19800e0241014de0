"""reduce: add f(y; s, b, c) over rows, exactly; nothing is stored. The Triton version of csrc/{cpu,cuda}/reduce.

Bytes: each row comes from memory once. Only alpha y is added column by column, one fused multiply-add an entry; beta and gamma
are two more sums (csrc/exact_sum.h). Arithmetic is float64 throughout, as on the CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .rows import (
    CANCELLED_BELOW,
    GOOD,
    LARGEST_B,
    LARGEST_C,
    RECOMPUTE,
    TERMS_B,
    S,
    bits_of_rows,
    coefficients,
    columns_at,
    dots,
    load_row,
    load_tile,
    of_row,
    record,
    slow_path,
    slow_path_values,
)
from .sums import (
    LARGEST_WEIGHT,
    ROUNDING_HAIR,
    ROUNDING_OFFSET,
    WEIGHT_BEFORE_FLUSH,
    add_finished,
    add_rounded,
    exponent_of,
    flush,
    load_accumulators,
    memory_of,
    odd,
    power_of_two,
    start,
    steps_of,
    store_accumulators,
)


@triton.jit(do_not_specialize=["n", "first_row"])
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
    LONG: tl.constexpr,
    TERMS: tl.constexpr,
    FLAGS: tl.constexpr,
):
    """x (n, D), stride in elements; partial: memory of sums.py. BLOCK columns of ROWS rows for the dots, LONG of one row."""
    steps_ptr, at_ptr, coefficients_ptr = memory_of(partial_ptr, D)
    start(steps_ptr, at_ptr, D, LONG)
    scale_b = power_of_two(exponent_of(tl.load(map_ptr + LARGEST_B)))
    scale_c = power_of_two(exponent_of(tl.load(map_ptr + LARGEST_C)))
    s = tl.load(map_ptr + S)
    b_steps = tl.full([], 0, tl.int64)
    c_steps = tl.full([], 0, tl.int64)
    weight = tl.full([], 0.0, tl.float64)
    for tile in range(tl.program_id(0), tl.cdiv(n.to(tl.int64), ROWS), tl.num_programs(0)):
        first = tile * ROWS
        rows = first + tl.arange(0, ROWS).to(tl.int64)
        here = rows < n
        p, q, r = dots(x_ptr, map_ptr, rows, here, x_stride, D, ROWS, BLOCK, TERMS, tl.float64)
        alpha, beta, gamma, state = coefficients(p, q, r, map_ptr, CANCELLED_BELOW, 0.0, TERMS)
        weights = tl.zeros_like(alpha) + 1.0
        if TERMS >= TERMS_B:
            weights = tl.abs(beta * s)
        state = tl.where(weights <= LARGEST_WEIGHT, state, RECOMPUTE)
        fast = here & (state == GOOD)
        more = tl.sum(tl.where(fast, weights, 0.0), 0) * ROUNDING_HAIR
        if weight + more > WEIGHT_BEFORE_FLUSH:
            flush(steps_ptr, at_ptr, D, LONG)
            weight = tl.full([], 0.0, tl.float64)
        weight += more
        if TERMS >= TERMS_B:
            b_steps += tl.sum(tl.where(fast, steps_of(beta * scale_b + ROUNDING_OFFSET), 0), 0)
            c_steps += tl.sum(tl.where(fast, steps_of(gamma * scale_c + ROUNDING_OFFSET), 0), 0)
        chosen = bits_of_rows(fast, ROWS)
        alpha = odd(alpha)
        for at in range(0, D, LONG):
            columns, exists = columns_at(at, D, LONG)
            sums = load_accumulators(at_ptr, columns, exists)
            for i in tl.static_range(ROWS):
                x = load_row(x_ptr, first + i, (chosen >> i) & 1 != 0, x_stride, at, D, LONG).to(tl.float64)
                sums = add_rounded(of_row(alpha, i, ROWS), x, sums)
            store_accumulators(at_ptr, columns, exists, sums)
        recompute = here & (state == RECOMPUTE)
        if bits_of_rows(recompute, ROWS) != 0:
            scale, unit, inv_u, inv_v, found = slow_path(
                x_ptr, map_ptr, rows, recompute, x_stride, D, ROWS, BLOCK, TERMS
            )
            state = tl.where(recompute, found, state)
            slow = recompute & (found == GOOD)
            for at in range(0, D, BLOCK):
                x = load_tile(x_ptr, rows, slow, x_stride, at, D, BLOCK).to(tl.float64)
                value = slow_path_values(x, scale, unit, inv_u, inv_v, map_ptr, at, D, BLOCK, TERMS)
                add_finished(steps_ptr, value + ROUNDING_OFFSET, slow, at, D, BLOCK)
        record(bad_ptr, flags_ptr, rows, here, state, first_row, FLAGS)
    flush(steps_ptr, at_ptr, D, LONG)
    tl.store(coefficients_ptr, b_steps)
    tl.store(coefficients_ptr + 1, c_steps)
