"""Files to files: `fastrealign align` as a user runs it, against `cp` of the source; both read from the page cache.

What is written is on disk when `align` returns, since it syncs; `cp` leaves that to the system. So
`align --no-fsync` is compared with cp, and `align` with cp followed by a sync of its output. No writes are pending when a
timing starts.

One pass over the source is compared with two: files to files from the page cache, and fits of a source that delivers
SLOW_BYTES a second, as a disk or a server may.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import Rounds, Spread, command, plain, stopwatch
from bench.problem import TILE, encodings
from fastrealign import formats
from fastrealign.data.options import PassOptions
from fastrealign.data.row_source import Piece
from fastrealign.data.sources import FileSource
from fastrealign.data.workers import Workers
from fastrealign.methods.full_pass import fit_sides

WIDTH = 768
SHARDS = 4
# The target's size as a share of the source's.
TARGET_SHARE = {"target of the same size": 1.0, "target of a tenth": 0.1}

# Of the slow source: its rate, and how much of it is read.
SLOW_BYTES = 200e6
SLOW_SIZE = 200_000_000
TWO, ONE = "align --no-fsync", "align --no-fsync --one-pass"

# The command as its console script runs it, and afterwards the most memory that it held at any time (VmHWM: a child's
# getrusage would count what the parent held when it forked).
ALIGN = """
import sys
from fastrealign.cli.main import main
try:
    code = main()
except SystemExit as stop:
    code = stop.code
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(*peak, file=open(PEAK_TO, "w"))
sys.exit(code)
"""


def run(
    sizes: Sequence[int], threads: int, rounds: int, where: str | None, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """One entry a size of the source and a share of the target. where: folder to work in."""
    entries = []
    with tempfile.TemporaryDirectory(prefix="fastrealign-bench-", dir=where) as folder:
        root = Path(folder)
        for i, size in enumerate(sizes):
            needed = int(3.2 * size)
            if shutil.disk_usage(root).free < needed:
                say(f"files of {size / 1e9:.1f} GB left out: {root} has less than {needed / 1e9:.1f} GB free")
                continue
            timed = i == 0
            for name, share in TARGET_SHARE.items() if timed else [list(TARGET_SHARE.items())[-1]]:
                entries.append(_measure(root, name, size, share, threads, (rounds + 1) // 2 if timed else 1, say))
    return entries


def _measure(
    root: Path, name: str, size: int, share: float, threads: int, rounds: int, say: Callable[[str], None]
) -> dict[str, Any]:
    source, target, out = root / "text_emb", root / "img_emb", root / "out"
    text, images = encodings(TILE, WIDTH)
    written = _write(source, text, size)
    _write(target, images, int(size * share))
    os.sync()
    peaks: list[int] = []
    timing = Rounds()
    timing.add("cp", _fresh(out, lambda: _copy(source, out)), written)
    timing.add("cp and sync", _fresh(out, lambda: _copy_and_sync(source, out)), written)
    for who, more in (("align", []), (TWO, ["--no-fsync"]), (ONE, ["--no-fsync", "--one-pass"])):
        work = partial(_align, source, target, out, root / "peak", [*more, "--threads", str(threads)])
        timing.add(who, _fresh(out, partial(_noting, peaks, work)), written)
    order = ["cp", TWO, ONE, "cp and sync", "align"]
    timing.go(order, rounds)
    seconds = {who: timing.seconds(who) for who in order}
    one_pass = {"page cache": timing.ratio(TWO, ONE), "slow source": _slow_fits(source, target, threads, rounds)}
    for folder in (source, target, out):
        shutil.rmtree(folder)
    # `ratio` divides rates, so the names are swapped to get ratios of times.
    times = {"of_cp": timing.ratio("cp", TWO), "of_cp_and_sync": timing.ratio("cp and sync", "align")}
    peak = max(peaks)
    say(
        f"align {written / 1e9:.2f} GB of .npy, {name}: "
        + ", ".join(f"{who} {s.text()} s" for who, s in seconds.items())
        + f"; --no-fsync {times['of_cp'].text()} x cp, peak {peak / 1e6:.0f} MB; one pass "
        + ", ".join(f"{ratio.text()} of two ({where})" for where, ratio in one_pass.items())
    )
    return {
        "source_bytes": written,
        "target": name,
        "file_system": _file_system(root),
        "seconds": plain(seconds),
        **plain(times),
        "one_pass_of_two": plain(one_pass),
        "peak_bytes": peak,
    }


class _Slow(FileSource):
    """Files that deliver SLOW_BYTES a second, to all threads together."""

    def __init__(self, folder: Path, size: int) -> None:
        super().__init__(formats.open_source(folder, side="source"))
        rows = min(self.rows, size // (self.d * 4))
        self.rows, self.nbytes, self._end = rows, rows * self.d * 4, rows
        self._free = 0.0
        self._lock = threading.Lock()

    def pieces(self, nbytes: int) -> Iterator[Piece]:
        return (piece for piece in super().pieces(nbytes) if piece.first < self._end)

    def chunks(self, piece: Piece, scratch: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for lo, rows in super().chunks(piece, scratch):
            with self._lock:
                self._free = max(self._free, time.perf_counter()) + rows.nbytes / SLOW_BYTES
                wait = self._free - time.perf_counter()
            time.sleep(max(0.0, wait))
            yield lo, rows


def _slow_fits(source: Path, target: Path, threads: int, rounds: int) -> Spread:
    """The time of a fit in one pass over that of one in two."""
    options = PassOptions(workers=Workers(threads))
    timing = Rounds()
    for who, one_pass in ((TWO, False), (ONE, True)):
        rows, there = _Slow(source, SLOW_SIZE), FileSource(formats.open_source(target, side="target"))
        timing.add(who, stopwatch(partial(fit_sides, rows, there, "paper", options, one_pass)), 1)
    timing.go([TWO, ONE], rounds)
    return timing.ratio(TWO, ONE)


def _write(folder: Path, tile: np.ndarray, size: int) -> int:
    """SHARDS .npy files of `tile` repeated (at least once), some `size` bytes in all; returns the bytes written."""
    folder.mkdir()
    repeats = max(1, round(size / SHARDS / tile.nbytes))
    for i in range(SHARDS):
        with open(folder / f"{folder.name}_{i}.npy", "wb") as file:
            shape = (repeats * len(tile), tile.shape[1])
            header = {"descr": tile.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(repeats):
                file.write(tile)
    return sum(path.stat().st_size for path in folder.iterdir())


def _fresh(out: Path, work: Callable[[], object]) -> Callable[[], float]:
    """Times `work` with nothing at `out` before."""

    def run() -> float:
        if out.exists():
            shutil.rmtree(out)
        os.sync()
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def _noting(peaks: list[int], work: Callable[[], int]) -> None:
    peaks.append(work())


def _align(source: Path, target: Path, out: Path, peak_to: Path, more: Sequence[str]) -> int:
    program = ALIGN.replace("PEAK_TO", repr(str(peak_to)))
    words = ["align", str(source), "--target", str(target), "--out", str(out), *more]
    command([sys.executable, "-c", program, *words], f"fastrealign {' '.join(words)}")
    return int(peak_to.read_text()) * 1024


def _copy(source: Path, out: Path) -> None:
    command(["cp", "-r", str(source), str(out)], "cp")


def _copy_and_sync(source: Path, out: Path) -> None:
    _copy(source, out)
    command(["sync", *map(str, out.iterdir())], "sync")


def _file_system(folder: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
