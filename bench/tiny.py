"""python -m bench.tiny [--shards 100000] [--rounds 2] [--in DIR] [--out FILE.json]: what a shard costs, however small.

`fastrealign apply` and `align` over very many shards of a few rows, as a user runs them, against a plain Python loop over the
same files that opens, reads, writes to a temporary name and renames. Both with and without waiting for the disk. What is more
than the loop, divided by the number of shards, is the overhead of a shard.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.common import BUSY, CannotBenchmark, Others, Rounds, Spread, command, machine, plain, publish
from bench.problem import encodings
from fastrealign import __version__, fit

ROWS, WIDTH = 8, 64

# A plain loop, in a separate process like the command.
LOOP = """
import os, sys
sync, source, out = sys.argv[1] == "fsync", sys.argv[2], sys.argv[3]
os.mkdir(out)
for name in os.listdir(source):
    with open(os.path.join(source, name), "rb") as file:
        data = file.read()
    temporary = os.path.join(out, name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(temporary, os.path.join(out, name))
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tiny", description="The overhead of a shard.")
    parser.add_argument("--shards", type=int, default=100_000, metavar="N", help="default: 100,000")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument(
        "--fsync-shards", type=int, default=5_000, metavar="N", help="of those that wait (default: 5,000)"
    )
    parser.add_argument("--in", dest="where", metavar="DIR", help="folder to work in (default: the temporary folder)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there too")
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="fastrealign-tiny-", dir=given.where) as folder:
            results = run(
                Path(folder), given.shards, given.fsync_shards, given.rounds, lambda line: print(line, flush=True)
            )
    except CannotBenchmark as error:
        print(f"bench.tiny: {error}", file=sys.stderr)
        return 1
    publish(results, given.out)
    return 0


def run(folder: Path, shards: int, fsync_shards: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """One entry with and one without waiting for the disk, milliseconds a shard."""
    results: dict[str, Any] = {
        "kind": "tiny",
        "machine": machine(("numpy",), fastrealign=__version__),
        "settings": {"rows": ROWS, "width": WIDTH, "dtype": "float32"},
        "entries": [],
    }
    others = Others()
    for sync, count in ((False, shards), (True, fsync_shards)):
        results["entries"].append(_measure(folder, count, sync, rounds, say))
    results["machine"]["others_cores"] = others.cores()
    if (results["machine"]["others_cores"] or 0.0) > BUSY:
        say(f"the machine was busy, others took {results['machine']['others_cores']:.2f} processors")
    return results


def _measure(folder: Path, shards: int, sync: bool, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(dir=folder))
    source, outs = work / "source", work / "outs"
    outs.mkdir()
    _write(source, work, shards)
    more = [] if sync else ["--no-fsync"]
    fastrealign = [sys.executable, "-m", "fastrealign"]
    runs = {
        "loop": [sys.executable, "-c", LOOP, "fsync" if sync else "no", str(source)],
        "apply": [*fastrealign, "apply", str(work / "a.safetensors"), str(source), *more, "--out"],
        "align": [*fastrealign, "align", str(source), "--target", str(work / "images.npy"), *more, "--out"],
    }
    timing = Rounds()
    for name, words in runs.items():
        timing.add(name, _restarted(outs, words, name), shards)
    timing.go(list(runs), rounds)
    shutil.rmtree(work)
    of = {name: _milliseconds(timing.seconds(name), shards) for name in runs}
    over = {name: of[name].median - of["loop"].median for name in ("apply", "align")}
    say(
        f"{shards:,} shards of {ROWS} x {WIDTH}, {'each synced' if sync else 'no fsync'}: "
        + ", ".join(f"{name} {spread.text(3)} ms a shard" for name, spread in of.items())
        + f"; more than the loop: apply {over['apply']:.3f}, align {over['align']:.3f} ms"
    )
    return {"shards": shards, "fsync": sync, "ms_a_shard": plain(of), "overhead_ms": over}


def _write(source: Path, folder: Path, shards: int) -> None:
    """Shards, a target, and an alignment of both."""
    source.mkdir()
    text, images = encodings(ROWS * 1000, WIDTH)
    for i in range(shards):
        lo = i * ROWS % len(text)
        np.save(source / f"part_{i}.npy", text[lo : lo + ROWS])
    np.save(folder / "images.npy", images)
    fit(text, images).save(folder / "a.safetensors")


def _restarted(outs: Path, words: Sequence[str], shown: str) -> Callable[[], float]:
    """Times a command that writes to a new folder, with nothing waiting to be written.

    Earlier output stays until the end: after removing many files ext4 takes a millisecond of processor time to make one.
    """

    def run() -> float:
        out = outs / str(len(list(outs.iterdir())))
        os.sync()
        start = time.perf_counter()
        command([*words, str(out)], shown)
        return time.perf_counter() - start

    return run


def _milliseconds(seconds: Spread, shards: int) -> Spread:
    ms = 1e3 / shards
    return Spread(seconds.median * ms, seconds.p10 * ms, seconds.p90 * ms, seconds.n)


if __name__ == "__main__":
    sys.exit(main())
