"""GapReport: the figures of a report, as text (str), for machines (to_json), as a page (save, `_repr_html_`)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.diagnostics import Decomposition, Drift, Estimate, Mixing, PowerLaw, Topology
from fastrealign.storage.atomic import AtomicFile


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
class GapReport:
    """What `fastrealign.report` measured. `print` it, `save` it, or let a notebook show it.

    gap_before  |mean(source) - mean(target)| of the unit rows
    gap_error   by how much drawing rows may have moved a gap (root mean square); 0 where all rows were looked at
    kept_k      neighbours of which `kept` is the share
    pair_rows   pairs looked at; None without pairs
    frame       (rank of U, its share of the energy); None without pairs
    drift       of ReAlign; None where the target has no centroid
    notes       what a reader must know of these rows, a line each
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

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps; None for what these rows do not have. Points and densities are left to the page."""
        return {
            "source": asdict(self.source),
            "target": {**asdict(self.target), **_spectrum(self.target_spectrum)},
            "dim": self.dim,
            "seed": self.seed,
            "verdict": self.verdict,
            "gap_before": self.gap_before,
            "gap_error": self.gap_error,
            "methods": {name: _method(of, self.kept_k) for name, of in self.methods.items()},
            "pairs": self.pair_rows,
            "frame": self.frame and {"rank": self.frame[0], "energy": self.frame[1]},
            "drift": self.drift and _drift(self.drift),
            "sample_sizes": [{"rows": size.rows, "gaps": list(size.gaps)} for size in self.sizes],
            "domains": self.domains
            and {
                "names": list(self.domains.names),
                "gaps": self.domains.gaps.tolist(),
                "before": self.domains.before.tolist(),
            },
            "notes": list(self.notes),
        }

    @property
    def verdict(self) -> str:
        """Two sentences."""
        from fastrealign.gap_report.verdict import verdict

        return verdict(self)

    def to_html(self) -> str:
        """The page, whole. Needs matplotlib."""
        from fastrealign.gap_report.page import html_page

        return html_page(self)

    def save(self, path: str | Path, *, png: str | Path | None = None) -> list[Path]:
        """Write the page, its figures as JSON beside it (same name, .json), and each drawing as a PNG into the folder `png`.

        Returns what was written. Raises InputError or FastRealignError, before anything is drawn, where it cannot be.
        """
        path = Path(path)
        check_files(path, png)
        from fastrealign.gap_report.figures import pngs

        texts = {
            path: self.to_html(),
            path.with_suffix(".json"): json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n",
        }
        files = {name: text.encode() for name, text in texts.items()}
        if png is not None:
            files |= {Path(png) / name: data for name, data in pngs(self)}
        for name, data in files.items():
            with AtomicFile(name) as file:
                file.append(data)
                file.commit()
        return list(files)

    def __str__(self) -> str:
        from fastrealign.gap_report.table import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        """In a frame of its own, so that neither page's style reaches the other."""
        try:
            html = self.to_html()
        except InputError as error:
            return f"<pre>{escape(str(self))}\n\n{escape(str(error))}</pre>"
        return f'<iframe srcdoc="{escape(html)}" title="fastrealign report" style="width:100%;height:80vh;border:0"></iframe>'


def check_files(path: Path, png: str | Path | None = None) -> None:
    """Raise in one line where a report cannot be drawn or written there; measuring takes a minute, so ask before."""
    optional("matplotlib", "report", "a report")
    for name in (path, path.with_suffix(".json")):
        if name.is_dir():
            raise InputError(f"{name}: is a folder, where a file of the report would go; choose another name")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a report is a page, expected a name that ends in .html, such as report.html")
    if png is not None and {path.resolve(), path.with_suffix(".json").resolve()} & {
        Path(png).resolve(),
        *Path(png).resolve().parents,
    }:
        raise InputError(f"{png}: is the name of a file of this report, expected a folder for the PNGs")
    if png is not None and Path(png).exists() and not Path(png).is_dir():
        raise InputError(f"{png}: is a file, expected a folder for the PNGs")
    for name in (path, *([Path(png) / "gap.png"] if png is not None else [])):
        AtomicFile(name, fsync=False).abort()


def _spectrum(of: Spectrum) -> dict[str, Any]:
    return {
        "rank": of.rank,
        "effective_rank": of.effective_rank,
        "power_law": of.power and asdict(of.power),
        "eigenvalues": of.eigenvalues.tolist(),
    }


def _method(of: MethodFigures, kept_k: int) -> dict[str, Any]:
    return {
        "gap": of.gap,
        "sigma_gap": of.sigma_gap,
        "spectral_correlation": of.spectral_correlation,
        "jensen_shannon": of.topology and asdict(of.topology.divergence),
        "mixing": asdict(of.mixing),
        "kept": {**asdict(of.kept), "k": kept_k},
        "pairwise_correlation": of.correlation and asdict(of.correlation),
        "instance_cosine": of.cosine,
        "pairs": of.pairs and _pairs(of.pairs),
        **_spectrum(of.spectrum),
    }


def _pairs(of: Pairs) -> dict[str, Any]:
    parts = {name: getattr(of.parts, name) for name in ("bias_u", "bias_v", "residual_u", "residual_v")}
    return {
        **parts,
        "distance": asdict(of.distance),
        "anisotropy": of.anisotropy,
        "effective_dimension": of.effective_dimension,
    }


def _drift(of: Drift) -> dict[str, Any]:
    lengths = {name: float(np.linalg.norm(getattr(of, name))) for name in ("measured", "predicted", "offset")}
    return {**lengths, "cosine": drift_cosine(of)}


def drift_cosine(of: Drift) -> float | None:
    """Of the drift measured with the one predicted; None where one is zero."""
    lengths = np.linalg.norm(of.measured) * np.linalg.norm(of.predicted)
    return float(of.measured @ of.predicted / lengths) if lengths else None
