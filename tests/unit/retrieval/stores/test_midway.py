"""What others do to a store while `index` maps its rows: one line or none, nothing lost, and the next run maps the rest."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal

import numpy as np
import pytest

from fastrealign.core.errors import FastRealignError
from fastrealign.retrieval import index
from fastrealign.retrieval.role_maps import Mapper

D = 8


def before_batch(monkeypatch, number, does):
    """Call this before a batch of a run is mapped, while its transaction is open."""
    real, calls = Mapper.__call__, []

    def call(self, rows):
        calls.append(1)
        if len(calls) == number:
            does()
        return real(self, rows)

    monkeypatch.setattr(Mapper, "__call__", call)


def table_of(url, rows, kinds):
    """Make a table of plain arrays; what asks it."""
    psycopg = pytest.importorskip("psycopg")

    def do(text, *values):
        with psycopg.connect(url) as connection:
            cursor = connection.execute(text, values or None)
            return cursor.fetchall() if cursor.description else []

    do("DROP TABLE IF EXISTS docs")
    do("CREATE TABLE docs (id int, vector real[], modality text)")
    values = [(i, row, kind) for i, (row, kind) in enumerate(zip(rows.tolist(), kinds, strict=True))]
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s)", values)
    return do


@pytest.mark.parametrize("how", ["one connection", signal.SIGINT, signal.SIGQUIT])
def test_a_server_that_stops(server, roles, mapped, documents, monkeypatch, capfd, small_batches, how):
    """Also while it is down; once it is started again, what was written is there."""
    rows, kinds = documents(400)
    do = table_of(server.url, rows, kinds)
    whole = isinstance(how, signal.Signals)
    ends = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"
    )
    before_batch(monkeypatch, 3, lambda: server.stop(how) if whole else do(ends))
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's would take what a library logs
    try:
        with pytest.raises(
            FastRealignError, match=r"docs: .*; nothing was changed in this step; run again when"
        ) as said:
            index(server.url, roles, role_column="modality")
        if whole:
            with pytest.raises(FastRealignError, match=r"does not answer .*; is PostgreSQL running there"):
                index(server.url, roles, role_column="modality")
    finally:
        if whole:
            server.start()
    assert "\n" not in str(said.value) and capfd.readouterr() == ("", "")
    report = index(server.url, roles, role_column="modality")
    assert report.rows + report.before == 400 and report.before > 0
    old, new = (
        np.array(of, np.float32) for of in zip(*do("SELECT vector, vector_aligned FROM docs ORDER BY id"), strict=True)
    )
    assert np.array_equal(old, rows)
    np.testing.assert_allclose(new, mapped(rows, kinds), atol=1e-6)


@pytest.mark.parametrize("lock", ["LOCK TABLE docs", "UPDATE docs SET modality = 'text' WHERE id = 30"])
def test_a_table_that_another_session_locks(url, roles, mapped, documents, monkeypatch, lock):
    """The whole of it, or one row."""
    rows, kinds = documents(40)
    do = table_of(url, rows, kinds)
    index(url, roles, role_column="modality")
    do("UPDATE docs SET vector_aligned = NULL WHERE id > 20")
    psycopg = pytest.importorskip("psycopg")
    monkeypatch.setattr("fastrealign.retrieval.stores.pg_connection._WAIT_SECONDS", 1)
    with psycopg.connect(url) as other:
        other.execute(lock)
        with pytest.raises(
            FastRealignError, match="docs: is locked by another transaction for 1 s; run again when that"
        ):
            index(url, roles, role_column="modality")
        other.rollback()
    report = index(url, roles, role_column="modality")
    assert report.rows + report.before == 40
    new = np.array([row for (row,) in do("SELECT vector_aligned FROM docs ORDER BY id")])
    np.testing.assert_allclose(new, mapped(rows, kinds), atol=1e-6)


def added(data):
    pytest.importorskip("lance").write_dataset(data.to_table(["vector", "modality"], limit=2), data.uri, mode="append")


@pytest.mark.parametrize(
    "does, said, then",
    [
        (lambda data: data.optimize.compact_files(), "was compacted, or rows were deleted, during the run", (9, 0)),
        (lambda data: data.delete("_rowid < 3"), "was compacted, or rows were deleted, during the run", (0, 6)),
        (lambda data: data.delete("_rowid = 1"), None, (0, 8)),
        (added, None, (2, 9)),
        (lambda data: data.drop_columns(["vector_aligned"]), "vector_aligned was removed during the run", (9, 0)),
        (lambda data: shutil.rmtree(data.uri), "docs.lance: .*; if another program writes to the table", None),
    ],
)
def test_a_table_of_lance_that_another_program_changes(
    tmp_path, roles, mapped, documents, monkeypatch, does, said, then
):
    """Three fragments, of which one is mapped; rows or nothing are left for the next run."""
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    rows, kinds = documents(9)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.float32()), D)
    store = str(tmp_path / "docs.lance")
    lance.write_dataset(pa.table({"vector": vectors, "modality": kinds}), store, max_rows_per_file=3)
    before_batch(monkeypatch, 2, lambda: does(lance.dataset(store)))
    with contextlib.nullcontext() if said is None else pytest.raises(FastRealignError, match=said):
        index(store, roles, role_column="modality")
    if then is not None:
        report = index(store, roles, role_column="modality")
        assert (report.rows, report.before) == then
        table = lance.dataset(store).to_table().to_pydict()
        expected = mapped(np.array(table["vector"], np.float32), table["modality"])
        np.testing.assert_allclose(np.array(table["vector_aligned"]), expected, atol=1e-6)
