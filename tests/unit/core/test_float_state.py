"""The caller's floating-point state (subnormal numbers flushed, another rounding) changes nothing, and stays as it was."""

from __future__ import annotations

import ctypes
import ctypes.util
import itertools
import platform
from contextlib import contextmanager

import numpy as np
import pytest

import fastrealign as fr
from fastrealign import _core, diagnostics
from fastrealign.core import cpu, ops
from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap
from fastrealign.core.rows import empty_rows
from fastrealign.methods import baselines

FLUSH = {"x86_64": 0x8040, "aarch64": 1 << 24}  # flush-to-zero and denormals-are-zero
UPWARD = {"x86_64": 0x4000, "aarch64": 1 << 22}


@contextmanager
def state(bits):
    """The state with these bits, as another library would leave it; what runs inside must not change it."""
    wanted = _core.DEFAULT_FLOAT_STATE | bits
    before = _core.set_float_state(wanted)
    try:
        yield
        left = _core.set_float_state(before)
    finally:
        _core.set_float_state(before)
    assert left & ~0x3F == wanted  # but for the flags that say what happened (x86)


@pytest.fixture(params=["flush", "upward"])
def other(request):
    bits = {"flush": FLUSH, "upward": UPWARD}[request.param].get(platform.machine())
    if bits is None:
        pytest.skip("no state known on this machine")
    return bits


def subnormal(rng, n, d, dtype):
    """Rows of this element type, most of them of subnormal numbers alone; the first ones are not."""
    rows = rng.standard_normal((n, d)) + 0.3
    smallest = {"float16": 2.0**-20, "bfloat16": 1e-39, "float32": 1e-40, "float64": 1e-310}[dtype.name]
    rows[n // 4 :] *= smallest
    with np.errstate(under="ignore"):
        return rows.astype(dtype)


def bits_of(*results):
    return [np.ascontiguousarray(r).view(np.uint8).tobytes() for r in results]


def test_kernels(rng, in_dtype, out_dtype, isa, map_of, other):
    n, d = 70, 37
    rows, given = subnormal(rng, n, d, in_dtype), map_of(d)
    b, c = (np.where(np.arange(d) % 3, v, v * 1e-310) for v in (given.b, given.c))
    gradient = rng.standard_normal((n, d)).astype(in_dtype)

    def run(threads=None):
        row_map = RowMap(given.s, b, c)  # prepared under the state of the caller
        out, back = empty_rows(n, d, out_dtype), empty_rows(n, d, in_dtype)
        sums, into = ExactSum(d), ExactSum(d)
        counts = (
            ops.reduce(rows, row_map, sums, isa=isa, threads=threads),
            ops.apply(rows, row_map, out, into=into, isa=isa, threads=threads),
            cpu.vjp(rows, gradient, row_map, back, isa=isa, threads=threads),
        )
        return bits_of(sums.low, sums.high, into.low, into.high, out, back, sums.mean), counts

    expected = run()
    assert [c.good for c in expected[1]] == [n, n, n]
    with state(other):
        assert run() == expected


def test_threads_of_the_kernel_inherit_nothing(rng, other):
    rows = subnormal(rng, 20_000, 64, np.dtype(np.float32))
    row_map = RowMap(0.9, rng.standard_normal(64) * 0.1, rng.standard_normal(64) * 0.1)
    expected, out = empty_rows(*rows.shape, rows.dtype), empty_rows(*rows.shape, rows.dtype)
    ops.apply(rows, row_map, expected, threads=1)
    with state(other):
        ops.apply(rows, row_map, out, threads=4)
    assert bits_of(out) == bits_of(expected)


def test_it_stays_when_a_call_fails(other):
    with state(other):
        with pytest.raises(ValueError, match="instruction set"):
            _core.reduce(np.ones((1, 1)), _core.FLOAT64, RowMap().prepared(1), None, None, None, 1, "none such")
        with pytest.raises(fr.InputError):
            fr.fit(np.zeros((4, 3)), np.zeros((4, 2)))


def test_what_is_computed_in_numpy(rng, tmp_path, other):
    """Fits of every method, saved and loaded; the reference backend; the exact centroid, which samples rows as they came."""
    text = subnormal(rng, 200, 6, np.dtype(np.float32))
    images = rng.standard_normal((200, 6)).astype("f4") - 0.5
    numbers = itertools.count()

    def run():
        found = []
        for name in baselines.METHODS:
            method, path = fr.fit(text, images, method=name), tmp_path / f"{next(numbers)}.safetensors"
            method.save(path)
            found += [method(text), fr.load(path)(text)]
            found += [np.frombuffer(bytes.fromhex(m.fingerprint), np.uint8) for m in (method, fr.load(path))]
        found.append(fr.fit(text, images)(text, backend="reference"))
        found.append(fr.fit(iter([text[:90], text[90:]]), images).c)
        found.append(fr.Moments(6).update(text).mean)
        found.append(np.array([fr.Moments(6).update(text).trace, diagnostics.gap(images, text)]))
        return bits_of(*found)

    expected = run()
    with state(other):
        assert run() == expected


def test_the_estimator_and_bfloat16(rng, other):
    pytest.importorskip("sklearn")
    text = subnormal(rng, 50, 5, BFLOAT16)  # which scikit-learn has converted
    expected = fr.ReAlign().fit_transform(text)
    with state(other):
        found = fr.ReAlign().fit_transform(text)
    assert bits_of(found) == bits_of(expected)


def test_chunks_are_made_under_the_state_of_who_makes_them(rng, other):
    text, images = rng.standard_normal((2, 60, 4))
    seen = []

    class Encoder:
        def __iter__(self):
            for i in range(0, 60, 20):
                now = _core.set_float_state(_core.DEFAULT_FLOAT_STATE)
                _core.set_float_state(now)
                seen.append(now & ~0x3F)
                yield text[i : i + 20]

    with state(other):
        found = fr.fit(Encoder(), images)
    assert set(seen) == {_core.DEFAULT_FLOAT_STATE | other}
    assert found.fingerprint == fr.fit(text, images).fingerprint


def test_torch_and_the_c_library(rng):
    """The two by which it happens."""
    torch = pytest.importorskip("torch")

    rows = subnormal(rng, 40, 8, np.dtype(np.float32))
    layer = fr.nn.ReAlign(fr.fit(rows, rng.standard_normal((40, 8))))
    shift = fr.nn.as_module(fr.fit(rows, rng.standard_normal((40, 8)), method="mean-shift"))

    def run():
        x = torch.from_numpy(rows).requires_grad_()
        out = layer(x)
        out.square().sum().backward()
        return bits_of(out.detach().numpy(), x.grad.numpy(), shift(x).detach().numpy())

    expected = run()
    if torch.set_flush_denormal(True):
        try:
            found = run()
            assert torch.tensor(1e-40).add(0).item() == 0.0
        finally:
            torch.set_flush_denormal(False)
        assert found == expected
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    nearest = libm.fegetround()
    if platform.machine() == "x86_64" and libm.fesetround(0x800) == 0:
        try:
            out = layer(torch.from_numpy(rows))
            assert libm.fegetround() == 0x800
        finally:
            libm.fesetround(nearest)
        assert bits_of(out.numpy()) == expected[:1]
