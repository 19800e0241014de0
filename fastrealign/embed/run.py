"""Pictures or captions in, parquet shards of ids and unit rows out: a run that goes on where it was stopped.

look at the input -> load the encoder -> claim the output -> encode batch by batch -> shards -> manifest

A shard is rows [lo, hi) of the input and its batches begin with it, so that a run that was killed and goes on does the same
batches and ends in the same bytes. The folder, its lock, journal and manifest are those of every run (output.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, warn
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.ops import default_threads
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.id_index import lookup_hashes, twice
from fastrealign.embed.batches import Batch, Loaded, prepared
from fastrealign.embed.encoders import Choice, Encoder
from fastrealign.embed.inputs import Input, Item, open_input
from fastrealign.embed.shards import mark_of, write_shard
from fastrealign.embed.summary import Embedded
from fastrealign.formats.manifest import JobSpec, Manifest, ShardRecord
from fastrealign.jobs.align_files import with_state
from fastrealign.jobs.claim import Claim
from fastrealign.jobs.journal import Journal
from fastrealign.jobs.output_folder import Output
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import check_output

BAD_ITEMS = ("error", "skip")
DTYPES = ("float16", "float32")
# Small enough that a kill costs minutes even without a GPU, large enough that the files of a billion rows can be counted.
SHARD_ROWS = 10_000
BATCH_SIZE = 64


def embed_files(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    out: str | os.PathLike,
    encoder: Choice,
    *,
    side: str | None = None,
    column: str | None = None,
    ids: str | None = None,
    bad_items: str = "error",
    dtype: str = "float16",
    batch_size: int = BATCH_SIZE,
    shard_rows: int = SHARD_ROWS,
    threads: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
    fsync: bool = True,
) -> Embedded:
    """Embed images or captions, into a folder that `align`, `fit` and the rest read.

    source      a folder of images or of caption files, a file, or a list of these (inputs.py)
    out         an empty or new folder. It gets parquet shards with the columns id, caption (of text) and embedding, whose rows
                have length 1, and, last, manifest.json
    encoder     OpenClip(...) or Transformers(...)
    side        "images" or "text", where the source has both
    column, ids   of .jsonl and .parquet captions: their columns, where they have unusual names
    bad_items   images that cannot be read and captions that are empty or no text: "error" stops at the first, "skip" leaves
                them out and lists them in the manifest
    dtype       "float16" or "float32", of the rows written
    batch_size  items the encoder gets at a time. Another size changes rows by rounding errors
    shard_rows  items of a shard, whose embeddings are held in memory
    threads     that decode images; by default all processors
    resume, overwrite, fsync   as for `align`

    Raises InputError for bad input, an encoder that is not here or an output that cannot be used; FastRealignError when
    encoding or writing fails. What was complete by then is kept for `resume`.
    """
    started = time.perf_counter()
    for name, value, known in (("bad_items", bad_items, BAD_ITEMS), ("dtype", dtype, DTYPES)):
        if value not in known:
            raise InputError(f"{name}={value!r}: expected one of {', '.join(known)}")
    check_output(out)
    output = Output.of_new_shards(out)
    output.check_apart([source] if isinstance(source, (str, os.PathLike)) else list(source), [])
    output.look(resume=resume, overwrite=overwrite)
    found = open_input(source, side, column=column, ids=ids)
    encoder.check()  # before hours of looking at the input
    marks, rows = _looked_at(found, shard_rows, bad_items, progress)
    loaded = encoder.load(found.side)
    output = Output.of_new_shards(out, list(marks))
    options = {"encoder": loaded.name, "weights": loaded.weights, **loaded.options}
    options |= {"dtype": dtype, "shard_rows": shard_rows, "bad_items": bad_items, "column": column, "ids": ids}
    run = _Run(found, output, loaded, rows, shard_rows, bad_items, np.dtype(dtype), batch_size, threads, fsync)
    return run.go(JobSpec("embed", options, marks), resume, overwrite, progress, started)


def _looked_at(
    found: Input, shard_rows: int, bad_items: str, progress: Progress
) -> tuple[dict[str, FileFingerprint], list[int]]:
    """The mark of each shard's items, by the name of the shard, and how many these are; bad captions are found here."""
    marks, rows, hashes = {}, [], []
    progress.start(f"looking at the {found.side}", None, None)
    try:
        for items in _in_shards(found, shard_rows):
            for item in items:
                if item.problem is not None and bad_items == "error":
                    raise InputError(f"{item.where}: {item.problem}; mend it, or leave such out with --bad-items skip")
            hashes.append(lookup_hashes([item.id for item in items if item.problem is None]))
            marks[f"embeddings_{len(rows):05}.parquet"] = mark_of(items, bad_items)
            rows.append(len(items))
            progress.advance(len(items), 0)
    finally:
        progress.finish()
    if not rows:
        raise InputError(f"{found.name}: holds no captions, the file is empty")
    # All ids are known only now, after the last of the stream; until then 12 bytes stand for each.
    _warn_of_twice(found, np.concatenate(hashes))
    return marks, rows


def _warn_of_twice(found: Input, hashes: np.ndarray) -> None:
    """Name an id that comes twice, as where several captions have that of one image: a fit does not mind, training does.

    hashes   of the ids of all items but those with a problem
    """
    pair = twice(hashes)
    if pair is None:
        return
    sound = islice((item for item in found if item.problem is None), pair[1] + 1)
    first, second = (item for at, item in enumerate(sound) if at in pair)
    warn(
        f"{second.where}: the id {second.id!r} is that of {first.where}, too; `train` looks rows up by id and will refuse them",
        UserWarning,
    )


def _in_shards(found: Input, shard_rows: int) -> Iterator[list[Item]]:
    items = iter(found)
    while part := list(islice(items, shard_rows)):
        yield part


@dataclass
class _Run:
    found: Input
    output: Output
    encoder: Encoder
    rows: list[int]
    shard_rows: int
    bad_items: str
    dtype: np.dtype
    batch_size: int
    threads: int | None
    fsync: bool

    def go(self, order: JobSpec, resume: bool, overwrite: bool, progress: Progress, started: float) -> Embedded:
        claim: Claim | None = None
        rows_now = 0
        try:
            claim = self.output.claim(order, resume=resume, overwrite=overwrite, fsync=self.fsync)
            if claim.finished is not None:
                manifest, before = claim.finished, len(claim.finished.shards)
                claim.leave()
            else:
                done = {shard.name for shard in claim.journal.shards}
                before = len(done)
                claim.begin(None)
                rows_now = self._write(order, done, claim.journal, progress)
                columns = {"source": ", ".join(sorted(self.found.taken))} if self.found.taken else {}
                manifest = claim.finish(None, columns=columns)
        except BaseException as error:
            if claim is None:
                raise
            complete = len(claim.journal.shards)
            claim.leave()
            told = with_state(error, complete, len(self.output.names))
            if told is error:
                raise
            raise told from error
        return self._report(manifest, before, rows_now, time.perf_counter() - started)

    def _write(self, order: JobSpec, done: set[str], journal: Journal, progress: Progress) -> int:
        """Write the shards that are left, one after the other; returns the rows of these."""
        rows_out = 0
        left = [rows for name, rows in zip(self.output.names, self.rows, strict=True) if name not in done]
        progress.start("embedding", sum(left), None)
        try:
            shard: _Shard | None = None
            with prepared(self._batches(done), self.encoder.prepare, self.threads or default_threads()) as batches:
                for loaded in batches:
                    if shard is None:
                        shard = _Shard(
                            loaded.batch.items, np.empty((len(loaded.batch.items), self.encoder.dim), self.dtype)
                        )
                    self._encode(loaded, shard)
                    progress.advance(len(loaded.batch.at), 0)
                    if loaded.batch.last:
                        record = self._written(order, loaded.batch.shard, shard)
                        journal.add(record, ExactSum(0))
                        rows_out += record.rows_out
                        shard = None
        finally:
            progress.finish()
        return rows_out

    def _batches(self, done: set[str]) -> Iterator[Batch]:
        for number, items in enumerate(_in_shards(self.found, self.shard_rows)):
            name = self.output.names[number] if number < len(self.output.names) else None
            if name is None or len(items) != self.rows[number]:
                raise InputError(f"{self.found.name}: changed while it was read: do not write to the input, run again")
            if name in done:
                continue
            at = range(len(items))
            if self.encoder.by_length:
                at = sorted(at, key=lambda i, items=items: len(items[i].text))
            starts = range(0, len(items), self.batch_size)
            for lo in starts:
                yield Batch(number, items, at[lo : lo + self.batch_size], lo == starts[-1])

    def _encode(self, loaded: Loaded, shard: _Shard) -> None:
        """One batch into the rows of its shard."""
        for at, why in loaded.bad:
            if self.bad_items == "error":
                raise InputError(f"{why}; or leave such out with --bad-items skip")
            shard.bad.append([at, why])
        if not loaded.at:
            return
        rows = self.encoder.encode(loaded.inputs)
        finite = np.isfinite(rows).all(axis=1)
        broken = np.flatnonzero(~(finite & rows.any(axis=1)))
        if len(broken):
            where = loaded.batch.items[loaded.at[int(broken[0])]].where
            if finite[broken[0]]:
                raise FastRealignError(
                    f"{where}: {self.encoder.name} gives zeros alone for it, a row without a direction; "
                    "look whether its weights are whole"
                )
            raise FastRealignError(
                f"{where}: {self.encoder.name} gives NaN or Inf for it in {self.encoder.options['precision']}; "
                "choose --precision bf16 or fp32"
            )
        shard.rows[loaded.at] = rows

    def _written(self, order: JobSpec, number: int, shard: _Shard) -> ShardRecord:
        name = self.output.names[number]
        if not order.source[name].same(mark_of(shard.items, self.bad_items)):
            raise InputError(f"{self.found.name}: changed while it was read: do not write to the input, run again")
        bad = sorted(shard.bad)
        mark = write_shard(self.output.root / name, shard.items, shard.rows, {at for at, _ in bad}, self.fsync)
        rows_in = len(shard.items)
        return ShardRecord(name, rows_in, rows_in - len(bad), 0, len(bad), bad, mark.bytes, mark.ends)

    def _report(self, manifest: Manifest, before: int, rows_now: int, seconds: float) -> Embedded:
        return Embedded(
            source=self.found.name,
            side=self.found.side,
            out=self.output.out,
            encoder=self.encoder.name,
            dim=self.encoder.dim,
            dtype=self.dtype.name,
            columns=sorted(self.found.taken),
            rows=sum(shard.rows_out for shard in manifest.shards),
            left_out=[why for shard in manifest.shards for _, why in shard.first_bad],
            ignored=dict(self.found.ignored),
            shards=len(manifest.shards),
            shards_before=before,
            bytes=sum(shard.bytes for shard in manifest.shards),
            rows_now=rows_now,
            seconds=seconds,
            manifest=str(self.output.manifest),
        )


@dataclass
class _Shard:
    """A shard being encoded: its items, a row for each, and [place, why] of those that are left out."""

    items: list[Item]
    rows: np.ndarray

    def __post_init__(self) -> None:
        self.bad: list[list[Any]] = []
