"""FAISS index files: rebuilt with mapped rows, whole or not at all, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import BadRowsError, FitWarning, InputError
from fastrealign.retrieval import index, searcher

faiss = pytest.importorskip("faiss")
N = 120
IDS = np.arange(N) * 3 + 1


def made(rows, kind, metric=None, ids=None):
    index = faiss.index_factory(rows.shape[1], kind, faiss.METRIC_INNER_PRODUCT if metric is None else metric)
    index.train(rows)
    index.add(rows) if ids is None else index.add_with_ids(rows, ids)
    return index


@pytest.fixture
def store(tmp_path, documents):
    """store(kind, ids): an index file, its rows and their roles; the roles are in roles.npy."""
    rows, kinds = documents(N)
    np.save(tmp_path / "roles.npy", np.array(kinds))

    def store(kind="Flat", ids=None, metric=None):
        faiss.write_index(made(rows, kind, metric, ids), str(tmp_path / "wiki_en.faiss"))
        return str(tmp_path / "wiki_en.faiss"), rows, kinds

    store.by = str(tmp_path / "roles.npy")
    return store


@pytest.mark.parametrize(
    "kind, ids",
    [
        ("Flat", None),
        ("IDMap,Flat", IDS),
        ("HNSW32,Flat", None),
        ("IVF2,Flat", IDS),
        ("L2norm,Flat", None),
    ],
)
@pytest.mark.parametrize("metric", [faiss.METRIC_INNER_PRODUCT, faiss.METRIC_L2])
def test_search(store, roles, mapped, kind, ids, metric):
    path, rows, kinds = store(kind, ids, metric)
    before = Path(path).read_bytes()
    report = index(path, roles, role_column=store.by)
    assert Path(path).read_bytes() == before
    assert (report.rows, report.target) == (N, path.replace(".faiss", ".aligned.faiss"))
    queries = np.random.default_rng(0).standard_normal((3, 8))
    with searcher(path, roles) as search:
        if kind.startswith("IVF"):
            search._opened._new_index.nprobe = 2
        if kind.startswith("HNSW"):
            faiss.downcast_index(search._opened._new_index).hnsw.efSearch = N  # all that its graph reaches
        found = search.search(queries, 5)
        assert search.search(queries[0], N + 3).ids[0, N:].tolist() == [None] * 3
    scores = roles["query"](queries) @ mapped(rows, kinds).T
    best = np.argsort(-scores, axis=1)[:, :5]
    assert np.array_equal(found.ids.astype(int), best if ids is None else ids[best])
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, best, 1), atol=1e-5)
    assert np.array_equal(found.roles, np.array(kinds, object)[best])
    again = index(path, roles, role_column=store.by)
    assert (again.rows, again.before) == (0, N)


def test_compressed(store, roles, mapped):
    """A quantizer learns from the mapped rows, and a warning says that rows are approximations."""
    path, rows, kinds = store("SQ8")
    with pytest.warns(FitWarning, match="holds approximations of rows"):
        index(path, roles, role_column=store.by)
    new = faiss.read_index(path.replace(".faiss", ".aligned.faiss"))
    np.testing.assert_allclose(new.reconstruct_n(0, N), mapped(rows, kinds), atol=0.05)


@pytest.mark.parametrize("kind", ["RR8,Flat", "RR16,Flat", "Pad12,Flat"])
def test_transforms_that_keep_rows(store, roles, mapped, recwarn, kind):
    """A rotation, or zeros at the end, can be undone: no warning of approximations."""
    path, rows, kinds = store(kind)
    index(path, roles, role_column=store.by)
    assert not [one for one in recwarn if issubclass(one.category, FitWarning)]
    new = faiss.read_index(path.replace(".faiss", ".aligned.faiss"))
    np.testing.assert_allclose(new.reconstruct_n(0, N), mapped(rows, kinds), atol=1e-5)


@pytest.mark.parametrize("kind", ["IVF2,PQ4x4fs", "IVF2,PQ4x4fsr"])
def test_fast_scan(roles, documents, mapped, tmp_path, kind):
    """Rows of IVF…PQ…fs are read from a file, too, where reconstruct crashes."""
    rows, _ = documents(600)
    path = str(tmp_path / "a.faiss")
    faiss.write_index(made(rows, kind), path)
    with pytest.warns(FitWarning, match="holds approximations of rows"):
        assert index(path, roles, role="image").rows == 600
    with searcher(path, roles) as search:
        search._opened._new_index.nprobe = 2
        assert {*search.search(rows[:1], 600).ids[0]} == {*range(600)}


@pytest.mark.parametrize(
    ("kind", "centroids"),
    [("IVF20,Flat", 20), ("IVF2,PQ4x4", 16), ("PQ4x4", 16), ("HNSW4,PQ4x4", 16), ("RR8,IVF20,Flat", 20)],
)
def test_few_rows_to_learn_from(store, roles, capfd, kind, centroids):
    """One warning of ours, where FAISS writes a line for each k-means to stderr."""
    path, *_ = store(kind)
    assert "WARNING clustering" in capfd.readouterr().err
    with pytest.warns(
        FitWarning, match=f"learns {centroids} centroids again from 120 rows; FAISS advises {39 * centroids} rows"
    ):
        index(path, roles, role_column=store.by)
    assert "WARNING clustering" not in capfd.readouterr().err


def test_more_rows_than_an_index_learns_from(store, roles, monkeypatch):
    path, *_ = store("IVF2,Flat")
    for module in ("faiss_store", "faiss_parts"):
        monkeypatch.setattr(f"fastrealign.retrieval.stores.{module}.LEARNT_ROWS", 40)
    with pytest.warns(FitWarning, match=r"learns 2 centroids again from 40 rows; FAISS advises 78 rows"):
        index(path, roles, role_column=store.by)


def test_ranges_of_ids(store, roles, mapped, tmp_path):
    path, rows, _ = store("IDMap,Flat", IDS)
    (tmp_path / "ranges.json").write_text(json.dumps({"text": [0, 100], "image": [100, 1000]}))
    index(path, roles, role_column=str(tmp_path / "ranges.json"))
    outer = faiss.read_index(path.replace(".faiss", ".aligned.faiss"))
    new = faiss.downcast_index(outer.index)
    kinds = ["text" if i < 100 else "image" for i in IDS]
    np.testing.assert_allclose(new.reconstruct_n(0, N), mapped(rows, kinds), atol=1e-6)
    (tmp_path / "ranges.json").write_text(json.dumps({"text": [0, 100]}))
    with pytest.raises(
        InputError, match=r"ranges.json: 87 rows of .*wiki_en.faiss in no range, the first has id 100; add"
    ):
        index(path, roles, role_column=str(tmp_path / "ranges.json"), to=str(tmp_path / "b.faiss"))


def test_a_kill_leaves_nothing(store, roles, small_batches, killed_at, tmp_path):
    path, *_ = store()
    files = sorted(tmp_path.iterdir())
    for n in (1, 4):
        killed_at(n)
        with pytest.raises(BaseException):  # noqa: B017
            index(path, roles, role_column=store.by)
        assert sorted(tmp_path.iterdir()) == files
    killed_at(4, by=KeyboardInterrupt)
    said = r"^interrupted; no aligned vector of .* is written; run the same command again$"
    with pytest.raises(KeyboardInterrupt, match=said):
        index(path, roles, role_column=store.by)
    calls = killed_at(None)
    assert index(path, roles, role_column=store.by).rows == sum(calls) == N
    # The earlier index stays where it is to be made again.
    there = path.replace(".faiss", ".aligned.faiss")
    before = corpus.tree(tmp_path)
    killed_at(4, by=KeyboardInterrupt)
    said = rf"^interrupted; nothing new is written, the earlier aligned vectors in {there} stay; run the same command again$"
    with pytest.raises(KeyboardInterrupt, match=said):
        index(path, roles, role_column=store.by, restart=True)
    assert corpus.tree(tmp_path) == before


def test_a_kill_between_record_and_index(store, roles, tmp_path, monkeypatch):
    from fastrealign.storage.atomic import AtomicFile

    path, *_ = store()
    real = AtomicFile.commit

    def commit(self):
        if self.path.suffix == ".faiss":
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(AtomicFile, "commit", commit)
    with pytest.raises(KeyboardInterrupt):
        index(path, roles, role_column=store.by)
    monkeypatch.undo()
    assert index(path, roles, role_column=store.by).rows == N


def test_a_source_that_grew(store, roles, others, documents, mapped, tmp_path):
    path, rows, _ = store()
    index(path, roles, role="image")
    faiss.write_index(made(np.concatenate([rows, rows]), "Flat"), path)
    assert index(path, roles, role="image").rows == 2 * N
    with pytest.raises(InputError, match=r"aligned.faiss was made with other roles .*restart=True"):
        index(path, others, role="image")
    assert index(path, others, role="image", restart=True).rows == 2 * N
    with pytest.raises(InputError, match="made with other roles"):
        searcher(path, roles)


def test_a_row_that_changed(roles, documents, mapped, tmp_path):
    """Also one far from both ends of the file, whose size stays."""
    rows, _ = documents(3000)
    path = str(tmp_path / "a.faiss")
    faiss.write_index(made(rows, "Flat"), path)
    index(path, roles, role="image")
    rows[1500] *= -1.0
    faiss.write_index(made(rows, "Flat"), path)
    assert index(path, roles, role="image").rows == 3000
    new = faiss.read_index(str(tmp_path / "a.aligned.faiss"))
    np.testing.assert_allclose(new.reconstruct(1500), roles["image"](rows[1500]), atol=1e-6)


def test_bad_rows(store, roles, mapped, documents, tmp_path):
    """Left out; the others keep their numbers."""
    rows, _ = documents(N)
    rows[7] = np.nan
    path = str(tmp_path / "bad.index")
    faiss.write_index(made(rows, "Flat"), path)
    with pytest.raises(BadRowsError, match="row 7 has a NaN or Inf"):
        index(path, roles, role="image")
    assert index(path, roles, role="image", bad_rows="skip").skipped == 1
    with searcher(path, roles) as search:
        found = search.search(np.ones(8), N).ids[0]
    assert sorted(found[:-1]) == [i for i in range(N) if i != 7] and found[-1] is None


def test_the_old_index_goes(store, roles, check_dropped):
    path, rows, _ = store()
    report = index(path, roles, role="image")
    with pytest.raises(InputError, match=r"aligned\.faiss: is what `fastrealign index` aligned"):
        index(report.target, roles, role="image")
    assert index(path, roles, role="image", drop_old=True).dropped == path
    check_dropped(path, roles, report.target, N, "the index", role="image")
    with searcher(path, roles) as search:
        assert search.search(rows[0], 2).roles.tolist() == [["image", "image"]]


@pytest.mark.parametrize("to", [None, "new.faiss"])
def test_search_in_the_index_that_was_written(store, roles, tmp_path, to):
    """By its own name as by that of the index that it was made from; the summary has the call."""
    path, rows, _ = store()
    to = to and str(tmp_path / to)
    roles.save(tmp_path / "r.safetensors")
    report = index(path, tmp_path / "r.safetensors", role_column=store.by, to=to)
    with searcher(report.target, roles) as search, searcher(path, roles, to=to) as other:
        for one, same in zip(search.search(rows[:5], 3), other.search(rows[:5], 3), strict=True):
            np.testing.assert_array_equal(one, same)
    with eval(report.search.removesuffix(".search(queries, k=10)"), {"fastrealign": fr}) as search:
        assert (search.role, search.search(rows[:5]).ids.shape) == ("query", (5, 10))
    assert report.search in str(report) and ("to=" in report.search) == (to is not None)
    assert "give their role: query, text, image" in str(report)
    for how in ({}, {"restart": True}, {"to": str(tmp_path / "third.faiss")}):
        with pytest.raises(InputError, match="is what `fastrealign index` aligned; name the index that it was made"):
            index(report.target, roles, role_column=store.by, **how)


def test_no_record_beside_the_index(store, roles, tmp_path):
    """A file of roles by the name of a record is none, nor is the record of another index."""
    path, rows, _ = store()
    roles.save(f"{path}.roles.safetensors")
    with pytest.raises(InputError, match=r"no .*aligned.faiss as .*run that first, or name what it wrote with to=$"):
        searcher(path, roles)
    written = index(path, roles, role="image").target
    faiss.write_index(made(2 * rows, "Flat"), written)
    with pytest.raises(InputError, match=r"run that first, or name what it wrote with to=$"):
        searcher(written, roles)


@pytest.mark.parametrize("kind", ["roles", "notes"])
def test_a_file_by_the_name_of_the_record_stays(store, roles, tmp_path, kind):
    path, *_ = store()
    record = tmp_path / "new.faiss.roles.safetensors"
    roles.save(record) if kind == "roles" else record.write_bytes(b"my notes")
    before = record.read_bytes()
    with pytest.raises(InputError, match=r"is there already, and no record of `index`.*name another index with to=$"):
        index(path, roles, role="image", to=str(tmp_path / "new.faiss"))
    assert record.read_bytes() == before and not (tmp_path / "new.faiss").exists()


def test_one_map_for_all_rows(store, roles):
    """The role that maps queries is named first, in the summary and in the error."""
    path, rows, _ = store()
    alignment = fr.fit(rows + 1, rows - 1)
    report = index(path, alignment)
    assert "roles, query_role='realign')" in report.search and "of their role" not in str(report)
    first = r"give query_role='realign' for queries of .* \(such as text\), query_role=None for those of its target"
    assert re.search(first, report.queries)
    with pytest.raises(InputError, match=f"there is no role 'query': .*; {first}"):
        searcher(path, alignment)
    with eval(report.search.removesuffix(".search(queries, k=10)"), {"fastrealign": fr, "roles": alignment}) as search:
        assert search.search(rows, 1).ids[:, 0].tolist() == list(range(N))


def test_duplicate_ids(store, roles):
    path, *_ = store("IDMap,Flat", np.arange(N) // 2)
    with pytest.warns(FitWarning, match="60 ids occur more than once"):
        index(path, roles, role="image")
    path, *_ = store("IVF2,Flat", np.arange(N) // 2)
    with pytest.warns(FitWarning), pytest.raises(InputError, match="ids occur more than once in its lists"):
        index(path, roles, role="image", restart=True)


def test_refused(store, roles, tmp_path):
    path, rows, kinds = store()
    for how, said in [
        ({"table": "docs"}, "none of what table= names"),
        ({"to": path}, "to= names the index itself"),
        ({"role": None, "role_column": "none.npy"}, "none.npy: no such file"),
        ({"role": None, "role_column": store.by, "to": str(tmp_path / "roles.npy")}, "is there already"),
    ]:
        with pytest.raises(InputError, match=said):
            index(path, roles, **{"role": "image", **how})
    np.save(tmp_path / "few.npy", np.array(kinds[:5]))
    with pytest.raises(InputError, match=r"expected a .npy file with the role of each of 120 rows.*it holds \(5,\)"):
        index(path, roles, role_column=str(tmp_path / "few.npy"))
    for ranges, said in [
        ([1], r"it holds \[1\]"),
        ({"text": [0, 60, 120]}, r"the range of text is \[0, 60, 120\]"),
        ({"text": [60, 0]}, r"the range of text is \[60, 0\]"),
        ({"text": "a"}, "the range of text is 'a'"),
    ]:
        (tmp_path / "odd.json").write_text(json.dumps(ranges))
        with pytest.raises(InputError, match=rf"a .json file of ranges of ids \(.*\): {said}$"):
            index(path, roles, role_column=str(tmp_path / "odd.json"))
    bits = faiss.IndexBinaryFlat(64)
    bits.add(np.zeros((5, 8), np.uint8))
    faiss.write_index_binary(bits, str(tmp_path / "bits.faiss"))
    with pytest.raises(InputError, match="holds binary codes, which no map moves; index the embeddings"):
        index(tmp_path / "bits.faiss", roles, role="image")
    # Its beginning alone: after faiss made a whole one, a later allocation aborted.
    (tmp_path / "lattice.faiss").write_bytes(b"IxLa" + bytes(8))
    with pytest.raises(
        InputError, match=r"lattice.faiss: is an IndexLattice, which faiss does not read; index the embed"
    ):
        index(tmp_path / "lattice.faiss", roles, role="image")
    index(path, roles, role="image", to=str(tmp_path / "made.faiss"))
    with (
        searcher(path, roles, to=str(tmp_path / "made.faiss")) as search,
        pytest.raises(BadRowsError, match=r"^queries: row 1 is all zeros; leave out the queries without a direction$"),
    ):
        search.search(np.array([[1.0] * 8, [0.0] * 8]), 3)
    (tmp_path / "both.json").write_text(json.dumps({"text": [0, 60], "image": [50, 200]}))
    with pytest.raises(InputError, match=r"both.json: id 50 is in the ranges of both text and image; correct one"):
        index(path, roles, role_column=str(tmp_path / "both.json"))
    (tmp_path / "no.index").write_bytes(b"not an index")
    with pytest.raises(
        InputError, match=r"no.index: is damaged, or not a FAISS index: expected .* use `fastrealign apply`$"
    ):
        index(tmp_path / "no.index", roles, role="image")
    with pytest.raises(InputError, match=r"none.faiss: no such file"):
        index(tmp_path / "none.faiss", roles, role="image")
    faiss.write_index(made(np.ones((9, 6), np.float32), "Flat"), str(tmp_path / "narrow.faiss"))
    with pytest.raises(InputError, match="are 6 wide, the roles were fitted on 8"):
        index(tmp_path / "narrow.faiss", roles, role="image")
    faiss.write_index(fr.fit(rows, -rows).to_faiss(), str(tmp_path / "chain.faiss"))
    with pytest.raises(InputError, match="aligns rows where they are added"):
        index(tmp_path / "chain.faiss", roles, role="image")


def test_an_index_that_someone_changed(store, roles):
    path, rows, _ = store(metric=faiss.METRIC_L2)
    index(path, roles, role="image")
    with searcher(path, roles) as search:
        search._opened._new_index.add(3 * rows)
        faiss.write_index(search._opened._new_index, path.replace(".faiss", ".aligned.faiss"))
    with pytest.raises(InputError, match=r"there is no .*aligned.faiss as `fastrealign index` writes it"):
        searcher(path, roles)


def test_a_map_from_pairs(store):
    """Rows of another width; queries of the new encoder are not mapped."""
    path, rows, _ = store()
    new = rows @ np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    paired = fr.fit_map(rows, new)
    for how, said in [
        (
            {"role": "image"},
            "there is no role 'image': procrustes is one map for all rows, .*; leave role= out",
        ),
        ({"role_column": store.by}, "roles.npy: procrustes is one map for all rows, .*; leave role_column= out"),
    ]:
        with pytest.raises(InputError, match=said):
            index(path, paired, **how)
    assert index(path, paired).rows == N
    with pytest.raises(InputError, match=r"there is no role 'query': .*query_role='procrustes' for .* query_role=None"):
        searcher(path, paired)
    with searcher(path, paired, query_role=None) as search:
        found = search.search(new, 1)
    scores = new / np.linalg.norm(new, axis=1, keepdims=True) @ paired(rows).T
    assert np.array_equal(found.ids[:, 0].astype(int), scores.argmax(axis=1))
