"""Files to files: `fastrealign align` as a user runs it, against `cp` of the source; both read from the page cache.

What is written is on disk when `align` returns, since it syncs; `cp` leaves that to the system. So
`align --no-fsync` is compared with cp, and `align` with cp followed by a sync of its output. No writes are pending when a
timing starts. Two yardsticks say how much of the time is moving bytes: the reads and writes that `align` makes by as many
threads, with nothing between them, and for one pass, which reads the source twice, cp and a read of the source.

One pass over the source is compared with two: files to files from the page cache, and fits of a source that delivers
SLOW_BYTES a second, as a disk or a server may.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from fastrealign.methods.full_pass import fit_full
from fastrealign.storage.system import set_aside

WIDTH = 768
SHARDS = 4
# The target's size as a share of the source's.
TARGET_SHARE = {"target of the same size": 1.0, "target of a tenth": 0.1}

# Of the slow source: its rate, and how much of it is read.
SLOW_BYTES = 200e6
SLOW_SIZE = 200_000_000
TWO, ONE = "align --no-fsync", "align --no-fsync --one-pass"
CP, CP_READ, CP_SYNC, MOVES = "cp", "cp and a read", "cp and sync", "its reads and writes"

# Read and written at a time by the yardsticks: it stays in a core's second-level cache.
STEP = 1 << 20
# Of a .npy file, which comes first, as `align` writes it: behind it nothing is written in whole pages of STEP, for which the
# system would first make room (0.4 to 0.6 instead of 0.13 s).
HEADER = 128

# The command as its console script runs it, compiled as pip does when it installs a package. Afterwards, the most memory
# that it held at any time (VmHWM: a child's getrusage would count what the parent held when it forked).
ALIGN = """
import sys
sys.dont_write_bytecode, sys.pycache_prefix = False, COMPILED_IN
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
        _compile(root)
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
    peaks: dict[str, list[int]] = {"align": [], TWO: [], ONE: []}
    timing = Rounds()
    timing.add(CP, _fresh(out, lambda: _copy(source, out)), written)
    timing.add(CP_READ, _fresh(out, lambda: _copy_and_read(source, out, threads)), written)
    timing.add(CP_SYNC, _fresh(out, lambda: _copy_and_sync(source, out)), written)
    timing.add(MOVES, _fresh(out, lambda: _move_all(source, target, out, threads)), written)
    for who, more in (("align", []), (TWO, ["--no-fsync"]), (ONE, ["--no-fsync", "--one-pass"])):
        work = partial(_align, source, target, out, root, [*more, "--threads", str(threads)])
        timing.add(who, _fresh(out, partial(_noting, peaks[who], work)), written)
    # Each pair that is compared, one directly after the other. The first round, in which a virtual machine may get the memory
    # of its page cache from the host, does not count.
    order = [CP, TWO, ONE, CP_READ, MOVES, TWO, "align", CP_SYNC]
    if rounds > 1:
        timing.go(order, 1)
        timing.forget()
    timing.go(order, rounds)
    seconds = {who: timing.seconds(who) for who in (CP, TWO, MOVES, ONE, CP_READ, CP_SYNC, "align")}
    one_pass = {"page cache": timing.ratio(TWO, ONE), "slow source": _slow_fits(source, target, threads, rounds)}
    for folder in (source, target, out):
        shutil.rmtree(folder)
    # `ratio` divides rates, so the names are swapped to get ratios of times.
    times = {
        "of_cp": timing.ratio(CP, TWO),
        "of_its_moves": timing.ratio(MOVES, TWO),
        "one_pass_of_cp_and_read": timing.ratio(CP_READ, ONE),
        "of_cp_and_sync": timing.ratio(CP_SYNC, "align"),
    }
    peak, one_pass_peak = max(peaks["align"] + peaks[TWO]), max(peaks[ONE])
    say(
        f"align {written / 1e9:.2f} GB of .npy, {name}: "
        + ", ".join(f"{who} {s.text()} s" for who, s in seconds.items())
        + f"; --no-fsync {times['of_cp'].text()} x cp, {times['of_its_moves'].text()} x {MOVES}; one pass "
        + f"{times['one_pass_of_cp_and_read'].text()} x {CP_READ}; peak {peak / 1e6:.0f} and "
        + f"{one_pass_peak / 1e6:.0f} MB; one pass "
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
        "one_pass_peak_bytes": one_pass_peak,
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
        timing.add(who, stopwatch(partial(fit_full, rows, there, "paper", options, one_pass)), 1)
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


def _compile(root: Path) -> None:
    """Have the code of a run compiled, by a run on few rows."""
    for name, tile in zip(("source", "target"), encodings(TILE, WIDTH), strict=True):
        _write(root / name, tile, 0)
    _align(root / "source", root / "target", root / "out", root, ["--no-fsync"])
    for name in ("source", "target", "out"):
        shutil.rmtree(root / name)


def _align(source: Path, target: Path, out: Path, root: Path, more: Sequence[str]) -> int:
    peak_to = root / "peak"
    program = ALIGN.replace("PEAK_TO", repr(str(peak_to))).replace("COMPILED_IN", repr(str(root / "compiled")))
    words = ["align", str(source), "--target", str(target), "--out", str(out), *more]
    command([sys.executable, "-c", program, *words], f"fastrealign {' '.join(words)}")
    return int(peak_to.read_text()) * 1024


def _copy(source: Path, out: Path) -> None:
    command(["cp", "-r", str(source), str(out)], "cp")


def _copy_and_read(source: Path, out: Path, threads: int) -> None:
    _copy(source, out)
    _move(source, None, threads)


def _move_all(source: Path, target: Path, out: Path, threads: int) -> None:
    """The reads of a fit in two passes, then the reads and writes of the rows aligned."""
    out.mkdir()
    for folder, to in ((target, None), (source, None), (source, None), (source, out)):
        _move(folder, to, threads)


def _move(folder: Path, to: Path | None, threads: int) -> None:
    """Read each file of a folder, one a thread, and write it to another folder."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(partial(_move_file, to=to), sorted(folder.iterdir())))


def _move_file(path: Path, to: Path | None) -> None:
    buffer = memoryview(bytearray(STEP))
    with open(path, "rb", 0) as file, open(os.devnull if to is None else to / path.name, "wb", 0) as copy:
        size = path.stat().st_size
        if to is not None:
            set_aside(copy.fileno(), size)
        for at, end in itertools.pairwise([0, *range(HEADER, size, STEP), size]):
            count = os.preadv(file.fileno(), [buffer[: end - at]], at)
            if to is not None:
                os.pwrite(copy.fileno(), buffer[:count], at)


def _copy_and_sync(source: Path, out: Path) -> None:
    _copy(source, out)
    command(["sync", *map(str, out.iterdir())], "sync")


def _file_system(folder: Path) -> str:
    done = subprocess.run(["stat", "-f", "-c", "%T", str(folder)], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
