"""python -m bench.gpu_issue [--out FILE]: how busy the issue slots of the GPU kernels are, by ncu, beside the prediction.

The model of bench.gpu_budget says that issue slots limit some kernels: this is the measurement that it can be refuted by.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench import gpu_budget
from bench.common import CannotBenchmark

# What Nsight Compute shows as "Issue Slots Busy".
METRIC = "sm__inst_issued.avg.pct_of_peak_sustained_active"
KERNELS = "regex:(apply_rows|reduce_rows|apply_kernel|reduce_kernel)"
OPS = {"apply": ("apply", "plain"), "apply with sums": ("apply", "with sums")}
OPS |= {"reduce moments": ("reduce", "moments"), "reduce b and c": ("reduce", "gap left")}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
CASES = [(op, dtype, d) for d in (768, 1024) for dtype in ("bf16", "fp32") for op in OPS]
ROWS = 1 << 16


def launch_all(backend: str) -> None:
    """Each kernel once, in the order of CASES: what ncu looks at."""
    from bench.common import Case
    from bench.gpu import Problem, ours

    for op, dtype, d in CASES:
        kind, variant = OPS[op]
        out = DTYPES[dtype] if kind == "apply" else None
        ours(Problem(Case(kind, variant, d, ROWS, DTYPES[dtype], out), "cuda", 0), backend)()


def values(report: Iterable[str]) -> Iterator[float]:
    """The metric of each launch in ncu's CSV, in the order of launches."""
    lines = [line for line in report if line.startswith('"')]
    for row in csv.DictReader(lines):
        if row["Metric Name"] == METRIC:
            yield float(row["Metric Value"].replace(",", "")) / 100


def measured(backend: str) -> dict[tuple[str, str, int], float]:
    ncu = shutil.which("ncu")
    if ncu is None:
        raise CannotBenchmark("ncu is not installed")
    with TemporaryDirectory() as folder:
        log = Path(folder, "ncu.csv")
        command = [ncu, "--csv", "--log-file", str(log), "--metrics", METRIC, "--kernel-name", KERNELS]
        command += ["--clock-control", "none"]  # as in the benchmark
        command += [sys.executable, "-m", "bench.gpu_issue", "--launch", backend]
        done = subprocess.run(command, capture_output=True, text=True)
        report = log.read_text() if log.exists() else ""
    found = list(values(report.splitlines()))
    if done.returncode or len(found) != len(CASES):
        errors = [line for line in (report + done.stderr).splitlines() if "ERR" in line.upper()]
        raise CannotBenchmark(errors[0] if errors else f"ncu saw {len(found)} of {len(CASES)} kernels")
    return dict(zip(CASES, found, strict=True))


def beside_predicted(found: dict[tuple[str, str, int], float], backend: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A line and its figures for each kernel: the share of issue slots in use, measured and predicted."""
    import torch

    machine, architecture = gpu_budget.machine_of(torch.cuda.get_device_name(), backend)
    counts = gpu_budget.load()[1]
    for (op, dtype, d), busy in found.items():
        one = counts.get(gpu_budget.key(backend, architecture, op, dtype, d)) if machine else None
        expected = gpu_budget.issue_slots(one, op, dtype, d, machine) if one and machine else None
        shown = "not predicted" if expected is None else f"predicted {expected[0]:.2f}-{expected[1]:.2f}"
        yield (
            f"issue slots  {backend} {op} {dtype} {d}: {busy:.2f} busy, {shown}",
            {"busy": busy, "predicted": expected},
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_issue", description="Issue slots in use, by ncu.")
    parser.add_argument("--backend", choices=("cuda", "triton"), default="cuda")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures there, as JSON")
    parser.add_argument("--launch", metavar="BACKEND", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.launch:
        launch_all(given.launch)
        return 0
    try:
        found = measured(given.backend)
    except CannotBenchmark as error:
        print(f"issue slots: left out: {error}")
        return 0
    lines = dict(beside_predicted(found, given.backend))
    print(*lines, sep="\n")
    if given.out:
        given.out.write_text(json.dumps(lines, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
