"""What stops a run in the middle."""

from __future__ import annotations

import fastrealign as fr
from fastrealign.core.progress import Progress


class StopAfter(Progress):
    """Fails a run once so many rows are aligned, as a disk or a person might."""

    def __init__(self, rows: int, error: BaseException | None = None) -> None:
        self.left = rows
        self.error = error or fr.FastRealignError("the disk is full")
        self.aligning = False

    def start(self, phase, rows, nbytes):
        self.aligning = phase == "aligning"

    def advance(self, rows, nbytes):
        if self.aligning:
            self.left -= rows
            if self.left < 0:
                raise self.error
