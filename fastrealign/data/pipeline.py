"""Passes over a source: read, compute, write, overlapped, in bounded memory.

Threads take pieces in order, or a run of pieces each (RowSource.runs); each reads into its own scratch buffer, runs the kernel,
which releases the interpreter lock, and writes. Since sums are exact and order-free (core/exact_sum.py), it does not matter
which thread took which piece.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from fastrealign.core.bad_rows import Counts
from fastrealign.core.errors import BadRowsError, BadShardError, Terminated
from fastrealign.core.wording import option
from fastrealign.data.options import PassOptions
from fastrealign.data.row_source import UNKNOWN, Piece, RowSource
from fastrealign.data.workers import Device, Host, Workers

# (piece, row within the shard, rows, threads for the kernel) -> what the kernel counted
Work = Callable[[Piece, int, np.ndarray, int], Counts]
MakeWork = Callable[[Host | Device], Work]
Done = Callable[[Piece], None]


@dataclass(frozen=True)
class BadRow:
    """The first row without a direction in a pass."""

    shard: int
    row: int
    why: str


class Pass:
    """One pass over a source. `run` returns when every piece is done, or raises what the first failing piece raised.

    bad_rows "error" raises BadRowsError for the first bad row of the source; otherwise bad rows are counted in `bad`.
    on_bad_shard: called from any thread when a shard cannot be read, instead of raising; its other pieces are still read
    finish_shards: when Terminated arrives, shards that were begun are read to their end before the pass ends
    """

    def __init__(
        self,
        source: RowSource,
        phase: str,
        options: PassOptions | None = None,
        *,
        finish_shards: bool = False,
        on_bad_shard: Callable[[BadShardError], None] | None = None,
    ) -> None:
        options = options or PassOptions()
        self.source = source
        self.phase = phase
        self.bad_rows, self.workers, self.progress = options.bad_rows, options.workers, options.progress
        self.good = 0
        self.bad = 0
        self.first_bad: BadRow | None = None
        self._on_bad_shard = on_bad_shard
        self._finish_shards = finish_shards
        self._lock = threading.Lock()
        self._abandoned = threading.Event()
        self._failure: BaseException | None = None

    def run(self, make_work: MakeWork, done: Done | None = None) -> None:
        """Call the `Work` of each thread (made by `make_work`, once a thread) on all rows; `done` after each piece."""
        with self.progress.running(self.phase + self.workers.where, self.source.rows, self.source.nbytes):
            if _side_by_side(self.source, self.workers):
                self._side_by_side(make_work, done)
            else:
                pieces, work = pieces_of(self.source, self.workers), make_work(self.workers.place(0))
                self._in_turn(pieces, work, done, self.workers.threads, np.empty(0, np.uint8))
        if self._failure is not None:
            raise self._failure
        if self.first_bad is not None and self.bad_rows == "error":
            where = self.source.where(self.first_bad.shard, self.first_bad.row)
            row = f"{where} {self.first_bad.why}"
            error = BadRowsError(
                f"{row}; fix it, or leave such rows out ({option('bad_rows', 'skip')}) or pass them on unmapped "
                f"({option('bad_rows', 'keep')})"
            )
            error.row = row
            raise error

    def _side_by_side(self, make_work: MakeWork, done: Done | None) -> None:
        pieces = pieces_of(self.source, self.workers)
        # With fewer pieces than threads, the kernel divides each piece between threads instead.
        crew = list(range(max(1, len(list(itertools.islice(pieces, self.workers.threads))))))
        inner = max(1, self.workers.threads // len(crew))
        supply = _Supply(self.source.runs(self.workers.piece_bytes), self._past)
        needed = max(self.workers.piece_bytes, self.source.d * 8, self.source.scratch_bytes)

        # Not Thread.join: interrupted while it waits, it may take the thread for ended (seen on Python 3.11).
        ended, idle, working = threading.Event(), threading.Event(), set[int]()
        idle.set()
        gate = threading.Lock()  # a thread begins before the pass is abandoned, or does nothing

        def work_off(thread: int) -> None:
            try:
                with gate:
                    if self._abandoned.is_set():
                        return
                    working.add(thread)
                    idle.clear()
                place = self.workers.place(thread)
                self._in_turn(supply, make_work(place), done, inner, place.memory(needed))
            except BaseException as error:
                self._fail(error)
            finally:
                with gate:
                    working.discard(thread)
                    if not working:
                        idle.set()
                    crew.pop()
                    if not crew:
                        ended.set()

        # This thread only starts the others and waits: an interrupt (Ctrl-C) arrives here and never in the middle of a piece.
        try:
            try:
                for i in tuple(crew):
                    threading.Thread(target=work_off, args=(i,), name=f"fastrealign-{i}", daemon=True).start()
                _wait(ended)
            except Terminated:
                if self._finish_shards:
                    supply.begin_no_shard()
                    _wait(idle)
                raise
        except BaseException:
            # Let each thread finish its current chunk, so that nothing is written after clean-up.
            with gate:
                self._abandon()
            while not idle.is_set():
                with suppress(KeyboardInterrupt):
                    _wait(idle)
            raise

    def _in_turn(
        self, pieces: Iterable[Piece], work: Work, done: Done | None, threads: int, scratch: np.ndarray
    ) -> None:
        for piece in pieces:
            if self._abandoned.is_set() or self._past(piece):
                return
            try:
                for lo, rows in self.source.chunks(piece, scratch):
                    if self._abandoned.is_set():
                        return
                    self._count(piece, lo, rows, work(piece, lo, rows, threads))
                    if piece.hi == UNKNOWN and self._past(piece, lo):
                        return
            except BadShardError as error:
                if self._on_bad_shard is None:
                    raise
                self._on_bad_shard(error)
            if done is not None:
                done(piece)

    def _count(self, piece: Piece, lo: int, rows: np.ndarray, counts: Counts) -> None:
        with self._lock:
            self.good += counts.good
            self.bad += counts.bad
            if counts.bad:
                here = BadRow(piece.shard, lo + counts.first_bad, counts.why)
                if self.first_bad is None or (here.shard, here.row) < (self.first_bad.shard, self.first_bad.row):
                    self.first_bad = here
            self.progress.advance(len(rows), rows.nbytes)

    def _past(self, piece: Piece, lo: int = 0) -> bool:
        """Whether a bad row that ends the pass comes before the piece (or before its row `lo`): it need not be read."""
        bad = self.first_bad if self.bad_rows == "error" else None
        return bad is not None and (bad.shard, bad.row) < (piece.shard, max(lo, piece.lo))

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None or isinstance(error, KeyboardInterrupt):
                self._failure = error
        self._abandon()

    def _abandon(self) -> None:
        """Take no more pieces, and leave those under way at their next chunk."""
        self._abandoned.set()


class _Supply:
    """Pieces shared between threads: a thread takes a run of its own while there are any, then pieces of the others' runs.

    past: whether a piece need not be read, nor those that follow it
    """

    def __init__(self, runs: Iterator[Iterator[Piece]], past: Callable[[Piece], bool]) -> None:
        self._runs = runs
        self._past = past
        self._begun: list[Iterator[Piece]] = []
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Piece]:
        """The pieces of one thread."""
        run: Iterator[Piece] | None = None
        while True:
            with self._lock:
                run, piece = self._next(run)
            if piece is None:
                return
            yield piece

    def _next(self, run: Iterator[Piece] | None) -> tuple[Iterator[Piece] | None, Piece | None]:
        """The next piece of the run, or else of another one, and its run; no piece where all are taken."""
        while True:
            if run is None:
                run = next(self._runs, None)
                if run is not None:
                    self._begun.append(run)
                elif self._begun:
                    run = self._begun[-1]  # it has most pieces left
                else:
                    return None, None
            piece = next(run, None)
            if piece is not None and not self._past(piece):
                return run, piece
            if piece is not None:
                self._runs = iter(())
            if run in self._begun:
                self._begun.remove(run)
            run = None

    def begin_no_shard(self) -> None:
        """Hand out only what is left of the runs that were begun."""
        with self._lock:
            self._runs = iter(())


def _wait(event: threading.Event) -> None:
    """Wait for the event, half a second at a time: Python misses a signal that arrives just before it begins to wait."""
    while not event.wait(0.5):
        pass


def pieces_of(source: RowSource, workers: Workers) -> Iterator[Piece]:
    """The pieces of a pass, as small as the workers' buffers where each thread has its own."""
    return source.pieces(workers.piece_bytes) if _side_by_side(source, workers) else source.pieces()


def _side_by_side(source: RowSource, workers: Workers) -> bool:
    """Whether each thread takes pieces of its own."""
    return source.side_by_side or (source.pageable and bool(workers.devices))
