"""The source by the length of its captions: `report(by_length=)`, `report --by-length`.

Captions are sorted into bins of about equally many rows. Each bin is compared with all of the target, before and after ReAlign
fitted on all captions, and after ReAlign fitted on the bin alone, which leaves no more than chance: the difference is what a
fit for each length would gain.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from html import escape

import numpy as np

from fastrealign.core.errors import FitWarning, InputError
from fastrealign.core.formatting import count, does, number, percent
from fastrealign.core.wording import either
from fastrealign.data.sources import ArraySource
from fastrealign.diagnostics.mean_gap import gap
from fastrealign.diagnostics.neighbours import foreign_share, kept_share
from fastrealign.diagnostics.search import Nearest, nearest
from fastrealign.diagnostics.second_moments import Covariance, covariance
from fastrealign.diagnostics.spectrum import effective_rank
from fastrealign.diagnostics.unit_rows import Estimate, mean_estimate
from fastrealign.gap_report.outcomes import quantile
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baselines import fit_baseline

# At most so many bins, each with at least so many rows and at least twice as many as fall into one by accident.
BINS, FEWEST = 4, 100
# Neighbours, as elsewhere in the report; captions of a bin that are looked up.
MIXING_K, KEPT_K, QUERIES = 20, 10, 300


@dataclass(frozen=True)
class LengthBin:
    """The captions of one range of lengths.

    Attributes
    ----------
    least, most : float
        Their lengths, both included.
    rows : int
    gap : float
        |their mean - mean of the target|; `gap_error` is its standard error if rows were drawn at random from more, and
        `chance` the gap that a fit on half of these captions leaves on the other half by chance alone.
    radius : float
        Length of their mean: 1 where all point the same way.
    effective_rank : float
        Of `Lengths.ranked` rows, as many from each bin: it grows with the number of rows.
    mixing, mixing_after : Estimate
        Share of the nearest 20 neighbours, among the target and all captions, that are of the target; before, and after
        ReAlign fitted on all captions.
    kept : Estimate
        Share of the nearest 10 captions that ReAlign keeps.
    left, left_own : float
        The gap that ReAlign leaves on the bin when it is fitted on all captions, and on the bin alone.
    """

    least: float
    most: float
    rows: int
    gap: float
    gap_error: float
    chance: float
    radius: float
    effective_rank: float
    mixing: Estimate
    mixing_after: Estimate
    kept: Estimate
    left: float
    left_own: float


@dataclass(frozen=True)
class Lengths:
    """The source by length.

    Attributes
    ----------
    bins : tuple of LengthBin
        From short to long.
    ranked : int
        Rows of each bin that its effective rank was computed from.
    target_rank : float
        Effective rank of as many rows of the target.
    trend : float
        Rank correlation (Spearman) of the length of a caption and its cosine with the mean of the target, over all captions.
    trend_error : float
        1/sqrt(rows - 1), its standard error without a trend.
    """

    bins: tuple[LengthBin, ...]
    ranked: int
    target_rank: float
    trend: float
    trend_error: float


def lengths_of(x: ArraySource, y: ArraySource, lengths: np.ndarray, seed: int) -> Lengths:
    """Measure target x and source y, whose row i has length lengths[i]."""
    parts = binned(lengths)
    of_x = covariance(x)
    rng = np.random.default_rng(seed)
    # Fits are made on one half of each bin and measured on the other: a fit leaves next to nothing on its own rows.
    halves = [np.split(rng.permutation(part), [len(part) // 2]) for part in parts]
    whole = _quiet(ArraySource(y.array[np.concatenate([half for half, _ in halves])], y.name), x)
    after = ArraySource(whole(y.array, dtype=np.float32), f"{y.name}, aligned")
    ranked = min(*(len(part) for part in parts), x.rows)
    bins = []
    for part, (fitted, held) in zip(parts, halves, strict=True):
        rows = ArraySource(y.array[part], y.name)
        of = covariance(rows)
        queries = np.sort(rng.permutation(part)[:QUERIES])
        before, now = (_neighbours(side, queries, x) for side in (y, after))
        some = rng.permutation(len(part))[:ranked]
        bins.append(
            LengthBin(
                least=float(lengths[part].min()),
                most=float(lengths[part].max()),
                rows=len(part),
                gap=float(np.linalg.norm(of.mean - of_x.mean)),
                gap_error=_along(of.mean - of_x.mean, of.matrix / of.count + of_x.matrix / of_x.count),
                chance=float(np.sqrt(of.trace / len(fitted) + of.trace / len(held))),
                radius=float(np.linalg.norm(of.mean)),
                effective_rank=_rank(rows.array[some]),
                mixing=mean_estimate(foreign_share(*before, MIXING_K), len(part), seed),
                mixing_after=mean_estimate(foreign_share(*now, MIXING_K), len(part), seed),
                kept=mean_estimate(kept_share(*(own.first(KEPT_K) for own, _ in (before, now))), len(part), seed),
                left=gap(x, after.array[held]),
                left_own=gap(x, _quiet(ArraySource(y.array[fitted], y.name), x)(y.array[held], dtype=np.float64)),
            )
        )
    target_rank = _rank(x.array[rng.permutation(x.rows)[:ranked]])
    return Lengths(tuple(bins), ranked, target_rank, _trend(y, lengths, of_x), float(1 / np.sqrt(y.rows - 1)))


def binned(lengths: np.ndarray) -> list[np.ndarray]:
    """Row numbers of up to BINS bins of about equally many rows, from short to long; rows of one length share a bin.

    Raises InputError for fewer than two bins of at least FEWEST rows.
    """
    values, counts = np.unique(lengths, return_counts=True)
    ends = np.cumsum(counts)
    for bins in range(BINS, 1, -1):
        wanted = ends[-1] * np.arange(1, bins) / bins
        if len(values) == 1:
            break
        cuts = np.unique(np.abs(ends[None, :-1] - wanted[:, None]).argmin(axis=1))
        which = np.searchsorted(cuts, np.searchsorted(values, lengths), side="left")
        parts = [np.flatnonzero(which == at) for at in range(len(cuts) + 1)]
        if len(parts) > 1 and min(map(len, parts)) >= FEWEST:
            return parts
    raise InputError(
        f"{either('--by-length', 'by_length')}: {count(len(lengths), 'caption')} of {count(len(values), 'length')} "
        f"{does(len(lengths), 'do')} not make two bins of at least {FEWEST} rows; "
        "give more captions, or lengths that differ"
    )


COLUMNS = {
    "gap": "distance of these captions' mean to the target's",
    "effective rank": "directions",
    "mixing": "share of 20 neighbours on the target's side, before and after ReAlign",
    "left": "gap that ReAlign leaves on half of these captions, fitted on the other half of all captions",
    "own fit": "the same, fitted on the other half of these captions alone",
}


def _cells(found: Lengths) -> list[list[tuple[str, str]]]:
    """Of each bin: its lengths and rows, and for each of COLUMNS a figure and what goes with it."""
    return [
        [
            (_range(of), f"({count(of.rows, 'row')})"),
            (number(of.gap), f"± {2 * of.gap_error:.1g}"),
            (f"{of.effective_rank:.1f}", ""),
            (percent(of.mixing.value), f"→ {percent(of.mixing_after.value)}"),
            (number(of.left), ""),
            (number(of.left_own), ""),
        ]
        for of in found.bins
    ]


def _basis(found: Lengths) -> str:
    return (
        f"Effective rank: of {found.ranked:,} rows of each bin; as many of the target have {found.target_rank:.1f}. Mixing: of "
        f"up to {QUERIES} captions of each bin. ±: 95 % interval, for other rows like these. Length and cosine with the "
        f"target's mean: rank correlation {found.trend:+.2f} (± {2 * found.trend_error:.1g} by chance)"
    )


def length_lines(found: Lengths) -> list[str]:
    """The bins as plain text."""
    rows = [["length", *COLUMNS], *([f"{value} {more}".strip() for value, more in cells] for cells in _cells(found))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    return [guideline(found), *table, _basis(found)]


def length_section(found: Lengths) -> str:
    """The bins as a section of the page."""
    heads = "".join(f'<th scope="col" title="{escape(text)}">{escape(name)}</th>' for name, text in COLUMNS.items())
    rows = "\n".join(
        f'<tr><th scope="row">{_both(head)}</th>{"".join(f"<td>{_both(cell)}</td>" for cell in cells)}</tr>'
        for head, *cells in _cells(found)
    )
    meanings = "; ".join(f"{name}: {text}" for name, text in COLUMNS.items())
    return f"""<section class="methods" style="--n:{len(COLUMNS)}" aria-label="By length">
<h2>{escape(guideline(found))}</h2>
<table>
<thead><tr><th scope="col">Captions by length</th>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p class="basis">{escape(meanings)}. {escape(_basis(found))}.</p>
</section>"""


def _both(cell: tuple[str, str]) -> str:
    value, more = map(escape, cell)
    return f"{value}<small>{more}</small>" if more else value


def guideline(found: Lengths) -> str:
    """What these captions say: whether their length matters for the gap, and whether a fit for each length would help."""
    first, last = found.bins[0], found.bins[-1]
    near, far = (which(found.bins, key=lambda of: of.gap) for which in (min, max))
    nearer, farther = sorted((first, last), key=lambda of: of.gap)
    pairs = len(found.bins) * (len(found.bins) - 1) // 2
    if _apart(far, farther, pairs) or _apart(nearer, near, pairs):
        gaps = (
            f"captions of length {_range(far)} are farther from the target ({number(far.gap)}) than those of length "
            f"{_range(near)} ({number(near.gap)})"
        )
    elif _apart(farther, nearer, 1):
        which = "long" if farther is last else "short"
        gaps = (
            f"{which} captions are farther from the target ({number(first.gap)} shortest, {number(last.gap)} longest)"
        )
    else:
        both = f"{number(first.gap)} and {number(last.gap)}"
        gaps = f"the gaps of the shortest and the longest captions do not differ by more than chance ({both})"
    worst = max(found.bins, key=lambda of: of.left - of.left_own)
    if worst.left <= 2 * worst.chance or worst.left <= worst.left_own:
        fits = "one fit serves all lengths"
    else:
        fits = (
            f"one fit for all leaves {number(worst.left)} on captions of length {_range(worst)}, one of their own "
            f"{number(worst.left_own)}: if you use only some lengths, fit on those"
        )
    return f"By length: {gaps}; {fits}."


def _range(of: LengthBin) -> str:
    return f"{of.least:g}" if of.least == of.most else f"{of.least:g} to {of.most:g}"


def _apart(farther: LengthBin, nearer: LengthBin, tests: int) -> bool:
    """Whether one gap is larger than another by more than chance; tests: how many such differences are looked at."""
    error = float(np.hypot(farther.gap_error, nearer.gap_error))
    return farther.gap - nearer.gap > quantile(tests, nearer.rows - 1) * error


def _along(apart: np.ndarray, of: np.ndarray) -> float:
    """Standard error of |apart|, `of` the covariance of its error."""
    return float(np.sqrt(apart @ of @ apart) / max(np.linalg.norm(apart), np.finfo(float).tiny))


def _quiet(y: ArraySource, x: ArraySource) -> Alignment:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)  # few rows for the width: said by gap_error
        return Alignment.of(fit_baseline("realign", y, x))


def _neighbours(y: ArraySource, numbers: np.ndarray, x: ArraySource) -> tuple[Nearest, Nearest]:
    queries = np.asarray(y.array[numbers], np.float64)
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    return nearest(queries, y, MIXING_K, own=numbers), nearest(queries, x, MIXING_K)


def _rank(rows: np.ndarray) -> float:
    return effective_rank(covariance(rows).eigenvalues)


def _trend(y: ArraySource, lengths: np.ndarray, of_x: Covariance) -> float:
    rows = np.asarray(y.array, np.float64)
    cosines = rows @ of_x.mean / np.linalg.norm(rows, axis=1)
    ranks = []
    for values in (lengths, cosines):  # equal values share the mean of their ranks
        _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks.append((ends - (counts - 1) / 2)[which])
    a, b = (rank - rank.mean() for rank in ranks)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))
