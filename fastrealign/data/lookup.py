"""Embeddings looked up by id in shards of any format, which are never loaded: an index of ids, and rows read by position.

Formats with random access (.npy, .safetensors, FAISS, torch, Arrow as Hugging Face datasets save it) are read row by row. Of
others, the part with the row is decoded (a row group of parquet, a whole pickle), and the latest parts are cached.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign import formats
from fastrealign.core.choices import SIDES
from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import brief, described
from fastrealign.data.id_index import IdIndex, RowNumbers, Twice
from fastrealign.data.image_paths import Near
from fastrealign.data.row_ids import IdsOf
from fastrealign.data.sources import FileSource
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.lance import LanceShard
from fastrealign.formats.metadata import attach_metadata
from fastrealign.formats.pickle_layouts import AnyPickleShard

# Size of the cache of decoded parts, which holds at least one.
CACHE_BYTES = 256 << 20
# Shards open at a time.
_OPEN = 64
# Larger parts of a shard make a random row expensive.
_EXPENSIVE_BYTES = 1 << 20


class Embeddings:
    """Rows by id. Made by `open_embeddings`; may be forked or pickled to other processes, one thread of each reads.

    name      as given
    dim       width of a row
    ids_from  where the ids come from, for messages
    """

    def __init__(
        self,
        source: formats.Source,
        index: IdIndex | RowNumbers,
        ids_from: str,
        how: dict[str, Any],
        ids: tuple[Any, Any],
    ) -> None:
        """how: for `_opened`; ids: what `open_embeddings` was given as ids and id_column."""
        self.name, self.dim, self.ids_from = source.name, source.dim, ids_from
        self._index = index
        self._how = how
        self._ids = ids
        self._near: Near | None = None
        self._take(source)

    def _take(self, source: formats.Source) -> None:
        self._shards = source.shards
        self._starts = np.array([0, *accumulate(shard.rows for shard in source.shards)])
        files = FileSource(source)
        # The numbers of the rows in a pass over the source, on which the noise of c3 depends.
        self._firsts = np.array([files.piece(i, 0, 0).first for i in range(len(source.shards))])
        self._open: OrderedDict[int, None] = OrderedDict()
        self._parts: dict[int, np.ndarray] = {}
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached = 0
        self._warned = False
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "ids_from": self.ids_from,
            **{name: getattr(self, name) for name in ("_index", "_how", "_ids", "_near")},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        source = _opened(**self._how)
        self.dim = source.dim
        self._take(source)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def paths(self) -> list[str]:
        """Of its shards."""
        return [shard.path for shard in self._shards]

    def __contains__(self, id: object) -> bool:
        return isinstance(id, str) and bool(self.find([id])[0] >= 0)

    def find(self, ids: Sequence[str], images: Sequence[str | None] | None = None) -> np.ndarray:
        """int64 (n,): the number of each id's row, -1 where there is none. Reads no embedding.

        images   the path of the image of each, or None. An id without a row is looked up by this path, or else by the id as a
                 path (image_paths.py): tails of paths are compared, with or without suffixes

        The first missing id causes one more pass over all ids. Raises InputError where two rows match equally, naming both.
        """
        if isinstance(ids, str):
            raise InputError(f"{self.name}: ids={brief(ids)}: expected a list of ids; for one, pass [id]")
        if odd := [id for id in ids if not isinstance(id, str)]:
            raise InputError(f"{self.name}: the id {brief(odd[0])} is {described(odd[0])}, expected text")
        numbers = self._index.find(ids)
        if isinstance(self._index, RowNumbers):
            return numbers
        left = np.flatnonzero(numbers < 0)
        names = [(images[i] if images is not None else None) or ids[i] for i in left.tolist()]
        if names:
            if self._near is None:
                self._near = Near.make(IdsOf(self._shards, *self._ids).batches(SILENT))
            numbers[left], others = self._near.find(names, self._index)
            if (others >= 0).any():
                at = int(np.flatnonzero(others >= 0)[0])
                raise self._ambiguous(names[at], int(numbers[left[at]]), int(others[at]))
        return numbers

    def exact(self, ids: Sequence[str]) -> np.ndarray:
        """int64 (n,): the number of the row that has each id itself, -1 where none has."""
        return self._index.find(ids)

    def _ambiguous(self, name: str, *rows: int) -> InputError:
        of = IdsOf(self._shards, *self._ids)
        either = " or ".join(f"{of.of_row(row)!r} ({self.where(row)})" for row in rows)
        return InputError(f"{self.name}: {name!r} may be {either}; give a longer part of its path, as in these ids")

    def rows(self, ids: Sequence[str], images: Sequence[str | None] | None = None) -> np.ndarray:
        """float32 (n, dim): the embeddings of these ids, in their order; images: as in `find`.

        Raises InputError for missing ids (the first, how many, where they were looked for), and for a row without a
        direction (zero, NaN, Inf).
        """
        numbers = self.find(ids, images)
        if (numbers < 0).any():
            missing = np.flatnonzero(numbers < 0)
            raise self.missing(ids[missing[0]], len(missing), len(ids))
        rows = self.at(numbers)
        with np.errstate(over="ignore"):
            squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        bad = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
        if len(bad):
            what = "is zero" if squares[bad[0]] == 0 else "holds NaN or Inf"
            raise InputError(
                f"{self.where(int(numbers[bad[0]]))} (id {ids[bad[0]]!r}) {what}; make it again or drop it"
            )
        return rows

    def at(self, numbers: np.ndarray) -> np.ndarray:
        """float32 (n, dim): the rows of these numbers, counted over all shards, in their order."""
        numbers = np.asarray(numbers)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"{self.name}: rows {numbers.min()} to {numbers.max()} of {len(self)}")
        wanted, back = np.unique(numbers, return_inverse=True)
        found = np.empty((len(wanted), self.dim), np.float32)
        ends = np.searchsorted(wanted, self._starts)
        for i in np.flatnonzero(np.diff(ends)):
            lo, hi = ends[i], ends[i + 1]
            self._read(int(i), wanted[lo:hi] - self._starts[i], found[lo:hi])
        return found[back]

    def pass_numbers(self, numbers: np.ndarray) -> np.ndarray:
        """int64 (n,): the numbers that these rows have where a method maps the whole source (`baselines.Mapped`)."""
        shard = np.searchsorted(self._starts, numbers, side="right") - 1
        return numbers - self._starts[shard] + self._firsts[shard]

    def where(self, number: int) -> str:
        """How to name a row in a message."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._shards[shard].where(number - int(self._starts[shard]))

    def missing(self, first: str, n: int, of: int) -> InputError:
        """The error about `n` of `of` ids that are not there."""
        without = sum(shard.skipped for shard in self._shards)
        items = f", and {count(without, 'more item', 'have')} no embedding" if without else ""
        return InputError(
            f"{self.name}: {n:,} of {of:,} ids {does(n, 'are')} not there, the first is {first!r}; looked for among "
            f"{count(len(self), 'id')} from "
            f"{self.ids_from}{items}; name other embeddings or ids, or skip what is missing"
        )

    def _read(self, shard: int, rows: np.ndarray, out: np.ndarray) -> None:
        """Rows of one shard, ascending, each once."""
        self._opening(shard)
        one = self._shards[shard]
        if one.random_access:
            cuts = np.flatnonzero(np.diff(rows) > 1) + 1
            for lo, hi in zip([0, *cuts], [*cuts, len(rows)], strict=True):
                scratch = np.empty((hi - lo) * one.dim * one.dtype.itemsize, np.uint8)
                out[lo:hi] = one.read(int(rows[lo]), int(rows[lo]) + int(hi - lo), scratch)
            return
        if shard not in self._parts:
            self._parts[shard] = np.array([0, *accumulate(one.groups())])
        starts = self._parts[shard]
        self._warn_if_expensive(one, int(np.diff(starts).max()))
        ends = np.searchsorted(rows, starts)
        for part in np.flatnonzero(np.diff(ends)):
            lo, hi = ends[part], ends[part + 1]
            out[lo:hi] = self._part(shard, int(part))[rows[lo:hi] - starts[part]]

    def _part(self, shard: int, part: int) -> np.ndarray:
        key = shard, part
        if key not in self._cache:
            rows = self._shards[shard].group(part)
            self._cache[key] = rows
            self._cached += rows.nbytes
            while self._cached > CACHE_BYTES and len(self._cache) > 1:
                self._cached -= self._cache.popitem(last=False)[1].nbytes
        self._cache.move_to_end(key)
        return self._cache[key]

    def _opening(self, shard: int) -> None:
        """Mark a shard as used, and close the least recently used one if too many are open."""
        if self._pid != os.getpid() and isinstance(self._shards[shard], LanceShard):
            raise InputError(
                f"{self._shards[shard].path}: Lance cannot be read in a forked process; start workers with "
                "multiprocessing_context='spawn', or none"
            )
        self._open[shard] = None
        self._open.move_to_end(shard)
        if len(self._open) > _OPEN:
            self._shards[self._open.popitem(last=False)[0]].close()

    def _warn_if_expensive(self, shard: formats.Shard, rows: int) -> None:
        nbytes = rows * shard.dim * shard.dtype.itemsize
        total = sum(one.nbytes for one in self._shards if not one.random_access)
        if not self._warned and nbytes > _EXPENSIVE_BYTES and total > CACHE_BYTES and shard.format != "arrow":
            warn(
                f"{self.name}: {shard.format} is not read at random: a row costs a part of up to {nbytes >> 20} MB, of which "
                f"{CACHE_BYTES >> 20} MB are kept; for shuffled training convert it: fastrealign convert ... --to npy",
                UserWarning,
            )
        self._warned = True


def open_embeddings(
    source: Any,
    *,
    dim: int | None = None,
    side: str = "text",
    column: str | None = None,
    ids: Any = None,
    id_column: str | None = None,
    index: str | os.PathLike | None = None,
    progress: Progress = SILENT,
) -> Embeddings:
    """Open the embeddings of shards to be looked up by id: headers and ids are read, no rows.

    source     what `fastrealign.formats.open_source` takes: file, glob, folder, clip-retrieval root, list of these
    dim        the expected width
    side       "text" or "image": which folder of a clip-retrieval root to read
    column     parquet column, pickle key, ... of the embeddings, where that is ambiguous
    ids        a file with the ids of all rows in order: .txt (one a line), .json (a list), .npy (text or whole numbers), .csv
               or .parquet, also as FILE:COLUMN; or a sequence of them. Shards of a folder are in numeric order, 2.npy before
               10.npy, unlike sorted(): for a list in that order, name them with leading zeros. By default those that the
               shards have (the first of usual_names.ID_NAMES, of tables, pickled items, tensors and
               clip-retrieval's metadata, the ids of a FAISS IDMap); where they have none, the id of a row is its number
               over all shards, as text
    id_column  the column of the ids, where it has another name
    index      a folder to keep the index of ids in; used again while the files are the same (id_index.py has its size)

    Raises InputError as `open_source` does, for another width, where only some shards have ids, for another number of ids than
    rows, and for an id that occurs twice, naming both rows.
    """
    if side not in SIDES:
        raise InputError(f"side={side!r}: expected text or image")
    how = {"source": source, "side": side, "column": column}
    opened = _opened(**how)
    if dim is not None and opened.dim != dim:
        raise InputError(
            f"{opened.name}: rows are {opened.dim} wide, expected {dim}; name the embeddings of that encoder"
        )
    of = IdsOf(opened.shards, ids, id_column)
    if of.numbered:
        return Embeddings(opened, RowNumbers(opened.rows), of.named, how, (ids, id_column))
    place = None if index is None else Path(index)
    made_of = of.made_of() if place is not None else {}
    kept = None if place is None else IdIndex.kept(place, made_of)
    if kept is None:
        try:
            kept = IdIndex.make(of.batches(progress), opened.rows, place, made_of)
        except Twice as pair:
            first, second = opened.where(pair.first), opened.where(pair.second)
            raise InputError(
                f"{second}: has the id {of.of_row(pair.second)!r}, as {first} has; ids from {of.named} must be unique"
            ) from None
    return Embeddings(opened, kept, of.named, how, (ids, id_column))


def _opened(source: Any, side: str, column: str | None) -> formats.Source:
    wanted = Wanted(column, SIDES[side])
    opened = formats.open_source(source, side=SIDES[side], column=wanted, pickles=AnyPickleShard)
    if side == "image":
        attach_metadata(opened.shards)
    return opened
