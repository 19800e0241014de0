"""What `python -m bench.paper --all --work DIR` runs: every figure of docs/paper*, by its own command, one by one.

Models, embeddings and the real world are made in DIR and kept there. A step that ended well leaves DIR/done/NAME.json with its
seconds, by the clock and of CPU time, and is not repeated; remove the file to repeat it. Steps resume by themselves where their
own commands do.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.paper.common import ROOT, Say
from fastrealign.storage.atomic import save_bytes

SCALES = ("10", "20", "40", "60", "100")
TEXT = "bench/results/paper/{}.txt"


@dataclass(frozen=True)
class Step:
    """A command `python -m bench.paper.MODULE ARGUMENTS`.

    arguments   with {work} and {into} in place of the folders
    printed     whether its output is the result: it is kept in bench/results/paper/NAME.txt, in the folder of the results
    """

    name: str
    arguments: tuple[str, ...] = ()
    printed: bool = False

    def command(self, work: Path, into: Path) -> list[str]:
        given = [argument.format(work=work, into=into) for argument in self.arguments]
        return [sys.executable, "-m", f"bench.paper.{self.name}", *given]


# What a step takes where it was timed: hours by the clock on two cores; minutes of CPU time on one thread.
HOURS = {"real": 0.1, "encoders": 0.9, "figure1": 1.5, "revision": 3.8}
CPU_MINUTES = {
    "gap": 0.04,
    "spectra": 0.2,
    "mixing": 1.2,
    "sample_size": 0.7,
    "exact_sums": 0.2,
    "domains": 0.9,
    "blockwise": 0.5,
    "long_captions": 0.7,
    "orderings": 1.1,
    "moments": 0.03,
    "noise": 3.8,
    "uses": 7.0,
    "caption_length": 1.5,
    "head_questions": 6.4,
    "recalibration": 0.6,
    "membership": 0.2,
    "roles": 1.0,
    "scores": 13.1,
    "change_encoder": 2.1,
    "held_scale": 25.0,
    "one_stage": 2.7,
}
_INTO = ("--into", "{into}")
_REAL = ("--real", "{work}/real")
_ENCODERS = ("--encoders", "{work}/encoders")

STEPS = (
    Step("real", ("--out", "{work}/real", "--scales", *SCALES)),
    Step("encoders", ("--out", "{work}/encoders")),
    Step(
        "figure1",
        ("--out", "{into}/bench/results/figure1.json", "--docs", "{into}/docs/paper", "--runs", "{work}/figure1"),
    ),
    *(Step(name, _INTO) for name in ("gap", "spectra", "mixing")),
    *(Step(name, (*_REAL, *_INTO)) for name in ("sample_size", "exact_sums")),
    Step("domains", (*_ENCODERS, *_INTO)),
    Step("blockwise", _INTO),
    Step("long_captions", (*_ENCODERS, *_INTO)),
    Step("orderings", (*_ENCODERS, *_REAL, *_INTO)),
    Step("moments", _INTO),
    *(
        Step(name, (*_REAL, *_INTO))
        for name in ("noise", "uses", "caption_length", "head_questions", "recalibration", "membership")
    ),
    Step("roles", (*_REAL, "--out", "{into}/bench/results/paper/roles.json")),
    *(Step(name, _REAL, printed=True) for name in ("scores", "change_encoder")),
    Step("captioning", ("--work", "{work}/captioning", *_INTO)),
    Step("held_scale", (*_ENCODERS, *_INTO)),
    Step("real_revision", ("--heads", "{work}/real", "--work", "{work}/titles", *_INTO)),
    Step("one_stage", (*_REAL, *_INTO)),
    Step("revision", ("--worlds", "{work}/worlds", *_INTO)),
)


def takes(name: str) -> str:
    if name in HOURS:
        return f"{HOURS[name]:g} hours on two cores"
    unit = "minute" if CPU_MINUTES.get(name) == 1 else "minutes"
    return f"{CPU_MINUTES[name]:g} {unit} of CPU time" if name in CPU_MINUTES else "not timed"


Run = Callable[[Sequence[str], Path | None], int]


def run_all(work: Path, into: Path, only: Sequence[str], say: Say, run: Run | None = None) -> int:
    """Run the steps (of these names; none: all) that are not done; the return code of the first that fails, else 0."""
    run = run or _run
    steps = [step for step in STEPS if not only or step.name in only]
    say(f"{len(steps)} steps, folder {work}:")
    for step in steps:
        say(f"  {step.name:<14} {_state(step, work)}")
    for step in steps:
        if _done(step, work).exists():
            continue
        say(f"{step.name}: {' '.join(step.command(work, into)[1:])}")
        start, used = time.perf_counter(), _cpu_seconds()
        code = run(step.command(work, into), into / TEXT.format(step.name) if step.printed else None)
        if code:
            say(f"{step.name} ended with {code}; the same command resumes with this step")
            return code
        done = {"seconds": round(time.perf_counter() - start, 1), "CPU seconds": round(_cpu_seconds() - used, 1)}
        _done(step, work).parent.mkdir(parents=True, exist_ok=True)
        save_bytes(_done(step, work), (json.dumps(done) + "\n").encode())
    return 0


def _done(step: Step, work: Path) -> Path:
    return work / "done" / f"{step.name}.json"


def _state(step: Step, work: Path) -> str:
    path = _done(step, work)
    if not path.exists():
        return takes(step.name)
    took = json.loads(path.read_text())
    used = (
        f"{took['CPU seconds']:.0f} s of CPU time, " if "CPU seconds" in took else ""
    )  # earlier runs did not keep them
    return f"done, took {used}{took['seconds']:.0f} s by the clock"


def _cpu_seconds() -> float:
    """Of the steps that have ended."""
    of = resource.getrusage(resource.RUSAGE_CHILDREN)
    return of.ru_utime + of.ru_stime


def _run(command: Sequence[str], output: Path | None) -> int:
    """Run it in the project's folder; output: where its standard output goes, written when it ended well."""
    if output is None:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    ended = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE)
    if ended.returncode == 0:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_bytes(output, ended.stdout)
    return ended.returncode
