"""The figures of a report, as they were measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.diagnostics import Decomposition, Drift, Estimate, Mixing, PowerLaw, Topology
from fastrealign.gap_report.by_length import Lengths
from fastrealign.gap_report.outcomes import Classes, Means, Outcome, Search


@dataclass(frozen=True)
class Side:
    """One side of a gap.

    Attributes
    ----------
    name : str
        As the user named it.
    rows, of : int
        Rows drawn, and all rows of the side.
    column : str or None
        Column, key or tensor that holds the embeddings, of files that have one.
    """

    name: str
    rows: int
    of: int
    column: str | None = None


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Spectrum of the covariance of unit rows.

    Attributes
    ----------
    eigenvalues : ndarray
        float64 (d,), descending.
    rank : int
        Eigenvalues above the floor; below d, the rows span fewer directions than columns.
    power : PowerLaw or None
        None where fewer than two eigenvalues have a spread.
    effective_rank : float
        1 to d.
    """

    eigenvalues: np.ndarray
    rank: int
    power: PowerLaw | None
    effective_rank: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """The differences of pairs.

    Attributes
    ----------
    parts : Decomposition
        Bias and residual in U and V, of the pairs drawn.
    distance : Estimate
        Mean squared distance, `parts.total`, with its standard error.
    anisotropy, effective_dimension : float or None
        A_r of the residual with its mean, d_eff/d of the residual without it; None without a spread.
    """

    parts: Decomposition
    distance: Estimate
    anisotropy: float | None
    effective_dimension: float | None


@dataclass(frozen=True, eq=False)
class MethodFigures:
    """The rows of the source after one method, compared with the target and with the source; see fastrealign.diagnostics.

    Attributes
    ----------
    gap, sigma_gap : float
    spectrum : Spectrum
    spectral_correlation : float or None
    topology : Topology or None
        None where all angles of a side are equal.
    mixing : Mixing
    kept : Estimate
        Share of the nearest neighbours that a row keeps (`overlap`).
    correlation : Estimate or None
        `pairwise_correlation`; None where the rows do not determine it.
    cosine : float
        `instance_cosine`.
    pairs : Pairs or None
    points : ndarray
        float64 (p, 2): some mapped rows in the report's plane.
    noise : float
        Length of the random vector that the method added to a row before the projection; 0 for none. The page and the text
        say so.
    """

    gap: float
    sigma_gap: float
    spectrum: Spectrum
    spectral_correlation: float | None
    topology: Topology | None
    mixing: Mixing
    kept: Estimate
    correlation: Estimate | None
    cosine: float
    pairs: Pairs | None
    points: np.ndarray
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class Plane:
    """The plane of the gap: along the means before alignment, from source (0) to target, and across.

    The axis across is the one of greatest variance within the sides that is orthogonal to the gap.

    Attributes
    ----------
    target : ndarray
        float64 (p, 2): some rows of the target.
    share : tuple of float
        Share of each axis in the variance within the sides.
    """

    target: np.ndarray
    share: tuple[float, float]


@dataclass(frozen=True)
class SampleSize:
    """The gaps that ReAlign leaves on all rows when it is fitted on `rows` rows of each side, one for each trial."""

    rows: int
    gaps: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Domains:
    """Gaps across n domains.

    Attributes
    ----------
    names : tuple of str
    gaps : ndarray
        float64 (n, n): left in the domain of the column by ReAlign fitted on that of the row.
    before : ndarray
        float64 (n,): without alignment.
    """

    names: tuple[str, ...]
    gaps: np.ndarray
    before: np.ndarray


@dataclass(frozen=True, eq=False)
class Measured:
    """What `fastrealign.report` measured.

    Attributes
    ----------
    source, target : Side
    dim, seed : int
        Width of the rows; seed of every sample.
    gap_before : float
        |mean(source) - mean(target)| of the unit rows.
    means : Means
        Whether that is more than chance.
    fitted_on : tuple of int or None
        (source rows, target rows) that the methods were fitted on, where rows are few; they are measured on the others.
    reused : bool
        Rows are few, and too few to be fitted on one half and measured on the other: methods are measured on rows that they
        were fitted on.
    target_spectrum : Spectrum
    methods : dict of MethodFigures
        By name: "none", then the others in the order asked for.
    outcomes : dict of Outcome
        By name: the figures by which methods are judged, those that users align for first.
    search : Search or None
        None without pairs.
    classes : Classes or None
        None without labels.
    same : float
        Share of the source rows that have a copy among the target rows drawn, equal or nearly, as copies on one side are.
    swapped : bool
        Names say that the source is images and the target text.
    kept_k : int
        The number of neighbours of which `MethodFigures.kept` is the share.
    plane : Plane
    pair_rows : int or None
        Pairs measured; None without pairs.
    frame : tuple or None
        (rank of U, its share of the energy); None without pairs.
    drift : Drift or None
        Of ReAlign; None where the target has no centroid.
    sizes : tuple of SampleSize
    domains : Domains or None
    notes : tuple of str
        What a reader must know about these rows, one line each.
    by_length : Lengths or None
        None without lengths of captions.
    """

    source: Side
    target: Side
    dim: int
    seed: int
    gap_before: float
    means: Means
    fitted_on: tuple[int, int] | None
    reused: bool
    target_spectrum: Spectrum
    methods: dict[str, MethodFigures]
    outcomes: dict[str, Outcome]
    search: Search | None
    classes: Classes | None
    same: float
    swapped: bool
    kept_k: int
    plane: Plane
    pair_rows: int | None
    frame: tuple[int, float] | None
    drift: Drift | None
    sizes: tuple[SampleSize, ...]
    domains: Domains | None
    notes: tuple[str, ...]
    by_length: Lengths | None = None

    @property
    def few(self) -> bool:
        """Whether rows are few for their width: with more, methods may do better or worse."""
        return self.reused or self.fitted_on is not None

    @property
    def halved(self) -> dict[str, int]:
        """The sides of which methods were fitted on one half and measured on the other: the rows that were fitted on."""
        drawn = {"source": self.source.rows, "target": self.target.rows}
        fitted = zip(drawn, self.fitted_on or drawn.values(), strict=True)
        return {side: rows for side, rows in fitted if rows != drawn[side]}

    @property
    def measured(self) -> tuple[int, int]:
        """(source rows, target rows) that were measured: where rows are few, those that no method was fitted on."""
        drawn = self.source.rows, self.target.rows
        fitted = drawn if self.fitted_on is None else self.fitted_on
        first, second = (rows if rows == fit else rows - fit for rows, fit in zip(drawn, fitted, strict=True))
        return first, second
