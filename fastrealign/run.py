"""Files to files: `align` fits and applies, `apply_files` applies what was fitted before. Both end in a Report.

open the inputs -> claim the output -> fit, or take the alignment given -> write the shards -> alignment and manifest
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fastrealign import io, ops
from fastrealign.alignment import Alignment
from fastrealign.errors import FastRealignError, InputError
from fastrealign.fit import CENTROIDS, fit_sides
from fastrealign.io.manifest import FileMark, Manifest, Order
from fastrealign.output import Claim, Output
from fastrealign.pipeline import check_bad_rows
from fastrealign.progress import SILENT, Progress
from fastrealign.sources import FileSource, open_rows
from fastrealign.summary import Report
from fastrealign.writing import LISTED_ROWS, Writing


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or a signal that the command line treats alike) in the middle of a run; says what is complete."""


def align(
    source: Any,
    target: Any,
    out: str | os.PathLike,
    *,
    centroid: str = "paper",
    dtype: Any = None,
    bad_rows: str = "error",
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    fsync: bool = True,
) -> Report:
    """Fit the alignment that moves `source` (text) to `target` (images) and write the source aligned, shard for shard.

    source    path, glob, folder or list of paths of .npy, .parquet or pickle shards
    target    the same, or an array, a tensor, or an iterable of chunks
    out       a folder that is empty or does not exist, or for a single shard a file name of the same format. It gets a
              shard for every shard of the source (same name, format, order, ids and other columns),
              alignment.safetensors and, last, manifest.json
    centroid  "paper", or "exact" for the translation that leaves no gap
    dtype     element type of the output ("float32", "float16", "bfloat16", "float64"), by default that of each shard;
              of 16-bit pickles float32, which is what the reference script writes
    bad_rows  rows with NaN, Inf or only zeros: "error" stops with BadRowsError, "skip" leaves them out with what
              belongs to them, "keep" writes them as they came
    overwrite replace an earlier run in `out`; files that are not its are never removed
    resume    go on with an unfinished run in `out`: the result is the same bytes
    column    the parquet column or pickle key that holds the embeddings, where it cannot be told
    fsync     False: do not wait until the disk has everything; for output that a power cut may cost

    Raises InputError for bad input or an output that cannot be used, FastRealignError when writing fails. What was
    complete by then is kept for `resume`; if nothing was, nothing is left behind.
    """
    if centroid not in CENTROIDS:
        raise InputError(f"centroid={centroid!r}: expected one of {', '.join(CENTROIDS)}")
    run = _Run("align", source, out, dtype, bad_rows, column, {"centroid": centroid})
    there = open_rows(target, "target", column)
    marks = _marks(there.files, [shard.name for shard in there.files.shards]) if isinstance(there, FileSource) else {}

    def make(claim: Claim) -> Alignment:
        # What a target in memory holds is not in the order, so it is fitted again and compared.
        noted = claim.alignment_noted() if marks else None
        if noted is not None:
            return noted
        fitted, _ = fit_sides(run.rows, there, centroid=centroid, bad_rows=bad_rows, threads=threads, progress=progress)
        return fitted

    run.output.check_apart([*_specs(source), *_specs(target)], [run.rows.files, *([there.files] if marks else [])])
    return run.go(
        replace(run.order, target=marks),
        make,
        overwrite=overwrite,
        resume=resume,
        threads=threads,
        progress=progress,
        fsync=fsync,
    )


def apply_files(
    alignment: Alignment | str | os.PathLike,
    source: Any,
    out: str | os.PathLike,
    *,
    dtype: Any = None,
    bad_rows: str = "error",
    overwrite: bool = False,
    resume: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    fsync: bool = True,
) -> Report:
    """Write `source` aligned by an alignment that was fitted before, shard for shard.

    alignment  an Alignment, or the path of a saved one
    Everything else is as for `align`. The report's gap_before is the fit's; gap_left is measured on the rows written.
    """
    if not isinstance(alignment, Alignment):
        alignment = Alignment.load(alignment)
    run = _Run("apply", source, out, dtype, bad_rows, column, {})
    if run.rows.d != alignment.dim:
        raise InputError(f"{run.rows.name}: rows are {run.rows.d} wide, the alignment was fitted on {alignment.dim}")
    run.output.check_apart(_specs(source), [run.rows.files])
    return run.go(
        replace(run.order, alignment=alignment.fingerprint),
        lambda _: alignment,
        overwrite=overwrite,
        resume=resume,
        threads=threads,
        progress=progress,
        fsync=fsync,
    )


class _Run:
    """What `align` and `apply_files` have in common."""

    def __init__(
        self,
        kind: str,
        source: Any,
        out: str | os.PathLike,
        dtype: Any,
        bad_rows: str,
        column: str | None,
        options: dict[str, Any],
    ) -> None:
        check_bad_rows(bad_rows)
        self.started = time.perf_counter()
        self.bad_rows = bad_rows
        self.dtype = None if dtype is None else ops.as_dtype(dtype)
        rows = open_rows(source, "source", column)
        if not isinstance(rows, FileSource):
            raise InputError("source: expected files (a path, a glob, a folder or a list of paths); for arrays use fit")
        self.rows = rows
        self.output = Output(out, rows.files)
        self.order = Order(
            kind=kind,
            options={**options, "dtype": self.dtype and self.dtype.name, "bad_rows": bad_rows, "column": column},
            source=_marks(rows.files, self.output.names),
            metadata=[*(name for name in self.output.metadata if name is not None), *self.output.beside],
        )

    def go(
        self,
        order: Order,
        make: Callable[[Claim], Alignment],
        *,
        overwrite: bool,
        resume: bool,
        threads: int | None,
        progress: Progress,
        fsync: bool,
    ) -> Report:
        claim = self.output.claim(order, resume=resume, overwrite=overwrite, fsync=fsync)
        if claim.finished is not None:
            claim.leave()
            alignment = Alignment.load(self.output.alignment)
            return self._report(claim.finished, alignment, len(claim.finished.shards), 0, 0)
        before = len(claim.journal.shards)
        try:
            self._check_dtype()
            alignment = make(claim)
            claim.begin(alignment)
            writing = Writing(
                self.rows.files,
                self.output,
                claim.journal,
                alignment.row_map,
                dtype=self.dtype,
                bad_rows=self.bad_rows,
                fsync=fsync,
            )
            writing.run(threads, progress)
            self._write_beside(claim, alignment, fsync)
            gap_left = float(np.linalg.norm(claim.journal.total(alignment.dim).mean - alignment.mean_target))
            if order.kind == "align":
                alignment = replace(alignment, gap_left=gap_left)
            manifest = claim.finish(alignment, gap_left)
        except BaseException as error:
            done = len(claim.journal.shards)
            claim.leave()
            told = self._with_state(error, done)
            if told is error:
                raise
            raise told from error
        return self._report(manifest, alignment, before, writing.source.rows, writing.source.nbytes)

    def _write_beside(self, claim: Claim, alignment: Alignment, fsync: bool) -> None:
        records = {record.name: record for record in claim.journal.shards}
        for dataset in self.rows.files.datasets if self.output.beside else ():
            dataset.write(self.output.root, records, alignment.fingerprint, fsync)

    def _check_dtype(self) -> None:
        """Refuse a type that the format cannot hold now, not after the fit."""
        first = self.rows.files.shards[0]
        if self.dtype is not None and not first.opens_whole:
            first.writer(self.output.root / self.output.names[0], self.dtype, first.rows, fsync=False).abort()

    def _with_state(self, error: BaseException, done: int) -> BaseException:
        """The error, saying what is complete and how to go on."""
        state = f"{done} of {len(self.output.names)} shards are complete, go on with --resume / resume=True"
        if isinstance(error, KeyboardInterrupt):
            return Interrupted(f"interrupted; {state if done else 'nothing was written'}")
        if isinstance(error, FastRealignError) and done:
            return type(error)(f"{error}; {state}")
        return error

    def _report(self, manifest: Manifest, alignment: Alignment, before: int, rows: int, nbytes: int) -> Report:
        shards = dict(zip(self.output.names, self.rows.files.shards, strict=True))
        bad = [f"{shards[done.name].where(row)} {why}" for done in manifest.shards for row, why in done.first_bad]
        return Report(
            kind=manifest.order.kind,
            source=self.rows.name,
            out=self.output.out,
            alignment=alignment,
            gap_before=manifest.gap_before,
            gap_left=float("nan") if manifest.gap_left is None else manifest.gap_left,
            rows_in=sum(shard.rows_in for shard in manifest.shards),
            rows_out=sum(shard.rows_out for shard in manifest.shards),
            skipped=sum(shard.skipped for shard in manifest.shards),
            bad_rows=sum(shard.bad_rows for shard in manifest.shards),
            bad_rows_were=manifest.order.options["bad_rows"],
            first_bad=bad[:LISTED_ROWS],
            shards=len(manifest.shards),
            shards_before=before,
            bytes_out=sum(shard.bytes for shard in manifest.shards),
            rows_now=rows,
            bytes_now=nbytes,
            seconds=time.perf_counter() - self.started,
            files={"alignment": str(self.output.alignment), "manifest": str(self.output.manifest)},
        )


def _marks(files: io.Source, names: list[str]) -> dict[str, FileMark]:
    return {name: FileMark.of(shard.path, modified=True) for name, shard in zip(names, files.shards, strict=True)}


def _specs(spec: Any) -> list[Any]:
    return list(spec) if isinstance(spec, (list, tuple)) else [spec]
