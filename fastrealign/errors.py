"""The errors a user can meet. Each message is one line: which file, which row, what was expected, what to do."""

from __future__ import annotations

import os
import sys
import warnings

from fastrealign.text import shown


class FastRealignError(Exception):
    """Something failed that the caller's input did not cause (exit code 1).

    Whatever the message quotes, it is one line without control characters, and without users, passwords and queries of URLs.

    told_by_another: another process, which works on the same thing, met it and says so itself
    """

    told_by_another = False

    def __init__(self, message: object = "") -> None:
        super().__init__(shown(message))


class InputError(FastRealignError, ValueError):
    """The input or the way it was asked for is wrong (exit code 2)."""


class BadShardError(InputError):
    """A shard that cannot be read: its place in the source, and the source's name."""

    def __init__(self, message: str, shard: int = -1, source: str = "") -> None:
        super().__init__(message)
        self.shard, self.source = shard, source


class BadRowsError(InputError):
    """A row that has no direction: NaN, Inf or zero, or one that the map sends to zero."""


class FitWarning(UserWarning):
    """The fit is valid, but its statistics are weak."""


def warn(message: str, kind: type[Warning] = FitWarning) -> None:
    """A warning that points at the line that called the package, in one line as the errors are."""
    here, level = os.path.join(os.path.dirname(__file__), ""), 2
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(here):
        frame, level = frame.f_back, level + 1
    warnings.warn(shown(message), kind, stacklevel=level)
