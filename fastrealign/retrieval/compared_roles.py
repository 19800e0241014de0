"""The maps that are compared: roles fitted by each method, or given, and the queries as each of them maps them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.diagnostics.rows import draw, pick
from fastrealign.methods.method import Method
from fastrealign.methods.roles import Roles, fit_roles
from fastrealign.retrieval.documents import IMAGE, QUERY, TEXT, Rows

# Queries that the map of queries is fitted on, at most; with fewer than FEW it is fitted on those that it is measured on.
FITTED, FEW = 20_000, 20


@dataclass(frozen=True, eq=False)
class Mapped:
    """The mapped queries (n, d), and the map of each role of documents."""

    queries: np.ndarray
    maps: Mapping[str, Method]


def rows_at(side: Rows, numbers: np.ndarray) -> np.ndarray:
    """Unit rows with these numbers, float64."""
    out = np.empty((len(numbers), side.source.d))
    for here, taken in pick(side.source, numbers):
        out[here] = taken
    return out


class Fitting:
    """Fits roles on the documents and on half of the queries, and maps the other half of them."""

    def __init__(self, queries: Rows, documents: Mapping[str, Rows], judged: np.ndarray, seed: int) -> None:
        others = draw(queries.rows, FITTED, seed) if queries.rows > FITTED else np.arange(queries.rows)
        self._numbers = np.union1d(others, judged)
        self._rows = rows_at(queries, self._numbers)
        self._judged = np.searchsorted(self._numbers, judged)
        self._documents = documents
        self._anchor = IMAGE if IMAGE in documents else TEXT
        self.halves = len(self._numbers) >= FEW
        n = len(self._numbers)
        self._half = np.random.default_rng(seed).permutation(n) % 2 if self.halves else np.zeros(n, int)

    def by(self, method: str, progress: Progress) -> Mapped:
        """The roles of one method, and the judged queries mapped by them."""
        given = {role: one.source for role, one in self._documents.items()}
        mapped = np.empty((len(self._judged), self._rows.shape[1]))
        half = self._half[self._judged]
        maps: Mapping[str, Method] = {}
        for measured in range(2 if self.halves else 1):
            fitted_on = self._rows[self._half != measured] if self.halves else self._rows
            # The maps of documents are the same in both halves.
            sides = {QUERY: fitted_on, **({self._anchor: given[self._anchor]} if maps else given)}
            roles = fit_roles(sides, anchor=self._anchor, method=method, progress=progress)
            maps = maps or {role: roles[role] for role in given}
            here = half == measured
            if here.any():
                mapped[here] = roles[QUERY](self._rows[self._judged[here]])
        return Mapped(mapped, maps)


def opened_roles(given: Any, sides: Mapping[str, Rows]) -> dict[str, Roles]:
    """Saved or fitted roles by the name that they are compared under: one of them, or a mapping of names.

    Raises InputError for roles of another width, or without a role of the documents.
    """
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): _opened(one, sides) for name, one in given.items()}
    roles = _opened(given, sides)
    return {f"roles ({roles.method})": roles}


def by_roles(roles: Roles, queries: np.ndarray, documents: Mapping[str, Rows]) -> Mapped:
    """Given roles; where they have none for queries, that of text maps them."""
    role = QUERY if QUERY in roles or TEXT not in roles else TEXT
    return Mapped(roles[role](queries), {name: roles[name] for name in documents})


def _opened(given: Any, sides: Mapping[str, Rows]) -> Roles:
    if isinstance(given, Roles):
        roles, name = given, "roles"
    elif isinstance(given, (str, os.PathLike)):
        roles, name = Roles.load(given), os.fspath(given)
    else:
        raise InputError(
            f"roles: {type(given).__name__}, expected fastrealign.Roles, the path of saved ones, or a mapping"
        )
    width = sides[QUERY].source.d
    if roles.dim != width:
        raise InputError(
            f"{name}: maps rows {roles.dim} wide, these are {width} wide; fit roles on embeddings of this encoder"
        )
    for role in sides:
        if role not in roles and (role != QUERY or TEXT not in roles):
            raise InputError(f"{name}: has no role {role!r}; its roles are {', '.join(roles)}")
    return roles
