"""Angles between rows of one side: their density, its divergence between sides, and how a map preserves them.

Sampled metrics take all pairs of `rows` rows. Pairs share rows, so standard errors come from leaving out groups of rows
(jackknife).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.formatting import count
from fastrealign.data.row_source import RowsLike
from fastrealign.diagnostics.unit_rows import Estimate, count_rows, left_out, open_sides, paired_blocks, sample

# Groups of rows that the jackknife leaves out one at a time.
GROUPS = 20
# Points of the grid that densities are given on, and how many bandwidths it reaches beyond the outermost cosine.
POINTS, REACH = 4096, 4.0


@dataclass(frozen=True, eq=False)
class Topology:
    """Densities of the pairwise cosines within two sides.

    Attributes
    ----------
    divergence : Estimate
        Jensen-Shannon divergence of the densities, in nats, 0 to ln 2.
    grid : ndarray
        float64 (POINTS,): cosines.
    x, y : ndarray
        float64 (POINTS,): the densities on the grid, per unit of cosine.
    other_rows : float
        Standard error of `divergence` over other rows like these, where `divergence.error` is over samples of the rows given.
    """

    divergence: Estimate
    grid: np.ndarray
    x: np.ndarray
    y: np.ndarray
    other_rows: float


@computes
def angular_topology(x: RowsLike, y: RowsLike, *, rows: int | None = 2000, seed: int = 0) -> Topology:
    """Densities of the pairwise cosines within each side, and their Jensen-Shannon divergence.

    The angular topology of arXiv 2602.07026 (in two places: ReAlign 0.0066 and 0.0067, C3 0.1924 and 0.1904). Densities are
    Gaussian kernel estimates with Scott's bandwidth, std * pairs^(-1/5), as in scipy.stats.gaussian_kde.

    Parameters
    ----------
    x, y : RowsLike
        Rows (n, d) and (m, d), not paired.
    rows : int or None
        Rows of each side to sample, which give rows (rows - 1) / 2 cosines each, of some 100 bytes. None: all.
    seed : int
        Of the sample.

    Returns
    -------
    Topology

    Raises
    ------
    InputError
        Fewer than 3 rows, or all of them at one angle.

    Examples
    --------
    >>> import numpy as np
    >>> images, text = np.random.default_rng(0).normal(size=(2, 10, 3))
    >>> 0 < angular_topology(images, text).divergence.value < 0.69
    True
    """
    sides = []
    for source in open_sides(x, y):
        numbers, taken = sample(source, rows, seed)
        if len(numbers) < 3:
            raise InputError(
                f"{source.name}: {count(len(numbers), 'row')}, expected at least 3 to have a density of their angles"
            )
        sides.append(_Cosines(taken, source.name, left_out(len(numbers), count_rows(source))))
    lowest = min(side.lowest - REACH * side.bandwidth for side in sides)
    highest = max(side.highest + REACH * side.bandwidth for side in sides)
    grid = np.linspace(lowest, highest, POINTS)
    (whole_x, without_x), (whole_y, without_y) = (side.densities(grid) for side in sides)
    step = grid[1] - grid[0]
    spread_x = np.array([jensen_shannon(p, whole_y, step) for p in without_x])
    spread_y = np.array([jensen_shannon(whole_x, p, step) for p in without_y])
    error_x, error_y = _jackknife(spread_x), _jackknife(spread_y)
    error = np.hypot(error_x * sides[0].left_out, error_y * sides[1].left_out)
    whole = all(side.left_out == 0.0 for side in sides)
    value = jensen_shannon(whole_x, whole_y, step)
    n = max(side.n for side in sides)
    divergence = Estimate(value, float(error), n, None if whole else seed)
    return Topology(divergence, grid, whole_x, whole_y, float(np.hypot(error_x, error_y)))


def jensen_shannon(p: np.ndarray, q: np.ndarray, step: float) -> float:
    """Jensen-Shannon divergence in nats of two densities (n,) on one grid with this step."""
    p, q = p / (p.sum() * step), q / (q.sum() * step)
    middle = (p + q) / 2

    def relative(a: np.ndarray) -> float:
        there = a > 0
        return float(np.sum(a[there] * np.log(a[there] / middle[there])) * step)

    return max(0.0, (relative(p) + relative(q)) / 2)


def kernel_density(counts: np.ndarray, step: float, bandwidth: float) -> np.ndarray:
    """Gaussian kernel density (..., n) of counts (..., n) at the points of a grid, by FFT; the grid must reach far enough."""
    n = counts.shape[-1]
    frequency = np.fft.rfftfreq(2 * n, step)  # twice as long: what leaves one end must not enter at the other
    kernel = np.exp(-0.5 * (2 * np.pi * frequency * bandwidth) ** 2)
    smooth = np.fft.irfft(np.fft.rfft(counts, 2 * n) * kernel, 2 * n)[..., :n]
    return np.maximum(smooth, 0.0) / (counts.sum(axis=-1, keepdims=True) * step)


class _Cosines:
    """The cosines of all pairs of the rows (n, d) of one side, and which groups of rows each pair is of."""

    def __init__(self, rows: np.ndarray, name: str, left_out: float) -> None:
        self.n, self.left_out = len(rows), left_out
        i, j = np.triu_indices(self.n, 1)
        self._values = (rows @ rows.T)[i, j]
        self._groups = min(GROUPS, self.n)
        self._pair = i % self._groups * self._groups + j % self._groups
        self.lowest, self.highest = self._values.min(), self._values.max()
        self.bandwidth = self._values.std(ddof=1) * len(self._values) ** -0.2
        if self.bandwidth < 1e-12:
            raise InputError(
                f"{name}: all rows sampled are at one angle to each other, so there is no density of angles"
            )

    def densities(self, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The density (points,) of all pairs, and (groups, points) of those without a row of each group."""
        step, points, groups = grid[1] - grid[0], len(grid), self._groups
        at = (self._values - grid[0]) / step
        below = at.astype(np.int64)
        # Each cosine is shared between the two points beside it.
        upper = at - below
        start = self._pair * points + below
        counts = np.bincount(start, 1 - upper, groups * groups * points + 1)
        counts += np.bincount(start + 1, upper, groups * groups * points + 1)
        counts = counts[:-1].reshape(groups, groups, points)
        whole = counts.sum(axis=(0, 1))
        touching = counts.sum(axis=0) + counts.sum(axis=1) - counts[np.arange(groups), np.arange(groups)]
        return kernel_density(whole, step, self.bandwidth), kernel_density(whole - touching, step, self.bandwidth)


@computes
def instance_cosine(before: RowsLike, after: RowsLike) -> float:
    """Phi: mean cosine of each row with its image under a map, over all rows (AnisoAlign, arXiv 2605.07825: ReAlign 0.923).

    Parameters
    ----------
    before, after : RowsLike
        Rows (n, d): row i of one is the image of row i of the other.

    Returns
    -------
    float
        -1 to 1.

    Raises
    ------
    InputError
        The numbers of rows differ.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.tile([1.0, 0.0], (10, 1))
    >>> instance_cosine(rows, np.tile([3.0, 4.0], (10, 1)))
    0.6
    """
    target, source = open_sides(before, after, "instance cosine")
    return sum(float(np.sum(a * b)) for a, b in paired_blocks(target, source)) / count_rows(target)


@computes
def pairwise_correlation(before: RowsLike, after: RowsLike, *, rows: int | None = 2000, seed: int = 0) -> Estimate:
    """Psi: Pearson correlation of the pairwise cosines among rows before and after a map.

    AnisoAlign, arXiv 2605.07825: ReAlign 0.836.

    Parameters
    ----------
    before, after : RowsLike
        Rows (n, d): row i of one is the image of row i of the other.
    rows : int or None
        Rows to sample. None: all.
    seed : int
        Of the sample.

    Returns
    -------
    Estimate
        -1 to 1.

    Raises
    ------
    InputError
        The numbers of rows differ; all cosines of one side are equal; a sample of fewer than 4 rows, or in which so few rows
        differ that it gives no standard error.

    Examples
    --------
    >>> import numpy as np
    >>> rows = np.random.default_rng(0).normal(size=(10, 3))
    >>> round(pairwise_correlation(rows, -rows).value, 6)
    1.0
    """
    sides = open_sides(before, after, "the correlation of pairwise cosines")
    taken = [sample(side, rows, seed)[1] for side in sides]  # both have as many rows
    n, of = len(taken[0]), count_rows(sides[0])
    if n < min(4, of):
        raise InputError(f"{sides[0].name}: {n} rows sampled of {of}, expected at least 4 to correlate their cosines")
    i, j = np.triu_indices(n, 1)
    a, b = (c - c.mean() for c in ((unit @ unit.T)[i, j] for unit in taken))
    groups = min(GROUPS, n)
    pair = i % groups * groups + j % groups
    sums = np.stack(
        [np.bincount(pair, w, groups * groups).reshape(groups, groups) for w in (None, a, b, a * a, b * b, a * b)]
    )
    whole = sums.sum(axis=(1, 2))
    if _flat(whole):
        raise InputError("all pairwise cosines of one side are equal, so there is nothing to correlate")
    if n == of:
        return Estimate(float(_pearson(whole)), 0.0, n, None)
    diagonal = sums[:, np.arange(groups), np.arange(groups)]
    without = whole[:, None] - (sums.sum(axis=1) + sums.sum(axis=2) - diagonal)
    if _flat(without):
        raise InputError(
            "only a few of the rows sampled differ from each other, too few for the standard error of their correlation; "
            "sample more rows"
        )
    return Estimate(float(_pearson(whole)), _jackknife(_pearson(without)) * left_out(n, of), n, seed)


def _flat(sums: np.ndarray) -> bool:
    """Whether a variance in sums of 1, a, b, aa, bb, ab (6, ...) is rounding: of cosines, or of what sums leave of squares."""
    n, a, b, aa, bb, _ = sums
    return any(np.any(s2 - s * s / n < 1e-24 * n + 1e-12 * s2) for s, s2 in ((a, aa), (b, bb)))


def _pearson(sums: np.ndarray) -> np.ndarray:
    """The correlation from sums of 1, a, b, aa, bb, ab (6, ...)."""
    n, a, b, aa, bb, ab = sums
    return (n * ab - a * b) / np.sqrt((n * aa - a * a) * (n * bb - b * b))


def _jackknife(values: np.ndarray) -> float:
    """The standard error of a statistic from its values (groups,) with each group of rows left out."""
    groups = len(values)
    return float(np.sqrt((groups - 1) / groups * np.sum((values - values.mean()) ** 2)))
