"""Which rows of a fragment of a Lance table are mapped, and what is written of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fastrealign.core.libraries import pa
from fastrealign.retrieval.stores.base import Align, Batch
from fastrealign.retrieval.stores.lance_parts import Filled, matrix_of, values_of


class Columns(NamedTuple):
    """Of the vectors that are read, the aligned ones, the role of each row now and when it was mapped, and what names it."""

    vector: str
    target: str
    by: str | None
    stored: str
    id: str | None

    def named(self, *more: str) -> list[str]:
        """Those that are read, and more."""
        return [*dict.fromkeys(one for one in (self.vector, self.by, self.id, *more) if one is not None)]


def places_of(batch: Any) -> np.ndarray:
    """The places of rows in their fragment."""
    return np.asarray(batch["_rowaddr"]) & 0xFFFFFFFF


def changed_in(batches: Iterable[Any], rows: int, align: Align, columns: Columns) -> np.ndarray:
    """Which rows of a fragment (bool, by their places) have an aligned vector of their role that is of another vector."""
    changed = np.zeros(rows, bool)
    for batch in batches:
        done, names, _ = _done(batch, columns)
        there = np.asarray(batch[columns.vector].is_valid())
        align.bare += int(np.count_nonzero(np.asarray(batch[columns.target].is_valid()) & ~there))
        done &= there
        if done.any():
            part = batch if done.all() else batch.filter(pa.array(done))
            places, roles = places_of(part), names if names is None else names[done]
            given = Batch(matrix_of(part[columns.vector]), places, roles)
            changed[places] = align.changed(given, matrix_of(part[columns.target]))
    return changed


def aligned(batch: Any, at: int, align: Align, columns: Columns, changed: np.ndarray) -> Filled:
    """What is written of the rows from place `at` to the last of a batch: those that are not done, or `changed`, are mapped,
    the others stay as they are."""
    places = places_of(batch)
    todo, keeps = np.asarray(batch[columns.vector].is_valid()), None
    if columns.target in batch.schema.names:
        done, names, stored = _done(batch, columns)
        old = np.asarray(batch[columns.target].is_valid())
        todo &= ~(done & ~changed[places])
        keeps = old & ~todo
    else:
        names = None if columns.by is None else values_of(batch[columns.by].cast(pa.string()))
    part = batch if todo.all() else batch.filter(pa.array(todo))
    roles = names if names is None else names[todo]
    rows, good = align(Batch(matrix_of(part[columns.vector]), part[columns.id or "_rowaddr"], roles))
    differs = bool(good.any() or (keeps is not None and old[todo].any()))
    places = places - at
    n = int(places[-1]) + 1
    if len(rows) == n:
        return Filled(rows, good, roles, differs)
    whole = Filled.empty(n, rows, columns.by is not None, differs)
    whole.put(places[todo], rows, good, roles)
    if keeps is not None and keeps.any():
        kept = matrix_of(batch[columns.target].filter(pa.array(keeps)))
        whole.put(places[keeps], kept, np.ones(len(kept), bool), stored if stored is None else stored[keeps])
    return whole


def _done(batch: Any, columns: Columns) -> tuple[np.ndarray, Any, Any]:
    """Which rows (bool) have an aligned vector of the role that they have now; their roles now, and those stored."""
    old = np.array(batch[columns.target].is_valid())
    if columns.by is None:
        return old, None, None
    names, stored = values_of(batch[columns.by].cast(pa.string())), values_of(batch[columns.stored])
    return old & (stored == names), names, stored
