"""Pickles as embedding scripts write them: a list of items, `[{"id": ..., "caption": ..., "embed": ndarray}, ...]`.

The `embed` of an item is a float array of shape (d,) or (1, d). Items without one, or with None, are skipped and counted; the
output has the other items in order, with all keys, and the new embed in the same shape. A pickle is one object, so that a shard
is decoded whole each time it is opened or read: memory is bounded by the largest shard, not by the corpus.
"""

from __future__ import annotations

import pickle
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastrealign.core.dtypes import CODES, common_dtype
from fastrealign.core.errors import InputError, changed
from fastrealign.core.text import described
from fastrealign.formats.base import Shard, ShardWriter, native_float
from fastrealign.formats.choose_column import Candidate, Fit, Wanted, of_side
from fastrealign.formats.unpickler import Refused, load
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.files import file_size
from fastrealign.storage.paths import AnyPath, Place

# Advice where a file holds something else.
LIST = "pickle a list of {'id': ..., 'embed': array}"

EMBED = "embed"


class _Items(list):
    """A list of items that a weak reference can point to."""


class PickleShard(Shard):
    """One pickled list. `column` names the key of the embedding, by default "embed" or the only one of the side."""

    format = "pickle"
    opens_whole = True

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        super().__init__(path, name, column)
        self._wanted = Wanted.of(column)
        self.key = self._wanted.column or EMBED
        self._items: weakref.ref[_Items] | None = None
        file_size(path)
        items, self._facts = self._decode()
        self.column = self.key
        self.dim, self.dtype, self._skipped = self._facts
        self.skipped = len(self._skipped)
        self.rows = len(items) - self.skipped

    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        items = self.items()
        block = np.empty((min(rows, len(items)), self.dim), dtype=self.dtype)
        for lo in range(0, len(items), rows):
            part = items[lo : lo + rows]
            for row, item in zip(block, part, strict=False):
                row[:] = item[self.key].reshape(-1)
            yield block[: len(part)]

    def writer(self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> PickleWriter:
        return PickleWriter(out_path, dtype, self, fsync)

    @property
    def out_dtype(self) -> np.dtype:
        """At least float32, as the reference script writes."""
        return np.dtype(np.float32) if self.dtype.itemsize == 2 else self.dtype

    def where(self, row: int) -> str:
        if not self._skipped:
            return super().where(row)
        item = row
        for skipped in self._skipped:
            item += skipped <= item
        return f"{self.path}: row {row} (item {item})"

    def of_rows(self) -> tuple[dict[str, list[Any]], list[str]]:
        items = self.items()
        names = dict.fromkeys(name for item in items for name in item if name != self.key)
        return {name: [item.get(name) for item in items] for name in names}, []

    def items(self) -> _Items:
        """The items with an embedding, decoded once for all users at the same time."""
        items = self._items() if self._items is not None else None
        if items is None:
            decoded, facts = self._decode()
            items = _Items(item for item in decoded if item.get(self.key) is not None)
            if len(items) != self.rows or facts != self._facts:
                raise changed(self.path)
            self._items = weakref.ref(items)
        return items

    def _decode(self) -> tuple[list[dict], tuple[int, np.dtype, list[int]]]:
        """The checked items, and their width, common dtype and the positions of those without an embedding."""
        items = self._load()
        if self.key == EMBED and self._wanted.column is None:
            self.key = self._key_of(items)
        skipped = []
        widths: dict[int, int] = {}
        dtypes = set()
        for at, item in enumerate(items):
            if not isinstance(item, dict):
                raise InputError(
                    f"{self.path}: item {at} is {kind_of(item)}, expected a dict with 'id' and {self.key!r}"
                )
            embed = item.get(self.key)
            if embed is None:
                skipped.append(at)
                continue
            width = self._width(embed, at)
            widths.setdefault(width, at)
            if len(widths) > 1:
                (first, where), _ = widths.items()
                raise InputError(f"{self.path}: item {at} has {width} values, item {where} has {first}")
            dtypes.add(native_float(embed.dtype, f"{self.path}: item {at}"))
        if items and not any(self.key in item for item in items):
            keys = sorted({shown_key(key) for item in items for key in item})
            raise InputError(
                f"{self.path}: no item has the key {self.key!r}, the keys are {', '.join(keys[:20])}; name the column "
                f"with {self._wanted.option}"
            )
        return items, (next(iter(widths), 0), common_dtype(dtypes or {np.dtype(np.float32)}), skipped)

    def _key_of(self, items: list) -> str:
        """The key given for the other side, else "embed", else the only one of this side by its name."""
        values: dict[str, Any] = {}
        for item in items:
            for key, value in item.items() if isinstance(item, dict) else ():
                if isinstance(key, str) and (key not in values or values[key] is None):
                    values[key] = value
        candidates = [
            Candidate(key, kind_of(value), Fit.TAKEN if _is_vector(value) else Fit.NO) for key, value in values.items()
        ]
        given = self._wanted.given(candidates)
        if given is not None or EMBED in values or self._wanted.side is None:
            return given or EMBED
        mine = of_side(self._wanted.side, candidates)
        return mine[0].name if len(mine) == 1 else EMBED

    def _load(self) -> list:
        items = load(self.path)
        if not isinstance(items, list):
            raise InputError(
                f"{self.path}: holds {kind_of(items)}, expected a list of items; "
                + ("`fastrealign convert` reads some other layouts" if isinstance(items, (dict, np.ndarray)) else LIST)
            )
        return items

    def _width(self, embed: object, at: int) -> int:
        if not isinstance(embed, np.ndarray):
            how = "; numpy.asarray(x, 'float32') makes one of a list" if isinstance(embed, (list, tuple)) else ""
            raise InputError(
                f"{self.path}: item {at}: {self.key!r} is {kind_of(embed)}, expected a NumPy float array{how}"
            )
        if not _one_vector(embed):
            raise InputError(
                f"{self.path}: item {at}: {self.key!r} has shape {embed.shape}, expected (width,) or (1, width)"
            )
        return embed.shape[-1]


class PickleWriter(ShardWriter):
    """Collects the items with their new embeddings and pickles them (protocol 4) on commit."""

    _file: AtomicFile

    def __init__(self, path: Place, dtype: np.dtype, shard: PickleShard, fsync: bool = True) -> None:
        super().__init__(path, dtype, shard.out_dim, shard.rows, fsync)
        self._key = shard.key
        self._out: list[dict] = []
        with self._whole():
            self._source = iter(shard.items())

    def _append(self, rows: np.ndarray, keep: np.ndarray | None) -> None:
        rows = np.array(rows)  # the caller reuses its memory
        kept = iter(rows)
        for keep_item in [True] * len(rows) if keep is None else keep:
            item = next(self._source)
            if keep_item:
                self._out.append({**item, self._key: next(kept).reshape(*item[self._key].shape[:-1], -1)})

    def _finish(self) -> None:
        with self._file.stream() as stream:
            try:
                pickle.Pickler(stream, protocol=4).dump(self._out)
            except RecursionError:
                raise InputError(f"{self.path}: an item of the input is nested too deeply to be written") from None
            except Refused as refused:
                raise InputError(f"{self.path}: an item of the input holds {refused}, which is not written") from None


def _is_vector(value: object) -> bool:
    return isinstance(value, np.ndarray) and _one_vector(value) and value.dtype.newbyteorder("=") in CODES


def _one_vector(array: np.ndarray) -> bool:
    """Whether its shape is (width,) or (1, width)."""
    return array.size > 0 and array.ndim > 0 and array.shape[:-1] in ((), (1,))


def shown_key(key: object) -> str:
    """A key for messages, of bounded length."""
    text = repr(key) if isinstance(key, (str, bytes, int, float)) else kind_of(key)
    return text if len(text) <= 60 else f"{text[:57]}..."


def kind_of(value: object) -> str:
    """The type of a value with its article, that of an array for the unpickler's own class of arrays."""
    return described(value.view(np.ndarray) if isinstance(value, np.ndarray) else value)
