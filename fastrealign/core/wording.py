"""Options in messages, as the caller writes them: `--bad-rows skip` on the command line, `bad_rows='skip'` in Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote

_by_command = False


@contextmanager
def on_command_line(which: bool = True) -> Iterator[None]:
    """While a command runs, in all threads; False: while it checks the keys of a file, which are no options."""
    global _by_command
    before, _by_command = _by_command, which
    try:
        yield
    finally:
        _by_command = before


def either(command: str, python: str) -> str:
    """The first on the command line, the second in Python."""
    return command if _by_command else python


def option(name: str, value: object = None) -> str:
    """The keyword `name` with this value; None: the option alone.

    Examples
    --------
    >>> option("bad_rows", "skip"), option("held_out")
    ("bad_rows='skip'", 'held_out=')
    >>> with on_command_line():
    ...     option("bad_rows", "skip"), option("held_out"), option("resume", True), option("column", "a b")
    ('--bad-rows skip', '--held-out', '--resume', "--column 'a b'")
    """
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is True:
        return either(flag, f"{name}={'' if value is None else value}")
    return either(f"{flag} {quote(str(value))}", f"{name}={value!r}")
