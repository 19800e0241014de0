"""`fit`: from a source and a target to a fitted method.

every row, in passes (full_pass.py)    target: mean and trace; source: mean and trace, then the centroid correction
every row, once (one_pass.py)          for a source that cannot be read again
a sample (certified.py)                as large as the precision that is asked for
a method to compare with               baseline_fits.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypedDict, overload

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.optional import Lazy
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.options import Compute, PassOptions, ReadOptions, documented
from fastrealign.data.pair import open_both
from fastrealign.data.process_group import GroupLike, ranks_of
from fastrealign.data.rank_share import shared
from fastrealign.data.reduction import reduce_source
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import FileSource
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.fit_options import FitOptions, check_ranks
from fastrealign.methods.full_pass import fit_full
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import warn_if_aligned
from fastrealign.methods.statistics import NOTHING, Known, check_widths

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from fastrealign.methods import baseline_fits, certified
else:  # with the diagnostics a sixth of what `align` imports, for methods that it seldom takes
    baseline_fits = Lazy("fastrealign.methods.baseline_fits")
    certified = Lazy("fastrealign.methods.certified")


class _Options(TypedDict, total=False):
    """Options of `fit` beside its method, for type checkers."""

    centroid: str
    bad_rows: str
    one_pass: bool | None
    tol: float | None
    confidence: float
    seed: int
    threads: int | None
    devices: Sequence[int | str] | None
    max_memory: int | None
    progress: Progress
    column: str | None
    target_column: str | None
    group: GroupLike
    encoder_source: str | None
    encoder_target: str | None


@overload
def fit(
    source: RowsLike, target: RowsLike, *, method: Literal["realign"] = ..., **options: Unpack[_Options]
) -> Alignment: ...
@overload
def fit(source: RowsLike, target: RowsLike, *, method: str, **options: Unpack[_Options]) -> Method: ...
@computes
@documented(FitOptions, ReadOptions, Compute)
def fit(
    source: RowsLike,
    target: RowsLike,
    *,
    method: str = "realign",
    centroid: str = "paper",
    bad_rows: str = "error",
    one_pass: bool | None = None,
    tol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    threads: int | None = None,
    devices: Sequence[int | str] | None = None,
    max_memory: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
    group: GroupLike = None,
    encoder_source: str | None = None,
    encoder_target: str | None = None,
) -> Method:
    """Find the alignment that moves `source` (text) to `target` (images), ReAlign of arXiv 2602.07026.

    Warns (FitWarning) of fewer rows than the width, stating the expected error of the centroid, of a target without a
    centroid, and of sides that look swapped by their names.

    Parameters
    ----------
    source, target : array, tensor, path or iterable of chunks
        Rows (n, d) of float16, bfloat16, float32 or float64, or any other kind of rows that an Alignment can be called on;
        paths, globs, folders or lists of paths of shards; or chunks of rows, such as a DataLoader yields: a tuple or dict
        counts where one entry alone can be the rows.
    {FitOptions}
    {ReadOptions}
    {Compute}
    progress : Progress
        Called as the passes advance; by default nothing is shown.
    group : torch.distributed.ProcessGroup or "world", optional
        The ranks that call this together. Files, which all ranks name alike, are divided between them; arrays and
        chunks are each rank's own rows. Every rank gets the same result, with the bits of one process.
    encoder_source, encoder_target : str, optional
        Names of the encoders; by default those that `fastrealign embed` left beside the shards.

    Returns
    -------
    Alignment
        For a method other than ReAlign a Baseline, its gap left not measured; it takes no centroid, one_pass, tol and encoder
        names. `baselines.fit_baseline` takes the other options that a method has.

    Raises
    ------
    InputError
        For an unknown method, widths that differ, fewer than 2 rows, a side whose rows all have one direction, or the same
        rows on both sides.
    BadRowsError
        For a row without a direction, where bad_rows is "error".

    Examples
    --------
    >>> import fastrealign as fr
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text, images = rng.standard_normal((500, 8)) + 1.0, rng.standard_normal((400, 8)) - 1.0
    >>> alignment = fr.fit(text, images)
    >>> bool(alignment.gap_left < 0.1 * alignment.gap_before)
    True
    >>> alignment(text[:3]).shape
    (3, 8)
    """
    how = FitOptions(method, centroid, one_pass, tol, confidence, seed)
    read = ReadOptions(column, target_column, bad_rows)
    options = PassOptions(bad_rows, Compute(threads, devices, max_memory).workers, progress)
    if how.method != "realign" and (encoder_source or encoder_target):
        raise InputError(f"{how.method} keeps no names of encoders; leave out encoder_source and encoder_target")
    return fit_given(source, target, how, read, options, group, (encoder_source, encoder_target))


def fit_given(
    source: RowsLike,
    target: RowsLike,
    how: FitOptions,
    read: ReadOptions,
    options: PassOptions,
    group: GroupLike = None,
    encoders: tuple[str | None, str | None] = (None, None),
) -> Method:
    """`fit` of rows as they were given, with its options as values."""
    ranks = ranks_of(group)
    check_ranks(how.method, ranks)
    y, x = open_both(source, target, read.column, read.target_column)
    warn_if_aligned(y)
    files = isinstance(y, FileSource) and isinstance(x, FileSource)
    if how.tol is not None and ranks.size > 1 and not files:
        raise InputError(
            "tol with a group: every rank reads the same sample, so both sides must be files that all of them see"
        )
    encoders = encoders[0] or y.encoder, encoders[1] or x.encoder
    columns = y.column, x.column
    if how.tol is None:
        y, x = shared(y, ranks), shared(x, ranks)
    fitted = fit_sources(y, x, how, options)
    if not isinstance(fitted, Alignment):
        return fitted
    return with_gap_left(fitted, y, options).named(encoders, columns)


def with_gap_left(fitted: Alignment, source: RowSource, options: PassOptions) -> Alignment:
    """The alignment with the gap that it leaves on its source, in one more pass; from a sample it has a bound already."""
    if fitted.sampling is not None:
        return fitted
    left, _ = reduce_source(source, fitted.row_map, "measuring the gap left", options.later)
    return replace(fitted, gap_left=float(np.linalg.norm(left.mean - fitted.mean_target)))


def fit_sources(
    source: RowSource, target: RowSource, how: FitOptions, options: PassOptions, known: Known = NOTHING
) -> Method:
    """`fit` on opened sources; gap_left is NaN where measuring it takes a separate pass. known: of fits on every row."""
    check_widths(source, target)
    if how.method != "realign":
        with source.ranks.fail_together():
            baseline = baseline_fits.fit_opened(how.method, source, target, options, known, **how.own)
            source.check_unchanged()
            target.check_unchanged()
        return baseline
    if how.tol is None:
        alignment = fit_full(source, target, how.centroid, options, how.one_pass, known)
    else:
        alignment = certified.fit_certified(source, target, how, how.tol, options)
    for side in (source, target):  # one side may have changed during the passes over the other
        side.check_unchanged()
    return alignment
