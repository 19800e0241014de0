"""The CPU benchmark: all cases of apply and reduce against their ceilings and peers, small batches, files to files."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import product
from types import ModuleType
from typing import Any

from bench import apply, files, reduce, small
from bench.ceilings import Ceilings, compiler
from bench.common import (
    BUSY,
    DTYPES,
    SHORT,
    WIDTHS,
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
from bench.peers import PEERS, NotComparable, prepare
from bench.problem import Memory, Problem
from fastrealign import __version__
from fastrealign.core.cpu import instruction_sets

OPS = {op.OP: op for op in (apply, reduce)}
PARTS = (*OPS, "small", "files")
PACKAGES = ("numpy", "torch", "scikit-learn", "faiss-cpu")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is run: `full`, `quick`, or less for a test.

    parts         of PARTS
    peers         names of those to time
    input_bytes   of each case; the output takes as much again
    file_bytes    sizes of the source files: the first is timed against cp, the others once, for the memory they take
    """

    parts: tuple[str, ...] = PARTS
    widths: tuple[int, ...] = WIDTHS
    dtypes: tuple[str, ...] = DTYPES
    peers: tuple[str, ...] = tuple(peer.name for peer in PEERS)
    input_bytes: int = 300_000_000
    rounds: int = 9
    threads: int = 1
    small_rows: tuple[int, ...] = small.ROWS
    file_bytes: tuple[int, ...] = (1_200_000_000, 4_000_000_000)
    files_in: str | None = None


def full(threads: int) -> Settings:
    """Every width, type and peer. Memory several times the last-level cache, for the peers' quarter of it too."""
    return Settings(input_bytes=max(300_000_000, 8 * last_level_cache()), threads=threads)


def quick(threads: int) -> Settings:
    """Width 768 in every type, fewer rounds, less memory."""
    return Settings(
        widths=(768,),
        input_bytes=max(128_000_000, 4 * last_level_cache()),
        rounds=3,
        threads=threads,
        file_bytes=(300_000_000,),
    )


def run(settings: Settings, say: Say) -> dict[str, Any]:
    """Run it, a line to `say` for each figure as it comes, and return what is written as JSON."""
    isa = os.environ.get("FASTREALIGN_ISA") or instruction_sets()[0]
    results: dict[str, Any] = {
        "kind": "cpu",
        "machine": machine(PACKAGES, fastrealign=__version__, isa=isa, compiler=compiler()),
        "settings": asdict(settings),
    }
    m = results["machine"]
    m["malloc_keeps_memory"] = keep_memory()
    others = Others()
    say(f"{m['cpu']}, {settings.threads} of {m['cores']} cores, {m['isa']}, load {m['load_before']:.1f}")
    wanted = [OPS[name] for name in settings.parts if name in OPS]
    if wanted:
        memory = Memory(settings.input_bytes // 64 * 64)
        ceilings = Ceilings(memory.source, memory.out, settings.threads)
        for kind, name in ceilings.chosen.items():
            straight = next(iter(ceilings.tried[kind].values()))
            say(f"{kind} ceiling: {name}, {ceilings.tried[kind][name]:.1f} GB/s; a plain loop {straight:.1f}")
        results["ceilings"] = {"chosen": ceilings.chosen, "tried_gbs": ceilings.tried}
        results["cases"] = []
        shapes = [(d, dtype) for d in settings.widths for dtype in settings.dtypes]
        for op in wanted:
            for (d, dtype), (variant, terms) in product(shapes, op.VARIANTS.items()):
                problem = memory.problem(op.OP, variant, d, dtype, terms, settings.threads)
                results["cases"].append(measure(op, problem, ceilings, settings, say))
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


def measure(op: ModuleType, problem: Problem, ceilings: Ceilings, settings: Settings, say: Say) -> dict[str, Any]:
    """One case: GB/s, the ratio to its ceiling, and for the compared variants the ratio to each peer."""
    case = problem.case
    work = op.ours(problem)
    error = problem.error(work())
    if not error <= 1.0:
        raise CannotBenchmark(f"{case}: our own result is off by {error:.1f} times what is allowed; not worth timing")
    rounds = Rounds()
    rounds.add("ours", stopwatch(work), case.bytes)
    rounds.add("ceiling", stopwatch(op.ceiling(problem, ceilings, plain=False)), case.bytes)
    rounds.add("plain loop", stopwatch(op.ceiling(problem, ceilings, plain=True)), case.bytes)
    left_out: dict[str, str] = {}
    rows: dict[str, int] = {}
    for peer in PEERS if case.variant in op.COMPARED else ():
        if peer.name not in settings.peers:
            continue
        try:
            theirs, smaller = prepare(peer, problem)
        except NotComparable as reason:
            left_out[peer.name] = str(reason)
            continue
        rounds.add(peer.name, stopwatch(theirs), smaller.case.bytes)
        rows[peer.name] = smaller.case.rows
    rounds.go(schedule("ours", ["ceiling", "plain loop"], list(rows)), settings.rounds)
    peers = {
        name: plain({"rows": n, "gbs": rounds.gbs(name), "ours_is": rounds.ratio("ours", name)})
        for name, n in rows.items()
    }
    found: dict[str, Spread] = {
        "seconds": rounds.seconds("ours"),
        "gbs": rounds.gbs("ours"),
        "ceiling_gbs": rounds.gbs("ceiling"),
        "of_ceiling": rounds.ratio("ours", "ceiling"),
        "plain_loop_gbs": rounds.gbs("plain loop"),
        "of_plain_loop": rounds.ratio("ours", "plain loop"),
    }
    compared = "".join(f", {peer['ours_is']['median']:.3g} x {name}" for name, peer in peers.items())
    speed, share, of_plain = found["gbs"].text(1), found["of_ceiling"].text(), found["of_plain_loop"].text()
    say(
        f"{case} {case.bytes / 1e6:5.0f} MB {speed} GB/s = {share} of the fastest {op.CEILING}, "
        f"{of_plain} of a plain one{compared}"
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
        "peers": peers,
        "left_out": left_out,
    }
