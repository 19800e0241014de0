"""What all benchmarks share: the bytes that a case moves, spreads, ratios of consecutive runs, the machine.

A rate is the bytes that the operation must move (each row read once, and written once if it is stored) over the seconds
it took, for us and for the peers alike, however often a peer goes over its temporaries. A ratio is taken between
consecutive runs, since clocks drift and the load of other tenants changes; median and spread are over all such pairs.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

WIDTHS = (768, 1024)
DTYPES = ("float32", "float16", "bfloat16")
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}
ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}

# OpenMP's threads spin for some milliseconds after their work, and slow down the next run.
SECONDS_TO_SETTLE = 5e-3

# Cores used by others above which figures are not to be kept.
BUSY = 0.1

# Does something once and returns the seconds it took. A GPU is timed by its events, so the clock belongs to the run.
Run = Callable[[], float]


class CannotBenchmark(Exception):
    """Something that the benchmark requires is missing or wrong; the message is one line."""


@dataclass(frozen=True)
class Case:
    """One operation on one shape. dtype_out is None for `reduce`, which stores nothing."""

    op: str
    variant: str
    d: int
    rows: int
    dtype: str
    dtype_out: str | None = None

    @property
    def bytes(self) -> int:
        """Bytes read and written; b, c and the sums stay in the cache and are not counted."""
        written = ITEMSIZE[self.dtype_out] if self.dtype_out else 0
        return self.rows * self.d * (ITEMSIZE[self.dtype] + written)

    def __str__(self) -> str:
        return f"{self.op:<6} {self.variant:<9} d={self.d:<5} {SHORT[self.dtype]}"


@dataclass(frozen=True)
class Spread:
    """Median, tenth and ninetieth percentile of n values."""

    median: float
    p10: float
    p90: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; percentiles are interpolated, so of few values they are close to the extremes."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), tenths[0], tenths[-1], len(values))

    def text(self, digits: int = 2) -> str:
        return f"{self.median:.{digits}f} ({self.p10:.{digits}f}-{self.p90:.{digits}f})"


def stopwatch(work: Callable[[], object]) -> Run:
    """Times `work` by the wall clock, for work that is done when it returns."""

    def run() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def command(words: Sequence[str], shown: str) -> None:
    """Run a program; raises CannotBenchmark, naming it as `shown`, unless it exits with 0."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise CannotBenchmark(f"{shown}: exit {done.returncode}: {complaint}")


def keep_memory() -> bool:
    """Have malloc keep what is freed, for the peers' sake; returns whether it does (glibc only).

    By default large temporaries go back to the system and are faulted in again, zeroed, on the next call: measured at
    9,000 faults and more than twice the time for torch eager on 4,096 rows, none of which is its arithmetic.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    trim_threshold, mmap_max = -1, -4  # malloc.h
    return bool(mallopt(mmap_max, 0) and mallopt(trim_threshold, 2**31 - 1))


def release_memory() -> None:
    """Give back what `keep_memory` kept."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


class Others:
    """The cores that other processes used while we ran.

    Load averages lag, and one busy core is enough to slow threads that wait for each other (OpenMP's) many times over:
    torch eager in blocks came out at 180 and 500 times our time beside a compiler, on two cores.
    """

    def __init__(self) -> None:
        self._before = self._read()

    def cores(self) -> float | None:
        """Cores that others used or the hypervisor withheld, on average since the start; None if unknown."""
        if self._before is None or (now := self._read()) is None:
            return None
        wall, busy, ours = (b - a for a, b in zip(self._before, now, strict=True))
        return max(0.0, (busy - ours) / wall)

    @staticmethod
    def _read() -> tuple[float, float, float] | None:
        try:
            ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        except OSError:
            return None
        user, nice, system, _idle, _waiting, irq, softirq, steal = ticks
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        times = os.times()
        return time.perf_counter(), busy, times.user + times.system + times.children_user + times.children_system


class Rounds:
    """Runs contestants in turn, in one process, and keeps what each took in the order it happened."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._bytes: dict[str, int] = {}
        self._log: list[tuple[str, float]] = []

    def add(self, name: str, run: Run, nbytes: int) -> None:
        """A contestant; nbytes are those that one run of it accounts for."""
        self._runs[name] = run
        self._bytes[name] = nbytes

    def go(self, order: Sequence[str], rounds: int) -> None:
        """Run the names in `order` one after the other, `rounds` times."""
        for _ in range(rounds):
            for name in order:
                time.sleep(SECONDS_TO_SETTLE)
                self._log.append((name, self._runs[name]()))

    def forget(self) -> None:
        """Discard the runs so far, as warm-up."""
        self._log.clear()

    def seconds(self, name: str) -> Spread:
        return Spread.of([seconds for who, seconds in self._log if who == name])

    def gbs(self, name: str) -> Spread:
        """GB/s, 1e9 bytes: those of `seconds`, so that the two agree also where a quantile lies between two runs."""
        of, gigabytes = self.seconds(name), self._bytes[name] / 1e9
        return Spread(gigabytes / of.median, gigabytes / of.p90, gigabytes / of.p10, of.n)

    def ratio(self, a: str, b: str) -> Spread:
        """Rate of `a` over rate of `b`, from every pair of runs in which one directly followed the other."""
        ratios = []
        for first, second in zip(self._log, self._log[1:], strict=False):
            if {first[0], second[0]} == {a, b}:
                of_a, of_b = (first, second) if first[0] == a else (second, first)
                ratios.append(self._rate(of_a) / self._rate(of_b))
        return Spread.of(ratios)

    def _rate(self, run: tuple[str, float]) -> float:
        return self._bytes[run[0]] / run[1]


def schedule(ours: str, ceilings: Sequence[str], peers: Sequence[str], repeats: int = 4) -> list[str]:
    """One round: every peer once and every ceiling `repeats` times, spread out, each between two runs of ours."""
    turns = max(repeats, len(peers))
    others = [name for i in range(turns) for name in (*ceilings[: len(ceilings) * (i < repeats)], *peers[i : i + 1])]
    return [name for other in others for name in (other, ours)]


def publish(results: dict[str, Any], out: Path | None) -> None:
    """Print the results as the last line, JSON, and write them to `out` if it is given."""
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


def plain(spreads: dict[str, Any]) -> dict[str, Any]:
    """Spreads as JSON objects, numbers to six digits."""
    return {
        key: {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in asdict(value).items()}
        if isinstance(value, Spread)
        else value
        for key, value in spreads.items()
    }


def spread(value: dict[str, Any]) -> Spread:
    """A Spread back from its JSON object."""
    return Spread(**value)


def last_level_cache() -> int:
    """Bytes of the largest cache of the first processor; 32 MiB where the system does not say."""
    return max(_caches().values(), default=32 << 20)


def second_level_cache() -> int:
    """Bytes of the first processor's second-level cache; 512 KiB where the system does not say."""
    return _caches().get(2, 512 << 10)


def _caches() -> dict[int, int]:
    """level -> bytes"""
    sizes = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        text = (folder / "size").read_text().strip()
        sizes[int((folder / "level").read_text())] = int(text[:-1]) << {"K": 10, "M": 20, "G": 30}[text[-1]]
    return sizes


def machine(packages: Sequence[str], **more: Any) -> dict[str, Any]:
    """What the figures depend on: processor, memory, system, versions of `packages` (None where absent), and `more`."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "last_level_cache": last_level_cache(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "load_before": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
        **more,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    found: dict[str, str] = {}
    for line in lines:
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    name = found.get("model name", platform.processor() or "unknown")
    # Virtual machines hide the name; family and model still identify the generation.
    return f"{name} (family {found['cpu family']}, model {found['model']})" if "cpu family" in found else name


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
