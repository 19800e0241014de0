"""ReAlign fitted again for a report: on samples of growing size, and on other domains. The gaps that these fits leave."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fastrealign.core.errors import FitWarning
from fastrealign.core.text import shown
from fastrealign.data.options import PassOptions
from fastrealign.data.reduction import reduce_maps
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import ArraySource
from fastrealign.diagnostics.unit_rows import measuring
from fastrealign.gap_report.report_data import Domains, SampleSize
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baselines import fit_baseline

SIZES = (30, 100, 300, 1000, 3000, 10_000, 30_000)
TRIALS = 5


def fit_realign(source: RowSource, target: RowSource, bad_rows: str = "error") -> Alignment:
    """ReAlign as published."""
    with measuring():
        fitted = fit_baseline("realign", source, target, bad_rows=bad_rows)
    assert isinstance(fitted, Alignment)
    return fitted


def sample_sizes(
    to_fit: tuple[ArraySource, ArraySource],
    y: ArraySource,
    whole: Alignment,
    mean: np.ndarray,
    seed: int,
    or_note: Callable[[str, Callable[[], Alignment]], Alignment | None],
) -> tuple[SampleSize, ...]:
    """The gaps that ReAlign leaves on rows when it is fitted on samples, and on all; one pass over the source.

    to_fit   (target, source) that samples are drawn from; whole: fitted on all of it
    y, mean  the gap is measured on: rows of the source, the mean of the target
    or_note  makes a fit, or notes why these rows have none
    """
    most = min(side.rows for side in to_fit)
    fits: list[tuple[int, Alignment]] = []
    for size in (size for size in SIZES if 2 * size <= most):
        for trial in range(TRIALS):
            rng = np.random.default_rng([seed, size, trial])
            source, target = (
                ArraySource(side.array[np.sort(rng.choice(side.rows, size, replace=False))], side.name)
                for side in to_fit[::-1]
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                fitted = or_note(f"ReAlign fitted on {size} rows", partial(fit_realign, source, target))
            if fitted is not None:
                fits.append((size, fitted))
    *left, of_whole = _gaps(y, [*(fitted for _, fitted in fits), whole], mean)
    by_size: dict[int, tuple[float, ...]] = {}
    for (size, _), gap in zip(fits, left, strict=True):
        by_size[size] = (*by_size.get(size, ()), gap)
    return (*(SampleSize(size, gaps) for size, gaps in by_size.items()), SampleSize(most, (of_whole,)))


def across_domains(sides: dict[str, tuple[RowSource, RowSource]], first: Alignment, bad_rows: str = "error") -> Domains:
    """The gap that ReAlign leaves in each domain (target, source) when it is fitted on each; first: of the first domain."""
    fits = [first, *(fit_realign(y, x, bad_rows) for x, y in list(sides.values())[1:])]
    columns = [
        _gaps(y, fits, fitted.mean_target, bad_rows) for (_, y), fitted in zip(sides.values(), fits, strict=True)
    ]
    names = tuple(shown(str(name)) for name in sides)
    return Domains(names, np.array(columns).T, np.array([fitted.gap_before for fitted in fits]))


def _gaps(source: RowSource, fits: Sequence[Alignment], mean: np.ndarray, bad_rows: str = "error") -> list[float]:
    maps = [fitted.row_map for fitted in fits]
    sums, _ = reduce_maps(source, maps, "measuring the gaps left", PassOptions(bad_rows))
    return [float(np.linalg.norm(of.mean - mean)) for of in sums]
