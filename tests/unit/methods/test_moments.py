"""Moments are an exact commutative monoid: the same rows give the same bits, however they came together."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import fastrealign as fr
from fastrealign.core import reference
from fastrealign.core.cpu import instruction_sets
from fastrealign.core.errors import BadRowsError, InputError

# Any rows at all, of every length that float32 has, apart from those without a direction.
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
rows_with_direction = st.tuples(st.integers(1, 30), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=finite).filter(lambda rows: rows.any(axis=1).all())
)


def moments_of(rows, **options):
    return fr.Moments(rows.shape[1]).update(rows, **options)


@given(rows_with_direction, st.data())
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
def test_any_split_order_and_merge_give_the_same_bits(rows, data):
    whole = moments_of(rows)
    order = data.draw(st.permutations(range(len(rows))))
    shuffled = rows[order]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    chunks = np.split(shuffled, cuts)

    one_by_one = fr.Moments(rows.shape[1])
    for chunk in chunks:
        one_by_one.update(chunk)
    assert one_by_one == whole

    parts = [moments_of(chunk) for chunk in chunks]
    while len(parts) > 1:
        # Any tree of merges, in place and not.
        a = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        b = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        if data.draw(st.booleans()):
            a += b
        else:
            a = a + b
        parts.append(a)
    assert parts[0] == whole
    assert parts[0].mean.tobytes() == whole.mean.tobytes()
    assert parts[0].trace == whole.trace


@given(rows_with_direction)
@settings(suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
def test_mean_and_trace_are_those_of_the_reference(rows):
    mean, trace = reference.moments(rows)
    found = moments_of(rows)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, mean, rtol=0, atol=2.0**-41 + 1e-14)
    assert found.trace == pytest.approx(trace, abs=1e-11)


@given(st.integers(1, 64), st.integers(1, 64), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_any_thread_count_gives_the_same_bits(threads, others, seed):
    rows = np.random.default_rng(seed).standard_normal((9000, 67), dtype=np.float32)
    assert moments_of(rows, threads=threads) == moments_of(rows, threads=others)


def test_moments_of_each_element_type(rows_of, in_dtype):
    rows = rows_of(500, 40, in_dtype)
    mean, trace = reference.moments(rows.astype(np.float64))
    found = moments_of(rows)
    assert np.linalg.norm(found.mean - mean) <= 1e-12
    assert found.trace == pytest.approx(trace, abs=1e-12)


def test_update_takes_tensors(rows_of):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(rows_of(50, 8)).bfloat16()
    same = tensor.float().numpy()
    assert moments_of(same) == fr.Moments(8).update(tensor)


def test_addition_leaves_its_terms_alone(rows_of):
    rows = rows_of(20, 5)
    a, b = moments_of(rows[:7]), moments_of(rows[7:])
    total = a + b
    assert (a, b) == (moments_of(rows[:7]), moments_of(rows[7:]))
    assert total == moments_of(rows)
    total.update(rows)
    assert a == moments_of(rows[:7])


def test_nothing_is_the_neutral_element(rows_of):
    some = moments_of(rows_of(9, 4))
    assert some + fr.Moments(4) == fr.Moments(4) + some == some
    nothing = fr.Moments(4)
    assert nothing.count == 0
    assert np.isnan(nothing.mean).all() and np.isnan(nothing.trace)


def test_one_row_repeated_has_no_spread(rows_of):
    found = moments_of(np.repeat(rows_of(1, 30), 1000, axis=0))
    assert 0.0 <= found.trace < 1e-11


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_bad_row_is_named_and_nothing_is_added(rows_of, value):
    rows = rows_of(9, 4)
    found = moments_of(rows)
    before = copy.deepcopy(found)
    spoiled = rows.copy()
    spoiled[[3, 5]] = value
    with pytest.raises(BadRowsError, match=r"row 3 (is all zeros|has a NaN or Inf); pass bad_rows='skip'.* the 2 such"):
        found.update(spoiled)
    assert found == before

    found.update(spoiled, bad_rows="skip")
    assert found.bad_rows == 2
    assert found.count == 16
    expected = moments_of(rows).update(np.delete(rows, [3, 5], 0))
    assert found.sums == expected.sums
    assert found != expected  # it has seen bad rows
    assert (found + found).bad_rows == 4


def test_what_is_refused(rows_of):
    with pytest.raises(InputError, match="dim=0: expected a whole number of at least 1"):
        fr.Moments(0)
    with pytest.raises(InputError, match=r"dim=2\.5: expected a whole number"):
        fr.Moments(2.5)
    with pytest.raises(InputError, match="rows are 5 wide, the sums 4"):
        fr.Moments(4).update(rows_of(3, 5))
    with pytest.raises(InputError, match="expected two dimensions"):
        fr.Moments(4).update(np.ones(4, np.float32))
    with pytest.raises(InputError, match="element type int64"):
        fr.Moments(4).update(np.ones((2, 4), np.int64))
    with pytest.raises(InputError, match="bad_rows='keep': expected 'error' or 'skip'"):
        fr.Moments(4).update(rows_of(3, 4), bad_rows="keep")
    with pytest.raises(InputError, match="width 4 and 5 cannot be added"):
        fr.Moments(4) + fr.Moments(5)
    with pytest.raises(InputError, match="width 4 and 5 cannot be added"):
        moments = fr.Moments(4)
        moments += fr.Moments(5)
    with pytest.raises(TypeError):
        fr.Moments(4) + 1


def test_repr_tells_width_count_and_trace(rows_of):
    found = moments_of(rows_of(6, 4))
    assert repr(found) == f"Moments(dim=4, count=6, trace={found.trace:.6g})"


# --- saved and sent --------------------------------------------------------------------------------------------------


def test_save_and_load_keep_the_bits(rows_of, tmp_path):
    rows = rows_of(300, 7)
    rows[11] = 0
    path = tmp_path / "part.safetensors"
    saved = moments_of(rows, bad_rows="skip")
    saved.save(path)
    loaded = fr.Moments.load(path)
    assert loaded == saved
    assert loaded.bad_rows == 1
    # More rows can be added to what was loaded.
    assert loaded.update(rows[:5]) == moments_of(rows, bad_rows="skip").update(rows[:5])
    assert [p.name for p in tmp_path.iterdir()] == ["part.safetensors"]


def test_pickle_and_copy_keep_the_bits(rows_of):
    found = moments_of(rows_of(30, 7))
    for twin in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found), copy.copy(found)):
        assert twin == found
        twin.update(rows_of(2, 7))
        assert twin != found


def test_load_refuses_other_files(rows_of, tmp_path):
    with pytest.raises(InputError, match=r"gone\.safetensors: no such file; expected saved moments"):
        fr.Moments.load(tmp_path / "gone.safetensors")

    moments_of(rows_of(9, 4)).save(tmp_path / "m.safetensors")
    whole = (tmp_path / "m.safetensors").read_bytes()
    for name, data in (("cut", whole[:-5]), ("empty", b""), ("noise", b"not a safetensors file at all" * 9)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: cannot be read as saved moments") as caught:
            fr.Moments.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="cannot be read as saved moments"):
        fr.Moments.load(tmp_path)

    from safetensors.numpy import save_file

    save_file({"low": np.zeros(3)}, tmp_path / "theirs.safetensors")
    with pytest.raises(InputError, match="not one that fastrealign saved"):
        fr.Moments.load(tmp_path / "theirs.safetensors")

    fr.fit(rows_of(50, 4), rows_of(50, 4)).save(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"a\.safetensors: holds alignment, expected moments"):
        fr.Moments.load(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "change, says",
    [
        ({"high": np.zeros(8, np.int64)}, r"high has shape \(8,\), expected \(4,\)"),
        ({"low": np.zeros((4, 2), np.int64)}, r"low has shape \(4, 2\), expected \(4,\)"),
        ({"low": np.zeros(0, np.int64), "high": np.zeros(0, np.int64)}, "low has shape"),
        ({"low": np.zeros(4, np.float64)}, "low holds float64, expected int64"),
        ({"high": np.zeros(4, np.float32)}, "high holds float32, expected int64"),
        ({"count": "x"}, "'count' is 'x', expected a whole number"),
        ({"count": -3}, "'count' is -3, expected a whole number"),
        ({"bad_rows": None}, "'bad_rows' is None, expected a whole number"),
    ],
)
def test_load_names_what_is_damaged(rows_of, tmp_path, change, says):
    from fastrealign.formats.saved_tensors import save_tensors

    sums = moments_of(rows_of(9, 4)).sums
    saved = {"low": sums.low.view(np.int64), "high": sums.high, "count": 9, "bad_rows": 0} | change
    path = tmp_path / "m.safetensors"
    tensors = {name: value for name, value in saved.items() if isinstance(value, np.ndarray)}
    save_tensors(path, tensors, {"kind": "moments"} | {k: v for k, v in saved.items() if k not in tensors})
    with pytest.raises(InputError, match=rf"m\.safetensors: damaged moments: {says}") as caught:
        fr.Moments.load(path)
    assert "\n" not in str(caught.value)


def test_sums_come_from_the_kernel_that_was_chosen(rows_of, monkeypatch):
    """Any instruction set gives the reference's moments; the environment reaches them through Moments too."""
    rows = rows_of(200, 24)
    mean, _ = reference.moments(rows)
    for isa in instruction_sets():
        monkeypatch.setenv("FASTREALIGN_ISA", isa)
        np.testing.assert_allclose(moments_of(rows).mean, mean, rtol=0, atol=1e-12)
    monkeypatch.setenv("FASTREALIGN_ISA", "sse9")
    with pytest.raises(InputError, match="sse9"):
        moments_of(rows)
