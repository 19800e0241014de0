"""Rows that get another role or vector between runs, in every store that is written in place: mapped again, and no other."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import BadRowsError, FitWarning, InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.retrieval import index, searcher
from fastrealign.retrieval.role_maps import Mapper, RoleMaps
from fastrealign.retrieval.stores import qdrant_connection
from fastrealign.retrieval.stores.base import Batch

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

    def give(self, rows):
        for i, row in rows.items():
            value = f"arrow_cast({row.tolist()}, 'FixedSizeList(8, Float32)')"
            self.data.update({"vector": value}, where=f"id = {i}")

    def empty(self, i):
        self.data.update({"vector": "arrow_cast(null, 'FixedSizeList(8, Float32)')"}, where=f"id = {i}")

    def read(self):
        return self.aligned(), self.data.to_table().sort_by("id")["vector_aligned_role"].to_pylist()

    def aligned(self):
        return self.data.to_table().sort_by("id")["vector_aligned"].to_pylist()

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

    def give(self, rows):
        made = self.q.models.PointVectors
        with self.client() as client:
            client.update_vectors("docs", [made(id=i, vector=row.tolist()) for i, row in rows.items()])

    def empty(self, i):
        with self.client() as client:
            client.delete_vectors("docs", [""], [i])

    def read(self):
        with self.client() as client:
            points, _ = client.scroll("docs", limit=N, with_vectors=True)
        points = sorted(points, key=lambda point: point.id)
        vectors = [p.vector if isinstance(p.vector, dict) else {} for p in points]
        return [vector.get("aligned") for vector in vectors], [p.payload.get("aligned_role") for p in points]

    def aligned(self):
        return self.read()[0]

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
        for i, row in enumerate(rows):
            self.do("INSERT INTO docs VALUES (%s, %s, %s)", i, row.tolist(), kinds[i])

    def do(self, text, *values):
        with self.psycopg.connect(self.place) as connection:
            cursor = connection.execute(text, values)
            return cursor.fetchall() if cursor.description else []

    def change(self, ids, role):
        self.do("UPDATE docs SET modality = %s WHERE id = ANY(%s)", role, list(ids))

    def give(self, rows):
        for i, row in rows.items():
            self.do("UPDATE docs SET vector = %s WHERE id = %s", row.tolist(), i)

    def empty(self, i):
        self.do("UPDATE docs SET vector = NULL WHERE id = %s", i)

    def read(self):
        return self.aligned(), [role for (role,) in self.do("SELECT vector_aligned_role FROM docs ORDER BY id")]

    def aligned(self):
        return [row for (row,) in self.do("SELECT vector_aligned FROM docs ORDER BY id")]

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


def embed_again(store, ids):
    """Give these rows other vectors."""
    store.rows[ids] = -np.roll(store.rows[ids], 1, axis=1)
    store.give({i: store.rows[i] for i in ids})


@pytest.mark.parametrize("one_role", [False, True])
def test_vectors_that_changed(store, roles, mapped, one_role):
    """Noticed though id and role are the same; all other rows keep their bits."""
    how = {"role": "text"} if one_role else {"role_column": "modality"}
    index(store.place, roles, **how)
    before = np.array(store.aligned())
    embed_again(store, [3, 21, 22])
    report = index(store.place, roles, **how)
    assert (report.rows, report.changed, report.before) == (3, 3, N - 3)
    assert sum(report.roles.values()) == 3 and "3 rows had an aligned vector made from an older" in str(report)
    after = np.array(store.aligned())
    np.testing.assert_allclose(after, mapped(store.rows, ["text"] * N if one_role else store.kinds), atol=1e-6)
    others = [i for i in range(N) if i not in (3, 21, 22)]
    assert np.array_equal(after[others], before[others])
    again = index(store.place, roles, **how)
    assert (again.rows, again.changed, again.before) == (0, 0, N)


def test_progress_comes_to_its_end(store, roles):
    """Also where nothing is done, and where most rows stay as they are."""
    how = {"role_column": "modality", "bad_rows": "skip"}
    for given in ({}, {}, {3: store.rows[4]}, {7: np.zeros(8)}):
        if given:
            store.give(given)
        shown = Count()
        index(store.place, roles, progress=shown, **how)
        assert shown.done == shown.total == N


class Count(Progress):
    def start(self, phase, rows, nbytes):
        self.total, self.done = rows, 0

    def advance(self, rows, nbytes):
        assert rows >= 0 and nbytes >= 0
        self.done += rows


def test_a_small_change_is_a_change_and_rounding_is_none(rng):
    """In halves of 768 columns, and in floats: an update of a hundredth is seen, the last place is not."""
    sides = rng.normal(size=(2, 99, 768))
    with pytest.warns(FitWarning, match="uncertain"):
        alignment = fr.fit(*sides)
    vectors = rng.normal(size=(50, 768))
    for dtype, rounding in ((np.float16, 2**-10), (np.float32, 2**-20)):
        rows = vectors.astype(dtype)
        mapper = Mapper("here", RoleMaps.of(alignment), alignment.name, "error", 1, SILENT)
        stored = mapper(Batch(rows, np.arange(50), None)).rows
        assert not mapper.changed(Batch(rows, np.arange(50), None), stored * (1 + rounding)).any()
        other = (vectors + 0.01 * rng.normal(size=vectors.shape)).astype(dtype)
        assert mapper.changed(Batch(other, np.arange(50), None), stored).all() and mapper.since == 50


def test_a_kill_while_changed_vectors_are_mapped(store, roles, mapped, small_batches, killed_at):
    """Each row has the aligned vector of its old or its new vector; the next run maps what is left, and what was added."""
    index(store.place, roles, role_column="modality")
    old = mapped(store.rows, store.kinds)
    embed_again(store, [*range(0, N, 4)])
    new = mapped(store.rows, store.kinds)
    for n in (1, 2):
        killed_at(n)
        with pytest.raises(BaseException):  # noqa: B017
            index(store.place, roles, role_column="modality")
        rows = np.array(store.read()[0])
        apart = [np.abs(rows - one).max(axis=1) for one in (old, new)]
        assert (np.minimum(*apart) < 1e-6).all()
    left = int((apart[1] > 1e-6).sum())
    assert 0 < left <= N // 4
    killed_at(None)
    report = index(store.place, roles, role_column="modality")
    assert (report.rows, report.changed, report.before) == (left, left, N - left)
    check(store, mapped)


def test_an_interrupt_says_what_is_in_the_store(store, roles, others, small_batches, killed_at):
    """Of a first run, of one over vectors that changed, and of a restart, which repeated would lose what it wrote."""

    def interrupted(of, n, **how):
        killed_at(n, by=KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt) as error:
            index(store.place, of, role_column="modality", **how)
        killed_at(None)
        done = sum(row is not None for row in store.aligned())
        said = str(error.value)
        assert said.startswith(f"interrupted; {done} of 40 rows of ") if done else "no aligned vector of" in said
        return done, said

    done, said = interrupted(roles, 1)
    assert done == 0 and said.endswith("is written; run the same command again")
    several = not isinstance(store, Postgresql)  # whose rows are in one block, which is one batch
    if several:
        done, said = interrupted(roles, 3)
        assert 0 < done < N and said.endswith("have an aligned vector; run the same command again to resume")
    index(store.place, roles, role_column="modality")
    embed_again(store, [*range(0, N, 4)])
    done, said = interrupted(roles, 1)
    assert (
        done == N
        and "aligned vector (where the vector was changed since, it is out of date until the next run makes" in said
    )
    assert index(store.place, roles, role_column="modality").rows == 10
    if several:
        done, said = interrupted(others, 3, restart=True)
        assert 0 < done < N and said.endswith("run the same command again without restart=True to resume")
        assert index(store.place, others, role_column="modality").before == done


def test_a_changed_vector_without_a_direction(store, roles, mapped):
    """Stops the run and is named, or is emptied, also where the role is another; a vector that comes back is mapped."""
    index(store.place, roles, role_column="modality")
    row = store.rows[5].copy()
    store.give({5: np.zeros(8)})
    with pytest.raises(BadRowsError, match=r"row \S+ is all zeros; fix it, or"):
        index(store.place, roles, role_column="modality")
    report = index(store.place, roles, role_column="modality", bad_rows="skip")
    assert (report.skipped, report.rows, report.before, report.changed, report.roles) == (1, 0, N - 1, 1, {})
    assert "nothing\n" in str(report) and "all is done" not in str(report)
    store.give({9: np.zeros(8)})
    change(store, [9])
    assert index(store.place, roles, role_column="modality", bad_rows="skip").skipped == 2
    assert [i for i, row in enumerate(store.read()[0]) if row is None] == [5, 9]
    store.give({5: row, 9: store.rows[9]})
    assert index(store.place, roles, role_column="modality").rows == 2
    check(store, mapped)


def test_a_vector_that_was_emptied(store, roles, mapped):
    """Its aligned vector stays, since nothing could make it again; a warning counts such rows, also beside a changed one."""
    index(store.place, roles, role_column="modality")
    store.empty(5)
    embed_again(store, [7])
    said = "1 row without a vector in .*, which was emptied since: the aligned vector stays, and searches find it"
    with pytest.warns(FitWarning, match=f"{said}; empty {store.target} where they should not$"):
        report = index(store.place, roles, role_column="modality")
    assert (report.rows, report.before) == (1, N - 1)
    check(store, mapped)


def test_a_name_that_is_taken(store, roles):
    store.own_roles()
    with pytest.raises(
        InputError, match=f"there is a {store.user_kind} {store.target}_role already; name another with to="
    ):
        index(store.place, roles, role_column="modality")
    index(store.place, roles, role_column="modality", to="second")


def test_a_target_that_is_the_source(store, roles):
    source = store.target.removesuffix("aligned").rstrip("_")
    if not source:
        pytest.skip("a vector without a name cannot be named")
    for how in ({}, {"column": source}):
        with pytest.raises(InputError, match=f"to= names the vector column that is read, {source}; name another"):
            index(store.place, roles, role_column="modality", to=source, **how)


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
