"""Bad rows: rows without a direction (zeros, NaN, Inf), their states, and how many a kernel met.

The kernels classify each row (csrc/row_map.h), count the bad ones, locate the first and store them unchanged; sums never
include them. The option `bad_rows` decides what follows (BadRowsError, drop or keep): in passes over files and iterators
(data/pipeline.py, jobs/write_shards.py) and in calls on arrays (methods/calling.py).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import fastrealign._core as _core

# RowState of csrc/row_map.h.
GOOD: int = _core.GOOD
ZERO: int = _core.ZERO
NOT_FINITE: int = _core.NOT_FINITE
COLLAPSED: int = _core.COLLAPSED
REASONS = {ZERO: "is all zeros", NOT_FINITE: "has a NaN or Inf", COLLAPSED: "is sent to zero by the map"}


class Counts(NamedTuple):
    """The number of rows with and without a direction, counted by a kernel in the same pass.

    Parameters
    ----------
    good, bad : int
        Number of rows.
    first_bad : int
        Index of the first bad row; -1 if there is none.
    reason : int
        State of that row: ZERO, NOT_FINITE or COLLAPSED.
    """

    good: int = 0
    bad: int = 0
    first_bad: int = -1
    reason: int = GOOD

    @property
    def why(self) -> str:
        """What is wrong with the first bad row, as the end of a sentence."""
        return REASONS[self.reason]


def counted(state: np.ndarray) -> Counts:
    """The counts of rows in these states, uint8 (n,)."""
    bad = np.flatnonzero(state)
    if not len(bad):
        return Counts(len(state))
    return Counts(len(state) - len(bad), len(bad), int(bad[0]), int(state[bad[0]]))
