"""The inverted lists of an IndexIVFFlat, read in the order of the rows' ids.

    code ("ilar"), lists (int64), bytes of a row (int64)
    "full", lists (int64), the size of each (int64); or "sprs", 2 k (int64), number and size of the k that hold rows (int64)
    of every list that holds rows: the rows, then their ids (int64)

A place is the number of a row in the file. The order of places, 8 bytes per row, is in memory, or of many in a file.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.storage.files import Descriptor, read_into
from fastrealign.storage.spool import Spool

_HEAD = struct.Struct("<4sqq4sq")
_CODE, _FULL, _SPARSE = b"ilar", b"full", b"sprs"
_ID_BYTES = 8
# Places that are sorted at a time, and bytes of rows read at a time.
_SORTED = 1 << 24
_GATHERED_BYTES = 8 << 20


class Lists:
    """The positions of rows and ids.

    base, sizes   the offset of the first list, and the sizes of those with rows
    numbered      whether the ids are 0, 1, ... up to the number of rows, each once
    """

    def __init__(self, descriptor: Descriptor, base: int, sizes: np.ndarray, dim: int, path: str) -> None:
        self.path = path
        self.rows = int(sizes.sum())
        self._row_bytes = dim * 4
        self._firsts = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        self._starts = base + self._firsts[:-1] * (self._row_bytes + _ID_BYTES)
        self._id_starts = self._starts + sizes * self._row_bytes
        self._lock = threading.Lock()
        self._order: np.ndarray | None = None
        self._spool: Spool | None = None
        self.numbered = True
        if self.rows <= _SORTED:
            self._sorted(descriptor)
        else:
            self._sort_into_file(descriptor)

    def read(self, descriptor: Descriptor, lo: int, block: np.ndarray) -> None:
        """Rows lo to lo + len(block), in the order of ids, into the C-contiguous float32 `block`."""
        step = max(1, _GATHERED_BYTES // self._row_bytes)
        for at in range(0, len(block), step):
            part = block[at : at + step]
            places = self._places(descriptor, lo + at, lo + at + len(part))
            self._gather(descriptor, places, self._starts, part.view(np.uint8))

    def ids(self, descriptor: Descriptor, lo: int, hi: int) -> np.ndarray:
        """The ids of those rows (int64)."""
        return self._ids_at(descriptor, self._places(descriptor, lo, hi))

    def forget(self) -> None:
        """Free memory; the order is computed again when needed."""
        self._order = None

    def _ids_at(self, descriptor: Descriptor, places: np.ndarray) -> np.ndarray:
        ids = np.empty((len(places), 1), dtype=np.int64)
        self._gather(descriptor, places, self._id_starts, ids.view(np.uint8))
        return ids[:, 0]

    def _places(self, descriptor: Descriptor, lo: int, hi: int) -> np.ndarray:
        if self._spool is not None:
            with self._spool.guarded():
                return np.fromfile(self._spool.path, np.int64, hi - lo, offset=lo * 8)
        with self._lock:
            order = self._sorted(descriptor) if self._order is None else self._order
        return order[lo:hi]

    def _sorted(self, descriptor: Descriptor) -> np.ndarray:
        """The order of ids, of equal ones that of places, kept until `forget`."""
        ids = self._ids_at(descriptor, np.arange(self.rows))
        order = self._order = np.argsort(ids, kind="stable")
        self.numbered = bool((ids[order] == np.arange(self.rows)).all())
        return order

    def _sort_into_file(self, descriptor: Descriptor) -> None:
        """The same order, of many rows, in a temporary file."""
        spool, done = Spool("order"), 0
        with spool.writing() as file:
            for places, ids in self._windows(descriptor):
                order = np.argsort(ids, kind="stable")
                self.numbered &= bool((ids[order] == np.arange(done, done + len(ids))).all())
                file.write(places[order].data)
                done += len(ids)
        self._spool = spool

    def _windows(self, descriptor: Descriptor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places and ids by ranges of ids of about equal size. All ids are read for each range."""
        sample = np.sort(self._ids_at(descriptor, np.arange(0, self.rows, -(-self.rows // 65536))))
        windows = -(-2 * self.rows // _SORTED)
        bounds = np.unique(sample[np.arange(1, windows) * len(sample) // windows])
        for window in range(len(bounds) + 1):
            found: list[tuple[np.ndarray, np.ndarray]] = []
            for lo in range(0, self.rows, _SORTED):
                ids = self._ids_at(descriptor, np.arange(lo, min(lo + _SORTED, self.rows)))
                inside = np.flatnonzero(np.searchsorted(bounds, ids, side="right") == window)
                found.append((lo + inside, ids[inside]))
            yield np.concatenate([places for places, _ in found]), np.concatenate([ids for _, ids in found])

    def _gather(self, descriptor: Descriptor, places: np.ndarray, starts: np.ndarray, out: np.ndarray) -> None:
        """Read `places` into the rows of the uint8 matrix `out`; adjacent ones with one read."""
        width = out.shape[1]
        order = np.argsort(places, kind="stable")
        ordered = places[order]
        of = np.searchsorted(self._firsts, ordered, side="right") - 1
        at = starts[of] + (ordered - self._firsts[of]) * width
        cuts = np.flatnonzero(np.diff(at) != width) + 1
        in_order = bool((order == np.arange(len(order))).all())
        buffer = out if in_order else np.empty_like(out)
        if len(places):
            for lo, hi in zip([0, *cuts], [*cuts, len(places)], strict=True):
                read_into(descriptor, buffer[lo:hi].reshape(-1), int(at[lo]), self.path)
        if not in_order:
            out[order] = buffer


def find_lists(descriptor: Descriptor, end: int, rows: int, dim: int, lists: int, path: str) -> Lists:
    """The lists of an index of `rows` x `dim` that end at byte `end`; InputError if they are not there."""
    base = end - rows * (dim * 4 + _ID_BYTES)
    sizes = _full(descriptor, base, lists, dim)
    if sizes is None:
        sizes = _sparse(descriptor, base, min(lists, rows), lists, dim)
    if sizes is None:
        raise InputError(
            f"{path}: is an IndexIVFFlat of {rows} x {dim}, but does not end with its {lists} lists: it is truncated or "
            "damaged, or was written without them (OnDiskInvertedLists keep them in another file), or with fewer rows (rows "
            "with NaN were added, which FAISS counts and does not keep); give the embeddings that it was made from"
        )
    # The float64 sum keeps the exact one from overflowing.
    beyond_reason = len(sizes) and (sizes.min() < 0 or sizes.sum(dtype=np.float64) > 2 * rows)
    if beyond_reason or sizes.sum() != rows:
        raise InputError(f"{path}: damaged: its lists do not hold the {rows} rows of the index; write it again")
    return Lists(descriptor, base, sizes[sizes > 0], dim, path)


def _full(descriptor: Descriptor, base: int, lists: int, dim: int) -> np.ndarray | None:
    at = base - lists * 8 - _HEAD.size
    if lists < 0 or at < 0 or descriptor.pread(_HEAD.size, at) != _HEAD.pack(_CODE, lists, dim * 4, _FULL, lists):
        return None
    return np.frombuffer(descriptor.pread(lists * 8, base - lists * 8), np.int64)


def _sparse(descriptor: Descriptor, base: int, most: int, lists: int, dim: int) -> np.ndarray | None:
    first = max(0, base - most * 16 - _HEAD.size)
    if lists < 0 or base - first < _HEAD.size:
        return None
    text = descriptor.pread(base - first, first)
    at = text.find(_CODE)
    while at >= 0:
        pairs = len(text) - at - _HEAD.size
        head = _HEAD.pack(_CODE, lists, dim * 4, _SPARSE, max(pairs, 0) // 8)
        if pairs % 16 == 0 and text.startswith(head, at):
            return np.frombuffer(text, np.int64, offset=at + _HEAD.size).reshape(-1, 2)[:, 1]
        at = text.find(_CODE, at + 1)
    return None
