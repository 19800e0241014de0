"""The errors a user can meet. Each message is one line: which file, which row, what was expected, what to do."""

from __future__ import annotations


class FastRealignError(Exception):
    """Something failed that the caller's input did not cause (exit code 1)."""


class InputError(FastRealignError, ValueError):
    """The input or the way it was asked for is wrong (exit code 2)."""


class BadRowsError(InputError):
    """A row that has no direction: NaN, Inf or zero, or one that the map sends to zero."""
