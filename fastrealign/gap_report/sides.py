"""The rows that a report is about: its options, both sides opened, and the rows drawn from them in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.progress import Progress
from fastrealign.data.pair import open_both
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import ArraySource
from fastrealign.diagnostics.rows import count_rows, draw, open_sides, pick, unit_blocks
from fastrealign.methods.fit_options import check_method

# Neighbours of the mixing rate, as in arXiv 2602.07026: each side needs more rows than that.
MIXING_K = 20
# Pairs drawn: their mean squared distance is then known to 0.001.
PAIRS = 20_000
# The name of the domain of source and target.
OWN = "these rows"


@dataclass(frozen=True)
class ReportOptions:
    """The options of `fastrealign.report`, checked."""

    pairs: bool | tuple[Any, Any] | None
    methods: Sequence[str]
    domains: Mapping[str, tuple[Any, Any]]
    rows: int
    seed: int
    column: str | None
    target_column: str | None

    def __post_init__(self) -> None:
        if isinstance(self.methods, str):
            raise InputError(f"methods={self.methods!r}: expected several names, such as ('none', 'realign')")
        if not self.methods:
            raise InputError("no method named: expected some, such as none and realign")
        object.__setattr__(self, "methods", tuple(map(check_method, dict.fromkeys(self.methods))))
        if self.rows <= MIXING_K:
            raise InputError(
                f"rows={self.rows}: expected at least {MIXING_K + 1}, for {MIXING_K} neighbours of each row"
            )
        if OWN in self.domains:
            raise InputError(f"a domain named {OWN!r}, as the report calls source and target; choose another name")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed={self.seed}: expected a whole number from 0 to 2^64 - 1")

    def open(self, source: Any, target: Any) -> tuple[RowSource, RowSource]:
        """(target, source) of rows that the user named."""
        return open_both(source, target, self.column, self.target_column)[::-1]


@dataclass(frozen=True)
class Sides:
    """What a report measures: target x, source y, and held-out pairs of them; domains: other (x, y) by name.

    given    target and source as they were named; x and y are drawn from them
    pairs_of  pairs that `pairs` were drawn from
    """

    given: tuple[RowSource, RowSource]
    x: ArraySource
    y: ArraySource
    pairs: tuple[ArraySource, ArraySource] | None
    pairs_of: int
    domains: dict[str, tuple[RowSource, RowSource]]


def open_and_draw(source: Any, target: Any, options: ReportOptions, progress: Progress) -> Sides:
    """Open everything before any of it is read, then draw the rows. InputError for sides that do not fit each other."""
    given = options.open(source, target)
    open_sides(*given, "the gap between pairs" if options.pairs is True else None)
    d = given[0].d
    of_pairs = None
    if isinstance(options.pairs, tuple):
        of_pairs = open_sides(*options.open(*options.pairs), "the gap between pairs")
        _check_width(of_pairs, d, "the pairs are")
    domains = {}
    for name, named in options.domains.items():
        domains[name] = open_sides(*options.open(*named))
        _check_width(domains[name], d, f"domain {name}: rows are")
    for side in given:
        if count_rows(side) <= MIXING_K:
            raise InputError(
                f"{side.name}: {side.rows} rows, expected at least {MIXING_K + 1}, for {MIXING_K} neighbours of each row"
            )
    x, y = (_hold(side, options.rows, options.seed, progress) for side in given)
    pairs = None
    if of_pairs is not None:
        first, second = (_hold(side, PAIRS, options.seed, progress) for side in of_pairs)
        pairs = first, second
    elif options.pairs:
        numbers = draw(x.rows, PAIRS, options.seed)
        pairs = ArraySource(x.array[numbers], x.name), ArraySource(y.array[numbers], y.name)
    return Sides(given, x, y, pairs, count_rows((of_pairs or given)[0]), domains)


def _check_width(sides: tuple[RowSource, RowSource], d: int, what: str) -> None:
    if sides[0].d != d:
        raise InputError(f"{what} {sides[0].d} wide, source and target {d}; all must come from one encoder pair")


def _hold(source: RowSource, rows: int, seed: int, progress: Progress) -> ArraySource:
    """At most `rows` of its rows in memory: an array of floats as it is where it is short enough, else float32 unit rows."""
    numbers = draw(count_rows(source), rows, seed)
    whole = len(numbers) == source.rows
    if (
        whole
        and isinstance(source, ArraySource)
        and isinstance(source.array, np.ndarray)
        and source.array.itemsize >= 4
    ):
        for _ in unit_blocks(source):  # raises BadRowsError for a row without a direction
            pass
        return source
    held = np.empty((len(numbers), source.d), np.float32)
    with progress.running(f"reading {source.name}", len(numbers), held.nbytes):
        for here, unit in pick(source, numbers):
            held[here] = unit
            progress.advance(len(unit), held[here].nbytes)
    return ArraySource(held, source.name)
