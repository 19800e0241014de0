"""Progress of long work: the package calls these methods, and the CLI or a notebook overrides them to show it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Shows nothing; subclasses do. `advance` may come from any thread, one call at a time."""

    def start(self, phase: str, rows: int | None, nbytes: int | None) -> None:
        """A pass begins: what it does, how many rows and bytes it will read (None: not known)."""

    def advance(self, rows: int, nbytes: int) -> None:
        """More rows and bytes are done."""

    def finish(self) -> None:
        """The pass is over, complete or not."""

    @contextmanager
    def running(self, phase: str, rows: int | None, nbytes: int | None = None) -> Iterator[None]:
        """Around a pass: `start` and `finish`."""
        self.start(phase, rows, nbytes)
        try:
            yield
        finally:
            self.finish()


SILENT = Progress()
