"""The `fastrealign` command: options in, calls to the package, text or JSON out.

Exit codes: 0 done, 1 something failed, 2 bad input or usage, 3 the alignment does not hold (`check`), 130 interrupted (Ctrl-C),
143 terminated (SIGTERM). Errors are one line on stderr; FASTREALIGN_DEBUG=1 adds the traceback.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

from fastrealign.cli import align, apply, check, completion, convert, embed, fit, index, inspect, report, train
from fastrealign.cli import map as map_command
from fastrealign.cli.console import say, silence, writing_out
from fastrealign.cli.demo import command as demo
from fastrealign.cli.garbage_collection import collect_seldom
from fastrealign.cli.lazy import cpu, process_group
from fastrealign.cli.parser import parser_of
from fastrealign.cli.signals import Interrupt
from fastrealign.core.errors import FastRealignError, FitWarning, InputError, shortage
from fastrealign.core.text import note_secrets, shown_traceback
from fastrealign.core.wording import on_command_line

# OpenBLAS's threads spin this long, 2^20 clock ticks, before they sleep. By default they take a core for 0.1 s once NumPy is
# imported, and align multiplies no matrices.
_OPENBLAS = ("OPENBLAS_THREAD_TIMEOUT", "20")
COMMANDS = tuple(
    module.add
    for module in (
        align,
        fit,
        apply,
        map_command,
        index,
        check,
        convert,
        report,
        inspect,
        embed,
        demo,
        train,
        completion,
    )
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (sys.argv by default); returns the exit code."""
    with on_command_line():
        return _main(sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    os.environ.setdefault(*_OPENBLAS)
    collect_seldom()
    atexit.register(gc.freeze)  # what is left goes with the process: looking for cycles in it took 0.04 s
    _open_closed_streams()
    _replace_what_cannot_be_encoded()
    interrupt = Interrupt()
    for arg in argv:
        note_secrets(arg)
    # Also of a usage error, for which there are no parsed options.
    as_json = "--log-json" in takewhile("--".__ne__, argv)
    try:
        with interrupt.handled():
            try:
                args = parser_of(COMMANDS).parse_args(argv)
                as_json = as_json or getattr(args, "log_json", False)  # from a --config file
                with _warnings_on_stderr(as_json), _ranks(args):
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
        code, kind, text = _message_of(error, interrupt)
        if not getattr(error, "reported_elsewhere", False):
            say(kind, text, as_json=as_json)
        if os.environ.get("FASTREALIGN_DEBUG", "") not in ("", "0"):
            print(shown_traceback(error), end="", file=sys.stderr)
        return code


def _replace_what_cannot_be_encoded() -> None:
    """A terminal or file in ASCII (LANG=C) gets "?" for a sign that it lacks, where the whole command would fail."""
    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith("utf"):
        sys.stdout.reconfigure(errors="replace")


def _open_closed_streams() -> None:
    """Open a stream that the shell closed (>&-) on /dev/null, or the next file opened would get its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115 (stays open)


def _message_of(error: BaseException, interrupt: Interrupt) -> tuple[int, str, str]:
    """The exit code for an error, what it is, and its message."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + (interrupt.signal or signal.SIGINT), "interrupted", str(error) or "interrupted"
    if isinstance(error, InputError):
        return 2, "error", str(error)
    if isinstance(error, FastRealignError):
        return 1, "error", str(error)
    short = shortage(error)
    if short is not None:
        return 1, "error", short
    if isinstance(error, FileNotFoundError) and not _current_folder_exists():
        return 2, "error", "the current folder was removed; change to another one, then run again"
    lines = str(error).strip().splitlines()
    return 1, "error", f"{type(error).__name__}: {lines[0] if lines else ''} (FASTREALIGN_DEBUG=1 shows where)"


def _current_folder_exists() -> bool:
    try:
        return bool(os.getcwd())
    except OSError:
        return False


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


@contextmanager
def _warnings_on_stderr(as_json: bool) -> Iterator[None]:
    """FitWarning and the like as one line each."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say("warning", str(message), as_json=as_json)

    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries about libraries: nothing a user can do
        # Of torch about how it loads a file itself.
        warnings.filterwarnings("ignore", "TypedStorage is deprecated|Validating sparse tensor invariants")
        warnings.simplefilter("always", FitWarning)
        yield
