"""Pairs of rows that belong together, of several roles, and what a search of one index of all their documents finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.wording import option
from fastrealign.data.pair import shared_rows
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import names_files
from fastrealign.diagnostics.search import Nearest, nearest
from fastrealign.diagnostics.unit_rows import count_rows, draw, sample
from fastrealign.methods.method import Method
from fastrealign.methods.role_fits import known, named, open_role

# A document is found among so many.
TOP = 10
# Pairs of a kind: fewer leave R@10 uncertain by more than 0.05, more are sampled.
FEWEST, MOST = 100, 10_000
# Queries that are searched at a time.
_QUERIES = 2048
# Other documents of a query that may come before its own without counting.
_OTHERS = 20


@dataclass(frozen=True, eq=False)
class Kind:
    """Pairs of one kind: which role is searched with and which is found; int64 (n,): numbers of queries and documents."""

    query: str
    document: str
    of_query: np.ndarray
    of_document: np.ndarray

    def __str__(self) -> str:
        return f"{self.query}:{self.document}"


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct unit rows of the queries and of the documents of each role, float32 (n, d), and which belong together."""

    queries: Mapping[str, np.ndarray]
    documents: Mapping[str, np.ndarray]
    kinds: list[Kind]


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found with some maps.

    together, alone   of each kind, bool (n,): the document is among the ten best of all documents, and of those of its role
    best_wrong        of each role of documents: the mean over all queries of the best cosine of one that is not the query's
    """

    together: list[np.ndarray]
    alone: list[np.ndarray]
    best_wrong: dict[str, float]


def open_pairs(
    pairs: Any, roles: Mapping[str, RowSource], columns: Mapping[str, str]
) -> list[tuple[tuple[str, str], tuple[RowSource, RowSource]]]:
    """Both sides of each kind of pairs, opened, files by the columns of their roles; InputError for what cannot be used."""
    if not isinstance(pairs, Mapping) or not pairs:
        raise InputError(
            'pairs: expected a mapping such as {("query", "image"): (queries, images)}, row i of one belonging to row i '
            "of the other"
        )
    opened = []
    for kind, sides in pairs.items():
        for value, what in ((kind, "two roles"), (sides, "two kinds of rows")):
            if not isinstance(value, (tuple, list)) or len(value) != 2:
                raise InputError(f'pairs: expected {what}, as in {{("query", "image"): (queries, images)}}')
        for role in kind:
            known(role, roles)
        name = f"pairs {kind[0]}:{kind[1]}"
        query, document = (
            _open_side(name, role, rows, roles[role].d, columns.get(role))
            for role, rows in zip(kind, sides, strict=True)
        )
        counts = count_rows(query), count_rows(document)
        if counts[0] != counts[1]:
            raise InputError(
                f"{name}: {count(counts[0], 'row')} of {kind[0]}, {count(counts[1], 'row')} of {kind[1]}; "
                "row i of one belongs to row i of the other, so both need the same number"
            )
        if counts[0] < FEWEST:
            raise InputError(
                f"{name}: {count(counts[0], 'pair')}, expected at least {FEWEST}: with fewer R@{TOP} is uncertain by more than "
                f"{0.5 / np.sqrt(FEWEST):.2g}, and the choice is chance"
            )
        opened.append(((kind[0], kind[1]), (query, document)))
    found = sorted({document for (_, document), _ in opened})
    if len(found) == 1:
        raise InputError(
            f"pairs: all documents are of the role {found[0]}, so there is nothing to choose: the gap between kinds of "
            f"documents is what methods differ in; {option('method', 'none')} is safe, or add pairs with documents of "
            "another role"
        )
    return opened


def _open_side(name: str, role: str, rows: Any, width: int, column: str | None) -> RowSource:
    try:
        opened = open_role(role, rows, column if names_files(rows) else None)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if opened.d != width:
        raise InputError(f"{name}: rows of {role} are {opened.d} wide, those of the role {width}")
    return opened


def in_sample(
    opened: list[tuple[tuple[str, str], tuple[RowSource, RowSource]]], roles: Mapping[str, RowSource]
) -> bool:
    """Whether rows of the pairs are those that a role is fitted on: the same array or files."""
    return any(shared_rows(side, roles[role]) for kind, sides in opened for role, side in zip(kind, sides, strict=True))


def read_pairs(
    opened: list[tuple[tuple[str, str], tuple[RowSource, RowSource]]], seed: int
) -> dict[tuple[str, str], tuple[np.ndarray, np.ndarray]]:
    """Unit rows of at most MOST pairs of each kind, float32, drawn with this seed, in a random order."""
    read = {}
    for kind, sides in opened:
        chosen = draw(count_rows(sides[0]), MOST, seed)
        order = np.random.default_rng(seed).permutation(len(chosen))
        both = []
        for role, side in zip(kind, sides, strict=True):
            with named(f"{kind[0]}:{kind[1]}", "pairs"), named(role):
                both.append(sample(side, MOST, seed)[1].astype(np.float32)[order])
        read[kind] = (both[0], both[1])
    return read


def pairs_of(read: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]]) -> Pairs:
    """Rows that are equal, of one role, are one query or one document, with all that belongs to it."""
    at = {}
    rows = []
    for side in (0, 1):
        by_role: dict[str, np.ndarray] = {}
        for role in dict.fromkeys(kind[side] for kind in read):
            of = [kind for kind in read if kind[side] == role]
            given = np.concatenate([read[kind][side] for kind in of])
            as_bytes = given.view(np.dtype((np.void, given.itemsize * given.shape[1]))).ravel()
            _, first, number = np.unique(as_bytes, return_index=True, return_inverse=True)
            by_role[role] = given[first]
            ends = np.cumsum([len(read[kind][side]) for kind in of])
            for kind, numbers in zip(of, np.split(number, ends[:-1]), strict=True):
                at[kind, side] = numbers
        rows.append(by_role)
    kinds = []
    for kind in read:
        both = np.unique(np.column_stack([at[kind, 0], at[kind, 1]]), axis=0)
        kinds.append(Kind(*kind, both[:, 0], both[:, 1]))
    return Pairs(rows[0], rows[1], kinds)


def _nearest(queries: np.ndarray, pool: np.ndarray, k: int, advance: Callable[[int], None]) -> Nearest:
    """`nearest`, some queries at a time: their cosines take little memory."""
    parts = []
    for lo in range(0, len(queries), _QUERIES):
        parts.append(nearest(queries[lo : lo + _QUERIES], pool, k))
        advance(len(parts[-1].numbers))
    return Nearest(np.concatenate([one.numbers for one in parts]), np.concatenate([one.cosines for one in parts]))


def search(pairs: Pairs, maps: Mapping[str, Method], advance: Callable[[int], None] = lambda n: None) -> Found:
    """Search all documents with all queries, both mapped; other documents of a query do not count before its own."""
    documents = {role: maps[role](rows) for role, rows in pairs.documents.items()}
    wrong: dict[str, dict[str, np.ndarray]] = {}
    own: dict[str, np.ndarray] = {}
    sums, count = dict.fromkeys(documents, 0.0), 0
    for query, rows in pairs.queries.items():
        mapped = maps[query](rows.astype(np.float64))
        wrong[query] = {}
        for role, pool in documents.items():
            of = [kind for kind in pairs.kinds if (kind.query, kind.document) == (query, role)]
            belongs = np.concatenate(
                [kind.of_query * len(pool) + kind.of_document for kind in of] or [np.empty(0, int)]
            )
            most = min(int(np.bincount(belongs // len(pool)).max(initial=0)), _OTHERS)
            best = _nearest(mapped, pool, min(TOP + most, len(pool)), advance)
            codes = np.arange(len(mapped))[:, None] * len(pool) + best.numbers
            right = np.isin(codes, belongs)
            wrong[query][role] = np.where(right, -np.inf, best.cosines)
            first = np.where(right.all(axis=1), best.cosines[:, -1], wrong[query][role].max(axis=1))
            sums[role] += float(first.sum())
            for kind in of:
                here = best.numbers[kind.of_query] == kind.of_document[:, None]
                own[str(kind)] = np.where(here, best.cosines[kind.of_query], -np.inf).max(axis=1)
        count += len(mapped)
    together, alone = [], []
    for kind in pairs.kinds:
        cosine = own[str(kind)][:, None]
        before = {role: (best[kind.of_query] > cosine).sum(axis=1) for role, best in wrong[kind.query].items()}
        there = np.isfinite(cosine[:, 0])
        together.append(there & (sum(before.values()) < TOP))
        alone.append(there & (before[kind.document] < TOP))
    return Found(together, alone, {role: total / count for role, total in sums.items()})
