"""pickles.py: the reference script's lists of items, read and written back."""

from __future__ import annotations

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from fastrealign.core.errors import FastRealignError
from fastrealign.formats.pickles import PickleShard

GOLDEN = Path(__file__).resolve().parents[4] / "shared" / "golden"


def items_of(rows=11, dim=4, dtype=np.float32, wrap=False, without=()):
    x = np.random.default_rng(3).standard_normal((rows, dim)).astype(dtype)
    items = [{"id": f"t{i}", "caption": f"caption {i}", "embed": x[i : i + 1] if wrap else x[i]} for i in range(rows)]
    for at, missing in without:
        if missing == "key":
            del items[at]["embed"]
        else:
            items[at]["embed"] = None
    return items, x


def saved(path, items, protocol=4):
    path.write_bytes(pickle.dumps(items, protocol=protocol))
    return path


def opened(path, column=None):
    return PickleShard(path, path.name, column)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("wrap", [False, True])
def test_every_protocol(tmp_path, rows_in, dtype, protocol, wrap):
    items, x = items_of(dtype=dtype, wrap=wrap)
    shard = opened(saved(tmp_path / "x.pkl", items, protocol))
    assert (shard.rows, shard.dim, shard.dtype, shard.skipped, shard.random_access) == (11, 4, dtype, 0, False)
    assert rows_in(shard).tobytes() == x.tobytes()


def test_numpy_1_names(tmp_path, rows_in):
    items, x = items_of()
    for protocol in (2, 4, 5):
        data = pickle.dumps(items, protocol)
        if protocol == 2:
            data = data.replace(b"numpy._core.", b"numpy.core.")
        else:
            data = data.replace(b"\x16numpy._core.multiarray", b"\x15numpy.core.multiarray")
            data = data.replace(b"\x13numpy._core.numeric", b"\x12numpy.core.numeric")
            data = data[:2] + data[11:] if data[2:3] == b"\x95" else data  # the frame's length no longer fits
        assert b"numpy.core" in data
        (tmp_path / "x.pkl").write_bytes(data)
        assert np.array_equal(rows_in(opened(tmp_path / "x.pkl")), x)


@pytest.mark.parametrize("wrap", [False, True])
def test_written_back_with_everything_else_as_it_was(tmp_path, dtype, wrap, tree):
    items, _ = items_of(wrap=wrap, without=[(2, "key"), (5, None), (10, None)])
    items[3]["mask"] = np.array([[True, False]])
    items[4].update(score=np.float64(0.5), tags=["a", {"b": (1, None)}], text=np.array(["é", "long"]))
    items[7] = {"embed": items[7]["embed"], "id": 7}
    shard = opened(saved(tmp_path / "x.pkl", items))
    assert (shard.rows, shard.skipped) == (8, 3)
    with shard.writer(tmp_path / "y.pkl", dtype) as writer:
        for part in shard.chunks(3):
            writer.write((part * 2).astype(dtype))
            part[:] = np.nan  # a caller may reuse its memory
        writer.commit()
    assert tree(tmp_path) == ["x.pkl", "y.pkl"]
    data = (tmp_path / "y.pkl").read_bytes()
    assert data[:2] == b"\x80\x04" and b"fastrealign" not in data
    kept = [item for item in items if item.get("embed") is not None]
    written = pickle.loads(data)
    assert [list(item) for item in written] == [list(item) for item in kept]
    for new, old in zip(written, kept, strict=True):
        assert type(new["embed"]) is np.ndarray and new["embed"].dtype == dtype
        assert new["embed"].tobytes() == (old["embed"] * 2).astype(dtype).tobytes()
        assert new["embed"].shape == old["embed"].shape
        new.pop("embed"), old.pop("embed")
    assert type(written[2]["mask"]) is np.ndarray and type(written[3]["score"]) is np.float64
    assert repr(written) == repr(kept)


def test_dropped_rows_take_their_items_with_them(tmp_path):
    items, x = items_of(without=[(0, None)])
    shard = opened(saved(tmp_path / "x.pkl", items))
    keep = np.arange(10) % 4 != 1
    with shard.writer(tmp_path / "y.pkl", shard.dtype, shard.rows) as writer:
        for lo in range(0, 10, 3):
            part = keep[lo : lo + 3]
            writer.write(x[1:][lo : lo + 3][part], keep=part)
        writer.commit()
    written = pickle.loads((tmp_path / "y.pkl").read_bytes())
    assert [item["id"] for item in written] == [f"t{1 + i}" for i in np.flatnonzero(keep)]
    assert np.array_equal([item["embed"] for item in written], x[1:][keep])


def test_rows_are_named_by_their_item(tmp_path):
    items, _ = items_of(without=[(0, None), (3, None), (4, "key")])
    shard = opened(saved(tmp_path / "x.pkl", items))
    present = [i for i, item in enumerate(items) if item.get("embed") is not None]
    for row, item in enumerate(present):
        assert shard.where(row) == f"{tmp_path}/x.pkl: row {row} (item {item})"
    items, _ = items_of()
    assert opened(saved(tmp_path / "x.pkl", items)).where(4) == f"{tmp_path}/x.pkl: row 4"


def test_another_key(tmp_path, rows_in, refused):
    items, x = items_of()
    items = [{"id": item["id"], "vector": item["embed"]} for item in items]
    path = saved(tmp_path / "x.pickle", items)
    assert np.array_equal(rows_in(opened(path, "vector")), x)
    refused(lambda: opened(path), path, "no item has the key 'embed'", "'id', 'vector'")


@pytest.mark.parametrize(
    ("dtypes", "common"),
    [
        (("f4", "f2"), "f4"),
        (("f2", "f8"), "f8"),
        ((ml_dtypes.bfloat16, "f2"), "f4"),
        ((">f4", "<f4"), "f4"),
        ((">f2",), "f2"),
    ],
)
def test_mixed_element_types_widen_without_loss(tmp_path, rows_in, dtypes, common):
    items, _ = items_of()
    for i, item in enumerate(items):
        item["embed"] = item["embed"].astype(dtypes[i % len(dtypes)])
    shard = opened(saved(tmp_path / "x.pkl", items))
    assert shard.dtype == np.dtype(common)
    assert np.array_equal(rows_in(shard), [item["embed"].astype(common) for item in items])


def test_without_any_embedding(tmp_path, rows_in):
    for items in ([], [{"id": 1, "embed": None}]):
        shard = opened(saved(tmp_path / "x.pkl", items))
        assert (shard.rows, shard.dim, shard.skipped) == (0, 0, len(items))
        assert rows_in(shard).shape == (0, 0)
        with shard.writer(tmp_path / "y.pkl", np.dtype(np.float32), 0) as writer:
            writer.commit()
        assert pickle.loads((tmp_path / "y.pkl").read_bytes()) == []


VECTOR = np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("items", "pieces"),
    [
        ({"a": VECTOR}, ["holds a dict", "list of items; `fastrealign convert` reads some other layouts"]),
        (({"embed": VECTOR},), ["holds a tuple", "list of items; pickle a list of {'id': "]),  # nor does convert
        ([{"embed": list(VECTOR)}], ["'embed' is a list", "numpy.asarray(x, 'float32') makes one"]),
        (VECTOR, ["holds an ndarray", "list of items"]),
        (None, ["holds None"]),
        ([{"embed": VECTOR}, VECTOR], ["item 1 is an ndarray", "'embed'"]),
        ([{"embed": VECTOR}, None], ["item 1 is None"]),
        ([{"embed": VECTOR}, {"embed": [1.0] * 4}], ["item 1", "is a list", "NumPy float array"]),
        ([{"embed": VECTOR}, {"embed": np.float32(1)}], ["item 1", "is a float32"]),
        ([{"embed": VECTOR}, {"embed": np.ones((2, 4), np.float32)}], ["item 1", "shape (2, 4)", "(1, width)"]),
        ([{"embed": VECTOR}, {"embed": np.ones((1, 1, 4), np.float32)}], ["item 1", "shape (1, 1, 4)"]),
        ([{"embed": VECTOR}, {"embed": np.ones((), np.float32)}], ["item 1", "shape ()"]),
        ([{"embed": np.ones(0, np.float32)}], ["item 0", "shape (0,)"]),
        ([{"embed": VECTOR}, {"embed": None}, {"embed": VECTOR[1:]}], ["item 2 has 3 values, item 0 has 4"]),
        ([{"embed": VECTOR}, {"embed": np.ones(4, int)}], ["item 1", "int64", "convert"]),
        ([{"embed": np.array(["a"])}], ["item 0", "<U1"]),
    ],
)
def test_wrong_shape(tmp_path, refused, items, pieces):
    refused(lambda: opened(saved(tmp_path / "x.pkl", items)), tmp_path / "x.pkl", *pieces)


def test_empty_file(tmp_path, refused):
    (tmp_path / "x.pkl").write_bytes(b"")
    refused(lambda: opened(tmp_path / "x.pkl"), "x.pkl", "empty (0 bytes)")


def test_changed_after_it_was_opened(tmp_path, refused):
    items, _ = items_of()
    shard = opened(saved(tmp_path / "x.pkl", items))
    saved(tmp_path / "x.pkl", items[1:])
    refused(lambda: list(shard.chunks(2)), "x.pkl", "changed during the run")
    refused(lambda: shard.writer(tmp_path / "y.pkl", shard.dtype), "x.pkl", "changed during the run")
    assert not list(tmp_path.glob(".y*"))


def test_reader_and_writer_decode_once_together(tmp_path, monkeypatch):
    import fastrealign.formats.pickles as module

    items, _ = items_of()
    shard = opened(saved(tmp_path / "x.pkl", items))
    calls = []
    real = module.load
    monkeypatch.setattr(module, "load", lambda path: calls.append(path) or real(path))
    with shard.writer(tmp_path / "y.pkl", shard.dtype) as writer:
        for part in shard.chunks(5):
            writer.write(part)
        writer.commit()
    assert len(calls) == 1
    del writer
    assert shard._items() is None  # and nothing stays in memory


def test_missing_rows_are_noticed(tmp_path, tree, refused):
    items, x = items_of()
    shard = opened(saved(tmp_path / "x.pkl", items))
    writer = shard.writer(tmp_path / "y.pkl", shard.dtype, None)
    writer.write(x[:10])
    refused(writer.commit, "y.pkl", "10 of 11 rows", error=FastRealignError)
    with shard.writer(tmp_path / "y.pkl", shard.dtype) as writer, pytest.raises(ValueError, match="12 rows"):
        writer.write(np.ones((12, 4), np.float32))
    with shard.writer(tmp_path / "y.pkl", shard.dtype) as writer, pytest.raises(TypeError, match="in order"):
        writer.write_at(0, x)
    with pytest.raises(TypeError, match="chunks"):
        shard.read(0, 1, np.empty(99, np.uint8))
    assert tree(tmp_path) == ["x.pkl"]


def test_disk_full(tmp_path, tree, refused, disk_full):
    items, x = items_of()
    shard = opened(saved(tmp_path / "x.pkl", items))
    writer = shard.writer(tmp_path / "y.pkl", shard.dtype)
    writer.write(x)
    disk_full(200)
    refused(writer.commit, tmp_path / "y.pkl", "No space left on device", error=FastRealignError)
    assert tree(tmp_path) == ["x.pkl"]


def test_interrupted_while_rows_are_written(tmp_path, tree, monkeypatch):
    items, x = items_of()
    shard = opened(saved(tmp_path / "x.pkl", items))
    writer = shard.writer(tmp_path / "y.pkl", shard.dtype)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_append", interrupt)
    with pytest.raises(KeyboardInterrupt):
        writer.write(x)
    assert tree(tmp_path) == ["x.pkl"]


def test_items_nested_too_deeply(tmp_path, refused):
    nested = b"]" * 100_000 + b"a" * 99_999
    data = pickle.dumps(items_of(rows=1)[0], 2)
    at = data.index(b"X\x09\x00\x00\x00caption 0q")  # the caption becomes the nest of lists
    (tmp_path / "x.pkl").write_bytes(data[:at] + nested + data[data.index(b"q", at) + 2 :])
    refused(lambda: opened(tmp_path / "x.pkl"), "x.pkl", "without values")
    data = data[:at] + nested[99_800:-99_800] + data[data.index(b"q", at) + 2 :]
    (tmp_path / "x.pkl").write_bytes(data)
    refused(lambda: opened(tmp_path / "x.pkl"), "x.pkl", "nested too deeply")


def test_keys_are_shown_shortened(tmp_path, refused):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps([{"k" * 10_000: VECTOR, ("a",) * 10_000: 1}]))
    message = refused(lambda: opened(tmp_path / "x.pkl"), "x.pkl", "a tuple")
    assert len(message.replace(str(tmp_path), "")) < 400


def test_a_name_that_numpy_arrays_need_is_not_a_value(tmp_path, tree, refused):
    data = pickle.dumps([{"embed": VECTOR, "type": "TYPE"}], 2)
    name = pickle.dumps("TYPE", 2)[2:-3]  # without protocol, memo and stop
    (tmp_path / "x.pkl").write_bytes(data.replace(name, b"cnumpy.dtypes\nFloat32DType\n"))
    shard = opened(tmp_path / "x.pkl")
    writer = shard.writer(tmp_path / "y.pkl", shard.dtype)
    writer.write(VECTOR[None])
    refused(writer.commit, "y.pkl", "one of NumPy's own names as a value")
    assert tree(tmp_path) == ["x.pkl"]


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden sets are not here")
@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*.pkl")), ids=lambda path: path.name)
def test_golden_sets_round_trip(tmp_path, rows_in, path):
    shard = opened(path)
    with shard.writer(tmp_path / "y.pkl", shard.dtype, shard.rows) as writer:
        for part in shard.chunks(100):
            writer.write(part)
        writer.commit()
    before, after = (pickle.loads(p.read_bytes()) for p in (path, tmp_path / "y.pkl"))
    before = [item for item in before if item.get("embed") is not None]
    assert shard.rows == len(before) > 100 and shard.skipped >= 0
    for old, new in zip(before, after, strict=True):
        assert old.pop("embed").tobytes() == new["embed"].tobytes()
        assert old == {key: value for key, value in new.items() if key != "embed"}
    before = pickle.loads(path.read_bytes())
    before = [item for item in before if item.get("embed") is not None]
    assert rows_in(shard).tobytes() == np.stack([item["embed"].reshape(-1) for item in before]).tobytes()
