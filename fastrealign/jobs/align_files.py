"""Files to files: `align` fits and applies, `apply_files` applies what was fitted before. Both end in a Report.

The phases of a job are in job.py, what the two have in common in shard_job.py.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from fastrealign import formats
from fastrealign.core.errors import BadShardError
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.distributed import shared
from fastrealign.data.options import PassOptions
from fastrealign.data.pair import open_target
from fastrealign.data.sources import FileSource
from fastrealign.data.workers import Workers
from fastrealign.formats.manifest import Manifest
from fastrealign.jobs.shard_job import ShardJob, marks_of, specs_of
from fastrealign.jobs.summary import Report
from fastrealign.jobs.write_shards import check_devices
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.fitting import fit_rows
from fastrealign.methods.loading import as_method, told_if_swapped
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import warn_of_encoder, warn_of_misfit
from fastrealign.methods.options import FitOptions, check_ranks


@computes
def align(
    source: Any,
    target: Any,
    out: str | os.PathLike,
    *,
    method: str = "realign",
    centroid: str = "paper",
    one_pass: bool | None = None,
    tol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    dtype: Any = None,
    bad_rows: str = "error",
    bad_shards: str = "error",
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    threads: int | None = None,
    devices: Sequence[int | str] | None = None,
    max_memory: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    target_column: str | None = None,
    fsync: bool = True,
    group: Any = None,
) -> Report:
    """Fit the alignment that moves `source` (text) to `target` (images) and write the source aligned, shard for shard.

    source    path, glob, folder or list of paths of shards of any format (README); a path may be a URL (s3://, https://, ...)
    target    the same, or an array, a tensor, or an iterable of chunks
    out       a folder that is empty or does not exist, or for a single shard a file name of the same format. It gets a
              shard for every shard of the source (same name, format, order, ids and other columns),
              alignment.safetensors and, last, manifest.json
    method    "realign", or another one of baselines.METHODS to compare it with, as for `fit`; those that take steps (c3, bca,
              mean-shift) are computed on the CPU
    centroid  "paper", or "exact" for the translation that leaves no gap
    one_pass, tol, confidence, seed   as for `fit`: read the source once before it is written, or a sample of it
    dtype     element type of the output ("float32", "float16", "bfloat16", "float64"), by default that of each shard;
              of 16-bit pickles float32, which is what the reference script writes
    bad_rows  rows with NaN, Inf or only zeros: "error" stops with BadRowsError, "skip" leaves them out with what
              belongs to them, "keep" writes them as they came
    bad_shards  shards that cannot be read: "error" stops, "skip" leaves them out, and the report and the manifest list them
    overwrite replace an earlier run in `out`; files that are not its are never removed
    resume    go on with an unfinished run in `out`: the result is the same bytes
    verify    note a checksum of every byte read and written, and with `resume` look at every byte of both; without it, at size,
              time of change, head and tail
    threads, devices, max_memory   who does the work (workers.py): so many threads; feeding these GPUs, by their numbers,
              where the processor would compute otherwise; with buffers of at most so many bytes together
    column, target_column   the parquet column, pickle key or tensor of each side that holds the embeddings, where it cannot
              be told; as for `fit`
    fsync     False: do not wait until the disk has everything; for output that a power cut may cost
    group     a torch.distributed process group ("world": the default one) whose ranks call this together and share the files
              out; the output is the same

    Raises InputError for bad input or an output that cannot be used, FastRealignError when writing fails. What was
    complete by then is kept for `resume`; if nothing was, nothing is left behind.
    """
    return AlignJob(
        source,
        target,
        out,
        method=method,
        centroid=centroid,
        one_pass=one_pass,
        tol=tol,
        confidence=confidence,
        seed=seed,
        target_column=target_column,
        column=column,
        dtype=dtype,
        bad_rows=bad_rows,
        bad_shards=bad_shards,
        overwrite=overwrite,
        resume=resume,
        verify=verify,
        fsync=fsync,
        workers=Workers.of(threads, devices, max_memory),
        group=group,
        progress=progress,
    ).run()


@computes
def apply_files(
    alignment: Method | str | os.PathLike,
    source: Any,
    out: str | os.PathLike,
    *,
    dtype: Any = None,
    bad_rows: str = "error",
    bad_shards: str = "error",
    overwrite: bool = False,
    resume: bool = False,
    verify: bool = False,
    threads: int | None = None,
    devices: Sequence[int | str] | None = None,
    max_memory: int | None = None,
    progress: Progress = SILENT,
    column: str | None = None,
    fsync: bool = True,
    group: Any = None,
) -> Report:
    """Write `source` aligned by an alignment that was fitted before, shard for shard.

    alignment  an Alignment or a Baseline, or the path of a saved one. Where rows are numbered (C3's noise) their numbers go
               over all shards in the order of their names, so the output is that of one call on all rows
    Everything else is as for `align`. The report's gap_before is the fit's; gap_left is measured on the rows written. Where
    that is more than where it was fitted, beyond sampling and a tenth of gap_before, a FitWarning says so.
    """
    return ApplyJob(
        alignment,
        source,
        out,
        column=column,
        dtype=dtype,
        bad_rows=bad_rows,
        bad_shards=bad_shards,
        overwrite=overwrite,
        resume=resume,
        verify=verify,
        fsync=fsync,
        workers=Workers.of(threads, devices, max_memory),
        group=group,
        progress=progress,
    ).run()


class AlignJob(ShardJob):
    """Fit on both sides, then write the source aligned."""

    kind = "align"

    def __init__(
        self,
        source: Any,
        target: Any,
        out: str | os.PathLike,
        *,
        method: str,
        centroid: str,
        one_pass: bool | None,
        tol: float | None,
        confidence: float,
        seed: int,
        target_column: str | None,
        **how: Any,
    ) -> None:
        """how: the arguments of ShardJob."""
        self._wanted = FitOptions(method, centroid, one_pass, tol, confidence, seed)
        check_devices(self._wanted.method, how["workers"])
        super().__init__(source, out, **how)
        check_ranks(self._wanted.method, self.ranks)
        self.target = self.opened(
            "target", open_target(target, self.rows, how["column"], target_column, self.bad_shards)
        )
        marks = {}
        if isinstance(self.target, FileSource):
            files = self.target.files
            marks = marks_of(files, [shard.name for shard in files.shards], self.verify)
        # What a target in memory holds is not in the job specification, so it is fitted again and compared.
        self._target_is_noted = bool(marks)
        self.ask({**self._wanted.to_json(), "target_column": target_column}, target=marks)
        self.layout.check_apart([*specs_of(source), *specs_of(target)], [rows.files for rows in self.sides.values()])

    def fit(self) -> None:
        self.check_dtype()
        while True:
            try:
                self.method = self.ranks.broadcast(self._fitted())
                break
            except BadShardError as error:  # begin again without it, if it may be left out
                if self.bad_shards == "error":
                    raise
                for side, rows in self.sides.items():
                    if rows.name == error.source:
                        rows.leave_out(error.shard)
                        self.left_out.setdefault(side, {})[rows.files.shards[error.shard].name] = str(error)
        self.start_writing()

    def _fitted(self) -> Method:
        """The alignment that the unfinished run noted, else a fit."""
        resumed = self.ranks.rank == 0 and self._target_is_noted
        noted = self.ranks.broadcast(self.folder.noted_alignment() if resumed else None)
        if noted is not None:
            return noted
        divide = self._wanted.tol is None  # a sample is small: every rank reads the same one
        found = fit_rows(
            shared(self.rows, self.ranks) if divide else self.rows,
            shared(self.target, self.ranks) if divide and self._target_is_noted else self.target,
            self._wanted,
            PassOptions(self.bad_rows, self.workers, self.progress),
        )
        if not isinstance(found, Alignment):
            return found
        return found.named(self.rows.encoder, self.target.encoder, self.rows.column, self.target.column)


class ApplyJob(ShardJob):
    """Write the source mapped by a method that was fitted before."""

    kind = "apply"

    def __init__(self, method: Method | str | os.PathLike, source: Any, out: str | os.PathLike, **how: Any) -> None:
        """how: the arguments of ShardJob."""
        with told_if_swapped(method, source):
            self.method = as_method(method)
        check_devices(self.method.name, how["workers"])
        super().__init__(source, out, **how)
        self.method.check_width(self.rows.d, self.rows.name)
        warn_of_encoder(self.method, self.rows)
        # A run that is resumed writes the alignment that it had, and removes nothing.
        self.layout.check_apart([*specs_of(source), *([] if how["resume"] else [method])], [self.rows.files])
        self.ask(
            {"method": self.method.name} if isinstance(self.method, Baseline) else {},
            alignment=self.method.fingerprint,
            numbers=_numbers(self.rows.files) if self.method.numbered else None,
        )

    def fit(self) -> None:
        self.check_dtype()
        self.start_writing()

    def report(self, manifest: Manifest) -> Report:
        report = super().report(manifest)
        if self.ranks.rank == 0:
            aligned = report.rows_out - (report.bad_rows if report.bad_rows_were == "keep" else 0)
            warn_of_misfit(self.method, report.gap_left, aligned, report.source)
        return report


def _numbers(files: formats.Source) -> str:
    """A SHA-256 of what the numbers of the rows follow from."""
    return hashlib.sha256(json.dumps(sorted((shard.name, shard.rows) for shard in files.shards)).encode()).hexdigest()
