"""Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere, and with --log-json one JSON object a line."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TextIO

from fastrealign.cli.console import log_record
from fastrealign.core.formatting import short, size
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import shown

_SECONDS_A_LINE = 10.0


def progress_of(args: argparse.Namespace) -> Progress:
    """Progress on stderr: none with --quiet, records with --log-json."""
    if args.quiet:
        return SILENT
    return Records(sys.stderr) if args.log_json else console()


def console(stream: TextIO | None = None) -> Progress:
    """The kind of progress that suits the stream, stderr by default."""
    stream = stream or sys.stderr
    return Bar(stream) if stream.isatty() else Lines(stream)


class _Pass(Progress):
    """Counts the rows and bytes of a pass."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.phase = ""

    def start(self, phase: str, rows: int | None, nbytes: int | None) -> None:
        self.phase, self.total = shown(phase), rows
        self.rows = self.nbytes = 0
        self.started = time.monotonic()

    def advance(self, rows: int, nbytes: int) -> None:
        self.rows += rows
        self.nbytes += nbytes

    def speed(self, seconds: float) -> str:
        rows = f"{short(self.rows / seconds)} rows/s"
        return f"{rows}, {size(self.nbytes / seconds)}/s" if self.nbytes else rows


class Lines(_Pass):
    """ "aligning: 42 %, 1.2 M rows/s, 3.51 GB/s, 17 s left", for logs; a pass of less than ten seconds prints nothing."""

    def start(self, phase: str, rows: int | None, nbytes: int | None) -> None:
        super().start(phase, rows, nbytes)
        self._next = self.started + _SECONDS_A_LINE

    def advance(self, rows: int, nbytes: int) -> None:
        super().advance(rows, nbytes)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _SECONDS_A_LINE
        seconds = now - self.started
        if self.total:
            left = seconds * (self.total - self.rows) / self.rows
            state = f"{100 * self.rows // self.total} %, {self.speed(seconds)}, {left:.0f} s left"
        else:
            state = f"{short(self.rows)} rows, {self.speed(seconds)}"
        print(f"{self.phase}: {state}", file=self.stream, flush=True)


class Records(_Pass):
    """--log-json: a JSON object when a pass begins, every ten seconds, and when it ends."""

    def start(self, phase: str, rows: int | None, nbytes: int | None) -> None:
        super().start(phase, rows, nbytes)
        self._next = self.started + _SECONDS_A_LINE
        self._record("start")

    def advance(self, rows: int, nbytes: int) -> None:
        super().advance(rows, nbytes)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _SECONDS_A_LINE
            self._record("progress")

    def finish(self) -> None:
        self._record("end")

    def _record(self, event: str) -> None:
        seconds = time.monotonic() - self.started
        rate = round(self.rows / seconds, 1) if seconds > 0 else None
        values = {"done": self.rows, "total": self.total, "bytes": self.nbytes}
        log_record(self.stream, event, phase=self.phase, **values, rate=rate, seconds=round(seconds, 3))


class Bar(_Pass):
    """A tqdm bar with rows and bytes a second and the time left, removed when its pass ends."""

    def start(self, phase: str, rows: int | None, nbytes: int | None) -> None:
        from tqdm import tqdm  # takes 30 ms, which a quiet run avoids

        super().start(phase, rows, nbytes)
        self._bar = tqdm(
            total=rows,
            desc=self.phase,
            unit=" rows",
            unit_scale=True,
            file=self.stream,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc}: {percentage:3.0f}% {bar} {rate_fmt}{postfix}, {remaining} left"
            if rows
            else "{desc}: {n_fmt} rows, {rate_fmt}{postfix}",
        )

    def advance(self, rows: int, nbytes: int) -> None:
        super().advance(rows, nbytes)
        seconds = time.monotonic() - self.started
        if seconds > 0 and self.nbytes:
            self._bar.set_postfix_str(f"{size(self.nbytes / seconds)}/s", refresh=False)
        self._bar.update(rows)

    def finish(self) -> None:
        self._bar.close()
