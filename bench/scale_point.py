"""One point of bench.scale, in a separate process: python -m bench.scale_point KIND ROWS THREADS FOLDER -> a JSON line.

Rows are made up at no cost, so that a thousand million of them need no disk: for a fit they are windows into one tile of
memory; for files to files all shards of the source are links to one file, and shards of the output are removed as soon as they
are complete, as if they were moved elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import fastrealign as fr
from bench.problem import encodings
from fastrealign import formats

WIDTH = 16
DTYPE = np.dtype(np.float16)
TILE_ROWS = 250_000
SHARD_ROWS = 4 * TILE_ROWS
TARGET_ROWS = 10_000
# A point is repeated until it has taken this long, so that small ones are as certain as large ones.
SECONDS = 2.0
MOST_TIMES = 25
# A shard is removed this long after it appears: by then the run has read it for its manifest.
SECONDS_UNTIL_MOVED = 2.0


class MadeShard(formats.Shard):
    """A shard of any number of rows: windows into one tile."""

    format = "made"
    random_access = True

    def __init__(self, rows: int, tile: np.ndarray) -> None:
        super().__init__("made", "made")
        self.rows, self.dim, self.dtype = rows, tile.shape[1], tile.dtype
        self._tile = tile

    def read(self, lo: int, hi: int, scratch: np.ndarray) -> np.ndarray:
        if hi - lo > len(self._tile):
            raise ValueError(f"{hi - lo} rows at a time, the tile has {len(self._tile)}")
        start = lo % (len(self._tile) - (hi - lo) + 1)
        return self._tile[start : start + hi - lo]

    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        for lo in range(0, self.rows, rows):
            yield self.read(lo, min(lo + rows, self.rows), np.empty(0, np.uint8))

    def writer(self, *_: object, **__: object) -> formats.ShardWriter:
        raise TypeError("rows that are made up have no file to be written to")


def fit(rows: int, threads: int, _: Path, **how: object) -> Callable[[], None]:
    """Fits of rows from memory."""
    text, images = sides()
    source = formats.Source("made", [MadeShard(rows, text)], rows, WIDTH)
    return lambda: fr.fit(source, images, threads=threads, **how) and None


def align(rows: int, threads: int, folder: Path) -> Callable[[], None]:
    """Files to files: fit and apply, nothing waits for the disk."""
    text, images = sides()
    source, out = folder / "source", folder / "out"
    source.mkdir()
    shard = min(rows, SHARD_ROWS)
    np.save(folder / "shard.npy", np.resize(text, (shard, WIDTH)))
    for i in range(-(-rows // shard)):
        os.link(folder / "shard.npy", source / f"part_{i}.npy")

    def work() -> None:
        shutil.rmtree(out, ignore_errors=True)
        with moving_on(out):
            fr.align(source, images, out, threads=threads, fsync=False)

    return work


KINDS: dict[str, Callable[[int, int, Path], Callable[[], None]]] = {
    "fit": fit,
    "fit in one pass": lambda *of: fit(*of, one_pass=True),
    "align, files to files": align,
}


def sides() -> tuple[np.ndarray, np.ndarray]:
    text, images = encodings(TILE_ROWS, WIDTH)
    return text.astype(DTYPE), images[:TARGET_ROWS].astype(DTYPE)


@contextmanager
def moving_on(out: Path) -> Iterator[None]:
    """Removes the shards in `out` some time after they appear, until the end."""
    over = threading.Event()

    def remove() -> None:
        seen: set[Path] = set()
        while not over.wait(SECONDS_UNTIL_MOVED):
            for path in seen:
                path.unlink()
            seen = set(out.glob("part_*.npy"))

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def main(kind: str, rows: int, threads: int, folder: Path, at_least: float = SECONDS) -> dict[str, object]:
    """{"seconds", "processor_seconds": a value each time, "peak_bytes": VmHWM of this process}."""
    work = KINDS[kind](rows, threads, folder)
    if rows <= SHARD_ROWS:  # imports and first touches of memory
        work()
    seconds: list[float] = []
    processor: list[float] = []
    while len(seconds) < MOST_TIMES and (not seconds or sum(seconds) < at_least):
        cpu, start = time.process_time(), time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
        processor.append(time.process_time() - cpu)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    return {"seconds": seconds, "processor_seconds": processor, "peak_bytes": peak * 1024}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))
