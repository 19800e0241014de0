"""Pickles in other layouts, read as if they were a list of items. They are not written back.

[{"id": ..., "embed": array}, ...]                    a list of items
{7: {"caption": ..., "embed": array}, ...}            items by id
{"images": {...}, "captions": {...}}                  several of these, of which `column` names one
{"ids": [...], "captions": [...], "embeddings": 2-D}  one array of embeddings, and lists and arrays of the same length
{"a.jpg": array, ...}                                 embeddings by id
2-D array; [array, ...]                               embeddings alone
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from fastrealign.core.dtypes import CODES
from fastrealign.core.errors import InputError
from fastrealign.formats.choose_column import (
    USUAL_NAMES,
    Candidate,
    Fit,
    Wanted,
    choose_name,
    instead,
    listed,
    of_side,
    other_split,
)
from fastrealign.formats.matrix import fit_of_shape
from fastrealign.formats.pickles import EMBED, LIST, PickleShard, kind_of, shown_key
from fastrealign.formats.unpickler import load
from fastrealign.storage.paths import AnyPath


class AnyPickleShard(PickleShard):
    """One pickle of any of these layouts.

    left_out   keys of a dict whose values have no entry per row
    """

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        self.left_out: list[str] = []
        super().__init__(path, name, column)

    def of_rows(self) -> tuple[dict[str, list[Any]], list[str]]:
        values, _ = super().of_rows()
        return values, self.left_out

    def writer(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(f"{self.path}: pickles of other layouts are not written back")

    def _load(self) -> list:
        value = load(self.path)
        if isinstance(value, list):
            if not value or not all(isinstance(part, np.ndarray) for part in value):
                return value
            self.key = EMBED
            return [{EMBED: part} for part in value]
        if isinstance(value, np.ndarray):
            value = {EMBED: value}
        if not isinstance(value, dict) or not value:
            raise InputError(f"{self.path}: holds {kind_of(value)}, expected a list or a dict with embeddings; {LIST}")
        if all(isinstance(part, dict) for part in value.values()):
            return [{"id": name, **item} for name, item in self._chosen(value).items()]
        if any(_is_matrix(part) or (name in USUAL_NAMES and _is_sequence(part)) for name, part in value.items()):
            return self._side_by_side(value)
        if all(isinstance(part, np.ndarray) for part in value.values()):
            self.key = EMBED
            return [{"id": name, EMBED: part} for name, part in value.items()]
        raise InputError(
            f"{self.path}: holds a dict with {_listed(value)}, none of which is a 2-D array of embeddings or all items "
            f"by id; {LIST}"
        )

    def _chosen(self, value: dict) -> dict:
        """The dict of items by id, of several in a pickle the wanted one."""
        groups = [name for name, part in value.items() if part and all(isinstance(p, dict) for p in part.values())]
        if not groups:
            return value
        sets = [Candidate(name, "items", Fit.TAKEN) for name in groups if isinstance(name, str)]
        given = self._wanted.given(sets)
        if given in groups:
            self.key = EMBED
            return value[given]
        if len(groups) > 1 and self._wanted.side is not None:
            groups = [one.name for one in of_side(self._wanted.side, sets)] or groups
        if len(groups) > 1:
            raise InputError(
                f"{self.path}: holds several sets of items, {_listed(groups)}; name the one to take with "
                f"{self._wanted.option}"
            )
        return value[groups[0]]

    def _side_by_side(self, value: dict) -> list[dict]:
        """Items made of the rows of the matrix and of all values of the same length."""
        candidates = [Candidate(str(name), _holds(part), _fit(part)) for name, part in value.items()]
        self.key = choose_name(self.path, candidates, self._wanted, "array", "a 2-D array of floats")
        if self.key not in value or not _is_matrix(value[self.key]):
            held = next(one.holds for one in candidates if one.name == self.key)
            raise InputError(
                f"{self.path}: {self.key!r} is {held}, expected a 2-D float array, one embedding a row"
                f"{instead(candidates, self.key, self._wanted)}"
            )
        rows = len(value[self.key])
        beside = {
            name: part
            for name, part in value.items()
            if _is_sequence(part) and len(part) == rows and not other_split(str(name), self.key)
        }
        self.left_out = [str(name) for name in value if name not in beside]
        return [dict(zip(beside, item, strict=True)) for item in zip(*beside.values(), strict=True)]


def _is_sequence(value: object) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _is_matrix(value: object) -> bool:
    return _fit(value) is Fit.TAKEN


def _fit(value: Any) -> Fit:
    """Whether a value of a dict may hold the embeddings."""
    if isinstance(value, np.ndarray):
        return fit_of_shape(value.shape, value.dtype.newbyteorder("=") in CODES, value.dtype.kind in "iub")
    if _is_sequence(value) and value:
        first = value[0]
        vectors = first.dtype.kind in "fcV" and first.ndim > 0 if isinstance(first, np.ndarray) else _is_sequence(first)
        return Fit.SHAPED if vectors else Fit.CODED
    return Fit.NO if value is None or isinstance(value, (bool, int, float)) else Fit.CODED


def _holds(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else kind_of(value)


def _listed(names: Iterable[object]) -> str:
    return listed([shown_key(name) for name in names])
