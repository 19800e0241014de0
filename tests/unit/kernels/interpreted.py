"""The Triton kernels through Triton's interpreter, against the float64 reference. Run by test_interpreted.py, in a process of
its own: TRITON_INTERPRET is read when Triton is imported, and then holds for all kernels."""

from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace

import benchmarks
import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from fastrealign import _core
from fastrealign.core import device_ops, ops, reference, torch_ops
from fastrealign.core.bad_rows import NOT_FINITE, ZERO, Counts
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap
from fastrealign.core.rows import as_rows
from fastrealign.kernels import launch

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
WIDTHS = [1, 3, 16, 17, 96, 257]
# Half of the types at most widths; each type has narrow rows, rows that fill a tile and rows that leave one over.
SHAPES = [(d, dtype) for i, d in enumerate(WIDTHS) for dtype in (DTYPES if d in (17, 257) else DTYPES[i % 2 :: 2])]
TERMS = ["unit", "s", "b", "bc"]


# What the interpreter does again for each operation, half of its time: the functions of Triton's language replaced in every
# device function, not in the kernel alone; NumPy's types are listed. Releases without these private functions take longer.
patch_lang, of_type = (getattr(interpreter, name, None) for name in ("_patch_lang", "_get_np_dtype"))
np_dtypes = {}
LANGUAGE = SimpleNamespace(__globals__={"tl": tl, "core": tl.core})


def np_dtype(of):
    if of.scalar.name not in np_dtypes:
        np_dtypes[of.scalar.name] = of_type(of)
    return np_dtypes[of.scalar.name]


@pytest.fixture(autouse=True)
def triton(monkeypatch):
    assert launch.INTERPRETED
    monkeypatch.setenv("FASTREALIGN_BACKEND", "triton")
    if patch_lang is None or of_type is None:
        return
    monkeypatch.setattr(interpreter, "_patch_lang", lambda _: patch_lang(LANGUAGE))
    monkeypatch.setattr(
        interpreter.InterpretedFunction, "__call__", lambda of, *given, **named: of.rewrite()(*given, **named)
    )
    monkeypatch.setattr(interpreter, "_get_np_dtype", np_dtype)


def tensor(rows, dtype):
    return torch.from_numpy(np.asarray(rows)).to(dtype)


def mapped(rows, row_map):
    return reference.row_map(rows.double().numpy(), row_map.s, row_map.b, row_map.c)


def assert_close(out, exact):
    found = out.double().numpy()
    error = np.abs(found - exact).max()
    if out.dtype == torch.float64:
        assert error <= 2e-13
    elif out.dtype == torch.float32:
        assert error <= 3e-7
    elif out.dtype == torch.float16:
        assert error <= 2 * np.abs(tensor(exact, out.dtype).double().numpy() - exact).max()
    else:
        # The interpreter cuts bfloat16 off where a GPU rounds: off by a unit in the last place, not half of one.
        assert (np.abs(found - exact) <= 2.0**-7 * np.abs(exact) + 1e-6).all()


def totals(sums):
    return [(int(high) << 64) + int(low) for low, high in zip(sums.low, sums.high, strict=True)]


def stored_totals(out):
    """The totals of stored rows: entries in steps, half-way cases away from zero."""
    steps = np.ldexp(out.double().abs().numpy(), _core.STEP_FRACTION_BITS)
    whole = np.floor(steps) + (steps - np.floor(steps) >= 0.5)
    signed = (np.sign(out.double().numpy()) * whole).astype(np.int64)
    return signed.astype(object).sum(axis=0) << _core.VECTOR_FRACTION_BITS


@pytest.mark.parametrize(("d", "dtype"), SHAPES)
def test_apply(rng, map_of, d, dtype):
    # One row; two tiles of a program and a row more; each of the terms, and of the types of output, with both.
    turn = WIDTHS.index(d)
    sizes = ((1, TERMS[d % 4]), (25, TERMS[(d + 3) % 4])) if d < 257 else ((17, "bc"),)
    for i, (n, terms) in enumerate(sizes):
        rows, row_map = tensor(rng.standard_normal((n, d)) + 0.1, dtype), map_of(d, terms)
        for out_dtype in {(dtype, torch.float32)[(turn + i) % 2]} if d < 257 else {dtype, torch.float32}:
            out, sums = torch.full((n, d), float("nan"), dtype=out_dtype), ExactSum(d)
            counts = device_ops.apply_rows(rows, row_map, out, into=sums)
            assert counts == Counts(good=n) and sums.count == n
            assert_close(out, mapped(rows, row_map))
            # Two roundings of a float64 entry, here in the interpreter, may be off by a step.
            error = np.abs(np.array(totals(sums)) - stored_totals(out))
            assert (error <= (n << _core.VECTOR_FRACTION_BITS if out_dtype == torch.float64 else 0)).all()


@pytest.mark.parametrize(("d", "dtype"), SHAPES)
def test_reduce_is_within_a_step_of_the_cpu(rng, map_of, d, dtype):
    rows, row_map = tensor(rng.standard_normal((25, d)), dtype), map_of(d, TERMS[d % 4])
    found, cpu = ExactSum(d), ExactSum(d)
    counts = device_ops.reduce_rows(rows, row_map, found)
    assert counts == ops.reduce(as_rows(rows), row_map, cpu, backend="cpu")
    assert np.abs(found.mean - cpu.mean).max() <= 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [3, 17, 96, 257])
def test_vjp(rng, map_of, dtype, d):
    rows, g = (tensor(rng.standard_normal((11, d)), dtype) for _ in range(2))
    # Half of the terms a width: each of them with every type.
    for terms in TERMS[[3, 17, 96].index(d) % 2 :: 2] if d < 257 else ["bc"]:
        row_map = map_of(d, terms)
        out = torch.ops.fastrealign.vjp(rows, g, *torch_ops.pack(row_map, d))
        exact = reference.vjp(rows.double().numpy(), g.double().numpy(), row_map.s, row_map.b, row_map.c)
        error, size = np.abs(out.double().numpy() - exact).max(), np.abs(exact).max()
        if dtype == torch.bfloat16:
            assert error <= 2.0**-7 * size
        else:
            assert error <= 2 * np.abs(tensor(exact, dtype).double().numpy() - exact).max() + 1e-12 * size


@pytest.mark.parametrize("size", [1e-35, 1e-20, 1e25])
def test_rows_of_extreme_length(rng, map_of, size):
    rows, row_map = tensor(rng.standard_normal((9, 33)) * size, torch.float32), map_of(33)
    out = torch.empty_like(rows)
    assert device_ops.apply_rows(rows, row_map, out).good == 9
    assert_close(out, mapped(rows, row_map))
    g = tensor(rng.standard_normal((9, 33)) * min(size, 1.0), torch.float32)
    found = torch.ops.fastrealign.vjp(rows, g, *torch_ops.pack(row_map, 33)).double().numpy()
    exact = reference.vjp(rows.double().numpy(), g.double().numpy(), row_map.s, row_map.b, row_map.c)
    np.testing.assert_allclose(found, exact, atol=1e-6 * np.abs(exact).max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e-1, 1e-3, 1e-6])
def test_rows_that_nearly_cancel(rng, dtype, size):
    row = tensor(rng.standard_normal((1, 24)), dtype)
    unit = reference.project(row.double().numpy())[0]
    opposite = size * reference.project(rng.standard_normal((1, 24)))[0] - unit
    for row_map in (RowMap(1.0, opposite), RowMap(1.0, None, opposite)):
        out, sums = torch.empty_like(row), ExactSum(24)
        device_ops.apply_rows(row, row_map, out)
        device_ops.reduce_rows(row, row_map, sums)
        exact = mapped(row, row_map)
        assert np.abs(out.double().numpy() - exact).max() <= (3e-7 if dtype == torch.float32 else 1e-14 / size**2)
        assert np.abs(sums.mean - exact[0]).max() <= 1e-12 + 1e-14 / size**2


def test_one_hot_rows_with_a_large_shift(rng):
    rows = np.zeros((40, 17), np.float32)
    rows[np.arange(40), 3] = rng.uniform(0.5, 2, 40) * rng.choice([-1, 1], 40)
    b = rng.standard_normal(17) * 0.01
    b[3] = -0.45
    row_map = RowMap(1.2, b, b * 0.8)
    out = torch.empty(40, 17)
    device_ops.apply_rows(torch.from_numpy(rows), row_map, out)
    assert_close(out, mapped(torch.from_numpy(rows), row_map))


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_without_a_direction(rng, map_of, dtype):
    rows, row_map = tensor(rng.standard_normal((11, 20)), dtype), map_of(20)
    rows[3], rows[7, 3], rows[10, 0] = 0, float("nan"), float("inf")
    out, flags, sums = torch.empty_like(rows), np.empty(11, np.uint8), ExactSum(20)
    expected = Counts(good=8, bad=3, first_bad=3, reason=ZERO)
    assert device_ops.apply_rows(rows, row_map, out, flags=flags) == expected
    assert np.flatnonzero(flags).tolist() == [3, 7, 10] and flags[7] == flags[10] == NOT_FINITE
    as_they_came = [3, 10] if dtype == torch.bfloat16 else [3, 7, 10]  # the interpreter cannot store a bfloat16 NaN
    torch.testing.assert_close(out[as_they_came], rows[as_they_came], rtol=0, atol=0, equal_nan=True)
    assert device_ops.reduce_rows(rows, row_map, sums) == expected
    good = np.flatnonzero(flags == 0)
    assert np.abs(sums.mean - mapped(rows[good], row_map).mean(0)).max() <= 1e-12
    assert torch.ops.fastrealign.reduce(rows, *torch_ops.pack(row_map, 20))[2].tolist() == [3, 3, ZERO]
    assert not torch.ops.fastrealign.vjp(rows, rows.nan_to_num(), *torch_ops.pack(row_map, 20))[[3, 7, 10]].any()


def test_layouts(rng, map_of):
    rows, row_map = tensor(rng.standard_normal((17, 33)), torch.float32), map_of(33)
    expected = torch.empty_like(rows)
    device_ops.apply_rows(rows, row_map, expected)
    wide = torch.full((17, 50), 7.0)
    for view in (rows.T.contiguous().T, torch.cat([rows, rows], 1)[:, :33], rows.repeat_interleave(2, 0)[::2]):
        target = wide[:, 5:38]
        device_ops.apply_rows(view, row_map, target)
        torch.testing.assert_close(target, expected, rtol=0, atol=0)
        assert (wide[:, :5] == 7).all() and (wide[:, 38:] == 7).all()
    in_place = rows.clone()
    device_ops.apply_rows(in_place, row_map, in_place)
    torch.testing.assert_close(in_place, expected, rtol=0, atol=0)
    empty = torch.empty(0, 33)
    assert device_ops.apply_rows(empty, row_map, empty) == Counts(0)


def test_any_grid_gives_the_same_bits(rng, map_of, monkeypatch):
    rows, row_map = tensor(rng.standard_normal((35, 40)), torch.float32), map_of(40)
    found = []
    for programs in (1, 3, 8):
        monkeypatch.setattr(launch, "_programs", lambda n, tile, x, most=programs: max(1, min(most, n // tile.rows)))
        out, stored, sums = torch.empty_like(rows), ExactSum(40), ExactSum(40)
        device_ops.apply_rows(rows, row_map, out, into=stored)
        device_ops.reduce_rows(rows, row_map, sums)
        found.append((out, stored, sums))
    for out, stored, sums in found[1:]:
        assert torch.equal(out, found[0][0]) and stored == found[0][1] and sums == found[0][2]


def test_launches_end_before_sums_overflow(rng, map_of, monkeypatch):
    rows, row_map = tensor(rng.standard_normal((49, 40)), torch.float32), map_of(40)
    expected, found = ExactSum(40), ExactSum(40)
    device_ops.reduce_rows(rows, row_map, expected)
    monkeypatch.setattr(launch, "ROWS_BEFORE_FLUSH", 8)
    device_ops.reduce_rows(rows, row_map, found)
    assert found == expected


@pytest.mark.parametrize("length", [0.2, 0.05])
def test_heavy_rows(rng, length, monkeypatch):
    """Rows that b and then c nearly cancel weigh 17 / length: flushed every few rows, or, above 128, the slow path's."""
    monkeypatch.setattr(launch, "_programs", lambda *_: 1)
    direction = rng.standard_normal((1, 24))
    direction[0, 5] += 20  # a column whose sum would leave its accumulator
    unit = reference.project(direction)[0]
    rows = tensor(unit + 2e-4 * rng.standard_normal((40, 24)), torch.float64)
    row_map = RowMap(1.0, 0.06 * unit - unit, length * unit - unit)
    expected = mapped(rows, row_map).mean(0)
    parts, whole = ExactSum(24), ExactSum(24)
    assert device_ops.reduce_rows(rows, row_map, whole).good == 40
    for first, last in ((0, 7), (7, 20), (20, 40)):
        device_ops.reduce_rows(rows[first:last], row_map, parts)
    assert parts == whole and np.abs(whole.mean - expected).max() <= 1e-11


# The interpreter's device runs three programs at once; a tile has eight rows.
@pytest.mark.parametrize(
    ("rows", "programs"), [(0, 1), (1, 1), (8, 1), (9, 2), (24, 3), (25, 2), (32, 2), (40, 3), (80, 3)]
)
def test_programs_have_equally_many_tiles(rows, programs):
    x = torch.zeros(1, 64)
    assert launch._programs(rows, launch.tile_of(64, 4, 128), x) == programs


def test_the_plain_kernel_of_the_benchmark_reads_all_whole_blocks():
    read = benchmarks.module("gpu_read").read
    for n in (1, 4096, 5000, 4096 * 7):
        x = torch.arange(n, dtype=torch.float32) % 7
        parts = read(x, 3)
        assert parts.shape == (3,) and parts.sum() == x[: n // 4096 * 4096].sum(), (n, parts)


def test_totals_of_many_programs():
    """Sums of programs that together pass 2^63, coefficients of b and c, totals that carry in both directions."""
    from fastrealign.kernels import sums

    rng = np.random.default_rng(4)
    programs, d = 137, 20
    b, c = rng.standard_normal(d), 1e-7 * rng.standard_normal(d)
    packed, terms = torch_ops.pack(RowMap(0.5, b, c), d)
    steps = rng.integers(-(2**62), 2**62, (programs, d))
    steps[:, 0], steps[:, 1], steps[:, 2] = 2**62 - 1, -(2**62), -1
    for sign in (1, -1):
        coefficients = sign * rng.integers(2**61, 2**62, (programs, 2))
        memory = np.concatenate([steps.ravel(), np.zeros(programs * d, np.int64), coefficients.ravel()])
        low, high = torch.full((d,), -1), torch.full((d,), 3)
        sums.finish_kernel[(2,)](
            torch.from_numpy(memory), packed, low, high, programs, D=d, TERMS=terms, **launch.FINISH
        )
        of_b, of_c = (sum(map(int, column)) for column in coefficients.T)
        for j in range(d):
            total = (4 << 64) - 1 + (sum(map(int, steps[:, j])) << _core.VECTOR_FRACTION_BITS)
            total += of_b * in_steps(b, j) + of_c * in_steps(c, j)
            found = (int(high[j]) << 64) + (int(low[j]) & 2**64 - 1)
            assert (total - found) % 2**128 == 0


def in_steps(vector, j):
    """An entry relative to four times the power of two of the largest one, rounded to even at 48 fraction bits."""
    exponent = math.frexp(np.abs(vector).max())[1] + 1
    return round(Fraction(float(vector[j])) * Fraction(2) ** (_core.VECTOR_FRACTION_BITS - exponent))
