"""A row map is prepared once and kept: nothing that happens to its arrays, process or environment makes it wrong."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrealign as fr
from fastrealign import _core
from fastrealign.core import cpu, ops, reference
from fastrealign.core.errors import InputError
from fastrealign.core.row_map import RowMap
from fastrealign.methods.baseline import Baseline


def mapped(rows, row_map, **options):
    out = np.empty_like(rows)
    ops.apply(rows, row_map, out, **options)
    return out


def test_the_arrays_it_was_made_of_may_change(rows_of):
    rows, b, c = rows_of(5, 9), np.linspace(-0.2, 0.3, 9), np.linspace(0.1, -0.1, 9)
    row_map = RowMap(0.9, b, c)
    b += 1.0  # before it is prepared, and after
    first = mapped(rows, row_map)
    c[:] = 7.0
    np.testing.assert_array_equal(mapped(rows, row_map), first)
    expected = reference.row_map(rows, 0.9, np.linspace(-0.2, 0.3, 9), np.linspace(0.1, -0.1, 9))
    np.testing.assert_allclose(first, expected, atol=3e-7)
    with pytest.raises(ValueError, match="read-only"):
        row_map.b[0] = 1.0


def test_vectors_of_any_layout_and_type(rows_of):
    rows, b = rows_of(5, 9), np.linspace(-0.25, 0.25, 9).astype(np.float32)
    expected = mapped(rows, RowMap(1.0, b.astype(np.float64)))
    spread = np.zeros(18, np.float32)
    spread[::2] = b
    for given in (b, b[::-1].copy()[::-1], spread[::2], b.tolist()):
        np.testing.assert_array_equal(mapped(rows, RowMap(1.0, given)), expected)


def test_one_without_vectors_fits_rows_of_any_width_from_many_threads(rows_of):
    scale = RowMap(2.0)
    rows = {d: rows_of(3, d) for d in (4, 7, 64, 300)}
    expected = {d: mapped(x, RowMap(2.0)) for d, x in rows.items()}

    def many(d):
        return all(np.array_equal(mapped(rows[d], scale), expected[d]) for _ in range(200))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(many, list(rows) * 2))


@pytest.mark.parametrize("call", ["reduce", "apply", "vjp"])
def test_another_width_is_refused_before_and_after_it_was_prepared(rows_of, call):
    row_map = RowMap(1.0, np.zeros(4), np.zeros(4))
    calls = {
        "reduce": lambda x: ops.reduce(x, row_map, cpu.ExactSum(x.shape[1])),
        "apply": lambda x: mapped(x, row_map),
        "vjp": lambda x: cpu.vjp(x, x, row_map, np.empty_like(x)),
    }
    for rows in (rows_of(3, 5), rows_of(3, 4), rows_of(3, 5)):
        if rows.shape[1] == 4:
            calls[call](rows)
        else:
            with pytest.raises(InputError, match=r"rows are 5 wide, but the map's b has shape \(4,\)"):
                calls[call](rows)


def test_copies_and_pickles(rows_of, map_of):
    rows, row_map = rows_of(5, 9), map_of(9)
    expected = mapped(rows, row_map)
    for copied in (copy.copy(row_map), copy.deepcopy(row_map), pickle.loads(pickle.dumps(row_map))):
        np.testing.assert_array_equal(mapped(rows, copied), expected)
        assert not copied.b.flags.writeable and not copied.c.flags.writeable


def test_what_is_prepared_goes_with_the_map(rows_of, map_of):
    text, images = rows_of(50, 9), rows_of(50, 9)
    row_map, alignment = map_of(9), fr.fit(text, images)
    alignment(text)
    held = [weakref.ref(row_map.prepared(9)), weakref.ref(alignment), weakref.ref(alignment.row_map.prepared(9))]
    gc.disable()
    try:
        del row_map, alignment
        assert [ref() for ref in held] == [None, None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["realign", "anchor", "mean-shift", "c3", "bca"])
def test_a_method_is_saved_without_what_was_made_of_it(rows_of, name):
    text = rows_of(60, 9)
    method = fr.fit(text, rows_of(60, 9), method=name)
    size, expected = len(pickle.dumps(method)), method(text)
    assert len(pickle.dumps(method)) == size
    for copied in (copy.copy(method), copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        np.testing.assert_array_equal(copied(text), expected)
        assert all(not v.flags.writeable for v in vars(copied).values() if isinstance(v, np.ndarray))


def test_the_arrays_of_a_baseline_may_change(rows_of):
    text, b = rows_of(6, 9), np.linspace(-0.2, 0.2, 9)
    method = Baseline("anchor", np.zeros(9), 0.1, b=b)
    expected = method(text)
    b += 1.0
    np.testing.assert_array_equal(method(text), expected)
    np.testing.assert_array_equal(method.b, np.linspace(-0.2, 0.2, 9))


@pytest.mark.parametrize("variable", ["FASTREALIGN_ISA", "FASTREALIGN_BACKEND"])
def test_the_environment_counts_at_each_call(rows_of, map_of, monkeypatch, variable):
    rows, row_map = rows_of(5, 9), map_of(9)
    monkeypatch.delenv(variable, raising=False)
    expected = mapped(rows, row_map)
    for _ in range(2):
        monkeypatch.setenv(variable, "none such")
        with pytest.raises(InputError, match="none such"):
            mapped(rows, row_map)
        monkeypatch.delenv(variable)
        np.testing.assert_array_equal(mapped(rows, row_map), expected)
        monkeypatch.setenv(variable, "")
        np.testing.assert_array_equal(mapped(rows, row_map), expected)


def test_variables_as_python_has_them(monkeypatch):
    assert _core.environment("FASTREALIGN_NOT_THERE") == ""
    for value in ("reference", "naïve", os.fsdecode(b"\xff")):
        monkeypatch.setenv("FASTREALIGN_TRIED", value)
        assert _core.environment("FASTREALIGN_TRIED") == os.environ["FASTREALIGN_TRIED"] == value


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_uses_it(rows_of, map_of):
    rows, row_map = rows_of(5, 9), map_of(9)
    expected = mapped(rows, row_map)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(mapped(rows, row_map), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("n", [0, 1, 7, 400])
def test_the_result_for_a_row_does_not_depend_on_the_rows_beside_it(rows_of, in_dtype, n):
    """Results that are small enough are not aligned to cache lines, and rows of 64 KB are mapped without the interpreter."""
    text = rows_of(400, 48, in_dtype)
    alignment = fr.fit(text, rows_of(50, 48, in_dtype))
    expected = alignment(text)
    found = alignment(text[:n])
    assert found.dtype == in_dtype and found.shape == (n, 48)
    np.testing.assert_array_equal(found.view(np.uint8), expected[:n].view(np.uint8))
    if n:
        np.testing.assert_array_equal(alignment(text[n - 1]).view(np.uint8), expected[n - 1].view(np.uint8))
