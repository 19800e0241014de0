"""The `fastrealign` command: options in, calls to the package, text or JSON out.

Exit codes: 0 done, 1 something failed, 2 bad input or usage, 3 the alignment does not hold (`check`), 130 interrupted (Ctrl-C),
143 terminated (SIGTERM). Errors are one line on stderr; FASTREALIGN_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastrealign.cli import align, apply, check, convert, embed, fit, index, inspect, report, train
from fastrealign.cli import map as map_command
from fastrealign.cli.console import silence, writing_out
from fastrealign.cli.demo import command as demo
from fastrealign.cli.parser import parser_of
from fastrealign.cli.signals import Interrupt
from fastrealign.core.errors import FastRealignError, FitWarning, InputError, shortage
from fastrealign.core.optional import Lazy
from fastrealign.core.text import note_secrets, shown, shown_traceback

if TYPE_CHECKING:
    from fastrealign.core import cpu
    from fastrealign.data import process_group
else:  # they import NumPy, which --help and a misspelt option do without
    cpu = Lazy("fastrealign.core.cpu")
    process_group = Lazy("fastrealign.data.process_group")

# OpenBLAS's threads spin this long, 2^20 clock ticks, before they sleep. By default they take a core for 0.1 s once NumPy is
# imported, and align multiplies no matrices.
_OPENBLAS = ("OPENBLAS_THREAD_TIMEOUT", "20")
COMMANDS = tuple(
    module.add
    for module in (align, fit, apply, map_command, index, check, convert, report, inspect, embed, demo, train)
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (sys.argv by default); returns the exit code."""
    os.environ.setdefault(*_OPENBLAS)
    atexit.register(gc.freeze)  # what is left goes with the process: looking for cycles in it took 0.04 s
    _open_closed_streams()
    interrupt = Interrupt()
    for arg in sys.argv[1:] if argv is None else argv:
        note_secrets(arg)
    try:
        with interrupt.handled(), _warnings_on_stderr():
            try:
                args = parser_of(COMMANDS).parse_args(argv)
                with _ranks(args):
                    code = args.command(args) or 0
            except SystemExit as stop:  # argparse, after --help or a usage error
                code = int(stop.code or 0)
            with writing_out():
                sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has closed it
        silence(sys.stdout)
        return 1
    except (KeyboardInterrupt, Exception) as error:
        code, text = _message_of(error, interrupt)
        if not getattr(error, "reported_elsewhere", False):
            _say(text)
        if os.environ.get("FASTREALIGN_DEBUG", "") not in ("", "0"):
            print(shown_traceback(error), end="", file=sys.stderr)
        return code


def _open_closed_streams() -> None:
    """Open a stream that the shell closed (>&-) on /dev/null, or the next file opened would get its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (stays open)


def _message_of(error: BaseException, interrupt: Interrupt) -> tuple[int, str]:
    """The exit code for an error, and its message."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (interrupt.signal or signal.SIGINT), str(error) or "interrupted"
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    if isinstance(error, FastRealignError):
        return 1, f"error: {error}"
    short = shortage(error)
    if short is not None:
        return 1, f"error: {short}"
    lines = str(error).strip().splitlines()
    return 1, f"error: {type(error).__name__}: {lines[0] if lines else ''} (FASTREALIGN_DEBUG=1 shows where)"


@contextmanager
def _ranks(args: argparse.Namespace) -> Iterator[None]:
    """Under torchrun, commands that can share their work join the process group; only rank 0 prints."""
    ranks = process_group.from_torchrun() if args.shares else None
    if ranks is None or ranks.size == 1:
        yield
        return
    args.group = "world"
    args.threads = args.threads or max(1, cpu.default_threads() // process_group.processes_here())
    if ranks.rank > 0:
        args.quiet, args.json = True, False
    try:
        yield
    finally:
        ranks.close()


def _say(text: str) -> None:
    try:
        print(f"fastrealign: {shown(text)}", file=sys.stderr, flush=True)
    except OSError:  # for example on a full disk; the exit code still reports the error
        silence(sys.stderr)


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """FitWarning and the like as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _say(f"warning: {message}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("always", FitWarning)
        yield
