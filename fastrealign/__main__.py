"""The `fastrealign` command, also as `python -m fastrealign`. Before anything else is imported, it sees to Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


def main() -> int:
    """Run the command line of sys.argv; returns the exit code."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # it is ignored, as with nohup
        return _run()
    with suppress(ValueError):  # not the main thread, which signals come to
        signal.signal(signal.SIGINT, _stop)
    try:
        return _run()
    finally:
        if signal.getsignal(signal.SIGINT) is _stop:  # else the command was interrupted, and ignores further signals
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _run() -> int:
    from fastrealign.cli.main import main as run

    return run()


def _stop(number: int, frame: object) -> None:
    """End at once, without a word: nothing is written yet, and some imports turn KeyboardInterrupt into another error.

    Once a command runs, cli/signals.py takes over.
    """
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
