"""faiss_files.py: indexes that faiss wrote are read by position; what is written faiss loads and searches."""

from __future__ import annotations

import os

import numpy as np
import pytest
from shards import rewrite_at_random

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats import faiss_index, faiss_lists
from fastrealign.formats.faiss_index import FaissShard

faiss = pytest.importorskip("faiss")

FLAT = {
    "L2": lambda d: faiss.IndexFlatL2(d),
    "IP": lambda d: faiss.IndexFlatIP(d),
    "plain IP": lambda d: faiss.IndexFlat(d, faiss.METRIC_INNER_PRODUCT),
    "L1": lambda d: faiss.IndexFlat(d, faiss.METRIC_L1),
}
MAPS = {"bare": None, "map": faiss.IndexIDMap, "map2": faiss.IndexIDMap2}


def matrix(rows=23, dim=5, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def ids_of(rows=23):
    return np.random.default_rng(9).permutation(10 * rows)[:rows] + 2**40


def saved(path, x, flat="IP", ids="bare"):
    index = FLAT[flat](x.shape[1])
    if MAPS[ids] is None:
        index.add(x)
    else:
        index = MAPS[ids](index)
        index.add_with_ids(x, ids_of(len(x)))
    faiss.write_index(index, str(path))
    return path


def opened(path):
    return FaissShard(path, path.name)


def copied(shard, out, keep=None, chunk=4, scale=1):
    with shard.writer(out, shard.dtype, shard.rows) as writer:
        lo = 0
        for part in shard.chunks(chunk):
            mask = None if keep is None else keep[lo : lo + len(part)]
            writer.write((part if keep is None else part[mask]) * np.float32(scale), mask)
            lo += len(part)
        writer.commit()
    return faiss.read_index(str(out))


def held_by(index):
    """(rows, ids or None) of an index that faiss loaded."""
    if not isinstance(index, (faiss.IndexIDMap, faiss.IndexIDMap2)):
        return index.reconstruct_n(0, index.ntotal), None
    return faiss.downcast_index(index.index).reconstruct_n(0, index.ntotal), faiss.vector_to_array(index.id_map)


@pytest.mark.parametrize("flat", FLAT)
@pytest.mark.parametrize("ids", MAPS)
@pytest.mark.parametrize("rows", [0, 1, 23])
def test_there_and_back(tmp_path, rows_in, tree, flat, ids, rows):
    x = matrix(rows)
    path = saved(tmp_path / "x.faiss", x, flat, ids)
    shard = opened(path)
    assert (shard.rows, shard.dim, shard.dtype, shard.random_access) == (rows, 5, np.float32, True)
    assert np.array_equal(rows_in(shard), x)
    copied(shard, tmp_path / "y.index")
    assert (tmp_path / "y.index").read_bytes() == path.read_bytes()
    assert tree(tmp_path) == ["x.faiss", "y.index"]


@pytest.mark.parametrize("flat", FLAT)
@pytest.mark.parametrize("ids", MAPS)
def test_what_is_written_searches_right(tmp_path, flat, ids):
    x = matrix(200, 8)
    written = copied(opened(saved(tmp_path / "x.faiss", x, flat, ids)), tmp_path / "y.faiss", scale=2)
    assert type(written) is type(faiss.read_index(str(tmp_path / "x.faiss")))
    queries = matrix(7, 8, seed=3)
    if "IP" in flat:
        order = np.argsort(-(queries @ (2 * x).T), axis=1)[:, :5]
    else:
        order = np.argsort(np.linalg.norm(queries[:, None] - 2 * x, 2 if flat == "L2" else 1, axis=2), axis=1)[:, :5]
    found = written.search(queries, 5)[1]
    assert np.array_equal(found, order if ids == "bare" else ids_of(200)[order])


@pytest.mark.parametrize("ids", MAPS)
@pytest.mark.parametrize("dropped", [[0], [22], range(23), range(1, 23, 2)])
def test_dropped_rows_take_their_ids_along(tmp_path, monkeypatch, ids, dropped):
    monkeypatch.setattr(faiss_index, "_COPY_IDS", 6)
    x = matrix()
    keep = np.ones(23, bool)
    keep[list(dropped)] = False
    written = copied(opened(saved(tmp_path / "x.faiss", x, "L2", ids)), tmp_path / "y.faiss", keep)
    assert written.ntotal == keep.sum()
    rows, numbers = held_by(written)
    assert np.array_equal(rows, x[keep])
    assert ids == "bare" or np.array_equal(numbers, ids_of()[keep])


def made(path, kind, x, metric=faiss.METRIC_L2, ids=None):
    """An index that faiss trained, filled and wrote; what faiss itself knows of its rows is left to the test."""
    index = faiss.index_factory(x.shape[1], kind, metric) if isinstance(kind, str) else kind(x.shape[1])
    index.train(x)
    if ids is None:
        index.add(x)
    else:
        index.add_with_ids(x, ids)
    faiss.write_index(index, str(path))
    return index


def lists_with_a_direct_map(d, how="Hashtable"):
    index = faiss.index_factory(d, "IVF7,Flat")
    index.set_direct_map_type(getattr(faiss.DirectMap, how))
    return index


HOLDING = {
    "lists": "IVF7,Flat",
    "one list": "IVF1,Flat",
    "lists found by a graph": "IVF7_HNSW4,Flat",
    "lists found by two": "IMI2x2,Flat",
    "most lists empty": lambda d: faiss.IndexIVFFlat(faiss.IndexFlatL2(d), d, 200),
    "array": lambda d: lists_with_a_direct_map(d, "Array"),
    "hashtable": lists_with_a_direct_map,
    "graph": "HNSW8",
    "nsg": "NSG8",
    "panorama": lambda d: faiss.IndexHNSWFlatPanorama(d, 8, 2),
    "cagra": lambda d: faiss.IndexHNSWCagra(d, 8),
    "refined": "SQ8,RFlat",
    "refined lists": "IVF7,PQ2x4,RFlat",
}


@pytest.mark.parametrize("ids", ["own", "map", "map2"])
@pytest.mark.parametrize("kind", HOLDING)
def test_rows_of_indexes_that_hold_them(tmp_path, rows_in, rng, kind, ids):
    x = rng.standard_normal((400, 6)).astype(np.float32)
    numbers = None if ids == "own" else rng.permutation(4000)[:400] - 2000
    what = HOLDING[kind]
    if kind == "panorama" and not hasattr(faiss, "IndexHNSWFlatPanorama"):
        pytest.skip("this release of FAISS has no Panorama, such as 1.11")
    if ids != "own":
        wrap = {"map": faiss.IndexIDMap, "map2": faiss.IndexIDMap2}[ids]
        inner = faiss.index_factory(6, what) if isinstance(what, str) else what(6)
        made(tmp_path / "x.faiss", lambda d: wrap(inner), x, ids=numbers)
    else:
        made(tmp_path / "x.faiss", what, x)
    shard = opened(tmp_path / "x.faiss")
    assert (shard.rows, shard.dim, shard.dtype) == (400, 6, np.float32)
    assert np.array_equal(rows_in(shard), x)
    assert shard.has_ids == (ids != "own")
    assert numbers is None or np.array_equal(shard.of_rows()[0]["id"], numbers)
    written = copied(shard, tmp_path / "y.faiss", scale=2)
    assert isinstance(written, faiss.IndexFlatL2 if numbers is None else faiss.IndexIDMap)
    rows, found = held_by(written)
    assert np.array_equal(rows, 2 * x)
    assert numbers is None or np.array_equal(found, numbers)
    distances, nearest = written.search(2 * x[:5], 1)
    assert np.array_equal(nearest[:, 0], np.arange(5) if numbers is None else numbers[:5]) and not distances.any()


@pytest.mark.parametrize("largest", [1 << 24, 64], ids=["sorted at once", "sorted by ranges"])
@pytest.mark.parametrize("ids", ["in order", "from 1000", "any", "twice", "all one"])
def test_rows_of_lists_come_in_the_order_of_their_ids(tmp_path, rows_in, rng, monkeypatch, ids, largest):
    monkeypatch.setattr(faiss_lists, "_SORTED", largest)
    monkeypatch.setattr(faiss_lists, "_GATHERED_BYTES", 100)
    x = rng.standard_normal((300, 6)).astype(np.float32)
    numbers = {
        "in order": np.arange(300),
        "from 1000": np.arange(1000, 1300),
        "any": rng.integers(-(2**63), 2**63 - 1, 300),
        "twice": np.arange(300) // 2,
        "all one": np.full(300, 7),
    }[ids]
    shuffled = rng.permutation(300)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(6), 6, 9, faiss.METRIC_INNER_PRODUCT)
    index.train(x)
    for part in np.array_split(shuffled, 4):
        index.add_with_ids(x[part], numbers[part])
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    shard = opened(tmp_path / "x.faiss")
    rows = rows_in(shard, 37)
    assert shard.has_ids == (ids != "in order")
    found = shard.ids(0, 300) if shard.has_ids else np.arange(300)
    assert np.array_equal(found, np.sort(numbers))
    assert {(int(i), row.tobytes()) for i, row in zip(found, rows, strict=True)} == {
        (int(i), row.tobytes()) for i, row in zip(numbers, x, strict=True)
    }
    if ids in ("in order", "from 1000", "any"):
        assert np.array_equal(rows, x[np.argsort(numbers)])
    keep = rng.random(300) < 0.7
    written = copied(shard, tmp_path / "y.faiss", keep, chunk=11)
    assert written.metric_type == faiss.METRIC_INNER_PRODUCT
    kept, its = held_by(written)
    assert np.array_equal(kept, rows[keep]) and (its is None or np.array_equal(its, found[keep]))


def test_rows_removed_from_lists_are_not_there(tmp_path, rows_in, rng):
    x = rng.standard_normal((60, 6)).astype(np.float32)
    index = made(tmp_path / "x.faiss", "IVF4,Flat", x)
    index.remove_ids(np.arange(0, 60, 3))
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    shard = opened(tmp_path / "x.faiss")
    left = np.setdiff1d(np.arange(60), np.arange(0, 60, 3))
    assert np.array_equal(rows_in(shard), x[left]) and np.array_equal(shard.ids(0, 40), left)


@pytest.mark.parametrize("kind", ["IVF4,Flat", "HNSW8", "IDMap2,HNSW8"])
def test_an_index_without_rows(tmp_path, rows_in, kind):
    index = faiss.index_factory(6, kind)
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    shard = opened(tmp_path / "x.faiss")
    assert (shard.rows, shard.dim) == (0, 6)
    assert rows_in(shard).shape == (0, 6)
    assert copied(shard, tmp_path / "y.faiss").is_trained


def test_other_metrics_keep_their_parameter(tmp_path, rng):
    x = rng.standard_normal((60, 6)).astype(np.float32)
    index = faiss.IndexHNSWFlat(6, 8, faiss.METRIC_Lp)
    index.metric_arg = index.storage.metric_arg = 3.0
    index.add(x)
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    written = copied(opened(tmp_path / "x.faiss"), tmp_path / "y.faiss")
    assert (written.metric_type, written.metric_arg) == (faiss.METRIC_Lp, 3.0)
    assert np.array_equal(written.reconstruct_n(0, 60), x)


def test_rows_kept_in_another_file_are_reported(tmp_path, refused, rng):
    x = rng.standard_normal((60, 6)).astype(np.float32)
    index = faiss.index_factory(6, "IVF4,Flat")
    index.train(x)
    lists = faiss.OnDiskInvertedLists(4, index.code_size, str(tmp_path / "lists"))
    index.replace_invlists(lists)
    index.add(x)
    faiss.write_index(index, str(tmp_path / "x.faiss"))
    refused(lambda: opened(tmp_path / "x.faiss"), tmp_path / "x.faiss", "OnDiskInvertedLists", "give the embeddings")
    index = faiss.index_factory(6, "IVF4,Flat")
    index.train(x)
    index.add(x[:59])
    index.ntotal = 60  # what rows with NaN leave behind; FAISS 1.11 dies of them
    faiss.write_index(index, str(tmp_path / "nan.faiss"))
    refused(lambda: opened(tmp_path / "nan.faiss"), "rows with NaN were added", "give the embeddings")
    graph = faiss.IndexHNSWFlat(6, 8)
    graph.add(x)
    faiss.write_index(graph, str(tmp_path / "y.faiss"), faiss.IO_FLAG_SKIP_STORAGE)
    refused(lambda: opened(tmp_path / "y.faiss"), tmp_path / "y.faiss", "IndexHNSWFlat", "written without them")


@pytest.mark.parametrize("kind", ["IVF7,Flat", "HNSW8", "SQ8,RFlat"])
def test_any_cut_is_reported(tmp_path, refused, rng, kind):
    made(tmp_path / "x.faiss", kind, rng.standard_normal((300, 6)).astype(np.float32))
    whole = (tmp_path / "x.faiss").read_bytes()
    for size in [5, 40, len(whole) // 3, len(whole) - 7300, len(whole) - 8, len(whole) - 1]:
        (tmp_path / "y.faiss").write_bytes(whole[:size])
        refused(lambda: opened(tmp_path / "y.faiss"), tmp_path / "y.faiss", "truncated")
    (tmp_path / "y.faiss").write_bytes(whole + b"x")
    refused(lambda: opened(tmp_path / "y.faiss"), tmp_path / "y.faiss", "damaged")


@pytest.mark.parametrize("sizes", [[-1, 301, 0], [2**62, 2**62, 2**62], [100, 100, 99], [2**63 - 1, 1, 1]])
def test_sizes_of_lists_beyond_reason(tmp_path, refused, rng, sizes):
    made(tmp_path / "x.faiss", "IVF3,Flat", rng.standard_normal((300, 6)).astype(np.float32))
    data = bytearray((tmp_path / "x.faiss").read_bytes())
    at = len(data) - 300 * 32 - 24
    data[at : at + 24] = np.array(sizes, np.int64).tobytes()
    (tmp_path / "x.faiss").write_bytes(data)
    refused(lambda: opened(tmp_path / "x.faiss"), tmp_path / "x.faiss", "do not hold the 300 rows")


@pytest.mark.parametrize(
    "kind, name",
    [
        ("IVF2,PQ2x4", "IndexIVFPQ"),
        ("IVF2,SQ8", "IndexIVFScalarQuantizer"),
        ("IVF2,PQ4x4fs", "IndexIVFPQFastScan"),
        ("PQ2x4", "IndexPQ"),
        ("PQ4x4fs", "IndexPQFastScan"),
        ("SQ8", "IndexScalarQuantizer"),
        ("HNSW8,PQ2x4", "IndexHNSWPQ"),
        ("HNSW8,SQ8", "IndexHNSWSQ"),
        ("LSH", "IndexLSH"),
        ("PCA4,Flat", "IndexPreTransform"),
        ("IVF2,FlatDedup", "IndexIVFFlatDedup"),
        ("RQ2x4", "IndexResidualQuantizer"),
        ("IDMap,PQ2x4", "IndexPQ"),
    ],
)
def test_other_indexes_are_named(tmp_path, refused, kind, name):
    x = matrix(300, 8)
    index = faiss.index_factory(8, kind)
    index.train(x)
    if "IDMap" in kind:
        index.add_with_ids(x, ids_of(300))
    else:
        index.add(x)
    faiss.write_index(index, str(tmp_path / "x.index"))
    message = refused(
        lambda: opened(tmp_path / "x.index"),
        tmp_path / "x.index",
        "is an ",
        "give the embeddings that it was made from",
    )
    with open(tmp_path / "x.index", "rb") as file:
        code = file.read(4).decode()
    assert f" {name}, " in message or f"index of type {code}, " in message
    assert name in message or name == "IndexResidualQuantizer"


def test_other_element_types_are_refused_before_anything_is_written(tmp_path, refused, tree, dtype):
    shard = opened(saved(tmp_path / "x.faiss", matrix()))
    if dtype == np.float32:
        shard.writer(tmp_path / "y.faiss", dtype).abort()
    else:
        refused(lambda: shard.writer(tmp_path / "y.faiss", dtype), tmp_path / "y.faiss", "float32", dtype.name)
    assert tree(tmp_path) == ["x.faiss"]


def changed(at, value):
    return lambda data: data[:at] + value.to_bytes(8, "little", signed=True) + data[at + 8 :]


@pytest.mark.parametrize(
    ("ids", "change", "pieces"),
    [
        ("bare", lambda data: b"", ["empty (0 bytes)"]),
        ("bare", lambda data: data[:3], ["not a FAISS index", "b'IxF'"]),
        ("bare", lambda data: b"\x93NUM" + data[4:], ["not a FAISS index"]),
        ("bare", lambda data: b"IxQ?" + data[4:], ["not a FAISS index"]),
        ("bare", lambda data: data[:4], ["truncated", "after 4 bytes"]),
        ("bare", lambda data: data[:40], ["truncated", "after 40 bytes"]),
        ("map", lambda data: data[:39], ["truncated", "after 39 bytes"]),
        ("map", lambda data: data[:60], ["truncated", "after 60 bytes"]),
        ("bare", lambda data: data[:-1], ["truncated: an index of 23 x 5 float32 takes 505 bytes, the file has 504"]),
        ("map", lambda data: data[:-1], ["truncated", "takes 734 bytes, the file has 733"]),
        ("map", lambda data: data + b"x", ["damaged", "takes 734 bytes, the file has 735"]),
        ("bare", changed(8, 24), ["damaged: 115 values in an index of 24 x 5"]),
        ("bare", changed(8, -23), ["damaged"]),
        ("bare", changed(37, 99), ["damaged: 99 values in an index of 23 x 5"]),
        ("map2", changed(8, 24), ["damaged: 24 ids for an index of 23 rows"]),
        ("map2", changed(82 + 460, 22), ["damaged: 23 rows, 22 ids"]),
    ],
)
def test_damaged_file(tmp_path, refused, ids, change, pieces):
    path = saved(tmp_path / "x.faiss", matrix(), "IP", ids)
    path.write_bytes(change(path.read_bytes()))
    refused(lambda: opened(path), path, *pieces)


def test_any_damage_raises_nothing_but_input_errors(tmp_path):
    path = saved(tmp_path / "x.faiss", matrix(), "L1", "map")
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(300):
        damaged = bytearray(data)
        for at in rng.integers(0, 100, 2):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(1, len(data) + 1)])
        try:
            for _ in opened(path).chunks(5):
                pass
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def test_threads_read_lists_at_random(tmp_path):
    x = matrix(4000, 16)
    made(tmp_path / "x.faiss", "IVF20,Flat", x)
    rewrite_at_random(opened(tmp_path / "x.faiss"), tmp_path / "y.faiss")
    assert np.array_equal(faiss.read_index(str(tmp_path / "y.faiss")).reconstruct_n(0, 4000), x)


def test_threads_read_and_write_at_random(tmp_path):
    x = matrix(4000, 16)
    shard = opened(saved(tmp_path / "x.faiss", x, ids="map"))
    rewrite_at_random(shard, tmp_path / "y.faiss")
    assert (tmp_path / "y.faiss").read_bytes() == (tmp_path / "x.faiss").read_bytes()


def test_file_cut_after_it_was_opened(tmp_path, refused, tree):
    path = saved(tmp_path / "x.faiss", matrix(), ids="map")
    shard = opened(path)
    os.truncate(path, path.stat().st_size - 1)
    refused(lambda: copied(shard, tmp_path / "y.faiss"), path, "do not write to the input")
    assert tree(tmp_path) == ["x.faiss"]


@pytest.mark.parametrize("room", [0, 100, 460, 500])
def test_disk_full(tmp_path, tree, refused, disk_full, room):
    shard = opened(saved(tmp_path / "x.faiss", matrix(), ids="map"))
    disk_full(room)
    out = tmp_path / "y.faiss"
    refused(lambda: copied(shard, out), out, "No space left on device", error=FastRealignError)
    assert tree(tmp_path) == ["x.faiss"]
