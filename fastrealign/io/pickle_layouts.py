"""Pickles in other layouts than a list of items, read as if they were one. They are not written back.

[{"id": ..., "embed": array}, ...]                    a list of items, as ever
{7: {"caption": ..., "embed": array}, ...}            items by id
{"images": {...}, "captions": {...}}                  several of these, of which `column` names one
{"ids": [...], "captions": [...], "embeddings": 2-D}  one array of embeddings, and lists and arrays of the same length
{"a.jpg": array, ...}                                 embeddings by id
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastrealign.errors import InputError
from fastrealign.io.names import USUAL_NAMES
from fastrealign.io.pickles import PickleShard, kind_of
from fastrealign.io.unpickler import load

_EMBED = "embed"


class AnyPickleShard(PickleShard):
    """One pickle of any of these layouts.

    left_out   keys of a dict whose values do not belong to rows
    """

    def __init__(self, path, name: str, column: str | None = None) -> None:
        self.left_out: list[str] = []
        self._column = column
        super().__init__(path, name, column)

    def of_rows(self) -> tuple[dict[str, list[Any]], list[str]]:
        values, _ = super().of_rows()
        return values, self.left_out

    def writer(self, *_, **__):
        raise TypeError(f"{self.path}: pickles of other layouts are not written back")

    def _load(self) -> list:
        value = load(self.path)
        if isinstance(value, list):
            return value
        if not isinstance(value, dict) or not value:
            raise InputError(f"{self.path}: holds a {kind_of(value)}, expected a list or a dict with embeddings")
        if all(isinstance(part, dict) for part in value.values()):
            return self._by_id(self._chosen(value))
        if any(_is_matrix(part) for part in value.values()):
            return self._side_by_side(value)
        if all(isinstance(part, np.ndarray) for part in value.values()):
            self.key = _EMBED
            return [{"id": name, _EMBED: part} for name, part in value.items()]
        raise InputError(
            f"{self.path}: holds a dict with {_listed(value)}, none of which is a 2-D array of embeddings or all items "
            "by id; pickle a list of {'id': ..., 'embed': array}"
        )

    def _chosen(self, value: dict) -> dict:
        """The dict of items by id, where the pickle has several of them."""
        groups = [name for name, part in value.items() if part and all(isinstance(p, dict) for p in part.values())]
        if not groups:
            return value
        if len(groups) > 1 and self._column not in groups:
            raise InputError(f"{self.path}: holds several sets of items, {_listed(groups)}; name the one to take")
        chosen = self._column if self._column in groups else groups[0]
        if chosen == self._column:
            self.key = _EMBED
        return value[chosen]

    def _by_id(self, items: dict) -> list[dict]:
        return [{"id": name, **item} for name, item in items.items()]

    def _side_by_side(self, value: dict) -> list[dict]:
        """Items whose embeddings are the rows of the matrix, other keys those of what is as long."""
        matrices = [name for name, part in value.items() if _is_matrix(part)]
        usual = [name for name in matrices if name in USUAL_NAMES]
        found = [self._column] if self._column is not None else usual or matrices
        if len(found) > 1:
            raise InputError(f"{self.path}: holds several arrays of embeddings, {_listed(found)}; name the one to take")
        if found[0] not in matrices:
            raise InputError(f"{self.path}: has no 2-D float array {found[0]!r}; its keys are {_listed(value)}")
        self.key = found[0]
        rows = len(value[self.key])
        beside = {name: part for name, part in value.items() if _is_sequence(part) and len(part) == rows}
        self.left_out = [str(name) for name in value if name not in beside]
        return [dict(zip(beside, item, strict=True)) for item in zip(*beside.values(), strict=True)]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_matrix(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "fV"


def _listed(names) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
