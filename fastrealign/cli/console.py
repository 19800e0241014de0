"""What the command prints: results on stdout, messages on stderr. Progress: progress.py."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from fastrealign.core.errors import FastRealignError
from fastrealign.core.text import shown, shown_values

_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m"}
_PLAIN = "\x1b[0m"


def say(kind: str, message: str, *, as_json: bool = False) -> None:
    """Print a message on stderr: an "error", a "warning", or "interrupted". Colour only on a terminal, without NO_COLOR."""
    message = shown(message)
    try:
        if as_json:
            log_record(sys.stderr, kind, message=message)
            return
        head = "" if kind == "interrupted" else f"{_coloured(kind)} "
        print(f"fastrealign: {head}{message}", file=sys.stderr, flush=True)
    except OSError:  # for example on a full disk; the exit code still reports the error
        silence(sys.stderr)


def _coloured(kind: str) -> str:
    plain = not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return f"{kind}:" if plain else f"{_COLOURS[kind]}{kind}:{_PLAIN}"


def log_record(stream: TextIO, event: str, **values: Any) -> None:
    """One line of --log-json."""
    line = json.dumps(shown_values({"event": event, **values})).replace("\x7f", "\\u007f")
    print(line, file=stream, flush=True)


def show(args: argparse.Namespace, value: dict[str, Any], text: str) -> None:
    """Print a result: as text, with --json as one JSON object, with --quiet not at all."""
    with writing_out():
        if args.json:
            print(json.dumps(shown_values(value)).replace("\x7f", "\\u007f"))
        elif not getattr(args, "quiet", False):
            print(shown(text, keep="\n"))


@contextmanager
def writing_out() -> Iterator[None]:
    """Around writes to stdout: raises a FastRealignError if one fails, for example on a full disk."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        silence(sys.stdout)
        raise FastRealignError(
            f"standard output: cannot be written to: {error.strerror}; free some space, or send it to another file"
        ) from error


def silence(stream: TextIO) -> None:
    """Discard what is still to be written, so that Python does not fail again when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
