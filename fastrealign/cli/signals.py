"""Ctrl-C and SIGTERM: the first signal ends a run in an orderly way, a second one at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from fastrealign.core.errors import Terminated


class Interrupt:
    """The first Ctrl-C raises KeyboardInterrupt, the first SIGTERM Terminated, which lets shards in progress complete.

    A second signal stops those, too. Further signals are ignored while the process ends.
    """

    def __init__(self) -> None:
        self.signal: int = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        try:
            before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, which alone gets signals
            yield
            return
        try:
            yield
        finally:
            if not self.signal:
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _on_signal(self, number: int, frame: object) -> None:
        gently = number == signal.SIGTERM and not self.signal
        self.signal = self.signal or number
        if gently:
            raise Terminated
        for ignored in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ignored, signal.SIG_IGN)
        raise KeyboardInterrupt
