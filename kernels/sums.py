"""Exact column sums in Triton (csrc/exact_sum.h): a program's accumulators, and the launch that adds them to the totals.

The memory of `programs` programs is one int64 tensor: steps of each column (programs, D); accumulators, float64 bit patterns
(programs, D); B and G, the sums of beta and gamma in steps (programs, 2). A program updates its accumulators once a tile; they
stay in a cache. Every store and load of a column is one of the same thread, or a barrier lies between.
"""

from __future__ import annotations

import triton
import triton.language as tl

import fastrealign._core as _core

from .rows import HEADER, LARGEST_B, LARGEST_C, TERMS_B, TERMS_BC, columns_at, fused, load_vector

ROUNDING_OFFSET = tl.constexpr(_core.ROUNDING_OFFSET)
ROUNDING_OFFSET_BITS = tl.constexpr(_core.ROUNDING_OFFSET_BITS)
VECTOR_FRACTION_BITS = tl.constexpr(_core.VECTOR_FRACTION_BITS)
WEIGHT_BEFORE_FLUSH = tl.constexpr(_core.WEIGHT_BEFORE_FLUSH)
LARGEST_WEIGHT = tl.constexpr(_core.LARGEST_WEIGHT)
# Counted with a weight, for the rounding of coefficients.
ROUNDING_HAIR = tl.constexpr(1.0 + 2.0**-20)
STORED_WEIGHT = tl.constexpr(_core.STORED_WEIGHT)
STORED_SCALE = tl.constexpr(_core.STORED_SCALE)
# In [2^52, 2^53) neighbouring float64 numbers are 1 apart.
ROUND_TO_WHOLE = tl.constexpr(1.5 * 2.0**52)
ROUND_TO_WHOLE_BITS = tl.constexpr(0x4338000000000000)
INTERPRETED = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
# The fused multiply-add of Triton's interpreter rounds twice.
FUSED = tl.constexpr(not INTERPRETED)


@triton.jit
def odd(alpha):
    return (alpha.to(tl.int64, bitcast=True) | 1).to(tl.float64, bitcast=True)


@triton.jit
def steps_of(raised):
    """The steps of what was added to the rounding offset."""
    return raised.to(tl.int64, bitcast=True) - ROUNDING_OFFSET_BITS


@triton.jit
def add_rounded(alpha, x, accumulator):
    """accumulator + alpha x, alpha x rounded once to steps; alpha is odd."""
    # Without FUSED, a product that was rounded can lie half-way between steps. It is then rounded with the offset alone, so
    # this too does not depend on the order.
    return fused(alpha, x, accumulator) if FUSED else accumulator + ((alpha * x + ROUNDING_OFFSET) - ROUNDING_OFFSET)


@triton.jit
def add_stored(value, accumulator):
    """accumulator + value, rounded to steps, half-way cases away from zero."""
    return add_rounded(tl.full([], STORED_SCALE, tl.float64), value.to(tl.float64), accumulator)


@triton.jit
def load_accumulators(at_ptr, columns, exists):
    return tl.load(at_ptr + columns, mask=exists, other=0).to(tl.float64, bitcast=True)


@triton.jit
def store_accumulators(at_ptr, columns, exists, value):
    tl.store(at_ptr + columns, value.to(tl.int64, bitcast=True), mask=exists)


@triton.jit
def memory_of(partial_ptr, D: tl.constexpr):
    """Where this program's steps, accumulators, B and G are."""
    program = tl.program_id(0).to(tl.int64)
    programs = tl.num_programs(0)
    steps_ptr = partial_ptr + program * D
    return steps_ptr, steps_ptr + programs.to(tl.int64) * D, partial_ptr + programs.to(tl.int64) * (2 * D) + program * 2


@triton.jit
def start(steps_ptr, at_ptr, D: tl.constexpr, BLOCK: tl.constexpr):
    for at in range(0, D, BLOCK):
        columns, exists = columns_at(at, D, BLOCK)
        tl.store(steps_ptr + columns, tl.zeros([BLOCK], tl.int64), mask=exists)
        tl.store(at_ptr + columns, tl.full([BLOCK], ROUNDING_OFFSET_BITS, tl.int64), mask=exists)
    tl.debug_barrier()


@triton.jit
def flush(steps_ptr, at_ptr, D: tl.constexpr, BLOCK: tl.constexpr):
    """Move the accumulators to the steps."""
    tl.debug_barrier()
    for at in range(0, D, BLOCK):
        columns, exists = columns_at(at, D, BLOCK)
        steps = tl.load(steps_ptr + columns, mask=exists, other=0)
        bits = tl.load(at_ptr + columns, mask=exists, other=0)
        tl.store(steps_ptr + columns, steps + bits - ROUNDING_OFFSET_BITS, mask=exists)
        tl.store(at_ptr + columns, tl.full([BLOCK], ROUNDING_OFFSET_BITS, tl.int64), mask=exists)
    tl.debug_barrier()


@triton.jit
def add_finished(steps_ptr, raised, included, at, D: tl.constexpr, BLOCK: tl.constexpr):
    """Add the `included` rows of a tile to the steps; `raised`: entries that were added to the rounding offset."""
    columns, exists = columns_at(at, D, BLOCK)
    tl.debug_barrier()
    before = tl.load(steps_ptr + columns, mask=exists, other=0)
    tl.store(steps_ptr + columns, before + tl.sum(tl.where(included[:, None], steps_of(raised), 0), 0), mask=exists)
    tl.debug_barrier()


@triton.jit
def exponent_of(largest):
    """vector_exponent of csrc/exact_sum.h."""
    exponent = ((largest.to(tl.int64, bitcast=True) >> 52) & 0x7FF) - 1021
    return tl.where(largest > 0.0, tl.minimum(tl.maximum(exponent, -900), 900), 0)


@triton.jit
def power_of_two(exponent):
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def vector_steps(entry, largest):
    """Entries of b or c divided by 2^exponent, rounded to 48 fraction bits."""
    whole = entry * power_of_two(-exponent_of(largest) + VECTOR_FRACTION_BITS) + ROUND_TO_WHOLE
    return whole.to(tl.int64, bitcast=True) - ROUND_TO_WHOLE_BITS


@triton.jit
def add_128(low, high, more_low, more_high):
    """The sum of two 128-bit numbers modulo 2^128, the low limbs unsigned."""
    total = low + more_low
    return total, high + more_high + (total < low).to(tl.int64)


@triton.jit
def joined(upper, lower):
    """upper 2^32 + lower as a 128-bit number; lower is not negative."""
    zero = tl.zeros_like(upper)
    return add_128(lower.to(tl.uint64, bitcast=True), zero, (upper << 32).to(tl.uint64, bitcast=True), upper >> 32)


@triton.jit
def times_128(low, high, factor):
    """A 128-bit number times an int64, modulo 2^128."""
    unsigned = factor.to(tl.uint64, bitcast=True)
    crossed = high * factor + low.to(tl.int64, bitcast=True) * (factor >> 63)
    return low * unsigned, tl.umulhi(low, unsigned).to(tl.int64, bitcast=True) + crossed


@triton.jit
def total_of_product(upper, lower, vector_ptr, largest, at, D: tl.constexpr, BLOCK: tl.constexpr):
    """B b_j: B = upper 2^32 + lower the sum of the coefficients of a vector b, in steps."""
    steps = vector_steps(load_vector(vector_ptr, at, D, BLOCK), largest)
    low, high = joined(upper + tl.zeros_like(steps), lower + tl.zeros_like(steps))
    return times_128(low, high, steps)


@triton.jit(do_not_specialize=["programs"])
def finish_kernel(
    partial_ptr,
    map_ptr,
    low_ptr,
    high_ptr,
    programs,
    D: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
    TERMS: tl.constexpr,
):
    """Add the steps of all programs, B b and G c to the 128-bit totals (low, high): exact, so the order is irrelevant."""
    at = tl.program_id(0) * BLOCK
    columns, exists = columns_at(at, D, BLOCK)
    coefficients_ptr = partial_ptr + programs.to(tl.int64) * (2 * D)
    # Sums of the upper and of the lower 32 bits; neither can overflow.
    upper = tl.zeros([PROGRAMS, BLOCK], tl.int64)
    lower = tl.zeros([PROGRAMS, BLOCK], tl.int64)
    b_upper = tl.zeros([PROGRAMS], tl.int64)
    b_lower = tl.zeros([PROGRAMS], tl.int64)
    c_upper = tl.zeros([PROGRAMS], tl.int64)
    c_lower = tl.zeros([PROGRAMS], tl.int64)
    for first in range(0, programs, PROGRAMS):
        numbers = first + tl.arange(0, PROGRAMS).to(tl.int64)
        there = numbers < programs
        steps = tl.load(
            partial_ptr + numbers[:, None] * D + columns[None, :], mask=there[:, None] & exists[None, :], other=0
        )
        upper += steps >> 32
        lower += steps & 0xFFFFFFFF
        if TERMS >= TERMS_B:
            beta = tl.load(coefficients_ptr + 2 * numbers, mask=there, other=0)
            b_upper += beta >> 32
            b_lower += beta & 0xFFFFFFFF
        if TERMS == TERMS_BC:
            gamma = tl.load(coefficients_ptr + 2 * numbers + 1, mask=there, other=0)
            c_upper += gamma >> 32
            c_lower += gamma & 0xFFFFFFFF
    low, high = joined(tl.sum(upper, 0), tl.sum(lower, 0))
    high = (high << VECTOR_FRACTION_BITS) | (low >> (64 - VECTOR_FRACTION_BITS)).to(tl.int64, bitcast=True)
    low = low << VECTOR_FRACTION_BITS
    if TERMS >= TERMS_B:
        largest = tl.load(map_ptr + LARGEST_B)
        more_low, more_high = total_of_product(
            tl.sum(b_upper, 0), tl.sum(b_lower, 0), map_ptr + HEADER, largest, at, D, BLOCK
        )
        low, high = add_128(low, high, more_low, more_high)
    if TERMS == TERMS_BC:
        largest = tl.load(map_ptr + LARGEST_C)
        more_low, more_high = total_of_product(
            tl.sum(c_upper, 0), tl.sum(c_lower, 0), map_ptr + HEADER + D, largest, at, D, BLOCK
        )
        low, high = add_128(low, high, more_low, more_high)
    before = tl.load(low_ptr + columns, mask=exists, other=0).to(tl.uint64, bitcast=True)
    low, high = add_128(low, high, before, tl.load(high_ptr + columns, mask=exists, other=0))
    tl.store(low_ptr + columns, low.to(tl.int64, bitcast=True), mask=exists)
    tl.store(high_ptr + columns, high, mask=exists)
