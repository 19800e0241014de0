"""The writer of shards on a Ray cluster: each actor reads, maps and commits whole shards, the driver records them."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastrealign import formats
from fastrealign.core import errors
from fastrealign.core.errors import BadShardError, FastRealignError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.optional import optional
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.workers import Workers
from fastrealign.formats.manifest import ShardRecord
from fastrealign.formats.registry import format_of
from fastrealign.formats.tables import TableShard
from fastrealign.jobs.shard_plan import Note, ShardPlan, Unwritten
from fastrealign.jobs.write_shards import ThreadedWriter
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import Place

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
            {
                **_task(plan.files.shards[i], plan.out.names[i], plan.out.metadata[i]),
                "dim": plan.files.dim,
                "first": self.source.piece(i, 0, 0).first,
                "fingerprint": json.dumps(plan.fingerprints[i].to_json()),
            }
            for i in plan.left
        ]
        # Every actor gets the plan without its shards, then these one by one.
        root = Path(os.path.abspath(plan.out.root))
        nothing = formats.Source(plan.files.name, [], 0, plan.files.dim)
        shared = replace(plan, files=nothing, out=_Place(root, [], []), left=[], fingerprints=[])
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
    """An actor: reads a shard, commits its output shard and returns its record."""

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

    root: Place
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
