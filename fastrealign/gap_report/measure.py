"""Which figures a report takes. Rows are held in memory once; each method maps them once; searches are shared.

Sample sizes: 500 rows a side to look around from (among all rows) tell a mixing rate to about 0.004 and the share of
neighbours kept to about 0.008; 1,500 rows are 1.1 million angles; 20,000 pairs tell their distance to 0.001. Each Estimate
states its own error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from fastrealign.core.errors import FitWarning, InputError
from fastrealign.core.progress import Progress
from fastrealign.core.text import shown
from fastrealign.data.pair import open_both
from fastrealign.data.pipeline import reduce_source
from fastrealign.data.sources import ArraySource, RowSource
from fastrealign.diagnostics import (
    Covariance,
    Estimate,
    Frame,
    Mixing,
    Nearest,
    angular_topology,
    anisotropy,
    covariance,
    decompose,
    difference_covariance,
    effective_dimension,
    effective_rank,
    fixed_frame,
    gap,
    instance_cosine,
    nearest,
    pairwise_correlation,
    phantom_drift,
    power_law,
    sigma_gap,
    spectral_correlation,
)
from fastrealign.diagnostics.neighbours import foreign_share, kept_share, mixing_of
from fastrealign.diagnostics.rows import (
    count_rows,
    draw,
    mean_estimate,
    open_sides,
    paired_blocks,
    pick,
    sample,
    unit_blocks,
)
from fastrealign.gap_report.result import Domains, GapReport, MethodFigures, Pairs, Plane, SampleSize, Side, Spectrum
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baselines import check_method, fit_baseline
from fastrealign.methods.method import Method

# Neighbours of the mixing rate and of the share kept, as in arXiv 2602.07026.
MIXING_K, KEPT_K = 20, 10
QUERIES, ANGLES, PAIRS, POINTS = 500, 1500, 20_000, 300
SIZES = (30, 100, 300, 1000, 3000, 10_000, 30_000)
TRIALS = 5
# The domain that source and target are.
OWN = "these rows"
# What is done for each method (map and spectrum, angles, neighbours, pairs), and once.
METHOD_STEPS, OTHER_STEPS = 4, 5

T = TypeVar("T")


def measure(
    source: Any,
    target: Any,
    pairs: bool | tuple[Any, Any] | None,
    methods: Sequence[str],
    domains: Mapping[str, tuple[Any, Any]] | None,
    rows: int,
    seed: int,
    column: str | None,
    target_column: str | None,
    progress: Progress,
) -> GapReport:
    """`fastrealign.report`."""
    names = _names(methods)
    if rows <= MIXING_K:
        raise InputError(f"rows={rows}: expected at least {MIXING_K + 1}, for {MIXING_K} neighbours of each row")
    if OWN in (domains or {}):
        raise InputError(f"a domain named {OWN!r}, as the report calls source and target; choose another name")
    if not 0 <= seed < 2**64:
        raise InputError(f"seed={seed}: expected a whole number from 0 to 2^64 - 1")
    columns = column, target_column
    given = _both(source, target, columns)
    open_sides(*given, "the gap between pairs" if pairs is True else None)
    of_pairs = None if not isinstance(pairs, tuple) else _open_pairs(*pairs, given[0].d, columns)
    others = {name: _open_domain(name, sides, given[0].d, columns) for name, sides in (domains or {}).items()}
    for side in given:
        if count_rows(side) <= MIXING_K:
            raise InputError(
                f"{side.name}: {side.rows} rows, expected at least {MIXING_K + 1}, for {MIXING_K} neighbours of each row"
            )
    x, y = (_hold(side, rows, seed, progress) for side in given)
    paired, pairs_of = None, (of_pairs or given)[0].rows
    if of_pairs is not None:
        paired = tuple(_hold(side, PAIRS, seed, progress) for side in of_pairs)
    elif pairs:
        paired = tuple(ArraySource(side.array[draw(side.rows, PAIRS, seed)], side.name) for side in (x, y))
    work = _Work(x, y, paired, pairs_of, seed, progress)
    with work.steps(METHOD_STEPS * len(names) + OTHER_STEPS):
        figures = {name: work.method(name) for name in names}
        realign = work.fit("realign")
        drift = work.or_note("phantom drift", lambda: phantom_drift(y, realign.s, realign.b, work.of_y))
        work.done()
        sizes = _sizes(work)
        work.done()
        between = _domains({OWN: (x, y), **others}, realign) if others else None
        work.done()
    sides = [
        Side(shown(side.name), held.rows, side.rows, side.column) for side, held in zip(given, (x, y), strict=True)
    ]
    lost = [of.trace * (1 / side.rows - 1 / side.of) for of, side in zip((work.of_x, work.of_y), sides, strict=True)]
    return GapReport(
        source=sides[1],
        target=sides[0],
        dim=x.d,
        seed=seed,
        gap_before=realign.gap_before,
        gap_error=float(np.sqrt(sum(lost))),
        target_spectrum=work.spectrum(work.of_x, "target"),
        methods=figures,
        kept_k=KEPT_K,
        plane=Plane(work.points(x), work.plane_share),
        pair_rows=None if paired is None else paired[0].rows,
        frame=work.frame and (work.frame.rank, work.frame.energy),
        drift=drift,
        sizes=sizes,
        domains=between,
        notes=tuple(shown(note) for note in work.notes),
    )


class _Work:
    """What the methods share: both sides, their covariances, the searches among rows as they came."""

    def __init__(
        self,
        x: ArraySource,
        y: ArraySource,
        pairs: tuple[ArraySource, ArraySource] | None,
        pairs_of: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self.x, self.y, self.seed, self.progress = x, y, seed, progress
        self.pairs, self.pairs_of = pairs, pairs_of
        self.notes: dict[str, None] = {}  # in order, each once
        self._fitted: dict[str, Method] = {}

    @contextmanager
    def steps(self, number: int) -> Iterator[None]:
        """Do what comes before the methods, and show how far all of it is; the last step is the caller's."""
        self.progress.start("measuring", number * self.y.rows, number * self.y.nbytes)
        try:
            self.fit("realign")  # what cannot be fitted is refused before anything takes time
            self.of_x, self.of_y = covariance(self.x), covariance(self.y)
            for side, of in ((self.x, self.of_x), (self.y, self.of_y)):
                if of.rank < of.d:
                    self.notes[
                        f"{side.name}: its {of.count:,} rows span {of.rank} of {of.d} directions (rank-deficient); "
                        "spectra and what is fitted to them stop there"
                    ] = None
            self.done()
            self._plane()
            self.queries = [sample(side, QUERIES, self.seed) for side in (self.x, self.y)]
            (of_x, from_x), (of_y, from_y) = self.queries
            self.among_x, self.y_to_x = _search(self.x, of_x, from_x, from_y)
            self.among_y, self.x_to_y = _search(self.y, of_y, from_y, from_x)
            self.frame: Frame | None = None
            if self.pairs is not None:
                self.frame = self.or_note("U and V", lambda: fixed_frame(self.of_x, self.of_y))
            self.done()
            yield
        finally:
            self.progress.finish()

    def done(self) -> None:
        """One step is over."""
        self.progress.advance(self.y.rows, self.y.nbytes)

    def or_note(self, what: str, figure: Callable[[], T]) -> T | None:
        """The figure, or None and a note why these rows have none."""
        try:
            return figure()
        except InputError as error:
            self.notes[f"{what}: {error}"] = None
            return None

    def fit(self, name: str) -> Method:
        """The method fitted on both sides; what it warns of becomes a note."""
        if name in self._fitted:
            return self._fitted[name]
        options = {"seed": self.seed} if name == "c3" else {}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", FitWarning)
            fitted = fit_baseline(name, self.y, self.x, **options)
        self.notes |= dict.fromkeys(str(warning.message) for warning in said)
        self._fitted[name] = fitted
        return fitted

    def method(self, name: str) -> MethodFigures:
        """All figures of one method."""
        fitted = self.fit(name)
        after = self.y if name == "none" else _mapped(fitted, self.y, name)
        of = self.of_y if name == "none" else covariance(after)
        self.done()
        topology = self.or_note(f"{name}, angles", lambda: angular_topology(self.x, after, rows=ANGLES, seed=self.seed))
        alike = self.or_note("cosines kept", lambda: pairwise_correlation(self.y, after, rows=ANGLES, seed=self.seed))
        self.done()
        mixing, kept = self._neighbours(after)
        self.done()
        pairs = None if self.frame is None else self._pairs(fitted, name)
        self.done()
        return MethodFigures(
            gap=gap(self.x, after),
            sigma_gap=sigma_gap(self.of_x, of),
            spectrum=self.spectrum(of, name),
            spectral_correlation=self.or_note(
                f"{name}, spectral correlation",
                lambda: spectral_correlation(self.of_x.eigenvalues, of.eigenvalues),
            ),
            topology=topology,
            mixing=mixing,
            kept=kept,
            correlation=alike,
            cosine=instance_cosine(self.y, after),
            pairs=pairs,
            points=self.points(after),
        )

    def spectrum(self, of: Covariance, name: str) -> Spectrum:
        power = self.or_note(f"{name}, slope of the spectrum", lambda: power_law(of.eigenvalues))
        return Spectrum(of.eigenvalues, of.rank, power, effective_rank(of.eigenvalues))

    def points(self, side: ArraySource) -> np.ndarray:
        """Some of its rows in the plane."""
        return (sample(side, POINTS, self.seed)[1] - self._centre) @ self._axes

    def _neighbours(self, after: ArraySource) -> tuple[Mixing, Estimate]:
        among, x_to_y, y_to_x = self.among_y, self.x_to_y, self.y_to_x
        if after is not self.y:
            (_, from_x), (numbers, _) = self.queries
            mapped = sample(after, QUERIES, self.seed)[1]  # of as many rows, the same are drawn
            among, x_to_y = _search(after, numbers, mapped, from_x)
            y_to_x = nearest(mapped, self.x, MIXING_K)
        mixing = mixing_of(
            foreign_share(self.among_x, x_to_y, MIXING_K),
            foreign_share(among, y_to_x, MIXING_K),
            self.x.rows,
            self.y.rows,
            k=MIXING_K,
            seed=self.seed,
        )
        kept = kept_share(*(_first(found, KEPT_K) for found in (self.among_y, among)))
        return mixing, mean_estimate(kept, self.y.rows, self.seed)

    def _pairs(self, fitted: Method, name: str) -> Pairs:
        x, y = self.pairs
        after = y if name == "none" else _mapped(fitted, y, name)
        difference = difference_covariance(x, after)
        apart = [np.sum((a - b) ** 2, axis=1) for a, b in paired_blocks(x, after)]
        return Pairs(
            decompose(self.frame, difference),
            mean_estimate(np.concatenate(apart), self.pairs_of, self.seed),
            self.or_note(f"{name}, residual of pairs", lambda: anisotropy(difference)),
            self.or_note(f"{name}, residual of pairs", lambda: effective_dimension(difference)),
        )

    def _plane(self) -> None:
        x, y = self.of_x, self.of_y
        n = x.count + y.count
        self._centre = (x.count * x.mean + y.count * y.mean) / n
        apart = x.mean - y.mean
        matrix = (x.count * x.matrix + y.count * y.matrix) / n + x.count * y.count / n**2 * np.outer(apart, apart)
        both = Covariance(self._centre, matrix, n)
        self._axes = both.eigenvectors[:, :2]
        self.plane_share = tuple(float(value / both.trace) for value in both.eigenvalues[:2])


def _names(methods: Sequence[str]) -> tuple[str, ...]:
    if isinstance(methods, str):
        raise InputError(f"methods={methods!r}: expected several names, such as ('none', 'realign')")
    names = tuple(dict.fromkeys(methods))
    if not names:
        raise InputError("no method named: expected some, such as none and realign")
    for name in names:
        check_method(name)
    return names


def _both(source: Any, target: Any, columns: tuple[str | None, str | None]) -> tuple[RowSource, RowSource]:
    """Target and source."""
    return open_both(source, target, *columns)[::-1]


def _open_pairs(
    source: Any, target: Any, d: int, columns: tuple[str | None, str | None]
) -> tuple[RowSource, RowSource]:
    sides = open_sides(*_both(source, target, columns), "the gap between pairs")
    if sides[0].d != d:
        raise InputError(f"the pairs are {sides[0].d} wide, source and target {d}; all must come from one encoder pair")
    return sides


def _open_domain(
    name: str, sides: tuple[Any, Any], d: int, columns: tuple[str | None, str | None]
) -> tuple[RowSource, RowSource]:
    x, y = open_sides(*_both(*sides, columns))
    if x.d != d:
        raise InputError(f"domain {name}: rows are {x.d} wide, source and target {d}; all must come from one encoder")
    return x, y


def _hold(source: RowSource, rows: int, seed: int, progress: Progress) -> ArraySource:
    """At most `rows` of its rows in memory: an array of floats as it is where it is short enough, else float32 unit rows."""
    numbers = draw(count_rows(source), rows, seed)
    whole = isinstance(source, ArraySource) and isinstance(source.array, np.ndarray) and len(numbers) == source.rows
    if whole and source.array.dtype in (np.float32, np.float64):
        for _ in unit_blocks(source):  # names a row without a direction
            pass
        return source
    held = np.empty((len(numbers), source.d), np.float32)
    progress.start(f"reading {source.name}", len(numbers), held.nbytes)
    try:
        for here, unit in pick(source, numbers):
            held[here] = unit
            progress.advance(len(unit), held[here].nbytes)
    finally:
        progress.finish()
    return ArraySource(held, source.name)


def _mapped(fitted: Method, rows: ArraySource, name: str) -> ArraySource:
    dtype = np.float64 if rows.array.dtype == np.float64 else np.float32
    return ArraySource(fitted(rows.array, dtype=dtype), f"{rows.name} mapped by {name}")


def _search(pool: RowSource, numbers: np.ndarray, own: np.ndarray, others: np.ndarray) -> tuple[Nearest, Nearest]:
    """The nearest of its own rows with these numbers, and of rows of the other side, in one search."""
    queries = np.concatenate([own, others])
    found = nearest(queries, pool, MIXING_K, own=np.concatenate([numbers, np.full(len(others), -1)]))
    n = len(own)
    return Nearest(found.numbers[:n], found.cosines[:n]), Nearest(found.numbers[n:], found.cosines[n:])


def _first(found: Nearest, k: int) -> Nearest:
    return Nearest(found.numbers[:, :k], found.cosines[:, :k])


def _sizes(work: _Work) -> tuple[SampleSize, ...]:
    """ReAlign fitted on samples, and on all rows; all the gaps they leave come of one pass over the source."""
    most = min(work.x.rows, work.y.rows)
    sizes = [size for size in SIZES if 2 * size <= most]
    fits, at = [], []
    for size in sizes:
        for trial in range(TRIALS):
            rng = np.random.default_rng([work.seed, size, trial])
            some = [
                ArraySource(side.array[np.sort(rng.choice(side.rows, size, replace=False))], side.name)
                for side in (work.y, work.x)
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FitWarning)
                fitted = work.or_note(f"ReAlign fitted on {size} rows", lambda some=some: _statistics(*some))
            if fitted is not None:
                fits.append(fitted)
                at.append(size)
    whole = work.fit("realign")
    left = _gaps(work.y, [*fits, whole], work.of_x.mean)
    trials = [SampleSize(size, tuple(g for g, s in zip(left, at, strict=False) if s == size)) for size in sizes]
    return (*(trial for trial in trials if trial.gaps), SampleSize(most, (left[-1],)))


def _statistics(source: RowSource, target: RowSource) -> Alignment:
    return fit_baseline("realign", source, target)


def _gaps(source: RowSource, fits: Sequence[Alignment], mean: np.ndarray) -> list[float]:
    sums, _ = reduce_source(source, [fitted.row_map for fitted in fits], "measuring the gaps left")
    return [float(np.linalg.norm(of.mean - mean)) for of in sums]


def _domains(sides: dict[str, tuple[RowSource, RowSource]], first: Alignment) -> Domains:
    """Of all rows of every domain."""
    fits = [first, *(_statistics(y, x) for x, y in list(sides.values())[1:])]
    columns = [_gaps(y, fits, fitted.mean_target) for (_, y), fitted in zip(sides.values(), fits, strict=True)]
    names = tuple(shown(str(name)) for name in sides)
    return Domains(names, np.array(columns).T, np.array([fitted.gap_before for fitted in fits]))
