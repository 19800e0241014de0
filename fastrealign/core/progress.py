"""How long work reports itself. The core calls these; who shows them is the caller's affair (the CLI, a notebook)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Progress:
    """Shows nothing; subclasses do. `advance` may come from any thread, one call at a time."""

    def start(self, phase: str, rows: int | None, nbytes: int | None) -> None:
        """A pass begins: what it does, how many rows and bytes it will read (None: not known)."""

    def advance(self, rows: int, nbytes: int) -> None:
        """So many more rows and bytes are done."""

    def finish(self) -> None:
        """The pass is over, whether it came to its end or not."""

    @contextmanager
    def running(self, phase: str, rows: int | None, nbytes: int | None = None) -> Iterator[None]:
        """Around a pass: `start` and `finish`."""
        self.start(phase, rows, nbytes)
        try:
            yield
        finally:
            self.finish()


SILENT = Progress()
