"""The figures of a report, as they were measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.diagnostics import Decomposition, Drift, Estimate, Mixing, PowerLaw, Topology


@dataclass(frozen=True)
class Side:
    """name as it was given; `rows` looked at, of all those `of` it; the `column` (key, tensor) of files that name one."""

    name: str
    rows: int
    of: int
    column: str | None = None


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues float64 (d,), descending, of the covariance of unit rows; rank below d: fewer directions than columns.

    power           None where fewer than two eigenvalues have a spread
    effective_rank  1 to d
    """

    eigenvalues: np.ndarray
    rank: int
    power: PowerLaw | None
    effective_rank: float


@dataclass(frozen=True, eq=False)
class Pairs:
    """What the differences of pairs are made of: `parts` in U and V, of the pairs drawn; A_r and d_eff/d of the residual, None
    without a spread. distance: the mean squared one, `parts.total`, with its error.
    """

    parts: Decomposition
    distance: Estimate
    anisotropy: float | None
    effective_dimension: float | None


@dataclass(frozen=True, eq=False)
class MethodFigures:
    """The source as one method maps it, against the target and against itself before; units as in fastrealign.diagnostics.

    kept         share of the nearest neighbours that a row keeps
    topology     None where all angles of a side are equal; correlation: Psi, None where they do not tell it; cosine: Phi
    points       float64 (p, 2): some mapped rows in the report's plane
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


@dataclass(frozen=True, eq=False)
class Plane:
    """The two leading principal axes of both sides before; target float64 (p, 2): some of its rows; share of the variance."""

    target: np.ndarray
    share: tuple[float, float]


@dataclass(frozen=True)
class SampleSize:
    """The gap that ReAlign leaves on all rows when it was fitted on `rows` of each side, one for each trial."""

    rows: int
    gaps: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Domains:
    """gaps float64 (n, n): left in the domain of the column by ReAlign fitted on that of the row; before float64 (n,)."""

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
    gap_error : float
        Root mean square of the change of a gap by drawing rows; 0 where all rows were measured.
    target_spectrum : Spectrum
    methods : dict of MethodFigures
        By name, in the order asked for.
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
    """

    source: Side
    target: Side
    dim: int
    seed: int
    gap_before: float
    gap_error: float
    target_spectrum: Spectrum
    methods: dict[str, MethodFigures]
    kept_k: int
    plane: Plane
    pair_rows: int | None
    frame: tuple[int, float] | None
    drift: Drift | None
    sizes: tuple[SampleSize, ...]
    domains: Domains | None
    notes: tuple[str, ...]


def drift_cosine(of: Drift) -> float | None:
    """Of the drift measured with the one predicted; None where one is zero."""
    lengths = np.linalg.norm(of.measured) * np.linalg.norm(of.predicted)
    return float(of.measured @ of.predicted / lengths) if lengths else None
