"""python -m bench.index_stores [--rows N] [--only STORE]... [--runs N] [--out FILE]: `index` against a run without the map.

Each run has a process and a fresh copy of the store. `copied` is the same run with rows written as they were read; `own` is the
store's own way to copy the vectors into a second index or column, where it has one: read_index, add, write_index of faiss;
add_columns of Lance with a function of batches; UPDATE ... SET of PostgreSQL. `again` is a second run after `mapped`, which
finds nothing changed. Prints medians in seconds, the ratio of `mapped` to `copied`, and the largest resident memory of the runs
that map. 512 numbers a row, two roles by turns, stored beside the vectors. --out keeps the runs of each store, in place of
earlier ones of that store. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fastrealign as fr
from bench.common import machine
from fastrealign.retrieval import index
from fastrealign.retrieval.role_maps import Mapper
from fastrealign.retrieval.stores.base import Aligned

D = 512
ROLES = np.array(["text", "image"])
# What a store is measured on. Local Qdrant is for small collections, and waits for the disk after each point.
ROWS = {"faiss": 1_000_000, "lancedb": 1_000_000, "postgresql": 100_000, "qdrant": 500}
WAYS = ("copied", "own", "mapped", "again")


@cache
def roles() -> fr.Roles:
    rng = np.random.default_rng(0)
    sides = {role: rng.standard_normal((2000, D), np.float32) + at for role, at in (("text", 0.1), ("image", -0.1))}
    return fr.fit_roles(sides, anchor="image", method="realign")


def batches(rows: int) -> Iterator[tuple[int, np.ndarray]]:
    rng = np.random.default_rng(1)
    for first in range(0, rows, 50_000):
        part = rng.standard_normal((min(50_000, rows - first), D), np.float32)
        yield first, part / np.linalg.norm(part, axis=1, keepdims=True)


def names(first: int, n: int) -> np.ndarray:
    return ROLES[np.arange(first, first + n) % 2]


class Faiss:
    def __init__(self, folder: Path, rows: int) -> None:
        self.path, self.by, self.rows = folder / "wiki.faiss", folder / "roles.npy", rows

    def make(self) -> None:
        import faiss

        made = faiss.IndexFlatIP(D)
        for _, part in batches(self.rows):
            made.add(part)
        faiss.write_index(made, str(self.path))
        np.save(self.by, names(0, self.rows))

    def clear(self) -> None:
        for path in self.path.parent.glob("wiki.aligned*"):
            path.unlink()

    def run(self) -> None:
        index(self.path, roles(), role_column=str(self.by))

    def own(self) -> None:
        import faiss

        old, made = faiss.read_index(str(self.path), faiss.IO_FLAG_MMAP_IFC), faiss.IndexFlatIP(D)
        for first in range(0, self.rows, 16_384):
            made.add(old.reconstruct_n(first, min(16_384, self.rows - first)))
        faiss.write_index(made, str(self.path.with_name("wiki.aligned.copy")))
        with open(self.path.with_name("wiki.aligned.copy"), "rb") as file:
            os.fsync(file.fileno())


class Lancedb:
    def __init__(self, folder: Path, rows: int) -> None:
        self.path, self.rows = folder / "db" / "docs.lance", rows

    def make(self) -> None:
        import lance
        import pyarrow as pa

        def tables() -> Iterator[Any]:
            for first, part in batches(self.rows):
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), D)
                yield pa.record_batch({"vector": vectors, "modality": pa.array(names(first, len(part)))})

        one = next(tables())
        reader = pa.RecordBatchReader.from_batches(one.schema, tables())
        lance.write_dataset(reader, str(self.path), max_rows_per_file=250_000)

    def clear(self) -> None:
        import lance

        data = lance.dataset(str(self.path))
        if made := [name for name in data.schema.names if name.startswith("vector_aligned")]:
            data.drop_columns(made)
            lance.dataset(str(self.path)).cleanup_old_versions(retain_versions=1)

    def run(self) -> None:
        index(self.path, roles(), role_column="modality")

    def own(self) -> None:
        import lance
        import pyarrow as pa

        @lance.batch_udf()
        def copy(batch: Any) -> Any:
            return pa.record_batch({"vector_aligned": batch["vector"]})

        lance.dataset(str(self.path)).add_columns(copy, read_columns=["vector"], batch_size=16_384)


class Postgresql:
    def __init__(self, folder: Path, rows: int) -> None:
        self.rows, self.url = rows, os.environ.get("BENCH_POSTGRESQL", "")

    def make(self) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("DROP TABLE IF EXISTS docs")
            cursor.execute("CREATE TABLE docs (id int PRIMARY KEY, embedding real[], modality text)")
            with cursor.copy("COPY docs FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["int4", "float4[]", "text"])
                for first, part in batches(self.rows):
                    for i, (row, name) in enumerate(
                        zip(part.tolist(), names(first, len(part)).tolist(), strict=True), first
                    ):
                        copy.write_row((i, row, name))

    def clear(self) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                "ALTER TABLE docs DROP COLUMN IF EXISTS embedding_aligned, DROP COLUMN IF EXISTS embedding_aligned_role"
            )
            connection.execute("VACUUM FULL docs")
            connection.execute("CHECKPOINT")

    def run(self) -> None:
        index(self.url, roles(), role_column="modality")

    def own(self) -> None:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("ALTER TABLE docs ADD COLUMN embedding_aligned real[]")
            # + nothing: a copy that is not a pointer to the same stored value
            connection.execute("UPDATE docs SET embedding_aligned = embedding || ARRAY[]::real[]")


class Qdrant:
    def __init__(self, folder: Path, rows: int) -> None:
        self.path, self.rows = folder / "qdrant", rows

    def make(self) -> None:
        from qdrant_client import QdrantClient, models

        client = QdrantClient(path=str(self.path))
        client.create_collection("docs", models.VectorParams(size=D, distance=models.Distance.COSINE))
        for first, part in batches(self.rows):
            payloads = [{"modality": str(name)} for name in names(first, len(part))]
            client.upload_collection("docs", part, payloads, range(first, first + len(part)))
        client.close()

    def clear(self) -> None:
        from qdrant_client import QdrantClient, models

        client = QdrantClient(path=str(self.path))
        vectors = client.get_collection("docs").config.params.vectors
        if isinstance(vectors, dict) and "aligned" in vectors:
            client.delete_vector_name("docs", "aligned")
            client.delete_payload("docs", ["aligned_role"], models.Filter())
        client.close()

    def run(self) -> None:
        index(self.path, roles(), role_column="modality")

    def own(self) -> None:
        raise NotImplementedError


STORES = {"faiss": Faiss, "lancedb": Lancedb, "postgresql": Postgresql, "qdrant": Qdrant}


def one(store: Any, way: str) -> dict[str, float]:
    """One run, in this process."""
    if way == "copied":
        Mapper.__call__ = lambda self, batch: Aligned(batch.rows, np.ones(len(batch.rows), bool))  # type: ignore[method-assign]
    roles()  # neither this nor what it imports is part of the run
    begun = time.perf_counter()
    store.own() if way == "own" else store.run()
    return {"seconds": time.perf_counter() - begun, "mb": _peak()}


def _peak() -> float:
    """The largest resident memory so far, in MB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@contextmanager
def postgresql() -> Iterator[None]:
    """A server of the tests' kind, where none is named by BENCH_POSTGRESQL."""
    if "BENCH_POSTGRESQL" not in os.environ:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
        import postgres

        with postgres.server() as running:
            os.environ["BENCH_POSTGRESQL"] = running.url
            yield
    else:
        yield


def keep(out: Path, name: str, rows: int, runs: dict[str, list[dict[str, float]]]) -> None:
    """Write the runs of one store to a file of results, beside those of the other stores."""
    packages = ("numpy", "faiss-cpu", "pylance", "psycopg", "qdrant-client")
    results = json.loads(out.read_text()) if out.exists() else {"kind": "index_stores", "width": D, "stores": {}}
    results["stores"][name] = {"machine": machine(packages), "rows": rows, "runs": runs}
    out.write_text(json.dumps(results, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.index_stores", description=(__doc__ or "").partition(":")[2])
    parser.add_argument("--rows", type=int, help="of every store, instead of its own number")
    parser.add_argument("--only", action="append", choices=STORES, help="may be given more than once")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep the runs of each store")
    parser.add_argument("--one", nargs=2, metavar=("STORE", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, way = given.one
        print(json.dumps(one(STORES[name](given.folder, given.rows), way)))
        return 0
    for name in given.only or STORES:
        rows = given.rows or ROWS[name]
        folder = Path(tempfile.mkdtemp(prefix="index-stores-"))
        with ExitStack() as held:
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            if name == "postgresql":
                held.enter_context(postgresql())
            store = STORES[name](folder, rows)
            store.make()
            found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS if (name, way) != ("qdrant", "own")}
            for _ in range(given.runs):
                for way in found:
                    if way != "again":
                        store.clear()
                    words = ["--one", name, way, "--folder", str(folder), "--rows", str(rows)]
                    run = subprocess.run(
                        [sys.executable, "-m", "bench.index_stores", *words], capture_output=True, text=True
                    )
                    if run.returncode:
                        print(run.stderr, file=sys.stderr)
                        return 1
                    found[way].append(json.loads(run.stdout.splitlines()[-1]))
            if given.out:
                keep(given.out, name, rows, found)
            seconds = {way: median(run["seconds"] for run in runs) for way, runs in found.items()}
            spread = [f"{run['seconds']:.2f}" for run in found["mapped"]]
            print(
                f"{name}: {rows:,} rows, "
                + ", ".join(f"{way} {value:.2f} s" for way, value in seconds.items())
                + f"; mapped/copied {seconds['mapped'] / seconds['copied']:.2f}; mapped {' '.join(spread)}; "
                + f"{max(run['mb'] for run in found['mapped']):.0f} MB",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
