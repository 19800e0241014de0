"""Which figures a report takes. Rows are held in memory once; each method maps them once; searches are shared.

Sample sizes: 500 rows of each side as queries (among all rows) give a mixing rate to about 0.004 and the share of
neighbours kept to about 0.008; 1,500 rows are 1.1 million angles. Each Estimate states its own error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from fastrealign.core.errors import BadRowsError, FitWarning, InputError
from fastrealign.core.formatting import does
from fastrealign.core.progress import Progress
from fastrealign.core.text import shown
from fastrealign.core.wording import option
from fastrealign.data.options import check_progress
from fastrealign.data.pair import look_swapped
from fastrealign.data.row_source import RowsLike, RowSource
from fastrealign.data.sources import ArraySource, FileSource
from fastrealign.diagnostics import spectrum as spectra
from fastrealign.diagnostics.frame import Frame, decompose, fixed_frame
from fastrealign.diagnostics.mean_gap import gap, phantom_drift
from fastrealign.diagnostics.neighbours import Mixing, foreign_share, kept_share, mixing_of
from fastrealign.diagnostics.search import Nearest, nearest
from fastrealign.diagnostics.second_moments import Covariance, covariance, difference_covariance
from fastrealign.diagnostics.topology import angular_topology, instance_cosine, pairwise_correlation
from fastrealign.diagnostics.unit_rows import Estimate, mean_estimate, paired_blocks, sample
from fastrealign.gap_report.by_length import lengths_of
from fastrealign.gap_report.copies import MANY, SAME_SIDES, share_in
from fastrealign.gap_report.outcomes import Means, means_of
from fastrealign.gap_report.refits import across_domains, fit_realign, sample_sizes
from fastrealign.gap_report.report_data import MethodFigures, Pairs, Plane, Side, Spectrum
from fastrealign.gap_report.result import GapReport
from fastrealign.gap_report.scoring import Judge
from fastrealign.gap_report.sides import MIXING_K, OWN, ReportOptions, Sides, open_and_draw
from fastrealign.methods.baselines import fit_baseline
from fastrealign.methods.method import Method

# Neighbours of the share kept, as in arXiv 2602.07026.
KEPT_K = 10
QUERIES, ANGLES, POINTS = 500, 1500, 300
# Steps of the progress bar: four for each method (map and spectrum, angles, neighbours, pairs), and five that are done once.
METHOD_STEPS, OTHER_STEPS = 4, 5

T = TypeVar("T")


def measure_gap(source: RowsLike, target: RowsLike, options: ReportOptions, progress: Progress) -> GapReport:
    """`fastrealign.report`."""
    check_progress(progress)
    with _skipping_advised(options):
        return _measured(source, target, options, progress)


@contextmanager
def _skipping_advised(options: ReportOptions) -> Iterator[None]:
    """A row without a direction is answered with the option of reports."""
    try:
        yield
    except BadRowsError as error:
        if not error.row or options.bad_rows == "skip":
            raise
        raise BadRowsError(
            f"{error.row}; fix it, or leave such rows out of the report ({option('bad_rows', 'skip')})"
        ) from None


def _measured(source: RowsLike, target: RowsLike, options: ReportOptions, progress: Progress) -> GapReport:
    sides = open_and_draw(source, target, options, progress)
    x, y = sides.x, sides.y
    steps = METHOD_STEPS * len(options.methods) + OTHER_STEPS + (sides.lengths is not None)
    with progress.running("measuring", steps * y.rows, steps * y.nbytes):
        work = _Work(sides, options.seed, lambda: progress.advance(y.rows, y.nbytes))
        figures = {name: work.method(name) for name in options.methods}
        realign = work.realign
        drift = work.or_note("phantom drift", lambda: phantom_drift(y, realign.s, realign.b, work.of_y))
        work.done()
        sizes = sample_sizes(sides.to_fit, y, realign, work.of_x.mean, options.seed, work.or_note)
        work.done()
        domains = (
            across_domains({OWN: sides.to_fit, **sides.domains}, realign, options.bad_rows) if sides.domains else None
        )
        work.done()
        by_length = None
        if sides.lengths is not None:
            by_length = lengths_of(*sides.drawn, sides.lengths, options.seed)
            work.done()
    of_target, of_source = (
        Side(shown(given.name), held.rows, of, given.column)
        for given, of, held in zip(sides.given, sides.of, sides.drawn, strict=True)
    )
    # All differences from doing nothing that the report states, and whether there is a gap.
    tests = (len(options.methods) - 1) * work.judge.judged + 1
    means = work.means(tests)
    gap_before = gap(*sides.drawn)
    gaps = {name: of.gap for name, of in figures.items()} | {"none": gap_before}
    return GapReport(
        source=of_source,
        target=of_target,
        dim=x.d,
        seed=options.seed,
        gap_before=gap_before,
        means=means,
        fitted_on=(sides.to_fit[1].rows, sides.to_fit[0].rows) if any(sides.held_out) else None,
        reused=sides.reused,
        target_spectrum=work.spectrum(work.of_x, "target"),
        methods=figures,
        outcomes=work.judge.outcomes(gaps, means, tests),
        search=work.judge.search,
        classes=work.judge.classes,
        same=work.same,
        swapped=look_swapped(*sides.given[::-1]) is not None,
        kept_k=KEPT_K,
        plane=Plane(work.points(x), work.plane_share),
        pair_rows=None if sides.pairs is None else sides.pairs[0].rows,
        frame=None if work.frame is None else (work.frame.rank, work.frame.energy),
        drift=drift,
        sizes=sizes,
        domains=domains,
        notes=tuple(shown(note) for note in work.notes),
        by_length=by_length,
    )


class _Work:
    """What the methods share: both sides, their covariances, the searches among rows before alignment.

    done   to be called after each step of `measure_gap`
    """

    def __init__(self, sides: Sides, seed: int, done: Callable[[], None]) -> None:
        self.sides, self.x, self.y, self.seed, self.done = sides, sides.x, sides.y, seed, done
        self.notes: dict[str, None] = dict.fromkeys(sides.notes)  # in order, each once
        # First, so that sides that cannot be fitted are refused before anything takes time.
        self.realign = self._noting(lambda: fit_realign(*sides.to_fit[::-1]))
        self.judge = Judge(sides, seed)
        self.of_x, self.of_y = covariance(self.x), covariance(self.y)
        for side, of in ((self.x, self.of_x), (self.y, self.of_y)):
            if of.rank < of.d:
                self.notes[
                    f"{side.name}: its {of.count:,} rows span {of.rank} of {of.d} directions (rank-deficient); "
                    "spectra and what is fitted to them stop there"
                ] = None
        self.done()
        self._plane()
        self.queries = [sample(side, QUERIES, seed) for side in (self.x, self.y)]
        (of_x, from_x), (of_y, from_y) = self.queries
        self.among_x, self.y_to_x = _search(self.x, of_x, from_x, from_y)
        self.among_y, self.x_to_y = _search(self.y, of_y, from_y, from_x)
        self.same = share_in(from_y, sides.drawn[0], self.of_x)
        drawn, rows = sides.drawn[0].rows, sides.of[0]
        # Of copies in all of the target, as many are among the rows drawn as these are of all.
        if self.same * rows >= MANY * drawn and self.same < SAME_SIDES:
            copies = round(self.same * len(from_y))
            among = f"{drawn:,} target rows drawn (of {rows:,})" if drawn < rows else f"the {rows:,} target rows"
            self.notes[
                f"of {len(from_y):,} source rows, {copies:,} {does(copies, 'have')} a copy among {among}; check that no file "
                "is on both sides"
            ] = None
        self.frame: Frame | None = None
        if sides.pairs is not None:
            self.frame = self.or_note("U and V", lambda: fixed_frame(self.of_x, self.of_y))
        for given in sides.given:
            if isinstance(given, FileSource) and given.noise:
                self.notes[
                    f"{given.name}: these rows have noise {given.noise}, which the run that wrote them added"
                ] = None
        if sides.pairs is None and sides.labels is None:
            self.notes[
                f"search and classifiers are not judged: give {option('pairs')} to judge search (row i of both sides belongs "
                f"together), {option('labels')} to judge classifiers"
            ] = None
        self.done()

    def or_note(self, what: str, figure: Callable[[], T]) -> T | None:
        """The figure, or None and a note why these rows have none."""
        try:
            return figure()
        except InputError as error:
            self.notes[f"{what}: {error}"] = None
            return None

    def method(self, name: str) -> MethodFigures:
        """All figures of one method."""
        fitted = self._fitted(name)
        after = _mapped(fitted, self.y, name)
        of = self.of_y if name == "none" else covariance(after)
        self.done()
        topology = self.or_note(f"{name}, angles", lambda: angular_topology(self.x, after, rows=ANGLES, seed=self.seed))
        alike = self.or_note("cosines kept", lambda: pairwise_correlation(self.y, after, rows=ANGLES, seed=self.seed))
        self.done()
        mixing, kept = self._neighbours(name, after)
        self.done()
        pairs = self._pairs(fitted, name)
        to_fit = self.sides.to_fit[1]
        self.judge.classifier(name, lambda: after if to_fit is self.y else _mapped(fitted, to_fit, name))
        self.done()
        return MethodFigures(
            gap=gap(self.x, after),
            sigma_gap=spectra.sigma_gap(self.of_x, of),
            spectrum=self.spectrum(of, name),
            spectral_correlation=self.or_note(
                f"{name}, spectral correlation",
                lambda: spectra.spectral_correlation(self.of_x.eigenvalues, of.eigenvalues),
            ),
            topology=topology,
            mixing=mixing,
            kept=kept,
            correlation=alike,
            cosine=instance_cosine(self.y, after),
            pairs=pairs,
            points=self.points(after),
            noise=noise_length(fitted),
        )

    def means(self, tests: int) -> Means:
        """The means before alignment: of all rows drawn, as these need no fit."""
        sides, known = self.sides, (self.of_x, self.of_y)
        rows = zip(sides.drawn, sides.held_out, known, sides.independent, strict=True)
        x, y = (replace(covariance(side) if apart else of, count=n) for side, apart, of, n in rows)
        return means_of(x, y, tests)

    def spectrum(self, of: Covariance, name: str) -> Spectrum:
        """Eigenvalues, their power law and effective rank."""
        power = self.or_note(f"{name}, slope of the spectrum", lambda: spectra.power_law(of.eigenvalues))
        return Spectrum(of.eigenvalues, of.rank, power, spectra.effective_rank(of.eigenvalues))

    def points(self, side: ArraySource) -> np.ndarray:
        """Some of its rows in the plane: float64 (points, 2)."""
        return (sample(side, POINTS, self.seed)[1] - self._centre) @ self._axes

    def _fitted(self, name: str) -> Method:
        if name == "realign":
            return self.realign
        options: dict[str, Any] = {"seed": self.seed} if name == "c3" else {}
        return self._noting(lambda: fit_baseline(name, *self.sides.to_fit[::-1], **options))

    def _noting(self, fit: Callable[[], T]) -> T:
        """The fitted method; warnings of the fit become notes."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", FitWarning)
            fitted = fit()
        self.notes |= dict.fromkeys(str(warning.message) for warning in caught)
        return fitted

    def _neighbours(self, name: str, after: ArraySource) -> tuple[Mixing, Estimate]:
        among, x_to_y, y_to_x = self.among_y, self.x_to_y, self.y_to_x
        if after is not self.y:
            (_, from_x), (numbers, _) = self.queries
            mapped = sample(after, QUERIES, self.seed)[1]  # of as many rows, the same are drawn
            among, x_to_y = _search(after, numbers, mapped, from_x)
            y_to_x = nearest(mapped, self.x, MIXING_K)
        of_x, of_y = foreign_share(self.among_x, x_to_y, MIXING_K), foreign_share(among, y_to_x, MIXING_K)
        mixing = mixing_of(of_x, of_y, self.x.rows, self.y.rows, k=MIXING_K, seed=self.seed)
        kept = kept_share(*(found.first(KEPT_K) for found in (self.among_y, among)))
        self.judge.neighbours(name, [rows for rows, _ in self.queries], of_x, of_y, kept)
        return mixing, mean_estimate(kept, self.y.rows, self.seed)

    def _pairs(self, fitted: Method, name: str) -> Pairs | None:
        if self.sides.pairs is None:
            return None
        x, y = self.sides.pairs
        after = _mapped(fitted, y, name)
        self.judge.pairs(name, after)
        if self.frame is None:
            return None
        difference = difference_covariance(x, after)
        apart = [np.sum((a - b) ** 2, axis=1) for a, b in paired_blocks(x, after)]
        return Pairs(
            decompose(self.frame, difference),
            mean_estimate(np.concatenate(apart), self.sides.pairs_of, self.seed),
            self.or_note(f"{name}, residual of pairs", lambda: spectra.anisotropy(difference.uncentred)),
            self.or_note(f"{name}, residual of pairs", lambda: spectra.effective_dimension(difference)),
        )

    def _plane(self) -> None:
        """The direction of the gap, and across it the one of greatest variance within the sides."""
        x, y = self.of_x, self.of_y
        within = (x.count * x.matrix + y.count * y.matrix) / (x.count + y.count)
        apart = x.mean - y.mean
        length = float(np.linalg.norm(apart))
        # Sides of one mean have no direction of a gap: then, the two of greatest variance.
        along = apart / length if length > 1e-9 else np.linalg.eigh(within)[1][:, -1]
        rest = within - np.outer(along, along @ within)
        rest -= np.outer(rest @ along, along)
        across = np.linalg.eigh(rest)[1][:, -1]
        self._centre, self._axes = y.mean, np.column_stack([along, across])
        trace = float(np.trace(within))
        self.plane_share = float(along @ within @ along) / trace, float(across @ within @ across) / trace


def noise_length(fitted: Method) -> float:
    """Length of the random vector that a method adds to a row, root mean square; 0 for none."""
    return float(getattr(fitted, "sigma", 0.0)) * float(np.sqrt(fitted.dim))


def _mapped(fitted: Method, rows: ArraySource, name: str) -> ArraySource:
    if name == "none":
        return rows
    dtype = np.float64 if rows.array.dtype == np.float64 else np.float32
    return ArraySource(fitted(rows.array, dtype=dtype), f"{rows.name} mapped by {name}")


def _search(pool: RowSource, numbers: np.ndarray, own: np.ndarray, others: np.ndarray) -> tuple[Nearest, Nearest]:
    """The nearest of its own rows with these numbers, and of rows of the other side, in one search."""
    queries = np.concatenate([own, others])
    found = nearest(queries, pool, MIXING_K, own=np.concatenate([numbers, np.full(len(others), -1)]))
    n = len(own)
    return Nearest(found.numbers[:n], found.cosines[:n]), Nearest(found.numbers[n:], found.cosines[n:])
