"""Files to files: `align` fits and applies, `apply_files` applies what was fitted before. Their jobs are in align_jobs.py."""

from __future__ import annotations

from collections.abc import Sequence

from fastrealign.core.dtypes import ElementType
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.options import Compute, NoiseOptions, OutputOptions, ReadOptions, documented
from fastrealign.data.process_group import GroupLike
from fastrealign.data.row_source import RowsLike
from fastrealign.jobs.align_jobs import AlignJob, ApplyJob
from fastrealign.jobs.shard_job import JobOptions, Shards
from fastrealign.jobs.summary import Report
from fastrealign.methods.fit_options import FitOptions
from fastrealign.methods.method import Method
from fastrealign.storage.paths import AnyPath


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
