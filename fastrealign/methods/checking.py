"""`check`: whether an alignment still holds for rows of another time or domain, from a sample as large as the answer needs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.float_state import computes
from fastrealign.core.formatting import count, listing, percent
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.row_map import UNIT
from fastrealign.core.wording import either, option
from fastrealign.data.cluster_sampling import Spread, measure_spread
from fastrealign.data.options import Compute, PassOptions, ReadOptions, documented
from fastrealign.data.row_source import RowsLike
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.alignment_argument import alignment_for
from fastrealign.methods.certified import Looks
from fastrealign.methods.fit_options import check_sampling, check_tol
from fastrealign.methods.loading import explained_if_swapped
from fastrealign.methods.misfit import TOLERATED, advice_at_target, lie_at_target, open_new
from fastrealign.methods.statistics import SideStatistics, check_differ, check_projected, read_side


@dataclass(frozen=True)
class Change:
    """How the statistics of one side changed; each bound holds with the confidence of the check.

    Attributes
    ----------
    shift, shift_bound : float
        |mean of the new unit rows - mean in the alignment|.
    trace : float
        Trace of the new rows.
    trace_change, trace_change_bound : float
        Relative to the trace in the alignment.
    rows, of : int
        Rows that were read, and rows of this side.
    bad_rows : int
        Of those read, rows without a direction, which were left out.
    column : str or None
        The name under which files hold them (column, key, tensor), if they have one.
    """

    shift: float
    shift_bound: float
    trace: float
    trace_change: float
    trace_change_bound: float
    rows: int
    of: int
    bad_rows: int = 0
    column: str | None = None

    def __str__(self) -> str:
        column = "" if self.column is None else f" of {self.column!r}"
        bad = f", {self.bad_rows:,} without a direction left out" if self.bad_rows else ""
        return (
            f"mean moved by {self.shift:.3g} +- {self.shift_bound:.2g}, trace by {self.trace_change:+.2%} +- "
            f"{self.trace_change_bound:.2%} ({_read(self.rows, self.of, column)}{bad})"
        )


@dataclass(frozen=True)
class Check:
    """What `check` found.

    Attributes
    ----------
    holds : bool
        Whether the gap that the alignment leaves on the new rows is at most `tol`.
    gap_before, gap_fitted : float
        |mean of the new unit rows - mean of the target|, and that gap where the alignment was fitted.
    gap_left, bound : float
        |mean of the new rows, aligned - mean of the target|, certain to +- bound.
    tol, confidence : float
        The gap that is tolerated, and the confidence with which each bound holds.
    source, target : Change
        How each side changed; target is None where no new one was given.
    """

    holds: bool
    gap_before: float
    gap_fitted: float
    gap_left: float
    bound: float
    tol: float
    confidence: float
    source: Change
    target: Change | None

    @property
    def at_target(self) -> bool:
        """Whether the new rows lie at the target before any map, as images and aligned rows do."""
        return lie_at_target(self.gap_before, self.gap_fitted)

    def to_json(self) -> dict[str, Any]:
        return {"kind": "check", **asdict(self), "at_target": self.at_target}

    def __str__(self) -> str:
        return self.summary("fastrealign.update(alignment, source, target, decay=0.5), or fit again")

    def summary(self, refit: str) -> str:
        """What was found, as text. refit: what to do next if it does not hold for rows of the source."""
        following = advice_at_target(self.gap_before, self.gap_fitted) if self.at_target else refit
        verdict = "holds" if self.holds else "does not hold"
        lines = listing(
            ("gap before", f"{self.gap_before:.4g}"),
            ("source", str(self.source)),
            ("target", None if self.target is None else str(self.target)),
            ("confidence", f"{self.confidence:.0%}"),
            ("next", None if self.holds else following),
            width=15,
        )
        head = (
            f"the alignment {verdict}: it leaves a gap of {self.gap_left:.3g} +- {self.bound:.2g} on these rows, "
            f"at most {self.tol:.3g} is tolerated"
        )
        return "\n".join([head, *lines])


def _read(rows: int, of: int, column: str = "") -> str:
    """What part of the rows was read."""
    return f"{rows:,} of {of:,} rows read{column}{'' if rows == of else f', {percent(rows / of)}'}"


@computes
@documented(ReadOptions, Compute)
def check(
    alignment: Alignment | str | os.PathLike,
    source: RowsLike,
    target: RowsLike = None,
    *,
    tol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    bad_rows: str = "error",
    threads: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
) -> Check:
    """Whether an alignment closes the gap on new rows, from a random sample that grows until the answer is sure.

    Parameters
    ----------
    alignment : Alignment or path
        An alignment, or the path of a saved one.
    source : path or array
        New rows of the source: files, an array or a tensor.
    target : path or array, optional
        New rows of the target; without them its centroid counts as unchanged.
    tol : float, optional
        The gap that may be left; by default a tenth of the gap that the alignment was fitted to close.
    confidence : float, default 0.95
        Probability that the answer, and each bound, is right.
    seed : int, default 0
        Seed of the sample.
    {ReadOptions}
    {Compute}
    progress : Progress
        Called as the passes advance; by default nothing is shown.

    Returns
    -------
    Check

    Raises
    ------
    InputError
        For widths that differ, fewer than 2 rows, and sources that cannot be sampled.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text, images = rng.standard_normal((500, 8)) + 1.0, rng.standard_normal((500, 8)) - 1.0
    >>> fr.check(fr.fit(text, images), rng.standard_normal((500, 8)) + 1.0).holds
    True
    """
    read = ReadOptions(column, target_column, bad_rows)
    confidence, seed = check_sampling(confidence, seed)
    with explained_if_swapped(alignment, source):
        alignment = alignment_for(alignment, "check", either("--role {role}", "fastrealign.Roles.load(path)[{role!r}]"))
    if min(alignment.trace_source, alignment.trace_target) <= 0.0:
        raise InputError("the alignment is of rows that all point the same way, so a spread cannot change; fit again")
    tol = float(TOLERATED * alignment.gap_before if tol is None else check_tol(tol))
    sources = [side for side in open_new(source, target, read, alignment) if side is not None]
    options = PassOptions(bad_rows, Compute(threads).workers, progress)
    looks = Looks(sources, tol, confidence, seed)
    while True:
        found, spreads = _look(looks, alignment, tol, confidence, options)
        away = abs(found.gap_left - tol)
        if looks.whole or found.bound < away:
            return found
        looks.widen(spreads, max(away, found.bound / 4.0), at_most=16.0)


def _look(
    looks: Looks, alignment: Alignment, tol: float, confidence: float, options: PassOptions
) -> tuple[Check, dict[int, Spread]]:
    """The result for the present samples, and the spreads that bound its gap."""
    sides: list[SideStatistics] = []
    changes: list[Change] = []
    units: list[Spread] = []
    means, traces = (alignment.mean_source, alignment.mean_target), (alignment.trace_source, alignment.trace_target)
    for name, sample, mean, trace in zip(("source", "target"), looks.samples, means, traces, strict=False):
        try:
            side = read_side(sample, f"reading the {name}", options)
        except BadRowsError as error:
            if not error.row:
                raise
            of = "" if sample.whole else f"; it is of a sample, {_read(sample.rows, sample.of)}: others may hold more"
            raise BadRowsError(
                f"{error.row}; fix it, or leave such rows out ({option('bad_rows', 'skip')}){of}"
            ) from None
        if side.count < 2:
            raise InputError(f"{sample.name}: {count(side.count, 'row')}, expected at least 2 to check an alignment on")
        spread = measure_spread(sample, UNIT, f"spread of the {name}", options.later)
        sides.append(side)
        units.append(spread)
        changes.append(_change(spread, looks, len(changes), mean, trace, side.bad))
    mapped = measure_spread(looks.samples[0], alignment.row_map, "gap left", options.later)
    check_projected(looks.samples[0].name, sides[0].count, mapped.rows)
    if len(sides) > 1:
        check_differ(looks.samples[0].name, sides[0], looks.samples[1].name, sides[1])
    mean_target = units[1].mean if len(sides) > 1 else alignment.mean_target
    gap_left = float(np.linalg.norm(mapped.mean - mean_target))
    spreads = {0: mapped, **dict(enumerate(units[1:], 1))}
    found = Check(
        holds=gap_left <= tol,
        gap_before=float(np.linalg.norm(units[0].mean - mean_target)),
        gap_fitted=alignment.gap_before,
        gap_left=gap_left,
        bound=looks.bound(looks.error(spreads)),
        tol=tol,
        confidence=confidence,
        source=changes[0],
        target=changes[1] if len(changes) > 1 else None,
    )
    return found, spreads


def _change(spread: Spread, looks: Looks, which: int, mean: np.ndarray, trace: float, bad: int) -> Change:
    sample, now = looks.samples[which], spread.mean
    new_trace = 1.0 - float(now @ now)
    # T = 1 - |mean|^2, so an error e of the mean changes it by 2 mean @ e.
    trace_bound = 2.0 * looks.bound(looks.error({which: spread}, along=now))
    return Change(
        shift=float(np.linalg.norm(now - mean)),
        shift_bound=looks.bound(looks.error({which: spread})),
        trace=new_trace,
        trace_change=new_trace / trace - 1.0,
        trace_change_bound=trace_bound / trace,
        rows=sample.rows,
        of=sample.of,
        bad_rows=bad,
        column=sample.column,
    )
