"""arrow.py: Arrow streams and files, read through a map in bounded memory and written back as what they were."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats import table_copy as tables
from fastrealign.formats.arrow import ArrowShard

pa = pytest.importorskip("pyarrow")

KINDS = ["fixed", "list", "large"]
NAMES = {"f2": "float16", "f4": "float32", "f8": "float64"}


def matrix(rows=23, dim=5, dtype=np.float32):
    return np.random.default_rng(5).standard_normal((rows, dim)).astype(dtype)


def list_type(kind, value, dim=5):
    return {"fixed": pa.list_(value, dim), "list": pa.list_(value), "large": pa.large_list(value)}[kind]


def table_of(x, kind="fixed", name="embedding"):
    rows = range(len(x))
    columns = {
        "id": pa.array([f"id {i}" for i in rows]),
        name: pa.array(list(x), list_type(kind, pa.from_numpy_dtype(x.dtype), x.shape[1])),
        "url": pa.array([None if i % 3 else f"http://{i}" for i in rows]),
        "tags": pa.array([["a"] * (i % 4) for i in rows], pa.list_(pa.string())),
        "size": pa.array([{"w": i, "h": 2.5} for i in rows], pa.struct({"w": pa.int64(), "h": pa.float64()})),
        "when": pa.array([i * 1_000_000 for i in rows], pa.timestamp("us", tz="UTC")),
        "kind": pa.array([f"k{i % 2}" for i in rows]).dictionary_encode(),
    }
    schema = pa.schema([pa.field(key, value.type, metadata={"of": key}) for key, value in columns.items()])
    return pa.table(columns, schema=schema.with_metadata({"made by": "a test"}))


def saved(path, table, batch=9, stream=True, **options):
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with (
        pa.OSFile(str(path), "wb") as file,
        new(file, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer,
    ):
        writer.write_table(table, max_chunksize=batch)
    return path


def read_back(path):
    """(table, rows of each batch, whether it is a stream)"""
    stream = path.read_bytes()[:6] != b"ARROW1"
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_stream(file) if stream else pa.ipc.open_file(file)
        batches = list(reader) if stream else [reader.get_batch(i) for i in range(reader.num_record_batches)]
        return pa.Table.from_batches(batches, schema=reader.schema), [batch.num_rows for batch in batches], stream


def opened(path, column=None):
    return ArrowShard(path, path.name, column)


def copy(shard, out, dtype=None, chunk=4, scale=1):
    with shard.writer(out, np.dtype(dtype or shard.dtype), shard.rows) as writer:
        for part in shard.chunks(chunk):
            writer.write(part * part.dtype.type(scale))
        writer.commit()
    return read_back(out)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_round_trip(tmp_path, rows_in, tree, kind, dtype, chunk, stream):
    x = matrix(dtype=dtype)
    table = table_of(x, kind)
    shard = opened(saved(tmp_path / "in.arrow", table, stream=stream))
    assert (shard.rows, shard.dim, shard.dtype, shard.skipped) == (23, 5, np.dtype(dtype), 0)
    assert not shard.random_access
    assert np.array_equal(rows_in(shard, chunk), x)
    written, sizes, streamed = copy(shard, tmp_path / "out.arrow", chunk=chunk)
    assert written.equals(table, check_metadata=True)
    assert (sizes, streamed) == ([9, 9, 5], stream)
    assert tree(tmp_path) == ["in.arrow", "out.arrow"]


@pytest.mark.parametrize("drop", [False, True])
def test_the_same_bytes_again(tmp_path, drop):
    x = matrix()
    shard = opened(saved(tmp_path / "in.arrow", table_of(x)))
    keep = np.arange(23) % 5 != 2
    for name in ("a", "b"):
        with shard.writer(tmp_path / name, shard.dtype) as writer:
            for lo in range(0, 23, 5):
                part = keep[lo : lo + 5]
                writer.write(*(x[lo : lo + 5][part], part) if drop else (x[lo : lo + 5],))
            writer.commit()
        np.random.default_rng(0).standard_normal(10_000)  # other things in memory in between
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_another_element_type_out(tmp_path, rows_in, kind, dtype):
    x = matrix()
    table = table_of(x, kind)
    written, _, _ = copy(opened(saved(tmp_path / "in.arrow", table)), tmp_path / "out.arrow", dtype, scale=2)
    assert written.drop(["embedding"]).equals(table.drop(["embedding"]), check_metadata=True)
    assert written.column_names == table.column_names
    assert written.schema.field("embedding").type == list_type(kind, getattr(pa, NAMES[dtype])())
    assert written.schema.field("embedding").metadata == {b"of": b"embedding"}
    assert np.array_equal(rows_in(opened(tmp_path / "out.arrow")), (x * 2).astype(dtype))


def test_hugging_face_types_follow_the_element_type(tmp_path):
    features = {"id": {"dtype": "string", "_type": "Value"}}
    old = {"feature": {"dtype": "float32", "id": None, "_type": "Value"}, "length": 5, "_type": "Sequence"}
    noted = {"info": {"features": {**features, "embedding": old}}, "more": 1}
    table = table_of(matrix()).replace_schema_metadata({"huggingface": json.dumps(noted), "other": "stays"})
    written, _, _ = copy(opened(saved(tmp_path / "in.arrow", table)), tmp_path / "out.arrow", "f2")
    new = {"feature": {"dtype": "float16", "id": None, "_type": "Value"}, "length": 5, "_type": "Sequence"}
    assert json.loads(written.schema.metadata[b"huggingface"]) == {
        "info": {"features": {**features, "embedding": new}},
        "more": 1,
    }
    assert written.schema.metadata[b"other"] == b"stays"


def test_bfloat16_is_not_written(tmp_path, tree, refused):
    shard = opened(saved(tmp_path / "in.arrow", table_of(matrix())))
    dtype = np.dtype(ml_dtypes.bfloat16)
    refused(lambda: shard.writer(tmp_path / "out.arrow", dtype), "out.arrow", "arrow has no bfloat16", "float32")
    assert tree(tmp_path) == ["in.arrow"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", ["most", "none", "all"])
def test_dropped_rows_take_their_columns_with_them(tmp_path, kind, keep):
    x = matrix()
    table = table_of(x, kind)
    shard = opened(saved(tmp_path / "in.arrow", table, batch=6))
    keep = {"most": np.arange(23) % 5 != 2, "none": np.zeros(23, bool), "all": np.ones(23, bool)}[keep]
    with shard.writer(tmp_path / "out.arrow", shard.dtype, shard.rows) as writer:
        for lo in range(0, 23, 10):
            part = keep[lo : lo + 10]
            writer.write(x[lo : lo + 10][part], keep=part)
        writer.commit()
    assert read_back(tmp_path / "out.arrow")[0].equals(table.filter(pa.array(keep)))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed(tmp_path, rows_in, codec, stream):
    x = matrix()
    table = table_of(x)
    shard = opened(saved(tmp_path / "in.arrow", table, stream=stream, compression=codec))
    assert np.array_equal(rows_in(shard), x)
    assert copy(shard, tmp_path / "out.arrow")[0].equals(table)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(tmp_path, rows_in, kind, stream):
    table = table_of(matrix(), kind).slice(0, 0)
    shard = opened(saved(tmp_path / "in.arrow", table, stream=stream))
    assert (shard.rows, shard.dim) == (0, 5 if kind == "fixed" else 0)
    assert len(rows_in(shard)) == 0
    assert copy(shard, tmp_path / "out.arrow")[0].equals(table)


def test_batches_without_rows_in_between(tmp_path, rows_in):
    table = table_of(matrix())
    path = tmp_path / "in.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        for lo, hi in ((0, 0), (0, 4), (4, 4), (4, 23), (23, 23)):
            writer.write_batch(table.slice(lo, hi - lo).combine_chunks().to_batches()[0] if hi > lo else empty(table))
    assert np.array_equal(rows_in(opened(path)), matrix())
    assert copy(opened(path), tmp_path / "out.arrow")[0].equals(table)


def empty(table):
    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in table.schema], schema=table.schema)


def test_column_is_chosen(tmp_path, rows_in, refused):
    x, y = matrix(), matrix() + 1
    table = table_of(x).append_column("other", pa.array(list(y)))
    path = saved(tmp_path / "in.arrow", table)
    assert np.array_equal(rows_in(opened(path)), x)
    assert np.array_equal(rows_in(opened(path, "other")), y)
    refused(
        lambda: opened(path, "vector"), path, "no column 'vector'", "id, embedding, url, tags, size, when, kind, other"
    )
    refused(lambda: opened(path, "tags"), path, "column 'tags' holds list<item: string>", "float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0, 13, 22])
@pytest.mark.parametrize("value", [None, [1.0, None, 2.0], [None, None, None]])
def test_nulls_are_rows_of_nan_and_go_back_as_they_came(tmp_path, rows_in, kind, at, value):
    values = [[float(i), 1.0, 2.0] for i in range(23)]
    values[at] = value
    table = pa.table({"id": range(23), "embedding": pa.array(values, list_type(kind, pa.float32(), 3))})
    shard = opened(saved(tmp_path / "x.arrow", table))
    assert list(np.flatnonzero(np.isnan(rows_in(shard)).any(axis=1))) == [at]
    assert copy(shard, tmp_path / "y.arrow")[0].equals(table)


@pytest.mark.parametrize("kind", ["list", "large"])
@pytest.mark.parametrize("value", [[], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
@pytest.mark.parametrize("at", [1, 13, 22])
def test_ragged(tmp_path, refused, kind, value, at):
    values = [[float(i), 1.0, 2.0] for i in range(23)]
    values[at] = value
    path = saved(tmp_path / "x.arrow", pa.table({"embedding": pa.array(values, list_type(kind, pa.float32()))}))
    refused(lambda: list(opened(path).chunks(5)), path, f"row {at} has {len(value)} values, others have 3", "one width")


def test_without_pyarrow(tmp_path, refused, monkeypatch):
    path = saved(tmp_path / "x.arrow", table_of(matrix()))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(lambda: opened(path), path, "pip install 'fastrealign[parquet]'")


@pytest.mark.parametrize("stream", [True, False])
def test_cut_off_at_any_place(tmp_path, refused, stream):
    path = saved(tmp_path / "x.arrow", table_of(matrix()), stream=stream)
    whole = path.read_bytes()
    for size in (*range(1, len(whole), 97), *range(len(whole) - 9, len(whole))):
        path.write_bytes(whole[:size])
        refused(lambda: list(opened(path).chunks(100)), path)


def test_cut_off_between_two_batches(tmp_path, refused):
    table = table_of(matrix()).drop(["kind"])
    two = saved(tmp_path / "two.arrow", table.slice(0, 18)).read_bytes()
    path = saved(tmp_path / "x.arrow", table)
    assert path.read_bytes().startswith(two[:-8])
    path.write_bytes(two[:-8])
    refused(lambda: opened(path), path, "truncated: the stream has no end")


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        (lambda data: b"", "empty (0 bytes)"),
        (lambda data: b"PK\x03\x04 something else", "not a readable Arrow file"),
        (lambda data: data + data, "bytes after its end"),
        (lambda data: data[:8] + b"\xff" * 200 + data[208:], "not a readable Arrow file"),
    ],
)
def test_damaged_file(tmp_path, refused, change, piece):
    path = saved(tmp_path / "x.arrow", table_of(matrix()))
    path.write_bytes(change(path.read_bytes()))
    refused(lambda: list(opened(path).chunks(100)), path, piece)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3),
    st.sampled_from(KINDS),
    st.booleans(),
)
def test_damage_raises_nothing_but_input_errors(tmp_path, damage, kind, stream):
    path = saved(tmp_path / "x.arrow", table_of(matrix(), kind), stream=stream)
    data = bytearray(path.read_bytes())
    for at, value in damage:
        data[int(at * (len(data) - 1))] = value
    path.write_bytes(data)
    try:
        shard = opened(path)
        keep = np.arange(shard.rows) % 2 == 0
        with shard.writer(tmp_path / "y.arrow", shard.dtype) as writer:
            lo = 0
            for part in shard.chunks(9):
                writer.write(part[keep[lo : lo + len(part)]], keep[lo : lo + len(part)])
                lo += len(part)
    except InputError as error:
        assert "x.arrow" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("rows", [0, 9, 40])
def test_changed_after_it_was_opened(tmp_path, refused, tree, rows):
    path = saved(tmp_path / "x.arrow", table_of(matrix()))
    shard = opened(path)
    saved(path, table_of(matrix(rows)).drop(["url"]))
    refused(lambda: list(shard.chunks(5)), path, "changed during the run")
    refused(lambda: shard.writer(tmp_path / "y.arrow", shard.dtype), path, "changed during the run")
    saved(path, table_of(matrix()).drop(["embedding"]))
    refused(lambda: shard.writer(tmp_path / "y.arrow", shard.dtype), path, "changed during the run")
    assert tree(tmp_path) == ["x.arrow"]


def test_cut_short_while_it_is_read(tmp_path, refused):
    path = saved(tmp_path / "x.arrow", table_of(matrix(2000, 512)), batch=100)
    chunks = opened(path).chunks(100)
    next(chunks)
    os.truncate(path, path.stat().st_size // 2)
    refused(lambda: list(chunks), path, "changed during the run")


@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("room", [0, 4, 500, 2000])
def test_disk_full(tmp_path, tree, refused, disk_full, room):
    shard = opened(saved(tmp_path / "x.arrow", table_of(matrix()), batch=7))

    def run():
        with shard.writer(tmp_path / "y.arrow", shard.dtype) as writer:
            for part in shard.chunks(5):
                writer.write(part)
            writer.commit()

    disk_full(room)
    refused(run, tmp_path / "y.arrow", "No space left on device", "free some space", error=FastRealignError)
    gc.collect()
    assert tree(tmp_path) == ["x.arrow"]


def test_large_batches_are_split(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_BYTES", 100_000)
    monkeypatch.setattr(tables, "STEP_ROWS", 64)
    table = table_of(matrix(3000, 32))
    written, sizes, _ = copy(opened(saved(tmp_path / "in.arrow", table, batch=3000)), tmp_path / "out.arrow", chunk=500)
    assert written.equals(table)
    assert len(sizes) >= 4 and max(sizes[:-1]) - min(sizes[:-1]) <= 128


def test_memory_does_not_follow_the_size_of_a_batch(tmp_path):
    code = (
        "import re, sys; from fastrealign.formats.arrow import ArrowShard\n"
        "shard = ArrowShard(sys.argv[1], 'x.arrow')\n"
        "assert sum(part.sum() for part in shard.chunks(2000)) == 512 * shard.rows\n"
        "print(re.search('VmHWM: *([0-9]+)', open('/proc/self/status').read().replace(chr(9), ' '))[1])"
    )
    peak = {}
    for rows in (2_000, 100_000):
        path = tmp_path / f"{rows}.arrow"
        values = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * 512, np.float32)), 512)
        saved(path, pa.table({"emb": values}), batch=rows)
        peak[rows] = int(subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=True).stdout)
    assert peak[100_000] - peak[2_000] < 64 << 10, peak  # in KiB; the larger batch has 200 MB


@pytest.mark.usefixtures("little_to_collect")
def test_descriptors_are_given_back(tmp_path, rows_in):
    path = saved(tmp_path / "x.arrow", table_of(matrix()))
    shards = [opened(path) for _ in range(5)]
    rows_in(shards[0])
    copy(shards[0], tmp_path / "y.arrow")
    gc.collect()
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    assert str(path) not in [os.readlink(link) for link in links if os.path.lexists(link)]
