"""Exact search and evaluation of search on documents in files: seconds, and memory above that of the imports.

    python -m bench.search FOLDER [ROWS]      half of ROWS (default 1,000,000) texts, half images, float32, width 512

FOLDER gets the files (2 GB by default), which a second run uses again; remove it afterwards. Rows are Gaussian: what is
measured is the cost, not what is found.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fastrealign as fr
from fastrealign.retrieval import evaluate, top_k

WIDTH, QUERIES, ROWS, TOP = 512, 1000, 1_000_000, 100


def files(folder: Path, rows: int) -> dict[str, Path]:
    """The rows of each role, made where they are missing."""
    folder.mkdir(exist_ok=True)
    paths = {}
    for seed, (role, at, n) in enumerate((("query", 1, QUERIES), ("text", 1, rows // 2), ("image", -1, rows // 2))):
        paths[role] = folder / f"{role}_{n}.npy"
        if not paths[role].exists():
            out = np.lib.format.open_memmap(paths[role], "w+", np.float32, (n, WIDTH))
            rng = np.random.default_rng(seed)
            for lo in range(0, n, 50_000):
                out[lo : lo + 50_000] = rng.standard_normal((min(50_000, n - lo), WIDTH), np.float32) + at
            out.flush()
    return paths


def timed(what: str, run: Callable[[], Any]) -> None:
    """Print the seconds of a run, and by how much the peak of memory is above that before it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{what}: {seconds:.1f} s, peak of memory {before / 1024:.0f} + {more / 1024:.0f} MiB", flush=True)


def main() -> None:
    """Print the table."""
    folder, rows = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else ROWS
    paths = files(folder, rows)
    queries = np.load(paths["query"])
    qrels = {str(i): {str(i): 1} for i in range(QUERIES)}
    some = {role: np.load(path, mmap_mode="r")[:20_000] for role, path in paths.items()}
    roles = fr.fit_roles(some, anchor="image", method="centred")
    print(f"{rows:,} documents of width {WIDTH}, {QUERIES:,} queries, the first {TOP}")
    both = [str(paths["text"]), str(paths["image"])]
    timed("top_k", lambda: top_k(queries, both, TOP))
    timed("top_k, documents mapped as they are read", lambda: top_k(queries, both, TOP, method=roles["image"]))
    sides = {"text": paths["text"], "images": paths["image"], "qrels": qrels}
    timed("evaluate: none, realign, centred", lambda: evaluate(paths["query"], **sides))


if __name__ == "__main__":
    main()
