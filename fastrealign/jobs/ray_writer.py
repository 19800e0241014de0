"""The writer of shards on a Ray cluster: each actor reads, maps and commits whole shards, the driver records them.

The rows of the Ray dataset have one column of bytes, so that the records of shards and errors have one schema.
"""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path

from fastrealign import formats
from fastrealign.core.errors import BadShardError, FastRealignError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.optional import optional
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.workers import Workers
from fastrealign.formats.manifest import ShardRecord
from fastrealign.formats.registry import format_of
from fastrealign.formats.tables import TableShard
from fastrealign.jobs.shard_plan import Destination, Note, ShardPlan, Unwritten
from fastrealign.jobs.write_shards import ThreadedWriter
from fastrealign.storage.fingerprint import FileFingerprint

# Blocks that a dataset of shards is cut into, at most. Actors return the records of a block together.
_BLOCKS = 1000


class RayWriter:
    """Writes the shards of a plan with actors: they write and commit, this process records what they return."""

    def __init__(self, plan: ShardPlan, note: Note, workers: Workers, *, actors: int | None, cpus: int) -> None:
        self.source = Unwritten(plan.files, plan.left, plan.output.dtype, in_order=True)
        self.left_out: dict[str, str] = {}
        self._note = note
        self._skip = plan.read.bad_shards == "skip"
        self._actors, self._cpus = actors, cpus
        self._tasks = [
            {"task": pickle.dumps(_Task.of(plan, at, self.source.piece(at, 0, 0).first))} for at in plan.left
        ]
        # Every actor gets the plan without its shards, then these one by one.
        root = Path(os.path.abspath(plan.out.root))
        nothing = formats.Source(plan.files.name, [], 0, plan.files.dim)
        shared = replace(plan, files=nothing, out=Destination(root, [], []), left=[], fingerprints=[])
        self._how = {"plan": shared, "workers": replace(workers, threads=cpus)}

    def run(self, progress: Progress) -> None:
        if not self._tasks:
            return
        ray = optional("ray", "ray", "fastrealign.ray")
        data = optional("ray.data", "ray", "fastrealign.ray")
        if not ray.is_initialized():
            ray.init()
        actors = self._actors or max(1, int(ray.cluster_resources().get("CPU", 1)) // self._cpus)
        shards = data.from_items(self._tasks, override_num_blocks=min(len(self._tasks), _BLOCKS))
        done = shards.map(
            ShardActor, fn_constructor_kwargs=self._how, concurrency=min(actors, len(self._tasks)), num_cpus=self._cpus
        )
        try:
            with progress.running("aligning", self.source.rows, self.source.nbytes):
                for row in done.iter_rows():
                    self._take_in(pickle.loads(row["done"]), progress)
        finally:
            # The traceback of an error would keep it, and with it Ray's executor, which hands out further shards.
            del done

    def _take_in(self, done: _Done, progress: Progress) -> None:
        if done.record is not None:
            self._note(done.record, done.sums)
            progress.advance(done.record.rows_in, done.nbytes)
        elif self._skip and isinstance(done.error, BadShardError):
            self.left_out[done.name] = str(done.error)
        else:
            raise done.error or FastRealignError(f"{done.name}: an actor returned nothing")


class ShardActor:
    """An actor: reads a shard, commits its output shard and returns its record."""

    def __init__(self, plan: ShardPlan, workers: Workers) -> None:
        self._plan, self._workers = plan, workers

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        task: _Task = pickle.loads(row["task"])
        done = _Done(task.name)

        def note(record: ShardRecord, sums: ExactSum) -> None:
            done.record, done.sums = record, sums

        try:
            shard = task.open()
            done.nbytes = shard.nbytes
            plan = replace(
                self._plan,
                files=formats.Source(shard.path, [shard], shard.rows, shard.dim or self._plan.method.dim),
                out=Destination(self._plan.out.root, [task.name], [task.metadata_name]),
                left=[0],
                fingerprints=[task.fingerprint],
                first=task.first,
            )
            writer = ThreadedWriter(plan, note, self._workers)
            writer.run(SILENT)
            for why in writer.left_out.values():
                done.error = BadShardError(why)
        except FastRealignError as error:
            done.error = error
        return {"done": pickle.dumps(done)}


@dataclass
class _Done:
    """What an actor returns: the record of a shard and the sums of its columns, or an error."""

    name: str
    record: ShardRecord | None = None
    sums: ExactSum = field(default_factory=lambda: ExactSum(0))
    nbytes: int = 0
    error: FastRealignError | None = None


@dataclass(frozen=True)
class _Task:
    """One shard, as an actor opens it."""

    path: str
    name: str
    column: str | None
    dim: int
    metadata: Path | None
    metadata_name: str | None
    first: int
    fingerprint: FileFingerprint

    @classmethod
    def of(cls, plan: ShardPlan, at: int, first: int) -> _Task:
        shard = plan.files.shards[at]
        metadata = None if shard.metadata is None else Path(os.path.abspath(shard.metadata))
        names = plan.out.names[at], shard.column, plan.files.dim, metadata, plan.out.metadata[at]
        return cls(os.path.abspath(shard.path), *names, first, plan.fingerprints[at])

    def open(self) -> formats.Shard:
        try:
            shard = format_of(self.path)(self.path, self.name, self.column)
        except InputError as error:  # it could be opened when the run began
            raise BadShardError(str(error)) from error
        if isinstance(shard, TableShard):
            shard.adopt(self.dim, shard.dtype)
        shard.metadata = self.metadata
        return shard
