"""The `fastrealign` command, also as `python -m fastrealign`. Before anything else is imported, it sees to Ctrl-C."""

from __future__ import annotations

import os
import signal
import sys


def main() -> int:
    """Run the command line of sys.argv; returns the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as with nohup
        signal.signal(signal.SIGINT, _stop)
    from fastrealign.cli.main import main as run

    return run()


def _stop(number: int, frame: object) -> None:
    """End at once, without a word: nothing is written yet, and some imports turn KeyboardInterrupt into another error.

    Once a command runs, cli/signals.py takes over.
    """
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
