"""A map of several steps: float64 throughout, some rows at a time, the same bits for any split of the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from fastrealign.core import ops
from fastrealign.core.bad_rows import GOOD, Counts, counted
from fastrealign.core.libraries import torch
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import RowMap
from fastrealign.core.rows import check_output
from fastrealign.methods.method import Call
from fastrealign.methods.noise import row_numbers

# Rows that pass through the steps at a time.
STEP_ROWS = 1024

# Writes to the states of rows, uint8 (n,), and returns the rows before the last step, float64 (n, d): of rows and numbers.
Steps: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# On a device: writes the rows before the last step to a float64 tensor (n, d), and their states; of the numbers of rows.
DeviceSteps: TypeAlias = "Callable[[torch.Tensor, np.ndarray, np.ndarray], Counts]"


def apply_steps(
    rows: Rows, out: Rows, steps: Steps, last: RowMap | None, call: Call, width: int | None = None
) -> Counts:
    """Store last(steps(rows)) in `out`, an array, and add up what was stored; without a last step rows are not projected.

    width   of what `steps` returns, where that is not the width of the rows; rows without a direction are then stored as zeros
    """
    check_output(rows, out, width)
    state = np.empty(len(rows), np.uint8) if call.flags is None else call.flags
    numbers = row_numbers(call.first, len(rows))
    for lo in range(0, len(rows), STEP_ROWS):
        part = rows[lo : lo + STEP_ROWS].copy()  # out may be the rows themselves
        here, to = state[lo : lo + STEP_ROWS], out[lo : lo + STEP_ROWS]
        e = steps(part, here, numbers[lo : lo + STEP_ROWS])
        bad = here != GOOD
        reason = here[bad]
        if last is not None:
            e[bad] = 0.0  # has no direction: not added up
            ops.apply(e, last, to, into=call.into, flags=here, threads=call.threads, backend=call.backend)
            here[bad] = reason
        else:
            to[:] = e
            if call.into is not None:
                call.into.add_rows(to[~bad])
        spoiled = here != GOOD
        to[spoiled] = part[spoiled] if to.shape == part.shape else 0.0
    return counted(state)


def apply_steps_on_device(
    rows: torch.Tensor, out: torch.Tensor, steps: DeviceSteps, last: RowMap, call: Call
) -> Counts:
    """`apply_steps` of a tensor on a device: the kernels there map in float64, what lies between is torch."""
    state = np.empty(len(rows), np.uint8) if call.flags is None else call.flags
    e = torch.empty(rows.shape, dtype=torch.float64, device=rows.device)
    found = steps(e, state, row_numbers(call.first, len(rows)))
    kept = torch.from_numpy(state != GOOD).to(rows.device)[:, None]
    before = rows.to(out.dtype).clone() if found.bad else None  # out may be the rows themselves
    ops.apply(e.masked_fill_(kept, 0.0), last, out, into=call.into, backend=call.backend)
    if before is not None:
        out.copy_(torch.where(kept, before, out))
    return found
