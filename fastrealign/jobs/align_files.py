"""Files to files: `align` fits and applies, `apply_files` applies what was fitted before. Both end in a Report.

open the inputs -> claim the output -> fit, or take the alignment given -> write the shards -> alignment and manifest
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from fastrealign import formats
from fastrealign.core import ops
from fastrealign.core.errors import BadShardError, FastRealignError, InputError, shortage
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.distributed import owner, shared
from fastrealign.data.pair import open_target
from fastrealign.data.pipeline import check_bad_rows
from fastrealign.data.process_group import ranks_of
from fastrealign.data.sources import FileSource, RowSource, open_rows
from fastrealign.data.workers import Workers
from fastrealign.formats.manifest import JobSpec, Manifest, ShardRecord
from fastrealign.jobs.claim import Claim
from fastrealign.jobs.journal import Group, Journal
from fastrealign.jobs.output_folder import Output
from fastrealign.jobs.summary import Report
from fastrealign.jobs.write_shards import LISTED_ROWS, Writing, check_devices
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.fitting import check_alone, check_method, fit_rows, own_options
from fastrealign.methods.full_pass import check_options
from fastrealign.methods.loading import as_method, load, told_if_swapped
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import warn_of_encoder, warn_of_misfit
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import check_output, each, is_url

BAD_SHARDS = ("error", "skip")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C (or a signal that the command line treats alike) in the middle of a run; says what is complete."""


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
    writing: Callable[..., Any] = Writing,
) -> Report:
    """Fit the alignment that moves `source` (text) to `target` (images) and write the source aligned, shard for shard.

    source    path, glob, folder or list of paths of shards of any format (README); a path may be a URL (s3://, https://, ...)
    target    the same, or an array, a tensor, or an iterable of chunks
    out       a folder that is empty or does not exist, or for a single shard a file name of the same format. It gets a
              shard for every shard of the source (same name, format, order, ids and other columns),
              alignment.safetensors and, last, manifest.json
    method    "realign", or another one of baselines.METHODS to compare it with, as for `fit`; those that take steps (c3, bca,
              mean-shift) are computed on the processor
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
    writing   who writes the shards: threads of this process, or what takes the arguments of Writing (ray.py)

    Raises InputError for bad input or an output that cannot be used, FastRealignError when writing fails. What was
    complete by then is kept for `resume`; if nothing was, nothing is left behind.
    """
    check_options(centroid, bad_rows)
    workers = Workers.of(threads, devices, max_memory)
    method, centroid = check_method(method, centroid, one_pass, tol)
    check_devices(method, workers)
    if method == "realign":
        options = {"centroid": centroid, "one_pass": one_pass or None, "tol": tol}
        if tol is not None:
            options |= {"confidence": confidence, "seed": seed}
    else:
        options = {"method": method, **own_options(method, seed)}
    options["target_column"] = target_column
    run = _Run("align", source, out, dtype, bad_rows, bad_shards, column, options, group, writing, verify)
    check_alone(method, run.ranks)
    there = run.open_target(target, target_column)
    marks = (
        _marks(there.files, [shard.name for shard in there.files.shards], verify)
        if isinstance(there, FileSource)
        else {}
    )

    def make(claim: Claim | None) -> Method:
        # What a target in memory holds is not in the order, so it is fitted again and compared.
        noted = run.ranks.broadcast(claim.alignment_noted() if claim is not None and marks else None)
        if noted is not None:
            return noted
        divide = tol is None  # a sample is small: every rank reads the same one
        found = fit_rows(
            shared(run.rows, run.ranks) if divide else run.rows,
            shared(there, run.ranks) if divide and marks else there,
            method=method,
            centroid=centroid,
            bad_rows=bad_rows,
            one_pass=one_pass,
            tol=tol,
            confidence=confidence,
            seed=seed,
            threads=workers,
            progress=progress,
        )
        if isinstance(found, Baseline):
            return found
        return replace(
            found,
            encoder_source=run.rows.encoder,
            encoder_target=there.encoder,
            column_source=run.rows.column,
            column_target=there.column,
        )

    run.output.check_apart([*_specs(source), *_specs(target)], [run.rows.files, *([there.files] if marks else [])])
    return run.go(
        replace(run.order, target=marks),
        make,
        overwrite=overwrite,
        resume=resume,
        threads=workers,
        progress=progress,
        fsync=fsync,
    )


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
    writing: Callable[..., Any] = Writing,
) -> Report:
    """Write `source` aligned by an alignment that was fitted before, shard for shard.

    alignment  an Alignment or a Baseline, or the path of a saved one. Where rows are numbered (C3's noise) their numbers go
               over all shards in the order of their names, so the output is that of one call on all rows
    Everything else is as for `align`. The report's gap_before is the fit's; gap_left is measured on the rows written. Where
    that is more than where it was fitted, beyond sampling and a tenth of gap_before, a FitWarning says so.
    """
    fitted = alignment
    with told_if_swapped(alignment, source):
        alignment = as_method(alignment)
    workers = Workers.of(threads, devices, max_memory)
    check_devices(alignment.name, workers)
    options = {"method": alignment.name} if isinstance(alignment, Baseline) else {}
    run = _Run("apply", source, out, dtype, bad_rows, bad_shards, column, options, group, writing, verify)
    alignment.check_width(run.rows.d, run.rows.name)
    warn_of_encoder(alignment, run.rows)
    # A run that is resumed writes the alignment that it had, and removes nothing.
    run.output.check_apart([*_specs(source), *([] if resume else [fitted])], [run.rows.files])
    numbers = _numbers(run.rows.files) if alignment.numbered else None
    report = run.go(
        replace(run.order, alignment=alignment.fingerprint, numbers=numbers),
        lambda _: alignment,
        overwrite=overwrite,
        resume=resume,
        threads=workers,
        progress=progress,
        fsync=fsync,
    )
    if run.ranks.rank == 0:
        aligned = report.rows_out - (report.bad_rows if report.bad_rows_were == "keep" else 0)
        warn_of_misfit(alignment, report.gap_left, aligned, report.source)
    return report


class _Run:
    """What `align` and `apply_files` have in common."""

    def __init__(
        self,
        kind: str,
        source: Any,
        out: str | os.PathLike,
        dtype: Any,
        bad_rows: str,
        bad_shards: str,
        column: str | None,
        options: dict[str, Any],
        group: Any,
        writing: Callable[..., Any],
        verify: bool = False,
    ) -> None:
        check_bad_rows(bad_rows)
        if bad_shards not in BAD_SHARDS:
            raise InputError(f"bad_shards={bad_shards!r}: expected one of {', '.join(BAD_SHARDS)}")
        check_output(out)
        self.ranks = ranks_of(group)
        if self.ranks.size > 1 and is_url(out):
            raise InputError(
                f"{out}: several processes keep their journals beside the shards, which a store cannot; name a folder that all "
                "of them see, or use fastrealign.ray, where one process keeps it"
            )
        self.writing = writing
        self.verify = verify
        self.bad_shards = bad_shards
        self.sides: dict[str, FileSource] = {}
        self.left_out: dict[str, dict[str, str]] = {}
        self.started = time.perf_counter()
        self.bad_rows = bad_rows
        self.dtype = None if dtype is None else ops.as_dtype(dtype)
        rows = self._opened("source", open_rows(source, "source", column, bad_shards))
        if not isinstance(rows, FileSource):
            raise InputError("source: expected files (a path, a glob, a folder or a list of paths); for arrays use fit")
        self.rows = rows
        self.output = Output(out, rows.files)
        self.order = JobSpec(
            kind=kind,
            options={**options, "dtype": self.dtype and self.dtype.name, "bad_rows": bad_rows, "column": column},
            source=_marks(rows.files, self.output.names, verify),
            metadata=[*(name for name in self.output.metadata if name is not None), *self.output.beside],
        )

    def open_target(self, spec: Any, column: str | None) -> RowSource:
        """The other side of the run."""
        rows = open_target(spec, self.rows, self.order.options["column"], column, self.bad_shards)
        return self._opened("target", rows)

    def _opened(self, side: str, rows: RowSource) -> RowSource:
        """A side, of which what could not be opened was left out."""
        if isinstance(rows, FileSource):
            self.sides[side] = rows
            if rows.files.left_out:
                self.left_out[side] = dict(rows.files.left_out)
        return rows

    def _fitted(self, make: Callable[[Claim | None], Method], claim: Claim | None) -> Method:
        """What `make` finds; begun anew without a shard that turns out to be unreadable, if that may be left out."""
        while True:
            try:
                return self.ranks.broadcast(make(claim))
            except BadShardError as error:
                if self.bad_shards == "error":
                    raise
                for side, rows in self.sides.items():
                    if rows.name == error.source:
                        rows.leave_out(error.shard)
                        self.left_out.setdefault(side, {})[rows.files.shards[error.shard].name] = str(error)

    def go(
        self,
        order: JobSpec,
        make: Callable[[Claim | None], Method],
        *,
        overwrite: bool,
        resume: bool,
        threads: Workers,
        progress: Progress,
        fsync: bool,
    ) -> Report:
        ranks, hold = self.ranks, _Hold()
        how = {"resume": resume, "overwrite": overwrite, "fsync": fsync}
        try:
            hold.claim = ranks.on_rank_0(lambda: self.output.claim(order, verify=self.verify, **how))
            finished = ranks.broadcast(hold.claim and hold.claim.finished)
            if finished is not None:
                alignment = ranks.broadcast(ranks.on_rank_0(lambda: self._alignment_of(finished)))
                hold.leave(alone=True)
                return self._report(finished, alignment, len(finished.shards), 0, 0)
            if ranks.rank > 0:
                hold.own = Journal(self.output.journal_of(ranks.rank), fsync)
                hold.own.begin(order)
            before = ranks.broadcast(hold.shards)
            self._check_dtype()
            alignment = self._fitted(make, hold.claim)
            ranks.on_rank_0(lambda: hold.claim.begin(alignment))
            hold.journal.note_alignment(alignment.fingerprint)
            writing = self.writing(
                self.rows.files,
                self.output,
                self._mine({shard.name for shard in before}),
                alignment,
                hold.journal.add,
                dtype=self.dtype,
                bad_rows=self.bad_rows,
                bad_shards=self.bad_shards,
                fsync=fsync,
                threads=threads,
                verify=self.verify,
                marks=[order.source[name] for name in self.output.names],
            )
            writing.run(progress)
            hold.journal.flush()
            for left_out in ranks.all_gather(writing.left_out):
                if left_out:
                    self.left_out.setdefault("source", {}).update(left_out)
            others = ranks.all_gather(hold.own.noted.groups if hold.own is not None else [])
            manifest = ranks.broadcast(ranks.on_rank_0(lambda: self._finish(hold.claim, alignment, others, fsync)))
            if hold.own is not None:
                hold.own.remove()
        except BaseException as error:
            done = len(hold.shards)
            hold.leave(alone=ranks.size == 1)
            told = with_state(error, done, len(self.output.names))
            if told is error:
                raise
            raise told from error
        if order.kind == "align":
            alignment = replace(alignment, gap_left=float("nan") if manifest.gap_left is None else manifest.gap_left)
        rows, nbytes = np.sum(ranks.all_gather((writing.source.rows, writing.source.nbytes)), axis=0).tolist()
        return self._report(manifest, alignment, len(before), rows, nbytes)

    def _alignment_of(self, manifest: Manifest) -> Method:
        """That of the complete run."""
        alignment = load(self.output.alignment)
        if alignment.fingerprint != manifest.alignment:
            raise InputError(
                f"{self.output.alignment}: was changed since the run was complete; make all anew with --overwrite"
            )
        return alignment

    def _mine(self, done: set[str]) -> list[int]:
        """The places of the shards that this rank writes: of those that are not done, a stretch of about as many rows."""
        left = [i for i, name in enumerate(self.output.names) if name not in done and i not in self.rows.left_out]
        rows = [self.rows.files.shards[i].rows for i in left]
        starts = [0, *accumulate(rows)]
        return [
            i for i, at in zip(left, starts, strict=False) if owner(at, starts[-1], self.ranks.size) == self.ranks.rank
        ]

    def _finish(self, claim: Claim, alignment: Method, others: list[list[Group]], fsync: bool) -> Manifest:
        """On rank 0, when all shards are complete: those of the other ranks join its journal, and the manifest is written."""
        for groups in others:
            claim.journal.take_in(groups)
        self._write_beside(claim, alignment, fsync)
        gap_left = float(np.linalg.norm(claim.journal.total(alignment.dim).mean - alignment.mean_target))
        if claim.order.kind == "align":
            alignment = replace(alignment, gap_left=gap_left)
        return claim.finish(alignment, gap_left, self.left_out, self._columns)

    @property
    def _columns(self) -> dict[str, str]:
        """The names under which files hold the embeddings, of each side that has some."""
        return {side: rows.column for side, rows in self.sides.items() if rows.column is not None}

    def _write_beside(self, claim: Claim, alignment: Method, fsync: bool) -> None:
        records = {record.name: record for record in claim.journal.shards}
        for dataset in self.rows.files.datasets if self.output.beside else ():
            dataset.write(self.output.root, records, alignment.fingerprint, fsync)

    def _check_dtype(self) -> None:
        """Refuse a type that the format cannot hold now, not after the fit."""
        first = self.rows.files.shards[0]
        if self.dtype is not None and not first.opens_whole:
            first.writer(self.output.root / self.output.names[0], self.dtype, first.rows, fsync=False).abort()

    def _report(self, manifest: Manifest, alignment: Method, before: int, rows: int, nbytes: int) -> Report:
        shards = dict(zip(self.output.names, self.rows.files.shards, strict=True))
        bad = [f"{shards[done.name].where(row)} {why}" for done in manifest.shards for row, why in done.first_bad]
        return Report(
            kind=manifest.spec.kind,
            source=self.rows.name,
            out=self.output.out,
            columns=self._columns,
            alignment=alignment,
            gap_before=manifest.gap_before,
            gap_left=float("nan") if manifest.gap_left is None else manifest.gap_left,
            rows_in=sum(shard.rows_in for shard in manifest.shards),
            rows_out=sum(shard.rows_out for shard in manifest.shards),
            skipped=sum(shard.skipped for shard in manifest.shards),
            bad_rows=sum(shard.bad_rows for shard in manifest.shards),
            bad_rows_were=manifest.spec.options["bad_rows"],
            first_bad=bad[:LISTED_ROWS],
            left_out=[why for side in manifest.left_out.values() for why in side.values()],
            notes=sorted({shard.note for shard in shards.values() if shard.note}),
            shards=len(manifest.shards),
            shards_before=before,
            bytes_out=sum(shard.bytes for shard in manifest.shards),
            rows_now=rows,
            bytes_now=nbytes,
            seconds=time.perf_counter() - self.started,
            files={"alignment": str(self.output.alignment), "manifest": str(self.output.manifest)},
        )


def with_state(error: BaseException, done: int, of: int) -> BaseException:
    """The error of a run of `of` shards, saying how many are complete and how to go on."""
    state = f"{done} of {of} shards are complete, go on with --resume / resume=True"
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"interrupted; {state if done else 'nothing was written'}")
    short = shortage(error)
    if short is not None:
        return FastRealignError(f"{short}; {state}" if done else short)
    if isinstance(error, FastRealignError) and done:
        return type(error)(f"{error}; {state}")
    return error


class _Hold:
    """What a process holds of the output: rank 0 the claim with the journal of the run, any other a journal of its own."""

    def __init__(self) -> None:
        self.claim: Claim | None = None
        self.own: Journal | None = None

    @property
    def journal(self) -> Journal | None:
        return self.own if self.claim is None else self.claim.journal

    @property
    def shards(self) -> list[ShardRecord]:
        return [] if self.journal is None else self.journal.shards

    def leave(self, alone: bool) -> None:
        if self.claim is not None:
            self.claim.leave(alone)
        elif self.own is not None:
            self.own.close()


def _marks(files: formats.Source, names: list[str], whole: bool = False) -> dict[str, FileFingerprint]:
    paths = [shard.path for shard in files.shards]
    marks = each(
        lambda path: FileFingerprint.of(path, modified=True, whole=whole), paths, remote=any(map(is_url, paths))
    )
    return dict(zip(names, marks, strict=True))


def _numbers(files: formats.Source) -> str:
    """A SHA-256 of what the numbers of the rows follow from."""
    return hashlib.sha256(json.dumps(sorted((shard.name, shard.rows) for shard in files.shards)).encode()).hexdigest()


def _specs(spec: Any) -> list[Any]:
    return list(spec) if isinstance(spec, (list, tuple)) else [spec]
