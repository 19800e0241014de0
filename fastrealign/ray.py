"""fastrealign on a Ray cluster. Needs Ray: pip install 'fastrealign[ray]'.

    apply_files, align   files to files: the rows of the Ray dataset are shards, not embeddings. Each actor reads, maps and
                         commits whole shards and returns what it counted; the driver notes that in the journal of the run
    AlignBatch           for embeddings that are in a Ray Dataset already: ds.map_batches(AlignBatch, ...)

The output is the same as that of one process, and so is its journal: either can go on where the other stopped.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastrealign import formats
from fastrealign.core import errors
from fastrealign.core.errors import BadRowsError, BadShardError, FastRealignError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.tensors import as_tensor
from fastrealign.data.options import Compute, OutputOptions, ReadOptions
from fastrealign.data.workers import Workers
from fastrealign.formats.manifest import ShardRecord
from fastrealign.formats.registry import format_of
from fastrealign.formats.tables import TableShard
from fastrealign.jobs.align_files import AlignJob, ApplyJob
from fastrealign.jobs.shard_job import JobOptions, ShardJob
from fastrealign.jobs.summary import Report
from fastrealign.jobs.write_shards import Note, ShardPlan, ThreadedWriter, Unwritten
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.loading import as_method
from fastrealign.methods.method import Method
from fastrealign.methods.options import FitOptions
from fastrealign.storage.fingerprint import FileFingerprint

try:
    import ray
    import ray.data
except ImportError as error:
    raise InputError(f"fastrealign.ray needs Ray ({error}); pip install 'fastrealign[ray]'") from None

T = TypeVar("T")

# Blocks that a dataset of shards is cut into, at most. The driver hears of shards a block at a time.
_BLOCKS = 1000


@computes
def apply_files(
    alignment: Method | str | os.PathLike,
    source: Any,
    out: str | os.PathLike,
    *,
    actors: int | None = None,
    cpus_per_actor: int = 1,
    **options: Any,
) -> Report:
    """`fastrealign.apply_files` by actors of a Ray cluster; source and output must be visible from every node.

    actors           how many work at a time; None: as many as the cluster has processors for
    cpus_per_actor   processors, and threads, of each
    options          as for `fastrealign.apply_files`: dtype, bad_rows, bad_shards, overwrite, resume, column, fsync, progress
    """
    return _by_actors(ApplyJob(alignment, source, out, _job_options(options)), actors, cpus_per_actor)


@computes
def align(
    source: Any,
    target: Any,
    out: str | os.PathLike,
    *,
    actors: int | None = None,
    cpus_per_actor: int = 1,
    **options: Any,
) -> Report:
    """`fastrealign.align` with the shards written by actors, as in `apply_files`.

    The fit runs in the driver; of a large corpus let it read a sample, with tol=1e-3 for example.
    """
    fit = _taken(FitOptions, options)
    return _by_actors(AlignJob(source, target, out, fit, _job_options(options)), actors, cpus_per_actor)


def _job_options(options: dict[str, Any]) -> JobOptions:
    """The options of a job, of those that the user gave by name."""
    if options.get("group") is not None:
        raise InputError(
            "group shares shards out between ranks of torch.distributed, Ray between its actors: choose one"
        )
    groups = [_taken(kind, options) for kind in (ReadOptions, Compute, OutputOptions)]
    return JobOptions(*groups, **options)


def _taken(kind: type[T], options: dict[str, Any]) -> T:
    """The options that are of this kind, taken out of `options`."""
    return kind(**{field.name: options.pop(field.name) for field in fields(kind) if field.name in options})


def _by_actors(job: ShardJob, actors: int | None, cpus: int) -> Report:
    if (actors is not None and actors < 1) or cpus < 1:
        raise InputError(f"actors={actors}, cpus_per_actor={cpus}: expected at least 1")
    job.make_writer = partial(RayWriter, actors=actors, cpus=cpus)
    return job.run()


class RayWriter:
    """Writes the shards of a plan by actors: they write and commit, this process notes what they say.

    left_out  shards that could not be read, by name with the reason
    """

    def __init__(self, plan: ShardPlan, note: Note, workers: Workers, *, actors: int | None, cpus: int) -> None:
        self.source = Unwritten(plan.files, plan.left, plan.output.dtype, in_order=True)
        self.left_out: dict[str, str] = {}
        self._note = note
        self._skip = plan.read.bad_shards == "skip"
        self._actors, self._cpus = actors, cpus
        self._tasks = [
            {
                **_task(plan.files.shards[i], plan.out.names[i], plan.out.metadata[i]),
                "dim": plan.files.dim,
                "first": self.source.piece(i, 0, 0).first,
                "fingerprint": json.dumps(plan.fingerprints[i].to_json()),
            }
            for i in plan.left
        ]
        # What every actor is told: the plan without its shards, which it gets one by one.
        root = Path(os.path.abspath(plan.out.root))
        nothing = formats.Source(plan.files.name, [], 0, plan.files.dim)
        shared = replace(plan, files=nothing, out=_Place(root, [], []), left=[], fingerprints=[])
        self._how = {"plan": shared, "workers": replace(workers, threads=cpus)}

    def run(self, progress: Progress) -> None:
        if not self._tasks:
            return
        if not ray.is_initialized():
            ray.init()
        actors = self._actors or max(1, int(ray.cluster_resources().get("CPU", 1)) // self._cpus)
        shards = ray.data.from_items(self._tasks, override_num_blocks=min(len(self._tasks), _BLOCKS))
        done = shards.map(
            ShardActor,
            fn_constructor_kwargs=self._how,
            concurrency=min(actors, len(self._tasks)),
            num_cpus=self._cpus,
        )
        progress.start("aligning", self.source.rows, self.source.nbytes)
        try:
            for row in done.iter_rows():
                self._take_in(row, progress)
        finally:
            progress.finish()

    def _take_in(self, row: dict[str, Any], progress: Progress) -> None:
        if row["why"]:
            kind = getattr(errors, row["kind"], FastRealignError)
            if kind is BadShardError and self._skip:
                self.left_out[row["name"]] = row["why"]
                return
            raise kind(row["why"])
        record = ShardRecord(**json.loads(row["record"]))
        sums = ExactSum(self.source.d)
        sums.low = np.frombuffer(row["low"], np.uint64).copy()
        sums.high = np.frombuffer(row["high"], np.int64).copy()
        sums.count = row["count"]
        self._note(record, sums)
        progress.advance(record.rows_in, row["nbytes"])


class ShardActor:
    """An actor: a shard in, its output shard committed, what is known of it returned."""

    def __init__(self, plan: ShardPlan, workers: Workers) -> None:
        self._plan, self._workers = plan, workers

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        noted: list[tuple[ShardRecord, ExactSum]] = []
        said = {
            "name": task["name"],
            "kind": "",
            "why": "",
            "record": "",
            "low": b"",
            "high": b"",
            "count": 0,
            "nbytes": 0,
        }
        try:
            shard = _shard(task)
            plan = replace(
                self._plan,
                files=formats.Source(shard.path, [shard], shard.rows, shard.dim or self._plan.method.dim),
                out=_Place(self._plan.out.root, [task["name"]], [task["metadata_name"]]),
                left=[0],
                fingerprints=[FileFingerprint.from_json(json.loads(task["fingerprint"]))],
                first=task["first"],
            )
            writer = ThreadedWriter(plan, lambda *shard: noted.append(shard), self._workers)
            writer.run(SILENT)
        except FastRealignError as error:
            return {**said, "kind": type(error).__name__, "why": str(error)}
        for name, why in writer.left_out.items():
            return {**said, "name": name, "kind": "BadShardError", "why": why}
        record, sums = noted[0]
        return {
            **said,
            "record": json.dumps(asdict(record)),
            "low": sums.low.tobytes(),
            "high": sums.high.tobytes(),
            "count": sums.count,
            "nbytes": shard.nbytes,
        }


class _Place(NamedTuple):
    """Where an actor writes: as much of a Layout as it needs."""

    root: Path
    names: list[str]
    metadata: list[str | None]


def _task(shard: formats.Shard, name: str, metadata_name: str | None) -> dict[str, Any]:
    return {
        "path": os.path.abspath(shard.path),
        "name": name,
        "column": shard.column,
        "metadata": None if shard.metadata is None else os.path.abspath(shard.metadata),
        "metadata_name": metadata_name,
    }


def _shard(task: dict[str, Any]) -> formats.Shard:
    try:
        shard = format_of(task["path"])(task["path"], task["name"], task["column"])
    except InputError as error:  # it could be opened when the run began
        raise BadShardError(str(error)) from error
    if isinstance(shard, TableShard):
        shard.adopt(task["dim"], shard.dtype)
    shard.metadata = None if task["metadata"] is None else Path(task["metadata"])
    return shard


class AlignBatch:
    """For ds.map_batches: aligns the column of embeddings of each batch.

    >>> ds.map_batches(AlignBatch, fn_constructor_args=["text2image.safetensors"], concurrency=4)

    alignment   an Alignment, or the path of a saved one; a Baseline too, unless it numbers rows (c3)
    column      that holds the embeddings: vectors of one width
    out         column for the result; None: the same one
    dtype       element type of the result; None: that of the column
    device      "cuda": map on the actor's GPU (with num_gpus=1)
    bad_rows    "error" or "keep": a batch keeps its rows
    Batches may be NumPy dicts, pandas or pyarrow tables (batch_format); they come back as they came.
    """

    def __init__(
        self,
        alignment: Method | str | os.PathLike,
        column: str = "embedding",
        *,
        out: str | None = None,
        dtype: Any = None,
        device: str | None = None,
        bad_rows: str = "error",
    ) -> None:
        if bad_rows not in ("error", "keep"):
            raise InputError(f"bad_rows={bad_rows!r}: a batch keeps its rows, expected 'error' or 'keep'")
        self.alignment = as_method(alignment)
        if isinstance(self.alignment, Baseline) and self.alignment.numbered:
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
                rows = np.stack(rows)
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
        import pyarrow as pa

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
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), width)
        if self.out in table.column_names:
            return table.set_column(table.column_names.index(self.out), self.out, values)
        return table.append_column(self.out, values)
