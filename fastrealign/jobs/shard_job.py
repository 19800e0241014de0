"""What `align` and `apply_files` share: an output shard for each shard of the source, the alignment and the manifest."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fastrealign import formats
from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.wording import option
from fastrealign.data.options import NO_NOISE, Compute, NoiseOptions, OutputOptions, ReadOptions
from fastrealign.data.process_group import GroupLike, ranks_of
from fastrealign.data.rank_share import owner
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import FileSource, open_rows
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.manifest import JobSpec, Manifest
from fastrealign.jobs.job import Job
from fastrealign.jobs.journal import Group
from fastrealign.jobs.layout import Layout
from fastrealign.jobs.resumable_folder import ResumableFolder
from fastrealign.jobs.shard_plan import Destination, MakeWriter, ShardPlan
from fastrealign.jobs.summary import Report
from fastrealign.jobs.write_shards import LISTED_ROWS, ThreadedWriter
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.fit_options import MOVES_ANCHOR
from fastrealign.methods.loading import load
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import warn_if_aligned
from fastrealign.methods.noisy import own_noise, with_noise
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import AnyPath, check_output, each, place

Shards: TypeAlias = AnyPath | Sequence[AnyPath] | formats.Source


@dataclass(frozen=True)
class JobOptions:
    """How a job reads, computes and writes."""

    read: ReadOptions
    compute: Compute
    output: OutputOptions
    progress: Progress = SILENT
    group: GroupLike = None
    noise: NoiseOptions = NO_NOISE


class ShardJob(Job[Report]):
    """A job that writes an output shard for each shard of its source. Subclasses add `fit` and complete the specification.

    `make_writer` makes what writes the shards: threads of this process, or actors of a Ray cluster.
    """

    kind: str
    method: Method
    source: FileSource
    layout: Layout

    def __init__(self, source: Shards, out: AnyPath, options: JobOptions) -> None:
        self.started = time.perf_counter()
        self.options = options
        read, output = options.read, options.output
        check_output(out)
        ranks = ranks_of(options.group)
        if ranks.size > 1 and not isinstance(place(out), Path):
            raise InputError(
                f"{out}: several processes keep their journals beside the shards, which a remote store does not "
                "allow; name a folder that all of them see, or use fastrealign.ray, where one process keeps it"
            )
        self.sides: dict[str, FileSource] = {}
        self.left_out: dict[str, dict[str, str]] = {}
        self.make_writer: MakeWriter = ThreadedWriter
        self.now = (0, 0)  # rows that this run aligned, and their bytes
        column = Wanted(read.column, "source", alone=self.kind == "apply")  # of an alignment it may be the target's
        opened = self.opened("source", open_rows(source, "source", column, read.bad_shards))
        if not isinstance(opened, FileSource):
            raise InputError("source: expected files (a path, a glob, a folder or a list of paths); for arrays use fit")
        warn_if_aligned(opened)
        self.source = opened
        self.layout = Layout(out, opened.files)
        dtype = None if output.dtype is None else output.dtype.name
        spec = JobSpec(
            kind=self.kind,
            options={"dtype": dtype, "bad_rows": read.bad_rows, "column": read.column, **options.noise.to_json()},
            source=fingerprints_of(opened.files, self.layout.names, output.verify),
            metadata=[*(name for name in self.layout.metadata if name is not None), *self.layout.beside],
        )
        super().__init__(ResumableFolder(self.layout, output), spec, options.progress, ranks)

    def opened(self, side: str, rows: RowSource) -> RowSource:
        """Record a side, and which of its shards could not be opened."""
        if isinstance(rows, FileSource):
            self.sides[side] = rows
            if rows.files.left_out:
                self.left_out[side] = dict(rows.files.left_out)
        return rows

    def specify(self, options: dict[str, Any], **more: Any) -> None:
        """Complete the job specification: `options` come first, `more` are its other fields."""
        self.spec = self.folder.spec = replace(self.spec, options={**options, **self.spec.options}, **more)

    @property
    def applied(self) -> Method:
        """What maps the rows: the method, with noise where that was asked for."""
        return with_noise(self.method, self.options.noise)

    def start_writing(self) -> None:
        """Record the method, and clear a run that is replaced."""
        self.ranks.on_rank_0(lambda: self.folder.start_writing(self.method))
        self.journal.note_alignment(self.method.fingerprint)

    def write(self) -> None:
        plan = ShardPlan(
            self.source.files,
            Destination(self.layout.root, self.layout.names, self.layout.metadata),
            self._mine(),
            self.applied,
            self.options.read,
            self.options.output,
            [self.spec.source[name] for name in self.layout.names],
        )
        writer = self.make_writer(plan, self.journal.add, self.options.compute.workers)
        writer.run(self.progress)
        self.journal.flush()
        for left_out in self.ranks.all_gather(writer.left_out):
            if left_out:
                self.left_out.setdefault("source", {}).update(left_out)
        rows, nbytes = zip(*self.ranks.all_gather((writer.source.rows, writer.source.nbytes)), strict=True)
        self.now = sum(rows), sum(nbytes)

    def finish(self) -> Manifest:
        """Rank 0 takes the records of the other ranks into its journal, and writes alignment and manifest."""
        others = self.ranks.all_gather(self.journal.noted.groups if self.ranks.rank > 0 else [])
        manifest = self.ranks.broadcast(self.ranks.on_rank_0(lambda: self._write_manifest(others)))
        assert manifest is not None  # rank 0 has one
        if self._measures:
            gap_left = float("nan") if manifest.gap_left is None else manifest.gap_left
            self.method = _measured(self.method, gap_left)
        return manifest

    def _write_manifest(self, others: list[list[Group]]) -> Manifest:
        journal, method = self.folder.journal, self.method
        for groups in others:
            journal.take_in(groups)
        records = {record.name: record for record in journal.shards}
        for dataset in self.source.files.datasets if self.layout.beside else ():
            dataset.write(self.layout.root, records, self.applied.fingerprint, self.folder.fsync)
        gap_left = float(np.linalg.norm(journal.total(method.dim_out).mean - method.mean_target))
        if math.isnan(method.gap_before) or method.name in MOVES_ANCHOR:  # a map from pairs; the target moves too
            gap_left = math.nan
        if self._measures:
            method = _measured(method, gap_left)
        return self.folder.write_manifest(method, gap_left, self.left_out, self._columns)

    @property
    def _measures(self) -> bool:
        """Whether the gap that the rows written leave is that of the method, which is then saved with it."""
        return self.kind == "align" and not self.options.noise

    def reopen(self, manifest: Manifest) -> None:
        method = self.ranks.broadcast(self.ranks.on_rank_0(lambda: self._method_of(manifest)))
        assert method is not None  # rank 0 has one
        self.method = method

    def report(self, manifest: Manifest) -> Report:
        shards = dict(zip(self.layout.names, self.source.files.shards, strict=True))
        bad = [f"{shards[done.name].where(row)} {why}" for done in manifest.shards for row, why in done.first_bad]
        rows_now, bytes_now = self.now
        written_now = [shard for shard in manifest.shards if shard.name not in self.before]
        return Report(
            kind=manifest.spec.kind,
            source=self.source.name,
            out=self.layout.out,
            columns=self._columns,
            alignment=self.method,
            gap_before=self.method.gap_before,
            gap_left=float("nan") if manifest.gap_left is None else manifest.gap_left,
            noise=self.options.noise or own_noise(self.method),
            rows_in=sum(shard.rows_in for shard in manifest.shards),
            rows_out=sum(shard.rows_out for shard in manifest.shards),
            skipped=sum(shard.skipped for shard in manifest.shards),
            bad_rows=sum(shard.bad_rows for shard in manifest.shards),
            bad_rows_were=manifest.spec.options["bad_rows"],
            first_bad=bad[:LISTED_ROWS],
            dropped={shard.name: shard.dropped for shard in manifest.shards if shard.dropped},
            left_out=[why for side in manifest.left_out.values() for why in side.values()],
            notes=sorted({shard.note for shard in shards.values() if shard.note}),
            shards=len(manifest.shards),
            shards_before=len(self.before),
            bytes_out=sum(shard.bytes for shard in manifest.shards),
            rows_now=rows_now,
            bytes_now=bytes_now,
            aligned_now=sum(shard.rows_in - shard.bad_rows for shard in written_now),
            bad_now=sum(shard.bad_rows for shard in written_now),
            seconds=time.perf_counter() - self.started,
            files={"alignment": str(self.layout.alignment), "manifest": str(self.layout.manifest)},
        )

    def check_dtype(self) -> None:
        """Refuse a type that the format cannot hold before the fit, not after it."""
        first = self.source.files.shards[0]
        dtype = self.options.output.dtype
        if dtype is not None and not first.opens_whole:
            first.writer(self.layout.root / self.layout.names[0], dtype, first.rows, fsync=False).abort()

    def _method_of(self, manifest: Manifest) -> Method:
        """The method of the complete run."""
        path = self.layout.alignment
        assert path is not None
        method = load(path)
        if method.fingerprint != manifest.alignment:
            raise InputError(
                f"{self.layout.alignment}: was changed since the run was complete; restart with {option('overwrite', True)}"
            )
        return method

    def _mine(self) -> list[int]:
        """The places of the shards that this rank writes: a contiguous part of those left, of about as many rows as others."""
        names, files = self.layout.names, self.source.files
        left = [i for i, name in enumerate(names) if name not in self.before and i not in self.source.left_out]
        starts = [0, *accumulate(files.shards[i].rows for i in left)]
        return [
            i for i, at in zip(left, starts, strict=False) if owner(at, starts[-1], self.ranks.size) == self.ranks.rank
        ]

    @property
    def _columns(self) -> dict[str, str]:
        """The name under which the files of each side hold the embeddings, where they have one."""
        return {side: rows.column for side, rows in self.sides.items() if rows.column is not None}


def fingerprints_of(files: formats.Source, names: Sequence[str], whole: bool = False) -> dict[str, FileFingerprint]:
    """The fingerprints of the shards, by these names."""
    paths = [shard.path for shard in files.shards]
    found = each(lambda path: FileFingerprint.of(path, modified=True, whole=whole), paths)
    return dict(zip(names, found, strict=True))


def _measured(method: Method, gap_left: float) -> Method:
    """The method with the gap that the rows written leave."""
    assert isinstance(method, (Alignment, Baseline))
    return replace(method, gap_left=gap_left)
