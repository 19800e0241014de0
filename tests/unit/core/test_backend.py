"""Which backend is chosen, why, and what is said when it cannot be."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core import backend, ops
from fastrealign.core.backend import Choice, choose
from fastrealign.core.bad_rows import ZERO, Counts
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import UNIT


def test_the_best_that_can_run(monkeypatch):
    monkeypatch.delenv("FASTREALIGN_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    choice = choose("cpu")
    assert choice.name == "cpu"
    assert "not cuda: the rows are on the CPU" in choice.why and "not triton: " in choice.why


def test_an_argument_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("FASTREALIGN_BACKEND", "reference")
    assert choose("cpu") == Choice("reference", "asked for by FASTREALIGN_BACKEND=reference")
    assert choose("cpu", asked="cpu") == Choice("cpu", "asked for by backend='cpu'")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda", "backend='cuda' cannot run: the rows are on the CPU"),
        ("opencl", "backend='opencl': expected one of cuda, triton, cpu, reference"),
    ],
)
def test_one_asked_for_that_cannot_run_is_an_error(name, message, rows_of):
    rows = rows_of(3, 5)
    with pytest.raises(InputError, match=message):
        ops.reduce(rows, UNIT, ExactSum(5), backend=name)
    with pytest.raises(InputError, match=message):
        ops.apply(rows, UNIT, np.empty_like(rows), backend=name)


def test_from_the_environment_too(monkeypatch, rows_of):
    monkeypatch.setenv("FASTREALIGN_BACKEND", "cuda")
    with pytest.raises(InputError, match="FASTREALIGN_BACKEND=cuda cannot run"):
        fr.fit(rows_of(30, 5), rows_of(30, 5))


def test_a_device_that_nothing_runs_on():
    expected = r"^rows on xpu:1, expected the CPU or a GPU of NVIDIA or AMD; move them with \.cpu\(\)$"
    with pytest.raises(InputError, match=expected):
        choose("xpu", 1)


def test_an_old_triton(monkeypatch):
    pytest.importorskip("triton", minversion="3.4")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose("cpu", asked="triton").name == "triton"
    monkeypatch.setattr(sys.modules["triton"], "__version__", "3.2.0")
    backend._chosen.cache_clear()  # no library changes its version while a process runs
    with pytest.raises(InputError, match=r"Triton 3\.2\.0 is older than 3\.4"):
        choose("cpu", asked="triton")


def test_the_reference_does_what_the_kernels_do(rows_of, map_of, in_dtype, out_dtype):
    rows, row_map = rows_of(50, 20, in_dtype), map_of(20)
    rows[4] = 0
    rows[8, 1] = np.inf
    found = {}
    for name in ("cpu", "reference"):
        out, flags, sums, stored = np.empty((50, 20), out_dtype), np.empty(50, np.uint8), ExactSum(20), ExactSum(20)
        counts = ops.apply(rows, row_map, out, into=stored, flags=flags, backend=name)
        assert ops.reduce(rows, row_map, sums, backend=name) == counts
        found[name] = out.astype(np.float64), flags, sums.mean, stored.mean, counts
    assert found["cpu"][4] == found["reference"][4] == Counts(48, 2, 4, ZERO)
    np.testing.assert_array_equal(found["cpu"][1], found["reference"][1])
    np.testing.assert_allclose(found["cpu"][2], found["reference"][2], atol=1e-12)
    step = max(3e-7, 2 * float(np.finfo(np.float16).eps)) if out_dtype.itemsize > 2 else 0.01
    np.testing.assert_allclose(found["cpu"][0], found["reference"][0], atol=step)
    np.testing.assert_allclose(found["cpu"][3], found["reference"][3], atol=step)
