"""Rows that get another role between runs, in every store that is written in place: mapped again, and no other row."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from fastrealign.core.errors import FitWarning, InputError
from fastrealign.retrieval import index, searcher
from fastrealign.retrieval.stores import qdrant_connection

N = 40
pytestmark = pytest.mark.filterwarnings("ignore:Local mode")


class Lance:
    """A table in two fragments."""

    target, user_kind = "vector_aligned", "column"

    def __init__(self, folder, rows, kinds):
        self.lance, self.pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
        vectors = self.pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
        table = self.pa.table({"id": np.arange(N), "vector": vectors, "modality": kinds})
        self.place = str(folder / "docs.lance")
        self.lance.write_dataset(table, self.place, max_rows_per_file=N // 2)

    @property
    def data(self):
        return self.lance.dataset(self.place)

    def change(self, ids, role):
        self.data.update({"modality": f"'{role}'"}, where=f"id in ({', '.join(map(str, ids))})")

    def zero(self, i):
        zeros = f"arrow_cast({[0.0] * 8}, 'FixedSizeList(8, Float32)')"
        self.data.update({"vector": zeros}, where=f"id = {i}")

    def read(self):
        table = self.data.to_table().sort_by("id")
        return table["vector_aligned"].to_pylist(), table["vector_aligned_role"].to_pylist()

    def forget_roles(self):
        self.data.drop_columns(["vector_aligned_role"])

    def own_roles(self):
        self.data.add_columns(self.pa.schema([self.pa.field("vector_aligned_role", self.pa.string())]))


class Qdrant:
    """A collection in a local folder, of a vector without a name."""

    target, user_kind = "aligned", "payload field"

    def __init__(self, folder, rows, kinds):
        self.q = pytest.importorskip("qdrant_client")
        self.place = str(folder / "qdrant")
        with self.client() as client:
            params = self.q.models.VectorParams(size=rows.shape[1], distance=self.q.models.Distance.COSINE)
            client.create_collection("docs", params)
            client.upload_collection("docs", rows, [{"modality": kind} for kind in kinds], range(N))

    def client(self):
        return contextlib.closing(self.q.QdrantClient(path=self.place))

    def change(self, ids, role):
        with self.client() as client:
            client.set_payload("docs", {"modality": role}, list(ids))

    def zero(self, i):
        with self.client() as client:
            client.update_vectors("docs", [self.q.models.PointVectors(id=i, vector=[0.0] * 8)])

    def read(self):
        with self.client() as client:
            points, _ = client.scroll("docs", limit=N, with_vectors=True)
        points = sorted(points, key=lambda point: point.id)
        vectors = [p.vector if isinstance(p.vector, dict) else {} for p in points]
        return [vector.get("aligned") for vector in vectors], [p.payload.get("aligned_role") for p in points]

    def forget_roles(self):
        with self.client() as client:
            client.delete_payload("docs", ["aligned_role"], self.q.models.Filter())
            record = client.get_collection("docs").config.metadata["fastrealign:aligned"]
            record.pop("roles")
            client.update_collection("docs", metadata={"fastrealign:aligned": record})

    def own_roles(self):
        with self.client() as client:
            client.set_payload("docs", {"aligned_role": "mine"}, [1])


class Postgresql:
    """A table of plain arrays."""

    target, user_kind = "vector_aligned", "column"

    def __init__(self, url, rows, kinds):
        self.psycopg, self.place = pytest.importorskip("psycopg"), url
        self.do("DROP TABLE IF EXISTS docs")
        self.do("CREATE TABLE docs (id int PRIMARY KEY, vector real[], modality text)")
        for i, (row, kind) in enumerate(zip(rows.tolist(), kinds, strict=True)):
            self.do("INSERT INTO docs VALUES (%s, %s, %s)", i, row, kind)

    def do(self, text, *values):
        with self.psycopg.connect(self.place) as connection:
            cursor = connection.execute(text, values)
            return cursor.fetchall() if cursor.description else []

    def change(self, ids, role):
        self.do("UPDATE docs SET modality = %s WHERE id = ANY(%s)", role, list(ids))

    def zero(self, i):
        self.do("UPDATE docs SET vector = array_fill(0::real, ARRAY[8]) WHERE id = %s", i)

    def read(self):
        found = self.do("SELECT vector_aligned, vector_aligned_role FROM docs ORDER BY id")
        return [row for row, _ in found], [role for _, role in found]

    def forget_roles(self):
        self.do("ALTER TABLE docs DROP COLUMN vector_aligned_role")

    def own_roles(self):
        self.do("ALTER TABLE docs ADD COLUMN vector_aligned_role text")


@pytest.fixture(params=[Lance, Qdrant, Postgresql])
def store(request, tmp_path, documents, monkeypatch):
    """A store of N rows, as a user has it; `kinds` is the role of each."""
    rows, kinds = documents(N)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    place = request.getfixturevalue("url") if request.param is Postgresql else tmp_path
    made = request.param(place, rows, kinds)
    made.rows, made.kinds = rows, kinds
    monkeypatch.setattr(qdrant_connection, "_MOST_POINTS", 16)
    return made


def change(store, ids):
    """Give these rows the other role."""
    for role in ("text", "image"):
        if some := [i for i in ids if store.kinds[i] != role]:
            store.change(some, role)
            for i in some:
                store.kinds[i] = role
            ids = [i for i in ids if i not in some]


def check(store, mapped):
    rows, roles = store.read()
    assert roles == store.kinds
    np.testing.assert_allclose(np.array(rows), mapped(store.rows, store.kinds), atol=1e-6)


def test_only_these_rows_are_mapped(store, roles, mapped):
    index(store.place, roles, role_column="modality")
    check(store, mapped)
    before = np.array(store.read()[0])
    change(store, [3, 21, 22])
    report = index(store.place, roles, role_column="modality")
    assert (report.rows, report.before) == (3, N - 3)
    check(store, mapped)
    others = [i for i in range(N) if i not in (3, 21, 22)]
    assert np.array_equal(np.array(store.read()[0])[others], before[others])
    assert index(store.place, roles, role_column="modality").rows == 0


def test_a_kill_while_they_are_mapped(store, roles, mapped, small_batches, killed_at):
    """Vector and role of each row stay together; the next run maps what is left."""
    index(store.place, roles, role_column="modality")
    change(store, [*range(0, N, 2)])
    for n in (1, 2):
        killed_at(n)
        with pytest.raises(BaseException):  # noqa: B017
            index(store.place, roles, role_column="modality")
        rows, stored = store.read()
        np.testing.assert_allclose(np.array(rows), mapped(store.rows, stored), atol=1e-6)
    left = sum(a != b for a, b in zip(stored, store.kinds, strict=True))
    assert 0 < left <= N // 2
    killed_at(None)
    assert index(store.place, roles, role_column="modality").rows == left
    check(store, mapped)


def test_what_an_earlier_version_aligned(store, roles, mapped):
    """It has no roles beside the vectors: all are mapped once more. Until then it is searched as before."""
    index(store.place, roles, role_column="modality")
    store.forget_roles()
    change(store, [5])
    with searcher(store.place, roles) as search:
        assert search.search(store.rows[0], N).ids.shape == (1, N)
    with pytest.warns(
        FitWarning, match="an earlier version .* without storing the role of each row; 40 rows are mapped"
    ):
        assert index(store.place, roles, role_column="modality").rows == N
    check(store, mapped)
    assert index(store.place, roles, role_column="modality").rows == 0


def test_a_row_that_lost_its_direction(store, roles):
    """Its aligned vector is of the old role, so it is emptied."""
    index(store.place, roles, role_column="modality")
    store.zero(5)
    change(store, [5])
    assert index(store.place, roles, role_column="modality", bad_rows="skip").skipped == 1
    assert [i for i, row in enumerate(store.read()[0]) if row is None] == [5]


def test_a_name_that_is_taken(store, roles):
    store.own_roles()
    with pytest.raises(
        InputError, match=f"there is a {store.user_kind} {store.target}_role already; name another with to="
    ):
        index(store.place, roles, role_column="modality")
    index(store.place, roles, role_column="modality", to="second")


def test_after_the_old_vectors_went(store, roles):
    index(store.place, roles, role_column="modality", drop_old=True)
    assert index(store.place, roles, role_column="modality").before == N
    change(store, [5, 6])
    with pytest.warns(FitWarning, match="2 rows have no aligned vector, or one of another role, and .* is gone"):
        assert index(store.place, roles, role_column="modality").rows == 0


def test_a_restart_with_a_name_that_is_taken(store, roles, others):
    """Refused before anything is removed."""
    index(store.place, roles, role="text")
    store.own_roles()
    before = store.read()
    with pytest.raises(InputError, match=f"there is a {store.user_kind} {store.target}_role already"):
        index(store.place, others, role_column="modality", restart=True)
    assert store.read() == before and None not in before[0]
    assert index(store.place, others, role="text", restart=True).rows == N
