"""The figures of a search report: distributions of scores and threshold curves, a small panel a method. Needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core.formatting import count
from fastrealign.core.optional import optional
from fastrealign.gap_report.charts import SMALL, Drawing
from fastrealign.gap_report.method_style import COLOURS
from fastrealign.gap_report.svg import STYLE, TARGET, inline
from fastrealign.retrieval.documents import IMAGE, TEXT
from fastrealign.retrieval.ranking import DEPTH, MIXED
from fastrealign.retrieval.score_figures import EDGES
from fastrealign.retrieval.search_data import Measured, method_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WHAT = "a report of search"
# Colours that the page knows, light and dark: of the gap report's target (images) and of two of its methods.
_PAIRS = {"text–text": COLOURS["realign"], "image–image": TARGET, "image–text": COLOURS["bca"]}
_ROLES = {MIXED: ("both", COLOURS["none"]), TEXT: ("text", COLOURS["realign"]), IMAGE: ("images", TARGET)}


def svgs(report: Measured) -> list[tuple[Drawing, list[str]]]:
    """All figures, in the order of the page, each with the <svg> of every panel."""
    with optional("matplotlib", "search", WHAT).rc_context(STYLE):
        return [
            (drawing, [inline(figure, panel, f"{drawing.title}: {panel}") for panel, figure in drawing.panels])
            for drawing in (_distributions(report), _curves(report))
        ]


def _distributions(report: Measured) -> Drawing:
    """Densities of cosines by pairs of modalities."""
    shown = [of.density for one in report.scores.values() for of in one.distributions.values()]
    filled = np.flatnonzero(np.sum(shown, axis=0) > 0) if shown else np.array([0, len(EDGES) - 2])
    low, high = float(EDGES[filled[0]]), float(EDGES[filled[-1] + 1])
    middles = (EDGES[1:] + EDGES[:-1]) / 2
    panels = []
    for number, (name, one) in enumerate(report.scores.items()):
        figure, axes = _axes(name)
        for pair, of in one.distributions.items():
            axes.fill_between(middles, of.density, color=_PAIRS[pair], alpha=0.18, lw=0)
            axes.plot(middles, of.density, color=_PAIRS[pair], lw=1.5, label=pair)
        axes.set(xlim=(low, high), xlabel="cosine of two documents", ylabel="density (per unit of cosine)")
        axes.set_ylim(bottom=0)
        figure.legend(loc="outside lower center", ncols=3, handlelength=1.2, columnspacing=1.0)
        panels.append((f"scores-{number}", figure))
    reading = "How alike the documents are without and with each method: the further right the curve, the more alike."
    title, each = "Cosines between documents", ""
    if MIXED in report.corpora:
        title, each = f"{title}, by modality", " of each modality"
        reading = (
            "Where the curves of text with text and of images with text lie apart, no picture ranks above a text: its scores "
            "are of another range. The more the curves overlap, the less a score says of the modality of a document."
        )
    rows = max((max(of.rows) for one in report.scores.values() for of in one.distributions.values()), default=0)
    return Drawing(
        "scores",
        title,
        reading,
        f"up to {rows:,} documents{each}, all pairs of them, seed {report.seed}",
        tuple(panels),
    )


def _curves(report: Measured) -> Drawing:
    """Precision and recall against the threshold, by modality of the results."""
    every = [of.threshold for one in report.scores.values() for of in one.curves.values()]
    low, high = float(min(of.min() for of in every)), float(max(of.max() for of in every))
    panels = []
    for number, (name, one) in enumerate(report.scores.items()):
        figure, axes = _axes(name)
        for role, (label, colour) in _ROLES.items():
            if role not in one.curves:
                continue
            of = one.curves[role]
            axes.plot(of.threshold, of.precision, color=colour, lw=1.6, label=f"{label}: precision")
            axes.plot(of.threshold, of.recall, color=colour, lw=1.4, ls=(0, (3, 1.5)), label=f"{label}: recall")
        axes.set(xlim=(low, high), ylim=(-0.02, 1.02), xlabel="threshold on the cosine", ylabel="precision, recall")
        figure.legend(loc="outside lower center", ncols=2, handlelength=1.8, columnspacing=1.0)
        panels.append((f"thresholds-{number}", figure))
    apart = ""
    if MIXED in report.corpora:
        apart = " Where the lines of text and images lie apart, one threshold does not serve both."
    return Drawing(
        "thresholds",
        "What a threshold keeps",
        "Precision: the share of relevant documents among the results that score at least the threshold. Recall: the share of "
        f"all relevant documents that do.{apart}",
        f"the first {DEPTH} results of each of {count(report.judged, 'judged query')}; what is not judged counts as "
        "not relevant",
        tuple(panels),
    )


def _axes(method: str) -> tuple[Figure, Axes]:
    figure = optional("matplotlib.figure", "search", WHAT).Figure(figsize=SMALL, layout="constrained")
    axes = figure.subplots()
    # matplotlib typesets text between two dollar signs as mathematics.
    axes.set_title(method_name(method).replace("$", r"\$"), loc="left", fontsize=10.5, weight="bold")
    axes.locator_params(nbins=5)
    axes.grid(True)
    return figure, axes
