"""python -m bench.kills [--kills 200] [--seed N] [--in DIR]: runs that are killed repeatedly lose nothing.

A corpus in every format is aligned as a user would align it: once undisturbed, then repeatedly by runs that get SIGKILL at
random moments (at any time; during the fit; once some shard exists; once all do), each of which resumes the one before. After
every kill, each file with a final name must be complete. At the end all bytes must be those of the undisturbed run (shards,
metadata, statistics and manifest), with no other files. Prints a line for each run; exits with 1 on any difference.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.common import CannotBenchmark, command
from bench.kills_corpus import corpus
from fastrealign.formats.manifest import JOURNAL, MANIFEST
from fastrealign.jobs.journal import Journal
from fastrealign.jobs.layout import ALIGNMENT

# Most seconds from the awaited moment to the kill.
SOON = 0.15
# After so many kills a run is left alone, so that it ends.
MOST_KILLS = 12
SECONDS_UNTIL_STUCK = 300.0
MOMENTS = ("any time", "journal", "some shard", "some shard", "all shards")

Say = Callable[[str], None]


@dataclass
class Case:
    """One command over a part of the corpus, and its output when it is not disturbed.

    words    of the command, without --out
    file     name of the output where it is one file; "" for a folder
    whole    every file of the undisturbed output by its name; seconds: how long it took
    """

    name: str
    words: list[str]
    file: str = ""
    whole: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def journal(self) -> str:
        return f".{self.file}{JOURNAL}" if self.file else JOURNAL

    @property
    def manifest(self) -> str:
        return f"{self.file}.{MANIFEST}" if self.file else MANIFEST

    @property
    def alignment(self) -> str:
        return f"{self.file}.{ALIGNMENT}" if self.file else ALIGNMENT

    @property
    def shards(self) -> list[str]:
        """Files that must be complete whenever they exist (the alignment receives the gap left at the end)."""
        return [name for name in self.whole if name not in (self.alignment, self.manifest)]

    def command(self, folder: Path) -> list[str]:
        return [sys.executable, "-m", "fastrealign", *self.words, "--out", str(folder / self.file)]


@dataclass
class Outcome:
    """The outcome of one run: how far it was at each kill, and what was wrong, if anything."""

    kills: list[str] = field(default_factory=list)
    wrong: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.kills", description="Kill runs at random, compare all bytes."
    )
    parser.add_argument("--kills", type=int, default=200, help="how many in all, at least (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus and of the moments (default: 0)")
    parser.add_argument("--in", dest="where", metavar="DIR", help="folder to work in (default: the temporary folder)")
    given = parser.parse_args(arguments)
    # After a failure the folder is kept for inspection.
    folder = Path(tempfile.mkdtemp(prefix="fastrealign-kills-", dir=given.where))
    try:
        cases = undisturbed([Case(*case) for case in corpus(folder / "in", given.seed)], folder)
        wrong = run(cases, folder, given.kills, given.seed, lambda line: print(line, flush=True))
    except CannotBenchmark as error:
        print(f"kills: {error}", file=sys.stderr)
        return 1
    if wrong:
        print(f"kills: what was written is in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def undisturbed(cases: list[Case], folder: Path) -> list[Case]:
    """The cases with the output of their undisturbed commands, and the time these take."""
    for i, case in enumerate(cases):
        out = folder / f"whole{i}"
        started = time.perf_counter()
        command(case.command(out), f"fastrealign {' '.join(case.words)}")
        case.seconds = time.perf_counter() - started
        case.whole = tree(out)
    return cases


def run(cases: list[Case], folder: Path, kills: int, seed: int, say: Say) -> list[str]:
    """Kill at least that often, over all cases in turn; returns a line for each run that went wrong."""
    rng = random.Random(seed)
    met: Counter[str] = Counter()
    wrong: list[str] = []
    runs = 0
    started = time.perf_counter()
    while sum(met.values()) < kills:
        case, out = cases[runs % len(cases)], folder / f"run{runs}"
        runs += 1
        outcome = until_complete(case, out, rng)
        met.update(outcome.kills)
        line = f"run {runs}, {case.name}: killed {', '.join(outcome.kills) or 'never'}; {outcome.wrong or 'the same bytes'}"
        say(line)
        if outcome.wrong:
            wrong.append(line)
        else:
            shutil.rmtree(out)
    moments = ", ".join(f"{count} {moment}" for moment, count in sorted(met.items()))
    say(
        f"{sum(met.values())} kills ({moments}) in {runs} runs of {len(cases)} cases, {time.perf_counter() - started:.0f} s"
    )
    say(f"{len(wrong)} runs went wrong" if wrong else "every run ended in the bytes of one that was not killed")
    return wrong


def until_complete(case: Case, out: Path, rng: random.Random) -> Outcome:
    """Start, kill and check a run until it is complete; then run it once more, which must find nothing to do."""
    outcome = Outcome()
    out.mkdir()  # a single file needs its folder, and --resume takes an empty one for a run that begins
    words = [*case.command(out), "--resume"]
    while outcome.wrong is None:
        complete = (out / case.manifest).exists()
        left = Left.of(case, out)
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if len(outcome.kills) < MOST_KILLS and not complete:
            wait(left, case, out, process, rng)
            process.kill()
        try:
            printed = process.communicate(timeout=SECONDS_UNTIL_STUCK)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            outcome.wrong = f"it still ran after {SECONDS_UNTIL_STUCK:.0f} s"
            break
        if process.returncode == 0:
            outcome.wrong = difference(case.whole, tree(out))
            break
        if process.returncode > 0:
            outcome.wrong = f"exit {process.returncode}: {printed.strip().splitlines()[-1]}"
            break
        outcome.kills.append(moment(left, case, out))
        outcome.wrong = half_written(case, out)
    if outcome.wrong is None:
        again = subprocess.run(words, capture_output=True, text=True)
        if again.returncode or not again.stdout.startswith("nothing to do"):
            outcome.wrong = f"a complete run had something to do: {(again.stdout + again.stderr).strip()[:300]}"
    return outcome


class Left:
    """The shards that a run has to write, and whether it has: shards that the journal lacks are written again."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._before = [_file(path) for path in paths]

    @classmethod
    def of(cls, case: Case, out: Path) -> Left:
        journal = out / case.journal
        shards = Journal.peek(journal).shards if journal.exists() else []
        noted = {name for shard in shards for name in (shard.name, shard.metadata)}
        return cls([out / name for name in case.shards if name not in noted])

    def written(self) -> list[bool]:
        return [_file(path) != before for path, before in zip(self.paths, self._before, strict=True)]


def wait(left: Left, case: Case, out: Path, process: subprocess.Popen, rng: random.Random) -> None:
    """Wait until a random time, or until soon after a file exists, or until the run ends."""
    at = rng.randrange(len(left.paths)) if left.paths else 0
    arrived = {
        "any time": lambda: True,
        "journal": (out / case.journal).exists,
        "some shard": lambda: left.paths and left.written()[at],
        "all shards": lambda: all(left.written()),
    }
    moment = rng.choice(MOMENTS)
    seconds = rng.uniform(0.0, case.seconds) if moment == "any time" else SOON * rng.random() ** 2
    while process.poll() is None and not arrived[moment]():
        time.sleep(0.0005)
    until = time.perf_counter() + seconds
    while process.poll() is None and time.perf_counter() < until:
        time.sleep(0.0005)


def moment(left: Left, case: Case, out: Path) -> str:
    """How far a run was, judged by the files it left."""
    if (out / case.manifest).exists():
        return "after the manifest"
    if not (out / case.journal).exists():
        return "before it began"
    written = left.written()
    if all(written):
        return "after the last shard"
    return "while writing" if any(written) else "before a shard"


def half_written(case: Case, out: Path) -> str | None:
    """A file with a final name that is not complete, or that does not belong there."""
    there = tree(out)
    small = {case.journal, case.alignment}
    for name, data in there.items():
        if name in case.whole and name not in small and data != case.whole[name]:
            return f"after a kill {name} is there with other bytes"
        if name not in case.whole and name not in small and not Path(name).name.endswith(".tmp"):
            return f"after a kill there is a file {name}"
    if case.manifest in there and any(name not in there for name in case.whole):
        return "after a kill the manifest is there and a shard is not"
    return None


def difference(expected: dict[str, bytes], there: dict[str, bytes]) -> str | None:
    """The first file that is missing, too many or different."""
    for name in sorted(expected.keys() | there.keys()):
        if name not in there:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is left over"
        if there[name] != expected[name]:
            return f"{name} has other bytes"
    return None


def _file(path: Path) -> tuple[int, int] | None:
    """Identifies a file: a shard that is written again is another file."""
    if not path.exists():
        return None
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(main())
