"""The CPU benchmark: the operations against their ceilings and peers, small batches, files to files."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench import files, small
from bench.ceilings import Ceilings, clock
from bench.common import (
    BUSY,
    SHORT,
    CannotBenchmark,
    Others,
    Rounds,
    Spread,
    keep_memory,
    last_level_cache,
    machine,
    plain,
    release_memory,
    schedule,
    stopwatch,
)
from bench.native import compiler
from bench.ops import Shape, cycles_a_line, ours, shapes
from bench.peers import PEERS, NotComparable, Peer, prepare
from bench.problem import Memory, Problem
from fastrealign import __version__
from fastrealign.core.cpu import instruction_sets

PARTS = ("small", "files")
PACKAGES = ("numpy", "torch", "scikit-learn", "faiss-cpu")
# These are timed on every case that is compared; the others on the first width and type only.
STRONGEST = tuple(peer.name for peer in PEERS[:2])

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is run: `full`, `quick`, or less for a test.

    shapes        the operations, as `ops.shapes` gives them
    parts         of PARTS
    peers         names of those to time
    input_bytes   of each case; the output takes as much again
    file_bytes    sizes of the source files: the first is timed against cp, the others once, for the memory they take
    """

    shapes: Sequence[Shape] = tuple(shapes([]))
    parts: tuple[str, ...] = PARTS
    peers: tuple[str, ...] = tuple(peer.name for peer in PEERS)
    input_bytes: int = 300_000_000
    rounds: int = 7
    threads: int = 1
    small_rows: tuple[int, ...] = small.ROWS
    file_bytes: tuple[int, ...] = (1_200_000_000, 6_000_000_000)
    files_in: str | None = None


def settings(wanted: Sequence[str], quick: bool, threads: int, files_in: str | None) -> Settings:
    """wanted: parts and names of `ops.shapes`, everything if there are none. quick: fewer rounds and peers, small files."""
    names = [name for name in wanted if name not in PARTS]
    return Settings(
        shapes=tuple(shapes(names)) if names or not wanted else (),
        parts=tuple(part for part in PARTS if part in wanted or not wanted),
        # A virtual machine may report the last-level cache of the whole host, of which it has a share.
        input_bytes=min(400_000_000, max(256_000_000, 8 * last_level_cache())),
        threads=threads,
        files_in=files_in,
        **({"peers": STRONGEST, "rounds": 3, "file_bytes": (300_000_000,)} if quick else {}),
    )


def run(settings: Settings, say: Say) -> dict[str, Any]:
    """Run it, a line to `say` for each figure as it comes, and return what is written as JSON."""
    isa = os.environ.get("FASTREALIGN_ISA") or instruction_sets()[0]
    m = machine(PACKAGES, fastrealign=__version__, isa=isa, compiler=compiler(), clock_ghz=round(clock() / 1e9, 2))
    m["malloc_keeps_memory"] = keep_memory()
    results: dict[str, Any] = {"kind": "cpu", "machine": m, "settings": asdict(replace(settings, shapes=()))}
    others = Others()
    say(
        f"{m['cpu']}, {m['isa']}, {settings.threads} of {m['cores']} cores at {m['clock_ghz']:.1f} GHz, "
        f"load {m['load_before']:.1f}"
    )
    if settings.shapes:
        memory = Memory(settings.input_bytes // 64 * 64)
        ceilings = Ceilings(memory.source, memory.out, settings.threads)
        results["ceilings"] = {"chosen": ceilings.chosen, "tried_gbs": ceilings.tried}
        for kind, name in ceilings.chosen.items():
            say(f"memory ceiling, {kind}: {ceilings.tried[kind][name]:.1f} GB/s ({name})")
        results["cases"] = []
        for op, d, dtype in settings.shapes:
            problem = memory.problem(op, d, dtype, settings.threads)
            everyone = op.compared and (d, dtype) == settings.shapes[0][1:]
            peers = [
                peer
                for peer in PEERS
                if peer.name in settings.peers and (everyone or peer.name in STRONGEST[: 1 + op.compared])
            ]
            results["cases"].append(measure(problem, ceilings, peers, settings.rounds, say))
        del memory, problem
        gc.collect()
        release_memory()
    if "small" in settings.parts:
        results["small"] = small.run(settings.small_rows, settings.threads, settings.rounds, say)
    if "files" in settings.parts:
        results["files"] = files.run(settings.file_bytes, settings.threads, settings.rounds, settings.files_in, say)
    m["load_after"] = os.getloadavg()[0]
    m["others_cores"] = others.cores()
    if (m["others_cores"] or 0.0) > BUSY:
        say(
            f"the machine was busy, others took {m['others_cores']:.2f} processors: do not keep these figures; peers "
            "whose threads wait for each other (torch) suffer most, which flatters us"
        )
    return results


def measure(problem: Problem, ceilings: Ceilings, peers: Sequence[Peer], times: int, say: Say) -> dict[str, Any]:
    """One case: GB/s, the ratio to its ceiling and to each peer, cycles a line in cache."""
    case = problem.case
    work = ours(problem)
    error = problem.error(work())
    if not error <= 1.0:
        raise CannotBenchmark(f"{case}: our own result is off by {error:.1f} times what is allowed; not worth timing")
    rounds = Rounds()
    rounds.add("ours", stopwatch(work), case.bytes)
    rounds.add("ceiling", stopwatch(lambda: ceilings.run(problem.x, problem.out)), case.bytes)
    left_out: dict[str, str] = {}
    rows: dict[str, int] = {}
    for peer in peers:
        try:
            theirs, smaller = prepare(peer, problem)
        except NotComparable as reason:
            left_out[peer.name] = str(reason)
            continue
        rounds.add(peer.name, stopwatch(theirs), smaller.case.bytes)
        rows[peer.name] = smaller.case.rows
    rounds.go(schedule("ours", ["ceiling"], list(rows), repeats=3), times)
    timed = {
        name: plain({"rows": n, "gbs": rounds.gbs(name), "ours_is": rounds.ratio("ours", name)})
        for name, n in rows.items()
    }
    found: dict[str, Spread] = {
        "seconds": rounds.seconds("ours"),
        "gbs": rounds.gbs("ours"),
        "ceiling_gbs": rounds.gbs("ceiling"),
        "of_ceiling": rounds.ratio("ours", "ceiling"),
        "cycles_a_line": cycles_a_line(problem),
    }
    compared = "".join(f", {peer['ours_is']['median']:.2f} x {name}" for name, peer in timed.items())
    say(
        f"{case} {found['gbs'].text(1)} GB/s = {found['of_ceiling'].text()} of the ceiling, "
        f"{found['cycles_a_line'].text(1)} cycles a line in cache{compared}"
    )
    for name, reason in left_out.items():
        say(f"  {name} left out: {reason}")
    return {
        "op": case.op,
        "variant": case.variant,
        "d": case.d,
        "dtype": SHORT[case.dtype],
        "rows": case.rows,
        "bytes": case.bytes,
        **plain(found),
        "peers": timed,
        "left_out": left_out,
    }
