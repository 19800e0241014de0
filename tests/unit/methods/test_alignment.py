"""Alignment: called on every kind of array, frozen, saved and loaded to the bit, and what it refuses."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import ml_dtypes
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core import reference
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.methods.sampling import Sampling

NAMES = ["float32", "float16", "bfloat16", "float64"]


@pytest.fixture
def alignment(rng, rows_of):
    d = 24
    return fr.fit(rows_of(400, d) + rng.standard_normal(d).astype(np.float32), rows_of(300, d) + 1)


@pytest.fixture
def rows(rows_of, alignment):
    return rows_of(31, alignment.dim)


def aligned(alignment, rows):
    return reference.row_map(np.asarray(rows, np.float64), alignment.s, alignment.b, alignment.c)


def dtype_of(name):
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def tolerance(name, expected):
    if name in ("float32", "float64"):
        return 3e-7 if name == "float32" else 2e-13
    return 2 * np.abs(expected.astype(dtype_of(name)).astype(np.float64) - expected).max()


# --- calling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_numpy_in_numpy_out(alignment, rows, name):
    x = rows.astype(dtype_of(name))
    before = x.copy()
    out = alignment(x)
    assert type(out) is np.ndarray
    assert (out.dtype, out.shape) == (x.dtype, x.shape)
    expected = aligned(alignment, x)
    assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(name, expected)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("name", NAMES)
def test_torch_in_torch_out(alignment, rows, name):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rows).to(getattr(torch, name))
    out = alignment(x)
    assert isinstance(out, torch.Tensor)
    assert (out.dtype, out.shape) == (x.dtype, x.shape)
    same = alignment(rows.astype(dtype_of(name)))
    np.testing.assert_array_equal(out.double().numpy(), same.astype(np.float64))


@pytest.mark.parametrize("name", NAMES)
def test_another_element_type_can_be_asked_for(alignment, rows, name):
    torch = pytest.importorskip("torch")
    expected = aligned(alignment, rows)
    for asked in (name, dtype_of(name), getattr(torch, name)):
        out = alignment(rows, dtype=asked)
        assert out.dtype == dtype_of(name)
        assert np.abs(out.astype(np.float64) - expected).max() <= tolerance(name, expected)
        tensor = alignment(torch.from_numpy(rows), dtype=asked)
        assert tensor.dtype == getattr(torch, name)
        np.testing.assert_array_equal(tensor.double().numpy(), out.astype(np.float64))


def test_out_is_written_and_returned(alignment, rows):
    torch = pytest.importorskip("torch")
    expected = alignment(rows)
    out = np.empty_like(rows)
    assert alignment(rows, out=out) is out
    np.testing.assert_array_equal(out, expected)
    tensor = torch.empty(rows.shape)
    assert alignment(torch.from_numpy(rows), out=tensor) is tensor
    np.testing.assert_array_equal(tensor.numpy(), expected)
    half = np.empty(rows.shape, np.float16)
    alignment(rows, out=half, dtype="float16")
    np.testing.assert_array_equal(half, alignment(rows, dtype=np.float16))
    wide = np.full((len(rows), 30), 7, np.float32)
    alignment(rows, out=wide[:, 3:27])
    np.testing.assert_array_equal(wide[:, 3:27], expected)
    assert (wide[:, :3] == 7).all() and (wide[:, 27:] == 7).all()


def test_out_may_be_the_rows_themselves(alignment, rows):
    expected = alignment(rows)
    assert alignment(rows, out=rows) is rows
    np.testing.assert_array_equal(rows, expected)


def test_out_in_a_layout_that_cannot_be_written_is_refused(alignment, rows):
    """Not written to a copy that nobody sees."""
    out = np.full(rows.shape[::-1], np.nan, np.float32).T
    with pytest.raises(InputError, match="together"):
        alignment(rows, out=out)
    with pytest.raises(InputError, match="float type"):
        alignment(rows, out=np.empty(rows.shape, rows.dtype.newbyteorder()))
    frozen = np.zeros_like(rows)
    frozen.setflags(write=False)
    with pytest.raises(InputError, match="read-only"):
        alignment(rows, out=frozen)
    with pytest.raises(InputError, match="overlap"):
        alignment(rows[1:], out=rows[:-1])


def test_no_rows_in_no_rows_out(alignment):
    torch = pytest.importorskip("torch")
    for dtype in (np.float32, np.float16):
        out = alignment(np.empty((0, alignment.dim), dtype))
        assert (out.shape, out.dtype) == ((0, alignment.dim), dtype)
    assert alignment(torch.empty(0, alignment.dim)).shape == (0, alignment.dim)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bits(alignment, rows_of, threads):
    rows = rows_of(30_000, alignment.dim)
    np.testing.assert_array_equal(alignment(rows, threads=threads), alignment(rows))


# --- rows without a direction ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, np.nan, -np.inf])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_bad_rows(alignment, rows, kind, value):
    torch = pytest.importorskip("torch")
    rows[[4, 9]] = value
    x = rows if kind == "numpy" else torch.from_numpy(rows)
    why = "is all zeros" if value == 0 else "has a NaN or Inf"
    with pytest.raises(BadRowsError, match=f"row 4 {why}; fix it, or pass bad_rows='skip' or 'keep'"):
        alignment(x)
    good = np.delete(rows, [4, 9], 0)
    skipped = np.asarray(alignment(x, bad_rows="skip"))
    np.testing.assert_array_equal(skipped, alignment(good))
    kept = np.asarray(alignment(x, bad_rows="keep"))
    np.testing.assert_array_equal(kept[[4, 9]], rows[[4, 9]])
    np.testing.assert_array_equal(np.delete(kept, [4, 9], 0), skipped)
    assert type(alignment(x, bad_rows="skip")) is type(x)


def test_skip_without_bad_rows_returns_all(alignment, rows):
    np.testing.assert_array_equal(alignment(rows, bad_rows="skip"), alignment(rows))


# --- what it refuses -------------------------------------------------------------------------------------------------


def test_what_a_call_refuses(alignment, rows):
    for says, x, options in (
        ("rows are 23 wide, the alignment was fitted on 24", rows[:, :23], {}),
        (r"shape \(1, 31, 24\), expected two dimensions", rows[None], {}),
        ("rows are 23 wide", rows[0, :23], {}),
        ("'skip' leaves out rows, of one vector nothing would be left", rows[0], {"bad_rows": "skip"}),
        ("element type int64, expected .* convert", rows.astype(np.int64), {}),
        ("element type int8: expected float16", rows, {"dtype": "int8"}),
        ("bad_rows='drop': expected one of error, skip, keep", rows, {"bad_rows": "drop"}),
        (r"out has shape \(30, 24\)", rows, {"out": np.empty((30, 24), np.float32)}),
        ("out has .* type int32, expected .* float type", rows, {"out": np.empty(rows.shape, np.int32)}),
        ("out is a list, expected a NumPy array or a torch tensor", rows, {"out": rows.tolist()}),
        ("float16 and an out of type float32 contradict", rows, {"out": np.empty_like(rows), "dtype": "float16"}),
        ("'skip' changes the number of rows, which out= fixes", rows, {"out": rows, "bad_rows": "skip"}),
    ):
        with pytest.raises(InputError, match=says) as caught:
            alignment(x, **options)
        assert "\n" not in str(caught.value)


def test_tensors_that_record_gradients_are_refused(alignment, rows):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rows).requires_grad_()
    with pytest.raises(
        InputError, match=r"does not record gradients; use fastrealign.nn.as_module, or pass x.detach\(\)"
    ):
        alignment(x)
    assert alignment(x.detach()).shape == x.shape


# --- a value ---------------------------------------------------------------------------------------------------------


def test_it_is_frozen(alignment):
    with pytest.raises(dataclasses.FrozenInstanceError):
        alignment.s = 2.0
    for name in ("b", "c", "mean_source", "mean_target"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(alignment, name)[0] = 1.0


def test_it_owns_its_vectors():
    b = np.ones(3)
    found = fr.Alignment(1.0, b, b, b, b, 0.5, 0.5, 9, 9, 0.1)
    b[:] = 7
    assert found.b.tolist() == [1, 1, 1]
    assert np.isnan(found.gap_left)


def test_vectors_of_different_width_are_refused():
    three, four = np.ones(3), np.ones(4)
    for vectors in ((three, four, three, three), (three, three, three, four), (np.ones((1, 3)),) * 4):
        with pytest.raises(InputError, match="vectors of an alignment must have one width"):
            fr.Alignment(1.0, *vectors, 0.5, 0.5, 9, 9, 0.1)


def test_the_fingerprint_is_of_the_map_alone(alignment):
    again = dataclasses.replace(alignment, gap_left=0.5, encoder_source="other", count_source=3)
    assert again.fingerprint == alignment.fingerprint
    assert len(alignment.fingerprint) == 64
    nudged = alignment.b.copy()
    nudged[5] = np.nextafter(nudged[5], 1)
    for change in ({"s": np.nextafter(alignment.s, 2)}, {"b": nudged}, {"c": alignment.b}, {"b": alignment.c}):
        assert dataclasses.replace(alignment, **change).fingerprint != alignment.fingerprint


def test_repr_tells_the_gap_and_fits_on_a_line(alignment):
    text = repr(alignment)
    assert "\n" not in text
    assert "dim=24" in text and "centroid='paper'" in text
    assert f"gap {alignment.gap_before:.4g} -> {alignment.gap_left:.4g}" in text
    assert "rows 400 -> 300" in text


def test_pickle_and_copy_keep_the_bits(alignment):
    for twin in (pickle.loads(pickle.dumps(alignment)), copy.deepcopy(alignment), copy.copy(alignment)):
        assert twin.fingerprint == alignment.fingerprint
        assert repr(twin) == repr(alignment)
        same(alignment, twin)


# --- saved and loaded ------------------------------------------------------------------------------------------------


def same(a, b):
    for field in dataclasses.fields(fr.Alignment):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.tobytes() == y.tobytes(), field.name
            assert not y.flags.writeable
        else:
            assert (x == y and type(x) is type(y)) or (x != x and y != y), field.name


@pytest.mark.parametrize(
    "changes", [{}, {"gap_left": float("nan")}, {"encoder_source": "ViT-B-32 · laion", "version": "0.0.9"}]
)
def test_save_and_load_keep_every_bit(alignment, rows, tmp_path, changes):
    saved = dataclasses.replace(alignment, **changes)
    path = tmp_path / "folder" / "text2image.safetensors"
    saved.save(path)
    for loaded in (fr.load(path), fr.load(str(path)), fr.Alignment.load(path)):
        same(saved, loaded)
        assert loaded.fingerprint == saved.fingerprint
        np.testing.assert_array_equal(loaded(rows), saved(rows))
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s", 1.5),
        ("mean_target", np.zeros(24)),
        ("count_source", 7),
        ("gap_left", float("nan")),
        ("encoder_source", "clip"),
        ("sampling", Sampling("one pass", 9, 9, None, None, 0.1)),
    ],
)
def test_alignments_are_equal_if_their_values_are(alignment, tmp_path, name, value):
    changed = dataclasses.replace(alignment, **{name: value})
    changed.save(tmp_path / "a.safetensors")
    one, other = (fr.load(tmp_path / "a.safetensors") for _ in range(2))
    assert one == other == dataclasses.replace(changed, version="0.0.1") and {one: 1}[other] == 1
    assert one != alignment and alignment != one and one not in (None, "a", one.b.tolist())
    assert dataclasses.replace(one, b=-0.0 * one.b) == dataclasses.replace(one, b=0.0 * one.b)


def test_save_replaces_the_file(alignment, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")
    alignment.save(path)
    same(alignment, fr.load(path))


def test_the_file_is_plain_safetensors(alignment, tmp_path):
    from safetensors.numpy import load_file

    alignment.save(tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    assert set(tensors) == {"b", "c", "mean_source", "mean_target"}
    np.testing.assert_array_equal(tensors["b"], alignment.b)


def load_refuses(says, path):
    with pytest.raises(InputError, match=says) as caught:
        fr.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_load_refuses_other_files(alignment, rows_of, tmp_path):
    load_refuses("no such file; expected a saved alignment", tmp_path / "gone.safetensors")
    load_refuses("cannot be read as a saved alignment", tmp_path)
    alignment.save(tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    for name, data in (("cut", whole[:-5]), ("half", whole[: len(whole) // 2]), ("empty", b""), ("noise", b"x" * 500)):
        (tmp_path / name).write_bytes(data)
        load_refuses("cannot be read as a saved alignment", tmp_path / name)
    fr.Moments(3).update(rows_of(4, 3)).save(tmp_path / "m.safetensors")
    load_refuses("holds moments, expected alignment", tmp_path / "m.safetensors")


def _save(path, alignment, record, vectors=None):
    """A file as `save` writes it, with another record or other vectors in it."""
    import json

    from safetensors.numpy import save_file

    names = ("b", "c", "mean_source", "mean_target")
    tensors = {name: np.array(getattr(alignment, name)) for name in names} if vectors is None else vectors
    save_file(tensors, path, {"fastrealign": record if isinstance(record, str) else json.dumps(record)})


def test_load_refuses_damaged_records(alignment, tmp_path):
    scalars = {f.name: getattr(alignment, f.name) for f in dataclasses.fields(alignment)}
    record = {"format": 1, "kind": "alignment"} | {k: v for k, v in scalars.items() if not isinstance(v, np.ndarray)}
    path = tmp_path / "a.safetensors"
    _save(path, alignment, record)
    same(alignment, fr.load(path))
    _save(path, alignment, record | {"a later version's": 1})
    same(alignment, fr.load(path))
    _save(path, alignment, record | {"format": 3})
    load_refuses("written by a newer fastrealign .*upgrade", path)
    _save(path, alignment, {k: v for k, v in record.items() if k != "s"})
    load_refuses("a damaged alignment: .*'s'", path)
    _save(path, alignment, "{not json")
    load_refuses("damaged", path)
    _save(path, alignment, record, {"b": np.ones(3), "c": np.ones(3)})
    load_refuses("lacks mean_source, mean_target; the file is damaged", path)
    _save(path, alignment, record, dict.fromkeys(("b", "c", "mean_source"), np.ones(3)) | {"mean_target": np.ones(4)})
    load_refuses(r"a damaged alignment: mean_target has shape \(4,\), expected \(3,\)", path)


# The record of how an updated alignment was estimated.
SAMPLING = dataclasses.asdict(Sampling("updated", 5, 5, 10, 10, None))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"b": np.full(24, np.nan)}, "b holds a NaN or an Inf"),
        ({"c": np.full(24, np.inf)}, "c holds a NaN or an Inf"),
        ({"mean_target": np.full(24, np.nan)}, "mean_target holds a NaN or an Inf"),
        ({"c": np.ones((24, 1))}, r"c has shape \(24, 1\), expected \(24,\)"),
        ({"b": np.ones(24, np.float32)}, "b holds float32, expected float64"),
        (dict.fromkeys(("b", "c", "mean_source", "mean_target"), np.ones(0)), "b has shape"),
        ({"s": float("nan")}, "'s' is nan, expected a finite number"),
        ({"s": "x"}, "'s' is 'x', expected a finite number"),
        ({"s": 10**400}, "expected a finite number"),
        ({"s": -1.0}, "'s' is -1.0, expected a finite number of 0 or more"),
        ({"gap_before": None}, "'gap_before' is None, expected a finite number of 0 or more"),
        ({"count_source": None}, "'count_source' is None, expected a whole number"),
        ({"count_target": -5}, "'count_target' is -5, expected a whole number"),
        ({"trace_source": "1"}, "'trace_source' is '1', expected a finite number"),
        ({"centroid": "foo"}, "'centroid' is 'foo', expected 'paper' or 'exact'"),
        ({"version": None}, "'version' is None, expected text"),
        ({"encoder_source": 5}, "'encoder_source' is 5, expected text or null"),
        ({"sampling": [1]}, r"'sampling' is \[1\], expected a record or null"),
        ({"sampling": {"how": "updated", "rows_source": "x"}}, "'rows_source' is 'x', expected a whole number"),
        ({"sampling": SAMPLING | {"generations": 3}}, "'generations' is 3, expected a list or null"),
        ({"sampling": SAMPLING | {"generations": [7]}}, "an int where a record is expected"),
        (
            {"sampling": SAMPLING | {"generations": [{"rows_source": 5, "rows_target": 5, "decay": 1.5}]}},
            "'decay' is 1.5, expected a number above 0, at most 1",
        ),
        ({"format": "2"}, "its file format is '2', expected a whole number; the file is damaged"),
        ({"format": None}, "its file format is None, expected a whole number; the file is damaged"),
    ],
)
def test_load_names_what_is_damaged(alignment, tmp_path, change, says):
    scalars = {f.name: getattr(alignment, f.name) for f in dataclasses.fields(alignment)} | change
    record = {"format": 1, "kind": "alignment"} | {k: v for k, v in scalars.items() if not isinstance(v, np.ndarray)}
    path = tmp_path / "a.safetensors"
    _save(path, alignment, record, {k: np.array(v) for k, v in scalars.items() if isinstance(v, np.ndarray)})
    load_refuses(says, path)


def test_load_refuses_an_element_type_that_numpy_has_not(alignment, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file({"b": torch.ones(3).to(torch.float8_e4m3fn)}, path, {"fastrealign": "{}"})
    load_refuses("cannot be read as a saved alignment .*float8_e4m3fn", path)


def test_rows_without_a_spread_are_saved_and_not_checked(alignment, rows, tmp_path):
    path = tmp_path / "a.safetensors"
    dataclasses.replace(alignment, trace_source=0.0).save(path)
    assert fr.load(path).trace_source == 0.0
    with pytest.raises(InputError, match="rows that all point the same way"):
        fr.check(path, rows)
