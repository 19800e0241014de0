"""fastrealign on a Ray cluster. Needs Ray: pip install 'fastrealign[ray]'.

apply_files, align
    Files to files: the rows of the Ray dataset are shards, not embeddings. Each actor reads, maps and commits whole shards and
    returns what it counted; the driver records that in the journal of the run.
AlignBatch
    For embeddings that are in a Ray Dataset already: ds.map_batches(AlignBatch, ...).

The output is the same as that of one process, and so is its journal: either can resume what the other began.
"""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.dtypes import ElementType
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.float_state import computes
from fastrealign.core.libraries import pa
from fastrealign.core.optional import optional
from fastrealign.core.tensors import as_tensor
from fastrealign.data.options import Compute, NoiseOptions, OutputOptions, ReadOptions
from fastrealign.data.row_source import RowsLike
from fastrealign.jobs.align_jobs import AlignJob, ApplyJob
from fastrealign.jobs.ray_writer import RayWriter
from fastrealign.jobs.shard_job import JobOptions, ShardJob, Shards
from fastrealign.jobs.summary import Report
from fastrealign.methods.fit_options import FitOptions
from fastrealign.methods.loading import as_method
from fastrealign.methods.method import Method
from fastrealign.storage.paths import AnyPath

# Fails when this module is imported, not when the first job runs.
optional("ray.data", "ray", "fastrealign.ray")

T = TypeVar("T", ReadOptions, Compute, OutputOptions, FitOptions)


@computes
def apply_files(
    alignment: Method | AnyPath,
    source: Shards,
    out: AnyPath,
    *,
    actors: int | None = None,
    cpus_per_actor: int = 1,
    **options: Any,
) -> Report:
    """`fastrealign.apply_files` by actors of a Ray cluster.

    Parameters
    ----------
    alignment : Alignment, Baseline or path of a saved one
    source, out : path
        Must be visible from every node.
    actors : int, optional
        How many work at a time; by default as many as the cluster has CPUs for.
    cpus_per_actor : int, default 1
        CPUs, and threads, of each.
    **options
        As for `fastrealign.apply_files`: noise, seed, dtype, bad_rows, bad_shards, overwrite, resume, column, fsync,
        progress.

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
    >>> import fastrealign as fr
    >>> fr.ray.apply_files("text2image.safetensors", "text/", "aligned/", actors=8)  # doctest: +SKIP
    """
    noise = NoiseOptions(options.pop("noise", 0.0), options.pop("seed", 0))
    return _by_actors(ApplyJob(alignment, source, out, _job_options(options, noise)), actors, cpus_per_actor)


@computes
def align(
    source: Shards,
    target: RowsLike,
    out: AnyPath,
    *,
    actors: int | None = None,
    cpus_per_actor: int = 1,
    **options: Any,
) -> Report:
    """`fastrealign.align` with the shards written by actors of a Ray cluster.

    The fit runs in the driver; of a large corpus let it read a sample, with tol=1e-3 for example.

    Parameters
    ----------
    source, target, out
        As for `fastrealign.align`; paths must be visible from every node.
    actors, cpus_per_actor
        As for `apply_files`.
    **options
        As for `fastrealign.align`.

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
    >>> import fastrealign as fr
    >>> fr.ray.align("text/", "images/", "aligned/", actors=8, tol=1e-3)  # doctest: +SKIP
    """
    noise = NoiseOptions(options.pop("noise", 0.0), options.get("seed", 0))
    fit = _taken(FitOptions, options)
    return _by_actors(AlignJob(source, target, out, fit, _job_options(options, noise)), actors, cpus_per_actor)


def _job_options(options: dict[str, Any], noise: NoiseOptions) -> JobOptions:
    """The options of a job, of those that the user gave by name."""
    if options.get("group") is not None:
        raise InputError(
            "group shares shards out between ranks of torch.distributed, Ray between its actors: choose one"
        )
    kinds = _taken(ReadOptions, options), _taken(Compute, options), _taken(OutputOptions, options)
    return JobOptions(*kinds, **options, noise=noise)


def _taken(kind: type[T], options: dict[str, Any]) -> T:
    """The options that are of this kind, taken out of `options`."""
    return kind(**{field.name: options.pop(field.name) for field in fields(kind) if field.name in options})


def _by_actors(job: ShardJob, actors: int | None, cpus: int) -> Report:
    actors = None if actors is None else whole("actors", actors, 1)
    cpus = whole("cpus_per_actor", cpus, 1)
    job.make_writer = partial(RayWriter, actors=actors, cpus=cpus)
    return job.run()


class AlignBatch:
    """For ds.map_batches: aligns the column of embeddings of each batch.

    Batches may be NumPy dicts, pandas or pyarrow tables (batch_format); the result has the same type.

    Parameters
    ----------
    alignment : Alignment, Baseline or path of a saved one
        Not a method that depends on row numbers (c3).
    column : str, default "embedding"
        The column that holds the embeddings: vectors of one width.
    out : str, optional
        The column for the result; by default the same one.
    dtype : str or dtype, optional
        Element type of the result; by default that of the column.
    device : str, optional
        "cuda": map on the actor's GPU (with num_gpus=1).
    bad_rows : str, default "error"
        "error" or "keep": a batch keeps its rows.

    Raises
    ------
    InputError
        For other values of `bad_rows`, or a method that depends on row numbers.

    Examples
    --------
    >>> ds.map_batches(AlignBatch, fn_constructor_args=["text2image.safetensors"], concurrency=4)  # doctest: +SKIP
    """

    def __init__(
        self,
        alignment: Method | AnyPath,
        column: str = "embedding",
        *,
        out: str | None = None,
        dtype: ElementType | None = None,
        device: str | None = None,
        bad_rows: str = "error",
    ) -> None:
        if bad_rows not in ("error", "keep"):
            raise InputError(f"bad_rows={bad_rows!r}: a batch keeps its rows, expected 'error' or 'keep'")
        self.alignment = as_method(alignment)
        if self.alignment.numbered:
            raise InputError(
                f"{self.alignment.name} numbers rows, and a batch does not say where its rows stand; write the dataset to "
                "files and use fastrealign.ray.apply_files"
            )
        self.column, self.out = column, out or column
        self.dtype, self.device, self.bad_rows = dtype, device, bad_rows

    def __call__(self, batch: Any) -> Any:
        names = batch.column_names if hasattr(batch, "column_names") else list(batch)
        if self.column not in names:
            raise InputError(
                f"the batch has no column {self.column!r}, it has {', '.join(map(str, names))}; pass column="
            )
        if isinstance(batch, dict):
            return {**batch, self.out: self._aligned(np.asarray(batch[self.column]))}
        if hasattr(batch, "column_names"):
            return self._with_column(batch)
        rows = self._aligned(np.stack(batch[self.column].to_list()))
        return batch.assign(**{self.out: list(rows)})

    def _aligned(self, rows: np.ndarray) -> np.ndarray:
        if rows.dtype == object:
            try:
                rows = np.stack(list(rows))
            except ValueError:
                raise InputError(f"column {self.column!r}: vectors of different widths, or missing ones") from None
        if rows.ndim != 2:
            raise InputError(f"column {self.column!r}: shape {rows.shape}, expected one vector a row")
        try:
            if self.device is None:
                return self.alignment(rows, dtype=self.dtype, bad_rows=self.bad_rows)
            on_device = as_tensor(np.ascontiguousarray(rows)).to(self.device)
            return self.alignment(on_device, dtype=self.dtype, bad_rows=self.bad_rows).cpu().numpy()
        except BadRowsError as error:
            raise BadRowsError(f"column {self.column!r} of a batch: {error}") from None

    def _with_column(self, table: Any) -> Any:
        lists = table[self.column].combine_chunks()
        if isinstance(lists, pa.ChunkedArray):  # extension types (Ray's tensors) stay in chunks
            lists = pa.chunked_array([getattr(chunk, "storage", chunk) for chunk in lists.chunks]).combine_chunks()
        lists = getattr(lists, "storage", lists)
        width = self.alignment.dim
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        if lists.null_count or len(flat) != len(lists) * width:
            raise InputError(
                f"column {self.column!r}: expected {width} values in every row, the width of the alignment"
            )
        rows = self._aligned(flat.reshape(len(lists), width))
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.alignment.dim_out)
        if self.out in table.column_names:
            return table.set_column(table.column_names.index(self.out), self.out, values)
        return table.append_column(self.out, values)
