"""Files to files: `fastrealign align` as a user runs it, against `cp` of the source; both read from the page cache.

What is written is on disk when `align` returns, since it syncs; `cp` leaves that to the system. So
`align --no-fsync` is compared with cp, and `align` with cp followed by a sync of its output. No writes are pending when a
timing starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import Rounds, command, plain
from bench.problem import TILE, encodings

WIDTH = 768
SHARDS = 4
# The target's size as a share of the source's.
TARGET_SHARE = {"target of the same size": 1.0, "target of a tenth": 0.1}

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
    for who, more in (("align", []), ("align --no-fsync", ["--no-fsync"])):
        work = partial(_align, source, target, out, root / "peak", [*more, "--threads", str(threads)])
        timing.add(who, _fresh(out, partial(_noting, peaks, work)), written)
    timing.go(["cp", "align --no-fsync", "cp and sync", "align"], rounds)
    seconds = {who: timing.seconds(who) for who in ("cp", "align --no-fsync", "cp and sync", "align")}
    for folder in (source, target, out):
        shutil.rmtree(folder)
    # `ratio` divides rates, so the names are swapped to get ratios of times.
    times = {"of_cp": timing.ratio("cp", "align --no-fsync"), "of_cp_and_sync": timing.ratio("cp and sync", "align")}
    peak = max(peaks)
    say(
        f"align {written / 1e9:.2f} GB of .npy, {name}: "
        + ", ".join(f"{who} {s.text()} s" for who, s in seconds.items())
        + f"; --no-fsync {times['of_cp'].median:.2f} x cp, peak {peak / 1e6:.0f} MB"
    )
    return {
        "source_bytes": written,
        "target": name,
        "file_system": _file_system(root),
        "seconds": plain(seconds),
        **plain(times),
        "peak_bytes": peak,
    }


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
