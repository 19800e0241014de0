"""The CPU's floating-point environment: the default one while the package computes, then the caller's again.

Under torch.set_flush_denormal, and with libraries linked with -ffast-math, subnormal numbers are read as zeros; fesetround
changes the last digit of every sum. The compiled core sets the environment itself (csrc/cpu/float_state.h); this module is for
computations in NumPy and torch. Threads that are started inside inherit the default.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import fastrealign._core as _core

_P = ParamSpec("_P")
_R = TypeVar("_R")
_thread = threading.local()


def computes(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function to run under the default state."""

    @wraps(function)
    def inside(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        before = _core.set_float_state(_core.DEFAULT_FLOAT_STATE)
        outermost = not hasattr(_thread, "callers")
        if outermost:
            _thread.callers = before
        try:
            return function(*args, **kwargs)
        finally:
            if outermost:
                del _thread.callers
            _core.set_float_state(before)

    return inside


@contextmanager
def callers_state() -> Iterator[None]:
    """Run the caller's own code, such as an iterable of chunks that runs an encoder, under the caller's state."""
    inside = _core.set_float_state(getattr(_thread, "callers", _core.DEFAULT_FLOAT_STATE))
    try:
        yield
    finally:
        _core.set_float_state(inside)
