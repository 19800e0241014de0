"""lance_folder.py: datasets of Lance, each a folder that is one shard."""

from __future__ import annotations

import os
import shutil
import struct
import sys
import threading

import corpus
import ml_dtypes
import numpy as np
import pytest
from stops import StopAfter

import fastrealign as fr
from fastrealign.core.errors import FastRealignError
from fastrealign.formats.lance import LanceShard

lance = pytest.importorskip("lance")
pa = pytest.importorskip("pyarrow")


def matrix(rows=23, dim=5, dtype=np.float32):
    return np.random.default_rng(5).standard_normal((rows, dim)).astype(dtype)


def list_type(kind, value, dim=5):
    return {"fixed": pa.list_(value, dim), "list": pa.list_(value)}[kind]


def table_of(x, kind="fixed"):
    rows = range(len(x))
    columns = {
        "id": pa.array([f"id {i}" for i in rows]),
        "embedding": pa.array(list(x), list_type(kind, pa.from_numpy_dtype(x.dtype), x.shape[1])),
        "url": pa.array([None if i % 3 else f"http://{i}" for i in rows]),
        "tags": pa.array([["a"] * (i % 4) for i in rows], pa.list_(pa.string())),
        "size": pa.array([{"w": i, "h": 2.5} for i in rows], pa.struct({"w": pa.int64(), "h": pa.float64()})),
        "kind": pa.array([f"k{i % 2}" for i in rows]).dictionary_encode(),
    }
    schema = pa.schema([pa.field(key, value.type, metadata={"of": key}) for key, value in columns.items()])
    return pa.table(columns, schema=schema.with_metadata({"made by": "a test"}))


def saved(path, table, **options):
    lance.write_dataset(table, path, **{"max_rows_per_file": 9, **options})
    return path


def opened(path, column=None):
    return LanceShard(path, path.name, column)


def test_an_output_on_a_server_is_refused_before_anything_is_computed(tmp_path):
    pytest.importorskip("fsspec")
    saved(tmp_path / "x.lance", table_of(matrix()))
    says = ": Lance datasets can only be written to a local folder; write to one, then copy it to the server$"
    for out in ("memory://nowhere/x.lance", "memory://nowhere/folder"):
        with pytest.raises(
            fr.InputError,
            match=says,
        ):
            fr.align(tmp_path / "x.lance", target=matrix() + 1, out=out)


def copy(shard, out, dtype=None, chunk=4, scale=1):
    with shard.writer(out, np.dtype(dtype or shard.dtype), shard.rows) as writer:
        for part in shard.chunks(chunk):
            writer.write(part * part.dtype.type(scale))
        writer.commit()
    return lance.dataset(out)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["fixed", "list"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_round_trip(tmp_path, rows_in, kind, dtype):
    x = matrix(dtype=dtype)
    table = table_of(x, kind)
    shard = opened(saved(tmp_path / "in.lance", table, data_storage_version="2.1"))
    assert (shard.rows, shard.dim, shard.dtype, shard.skipped) == (23, 5, np.dtype(dtype), 0)
    for chunk in (1, 4, 100):
        assert np.array_equal(rows_in(shard, chunk), x)
    out = copy(shard, tmp_path / "out.lance")
    assert out.to_table().equals(lance.dataset(tmp_path / "in.lance").to_table(), check_metadata=True)
    assert [fragment.count_rows() for fragment in out.get_fragments()] == [9, 9, 5]
    assert (out.version, out.data_storage_version) == (1, "2.1")
    assert files(tmp_path) == ["in.lance", "out.lance"]


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_another_element_type_out(tmp_path, rows_in, dtype):
    x = matrix()
    shard = opened(saved(tmp_path / "in.lance", table_of(x)))
    out = copy(shard, tmp_path / "out.lance", dtype, scale=2)
    assert np.array_equal(rows_in(opened(tmp_path / "out.lance")), (x * 2).astype(dtype))
    assert out.to_table(["id"]).equals(table_of(x).select(["id"]))


def test_deleted_rows_and_earlier_versions_are_left_behind(tmp_path, rows_in):
    x = matrix()
    path = saved(tmp_path / "in.lance", table_of(x))
    lance.dataset(path).delete("id IN ('id 0', 'id 9', 'id 10', 'id 22')")
    kept = np.delete(np.arange(23), [0, 9, 10, 22])
    shard = opened(path)
    assert np.array_equal(rows_in(shard), x[kept])
    out = copy(shard, tmp_path / "out.lance").to_table()
    assert out["id"].to_pylist() == [f"id {i}" for i in kept]


def test_dropped_rows_take_their_columns_with_them(tmp_path):
    x = matrix()
    shard = opened(saved(tmp_path / "in.lance", table_of(x)))
    for name, keep in (("some", np.arange(23) % 5 != 2), ("none", np.zeros(23, bool))):
        with shard.writer(tmp_path / f"{name}.lance", shard.dtype, shard.rows) as writer:
            for lo in range(0, 23, 10):
                writer.write(x[lo : lo + 10][keep[lo : lo + 10]], keep=keep[lo : lo + 10])
            writer.commit()
        written = lance.dataset(tmp_path / f"{name}.lance").to_table()
        assert written.to_pylist() == table_of(x).filter(pa.array(keep)).to_pylist()


def test_no_rows(tmp_path, rows_in):
    shard = opened(saved(tmp_path / "in.lance", table_of(matrix()).slice(0, 0)))
    assert (shard.rows, shard.dim) == (0, 5) and len(rows_in(shard)) == 0
    out = copy(shard, tmp_path / "out.lance")
    assert out.count_rows() == 0 and out.schema.equals(table_of(matrix()).schema)


def test_blobs_are_carried_as_bytes(tmp_path):
    blobs = pa.field("blob", pa.large_binary(), metadata={"lance-encoding:blob": "true"})
    schema = pa.schema([pa.field("embedding", pa.list_(pa.float32(), 5)), blobs])
    table = pa.table({"embedding": list(matrix()), "blob": [b"x" * i for i in range(23)]}, schema=schema)
    path = saved(tmp_path / "in.lance", table, data_storage_version="2.1")
    copy(opened(path), tmp_path / "out.lance")
    out = lance.dataset(tmp_path / "out.lance")
    assert [blob.readall() for blob in out.take_blobs("blob", indices=list(range(23)))] == [b"x" * i for i in range(23)]


def test_column_is_chosen(tmp_path, rows_in, refused):
    y = matrix() + 1
    path = saved(tmp_path / "in.lance", table_of(matrix()).append_column("other", pa.array(list(y))))
    assert np.array_equal(rows_in(opened(path, "other")), y)
    refused(lambda: opened(path, "vector"), path, "no column 'vector'", "id, embedding, url, tags, size, kind, other")


@pytest.mark.parametrize("value", [None, [1.0, None, 2.0]])
@pytest.mark.parametrize("at", [0, 13, 22])
def test_nulls_are_rows_of_nan_and_go_back_as_they_came(tmp_path, rows_in, value, at):
    values = [[float(i), 1.0, 2.0] for i in range(23)]
    values[at] = value
    table = pa.table({"embedding": pa.array(values, pa.list_(pa.float32(), 3))})
    shard = opened(saved(tmp_path / "x.lance", table))
    assert list(np.flatnonzero(np.isnan(rows_in(shard)).any(axis=1))) == [at]
    assert copy(shard, tmp_path / "y.lance").to_table()["embedding"].to_pylist() == values


def test_bfloat16_is_not_written(tmp_path, refused):
    shard = opened(saved(tmp_path / "in.lance", table_of(matrix())))
    dtype = np.dtype(ml_dtypes.bfloat16)
    refused(lambda: shard.writer(tmp_path / "out.lance", dtype), "out.lance", "lance has no bfloat16")
    assert files(tmp_path) == ["in.lance"]


def test_not_a_dataset(tmp_path, refused):
    (tmp_path / "file.lance").write_bytes(b"Lance file of one column")
    (tmp_path / "empty.lance").mkdir()
    refused(lambda: opened(tmp_path / "file.lance"), "file.lance", "is a file, expected the folder of a Lance dataset")
    refused(lambda: opened(tmp_path / "none.lance"), "none.lance", "no such folder")
    refused(lambda: opened(tmp_path / "empty.lance"), "empty.lance", "not a readable Lance dataset", "not found")


def data_file(path):
    return sorted((path / "data").iterdir())[1]


def overwrite(path, at, value):
    """Lance itself ends the process over these."""
    data = bytearray(data_file(path).read_bytes())
    at %= len(data)
    data[at : at + len(value)] = value
    data_file(path).write_bytes(data)


def overwrite_in(path, old, new):
    data = data_file(path).read_bytes()
    assert old in data and len(old) == len(new)
    data_file(path).write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "pieces"),
    [
        (lambda path: shutil.rmtree(path / "_versions"), ["not a readable Lance dataset"]),
        (lambda path: [os.truncate(file, 30) for file in (path / "_versions").glob("*.manifest")], ["not a readable"]),
        (lambda path: data_file(path).unlink(), ["damaged", "it is gone", "copy or make it again"]),
        (lambda path: os.truncate(data_file(path), 100), ["damaged", "it has 100 bytes, not"]),
        (
            lambda path: data_file(path).write_bytes(b"\xff" * data_file(path).stat().st_size),
            ["damaged", "does not end as"],
        ),
        (
            lambda path: overwrite(path, -12, struct.pack("<I", 1 << 31)),
            ["damaged", "does not end as a data file does"],
        ),
        (
            lambda path: overwrite(path, -24, struct.pack("<Q", 1 << 62)),
            ["damaged", "does not end as a data file does"],
        ),
        (lambda path: overwrite_in(path, b"encodings21.", b"encodings\0\0\0"), ["not a readable Lance dataset"]),
    ],
    ids=[
        "no manifest",
        "manifest cut off",
        "data file gone",
        "data file cut off",
        "data file overwritten",
        "columns beyond reason",
        "a table elsewhere",
        "a name with zero bytes",
    ],
)
def test_damaged(tmp_path, refused, damage, pieces):
    path = saved(tmp_path / "x.lance", table_of(matrix()))
    damage(path)
    refused(lambda: list(opened(path).chunks(5)), path, *pieces)


def test_without_pylance(tmp_path, refused, monkeypatch):
    path = saved(tmp_path / "x.lance", table_of(matrix()))
    monkeypatch.setitem(sys.modules, "lance", None)
    refused(lambda: opened(path), path, "pip install 'fastrealign[lance]'")


def test_changed_after_it_was_opened(tmp_path, refused):
    path = saved(tmp_path / "x.lance", table_of(matrix()))
    shard = opened(path)
    lance.dataset(path).delete("id = 'id 3'")
    refused(lambda: list(shard.chunks(5)), path, "changed during the run")
    refused(lambda: shard.writer(tmp_path / "y.lance", shard.dtype), path, "changed during the run")
    assert files(tmp_path) == ["x.lance"]


@pytest.mark.parametrize("rows", [0, 20])
def test_abort_leaves_nothing(tmp_path, refused, rows):
    x = matrix()
    shard = opened(saved(tmp_path / "x.lance", table_of(x)))
    writer = shard.writer(tmp_path / "y.lance", shard.dtype, 23)
    writer.write(x[:rows])
    writer.abort()
    writer.abort()
    refused(writer.commit, "y.lance", f"{rows} of 23 rows", error=FastRealignError)
    assert files(tmp_path) == ["x.lance"]
    assert "fastrealign-lance" not in [thread.name for thread in threading.enumerate()]


def test_a_failure_of_lance_is_reported(tmp_path, refused, monkeypatch):
    shard = opened(saved(tmp_path / "x.lance", table_of(matrix())))

    def fails(*_, **__):
        raise OSError("LanceError(IO): No space left on device (os error 28)")

    monkeypatch.setattr(lance, "write_dataset", fails)

    def run():
        with shard.writer(tmp_path / "y.lance", shard.dtype) as writer:
            for part in shard.chunks(1):
                writer.write(part)
            writer.commit()

    refused(run, tmp_path / "y.lance: could not be written", "free some space", error=FastRealignError)
    assert files(tmp_path) == ["x.lance"]


def test_a_folder_that_cannot_be_made(tmp_path, refused):
    shard = opened(saved(tmp_path / "x.lance", table_of(matrix())))
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "y.lance"
    refused(lambda: shard.writer(path, shard.dtype), f"{path}: could not be written", error=FastRealignError)


@pytest.fixture
def sides(tmp_path):
    rows = corpus.rows(60, 1)
    for i in range(3):
        corpus.lance_folder(tmp_path / "text" / f"part_{i}.lance", rows[20 * i : 20 * (i + 1)], id=list(range(20)))
    return tmp_path / "text", corpus.rows(40, 2)


def test_one_dataset_to_one_dataset(tmp_path, sides):
    text, image = sides
    source, out = text / "part_0.lance", tmp_path / "new" / "aligned.lance"
    report = fr.align(source, image, out)
    assert files(out.parent) == [out.name, f"{out.name}.alignment.safetensors", f"{out.name}.manifest.json"]
    rows = np.array(lance.dataset(out).to_table()["embedding"].to_pylist(), np.float32)
    assert np.array_equal(rows, report.alignment(corpus.rows(60, 1)[:20]))
    assert fr.align(source, image, out, resume=True).nothing_to_do
    fr.align(source, image, out, overwrite=True, centroid="exact")
    with pytest.raises(fr.InputError, match="is not empty"):
        fr.align(source, image, out)


def test_a_dataset_that_was_changed_is_not_replaced(tmp_path, sides):
    text, image = sides
    fr.align(text, image, tmp_path / "out")
    lance.dataset(tmp_path / "out" / "part_1.lance").delete("id = 3")
    with pytest.raises(fr.InputError, match=r"part_1\.lance was changed since it was written"):
        fr.align(text, image, tmp_path / "out", overwrite=True)
    with pytest.raises(fr.InputError, match=r"part_1\.lance was changed since the run was complete; move it away"):
        fr.align(text, image, tmp_path / "out", resume=True)
    assert lance.dataset(tmp_path / "out" / "part_1.lance").count_rows() == 19


def test_a_dataset_of_somebody_else_is_not_removed(tmp_path, sides):
    text, image = sides
    fr.align(text, image, tmp_path / "out")
    corpus.lance_folder(tmp_path / "out" / "mine.lance", corpus.rows(5, 7))
    with pytest.raises(fr.InputError, match=r"holds mine\.lance, which fastrealign did not write"):
        fr.align(text, image, tmp_path / "out", overwrite=True)


def test_output_inside_a_dataset_is_refused(sides):
    text, image = sides
    for spec in (str(text / "*.lance"), text / "part_0.lance"):
        with pytest.raises(fr.InputError, match="lies inside the input"):
            fr.align(spec, image, text / "part_0.lance" / "aligned")


def test_resume_takes_away_the_temporary_of_a_killed_run(tmp_path, sides):
    text, image = sides
    out = tmp_path / "out"

    with pytest.raises(fr.FastRealignError, match="2 of 3 shards are complete"):
        fr.align(text, image, out, threads=1, progress=StopAfter(40))
    (out / ".part_2.lance.123.tmp" / "data").mkdir(parents=True)
    (out / ".part_2.lance.123.tmp" / "data" / "half.lance").write_bytes(b"half")
    fr.align(text, image, out, resume=True)
    assert files(out) == ["alignment.safetensors", "manifest.json", *(f"part_{i}.lance" for i in range(3))]
