"""Qdrant collections in a local folder: names beside the old ones, copies where none can be added, what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.core.errors import BadRowsError, FastRealignError, InputError
from fastrealign.retrieval import index, searcher
from fastrealign.retrieval.stores import qdrant_connection

pytest.importorskip("qdrant_client")
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from qdrant_client.local.persistence import CollectionPersistence

N = 30
pytestmark = pytest.mark.filterwarnings("ignore:Local mode")


def make(folder, rows, kinds, name=""):
    client = QdrantClient(path=str(folder))
    params = models.VectorParams(size=rows.shape[1], distance=models.Distance.DOT)
    client.create_collection("docs", {name: params} if name else params)
    points = [
        models.PointStruct(
            id=i, vector={name: row.tolist()} if name else row.tolist(), payload={"modality": kind, "n": i}
        )
        for i, (row, kind) in enumerate(zip(rows, kinds, strict=True))
    ]
    client.upsert("docs", points)
    client.close()


def read(folder, collection="docs"):
    client = QdrantClient(path=str(folder))
    points, _ = client.scroll(collection, limit=1000, with_vectors=True)
    client.close()
    return {point.id: point for point in points}


@pytest.fixture(params=["", "clip"])
def store(tmp_path, documents, request):
    """A folder with one collection; its vectors have a name or none."""
    rows, kinds = documents(N)
    make(tmp_path / "qdrant", rows, kinds, request.param)
    return tmp_path / "qdrant", rows, kinds, request.param, f"{request.param}_aligned" if request.param else "aligned"


@pytest.fixture(autouse=True)
def few_points(monkeypatch):
    """Small batches; and SQLite does not wait for the disk."""
    made = CollectionPersistence._ensure_table

    def quick(self):
        self.storage.execute("PRAGMA synchronous = OFF")
        made(self)

    monkeypatch.setattr(CollectionPersistence, "_ensure_table", quick)
    monkeypatch.setattr(qdrant_connection, "_MOST_POINTS", 8)


def test_a_name_beside(store, roles, mapped):
    folder, rows, kinds, name, target = store
    report = index(folder, roles, role_column="modality")
    assert (report.rows, report.target) == (N, target)
    points = read(folder)
    np.testing.assert_allclose([points[i].vector[name] for i in range(N)], rows, rtol=1e-6)
    np.testing.assert_allclose([points[i].vector[target] for i in range(N)], mapped(rows, kinds), atol=1e-6)
    payloads = [{"modality": kind, "n": i, f"{target}_role": kind} for i, kind in enumerate(kinds)]
    assert [points[i].payload for i in range(N)] == payloads
    again = index(folder, roles, role_column="modality")
    assert (again.rows, again.before) == (0, N)


def test_kills(store, roles, mapped, killed_at):
    folder, rows, kinds, _, target = store
    written = 0
    for n in (1, 2):
        calls = killed_at(n)
        with pytest.raises(BaseException):  # noqa: B017
            index(folder, roles, role_column="modality")
        written += sum(calls[:-1])
        assert (
            sum(target in point.vector for point in read(folder).values() if isinstance(point.vector, dict)) == written
        )
    calls = killed_at(None)
    report = index(folder, roles, role_column="modality")
    assert sum(calls) == report.rows == N - written
    points = read(folder)
    np.testing.assert_allclose([points[i].vector[target] for i in range(N)], mapped(rows, kinds), atol=1e-6)


def test_a_server_that_adds_no_names(store, roles, mapped, killed_at, monkeypatch):
    """A second collection with the same points, which resumes too."""
    folder, rows, kinds, name, _ = store

    def unknown(*_, **__):
        raise UnexpectedResponse(404, "Not Found", b"", {})

    monkeypatch.setattr(QdrantClient, "create_vector_name", unknown)
    killed_at(3)
    with pytest.raises(BaseException):  # noqa: B017
        index(folder, roles, role_column="modality")
    assert len(read(folder, "docs_aligned")) == 16
    calls = killed_at(None)
    index(folder, roles, role_column="modality")
    assert sum(calls) == N - 16
    old, new = read(folder), read(folder, "docs_aligned")
    vectors = [new[i].vector[name] if name else new[i].vector for i in range(N)]
    np.testing.assert_allclose(vectors, mapped(rows, kinds), atol=1e-6)
    assert [new[i].payload for i in range(N)] == [old[i].payload for i in range(N)]
    rows[2] = -np.roll(rows[2], 1)
    client = QdrantClient(path=str(folder))  # the copy does not notice
    client.update_vectors("docs", [models.PointVectors(id=2, vector={name: rows[2]} if name else rows[2].tolist())])
    client.close()
    assert index(folder, roles, role_column="modality").changed == 1
    again = read(folder, "docs_aligned")[2].vector
    np.testing.assert_allclose(again[name] if name else again, mapped(rows, kinds)[2], atol=1e-6)
    with searcher(folder, roles, table="docs") as search:
        assert search.search(rows[:2], 3).ids.shape == (2, 3)


def test_search(store, roles, mapped):
    folder, rows, kinds, _, _ = store
    index(folder, roles, role_column="modality")
    queries = np.random.default_rng(0).standard_normal((3, 8))
    with searcher(folder, roles) as search:
        found = search.search(queries, 5)
        assert search.search(queries[0], N + 5).ids[0, N:].tolist() == [None] * 5
    scores = roles["query"](queries) @ mapped(rows, kinds).T
    best = np.argsort(-scores, axis=1)[:, :5]
    assert np.array_equal(found.ids.astype(int), best)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, best, 1), atol=1e-6)
    assert np.array_equal(found.roles, np.array(kinds, object)[best])


def test_other_roles(store, roles, others, mapped):
    folder, rows, kinds, _, target = store
    index(folder, others, role_column="modality")
    with pytest.raises(InputError, match=r"was made with other roles .*restart=True"):
        index(folder, roles, role_column="modality")
    index(folder, roles, role_column="modality", restart=True)
    points = read(folder)
    np.testing.assert_allclose([points[i].vector[target] for i in range(N)], mapped(rows, kinds), atol=1e-6)


def test_the_old_vectors_go(store, roles, check_dropped):
    folder, rows, _, column, target = store
    report = index(folder, roles, role_column="modality", drop_old=True)
    assert report.dropped == (column or "the vector without a name")
    check_dropped(folder, roles, target, N, column, role_column="modality")
    assert {len(point.vector) for point in read(folder).values()} == {1}
    with searcher(folder, roles) as search:
        assert search.search(rows[0], 3).ids.shape == (1, 3)


def test_refused(store, roles):
    folder, *_ = store
    for how, said in [
        ({"table": "dosc"}, "there is no collection 'dosc', did you mean 'docs'"),
        ({"role_column": "modalty"}, "there is no payload field 'modalty', did you mean 'modality'"),
        ({"column": "clib"}, "there is no vector 'clib'"),
        ({"role_column": "n"}, r"n of 30 rows is no role: 0 \(1\), "),
        ({"id_column": "n"}, "points of Qdrant have ids of their own; leave id_column= out"),
    ]:
        with pytest.raises(InputError, match=said):
            index(folder, roles, **{"role_column": "modality", **how})
    client = QdrantClient(path=str(folder))
    with pytest.raises(FastRealignError, match="is locked: another Qdrant client has the folder open"):
        index(folder, roles, role="image")
    client.close()


def test_bad_rows(tmp_path, roles, documents):
    rows, kinds = documents(10)
    rows[3] = 0.0
    make(tmp_path / "qdrant", rows, kinds)
    with pytest.raises(BadRowsError, match="docs: row 3 is all zeros"):
        index(tmp_path / "qdrant", roles, role_column="modality")
    assert index(tmp_path / "qdrant", roles, role_column="modality", bad_rows="skip").skipped == 1
    assert [i for i, point in read(tmp_path / "qdrant").items() if "aligned" not in point.vector] == [3]


def test_another_width(tmp_path, roles):
    make(tmp_path / "qdrant", np.ones((3, 6), np.float32), ["image"] * 3)
    with pytest.raises(InputError, match="are 6 wide, the roles were fitted on 8"):
        index(tmp_path / "qdrant", roles, role="image")


def test_a_server_that_is_down(roles):
    with pytest.raises(FastRealignError, match=r"//\*\*\*@127.0.0.1:1: does not answer .*is Qdrant running") as error:
        index("http://user:secret@127.0.0.1:1", roles, role="image")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("by", ["вид", "kind of", "meta.kind", "a.b", 'say "kind"'])
def test_names_of_any_letters(tmp_path, roles, documents, mapped, by):
    """Payload fields, paths and vectors; also where what was written is compared, changed and removed."""
    rows, kinds = documents(6)
    client = QdrantClient(path=str(tmp_path / "Кдрант 1"))
    client.create_collection("док ы", {"век тор.v1": models.VectorParams(size=8, distance=models.Distance.DOT)})
    payloads = [{"meta": {"kind": kind}} if by == "meta.kind" else {by: kind} for kind in kinds]
    client.upload_collection("док ы", {"век тор.v1": rows}, payloads, range(6))
    client.close()
    for expected in (6, 0):
        assert index(tmp_path / "Кдрант 1", roles, role_column=by).rows == expected
    points = read(tmp_path / "Кдрант 1", "док ы")
    vectors = [points[i].vector["век тор.v1_aligned"] for i in range(6)]
    np.testing.assert_allclose(vectors, mapped(rows, kinds), atol=1e-6)
    with searcher(tmp_path / "Кдрант 1", roles) as search:
        assert sorted(search.search(rows[0], 6).roles[0]) == sorted(kinds)
    index(tmp_path / "Кдрант 1", roles, role="image", restart=True)
    after = read(tmp_path / "Кдрант 1", "док ы").values()
    assert [point.payload for point in after] == payloads
    assert index(tmp_path / "Кдрант 1", roles, role="image").before == 6
