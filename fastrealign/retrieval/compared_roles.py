"""The maps that are compared: roles fitted by each method, or given, and the queries as each of them maps them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.core.wording import option
from fastrealign.diagnostics.unit_rows import draw, picked
from fastrealign.methods import role_pairs
from fastrealign.methods.choosing import AUTO
from fastrealign.methods.fit_options import BALANCED
from fastrealign.methods.method import Method
from fastrealign.methods.roles import Roles, fit_roles
from fastrealign.retrieval.documents import IMAGE, NAMES, QUERY, TEXT, Judged, Rows
from fastrealign.storage.paths import is_path

# Queries that the map of queries is fitted on, at most; with fewer than FEW it is fitted on those that it is measured on.
FITTED, FEW = 20_000, 20
# Methods that choose by pairs.
PAIRED = (BALANCED, AUTO)


@dataclass(frozen=True, eq=False)
class Mapped:
    """Mapped queries (n, d), their places among the judged ones, the map of each role of documents, and what fitted them."""

    at: np.ndarray
    queries: np.ndarray
    maps: Mapping[str, Method]
    method: str


class Fitting:
    """Fits roles on the documents and on half of the queries, and maps the other half of them."""

    def __init__(self, queries: Rows, documents: Mapping[str, Rows], judged: Judged, seed: int) -> None:
        others = draw(queries.rows, FITTED, seed) if queries.rows > FITTED else np.arange(queries.rows)
        numbers = np.union1d(others, judged.queries)
        n = len(numbers)
        self.halves = n >= FEW
        self._rows = picked(queries.source, numbers)
        self._half = np.random.default_rng(seed).permutation(n) % 2 if self.halves else np.zeros(n, int)
        self._judged = np.searchsorted(numbers, judged.queries)
        self._documents = documents
        self._relevant = judged.relevant
        self._anchor = IMAGE if IMAGE in documents else TEXT

    def by(self, method: str, progress: Progress) -> list[Mapped]:
        """The judged queries as roles of one method map them, with the maps of the documents, which are the same for all.

        Of a method that chooses by pairs, these are the judged ones of the other half, so each half has maps of its own.
        """
        given = {role: one.source for role, one in self._documents.items()}
        found: list[Mapped] = []
        for measured in range(2 if self.halves else 1):
            queries = self._rows[self._half != measured] if self.halves else self._rows
            pairs = self._pairs(method, measured)
            again = found and not pairs
            sides = {QUERY: queries, **({self._anchor: given[self._anchor]} if again else given)}
            roles = fit_roles(sides, anchor=self._anchor, method=method, pairs=pairs, progress=progress)
            at = np.flatnonzero(self._half[self._judged] == measured)
            maps = found[0].maps if again else {role: roles[role] for role in given}
            found.append(Mapped(at, roles[QUERY](self._rows[self._judged[at]]), maps, roles.method))
        if method in PAIRED:
            return [one for one in found if len(one.at)]
        at = np.concatenate([one.at for one in found])
        rows = np.concatenate([one.queries for one in found])
        return [Mapped(np.sort(at), rows[np.argsort(at)], found[0].maps, method)]

    def check(self, method: str) -> None:
        """InputError where a method chooses by pairs, and there are not enough."""
        if method not in PAIRED:
            return
        if not self.halves or len(self._documents) < 2:
            raise InputError(
                f"{method} chooses by judged pairs of text and of images; leave it out where one is missing"
            )
        counts, fewest = self.pairs_in_half(), role_pairs.FEWEST
        if min(counts.values()) < fewest:
            there = " and ".join(f"{n:,} of {NAMES[role]}" for role, n in counts.items())
            raise InputError(
                f"{method} is fitted on one half of the judged queries and measured on the other; each half needs at least "
                f"{fewest} pairs of text and {fewest} of images, and one has {there}; judge more queries, or leave {method} "
                f"out of {option('methods')}"
            )

    def pairs_in_half(self) -> dict[str, int]:
        """How many judged pairs of each role the half with fewer of them has."""
        halves = {role: self._half[self._judged[of.query]] for role, of in self._relevant.items()}
        return {role: int(min(np.sum(half == 0), np.sum(half == 1))) for role, half in halves.items()}

    def _pairs(self, method: str, measured: int) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] | None:
        """For a method that needs them the judged pairs of the other half of the queries."""
        if method not in PAIRED:
            return None
        pairs = {}
        for role, of in self._relevant.items():
            other = self._half[self._judged[of.query]] != measured
            documents, place = np.unique(of.document[other], return_inverse=True)
            rows = picked(self._documents[role].source, documents)[place]
            pairs[QUERY, role] = (self._rows[self._judged[of.query[other]]], rows)
        return pairs


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


def by_roles(roles: Roles, queries: np.ndarray, documents: Mapping[str, Rows]) -> list[Mapped]:
    """Given roles; where they have none for queries, that of text maps them."""
    maps = {name: roles[name] for name in documents}
    return [Mapped(np.arange(len(queries)), roles[role_of_queries(roles)](queries), maps, roles.method)]


def role_of_queries(roles: Roles) -> str:
    """The role whose map queries take."""
    return QUERY if QUERY in roles or TEXT not in roles else TEXT


def _opened(given: Any, sides: Mapping[str, Rows]) -> Roles:
    if isinstance(given, Roles):
        roles, name = given, "roles"
    elif is_path(given):
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
