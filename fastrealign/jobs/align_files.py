"""Files to files: `align` fits and applies, `apply_files` applies what was fitted before. See job.py and shard_job.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastrealign import formats
from fastrealign.core.errors import BadShardError
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.options import Compute, NoiseOptions, OutputOptions, PassOptions, ReadOptions, documented
from fastrealign.data.pair import open_target
from fastrealign.data.process_group import GroupLike
from fastrealign.data.rank_share import shared
from fastrealign.data.sources import FileSource
from fastrealign.formats.manifest import Manifest
from fastrealign.jobs.shard_job import JobOptions, ShardJob, Shards, fingerprints_of
from fastrealign.jobs.summary import Report
from fastrealign.jobs.write_shards import check_devices
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.calling import check_rows_kept
from fastrealign.methods.fit_options import FitOptions, check_ranks
from fastrealign.methods.fitting import fit_rows
from fastrealign.methods.loading import as_method, explained_if_swapped
from fastrealign.methods.method import Method
from fastrealign.methods.misfit import closed_by, warn_of_encoder, warn_of_misfit
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import AnyPath, named_paths

if TYPE_CHECKING:
    from fastrealign.core.dtypes import ElementType
    from fastrealign.data.row_source import RowsLike


@computes
@documented(FitOptions, NoiseOptions, ReadOptions, Compute, OutputOptions)
def align(
    source: Shards,
    target: RowsLike,
    out: AnyPath,
    *,
    method: str = "realign",
    centroid: str = "paper",
    one_pass: bool | None = None,
    tol: float | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    noise: float = 0.0,
    dtype: ElementType | None = None,
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
    group: GroupLike = None,
) -> Report:
    """Fit the alignment that moves `source` (text) to `target` (images) and write the source aligned, shard for shard.

    An error keeps the output shards that are complete, for `resume`; where none is, it leaves nothing behind.

    Parameters
    ----------
    source : path, glob, folder or list of paths
        Shards of any format. A path may be a URL (s3://, https://, ...).
    target : path, array, tensor or iterable of chunks
        The same, or rows (n, d) in memory.
    out : path
        A folder that is empty or new; for a single shard also a file name of the same format. It gets an output shard for
        every shard of the source (same name, format, order, ids and other columns), then alignment.safetensors and, last,
        manifest.json.
    {FitOptions}
    {NoiseOptions}
    {ReadOptions}
    {Compute}
    {OutputOptions}
    progress : Progress
        Called as the passes advance; by default nothing is shown.
    group : torch.distributed.ProcessGroup or "world", optional
        The ranks that call this together and divide the files between them. The output is the same.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        For bad input, or an output that cannot be used.
    FastRealignError
        When writing fails.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import fastrealign as fr
    >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> np.save(folder / "text.npy", rng.standard_normal((500, 8)) + 1.0)
    >>> np.save(folder / "image.npy", rng.standard_normal((400, 8)) - 1.0)
    >>> report = fr.align(folder / "text.npy", folder / "image.npy", folder / "aligned")
    >>> sorted(path.name for path in (folder / "aligned").iterdir())
    ['alignment.safetensors', 'manifest.json', 'text.npy']
    >>> report.rows_out, report.gap_left < 0.1 * report.gap_before
    (500, True)
    """
    fit = FitOptions(method, centroid, one_pass, tol, confidence, seed)
    options = JobOptions(
        ReadOptions(column, target_column, bad_rows, bad_shards),
        Compute(threads, devices, max_memory),
        OutputOptions(dtype, overwrite, resume, verify, fsync),
        progress,
        group,
        NoiseOptions(noise, seed),
    )
    return AlignJob(source, target, out, fit, options).run()


@computes
@documented(NoiseOptions, ReadOptions, Compute, OutputOptions)
def apply_files(
    alignment: Method | AnyPath,
    source: Shards,
    out: AnyPath,
    *,
    noise: float = 0.0,
    seed: int = 0,
    dtype: ElementType | None = None,
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
    group: GroupLike = None,
) -> Report:
    """Write `source` aligned by a method that was fitted before, shard for shard.

    The report's gap_before is the fit's; gap_left is measured on the rows written. Where that is more than where the method
    was fitted, beyond sampling and a tenth of gap_before, a FitWarning says so.

    Parameters
    ----------
    alignment : Alignment, Baseline or path of a saved one
        Where the result depends on row numbers (noise), they run over all shards in the order of their names, so the output is
        that of one call on all rows. The method is saved beside the output without the noise, which is of this run.
    source : path, glob, folder or list of paths
        Shards of any format. A path may be a URL (s3://, https://, ...).
    out : path
        As for `align`.
    {NoiseOptions}
    {ReadOptions}
    {Compute}
    {OutputOptions}
    progress : Progress
        Called as the passes advance; by default nothing is shown.
    group : torch.distributed.ProcessGroup or "world", optional
        The ranks that call this together and divide the files between them. The output is the same.

    Returns
    -------
    Report

    Raises
    ------
    InputError
        For bad input, or an output that cannot be used.
    FastRealignError
        When writing fails.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import fastrealign as fr
    >>> folder, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> text, images = rng.standard_normal((500, 8)) + 1.0, rng.standard_normal((400, 8)) - 1.0
    >>> np.save(folder / "text.npy", text)
    >>> report = fr.apply_files(fr.fit(text, images), folder / "text.npy", folder / "aligned")
    >>> report.rows_out
    500
    """
    options = JobOptions(
        ReadOptions(column, None, bad_rows, bad_shards),
        Compute(threads, devices, max_memory),
        OutputOptions(dtype, overwrite, resume, verify, fsync),
        progress,
        group,
        NoiseOptions(noise, seed),
    )
    return ApplyJob(alignment, source, out, options).run()


class AlignJob(ShardJob):
    """Fit on both sides, then write the source aligned."""

    kind = "align"

    def __init__(self, source: Shards, target: RowsLike, out: AnyPath, fit: FitOptions, options: JobOptions) -> None:
        check_devices(fit.method, options.compute.workers, options.noise)
        super().__init__(source, out, options)
        check_ranks(fit.method, self.ranks)
        read = options.read
        opened = open_target(target, self.rows, read.column, read.target_column, read.bad_shards)
        self.target = self.opened("target", opened)
        self.fit_options = fit
        # A target in memory has no fingerprint in the job specification: it is fitted again and compared.
        found: dict[str, FileFingerprint] = {}
        if isinstance(self.target, FileSource):
            files = self.target.files
            found = fingerprints_of(files, [shard.name for shard in files.shards], options.output.verify)
        self._fingerprinted = bool(found)
        self.specify({**fit.to_json(), "target_column": read.target_column}, target=found)
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
        found = fit_rows(
            shared(self.rows, self.ranks) if divide else self.rows,
            shared(self.target, self.ranks) if divide and self._fingerprinted else self.target,
            self.fit_options,
            PassOptions(self.options.read.bad_rows, self.options.compute.workers, self.progress),
        )
        if not isinstance(found, Alignment):
            return found
        return found.named((self.rows.encoder, self.target.encoder), (self.rows.column, self.target.column))


class ApplyJob(ShardJob):
    """Write the source mapped by a method that was fitted before."""

    kind = "apply"

    def __init__(self, method: Method | AnyPath, source: Shards, out: AnyPath, options: JobOptions) -> None:
        with explained_if_swapped(method, source):
            self.method = as_method(method)
        check_devices(self.method.name, options.compute.workers, options.noise)
        super().__init__(source, out, options)
        self.method.check_width(self.rows.d, self.rows.name)
        check_rows_kept(self.method, options.read.bad_rows)
        warn_of_encoder(self.method, self.rows)
        # A resumed run keeps its alignment file and removes nothing.
        saved = [] if options.output.resume else named_paths(method)
        self.layout.check_apart([*named_paths(source), *saved], [self.rows.files])
        self.specify(
            {"method": self.method.name} if not isinstance(self.method, Alignment) else {},
            alignment=self.method.fingerprint,
            numbers=_numbers(self.rows.files) if self.applied.numbered else None,
        )

    def fit(self) -> None:
        self.check_dtype()
        self.start_writing()

    def report(self, manifest: Manifest) -> Report:
        report = super().report(manifest)
        if (
            self.ranks.rank == 0 and not self.options.noise and closed_by(self.rows) is None
        ):  # those leave gaps of their own
            aligned = report.rows_out - (report.bad_rows if report.bad_rows_were == "keep" else 0)
            warn_of_misfit(self.method, report.gap_left, aligned, report.source)
        return report


def _numbers(files: formats.Source) -> str:
    """SHA-256 of what determines the row numbers: names and sizes of the shards."""
    return hashlib.sha256(json.dumps(sorted((shard.name, shard.rows) for shard in files.shards)).encode()).hexdigest()
