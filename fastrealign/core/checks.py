"""Checks of options that are numbers: an InputError names the option, what was given, and what is expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.text import brief
from fastrealign.core.wording import either, option

# The greatest seed.
SEED = 2**64 - 1


def whole(name: str, value: Any, least: int, most: int | None = None, *, why: str = "") -> int:
    """An option as an int, of any whole type (NumPy's too, but no bool). InputError outside of least..most.

    why   what the range is, for the message
    """
    if (type(value) is int or _is(numbers.Integral, value)) and least <= value and (most is None or value <= most):
        return int(value)
    bounds = f"of at least {least}" if most is None else f"from {least} to {_text(most)}"
    raise InputError(f"{_given(name, value)}: expected a whole number {bounds}{why and f', {why}'}")


def flag(name: str, value: Any) -> bool:
    """An option as a bool, also of 0, 1 and NumPy's type; InputError for others: a text such as "no" would count as true."""
    of_numpy = type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_")
    if of_numpy or (isinstance(value, int) and value in (0, 1)):
        return bool(value)
    raise InputError(f"{_given(name, value)}: expected True or False")


def seed(value: Any) -> int:
    """The option `seed`."""
    return whole("seed", value, 0, SEED)


def number(name: str, value: Any, holds: Callable[[float], bool], which: str) -> float:
    """An option as a finite float; InputError where it is none, or `holds` is false of it; which: the range in words."""
    if type(value) is float or _is(numbers.Real, value):
        try:
            real = float(value)
        except OverflowError:
            real = math.inf
        if math.isfinite(real) and holds(real):
            return real
    raise InputError(f"{_given(name, value)}: expected a number {which}")


def _given(name: str, value: Any) -> str:
    return f"{option(name)}{either(' ', '')}{brief(value)}"


def _is(kind: type, value: Any) -> bool:
    # Asking an abstract class takes a microsecond: callers look for the plain type first.
    return isinstance(value, kind) and not isinstance(value, bool)


def _text(most: int) -> str:
    return f"2^{most.bit_length()} - 1" if most > 1 << 16 and most & (most + 1) == 0 else str(most)
