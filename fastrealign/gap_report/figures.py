"""The figures of a report as SVG for the page and as PNG for slides and papers. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from fastrealign.core.optional import optional
from fastrealign.gap_report import charts
from fastrealign.gap_report.charts import Drawing
from fastrealign.gap_report.report_data import Measured
from fastrealign.gap_report.svg import STYLE, inline, png


def svgs(report: Measured) -> list[tuple[Drawing, list[str]]]:
    """All figures of a report, in the order of the page, each with the <svg> of every panel."""
    with _style():
        return [
            (drawing, [inline(figure, f"{drawing.name}-{panel}", drawing.title) for panel, figure in drawing.panels])
            for drawing in _drawings(report)
        ]


def pngs(report: Measured) -> list[tuple[str, bytes]]:
    """(file name, bytes) of every panel."""
    with _style():
        return [
            (_file_name(drawing.name, panel, len(drawing.panels)), png(figure))
            for drawing in _drawings(report)
            for panel, figure in drawing.panels
        ]


def png_names(methods: Iterable[str], *, pairs: bool, domains: bool) -> list[str]:
    """The file names that `pngs` may give for a report of these methods, with and without pairs and other domains."""
    panels = list(dict.fromkeys(["none", *methods]))
    names = ["spectra", "angles", "sizes", "drift", *(["parts"] if pairs else []), *(["domains"] if domains else [])]
    return [_file_name("plane", panel, len(panels)) for panel in panels] + [f"{name}.png" for name in names]


def _file_name(drawing: str, panel: str, panels: int) -> str:
    return f"{drawing}.png" if panels == 1 else f"{drawing}-{panel}.png"


def _style() -> AbstractContextManager[None]:
    """The report's matplotlib settings. They must hold while figures are saved, too, since that is when ticks are made."""
    return optional("matplotlib", "report", "a report").rc_context(STYLE)


def _drawings(report: Measured) -> list[Drawing]:
    found = [charts.plane(report), charts.spectra(report)]
    if any(of.topology for of in report.methods.values()):
        found.append(charts.angles(report))
    if report.frame is not None:
        found.append(charts.parts(report, report.frame))
    found.append(charts.sizes(report))
    if report.drift is not None and report.drift.predicted is not None:
        found.append(charts.drift(report, report.drift, report.drift.predicted))
    if report.domains is not None:
        found.append(charts.domains(report, report.domains))
    return found
