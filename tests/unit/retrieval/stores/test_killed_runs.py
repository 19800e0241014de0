"""Runs of `fastrealign index` that SIGKILL ends at several moments: nothing is lost, and all is mapped once."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from fastrealign.retrieval import index

D, N = 8, 1500
# The process ends itself after a number of batches, or is killed after a time.
RUN = """
import os, signal, sys, threading
from fastrealign.retrieval import index
from fastrealign.retrieval.role_maps import Mapper
from fastrealign.retrieval.stores import base, qdrant_connection
base.BATCH_BYTES = 64 * 4 * 8
qdrant_connection._MOST_POINTS = 64
store, roles, by, batches = sys.argv[1:]
real, calls = Mapper.__call__, []
def call(self, batch):
    calls.append(1)
    done = real(self, batch)
    if len(calls) == int(batches):  # while what comes next is written
        threading.Timer(0.003, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return done
Mapper.__call__ = call
index(store, roles, role_column=by)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["faiss", "lancedb", "qdrant", "postgresql"])
def test_killed(kind, roles, mapped, documents, tmp_path, request):
    rows, kinds = documents(N)
    roles.save(tmp_path / "roles.safetensors")
    if kind == "postgresql":
        store, by, read = of_postgresql(request.getfixturevalue("url"), rows, kinds)
    else:
        store, by, read = {"faiss": of_faiss, "lancedb": of_lance, "qdrant": of_qdrant}[kind](tmp_path, rows, kinds)
    killed = 0
    for batches in (1, 2, 5, 9, 16, 23):
        words = [sys.executable, "-c", RUN, store, str(tmp_path / "roles.safetensors"), by, str(batches)]
        run = subprocess.run(words, capture_output=True, text=True)
        killed += run.returncode == -signal.SIGKILL
        assert run.returncode in (0, -signal.SIGKILL), run.stderr
        old, new = read()
        np.testing.assert_allclose(old, rows, rtol=1e-6)
        some = [i for i, row in enumerate(new) if row is not None]
        if some:
            expected = mapped(rows[some], [kinds[i] for i in some])
            np.testing.assert_allclose(np.array([new[i] for i in some]), expected, atol=1e-6)
    assert killed >= 3
    index(store, roles, role_column=by)
    np.testing.assert_allclose(np.array(read()[1]), mapped(rows, kinds), atol=1e-6)


def of_postgresql(url, rows, kinds):
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(url, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS docs")
        cursor.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding real[], modality text)")
        values = [(i, row.tolist(), kind) for i, (row, kind) in enumerate(zip(rows, kinds, strict=True))]
        cursor.executemany("INSERT INTO docs VALUES (%s, %s, %s)", values)

    def read():
        with psycopg.connect(url) as connection:
            found = connection.execute("SELECT to_jsonb(docs) FROM docs ORDER BY id").fetchall()
        return np.array([row["embedding"] for (row,) in found]), [row.get("embedding_aligned") for (row,) in found]

    return url, "modality", read


def of_faiss(folder, rows, kinds):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatIP(D)
    index.add(rows)
    faiss.write_index(index, str(folder / "a.faiss"))
    np.save(folder / "by.npy", np.array(kinds))

    def read():
        old = faiss.read_index(str(folder / "a.faiss")).reconstruct_n(0, N)
        new = folder / "a.aligned.faiss"
        return old, faiss.read_index(str(new)).reconstruct_n(0, N) if new.exists() else [None] * N

    return str(folder / "a.faiss"), str(folder / "by.npy"), read


def of_lance(folder, rows, kinds):
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    vectors = pa.FixedSizeListArray.from_arrays(rows.ravel(), D)
    table = pa.table({"id": np.arange(N), "vector": vectors, "modality": kinds})
    lance.write_dataset(table, str(folder / "db" / "docs.lance"), max_rows_per_file=200)

    def read():
        table = lance.dataset(str(folder / "db" / "docs.lance")).to_table().sort_by("id")
        new = table["vector_aligned"].to_pylist() if "vector_aligned" in table.column_names else [None] * N
        return np.array(table["vector"].to_pylist()), new

    return str(folder / "db"), "modality", read


def of_qdrant(folder, rows, kinds):
    qdrant = pytest.importorskip("qdrant_client")
    client = qdrant.QdrantClient(path=str(folder / "qdrant"))
    client.create_collection("docs", qdrant.models.VectorParams(size=D, distance=qdrant.models.Distance.DOT))
    client.upload_collection("docs", rows, [{"modality": kind} for kind in kinds], range(N))
    client.close()

    def read():
        client = qdrant.QdrantClient(path=str(folder / "qdrant"))
        points, _ = client.scroll("docs", limit=N, with_vectors=True)
        client.close()
        vectors = [
            p.vector if isinstance(p.vector, dict) else {"": p.vector} for p in sorted(points, key=lambda p: p.id)
        ]
        return np.array([vector[""] for vector in vectors]), [vector.get("aligned") for vector in vectors]

    return str(folder / "qdrant"), "modality", read
