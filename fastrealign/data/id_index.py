"""From ids to row numbers: a sorted array of hashes, in memory or in files that are mapped.

An id is identified by 96 bits of its BLAKE2b hash; among 10^8 ids two collide with a probability of 6e-14. The index takes 16
bytes an id (20 from 2^32 rows on): in memory, or beyond 4 million ids in mapped files (1.6 GB for 10^8), whose pages processes
share. Building it takes another 12 bytes an id on disk and about 200 MB of memory.
Ids are compared by code point: "é" in two Unicode forms is two ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format

from fastrealign.core.errors import InputError
from fastrealign.storage.atomic import AtomicFolder
from fastrealign.storage.records import parsed
from fastrealign.storage.spool import Spool

_HASH = np.dtype([("high", "<u8"), ("low", "<u4")])
# Ids sorted at a time; an index of up to so many stays in memory.
PART = 1 << 22
_SCAN = 1 << 20
_MADE_OF = "made_of.json"


def lookup_hashes(ids: Sequence[str]) -> np.ndarray:
    """(n,) of (high, low): the hashes by which ids are looked up."""
    digests = [blake2b(id.encode("utf-8", "surrogatepass"), digest_size=_HASH.itemsize).digest() for id in ids]
    return np.frombuffer(b"".join(digests), _HASH)


def twice(hashes: np.ndarray) -> tuple[int, int] | None:
    """Places (first, second) of an id that occurs twice; None if there is none."""
    return _Part(hashes["high"], hashes["low"], np.arange(len(hashes))).twice


class RowNumbers:
    """The index of embeddings without ids: the id of a row is its number, as text."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """int64 (n,): the row of each id, -1 where there is none."""
        found = np.full(len(ids), -1)
        for i, id in enumerate(ids):
            if id.isascii() and id.isdecimal() and len(id) < 19 and str(int(id)) == id and int(id) < self.rows:
                found[i] = int(id)
        return found


class IdIndex:
    """The index of embeddings with ids.

    high, low, row   (n,) sorted by high: the two parts of an id's hash, and the row that has it
    """

    def __init__(self, high: np.ndarray, low: np.ndarray, row: np.ndarray, kept: Spool | Path | None = None) -> None:
        self._high, self._low, self._row = high, low, row
        self._kept = kept

    def __reduce__(self) -> tuple:
        if self._kept is None:
            return IdIndex, (self._high, self._low, self._row)
        return IdIndex._mapped, (self._kept,)

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """int64 (n,): the row of each id, -1 where there is none."""
        return self._at(self._places(lookup_hashes(ids)))

    def both(self, ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Two int64 (n,): the first and the last row of each id, in an index with repeated ids (`of_many`)."""
        wanted = lookup_hashes(ids)
        first = self._places(wanted)
        last = first.copy()
        left = np.flatnonzero(first >= 0)
        if len(left):
            last[left] = np.searchsorted(self._high, np.ascontiguousarray(wanted["high"][left]), side="right") - 1
        while len(left):  # repeats only where the first 64 bits of two hashes collide
            left = left[self._low[last[left]] != wanted["low"][left]]
            last[left] -= 1
        return self._at(first), self._at(last)

    def _at(self, places: np.ndarray) -> np.ndarray:
        rows = np.full(len(places), -1)
        there = places >= 0
        rows[there] = self._row[places[there]]
        return rows

    def _places(self, wanted: np.ndarray) -> np.ndarray:
        """int64 (n,): the first place of each hash in the arrays; -1 where it is missing."""
        high, low = np.ascontiguousarray(wanted["high"]), wanted["low"]
        found = np.full(len(wanted), -1)
        if not len(self._high):
            return found
        at = np.searchsorted(self._high, high)
        left = np.arange(len(wanted))
        while len(left):  # repeats only where the first 64 bits of two hashes collide
            left = left[at[left] < len(self._high)]
            left = left[self._high[at[left]] == high[left]]
            hit = self._low[at[left]] == low[left]
            found[left[hit]] = at[left[hit]]
            left = left[~hit]
            at[left] += 1
        return found

    @classmethod
    def make(cls, batches: Iterable[list[str]], rows: int, keep: Path | None, made_of: dict[str, Any]) -> IdIndex:
        """Build the index of `rows` ids, given in batches in the order of the rows.

        keep      a folder to store it in, reused while `made_of` is the same; None: in memory, or in temporary files
        Raises Twice where an id occurs twice.
        """
        if keep is None and rows <= PART:
            hashes = np.concatenate([np.empty(0, _HASH), *map(lookup_hashes, batches)])
            part = _Part(hashes["high"], hashes["low"], np.arange(rows, dtype=_row_type(rows)))
            part.check()
            return cls(part.high, part.low, part.row)
        if keep is None:
            spool = Spool("ids")
            with spool.guarded():
                _write(Path(spool.folder), batches)
            return cls._mapped(spool)
        folder = AtomicFolder(keep)
        try:
            with folder.writing():
                _write(folder.temporary, batches)
                (folder.temporary / _MADE_OF).write_text(json.dumps(made_of))
                made = cls(*_arrays(folder.temporary), keep)  # stays mapped even if another process replaces the folder
            folder.commit()
        except BaseException:
            folder.abort()
            raise
        return made

    @classmethod
    def of_many(cls, batches: Iterable[list[str]]) -> IdIndex:
        """The index of any number of ids, which may repeat (`both`); in temporary files."""
        spool = Spool("tails")
        with spool.guarded():
            _write(Path(spool.folder), batches, unique=False)
        return cls._mapped(spool)

    @classmethod
    def kept(cls, folder: Path, made_of: dict[str, Any]) -> IdIndex | None:
        """The index stored in a folder, None if it was made of something else; InputError for a folder of other files."""
        if not os.path.lexists(folder):
            return None
        try:
            if parsed((folder / _MADE_OF).read_text()) == json.loads(json.dumps(made_of)):
                return cls._mapped(folder)
        except (OSError, ValueError):
            if not folder.is_dir() or (any(folder.iterdir()) and not (folder / _MADE_OF).exists()):
                raise InputError(f"{folder}: exists and is not an index of ids; choose another folder") from None
        return None

    @classmethod
    def _mapped(cls, kept: Spool | Path) -> IdIndex:
        return cls(*_arrays(Path(kept.folder) if isinstance(kept, Spool) else kept), kept)


class Twice(InputError):
    """An id occurs twice; `first` and `second` are its rows."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"rows {first} and {second} have the same id")
        self.first, self.second = first, second


class _Part:
    """Some ids, sorted."""

    def __init__(self, high: np.ndarray, low: np.ndarray, row: np.ndarray) -> None:
        order = np.argsort(high, kind="stable")
        if (high[order][1:] == high[order][:-1]).any():
            order = np.lexsort((low, high))
        self.high, self.low, self.row = high[order], low[order], row[order]

    @property
    def twice(self) -> tuple[int, int] | None:
        same = (self.high[1:] == self.high[:-1]) & (self.low[1:] == self.low[:-1])
        if not same.any():
            return None
        first, second = self.row[:-1][same], self.row[1:][same]
        earliest = int(np.argmin(second))
        return int(first[earliest]), int(second[earliest])

    def check(self) -> None:
        if (pair := self.twice) is not None:
            raise Twice(*pair)


def _row_type(rows: int) -> np.dtype:
    return np.dtype(np.uint32 if rows < 2**32 else np.uint64)


_COLUMNS = ("high", "low", "row")


def _arrays(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    high, low, row = (np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _COLUMNS)
    return high, low, row


def _write(folder: Path, batches: Iterable[list[str]], *, unique: bool = True) -> None:
    """Write the hashes in the order of the rows, then sort them, one range of hashes at a time, into the files."""
    unsorted = folder / "unsorted"
    with open(unsorted, "wb") as file:
        for ids in batches:
            file.write(lookup_hashes(ids).tobytes())
    rows = unsorted.stat().st_size // _HASH.itemsize
    parts = -(-rows // (PART // 2)) or 1  # hashes are spread evenly: a part has about half of what may be sorted
    bounds = [2**64 * part // parts for part in range(1, parts)]
    with ExitStack() as stack:
        types = (_HASH["high"], _HASH["low"], _row_type(rows))
        files = [stack.enter_context(_npy(folder / f"{n}.npy", t, rows)) for n, t in zip(_COLUMNS, types, strict=True)]
        for low, high in zip([0, *bounds], [*bounds, 2**64], strict=True):
            part = _between(unsorted, low, high - 1, _row_type(rows))
            if unique:
                part.check()
            for name, column in zip(_COLUMNS, files, strict=True):
                column.write(getattr(part, name).tobytes())
    unsorted.unlink()


def _npy(path: Path, dtype: np.dtype, rows: int) -> BinaryIO:
    file = open(path, "wb")  # noqa: SIM115 - the caller closes it
    npy_format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": (rows,)})
    return file


def _between(path: Path, low: int, high: int, row_type: np.dtype) -> _Part:
    """The hashes of a file from `low` to `high`, both included, with their places."""
    parts, places, first = [np.empty(0, _HASH)], [np.empty(0, row_type)], 0
    with open(path, "rb") as file:
        while len(read := np.fromfile(file, _HASH, _SCAN)):
            here = np.flatnonzero((read["high"] >= np.uint64(low)) & (read["high"] <= np.uint64(high)))
            parts.append(read[here])
            places.append((first + here).astype(row_type))
            first += len(read)
    hashes = np.concatenate(parts)
    return _Part(hashes["high"], hashes["low"], np.concatenate(places))
