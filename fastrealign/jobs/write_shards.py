"""The pass that writes: it reads, maps and writes every shard that is not complete yet, in bounded memory.

Each thread writes a shard of its own. Where fewer are left than threads, several write pieces of one, if the format has random
access and no rows are left out. A small pool of threads syncs and renames shards whose last piece is done, so that no
other thread waits for the disk.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from heapq import nsmallest
from math import prod
from pathlib import Path

import numpy as np

from fastrealign import formats
from fastrealign.core.bad_rows import GOOD, REASONS, Counts
from fastrealign.core.errors import BadShardError, InputError, changed
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.progress import Progress
from fastrealign.data.options import NoiseOptions, PassOptions
from fastrealign.data.pipeline import Pass, Work
from fastrealign.data.row_source import Piece
from fastrealign.data.workers import Device, Host, Workers
from fastrealign.formats.manifest import ShardRecord
from fastrealign.jobs.shard_plan import Note, ShardPlan, Unwritten
from fastrealign.methods.baseline import IN_STEPS
from fastrealign.methods.fit_options import PAIRED_METHODS
from fastrealign.methods.method import Call
from fastrealign.storage.fingerprint import FileFingerprint

# Bad rows that the record of a shard lists; it counts all of them.
LISTED_ROWS = 20
# Shards being synced at a time: enough for the file system to sync several as one, few enough to keep few files open.
_COMMITS = 4


class _OutputShard:
    """One output shard being written."""

    def __init__(self, shard: formats.Shard, pieces: int, d: int) -> None:
        self.shard = shard
        self.pieces_left = pieces
        self.spoiled = False  # it has a bad row, and bad rows are an error; or it cannot be read
        self.sums = ExactSum(d)
        self.good = 0
        self.bad = 0
        self.first_bad: list[tuple[int, str]] = []
        self.dropped: list[np.ndarray] = []  # numbers of the rows that are left out, of each chunk
        self.kept: list[np.ndarray] = []  # masks of the chunks, where rows are left out and metadata must follow
        self.lock = threading.Lock()
        self._writer: formats.ShardWriter | None = None

    def writer(self, make: Callable[[], formats.ShardWriter]) -> formats.ShardWriter:
        with self.lock:
            if self._writer is None:
                self._writer = make()
            return self._writer

    def note(self, counts: Counts, sums: ExactSum, bad: list[tuple[int, str]]) -> None:
        with self.lock:
            self.sums.add(sums)
            self.good += counts.good
            self.bad += counts.bad
            if bad:
                self.first_bad = nsmallest(LISTED_ROWS, self.first_bad + bad)

    def piece_done(self) -> bool:
        """Count a piece that is done; whether it was the last one."""
        with self.lock:
            self.pieces_left -= 1
            return self.pieces_left == 0

    def abort(self) -> None:
        with self.lock:
            if self._writer is not None:
                self._writer.abort()


class ThreadedWriter:
    """Writes the shards of a plan with threads of this process, and calls `note` for each that is in place.

    When `run` returns, all are complete. When it raises, whatever the cause, its threads have ended and no temporary file is
    left; shards that were complete by then are in place and recorded.
    """

    def __init__(self, plan: ShardPlan, note: Note, workers: Workers) -> None:
        """note: called from any thread."""
        self.left_out: dict[str, str] = {}
        self._d = plan.method.dim_out
        if self._d != plan.files.dim:
            for shard in plan.files.shards:
                shard.out_dim = self._d
        self.source = Unwritten(
            plan.files, plan.left, plan.output.dtype, plan.read.bad_rows == "skip", workers.piece_bytes, plan.first
        )
        self._plan = plan
        self._note = note
        self._workers = workers
        self._open: dict[int, _OutputShard] = {}
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(2 * _COMMITS)
        self._failure: BaseException | None = None
        self._submit: Callable[..., object] = lambda work, *args: work(*args)

    def run(self, progress: Progress) -> None:
        this = Pass(
            self.source,
            "aligning",
            PassOptions(self._plan.read.bad_rows, self._workers, progress),
            finish_shards=True,
            on_bad_shard=self._leave_out if self._plan.read.bad_shards == "skip" else None,
        )
        try:
            with self._committing():
                this.run(self._make_work, self._piece_done)
        finally:
            for output in self._open.values():
                output.abort()
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _committing(self) -> Iterator[None]:
        """Commits wait for a disk or a server, or read every byte: in a pool, so that no thread that maps rows waits. At its
        end all that were begun are done: a run that ends early still puts its complete shards in place.

        Others take less time than starting a pool, and are done by the thread that wrote the last piece.
        """
        output = self._plan.output
        if not output.fsync and not output.verify and isinstance(self._plan.out.root, Path):
            yield
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(_COMMITS, thread_name_prefix="fastrealign-sync") as pool:
            self._submit = pool.submit
            yield

    def _make_work(self, place: Host | Device) -> Work:
        memory = np.empty(0, np.uint8)
        strict, row_map = self._plan.read.bad_rows == "error", self._plan.method.row_map

        def work(piece: Piece, lo: int, rows: np.ndarray, threads: int) -> Counts:
            nonlocal memory
            output = self._output_shard(piece.shard)
            dtype = self.source.dtype_of(output.shard)
            if dtype == rows.dtype and rows.shape[1] == self._d and self.source.in_scratch(output.shard):
                out = rows  # nothing else reads them; one buffer instead of two stays in the cache
            else:
                if not len(memory):
                    memory = place.memory(max(self._workers.piece_bytes, max(self.source.d, self._d) * 8))
                shape = len(rows), self._d
                out = memory[: prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            flags = None if strict else np.empty(len(rows), dtype=np.uint8)
            sums = ExactSum(self._d)
            if row_map is None:
                first = piece.first - piece.lo + lo
                counts = self._plan.method.apply(rows, out, Call(sums, flags, first, threads))
            else:
                counts = place.apply(rows, row_map, out, sums, flags, threads)
            output.spoiled |= strict and counts.bad > 0
            if output.spoiled:
                return counts
            writer = output.writer(lambda: self._writer(piece.shard))
            if flags is not None and self._plan.read.bad_rows == "skip":
                keep = np.equal(flags, GOOD)
                output.dropped.append(lo + np.flatnonzero(~keep))
                writer.write(out[keep] if counts.bad else out, keep if counts.bad else None)
                if output.shard.metadata is not None:
                    output.kept.append(keep)
            elif output.shard.random_access:
                writer.write_at(lo, out)
            else:
                writer.write(out)
            output.note(counts, sums, _listed(flags, lo) if flags is not None and counts.bad else [])
            return counts

        return work

    def _piece_done(self, piece: Piece) -> None:
        if self._failure is not None:
            raise self._failure
        output = self._output_shard(piece.shard)
        if not output.piece_done():
            return
        if not output.spoiled:
            self._room.acquire()
            self._submit(self._commit, piece.shard, output)
        elif self._plan.out.names[piece.shard] in self.left_out:
            output.abort()
            with self._lock:
                del self._open[piece.shard]

    def _leave_out(self, error: BadShardError) -> None:
        self._output_shard(error.shard).spoiled = True
        with self._lock:
            self.left_out.setdefault(self._plan.out.names[error.shard], str(error))

    def _commit(self, at: int, output: _OutputShard) -> None:
        """Put a shard in place and record it."""
        try:
            shard, name, metadata = output.shard, self._plan.out.names[at], self._plan.out.metadata[at]
            writer = output.writer(lambda: self._writer(at))  # an empty shard has none yet
            shard.check_unchanged()
            if not self._plan.fingerprints[at].holds(shard.path):
                raise changed(shard.path, "while it was read")
            writer.commit()
            if metadata is not None:
                named = copy.copy(shard)
                named.metadata_name = metadata
                keep = np.concatenate(output.kept) if output.kept else None
                formats.write_metadata(named, self._plan.out.root, keep, self._plan.output.fsync)
            found = FileFingerprint.of(writer.path, whole=self._plan.output.verify)
            skip = self._plan.read.bad_rows == "skip"
            record = ShardRecord(
                name=name,
                rows_in=shard.rows,
                rows_out=output.good if skip else output.good + output.bad,
                skipped=shard.skipped,
                bad_rows=output.bad,
                first_bad=[list(bad) for bad in output.first_bad],
                dropped=_runs(output.dropped) if skip else None,
                bytes=found.bytes,
                ends=found.ends,
                metadata=metadata,
                whole=found.whole,
            )
            self._note(record, output.sums)
            shard.close()
            with self._lock:
                del self._open[at]
        except BaseException as error:
            self._failure = error
        finally:
            self._room.release()

    def _output_shard(self, at: int) -> _OutputShard:
        with self._lock:
            if at not in self._open:
                shard = self.source.files.shards[at]
                self._open[at] = _OutputShard(shard, self.source.count_pieces(shard), self._d)
            return self._open[at]

    def _writer(self, at: int) -> formats.ShardWriter:
        shard = self.source.files.shards[at]
        path = self._plan.out.root / self._plan.out.names[at]
        writer = shard.writer(path, self.source.dtype_of(shard), shard.rows, self._plan.output.fsync)
        if self._plan.read.bad_rows != "skip":
            writer.reserve()
        return writer


def check_devices(method: str, workers: Workers, noise: NoiseOptions) -> None:
    """InputError for devices, and noise or a method that takes steps: they are computed on the CPU."""
    if workers.devices and (noise or method in (*IN_STEPS, *PAIRED_METHODS)):
        raise InputError(f"{'noise' if noise else method} is computed on the CPU; leave out devices")


def _runs(numbers: list[np.ndarray]) -> list[list[int]]:
    """Ascending numbers as runs: [first, last] of each."""
    found = np.concatenate([np.empty(0, np.int64), *numbers])
    first = np.flatnonzero(np.diff(found, prepend=-2) != 1)
    last = np.append(first, len(found))[1:] - 1
    return np.column_stack([found[first], found[last]]).tolist()


def _listed(flags: np.ndarray, lo: int) -> list[tuple[int, str]]:
    rows = np.flatnonzero(flags != GOOD)[:LISTED_ROWS]
    return [(lo + int(row), REASONS[int(flags[row])]) for row in rows]
