"""tensor_files.py: what the safetensors library writes is read the same, what is written it reads; damage is named."""

from __future__ import annotations

import json
import os
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file
from shards import rewrite, rewrite_at_random

import fastrealign as fr
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats import open_source, safetensors_files
from fastrealign.formats.safetensors_files import SafetensorsShard

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def matrix(rows=23, dim=5, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(dtype)


def others(rows=23):
    return {
        "ids": np.arange(rows) * 7,
        "scores": np.linspace(0, 1, rows, dtype=np.float16),
        "flags": np.arange(rows) % 3 == 0,
        "pairs": np.arange(2 * rows, dtype=np.uint8).reshape(rows, 2),
        "projection": matrix(4, 4, seed=3),
        "none": np.zeros((rows, 0), np.float64),
        "one": np.float64([2.5]),
        "scale": np.array(2.5),
    }


def saved(path, tensors, metadata=None):
    save_file(tensors, path, metadata)
    return path


def opened(path, column=None):
    return SafetensorsShard(path, path.name, column)


def metadata_of(path):
    with safe_open(path, "numpy") as file:
        return file.metadata()


def copied(shard, out, dtype=None, keep=None, chunk=4):
    rewrite(shard, out, dtype, keep, chunk)
    return load_file(out)


def bits(x):
    return np.ascontiguousarray(x).view(np.uint8).tobytes()


def test_the_same_bytes_back(tmp_path, rows_in, tree, dtype):
    x = matrix(dtype=dtype)
    path = saved(tmp_path / "x.safetensors", {"embeddings": x, **others()}, {"made by": "é ☃", "format": "np"})
    shard = opened(path)
    assert (shard.rows, shard.dim, shard.dtype, shard.skipped, shard.random_access) == (23, 5, dtype, 0, True)
    assert bits(rows_in(shard)) == bits(x)
    scratch = np.empty(6 * 5 * 8, np.uint8)
    for lo, hi in [(0, 6), (5, 11), (22, 23), (23, 23)]:
        assert bits(shard.read(lo, hi, scratch)) == bits(x[lo:hi])
    copied(shard, tmp_path / "y.safetensors")
    assert metadata_of(tmp_path / "y.safetensors") == metadata_of(path)
    # The library writes metadata in an order of chance, so bytes are compared without it.
    plain = saved(tmp_path / "plain.safetensors", {"embeddings": x, **others()})
    copied(opened(plain), tmp_path / "plain_y.safetensors")
    assert (tmp_path / "plain_y.safetensors").read_bytes() == plain.read_bytes()
    assert tree(tmp_path) == ["plain.safetensors", "plain_y.safetensors", "x.safetensors", "y.safetensors"]


def test_another_element_type_out(tmp_path, dtype):
    x = matrix()
    shard = opened(saved(tmp_path / "x.safetensors", {"emb": x, **others()}))
    out = copied(shard, tmp_path / "y.safetensors", dtype)
    assert bits(out["emb"]) == bits(x.astype(dtype))
    for name, value in others().items():
        assert bits(out[name]) == bits(value) and out[name].shape == value.shape
    # Every tensor begins at a multiple of its element size: some readers need that.
    for tensor in opened(tmp_path / "y.safetensors", "emb").header.tensors.values():
        assert tensor.begin % (safetensors_files._BITS[tensor.dtype] // 8) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("dropped", [[], [0], [22], range(23), range(1, 23, 2)])
@pytest.mark.parametrize("copy_bytes", [1, 100, 1 << 20])
def test_dropped_rows_take_what_is_theirs_along(tmp_path, monkeypatch, dtype, dropped, copy_bytes):
    monkeypatch.setattr(safetensors_files, "_COPY_BYTES", copy_bytes)
    x = matrix()
    keep = np.ones(23, bool)
    keep[list(dropped)] = False
    shard = opened(saved(tmp_path / "x.safetensors", {"embeddings": x, **others()}, {"a": "b"}))
    out = copied(shard, tmp_path / "y.safetensors", dtype, keep)
    assert bits(out.pop("embeddings")) == bits(x[keep].astype(dtype))
    assert sorted(out) == sorted(others())
    for name, value in others().items():
        expected = value if name in ("projection", "one", "scale") else value[keep]
        assert out[name].shape == expected.shape and bits(out[name]) == bits(expected), name
    assert metadata_of(tmp_path / "y.safetensors") == {"a": "b"}
    assert opened(tmp_path / "y.safetensors").rows == keep.sum()


def test_what_is_of_another_split_loses_nothing(tmp_path):
    x, keep, ids = matrix(), np.arange(23) != 4, np.arange(23)
    value = {"train_emb": x, "train.ids": ids, "val_emb": x + 1, "val.ids": ids * 2, "n": ids * 3}
    shard = opened(saved(tmp_path / "x.safetensors", value), "train_emb")
    assert set(shard.of_rows()[0]) == {"train.ids", "n"} and set(shard.of_rows()[1]) == {"val_emb", "val.ids"}
    out = copied(shard, tmp_path / "y.safetensors", np.dtype(np.float32), keep)
    for name, whole in value.items():
        assert np.array_equal(out[name], whole if name.startswith("val") else whole[keep]), name


@pytest.mark.parametrize("dtype", ["i1", "u1", "c8", "f4"])
def test_a_tensor_that_may_be_the_embeddings_and_is_not_taken_is_named(tmp_path, refused, rows_in, dtype):
    a = matrix()
    other = np.ones((23, 2, 5) if dtype == "f4" else (23, 5), dtype)
    try:
        path = saved(tmp_path / "x.safetensors", {"text_features": other, "boxes": a})
    except SafetensorError:
        assert dtype == "c8"
        pytest.skip("this release of safetensors writes no complex numbers")
    refused(lambda: opened(path), path, "'text_features'", str(other.shape), "'boxes' (F32 (23, 5))", "column='boxes'")
    assert np.array_equal(rows_in(opened(path, "boxes")), a)
    saved(path, {"embeddings": other, "boxes": a})
    refused(lambda: opened(path), path, "tensor 'embeddings'", "column='boxes'")


def test_which_tensor_is_taken(tmp_path, rows_in, refused):
    a, b = matrix(seed=1), matrix(9, 7, seed=2)
    path = saved(tmp_path / "x.safetensors", {"rows": a, "ids": np.arange(23), "counts": np.ones((3, 4), np.int8)})
    assert np.array_equal(rows_in(opened(path)), a)
    for name in ("embedding", "embeddings", "emb", "embed", "embeds"):
        assert np.array_equal(rows_in(opened(saved(path, {"other": a, name: b}))), b)
    assert np.array_equal(rows_in(opened(path, "other")), a)
    refused(lambda: opened(path, "text"), path, "no tensor 'text'; its tensors are embeds, other")
    saved(path, {"a": a, "b": b})
    refused(lambda: opened(path), path, "several tensors of embeddings, a, b; name the one")
    saved(path, {"emb": a, "embeds": b})
    refused(lambda: opened(path), path, "several tensors of embeddings, emb, embeds")
    saved(path, {f"{i:03}\n": np.ones(1) for i in range(50)})
    refused(lambda: opened(path), "no tensor of embeddings", "its tensors are 000 , 001 ,", "019 , ...")
    saved(path, {"ids": np.arange(4)})
    refused(lambda: opened(path), path, "no tensor of embeddings", "its tensors are ids")
    saved(path, {})
    refused(lambda: opened(path), path, "its tensors are none")
    saved(path, {"embeddings": np.ones((3, 4), np.int64)})
    refused(lambda: opened(path), path, "tensor 'embeddings': holds I64 values, expected float16")
    saved(path, {"embeddings": np.ones(3, np.float32)})
    refused(lambda: opened(path), path, "tensor 'embeddings': has shape (3,), expected (rows, width)")
    saved(path, {"embeddings": np.ones((3, 0), np.float32)})
    refused(lambda: opened(path), path, "has shape (3, 0)")


def test_without_rows(tmp_path, rows_in):
    path = saved(tmp_path / "x.safetensors", {"embeddings": np.zeros((0, 7), np.float16), "ids": np.zeros(0, int)})
    shard = opened(path)
    assert (shard.rows, shard.dim, rows_in(shard).shape) == (0, 7, (0, 7))
    out = copied(shard, tmp_path / "y.safetensors")
    assert out["embeddings"].shape == (0, 7) and out["ids"].shape == (0,)


def test_every_element_type_that_the_library_knows_is_carried_through(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save, save_file

    names = ["bool", "uint8", "int8", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
    names += ["float8_e8m0fnu", "uint16", "int16", "uint32", "int32", "uint64", "int64", "complex64", "bfloat16"]
    tensors = {"embeddings": torch.ones(5, 3)}
    for name in names:
        value = torch.arange(40, dtype=torch.uint8).view(5, 8)
        with suppress(
            AttributeError, KeyError
        ):  # torch has float8_e8m0fnu since 2.7, older safetensors know fewer types
            value = (value % 2).bool() if name == "bool" else value.view(getattr(torch, name))
            save({name: value})
            tensors[name] = value
    assert len(tensors) >= 10
    save_file(tensors, tmp_path / "x.safetensors")
    shard = opened(tmp_path / "x.safetensors")
    keep = np.array([True, False, True, True, False])
    with shard.writer(tmp_path / "y.safetensors", shard.dtype, 5) as writer:
        writer.write(np.ones((3, 3), np.float32), keep)
        writer.commit()
    out = load_file(tmp_path / "y.safetensors")
    for name, value in tensors.items():
        raw = value.view(torch.uint8)[torch.from_numpy(keep)]
        assert out[name].dtype == value.dtype and torch.equal(out[name].view(torch.uint8), raw), name


def test_elements_of_less_than_a_byte(tmp_path):
    header = {
        "embeddings": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24]},
        "packed": {"dtype": "F4", "shape": [3, 2], "data_offsets": [24, 27]},
        "odd": {"dtype": "F4", "shape": [2, 3], "data_offsets": [27, 30]},
    }
    raw(tmp_path / "x.safetensors", header, matrix(3, 2).tobytes() + b"abcdef")
    shard = opened(tmp_path / "x.safetensors")
    keep = np.array([True, False, True])
    with shard.writer(tmp_path / "y.safetensors", shard.dtype, 3) as writer:
        writer.write(matrix(3, 2)[keep], keep)
        writer.commit()
    assert (tmp_path / "y.safetensors").read_bytes().endswith(matrix(3, 2)[keep].tobytes() + b"acdef")


def test_threads_read_and_write_at_random(tmp_path):
    x = matrix(4000, 16)
    shard = opened(saved(tmp_path / "x.safetensors", {"embeddings": x, **others(4000)}))
    rewrite_at_random(shard, tmp_path / "y.safetensors", np.float64)
    out = load_file(tmp_path / "y.safetensors")
    assert np.array_equal(out["embeddings"], x.astype(np.float64)) and np.array_equal(out["ids"], others(4000)["ids"])


# --- our own files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tmp_path):
    """A saved alignment and saved moments."""
    fr.fit(matrix(50, 4, seed=1), matrix(50, 4, seed=2) + 1).save(tmp_path / "ours" / "a.safetensors")
    fr.Moments(4).update(matrix(9, 4)).save(tmp_path / "ours" / "m.safetensors")
    return tmp_path / "ours"


def test_our_own_files_are_refused_by_name(ours, refused):
    refused(lambda: opened(ours / "a.safetensors"), ours / "a.safetensors", "holds a saved alignment, not embeddings")
    refused(lambda: opened(ours / "m.safetensors"), ours / "m.safetensors", "holds saved moments, not embeddings")
    refused(lambda: open_source(ours, side="source"), ours / "a.safetensors", "a saved alignment")
    saved(ours / "b.safetensors", {"x": matrix()}, {"fastrealign": "{}"})
    refused(lambda: opened(ours / "b.safetensors"), "holds something that fastrealign saved, not embeddings")


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_our_own_files_among_shards_are_no_shards(ours, suffix):
    for i in range(3):
        if suffix == "npy":
            np.save(ours / f"x_{i}.npy", matrix(9, 4))
        else:
            saved(ours / f"x_{i}.safetensors", {"x": matrix(9, 4)}, {"made by": "another"})
    expected = [f"x_{i}.{suffix}" for i in range(3)]
    for spec in (ours, f"{ours}/*"):
        assert [shard.name for shard in open_source(spec, side="source").shards] == expected
    (ours / "broken.safetensors").write_bytes(b"broken")
    if suffix == "safetensors":
        with pytest.raises(InputError, match=r"broken\.safetensors: .* not a safetensors file"):
            open_source(ours, side="source")


# --- damage ------------------------------------------------------------------------------------------------------------


def raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(**changes):
    return {"x": {"dtype": "F32", "shape": [3, 2], "data_offsets": [0, 24], **changes}}


@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (b"", ["empty (0 bytes)"]),
        (b"abc", ["the file has 3", "cut short or is not a safetensors file"]),
        (b"\x93NUMPY\x01\x00" * 20, ["the file has 160", "not a safetensors file"]),
        ((99).to_bytes(8, "little") + b"{}", ["would be 99 bytes long, the file has 10"]),
        ((2).to_bytes(8, "little") + b"[]", ["damaged safetensors header"]),
        ((2).to_bytes(8, "little") + b'{"', ["damaged safetensors header"]),
        ((2).to_bytes(8, "little") + b"\xff\xfe", ["damaged safetensors header"]),
        ((99_999).to_bytes(8, "little") + b"[" * 99_999, ["damaged safetensors header"]),
        ((9).to_bytes(8, "little") + b'{"x": 17}', ["damaged safetensors header"]),
    ],
)
def test_no_header(tmp_path, refused, content, pieces):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(lambda: opened(tmp_path / "x.safetensors"), tmp_path / "x.safetensors", *pieces)


@pytest.mark.parametrize(
    ("header", "pieces"),
    [
        (entry(dtype="F33"), ["damaged", "'x'", "unknown element type 'F33'"]),
        (entry(dtype=["F32"]), ["damaged"]),
        (entry(shape=[3, -2]), ["damaged", "shape [3, -2]"]),
        (entry(shape=[3, 2.0]), ["damaged"]),
        (entry(shape=[True, 2]), ["damaged"]),
        (entry(shape=3), ["damaged"]),
        (entry(shape=[3, 3]), ["damaged", "shape [3, 3] and type F32 has 24 bytes"]),
        (entry(shape=[2**63, 2**63]), ["damaged"]),
        (entry(data_offsets=[24, 0]), ["damaged"]),
        (entry(data_offsets=[0]), ["damaged"]),
        (entry(data_offsets=[4, 28]), ["'x' begins at byte 4, expected 0: it leaves a gap"]),
        ({"x": {"dtype": "F32"}}, ["damaged", "'shape'"]),
        ({**entry(), "__metadata__": {"a": 1}}, ["damaged", "__metadata__"]),
        ({**entry(), "__metadata__": ["a"]}, ["damaged"]),
        (
            {**entry(), "y": {"dtype": "U8", "shape": [9], "data_offsets": [16, 25]}},
            ["'y' begins at byte 16, expected 24: it overlaps the one before"],
        ),
        (
            {**entry(), "y": {"dtype": "U8", "shape": [1], "data_offsets": [24, 25]}},
            ["truncated", "25 bytes", "has 24"],
        ),
        ({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}, ["take 16 bytes, the file has 24"]),
        (json.dumps(entry())[:-1].encode() + b', "x": 1}', ["damaged", "a name appears twice"]),
        (json.dumps(entry()).replace('"x"', '"\\ud800"').encode(), ["damaged"]),
    ],
)
def test_damaged_header(tmp_path, refused, header, pieces):
    path = raw(tmp_path / "x.safetensors", header, matrix(3, 2).tobytes())
    refused(lambda: opened(path), path, *pieces)
    with pytest.raises(SafetensorError):  # the library does not take it either
        load_file(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 170), st.integers(0, 255)), max_size=3), st.integers(0, 400))
def test_damage_raises_nothing_but_input_errors(tmp_path, damage, size):
    path = saved(tmp_path / "x.safetensors", {"emb": matrix(8, 5), "ids": np.arange(8)}, {"a": "b"})
    data = bytearray(path.read_bytes())
    for at, value in damage:
        data[at] = value
    path.write_bytes(data[:size])
    try:
        for _ in opened(path).chunks(3):
            pass
    except InputError as error:
        assert "x.safetensors" in str(error) and "\n" not in str(error)


def test_header_beyond_the_limit(tmp_path, refused):
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write((100_000_001).to_bytes(8, "little"))
        file.truncate(100_000_100)
    refused(lambda: opened(path), path, "a header of 100000001 bytes", "at most 100000000")


def test_file_cut_after_it_was_opened(tmp_path, refused, tree):
    path = saved(tmp_path / "x.safetensors", {"embeddings": matrix(), "ids": np.arange(23, dtype=np.int8)})
    shard = opened(path)
    x = matrix()
    os.truncate(path, path.stat().st_size - 1)
    writer = shard.writer(tmp_path / "y.safetensors", shard.dtype, 23)
    writer.write(x)
    refused(writer.commit, path, "ended at byte", "do not write to the input")
    assert tree(tmp_path) == ["x.safetensors"]
    os.truncate(path, 200)
    refused(lambda: list(shard.chunks(23)), path, "ended at byte 200")


@pytest.mark.parametrize("room", [0, 100, 200, 460, 700])
def test_disk_full(tmp_path, tree, refused, disk_full, room):
    shard = opened(saved(tmp_path / "x.safetensors", {"embeddings": matrix(), **others()}))
    disk_full(room)
    out = tmp_path / "out" / "y.safetensors"
    refused(lambda: copied(shard, out), out, "No space left on device", "free some space", error=FastRealignError)
    assert tree(tmp_path) == ["x.safetensors"]


def test_missing_rows_are_noticed(tmp_path, tree, refused):
    shard = opened(saved(tmp_path / "x.safetensors", {"embeddings": matrix()}))
    writer = shard.writer(tmp_path / "y.safetensors", shard.dtype)
    writer.write_at(13, matrix()[13:])
    refused(writer.commit, "y.safetensors", "10 of 23 rows", error=FastRealignError)
    assert tree(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("random", [False, True])
def test_one_vector_a_row_in_three_dimensions(tmp_path, rows_in, refused, random):
    x = matrix(400)
    shard = opened(saved(tmp_path / "x.safetensors", {"embeddings": x[:, None], **others(400)}))
    assert np.array_equal(rows_in(shard), x)
    keep = None if random else np.arange(400) % 4 != 1
    rewrite_at_random(shard, tmp_path / "y.safetensors") if random else rewrite(
        shard, tmp_path / "y.safetensors", keep=keep
    )
    assert np.array_equal(
        load_file(tmp_path / "y.safetensors")["embeddings"], x[:, None] if random else x[keep][:, None]
    )
    path = saved(tmp_path / "x.safetensors", {"embeddings": np.stack([x, x], axis=1)})
    refused(lambda: opened(path), path, "2 vectors a row", "x[:, 0]", "x.reshape(-1, 5)")
