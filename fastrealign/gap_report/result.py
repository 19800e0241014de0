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
from fastrealign.diagnostics import Drift
from fastrealign.diagnostics.mean_gap import cosine
from fastrealign.gap_report.advice import advice_of
from fastrealign.gap_report.by_length import guideline
from fastrealign.gap_report.figures import pngs
from fastrealign.gap_report.outcomes import Outcome
from fastrealign.gap_report.page import html_page
from fastrealign.gap_report.report_data import Measured, MethodFigures, Pairs, Spectrum
from fastrealign.gap_report.table import as_text
from fastrealign.gap_report.verdict import verdict_of
from fastrealign.storage.atomic import AtomicFile, save_bytes
from fastrealign.storage.paths import place


@dataclass(frozen=True, eq=False)
class GapReport(Measured):
    """The result of `fastrealign.report`: `print` it, `save` it as a page, or let a notebook show it."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps; None for what these rows do not have. Points and densities are left to the page."""
        return {
            "source": asdict(self.source),
            "target": {**asdict(self.target), **_spectrum(self.target_spectrum)},
            "dim": self.dim,
            "seed": self.seed,
            "verdict": self.verdict,
            "advice": self.advice,
            "gap_before": self.gap_before,
            "means": asdict(self.means),
            "fitted_on": self.fitted_on and dict(zip(("source", "target"), self.fitted_on, strict=True)),
            "outcomes": {name: _outcome(of) for name, of in self.outcomes.items()},
            "search": self.search and asdict(self.search),
            "classifier": self.classes and {**asdict(self.classes), "names": list(self.classes.names)},
            "rows_on_both_sides": self.same,
            "look_swapped": self.swapped,
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
            "by_length": self.by_length and {**asdict(self.by_length), "guideline": guideline(self.by_length)},
            "notes": list(self.notes),
        }

    @property
    def verdict(self) -> str:
        """The gap, and by each outcome which methods are better than doing nothing, or that none is."""
        return verdict_of(self)

    @property
    def advice(self) -> str:
        """One sentence: what to do, why, and what it costs."""
        return advice_of(self)

    def to_html(self) -> str:
        """The page, whole. Needs matplotlib."""
        return html_page(self)

    def save(self, path: str | Path, *, png: str | Path | None = None) -> list[Path]:
        """Write the page, its figures as JSON beside it (same name, .json), and each drawing as a PNG.

        Parameters
        ----------
        path : str or Path
            Of the page; ends in .html.
        png : str or Path, optional
            Folder for the PNGs; without it none are written.

        Returns
        -------
        list of Path
            The files written.

        Raises
        ------
        InputError, FastRealignError
            A file cannot be written there, or matplotlib is missing; raised before anything is drawn.
        """
        path, png = local(path), None if png is None else local(png)
        check_files(path, png)
        texts = {
            path: self.to_html(),
            path.with_suffix(".json"): json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n",
        }
        files = {name: text.encode() for name, text in texts.items()}
        if png is not None:
            files |= {png / name: data for name, data in pngs(self)}
        for name, data in files.items():
            save_bytes(name, data)
        return list(files)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        """In an iframe, so that the styles of the report and of the notebook do not mix."""
        try:
            html = self.to_html()
        except InputError as error:
            return f"<pre>{escape(str(self))}\n\n{escape(str(error))}</pre>"
        return f'<iframe srcdoc="{escape(html)}" title="fastrealign report" style="width:100%;height:80vh;border:0"></iframe>'


def local(path: str | Path) -> Path:
    """Where a page or the folder of its PNGs goes. InputError for a URL."""
    at = place(path)
    if not isinstance(at, Path):
        raise InputError(
            f"{path}: a report is written to a local file or folder; write it there, then copy it to the server"
        )
    return at


def check_files(path: Path, png: str | Path | None = None) -> None:
    """Raise if a report cannot be drawn or written there. Call it before measuring, which takes a minute."""
    png = None if png is None else local(png)
    optional("matplotlib", "report", "a report")
    for name in (path, path.with_suffix(".json")) if path.name else (path,):
        if name.is_dir():
            raise InputError(f"{name}: is a folder, where a file of the report would go; choose another name")
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: a report is a page, expected a name that ends in .html, such as report.html")
    if png is not None and {path.resolve(), path.with_suffix(".json").resolve()} & {
        png.resolve(),
        *png.resolve().parents,
    }:
        raise InputError(f"{png}: is the name of a file of this report, expected a folder for the PNGs")
    if png is not None and png.exists() and not png.is_dir():
        raise InputError(f"{png}: is a file, expected a folder for the PNGs")
    for name in (path, *([png / "gap.png"] if png is not None else [])):
        AtomicFile(name, fsync=False).abort()


def _outcome(of: Outcome) -> dict[str, Any]:
    methods = {
        name: {
            "value": figure.value,
            "interval": [figure.value - figure.margin, figure.value + figure.margin],
            "change": figure.change,
            "change_interval": [figure.change - figure.change_margin, figure.change + figure.change_margin],
            "better": of.better(name),
        }
        for name, figure in of.methods.items()
    }
    return {
        "n": of.n,
        "lower_is_better": of.lower,
        "nearest_is_best": of.limit,
        "best": list(of.best),
        "methods": methods,
    }


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
        "noise": of.noise,
        "pairs": of.pairs and _pairs(of.pairs),
        **_spectrum(of.spectrum),
    }


def _pairs(of: Pairs) -> dict[str, Any]:
    parts = {name: getattr(of.parts, name) for name in ("bias_u", "bias_v", "residual_u", "residual_v")}
    return {
        **parts,
        "distance": asdict(of.distance),
        "eta_u": of.parts.eta_u,
        "r_res": of.parts.r_res,
        "anisotropy": of.anisotropy,
        "effective_dimension": of.effective_dimension,
    }


def _drift(of: Drift) -> dict[str, Any]:
    vectors = {"measured": of.measured, "predicted": of.predicted, "offset": of.offset}
    return {
        **{name: None if v is None else float(np.linalg.norm(v)) for name, v in vectors.items()},
        "cosine": None if of.predicted is None else cosine(of.measured, of.predicted),
        "ratio": of.ratio,
    }
