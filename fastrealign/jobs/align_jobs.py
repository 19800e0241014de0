"""The jobs of `align` and `apply_files`: how each finds its method, and what it checks. See job.py and shard_job.py."""

from __future__ import annotations

import json

from fastrealign import formats
from fastrealign.core.digest import sha256
from fastrealign.core.errors import BadShardError
from fastrealign.data.options import PassOptions
from fastrealign.data.pair import open_target
from fastrealign.data.rank_share import shared
from fastrealign.data.row_source import RowsLike
from fastrealign.data.sources import FileSource
from fastrealign.formats.manifest import Manifest
from fastrealign.jobs.shard_job import JobOptions, ShardJob, Shards, fingerprints_of
from fastrealign.jobs.summary import Report
from fastrealign.jobs.write_shards import check_devices
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.calling import check_rows_kept
from fastrealign.methods.fit_options import FitOptions, check_ranks
from fastrealign.methods.fitting import fit_sources
from fastrealign.methods.loading import as_method, explained_if_swapped
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import closed_by, warn_of_encoder, warn_of_misfit
from fastrealign.methods.noisy import noise_of_fit, own_noise
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import AnyPath, named_paths


class AlignJob(ShardJob):
    """Fit on both sides, then write the source aligned."""

    kind = "align"

    def __init__(self, source: Shards, target: RowsLike, out: AnyPath, fit: FitOptions, options: JobOptions) -> None:
        check_devices(fit.method, options.compute.workers, options.noise)
        super().__init__(source, out, options)
        check_ranks(fit.method, self.ranks)
        read = options.read
        opened = open_target(target, self.source, read.column, read.target_column, read.bad_shards)
        self.target = self.opened("target", opened)
        self.fit_options = fit
        # A target in memory has no fingerprint in the job specification: it is fitted again and compared.
        found: dict[str, FileFingerprint] = {}
        if isinstance(self.target, FileSource):
            files = self.target.files
            found = fingerprints_of(files, [shard.name for shard in files.shards], options.output.verify)
        self._fingerprinted = bool(found)
        own = {} if options.noise else noise_of_fit(fit, self.source.d)
        self.specify(
            {**fit.to_json(), **own, "target_column": read.target_column}, target=found, implied=frozenset(own)
        )
        self.layout.check_apart(
            [*named_paths(source), *named_paths(target)], [rows.files for rows in self.sides.values()]
        )

    def fit(self) -> None:
        self.check_dtype()
        while True:
            try:
                self.method = self.ranks.broadcast(self._fitted())
                break
            except BadShardError as error:  # fit again without it, if it may be left out
                if self.options.read.bad_shards == "error":
                    raise
                for side, rows in self.sides.items():
                    if rows.name == error.source:
                        rows.leave_out(error.shard)
                        self.left_out.setdefault(side, {})[rows.files.shards[error.shard].name] = str(error)
        self.start_writing()

    def _fitted(self) -> Method:
        """The method that the unfinished run recorded, else a fit."""
        resumed = self.ranks.rank == 0 and self._fingerprinted
        noted = self.ranks.broadcast(self.folder.noted_alignment() if resumed else None)
        if noted is not None:
            return noted
        divide = self.fit_options.tol is None  # a sample is small: every rank reads the same one
        found = fit_sources(
            shared(self.source, self.ranks) if divide else self.source,
            shared(self.target, self.ranks) if divide and self._fingerprinted else self.target,
            self.fit_options,
            PassOptions(self.options.read.bad_rows, self.options.compute.workers, self.progress),
        )
        if not isinstance(found, Alignment):
            return found
        return found.named((self.source.encoder, self.target.encoder), (self.source.column, self.target.column))


class ApplyJob(ShardJob):
    """Write the source mapped by a method that was fitted before."""

    kind = "apply"

    def __init__(self, method: Method | AnyPath, source: Shards, out: AnyPath, options: JobOptions) -> None:
        with explained_if_swapped(method, source):
            self.method = as_method(method)
        check_devices(self.method.name, options.compute.workers, options.noise)
        super().__init__(source, out, options)
        self.method.check_width(self.source.d, self.source.name)
        check_rows_kept(self.method, options.read.bad_rows)
        warn_of_encoder(self.method, self.source)
        # A resumed run keeps its alignment file and removes nothing.
        saved = [] if options.output.resume else named_paths(method)
        self.layout.check_apart([*named_paths(source), *saved], [self.source.files])
        own = {} if options.noise else own_noise(self.method).to_json()
        self.specify(
            {"method": self.method.name, **own} if not isinstance(self.method, Alignment) else {},
            alignment=self.method.fingerprint,
            numbers=_numbers(self.source.files) if self.applied.numbered else None,
            implied=frozenset(own),
        )

    def fit(self) -> None:
        self.check_dtype()
        self.start_writing()

    def report(self, manifest: Manifest) -> Report:
        report = super().report(manifest)
        # Noise, and a map of rows that a run has written, leave gaps of their own.
        if self.ranks.rank == 0 and not self.options.noise and closed_by(self.source) is None:
            aligned = report.rows_out - (report.bad_rows if report.bad_rows_were == "keep" else 0)
            warn_of_misfit(self.method, report.gap_left, aligned, report.source)
        return report


def _numbers(files: formats.Source) -> str:
    """SHA-256 of what determines the row numbers: names and sizes of the shards."""
    return sha256(json.dumps(sorted((shard.name, shard.rows) for shard in files.shards)).encode()).hexdigest()
