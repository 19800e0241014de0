"""fit: from a source and a target to an Alignment.

every row, in passes (passes.py)    target: mean and trace; source: mean and trace, then the centroid correction
every row, once (onepass.py)        for what cannot be read again
a sample (certified.py)             as large as the precision that is asked for
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.distributed import shared
from fastrealign.data.pair import open_both
from fastrealign.data.pipeline import lenient, reduce_source
from fastrealign.data.process_group import ProcessGroup, ranks_of
from fastrealign.data.sources import FileSource, RowSource, check_unchanged
from fastrealign.data.workers import Workers
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.certified import fit_certified
from fastrealign.methods.full_pass import check_options, fit_sides
from fastrealign.methods.method import Method
from fastrealign.methods.statistics import check_widths


@computes
def fit(
    source: Any,
    target: Any,
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
    group: Any = None,
    encoder_source: str | None = None,
    encoder_target: str | None = None,
) -> Method:
    """Find the alignment that moves `source` (text) to `target` (images), ReAlign of arXiv 2602.07026.

    source, target   (rows, width) arrays or tensors of float16, bfloat16, float32 or float64, or any other kind of rows that
                     an Alignment can be called on; paths, globs, folders or lists of paths of shards; or iterables of chunks,
                     such as a DataLoader: a tuple or dict counts where one entry alone can be the rows
    method           "realign", or another one of baselines.METHODS to compare it with: then the result is a Baseline, its gap
                     left not measured, and centroid, one_pass, tol and encoder names are refused; c3 takes `seed` for its
                     noise. `baselines.fit_baseline` takes the other options that a method has
    centroid         "paper" translates once, as published; "exact" solves for the translation that leaves no gap
    bad_rows         rows with NaN, Inf or only zeros: "error" raises BadRowsError naming the first, "skip" and "keep" leave
                     them out of the statistics
    one_pass         read the source once and estimate the centroid correction; `sampling` of the result states its standard
                     error. None: only where the source cannot be read again
    tol, confidence  fit on a sample that is just large enough: with this probability the centroid of all aligned rows lies
                     within gap_left + tol of the target's; for files and arrays, which `seed` draws the sample from
    column           the name under which files of the source hold the embeddings (parquet column, pickle key, tensor), where
                     it cannot be told; that of the target, too, where it has that name and lies elsewhere
    target_column    the same of the target. Of names in one file, text_... and the like are the source's, image_..., img_...,
                     visual_... the target's
    threads, devices, max_memory   who does the work (workers.py): so many threads; feeding these GPUs, by their numbers;
                     with buffers of at most so many bytes together
    encoder_source, encoder_target   names of the encoders; by default those that `fastrealign embed` left beside the shards
    group            a torch.distributed process group ("world": the default one) whose ranks call this together. Files,
                     which all name alike, are shared out; arrays and chunks are each rank's own rows. The same result on
                     every rank, to the last bit that of one process
    Raises InputError for an unknown method, widths that differ, fewer than 2 rows, a side whose rows are all one direction,
    or the same rows on both sides. Warns (FitWarning) of fewer rows than the width, stating the expected error of the
    centroid, of a target without a centroid, and of sides that look swapped by their names.
    """
    method, centroid = check_method(method, centroid, one_pass, tol)
    if method != "realign" and (encoder_source or encoder_target):
        raise InputError(f"{method} keeps no names of encoders; leave out encoder_source and encoder_target")
    ranks = ranks_of(group)
    check_alone(method, ranks)
    rows, there = open_both(source, target, column, target_column)
    if tol is not None and ranks.size > 1 and not (isinstance(rows, FileSource) and isinstance(there, FileSource)):
        raise InputError(
            "tol with a group: every rank reads the same sample, so both sides must be files that all of them see"
        )
    names = {
        "encoder_source": encoder_source or rows.encoder,
        "encoder_target": encoder_target or there.encoder,
        "column_source": rows.column,
        "column_target": there.column,
    }
    if tol is None:
        rows, there = shared(rows, ranks), shared(there, ranks)
    workers = Workers.of(threads, devices, max_memory)
    options = {"bad_rows": bad_rows, "threads": workers, "progress": progress}
    alignment = fit_rows(
        rows,
        there,
        method=method,
        centroid=centroid,
        one_pass=one_pass,
        tol=tol,
        confidence=confidence,
        seed=seed,
        **options,
    )
    if isinstance(alignment, Baseline):
        return alignment
    if alignment.sampling is None:
        left, _ = reduce_source(
            rows, alignment.row_map, "measuring the gap left", **{**options, "bad_rows": lenient(bad_rows)}
        )
        alignment = replace(alignment, gap_left=float(np.linalg.norm(left.mean - alignment.mean_target)))
    return replace(alignment, **names)


def fit_rows(
    source: RowSource,
    target: RowSource,
    *,
    method: str,
    centroid: str,
    bad_rows: str,
    one_pass: bool | None,
    tol: float | None,
    confidence: float,
    seed: int,
    threads: int | Workers | None,
    progress: Progress,
) -> Method:
    """`fit` on opened sources; gap_left is NaN where measuring it takes a pass of its own."""
    check_options(centroid, bad_rows)
    check_widths(source, target)
    if method != "realign":
        from fastrealign.methods.baselines import fit_opened

        with source.ranks.fail_together():
            fitted = fit_opened(
                method,
                source,
                target,
                bad_rows=bad_rows,
                threads=threads,
                progress=progress,
                **own_options(method, seed),
            )
            check_unchanged(source, target)
            return fitted
    if tol is None:
        options = {"bad_rows": bad_rows, "threads": threads, "progress": progress}
        alignment = fit_sides(source, target, centroid=centroid, one_pass=one_pass, **options)
        check_unchanged(source, target)  # passes over one see what became of the other before
        return alignment
    if one_pass:
        raise InputError("tol samples the source, one_pass reads all of it: choose one")
    alignment = fit_certified(source, target, tol, confidence, seed, centroid, bad_rows, threads, progress)
    check_unchanged(source, target)
    return alignment


def check_method(method: str, centroid: str, one_pass: bool | None, tol: float | None) -> tuple[str, str]:
    """The method and the centroid that are meant. Raises InputError for a method that there is not, and options it has not."""
    if method == "realign":
        return method, centroid
    from fastrealign.methods import baselines

    method = baselines.check_method(method)
    if method == "realign":
        return method, centroid
    if method == "realign-exact":
        return "realign", "exact"
    refused = {"centroid": centroid != "paper", "one_pass": one_pass, "tol": tol is not None}
    for name, given in refused.items():
        if given:
            raise InputError(f"{name} is of ReAlign, {method} has none; leave it out")
    return method, centroid


def check_alone(method: str, ranks: ProcessGroup) -> None:
    """InputError where ranks are to fit together what one process alone can: covariances are not added up between them."""
    if method == "bca" and ranks.size > 1:
        raise InputError("bca is fitted by one process; fit it without a group or torchrun, then apply what was saved")


def own_options(method: str, seed: int) -> dict[str, int]:
    """What of the options of a fit is one of the method's."""
    return {"seed": seed} if method == "c3" else {}
