"""Whether an alignment fits the rows that it maps, from the gap that it leaves on them; no row is read again for that."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.wording import option
from fastrealign.data.options import ReadOptions
from fastrealign.data.pair import open_target
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import FileSource, open_rows
from fastrealign.formats.choose_column import Wanted
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.fit_options import PAIRED_METHODS
from fastrealign.methods.input_checks import added
from fastrealign.methods.method import Method

# Share of the original gap that an alignment may leave on new rows and still hold.
TOLERATED = 0.1
# And so many standard errors of the mean. They assume independent rows: in groups of sixteen similar rows (captions of one
# image, rows of one page), four of them are one true standard error.
_STANDARD_ERRORS = 4.0
# Rows that lie at the target: the gap before any map is at most this share of the original gap. They are then nearer to the
# mean of the target than to that of the source.
_AT_TARGET = 0.5
# Rows at the start of a training that are checked.
FIRST = 512
_WANTED = "rows of its source (text), not aligned yet"


def warn_of_misfit(method: Method, gap_left: float, rows: int, which: str) -> bool:
    """A FitWarning where more of the gap is left on `rows` rows than sampling and what `check` tolerates explain; whether so.

    which: names the rows. Baselines leave a gap by design, so they are not checked.
    """
    if not isinstance(method, Alignment) or rows == 0 or not gap_left > _explained(method, rows):
        return False
    fitted = "" if math.isnan(method.gap_left) else f"{method.gap_left:.2g} where it was fitted, "
    warn(
        f"{which}: the alignment leaves a gap of {gap_left:.3g} here ({fitted}{method.gap_before:.3g} before): are these "
        f"{_WANTED}? `fastrealign check ALIGNMENT SOURCE` checks whether it holds for them"
    )
    return True


def lie_at_target(gap_before: float, gap_fitted: float) -> bool:
    """Whether rows with this gap before any map lie at the target, for an alignment that was fitted to close `gap_fitted`."""
    return gap_before <= _AT_TARGET * gap_fitted


def advice_at_target(gap_before: float, gap_fitted: float) -> str:
    """What rows that lie at the target are, and what to do: one wording for every command that meets them."""
    return (
        f"these rows lie at the target already (a gap of {gap_before:.3g}, {gap_fitted:.3g} at the fit): they look like images "
        f"or aligned rows; give {_WANTED}. If they are unaligned text, their encoder has changed: fit again"
    )


def _explained(alignment: Alignment, rows: int) -> float:
    """The largest gap that an alignment which holds for the rows may leave on so many of them."""
    # Variance of the mean of these rows and of those of the fit; aligned rows have the trace of the target.
    variance = alignment.trace_target * (1.0 / rows + 1.0 / max(alignment.count_source, 1))
    if alignment.sampling is not None:
        variance += (alignment.sampling.error or 0.0) ** 2
    left = 0.0 if math.isnan(alignment.gap_left) else alignment.gap_left
    return left + TOLERATED * alignment.gap_before + _STANDARD_ERRORS * math.sqrt(variance)


def warn_of_update_at_target(alignment: Alignment, mean: np.ndarray, mean_target: np.ndarray, which: str) -> None:
    """A FitWarning where rows that an alignment is updated with lie at the target; mean: that of the unit rows."""
    gap_before = float(np.linalg.norm(mean - mean_target))
    if lie_at_target(gap_before, alignment.gap_before):
        warn(f"{which}: {advice_at_target(gap_before, alignment.gap_before)}")


class LeftGap:
    """The gap that an alignment leaves on the rows that it mapped: a gross misfit (images, rows that are aligned already)."""

    def __init__(self, alignment: Alignment) -> None:
        self._alignment = alignment
        self._items = 0
        self._total: Any = None
        self._good: Any = None

    def add(self, rows: Any) -> None:
        """Take in aligned rows (items, rows of each, d), a tensor."""
        self._items += len(rows)
        rows = rows.flatten(0, 1).double()
        # Only rows with a direction count for the mean: the others passed unchanged.
        good = (rows.square().sum(-1) - 1.0).abs() < 0.1
        total = rows.where(good[:, None], rows.new_zeros(())).sum(0)
        self._total, self._good = added(self._total, total), added(self._good, good.sum())

    def tell(self, which: str) -> bool:
        count = float(self._good)
        if not count:
            return False
        gap_left = float(np.linalg.norm(np.asarray(self._total.tolist()) / count - self._alignment.mean_target))
        return warn_of_misfit(self._alignment, gap_left, self._items, f"{which}, {self._items:,} rows")


def warn_of_encoder(method: Method, rows: RowSource) -> None:
    """A FitWarning where the rows were made by the encoder of the target; mapped ones have a warning of their own."""
    if closed_by(rows) is not None:
        return
    ours, theirs = method.encoder_source, method.encoder_target
    if rows.encoder is not None and rows.encoder == theirs and ours not in (None, theirs):
        warn(
            f"{rows.name}: these rows are of {theirs!r}, whose rows the alignment moves others to; it was fitted to move "
            f"those of {ours!r}"
        )


def warn_if_aligned(rows: RowSource) -> None:
    """A FitWarning where `align` or `apply` wrote the rows: mapped again, they move twice."""
    if (command := closed_by(rows)) is not None:
        warn(
            f"{rows.name}: `fastrealign {command}` wrote these rows, and a second map moves them again; unless that is "
            "wanted, name the embeddings that they were made from"
        )


def closed_by(rows: RowSource) -> str | None:
    """The command that mapped the rows, if it closed a gap: a map from pairs changes the encoder, and leaves its gap."""
    if not isinstance(rows, FileSource) or rows.mapped_by is None:
        return None
    command, method = rows.mapped_by
    return None if method in PAIRED_METHODS else command


def open_new(
    source: RowsLike, target: RowsLike, read: ReadOptions, alignment: Alignment
) -> tuple[RowSource, RowSource | None]:
    """New rows for an alignment: the source, and the target if there is one."""
    if target is None and read.target_column is not None:
        raise InputError(
            f"{option('target_column', read.target_column)} without a target; name the target, or leave the column out"
        )
    rows = open_rows(source, "source", Wanted(read.column, "source", alone=target is None))
    alignment.check_width(rows.d, rows.name)
    warn_of_encoder(alignment, rows)
    if target is None:
        return rows, None
    there = open_target(target, rows, read.column, read.target_column)
    alignment.check_width(there.d, there.name)
    return rows, there
