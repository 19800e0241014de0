"""The rows that a report is about: its options, both sides opened, and the rows drawn from them in memory.

Few rows for their width are fitted closely by any method: means, and covariances even more, follow these rows and not others.
Then such a side is cut in two, methods are fitted on one half, and all that they do is measured on the other.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrealign.core import checks
from fastrealign.core.errors import FitWarning, InputError
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import Progress
from fastrealign.core.text import brief, described, shown
from fastrealign.core.wording import either
from fastrealign.data.options import check_choice
from fastrealign.data.pair import open_both
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import ArraySource
from fastrealign.diagnostics import covariance
from fastrealign.diagnostics.second_moments import FLOOR
from fastrealign.diagnostics.unit_rows import count_rows, draw, good_rows, open_sides, pick, unit_blocks
from fastrealign.gap_report.by_length import binned
from fastrealign.gap_report.class_labels import SideLabels, ValuesLike, both_labels, coded, left_out, side_labels
from fastrealign.gap_report.copies import copies_of, halves, independent, numbered, things
from fastrealign.gap_report.outcomes import LEAST
from fastrealign.gap_report.row_lengths import row_lengths
from fastrealign.methods.fit_options import check_method
from fastrealign.storage.paths import is_path

# Neighbours of the mixing rate, as in arXiv 2602.07026: each side needs more rows than that.
MIXING_K = 20
# Methods are fitted on other rows than those measured where a side has fewer than FEW rows per column.
FEW = 10
# Pairs drawn: their mean squared distance is then known to 0.001.
PAIRS = 20_000
# Which rows of a side.
Rows = np.ndarray | slice
# (target, source): opened, and drawn in memory.
Opened = tuple[RowSource, RowSource]
Drawn = tuple[ArraySource, ArraySource]
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
    labels: ValuesLike | tuple[ValuesLike, ValuesLike] | None = None
    by_length: ValuesLike | None = None
    bad_rows: str = "error"

    def __post_init__(self) -> None:
        if isinstance(self.methods, str):
            raise InputError(f"methods={self.methods!r}: expected several names, such as ('none', 'realign')")
        if not isinstance(self.methods, Iterable):
            raise InputError(f"methods={brief(self.methods)}: expected names, such as ('none', 'realign')")
        object.__setattr__(self, "methods", tuple(self.methods))
        if not self.methods:
            raise InputError("no method named: expected some, such as none and realign")
        # What every method is compared with comes first.
        object.__setattr__(self, "methods", tuple(dict.fromkeys(["none", *map(check_method, self.methods)])))
        rows = checks.whole("rows", self.rows, MIXING_K + 1, why=f"for {MIXING_K} neighbours of each row")
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "seed", checks.seed(self.seed))
        object.__setattr__(self, "pairs", _two(self.pairs))
        for name in ("column", "target_column"):
            if not isinstance(value := getattr(self, name), str | None):
                raise InputError(f"{name}={brief(value)}: expected the name of a column, or None")
        check_choice("bad_rows", self.bad_rows, ("error", "skip"))
        if not isinstance(self.domains, Mapping):
            raise InputError(
                f"domains={brief(self.domains)}: expected a dict of sides by name, {{'news': (source, target)}}"
            )
        for name, named in self.domains.items():
            if not isinstance(named, (tuple, list)) or len(named) != 2:
                raise InputError(f"domain {shown(str(name))}: {_named(named)}, expected (source, target)")
        if OWN in self.domains:
            raise InputError(f"a domain named {OWN!r}, as the report calls source and target; choose another name")

    def open(self, source: RowsLike, target: RowsLike) -> Opened:
        """(target, source) of rows that the user named."""
        return open_both(source, target, self.column, self.target_column)[::-1]


def _two(given: Any) -> bool | tuple[Any, Any] | None:
    """The option pairs: True, False, None, or two sides as a tuple. InputError for anything else."""
    if given is None or isinstance(given, (bool, np.bool_)):
        return None if given is None else bool(given)
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise InputError(f"{either('--pairs', 'pairs')}: {_named(given)}, expected True or (source, target)")
    return given[0], given[1]


def _named(given: Any) -> str:
    return f"{described(given)} of {len(given)}" if isinstance(given, (tuple, list)) else described(given)


@dataclass(frozen=True)
class Labels:
    """Classes of rows as numbers, -1 for classes that only one side has.

    x, y     of the rows measured; to_fit: of (target, source) rows that methods are fitted on
    matched  row i of both sides may be one thing
    """

    names: tuple[str, ...]
    x: np.ndarray
    y: np.ndarray
    to_fit: tuple[np.ndarray, np.ndarray]
    matched: bool


@dataclass(frozen=True)
class Sides:
    """What a report measures: target x, source y, and held-out pairs of them; domains: other (x, y) by name.

    given    target and source as they were named; of: how many rows of each can be drawn
    drawn    (target, source) rows drawn from them
    x, y     what is measured: these, or where they are few, half of them
    to_fit   (target, source) rows that methods are fitted on: those drawn, or where they are few, the other half
    pairs_of  pairs that `pairs` were drawn from
    notes    warnings about the rows as they were named
    numbers  of the rows of x and y, the same for equal ones
    independent  of (target, source) the number of different rows whose mean is as uncertain as that of the rows drawn
    reused   rows are few and yet methods are fitted on those measured, as two halves of them could not be
    lengths  of the captions of the source rows drawn
    """

    given: Opened
    of: tuple[int, int]
    drawn: Drawn
    x: ArraySource
    y: ArraySource
    to_fit: Drawn
    pairs: Drawn | None
    pairs_of: int
    domains: dict[str, Opened]
    labels: Labels | None
    notes: tuple[str, ...]
    numbers: tuple[np.ndarray, np.ndarray]
    independent: tuple[int, int]
    reused: bool
    lengths: np.ndarray | None = None

    @property
    def held_out(self) -> tuple[bool, bool]:
        """Whether methods are fitted on other rows than those measured, of target and source."""
        return self.to_fit[0] is not self.x, self.to_fit[1] is not self.y


def open_and_draw(source: RowsLike, target: RowsLike, options: ReportOptions, progress: Progress) -> Sides:
    """Open everything before any of it is read, then draw the rows. InputError for sides that do not fit each other."""
    given, of_pairs, domains, notes = _open(source, target, options)
    labels_of = None if options.labels is None else both_labels(options.labels, *given)
    lengths = None if options.by_length is None else row_lengths(options.by_length, given[1], progress)
    usable = _usable(given, options, progress)
    for side, rows in zip(given, usable.rows, strict=True):
        _check_rows(side, rows)
    numbers = usable.draw(options.rows, options.seed)
    if lengths is not None:
        lengths = lengths[numbers[1]]
        binned(lengths)  # raises where they make no bins
    texts = [side_labels(of, at, progress) for of, at in zip(labels_of, numbers, strict=True)] if labels_of else None
    (x, unit_x), (y, unit_y) = (_hold(side, at, progress) for side, at in zip(given, numbers, strict=True))
    drawn, same = (x, y), (numbered(unit_x), numbered(unit_y))
    parts, reused = _parts(drawn, same, options.seed)
    measured, to_fit = [[_part(side, half) for side, half in zip(drawn, of, strict=True)] for of in parts]
    notes += usable.notes
    if options.bad_rows == "skip":
        notes += _bad_in_domains((target, source), domains, options, progress)
    labels = None if texts is None else _labels(drawn, texts, parts, notes)
    pairs, pairs_of = None, usable.rows[0]
    if of_pairs is not None:
        units = zip((unit_x, unit_y), parts[1], strict=True)
        fitted = [None if isinstance(which, slice) else unit[which] for unit, which in units]
        pairs, pairs_of = _held_out_pairs(of_pairs, fitted, options, progress, notes)
    elif options.pairs:
        some = draw(measured[0].rows, PAIRS, options.seed)
        pairs = _part(measured[0], some), _part(measured[1], some)
    notes += [copies_of(side.name, of) for side, of in zip(drawn, same, strict=True)]
    return Sides(
        given=given,
        of=usable.rows,
        drawn=drawn,
        x=measured[0],
        y=measured[1],
        to_fit=(to_fit[0], to_fit[1]),
        pairs=pairs,
        pairs_of=pairs_of,
        domains=domains,
        labels=labels,
        notes=tuple(filter(None, notes)),
        numbers=(same[0][parts[0][0]], same[1][parts[0][1]]),
        independent=(independent(same[0]), independent(same[1])),
        reused=reused,
        lengths=lengths,
    )


def _open(
    source: RowsLike, target: RowsLike, options: ReportOptions
) -> tuple[Opened, Opened | None, dict[str, Opened], list[str]]:
    """The sides, the pairs that were given, the domains by name; and what was warned of as the sides were opened."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FitWarning)
        given = options.open(source, target)
    for warning in caught:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    open_sides(*given, "the gap between pairs" if options.pairs is True else None)
    of_pairs = None
    if isinstance(options.pairs, tuple):
        of_pairs = open_sides(*options.open(*options.pairs), "the gap between pairs")
        _check_width(of_pairs, given[0].d, "the pairs are")
    domains = {}
    for name, named in options.domains.items():
        domains[name] = open_sides(*options.open(*named))
        _check_width(domains[name], given[0].d, f"domain {name}: rows are")
    return given, of_pairs, domains, [str(warning.message) for warning in caught]


def _bad_in_domains(
    sides: tuple[RowsLike, RowsLike], domains: Mapping[str, Opened], options: ReportOptions, progress: Progress
) -> list[str]:
    """Notes about bad rows of the domains, once for rows that several share. sides: (target, source) as they were named."""
    notes, looked = [], [sides]
    for name, opened in domains.items():
        named = options.domains[name][::-1]
        for at, side in enumerate(opened):
            if not any(_named_alike(named[at], one[at]) for one in looked) and (note := _looked_at(side, progress)[1]):
                notes.append(f"domain {shown(name)}: {note}")
        looked.append(named)
    return notes


def _labels(drawn: Drawn, of_rows: list[SideLabels], parts: list[list[Rows]], notes: list[str]) -> Labels:
    """The labels of the rows drawn, by parts; adds notes about those that the classifier leaves out or cannot find."""
    names, codes = coded(*of_rows)
    (x, y), (fitted_x, fitted_y) = ([code[half] for code, half in zip(codes, of, strict=True)] for of in parts)
    for side, of, code in zip(drawn, of_rows, codes, strict=True):
        notes += left_out(side.name, of.drawn, code)
    taught = len(set(fitted_y.tolist()) - {-1})
    if taught < len(names):
        notes.append(
            f"{drawn[1].name}: the rows that methods are fitted on have {taught:,} of {len(names):,} classes; the classifier "
            "cannot find the others, and accuracy is low for all methods"
        )
    return Labels(names, x, y, (fitted_x, fitted_y), drawn[0].rows == drawn[1].rows)


def _held_out_pairs(
    given: Opened, fitted: list[np.ndarray | None], options: ReportOptions, progress: Progress, notes: list[str]
) -> tuple[Drawn, int]:
    """Some of the pairs that were given, of those without a row that methods are fitted on, and how many there are.

    fitted   of `_others`
    """
    usable = _usable(given, options, progress)
    notes += usable.notes
    drawn = usable.draw(PAIRS, options.seed)
    (x, unit_x), (y, unit_y) = (_hold(side, at, progress) for side, at in zip(given, drawn, strict=True))
    others = _others([unit_x, unit_y], fitted)
    left, pairs_of = int(others.sum()), usable.rows[0]
    if out := len(others) - left:
        fitted_on = f"{out:,} of {count(len(others), 'pair')} {does(out, 'contain')} a row that methods were fitted on"
        if left < LEAST:
            notes.append(f"{fitted_on}; too few others to measure search on, so its figures are too high")
        else:
            notes.append(f"{fitted_on}; search is measured on the other {left:,}")
            x, y = (_part(side, np.flatnonzero(others)) for side in (x, y))
            pairs_of = max(round(pairs_of * others.mean()), x.rows)
    return (x, y), pairs_of


def _parts(sides: Drawn, numbers: tuple[np.ndarray, np.ndarray], seed: int) -> tuple[list[list[Rows]], bool]:
    """Which rows of (target, source) are measured, and which methods are fitted on; the same of sides with as many rows.

    Also returns True where a side has few rows but cannot be halved; then both parts are all rows.
    """
    whole: list[list[Rows]] = [[slice(None), slice(None)], [slice(None), slice(None)]]
    parts = [row[:] for row in whole]
    if sides[0].rows == sides[1].rows:
        numbers = (things(*numbers),) * 2
    for at, side in enumerate(sides):
        if side.rows < FEW * side.d:
            for half, which in enumerate(halves(numbers[at], np.random.default_rng([seed, side.rows]))):
                # Too few to be measured, or all alike, to which nothing is fitted.
                if len(which) <= MIXING_K or covariance(_part(side, which)).trace < FLOOR:
                    return whole, True
                parts[half][at] = which
    return parts, False


def _others(pairs: list[np.ndarray], fitted: list[np.ndarray | None]) -> np.ndarray:
    """Which pairs have no row that methods are fitted on, where these are other rows than those measured: bool (n,).

    pairs, fitted   unit rows of (target, source); None for rows that are measured too
    """
    found = np.ones(len(pairs[0]), bool)
    for rows, others in zip(pairs, fitted, strict=True):
        if others is not None:
            of = numbered(np.concatenate([others, rows]))
            found &= ~np.isin(of[len(others) :], of[: len(others)])
    return found


def _part(side: ArraySource, which: Rows) -> ArraySource:
    return side if isinstance(which, slice) else ArraySource(side.array[which], side.name)


@dataclass(frozen=True)
class _Usable:
    """Which rows of two sides can be drawn.

    rows     how many of each
    numbers  which of each; None for all
    notes    what is left out
    """

    rows: tuple[int, int]
    numbers: tuple[np.ndarray, np.ndarray] | None = None
    notes: tuple[str, ...] = ()

    def draw(self, rows: int, seed: int) -> list[np.ndarray]:
        """Numbers of rows of each side, ascending; of sides with as many rows the same."""
        drawn = [draw(of, rows, seed) for of in self.rows]
        return drawn if self.numbers is None else [of[at] for of, at in zip(self.numbers, drawn, strict=True)]


def _usable(sides: Opened, options: ReportOptions, progress: Progress) -> _Usable:
    """All rows, or with bad_rows "skip" those with a direction; row i of two sides of one length only on both."""
    if options.bad_rows != "skip":
        return _Usable((count_rows(sides[0]), count_rows(sides[1])))
    looked = [_looked_at(side, progress) for side in sides]
    numbers, notes = [good for good, _ in looked], [note for _, note in looked if note]
    if notes and count_rows(sides[0]) == count_rows(sides[1]):
        both = np.intersect1d(numbers[0], numbers[1], assume_unique=True)
        numbers = [both, both]
        notes.append(
            f"both sides have {count_rows(sides[0]):,} rows, so the row of the same number is left out with each"
        )
    return _Usable((len(numbers[0]), len(numbers[1])), (numbers[0], numbers[1]), tuple(notes))


def _looked_at(side: RowSource, progress: Progress) -> tuple[np.ndarray, str]:
    """Numbers of the rows with a direction, and a note of the others; "" where there are none."""
    with progress.running(f"looking for bad rows in {side.name}", side.rows, side.nbytes):
        good, first_bad = good_rows(side, progress)
    if first_bad is None:
        return good, ""
    out = count_rows(side) - len(good)
    return good, f"{side.name}: {count(out, 'row')} of {count_rows(side):,} left out, the first: {first_bad}"


def _named_alike(one: Any, other: Any) -> bool:
    """Whether rows that the user named are the same: one object, or one path."""
    return one is other or (is_path(one) and is_path(other) and os.fspath(one) == os.fspath(other))


def _check_rows(side: RowSource, rows: int) -> None:
    if rows <= MIXING_K:
        usable = "" if rows == count_rows(side) else " with a direction"
        raise InputError(
            f"{side.name}: {count(rows, 'row')}{usable}, expected at least {MIXING_K + 1}, for {MIXING_K} neighbours of each "
            "row"
        )


def _check_width(sides: Opened, d: int, what: str) -> None:
    if sides[0].d != d:
        raise InputError(f"{what} {sides[0].d} wide, source and target {d}; all must come from one encoder pair")


def _hold(source: RowSource, numbers: np.ndarray, progress: Progress) -> tuple[ArraySource, np.ndarray]:
    """The rows with these numbers in memory, an array of floats as it is where these are all; and as float32 unit rows.

    Raises BadRowsError for a row without a direction.
    """
    whole = len(numbers) == source.rows
    held = np.empty((len(numbers), source.d), np.float32)
    if (
        whole
        and isinstance(source, ArraySource)
        and isinstance(source.array, np.ndarray)
        and source.array.itemsize >= 4
    ):
        for first, unit in unit_blocks(source):
            held[first : first + len(unit)] = unit
        return source, held
    with progress.running(f"reading {source.name}", len(numbers), held.nbytes):
        for here, unit in pick(source, numbers):
            held[here] = unit
            progress.advance(len(unit), held[here].nbytes)
    return ArraySource(held, source.name), held
