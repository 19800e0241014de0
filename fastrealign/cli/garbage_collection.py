"""How often Python looks for cycles of objects during a command."""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
# New objects after which it looks. A command imports 30,000, which stay: the usual 700 took 0.025 s of its start.
_OBJECTS = 50_000


def collect_seldom() -> None:
    """From the start of a command on."""
    gc.set_threshold(_OBJECTS)


def collect_as_usual() -> None:
    """For commands that run a model: a cycle may hold tensors, and the memory of a GPU."""
    gc.set_threshold(*_USUAL)
