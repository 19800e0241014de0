"""python -m bench.gpu [--quick] [--device cuda] [--out FILE]: the GPU kernels against a device copy and their peers.

Several pairs of buffers, together many times the last-level cache, are used in turn, so that nothing is read from it. A
time is that of several calls back to back between two CUDA events; the same calls replayed from a CUDA graph check it.
Ratios are between runs that followed one another. Beside each is what bench.gpu_budget predicts. Prints a line a figure;
the last line is all of it as JSON.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import gpu_budget
from bench.common import SHORT, Case, Rounds, Spread, machine, plain, publish, schedule, stopwatch
from bench.gpu_issue import OPS
from bench.gpu_peers import PEERS
from bench.gpu_timing import CALLS, ceilings, graphed, timed
from bench.peers import NotComparable
from fastrealign.core import device_ops, ops, reference, torch_ops
from fastrealign.core.backend import choose
from fastrealign.core.errors import InputError
from fastrealign.core.row_map import UNIT, RowMap

WIDTHS = (512, 768, 1024, 1280, 2048, 4096)
TYPES = (("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16"), ("bfloat16", "float16"))
SMALL_ROWS = (1, 16, 128, 1024, 4096)
BUFFERS = 3
CHECKED_ROWS = 512
GRAPH = "the same in a CUDA graph"
PACKAGES = ("torch", "triton", "cupy-cuda13x", "numpy")
# On entries of some 0.03: what float32 arithmetic explains, and half a unit of the output type.
ERROR = {"float32": 3e-7, "float16": 2.0**-11, "bfloat16": 2.0**-8}

Say = Callable[[str], None]


class Problem:
    """Rows in BUFFERS pairs of buffers, a row map, and in float64 the first mapped rows, or of all of them the mean."""

    def __init__(self, case: Case, device: str, nbytes: int) -> None:
        rng = np.random.default_rng(case.d)
        self.case = case
        d = case.d
        kind = getattr(torch, case.dtype)
        self.x = [torch.empty(case.rows, d, device=device, dtype=kind) for _ in range(BUFFERS)]
        for x in self.x:
            x.normal_().add_(0.3)
        out = getattr(torch, case.dtype_out or case.dtype)
        self.out = (
            [torch.empty(case.rows, d, device=device, dtype=out) for _ in range(BUFFERS)] if case.dtype_out else None
        )
        b, c = rng.standard_normal((2, d)) * 0.4 / np.sqrt(d)
        moments = case.variant == "moments"
        self.map = UNIT if moments else RowMap(1.1, b, c)
        self.packed, self.terms = torch_ops.pack(self.map, d, device)
        checked = self.x[0] if case.dtype_out is None else self.x[0][:CHECKED_ROWS]
        parts = checked.split(1 << 15)
        mapped = [reference.row_map(p.double().cpu().numpy(), self.map.s, self.map.b, self.map.c) for p in parts]
        self.exact = np.concatenate([m.sum(0, keepdims=True) for m in mapped]).sum(0) / case.rows
        if case.dtype_out is not None:
            self.exact = np.concatenate(mapped)

    def check(self, result: torch.Tensor) -> None:
        """NotComparable if the first rows of `result`, or the mean, are wrong."""
        found = result.double().cpu().numpy()
        if self.case.dtype_out is None:
            error, allowed = np.abs(found - self.exact).max(), 1e-5
        else:
            allowed = 3e-7 + ERROR[self.case.dtype_out] * np.abs(self.exact).max() * (self.case.dtype_out != "float32")
            error = np.abs(found[:CHECKED_ROWS] - self.exact).max()
        if not error <= allowed:
            raise NotComparable(f"its result is off by {error:.1e}, {allowed:.1e} is allowed")


def ours(problem: Problem, backend: str) -> Callable[[], torch.Tensor]:
    """The kernel on the next buffers; without checks, waiting or counting, as a training loop calls it."""
    turn = cycle(range(BUFFERS))
    d, device = problem.case.d, problem.packed.device
    low = torch.zeros(d, dtype=torch.int64, device=device)
    sums, found = (low, torch.zeros_like(low)), torch.zeros(2, dtype=torch.int64, device=device)
    with_sums = sums if problem.case.variant == "with sums" else None

    def work() -> torch.Tensor:
        i = next(turn)
        if problem.out is None:
            device_ops.reduce_into(problem.x[i], problem.packed, problem.terms, sums, found, None, backend)
            return low
        device_ops.apply_into(
            problem.x[i], problem.out[i], problem.packed, problem.terms, with_sums, found, None, backend
        )
        return problem.out[i]

    return work


def check_ours(problem: Problem, backend: str) -> None:
    x = problem.x[0]
    if problem.out is not None:
        problem.out[0].fill_(float("nan"))
        device_ops.apply_into(
            x,
            problem.out[0],
            problem.packed,
            problem.terms,
            None,
            torch.zeros_like(problem.packed[:2]).long(),
            None,
            backend,
        )
        problem.check(problem.out[0])
        return
    sums = ops.ExactSum(problem.case.d)
    device_ops.reduce_rows(x, problem.map, sums, backend=backend)
    problem.check(torch.from_numpy(sums.mean))


def one_case(case: Case, device: str, backends: list[str], peers: bool, rounds: int, say: Say) -> dict[str, Any]:
    problem = Problem(case, device, case.bytes)
    measured, left_out = Rounds(), {}
    calls = CALLS if device != "cpu" else 2
    yardsticks = ceilings(problem)
    for name, (work, moved) in yardsticks.items():
        measured.add(name, timed(device, work, calls), moved * calls)
    contestants: dict[str, Callable[[], object]] = {}
    for backend in backends:
        try:
            check_ours(problem, backend)
            contestants[backend] = ours(problem, backend)
        except (NotComparable, RuntimeError) as error:
            left_out[backend] = str(error).splitlines()[0]
    for name, prepare in PEERS.items() if peers else ():
        try:
            work = prepare(problem)
            problem.check(work(0))
            turn = cycle(range(BUFFERS))
            contestants[name] = lambda work=work, turn=turn: work(next(turn))
        except NotComparable as error:
            left_out[name] = str(error)
    for name, work in contestants.items():
        work()
        measured.add(name, timed(device, work, calls), case.bytes * calls)
    first = next((name for name in backends if name in contestants), None)
    if first is None:
        say(f"{case}  left out: {left_out}")
        return {"case": str(case), "left_out": left_out}
    if device != "cpu":
        try:
            contestants[GRAPH] = graphed(contestants[first], calls)
            measured.add(GRAPH, timed(device, contestants[GRAPH], 1), case.bytes * calls)
        except RuntimeError as error:
            left_out[GRAPH] = str(error).splitlines()[0]
    others = [name for name in contestants if name != first]
    measured.go(schedule(first, list(yardsticks), others), 3)  # clocks settle
    measured.forget()
    measured.go(schedule(first, list(yardsticks), others), rounds)
    # Of `reduce` the faster read.
    ceiling = max(
        (name for name in yardsticks if (name == "copy") == (case.op == "apply")), key=lambda n: measured.gbs(n).median
    )
    result = {
        "op": case.op,
        "variant": case.variant,
        "d": case.d,
        "rows": case.rows,
        "dtype": SHORT[case.dtype],
        "dtype_out": SHORT.get(case.dtype_out or ""),
        "bytes": case.bytes,
        "backend": first,
        "ceiling": ceiling,
        "ceilings_gbs": {name: measured.gbs(name) for name in yardsticks},
        "gbs": {name: measured.gbs(name) for name in contestants},
        "of_ceiling": measured.ratio(first, ceiling),
        "predicted": predicted(case, device, first),
        "over": {name: measured.ratio(first, name) for name in others},
        "left_out": left_out,
    }
    over = "  ".join(f"{name} {spread.text()}x" for name, spread in result["over"].items())
    speeds = ", ".join(f"{name} {gbs.text(0)}" for name, gbs in result["ceilings_gbs"].items())
    say(
        f"{case} {first} {result['gbs'][first].text(0)} GB/s, {result['of_ceiling'].text(3)} of the {ceiling.split(',')[0]}, "
        f"{result['predicted'] or 'not predicted'} ({speeds}); {over}"
    )
    return {key: plain(value) if isinstance(value, dict) else value for key, value in plain(result).items()}


def predicted(case: Case, device: str, backend: str) -> str | None:
    """The share of the ceiling that bench.gpu_budget predicts for this kernel on this device, if it does."""
    if device == "cpu":
        return None
    machine, architecture = gpu_budget.machine_of(torch.cuda.get_device_name(), backend)
    op = next(name for name, kind in OPS.items() if kind == (case.op, case.variant))
    name = gpu_budget.key(backend, architecture, op, SHORT[case.dtype], case.d)
    counts = gpu_budget.load()[1].get(name) if case.dtype_out in (None, case.dtype) else None
    if machine is None or counts is None:
        return None
    share = gpu_budget.predicted(counts, op, SHORT[case.dtype], case.d, machine)
    return f"predicted {share.low:.2f}-{share.high:.2f} ({share.limit})"


def small_batches(device: str, say: Say) -> list[dict[str, Any]]:
    """Microseconds a call, with the host's share: the operator eagerly and replayed from a graph, torch eager beside it."""
    results = []
    for rows in SMALL_ROWS:
        problem = Problem(Case("apply", "plain", 768, rows, "bfloat16", "bfloat16"), device, 0)
        x, eager = problem.x[0], PEERS["torch eager"](problem)
        calls = {
            "operator": lambda x=x, p=problem: torch.ops.fastrealign.apply(x, p.packed, p.terms),
            "torch eager": lambda w=eager: w(0),
        }
        if device != "cpu":
            calls["operator, CUDA graph"] = graphed(calls["operator"])
        entry = {"rows": rows, "us": {name: _call_us(device, call) for name, call in calls.items()}}
        say(
            f"small  {rows:>5} rows  "
            + "  ".join(f"{name} {spread.text(1)} us" for name, spread in entry["us"].items())
        )
        results.append({"rows": rows, "us": plain(entry["us"])})
    return results


def _call_us(device: str, call: Callable[[], object], calls: int = 50, rounds: int = 9) -> Spread:
    def many() -> None:
        for _ in range(calls):
            call()
        if device != "cpu":
            torch.cuda.synchronize()

    run = stopwatch(many)
    run()
    return Spread.of([run() / calls * 1e6 for _ in range(rounds)])


def backends_on(device: str) -> tuple[list[str], dict[str, str]]:
    """The backends that can run there, best first, and why the others cannot."""
    can, cannot = [], {}
    for name in ("cuda", "triton") if device != "cpu" else ("cpu",):
        try:
            can.append(choose(device, 0, name).name)
        except InputError as error:
            cannot[name] = str(error)
    return can, cannot


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description="GPU kernels against ceilings and peers.")
    parser.add_argument("--quick", action="store_true", help="widths 768 and 1280, fewer rounds")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial of this script")
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of each buffer of rows")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there too")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print("bench.gpu: no GPU that torch can use", file=sys.stderr)
        return 1
    say: Say = lambda line: print(line, flush=True)  # noqa: E731
    can, cannot = backends_on(given.device)
    for name, why in cannot.items():
        say(f"{name}: left out: {why}")
    cases = []
    for d in (768, 1280) if given.quick else WIDTHS:
        for dtype, out in TYPES:
            itemsize = torch.empty(0, dtype=getattr(torch, dtype)).element_size()
            rows = max(CHECKED_ROWS, given.bytes // (d * itemsize))
            shown = [("apply", "plain", out), ("apply", "with sums", out)]
            shown += [("reduce", "moments", None), ("reduce", "gap left", None)] if dtype == out else []
            for op, variant, dtype_out in shown:
                case = Case(op, variant, d, rows, dtype, dtype_out)
                peers = variant in ("plain", "moments")
                cases.append(one_case(case, given.device, can, peers, 3 if given.quick else 5, say))
                if given.device != "cpu":
                    torch.cuda.empty_cache()
    device = torch.cuda.get_device_name() if given.device == "cuda" else "CPU (a trial)"
    results = {
        "kind": "gpu",
        "machine": machine(PACKAGES, device=device, backends=can, left_out=cannot),
        "cases": cases,
        "small": small_batches(given.device, say),
    }
    publish(results, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
