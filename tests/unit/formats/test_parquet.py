"""parquet.py, tables.py, table_copy.py: the embedding column is read and replaced, everything else stays as it was."""

from __future__ import annotations

import errno
import gc
import io
import os
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shards import rewrite

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats import table_copy as tables
from fastrealign.formats.parquet import ParquetShard, ParquetTable

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

KINDS = ["fixed", "list", "large"]
NAMES = {"f2": "float16", "f4": "float32", "f8": "float64"}


def matrix(rows=23, dim=5, dtype=np.float32):
    return np.random.default_rng(5).standard_normal((rows, dim)).astype(dtype)


def lists(x, kind):
    values = pa.array(x.reshape(-1))
    offsets = np.arange(len(x) + 1) * x.shape[1]
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, x.shape[1])
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def table_of(x, kind="fixed", name="embedding"):
    rows = range(len(x))
    columns = {
        "id": pa.array([f"id {i}" for i in rows]),
        name: lists(x, kind),
        "url": pa.array([None if i % 3 else f"http://{i}" for i in rows]),
        "tags": pa.array([["a"] * (i % 4) for i in rows]),
        "size": pa.array([{"w": i, "h": 2.5} for i in rows]),
        "when": pa.array([i * 1_000_000 for i in rows], pa.timestamp("us", tz="UTC")),
        "kind": pa.array([f"k{i % 2}" for i in rows]).dictionary_encode(),
    }
    schema = pa.schema([pa.field(key, value.type, metadata={"of": key}) for key, value in columns.items()])
    return read_back(pa.table(columns, schema=schema.with_metadata({"made by": "a test", "pandas": "{}"})))


def saved(path, table, **options):
    pq.write_table(table, path, **options)
    return path


def read_back(table):
    """A table as parquet gives it back: the values inside lists are named "element" there."""
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return pq.read_table(sink)


def opened(path, column=None):
    return ParquetShard(path, path.name, column)


def copy(shard, out, dtype=None, chunk=4, scale=1):
    with shard.writer(out, np.dtype(dtype or shard.dtype), shard.rows) as writer:
        for part in shard.chunks(chunk):
            writer.write(part * part.dtype.type(scale))
        writer.commit()
    return pq.read_table(out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
@pytest.mark.parametrize("chunk", [1, 4, 7, 100])
def test_round_trip(tmp_path, rows_in, tree, kind, dtype, chunk):
    x = matrix(dtype=dtype)
    table = table_of(x, kind)
    shard = opened(saved(tmp_path / "in.parquet", table, row_group_size=9))
    assert (shard.rows, shard.dim, shard.dtype, shard.skipped) == (23, 5, np.dtype(dtype), 0)
    assert not shard.random_access
    assert np.array_equal(rows_in(shard, chunk), x)
    out = copy(shard, tmp_path / "out.parquet", chunk=chunk)
    assert out.equals(table, check_metadata=True)
    assert tree(tmp_path) == ["in.parquet", "out.parquet"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_another_element_type_out(tmp_path, rows_in, kind, dtype):
    x = matrix()
    table = table_of(x, kind)
    out = copy(opened(saved(tmp_path / "in.parquet", table)), tmp_path / "out.parquet", dtype, scale=2)
    assert out.drop(["embedding"]).equals(table.drop(["embedding"]), check_metadata=True)
    assert out.column_names == table.column_names
    kinds = {"fixed": pa.list_(field := pa.field("element", getattr(pa, NAMES[dtype])()), 5)}
    kinds |= {"list": pa.list_(field), "large": pa.large_list(field)}
    assert out.schema.field("embedding").type == kinds[kind]
    assert out.schema.field("embedding").metadata == {b"of": b"embedding"}
    assert np.array_equal(rows_in(opened(tmp_path / "out.parquet")), (x * 2).astype(dtype))


def test_bfloat16_is_not_written(tmp_path, tree, refused):
    shard = opened(saved(tmp_path / "in.parquet", table_of(matrix())))
    refused(
        lambda: shard.writer(tmp_path / "out.parquet", np.dtype(ml_dtypes.bfloat16)),
        "out.parquet",
        "bfloat16",
        "float32",
    )
    assert tree(tmp_path) == ["in.parquet"]


@pytest.mark.parametrize("kind", KINDS)
def test_codecs_dictionaries_and_row_groups_stay(tmp_path, kind):
    codecs = {"embedding.list.element": "gzip", "id": "zstd", "url": "none", "kind": "brotli", "size.w": "zstd"}
    path = saved(
        tmp_path / "in.parquet", table_of(matrix(), kind), row_group_size=9, compression=codecs, use_dictionary=["kind"]
    )
    copy(opened(path), tmp_path / "out.parquet", chunk=7)
    before, after = (pq.ParquetFile(tmp_path / name).metadata for name in ("in.parquet", "out.parquet"))
    assert [after.row_group(i).num_rows for i in range(after.num_row_groups)] == [9, 9, 5]
    for i in range(before.num_columns):
        one, two = before.row_group(0).column(i), after.row_group(0).column(i)
        assert (one.path_in_schema, one.compression) == (two.path_in_schema, two.compression)
        assert one.has_dictionary_page == two.has_dictionary_page


def test_codec_of_a_list_that_names_its_leaf_otherwise(tmp_path):
    path = saved(
        tmp_path / "in.parquet", table_of(matrix(), "list"), use_compliant_nested_type=False, compression="gzip"
    )
    assert opened(path).dim == 5
    copy(opened(path), tmp_path / "out.parquet")
    group = pq.ParquetFile(tmp_path / "out.parquet").metadata.row_group(0)
    assert {group.column(i).compression for i in range(group.num_columns)} == {"GZIP"}


def test_large_row_groups_are_split(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "GROUP_BYTES", 100_000)
    monkeypatch.setattr(tables, "STEP_ROWS", 64)
    table = table_of(matrix(3000, 32))
    out = copy(opened(saved(tmp_path / "in.parquet", table)), tmp_path / "out.parquet", chunk=500)
    assert out.equals(table)
    metadata = pq.ParquetFile(tmp_path / "out.parquet").metadata
    sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert len(sizes) >= 4 and max(sizes[:-1]) - min(sizes[:-1]) <= 128


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", ["most", "none", "all"])
def test_dropped_rows_take_their_columns_with_them(tmp_path, kind, keep):
    x = matrix()
    table = table_of(x, kind)
    shard = opened(saved(tmp_path / "in.parquet", table, row_group_size=6))
    keep = {"most": np.arange(23) % 5 != 2, "none": np.zeros(23, bool), "all": np.ones(23, bool)}[keep]
    with shard.writer(tmp_path / "out.parquet", shard.dtype, shard.rows) as writer:
        for lo in range(0, 23, 10):
            part = keep[lo : lo + 10]
            writer.write(x[lo : lo + 10][part], keep=part)
        writer.commit()
    assert pq.read_table(tmp_path / "out.parquet").equals(table.filter(pa.array(keep)))


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_embedding_column(tmp_path, kind):
    table = table_of(matrix(), kind).select(["embedding"])
    assert copy(opened(saved(tmp_path / "in.parquet", table)), tmp_path / "out.parquet").equals(table)


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows(tmp_path, rows_in, kind):
    table = table_of(matrix(), kind).slice(0, 0)
    for groups in (True, False):
        path = tmp_path / "in.parquet"
        if groups:
            saved(path, table)
        else:
            pq.ParquetWriter(path, table.schema).close()
        shard = opened(path)
        assert (shard.rows, shard.dim) == (0, 5 if kind == "fixed" else 0)
        assert len(rows_in(shard)) == 0
        assert copy(shard, tmp_path / "out.parquet").equals(table)


@pytest.mark.parametrize("name", ["embedding", "embeddings", "emb", "img vector", "a.b", "list.element"])
def test_column_is_found(tmp_path, rows_in, name):
    x = matrix()
    table = table_of(x, name=name)
    shard = opened(saved(tmp_path / "in.parquet", table))
    assert shard.column == name
    assert np.array_equal(rows_in(shard), x)
    assert copy(shard, tmp_path / "out.parquet").equals(table)


def test_column_is_chosen(tmp_path, rows_in, refused):
    x, y = matrix(), matrix() + 1
    table = table_of(x).append_column("other", lists(y, "list"))
    path = saved(tmp_path / "in.parquet", table)
    assert np.array_equal(rows_in(opened(path)), x)
    assert np.array_equal(rows_in(opened(path, "other")), y)
    listed = "id, embedding, url, tags, size, when, kind, other"
    refused(lambda: opened(path, "vector"), path, "no column 'vector'", listed)
    refused(lambda: opened(path, "tags"), path, "column 'tags' holds list<element: string>", "float32")
    saved(path, table.rename_columns(["id", "one", "url", "tags", "size", "when", "kind", "two"]))
    refused(lambda: opened(path), path, "several columns of embeddings, one, two", "name the one")
    saved(path, table.rename_columns(["id", "embedding", "url", "tags", "size", "when", "kind", "emb"]))
    refused(lambda: opened(path), path, "several columns of embeddings, embedding, emb")
    saved(path, table.drop(["embedding", "other"]))
    refused(lambda: opened(path), path, "no column of embeddings", "id, url, tags, size, when, kind")
    saved(path, pa.table([table["embedding"], table["id"], table["id"]], names=["embedding", "id", "id"]))
    refused(lambda: opened(path), path, "more than one column named 'id'")


LIST = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
UNTAKEN = {
    "whole numbers": pa.array([[1, 2, 3], [4, 5, 6]]),
    "decimals": pa.array([[1, 2], [3, 4]], pa.list_(pa.decimal128(9, 3))),
    "text": pa.array(["[1.0, 2.0]", "[3.0, 4.0]"]),
    "bytes": pa.array([b"abcd", b"efgh"]),
    "struct": pa.array([{"data": [1.0, 2.0], "shape": [2]}] * 2),
    "several vectors": pa.array([[[1.0, 2.0], [3.0, 4.0]]] * 2),
    "lists of lists of lists": pa.array([[[[1.0]]]] * 2),
    "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(np.ones((2, 2, 3), np.float32)),
}


@pytest.mark.parametrize("kind", list(UNTAKEN))
@pytest.mark.parametrize("name", ["text_features", "clipEmbedding", "vector_fp16", "emb_json", "image-embeds"])
def test_what_may_be_the_embeddings_and_is_not_taken_is_named(tmp_path, refused, rows_in, kind, name):
    path = saved(tmp_path / "x.parquet", pa.table({name: UNTAKEN[kind], "box": LIST}))
    pieces = [repr(name), str(pq.read_schema(path).field(0).type)[:60], "'box' (list<element: double>)", "column='box'"]
    refused(lambda: opened(path), path, *pieces)
    assert np.array_equal(rows_in(opened(path, "box")), LIST)
    saved(path, pa.table({"embedding": UNTAKEN[kind], "box": LIST}))
    refused(lambda: opened(path), path, "one embedding a row", "column='box'")


@pytest.mark.parametrize("kind", ["decimals", "struct", "several vectors", "lists of lists of lists", "tensors"])
def test_its_shape_alone_may_be_that_of_embeddings(tmp_path, refused, rows_in, kind):
    path = saved(tmp_path / "x.parquet", pa.table({"clip": UNTAKEN[kind], "box": LIST}))
    refused(lambda: opened(path), path, "'clip'", "'box'", "column='box'")
    saved(path, pa.table({"boxes": UNTAKEN[kind], "vector": LIST}))  # unless the other has the name
    assert np.array_equal(rows_in(opened(path)), LIST)


@pytest.mark.parametrize("name", ["embedding_model", "feature_id", "emb_path", "december", "member", "caption", "url"])
def test_text_beside_the_embeddings_is_none(tmp_path, rows_in, name):
    beside = {name: ["a", "b"], "tokens": [[1], [2]], "emb_dim": [3, 3], "tags": [["a"], []], "size": [{"w": 1}] * 2}
    path = saved(tmp_path / "x.parquet", pa.table({**beside, "x": LIST}))
    assert np.array_equal(rows_in(opened(path)), LIST)


@pytest.mark.parametrize(
    "column",
    [pa.array([1.0, 2.0]), pa.array([[1, 2], [3, 4]]), pa.array(["a", "b"]), pa.array([b"abcd", b"efgh"])],
    ids=lambda column: str(column.type),
)
def test_column_of_another_type(tmp_path, refused, column):
    path = saved(tmp_path / "x.parquet", pa.table({"embedding": column}))
    kind = str(column.type).replace("item", "element")
    refused(lambda: opened(path), path, "column 'embedding' holds", kind, "float16, float32 or float64")


def beside(rows=23):
    """Columns of rare types, all but the first of which some function of Arrow has no kernel for."""
    import decimal

    names = pa.array([f"k{i % 3}" for i in range(rows)])
    return {
        "null": pa.nulls(rows),
        "text views": pa.array(names.to_pylist(), pa.string_view()),
        "byte views": pa.array([name.encode() for name in names.to_pylist()], pa.binary_view()),
        "list views": pa.array([["a"] * (i % 3) for i in range(rows)], pa.list_view(pa.string())),
        "dictionaries in lists": pa.ListArray.from_arrays(
            pa.array(range(rows + 1), pa.int32()), names.dictionary_encode()
        ),
        "dictionaries in structs": pa.StructArray.from_arrays([names.dictionary_encode()], ["k"]),
        "maps": pa.array([[("a", i)] for i in range(rows)], pa.map_(pa.string(), pa.int32())),
        "durations": pa.array(range(rows), pa.duration("us")),
        "decimals": pa.array([decimal.Decimal(i) for i in range(rows)], pa.decimal256(50, 3)),
        "tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(np.random.default_rng(0).standard_normal((rows, 2, 2))),
        "numbers": pa.array(range(rows)).dictionary_encode(),
    }


@pytest.mark.parametrize("name", list(beside()))
@pytest.mark.parametrize("keep", ["most", "none", "all"])
def test_columns_of_rare_types_are_carried_along(tmp_path, name, keep):
    table = pa.table({name: beside()[name], "embedding": lists(matrix(), "fixed")})
    try:
        path = saved(tmp_path / "x.parquet", table, row_group_size=9)
    except pa.ArrowNotImplementedError:
        pytest.skip("this release of pyarrow writes no views to Parquet, such as 16")
    before = pq.read_table(path)
    keep = {"most": np.arange(23) % 5 != 2, "none": np.zeros(23, bool), "all": np.ones(23, bool)}[keep]
    rewrite(opened(path), tmp_path / "y.parquet", keep=keep)
    after = pq.read_table(tmp_path / "y.parquet")
    assert after.schema.equals(before.schema, check_metadata=True)
    assert after[name].to_pylist() == [
        value for value, kept in zip(before[name].to_pylist(), keep, strict=True) if kept
    ]


def test_a_column_that_arrow_cannot_read_is_named(tmp_path, refused):
    empty = pa.array([[]] * 23, pa.list_(pa.int32(), 0))
    path = saved(
        tmp_path / "x.parquet", pa.table({"id": range(23), "none": empty, "embedding": lists(matrix(), "fixed")})
    )
    try:
        pq.read_table(path)
        pytest.skip("this version of Arrow can")
    except pa.ArrowException:
        pass
    assert opened(path).dim == 5
    refused(
        lambda: copy(opened(path), tmp_path / "y.parquet"),
        path,
        "what cannot be read is column 'none' (fixed_size_list",
    )


def test_a_column_that_parquet_cannot_hold_is_named(tmp_path, refused):
    import fastrealign as fr

    runs = pa.RunEndEncodedArray.from_arrays(pa.array([3, 23], pa.int32()), pa.array(["a", "b"]))
    table = pa.table({"id": pa.array(map(str, range(23))), "runs": runs, "embedding": lists(matrix(), "fixed")})
    with pa.OSFile(str(tmp_path / "x.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    for to in ("parquet", "npy"):
        refused(
            lambda to=to: fr.convert(tmp_path / "x.arrow", tmp_path / to, to=to), "does not hold column 'runs' (run_end"
        )
    assert fr.convert(tmp_path / "x.arrow", tmp_path / "y.arrow").rows == 23


def rows_with(kind, at, value, rows=23):
    values = [[float(i), 1.0, 2.0] for i in range(rows)]
    values[at] = value
    kind = {"fixed": pa.list_(pa.float32(), 3), "list": pa.list_(pa.float32()), "large": pa.large_list(pa.float32())}[
        kind
    ]
    return pa.table({"id": range(rows), "embedding": pa.array(values, kind)})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [None, [1.0, None, 2.0], [None, None, None]])
@pytest.mark.parametrize("at", [0, 1, 13, 22])
def test_nulls_are_rows_of_nan_and_go_back_as_they_came(tmp_path, rows_in, kind, value, at):
    try:
        read_back(rows_with(kind, at, value))
    except (pa.ArrowException, OSError):
        pytest.skip("this version of Arrow has no nulls in fixed-size lists")
    path = saved(tmp_path / "x.parquet", table := read_back(rows_with(kind, at, value)), row_group_size=9)
    shard = opened(path)
    rows = rows_in(shard)
    assert shard.dim == 3 and list(np.flatnonzero(np.isnan(rows).any(axis=1))) == [at]
    assert np.array_equal(np.delete(rows, at, 0), [[i, 1, 2] for i in range(23) if i != at])
    assert shard.where(at) == f"{path}: row {at} (null)" and shard.where(at + 1) == f"{path}: row {at + 1}"
    assert np.array_equal(np.concatenate([shard.group(i) for i in range(3)]), rows, equal_nan=True)
    assert copy(shard, tmp_path / "y.parquet").equals(table)
    half = copy(shard, tmp_path / "y.parquet", "f2")
    assert half["embedding"].to_pylist() == table["embedding"].to_pylist()
    assert opened(tmp_path / "y.parquet").dtype == np.float16


@pytest.mark.parametrize("kind", ["list", "large"])
@pytest.mark.parametrize("value", [[], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
@pytest.mark.parametrize("at", [1, 13, 22])
def test_ragged(tmp_path, refused, kind, value, at):
    path = saved(tmp_path / "x.parquet", rows_with(kind, at, value), row_group_size=9)
    refused(lambda: list(opened(path).chunks(5)), path, f"row {at} has {len(value)} values, others have 3", "one width")


def test_first_row_without_values(tmp_path, refused):
    path = saved(tmp_path / "x.parquet", rows_with("list", 0, []))
    refused(lambda: opened(path), path, "row 0 of column 'embedding' has no values")


def test_without_pyarrow(tmp_path, refused, monkeypatch):
    path = saved(tmp_path / "x.parquet", table_of(matrix()))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    refused(lambda: opened(path), path, "pip install 'fastrealign[parquet]'")


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        (lambda data: b"", "empty (0 bytes)"),
        (lambda data: b"\x93NUMPY" + data[6:-6] + b"\x93NUMPY", "not a readable parquet file"),
        (lambda data: data[:-5], "not a readable parquet file"),
        (lambda data: data[:100], "not a readable parquet file"),
        (lambda data: data[:4] + b"\xff" * 400 + data[404:], "not a readable parquet file"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file(tmp_path, refused, change, piece, kind):
    path = saved(tmp_path / "x.parquet", table_of(matrix(), kind).select(["embedding"]), compression="none")
    path.write_bytes(change(path.read_bytes()))
    refused(lambda: list(opened(path).chunks(100)), path, piece)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_in_a_page_with_a_checksum_is_reported(tmp_path, rng, refused, kind, version):
    x = rng.standard_normal((23, 5)).astype(np.float32)
    path = tmp_path / "x.parquet"
    options = {"compression": "none", "use_dictionary": False, "data_page_version": version}
    pq.write_table(pa.table({"embedding": lists(x, kind)}), path, write_page_checksum=True, **options)
    data = bytearray(path.read_bytes())
    at = data.index(x[7].tobytes())
    data[at + int(rng.integers(x[7].nbytes))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    refused(lambda: list(opened(path).chunks(7)), path, "CRC")


def test_damage_in_the_middle_is_placed(tmp_path, refused):
    path = saved(tmp_path / "x.parquet", table_of(matrix()), row_group_size=7, compression="none")
    chunk = pq.ParquetFile(path).metadata.row_group(2).column(1)
    data = bytearray(path.read_bytes())
    start = chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    refused(lambda: list(opened(path).chunks(7)), path, "not a readable parquet file from row 14 on")


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=3), st.sampled_from(KINDS))
def test_damage_raises_nothing_but_input_errors(tmp_path, damage, kind):
    path = saved(tmp_path / "x.parquet", table_of(matrix(), kind).select(["id", "embedding"]))
    data = bytearray(path.read_bytes())
    for at, value in damage:
        data[int(at * (len(data) - 1))] = value
    path.write_bytes(data)
    try:
        for _ in opened(path).chunks(9):
            pass
    except InputError as error:
        assert "x.parquet" in str(error) and "\n" not in str(error)


def test_unreadable(tmp_path, refused, monkeypatch):
    path = saved(tmp_path / "x.parquet", table_of(matrix()))

    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(pq, "ParquetFile", fail)
    refused(lambda: opened(path), path, "permission denied")


@pytest.mark.parametrize("rows", [0, 9, 23, 40])
def test_changed_after_it_was_opened(tmp_path, refused, tree, rows):
    x = matrix()
    path = saved(tmp_path / "x.parquet", table_of(x), row_group_size=7)
    shard = opened(path)
    saved(path, table_of(matrix(rows)).drop(["url"]), row_group_size=7)
    if rows != 23:
        refused(lambda: list(shard.chunks(5)), path, "changed during the run")
        refused(lambda: shard.writer(tmp_path / "y.parquet", shard.dtype), path, "changed during the run")
    others = table_of(x).drop(["embedding"])
    for table in (others, others.rename_columns(["embedding", *others.column_names[1:]])):
        saved(path, table)
        refused(lambda: shard.writer(tmp_path / "y.parquet", shard.dtype), path, "changed during the run")
    assert tree(tmp_path) == ["x.parquet"]


def test_other_columns_that_end_early(tmp_path, refused, tree, monkeypatch):
    shard = opened(saved(tmp_path / "x.parquet", table_of(matrix())))
    monkeypatch.setattr(ParquetTable, "batches", lambda *_: iter(()))
    writer = shard.writer(tmp_path / "y.parquet", shard.dtype)
    refused(lambda: writer.write(matrix()), tmp_path / "x.parquet", "changed during the run")
    assert tree(tmp_path) == ["x.parquet"]


def test_rows_in_order_only(tmp_path):
    shard = opened(saved(tmp_path / "x.parquet", table_of(matrix())))
    with shard.writer(tmp_path / "y.parquet", shard.dtype) as writer, pytest.raises(TypeError, match="use write"):
        writer.write_at(0, matrix())
    with pytest.raises(TypeError, match="use chunks"):
        shard.read(0, 1, np.empty(99, np.uint8))


@pytest.mark.usefixtures("little_to_collect")
@pytest.mark.parametrize("room", [0, 4, 500, 2000])
def test_disk_full(tmp_path, tree, refused, disk_full, room):
    shard = opened(saved(tmp_path / "x.parquet", table_of(matrix()), row_group_size=7))

    def run():
        with shard.writer(tmp_path / "y.parquet", shard.dtype) as writer:
            for part in shard.chunks(5):
                writer.write(part)
            writer.commit()

    disk_full(room)
    refused(run, tmp_path / "y.parquet", "No space left on device", "free some space", error=FastRealignError)
    gc.collect()
    assert tree(tmp_path) == ["x.parquet"]


@pytest.mark.usefixtures("little_to_collect")
def test_abort_half_way(tmp_path, tree, refused):
    x = matrix()
    shard = opened(saved(tmp_path / "x.parquet", table_of(x), row_group_size=7))
    writer = shard.writer(tmp_path / "y.parquet", shard.dtype)
    writer.write(x[:20])
    writer.abort()
    writer.abort()
    refused(writer.commit, "y.parquet", "20 of 23 rows", error=FastRealignError)
    del writer
    gc.collect()
    assert tree(tmp_path) == ["x.parquet"]


def test_descriptors_are_given_back(tmp_path, rows_in):
    path = saved(tmp_path / "x.parquet", table_of(matrix()))

    def held():
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return [os.readlink(link) for link in links if os.path.lexists(link)].count(str(path))

    shards = [opened(path) for _ in range(5)]
    rows_in(shards[0])
    copy(shards[0], tmp_path / "y.parquet")
    assert held() == 0


def test_names_that_look_like_urls(tmp_path, rows_in, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = matrix()
    saved(tmp_path / "plain.parquet", table_of(x)).rename(tmp_path / "s3:x.parquet")
    shard = ParquetShard("s3:x.parquet", "s3:x.parquet")
    assert np.array_equal(rows_in(shard), x)


def test_advice_for_lists_that_are_written_as_text(tmp_path, monkeypatch):
    """It makes the file readable; captions get none."""
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"emb": [None, "[0.5, 1.5]", "[2.5, 3.5]"], "text": ["a", "b", "c"]}), "a.parquet")
    with pytest.raises(InputError) as caught:
        ParquetShard("a.parquet", "a.parquet", "text")
    assert "convert" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        ParquetShard("a.parquet", "a.parquet", "emb")
    _, code = str(caught.value).split("; if it holds lists written as text, convert it with pandas and save it again: ")
    assert "\n" not in code and code.startswith("import json, pandas; frame = pandas.read_parquet('a.parquet'); ")
    exec(code, {})
    shard = ParquetShard("a.parquet", "a.parquet", "emb")
    assert (shard.rows, shard.dim) == (3, 2)
