"""Pictures or captions in, parquet shards of ids and unit rows out: a run that can be resumed.

The phases are those of every job (jobs/job.py): check the input and load the encoder; lock the output folder; encode batch by
batch; write the manifest.

A shard is rows [lo, hi) of the input. Batches do not cross shards, so a resumed run encodes the same batches and writes the
same bytes. The folder, its lock, journal and manifest are those of every run (jobs/resumable_folder.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.cpu import default_threads
from fastrealign.core.errors import FastRealignError, InputError, warn
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.progress import Progress
from fastrealign.core.wording import option
from fastrealign.data.id_index import lookup_hashes, twice
from fastrealign.data.options import check_choice, check_progress
from fastrealign.embed.batches import Batch, Loaded, prepared
from fastrealign.embed.captions import Caption
from fastrealign.embed.encoders import EncoderChoice
from fastrealign.embed.inputs import Input, Item, open_input
from fastrealign.embed.shards import fingerprint_of, write_shard
from fastrealign.embed.summary import Embedded
from fastrealign.formats.manifest import JobSpec, Manifest, ShardRecord
from fastrealign.jobs.job import Job
from fastrealign.jobs.resumable_folder import ResumableFolder
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import check_output, named_paths

BAD_ITEMS = ("error", "skip")
DTYPES = ("float16", "float32")


@dataclass(frozen=True)
class EmbedOptions:
    """The options of `embed_files`, checked."""

    side: str | None
    column: str | None
    ids: str | None
    bad_items: str
    dtype: str
    batch_size: int
    shard_rows: int
    threads: int | None

    def __post_init__(self) -> None:
        for name, known in (("bad_items", BAD_ITEMS), ("dtype", DTYPES)):
            check_choice(name, getattr(self, name), known)
        for name in ("batch_size", "shard_rows", "threads"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole(name, value, 1))


def _scan(
    found: Input, shard_rows: int, bad_items: str, progress: Progress
) -> tuple[dict[str, FileFingerprint], list[int]]:
    """(fingerprint of each shard's items by the name of the shard, number of items of each). Finds bad captions and ids."""
    fingerprints: dict[str, FileFingerprint] = {}
    rows: list[int] = []
    hashes = []
    with progress.running(f"checking the {found.side}", None):
        for items in _in_shards(found, shard_rows):
            for item in items:
                if item.problem is not None and bad_items == "error":
                    raise InputError(
                        f"{item.where}: {item.problem}; fix it, or leave such items out with {option('bad_items', 'skip')}"
                    )
            hashes.append(lookup_hashes([item.id for item in items if item.problem is None]))
            fingerprints[f"embeddings_{len(rows):05}.parquet"] = fingerprint_of(items, bad_items)
            rows.append(len(items))
            progress.advance(len(items), 0)
    if not rows:
        raise InputError(f"{found.name}: holds no captions, the file is empty")
    # All ids are known only after the last item; until then each takes 12 bytes.
    _warn_of_duplicate(found, np.concatenate(hashes))
    return fingerprints, rows


def _warn_of_duplicate(found: Input, hashes: np.ndarray) -> None:
    """Warn of a duplicate id, for example of several captions of one image: a fit accepts it, training does not.

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


class EmbedJob(Job[Embedded]):
    """Check the input and load the encoder; then encode the remaining shards batch by batch."""

    def __init__(
        self,
        source: str | os.PathLike | Sequence[str | os.PathLike],
        folder: ResumableFolder,
        choice: EncoderChoice,
        options: EmbedOptions,
        progress: Progress,
    ) -> None:
        self.started = time.perf_counter()
        self.options = options
        layout = folder.layout
        check_output(layout.out)
        check_progress(progress)
        layout.check_apart(named_paths(source), [])
        folder.check()
        self.found = open_input(source, options.side, column=options.column, ids=options.ids)
        choice.check()  # before the input is read, which may take hours
        fingerprints, self.rows = _scan(self.found, options.shard_rows, options.bad_items, progress)
        self.encoder = choice.load(self.found.side)
        self.rows_now = 0
        layout.names = list(fingerprints)
        asked = {"encoder": self.encoder.name, "weights": self.encoder.weights, **self.encoder.options}
        for name in ("dtype", "shard_rows", "bad_items", "column", "ids"):
            asked[name] = getattr(options, name)
        super().__init__(folder, JobSpec("embed", asked, fingerprints), progress)

    def fit(self) -> None:
        self.folder.start_writing(None)

    def write(self) -> None:
        """Write the remaining shards one after the other."""
        names = self.folder.layout.names
        left = [rows for name, rows in zip(names, self.rows, strict=True) if name not in self.before]
        with self.progress.running("embedding", sum(left)):
            shard: _Shard | None = None
            with prepared(self._batches(), self.encoder.prepare, self.options.threads or default_threads()) as batches:
                for loaded in batches:
                    if shard is None:
                        items = loaded.batch.items
                        shard = _Shard(items, np.empty((len(items), self.encoder.dim), self.options.dtype))
                    self._encode(loaded, shard)
                    self.progress.advance(len(loaded.batch.at), 0)
                    if loaded.batch.last:
                        record = self._written(loaded.batch.shard, shard)
                        assert self.journal is not None
                        self.journal.add(record, ExactSum(0))
                        self.rows_now += record.rows_out
                        shard = None

    def finish(self) -> Manifest:
        columns = {"source": ", ".join(sorted(self.found.taken))} if self.found.taken else {}
        return self.folder.write_manifest(None, columns=columns)

    def _batches(self) -> Iterator[Batch]:
        names = self.folder.layout.names
        for number, items in enumerate(_in_shards(self.found, self.options.shard_rows)):
            name = names[number] if number < len(names) else None
            if name is None or len(items) != self.rows[number]:
                raise InputError(f"{self.found.name}: changed while it was read: do not write to the input, run again")
            if name in self.before:
                continue
            at: Sequence[int] = range(len(items))
            if self.encoder.by_length:
                lengths = [len(item.text) for item in items if isinstance(item, Caption)]
                at = sorted(at, key=lengths.__getitem__)
            starts = range(0, len(items), self.options.batch_size)
            for lo in starts:
                yield Batch(number, items, at[lo : lo + self.options.batch_size], lo == starts[-1])

    def _encode(self, loaded: Loaded, shard: _Shard) -> None:
        """Encode a batch into the rows of its shard."""
        for at, why in loaded.bad:
            if self.options.bad_items == "error":
                raise InputError(f"{why}; or leave such items out with {option('bad_items', 'skip')}")
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
                    f"{where}: {self.encoder.name} gives only zeros for it, a row without a direction; "
                    "check that its weights are complete"
                )
            raise FastRealignError(
                f"{where}: {self.encoder.name} gives NaN or Inf for it in {self.encoder.options['precision']}; "
                f"choose {option('precision', 'bf16')} or {option('precision', 'fp32')}"
            )
        shard.rows[loaded.at] = rows

    def _written(self, number: int, shard: _Shard) -> ShardRecord:
        name = self.folder.layout.names[number]
        if not self.spec.source[name].same(fingerprint_of(shard.items, self.options.bad_items)):
            raise InputError(f"{self.found.name}: changed while it was read: do not write to the input, run again")
        bad = sorted(shard.bad)
        written = write_shard(
            self.folder.root / name, shard.items, shard.rows, {at for at, _ in bad}, self.folder.fsync
        )
        rows_in = len(shard.items)
        return ShardRecord(name, rows_in, rows_in - len(bad), 0, len(bad), bad, written.bytes, written.ends)

    def report(self, manifest: Manifest) -> Embedded:
        return Embedded(
            source=self.found.name,
            side=self.found.side,
            out=self.folder.layout.out,
            encoder=self.encoder.name,
            dim=self.encoder.dim,
            dtype=self.options.dtype,
            columns=sorted(self.found.taken),
            rows=sum(shard.rows_out for shard in manifest.shards),
            left_out=[why for shard in manifest.shards for _, why in shard.first_bad],
            ignored=dict(self.found.ignored),
            shards=len(manifest.shards),
            shards_before=len(self.before),
            bytes=sum(shard.bytes for shard in manifest.shards),
            rows_now=self.rows_now,
            seconds=time.perf_counter() - self.started,
            manifest=str(self.folder.layout.manifest),
        )


@dataclass
class _Shard:
    """A shard being encoded: its items, a row for each, and [position, reason] of those that are left out."""

    items: list[Item]
    rows: np.ndarray
    bad: list[list[Any]] = field(default_factory=list)
