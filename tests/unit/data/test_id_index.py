"""Embeddings by id: every format against NumPy on all rows, the index in memory and in files, processes, bad input."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle

import corpus
import numpy as np
import pytest

from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.errors import InputError
from fastrealign.data import id_index as index_of
from fastrealign.data import lookup as lookup
from fastrealign.data.id_index import IdIndex, RowNumbers, Twice, lookup_hashes, twice
from fastrealign.data.lookup import open_embeddings

DIM = 12
UNICODE = ("猫", "naïve café", "e\u0301", "é", "a b", "", "x/y:z?", "🙂", "0", "00", "\u0661")


def _npy(folder, i, rows, ids, rng):
    np.save(folder / f"part_{i}.npy", rows)


def _npy_by_columns(folder, i, rows, ids, rng):
    np.save(folder / f"part_{i}.npy", np.asfortranarray(rows))


def _clip_retrieval(folder, i, rows, ids, rng):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("text_emb", "metadata"):
        (folder / name).mkdir(exist_ok=True)
    np.save(folder / "text_emb" / f"text_emb_{i}.npy", rows)
    pq.write_table(pa.table({"caption": ["c"] * len(ids), "key": ids}), folder / "metadata" / f"metadata_{i}.parquet")


def _parquet(folder, i, rows, ids, rng):
    import pyarrow.parquet as pq

    pq.write_table(corpus.table(rows, id=ids), folder / f"part_{i}.parquet", row_group_size=int(rng.integers(1, 9)))


def _arrow(folder, i, rows, ids, rng, streamed=True, compression=None):
    import pyarrow as pa

    table, options = corpus.table(rows, id=ids), pa.ipc.IpcWriteOptions(compression=compression)
    opened = (pa.ipc.new_stream if streamed else pa.ipc.new_file)(
        str(folder / f"part_{i}.arrow"), table.schema, options=options
    )
    with opened as writer:
        writer.write_table(table, max_chunksize=int(rng.integers(1, 9)))


def _arrow_file(*arguments):
    _arrow(*arguments, streamed=False)


def _arrow_compressed(*arguments):
    _arrow(*arguments, compression="zstd")


def _dataset(folder, i, rows, ids, rng):
    import datasets

    if i == 2:  # all of it at once: it is one folder
        whole = datasets.Dataset.from_dict({"id": ALL["ids"], "embedding": ALL["rows"].tolist()})
        whole.save_to_disk(folder, num_shards=2)


def _lance(folder, i, rows, ids, rng):
    corpus.lance_folder(folder / f"part_{i}.lance", rows, id=ids)


def _pickle(folder, i, rows, ids, rng):
    items = [{"id": id, "caption": "c", "embed": row} for id, row in zip(ids, rows, strict=True)]
    corpus.pickle_file(folder / f"part_{i}.pkl", [{"id": f"none of {i}", "embed": None}, *items])


# Formats whose ids may be any text, and those whose are whole numbers.
TEXT_IDS = {
    "clip-retrieval": (_clip_retrieval, "pyarrow"),
    "parquet": (_parquet, "pyarrow"),
    "arrow stream": (_arrow, "pyarrow"),
    "arrow file": (_arrow_file, "pyarrow"),
    "arrow compressed": (_arrow_compressed, "pyarrow"),
    "dataset": (_dataset, "datasets"),
    "lance": (_lance, "lance"),
    "pickle": (_pickle, "numpy"),
}
NUMBER_IDS = {suffix: (make, corpus.NEEDED[suffix]) for suffix, make in corpus.TENSOR_FILES.items()}
NO_IDS = {"npy": _npy, "npy by columns": _npy_by_columns}
# What the writer of a dataset needs of the other parts.
ALL: dict = {}


@pytest.fixture
def shards(tmp_path, rng):
    """shards(make, ids_of): three shards of random sizes below a folder; (folder, all ids, all rows)."""

    def shards(make, ids_of, dtype=np.float32):
        sizes = rng.integers(1, 40, 3)
        rows = rng.standard_normal((sizes.sum(), DIM)).astype(dtype)
        ids = ids_of(len(rows))
        ALL.update(ids=ids, rows=rows)
        folder = tmp_path / "shards"
        folder.mkdir()
        ends = np.cumsum(sizes)
        for i, (lo, hi) in enumerate(zip(ends - sizes, ends, strict=True)):
            make(folder, i, rows[lo:hi], ids[lo:hi], rng)
        return folder, ids, rows

    return shards


@pytest.fixture
def text_ids(rng):
    """text_ids(n): different ids in random order, some of them odd."""

    def text_ids(n):
        names = [*UNICODE, *(f"id-{number}" for number in rng.choice(10**9, n, replace=False))][:n]
        order = rng.permutation(n)
        while not names[order[-1]].strip():  # blank lines at the end of a text file are no ids
            order = np.roll(order, 1)
        return [names[i] for i in order]

    return text_ids


def asserts_lookups(found, ids, rows, rng):
    assert len(found) == len(ids) and found.dim == DIM
    for n in (0, 1, 5, 3 * len(ids)):  # the last with many ids twice
        wanted = rng.integers(0, len(ids), n)
        result = found.rows([ids[i] for i in wanted])
        assert result.dtype == np.float32 and np.array_equal(result, rows[wanted].astype(np.float32))
    assert ids[0] in found and "no such id" not in found
    assert found.find([ids[-1], "no such id", ids[0]]).tolist() == [len(ids) - 1, -1, 0]


@pytest.mark.parametrize("kind", TEXT_IDS)
def test_lookups_are_numpys_indexing(kind, shards, text_ids, rng):
    make, needed = TEXT_IDS[kind]
    pytest.importorskip(needed)
    folder, ids, rows = shards(make, text_ids)
    asserts_lookups(open_embeddings(folder), ids, rows, rng)


@pytest.mark.parametrize("kind", NUMBER_IDS)
def test_whole_numbers_are_ids_as_text(kind, shards, rng):
    make, needed = NUMBER_IDS[kind]
    pytest.importorskip(needed)

    def one(folder, i, rows, ids, rng):
        make(folder / f"part_{i}{kind}", rows, np.array(ids, np.int64))

    folder, ids, rows = shards(one, lambda n: rng.choice(10**12, n, replace=False).tolist())
    asserts_lookups(open_embeddings(folder), list(map(str, ids)), rows, rng)


@pytest.mark.parametrize("kind", NO_IDS)
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16, np.float64], ids=str)
def test_without_ids_rows_have_their_numbers(kind, dtype, shards, rng):
    folder, ids, rows = shards(NO_IDS[kind], lambda n: list(map(str, range(n))), dtype)
    found = open_embeddings(folder)
    asserts_lookups(found, ids, rows, rng)
    for other in ("00", "01", "-1", "+1", "1.0", " 1", "\u0661", str(len(rows)), "9" * 40):
        assert other not in found


@pytest.mark.parametrize("kind", ["list", ".txt", ".json", ".npy", ".parquet"])
def test_ids_in_a_file_of_their_own(kind, shards, text_ids, tmp_path, rng):
    folder, ids, rows = shards(_npy, text_ids)
    path = tmp_path / f"ids{kind}"
    if kind == ".txt":
        path.write_bytes("\r\n".join(ids).encode() + b"\n")
    elif kind == ".json":
        path.write_text(json.dumps(ids))
    elif kind == ".npy":
        np.save(path, np.array(ids))
    elif kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"anything": ids}), path)
    asserts_lookups(open_embeddings(folder, ids=ids if kind == "list" else path), ids, rows, rng)


def test_the_columns_that_are_named(tmp_path, rng):
    rows, other = rng.standard_normal((2, 20, DIM)).astype(np.float32)
    path = tmp_path / "x.parquet"
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = corpus.table(rows, "a", id=[f"i{k}" for k in range(20)], image=[f"m{k}" for k in range(20)])
    pq.write_table(table.append_column("b", pa.array(list(other))), path)
    assert np.array_equal(open_embeddings(path, column="b").rows(["i3"]), other[3:4])
    assert np.array_equal(open_embeddings(path, column="a", id_column="image").rows(["m7"]), rows[7:8])


def test_the_side_of_a_clip_retrieval_folder(tmp_path, rng):
    ids = [f"k{i}" for i in range(9)]
    text, image = rng.standard_normal((2, 9, DIM)).astype(np.float32)
    _clip_retrieval(tmp_path, 0, text, ids, rng)
    (tmp_path / "img_emb").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", image)
    assert np.array_equal(open_embeddings(tmp_path).rows(["k4"]), text[4:5])
    assert np.array_equal(open_embeddings(tmp_path, side="image").rows(["k4"]), image[4:5])


def test_an_index_beyond_one_part(monkeypatch, tmp_path, rng):
    """The same answers from files as from memory, parts of any size, and no temporary file left behind."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names = [f"n{number}" for number in rng.choice(10**9, 3000, replace=False)]
    ids, others = names[:2500], names[2500:]
    batches = [ids[lo : lo + 700] for lo in range(0, 2500, 700)]
    in_memory = IdIndex.make(batches, 2500, None, {})
    monkeypatch.setattr(index_of, "PART", int(rng.integers(100, 2000)))
    monkeypatch.setattr(index_of, "_SCAN", int(rng.integers(100, 2000)))
    in_files = IdIndex.make(batches, 2500, None, {})
    wanted = [*ids, *others]
    expected = [*range(2500), *[-1] * 500]
    for index in (in_memory, in_files, pickle.loads(pickle.dumps(in_memory)), pickle.loads(pickle.dumps(in_files))):
        assert index.find(wanted).tolist() == expected
    assert sorted(os.listdir(next(tmp_path.iterdir()))) == ["high.npy", "low.npy", "row.npy"]
    with pytest.raises(Twice) as caught:
        IdIndex.make([*batches, [ids[1234]]], 2501, None, {})
    assert (caught.value.first, caught.value.second) == (1234, 2500)
    del in_files, index, caught
    assert not list(tmp_path.iterdir())


def test_hashes_that_share_their_first_half(monkeypatch):
    """What 64 bits do not tell apart the other 32 do; made to happen here, since it does not by itself."""
    real = index_of.lookup_hashes

    def same_first_half(ids):
        hashes = real(ids).copy()
        hashes["high"] %= 3
        return hashes

    monkeypatch.setattr(index_of, "lookup_hashes", same_first_half)
    ids = [f"id {i}" for i in range(300)]
    index = IdIndex.make([ids], 300, None, {})
    assert index.find([*ids, "another", "and another"]).tolist() == [*range(300), -1, -1]
    with pytest.raises(Twice):
        IdIndex.make([[*ids, ids[7]]], 301, None, {})


def test_ids_that_come_twice(rng):
    ids = [f"id {i}" for i in rng.permutation(1000)]
    assert twice(lookup_hashes(ids)) is None
    ids[800] = ids[200]
    ids[900] = ids[100]
    assert twice(lookup_hashes(ids)) == (200, 800)
    assert IdIndex.make([], 0, None, {}).find(["a"]).tolist() == [-1]
    assert RowNumbers(3).find(["2", "3", "x"]).tolist() == [2, -1, -1]


def test_an_index_that_is_kept(tmp_path, rng, monkeypatch):
    rows, ids = rng.standard_normal((50, DIM)).astype(np.float32), [f"i{k}" for k in range(50)]
    path, kept = corpus.parquet_file(tmp_path / "x.parquet", rows, id=ids), tmp_path / "index"
    assert np.array_equal(open_embeddings(path, index=kept).rows(ids), rows)
    made = []
    real = IdIndex.make
    monkeypatch.setattr(IdIndex, "make", lambda *a: made.append(1) or real(*a))
    again = open_embeddings(path, index=kept)
    assert not made and np.array_equal(again.rows(ids[::-1]), rows[::-1])
    # Another file: the index is rebuilt, and a reader that has the old one open keeps it.
    corpus.parquet_file(path, rows, id=ids[::-1])
    assert np.array_equal(open_embeddings(path, index=kept).rows(ids), rows[::-1])
    assert made and np.array_equal(again.find(ids), np.arange(50))
    with pytest.raises(InputError, match="not an index of ids"):
        open_embeddings(path, index=tmp_path)


def test_only_some_of_the_decoded_parts_are_kept(tmp_path, rng, monkeypatch):
    """Parquet by row groups: the cache stays small, rows are right however often parts are decoded again."""
    import pyarrow.parquet as pq

    rows, ids = rng.standard_normal((400, DIM)).astype(np.float32), [f"i{k}" for k in range(400)]
    for i in range(2):
        part = slice(200 * i, 200 * i + 200)
        pq.write_table(corpus.table(rows[part], id=ids[part]), tmp_path / f"{i}.parquet", row_group_size=10)
    monkeypatch.setattr(lookup, "CACHE_BYTES", 3 * 10 * DIM * 4)
    monkeypatch.setattr(lookup, "_EXPENSIVE_BYTES", 100)
    monkeypatch.setattr(lookup, "_OPEN", 1)
    found = open_embeddings(tmp_path)
    with pytest.warns(UserWarning, match="fastrealign convert"):
        found.rows(ids[:1])
    for _ in range(5):
        wanted = rng.integers(0, 400, 60)
        assert np.array_equal(found.rows([ids[i] for i in wanted]), rows[wanted])
        assert sum(part.nbytes for part in found._cache.values()) <= 3 * 10 * DIM * 4
        assert len(found._open) == 1


def _looked_up(found, ids, queue):
    queue.put(found.rows(ids))


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_other_processes_look_up_too(kind, shards, text_ids):
    folder, ids, rows = shards({"npy": _npy, "parquet": _parquet}[kind], text_ids)
    found = open_embeddings(folder, ids=ids)
    found.rows(ids[:2])
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_looked_up, args=(found, ids[::-1], queue))
    process.start()
    assert np.array_equal(queue.get(), rows[::-1])
    process.join()
    assert np.array_equal(found.rows(ids), rows)
    assert np.array_equal(pickle.loads(pickle.dumps(found)).rows(ids), rows)  # what one that is spawned gets


def test_lance_says_that_it_cannot_be_forked(tmp_path, rng, monkeypatch):
    pytest.importorskip("lance")
    rows = rng.standard_normal((5, DIM)).astype(np.float32)
    found = open_embeddings(corpus.lance_folder(tmp_path / "x.lance", rows, id=list("abcde")))
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(InputError, match=r"x\.lance.*spawn"):
        found.rows(["a"])


def refused(match, call, *arguments, **options):
    with pytest.raises(InputError, match=match) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path, rng):
    rows, ids = rng.standard_normal((30, DIM)).astype(np.float32), [f"i{k}" for k in range(30)]
    found = open_embeddings(corpus.parquet_file(tmp_path / "x.parquet", rows, id=ids))
    message = r"x\.parquet: 2 of 3 ids are not there, the first is 'b'; looked for among 30 ids from 'id' of the shards"
    refused(message, found.rows, ["i1", "b", "c"])
    np.save(tmp_path / "x.npy", rows)
    refused("numbers of the rows, 0 to 29", open_embeddings(tmp_path / "x.npy").rows, ["i1"])
    items = [{"id": "a", "embed": rows[0]}, {"id": "b", "embed": None}]
    refused("1 more item has no embedding", open_embeddings(corpus.pickle_file(tmp_path / "x.pkl", items)).rows, ["b"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_rows_without_a_direction(tmp_path, rng, bad):
    rows = rng.standard_normal((30, DIM)).astype(np.float32)
    rows[17] = 0
    rows[17, 3] = bad
    np.save(tmp_path / "x.npy", rows)
    found = open_embeddings(tmp_path / "x.npy", ids=[f"i{k}" for k in range(30)])
    refused(r"x\.npy: row 17 \(id 'i17'\) (is zero|holds NaN or Inf)", found.rows, ["i3", "i17"])


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
@pytest.mark.parametrize("end", [0, 1, 3])
def test_ids_as_text_editors_leave_them(tmp_path, rng, mark, line, end):
    rows = rng.standard_normal((6, DIM)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "ids.txt").write_bytes(mark + line.join([b"a", b"b ", b"", "\u00e9".encode(), b"0", b"f"]) + end * line)
    found = open_embeddings(tmp_path / "x.npy", ids=tmp_path / "ids.txt")
    assert np.array_equal(found.rows(["f", "a", "b ", "", "\u00e9", "0"]), rows[[5, 0, 1, 2, 3, 4]])


def test_bad_input(tmp_path, rng):
    rows, ids = rng.standard_normal((6, DIM)).astype(np.float32), list("abcdef")
    path = corpus.parquet_file(tmp_path / "x.parquet", rows, id=ids)
    refused("no_such", open_embeddings, tmp_path / "no_such.parquet")
    refused("suffix", open_embeddings, corpus.pickle_file(tmp_path / "x.bin", []))
    refused(rf"rows are {DIM} wide, expected 99", open_embeddings, path, dim=99)
    refused("side='left'", open_embeddings, path, side="left")
    refused("has no ids 'name'; beside the embeddings it holds 'id'", open_embeddings, path, id_column="name")
    refused("5 ids, expected one for each of 6", open_embeddings, path, ids=list("abcde"))
    refused("more than 6 ids", open_embeddings, path, ids=list("abcdefg"))
    refused(r"number 2 has the id 2\.5", open_embeddings, path, ids=[1, 2, 2.5, 3, 4, 5])
    refused(r"not read from '\.tsv'", open_embeddings, path, ids=tmp_path / "ids.tsv")
    refused("not read from a folder or a file whose name has no ending", open_embeddings, path, ids=tmp_path)
    refused(r"ids\.txt: no such file", open_embeddings, path, ids=tmp_path / "ids.txt")
    for name, text in (
        ("ids.json", b"[1,"),
        ("ids.npy", b"\x93NUMPY"),
        ("object.json", b"{}"),
        ("latin.txt", b"\xe9\n"),
    ):
        (tmp_path / name).write_bytes(text)
        refused(name, open_embeddings, path, ids=tmp_path / name)
    refused("index is not stored for a list", open_embeddings, path, ids=ids, index=tmp_path / "index")
    corpus.parquet_file(tmp_path / "two" / "1.parquet", rows, id=ids)
    corpus.parquet_file(tmp_path / "two" / "2.parquet", rows, id=list("ghicjk"))
    refused(r"2\.parquet: row 3: has the id 'c', as .*1\.parquet: row 2 has", open_embeddings, tmp_path / "two")
    refused("'c'", open_embeddings, tmp_path / "two", index=tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    corpus.parquet_file(tmp_path / "two" / "2.parquet", rows)
    refused(r"2\.parquet: holds no ids", open_embeddings, tmp_path / "two")
    corpus.parquet_file(tmp_path / "two" / "2.parquet", rows, id=[*ids[:5], None])
    refused(r"2\.parquet: row 5 has the id None", open_embeddings, tmp_path / "two")
