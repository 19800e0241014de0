"""A report as one HTML file: no scripts, nothing loaded from elsewhere, light or dark as the system is."""

from __future__ import annotations

from html import escape
from importlib.resources import files

from fastrealign.core.version import __version__
from fastrealign.gap_report.charts import Drawing
from fastrealign.gap_report.figures import svgs
from fastrealign.gap_report.labels import METHOD, name_of, number
from fastrealign.gap_report.report_data import Measured
from fastrealign.gap_report.table import basis, metrics
from fastrealign.gap_report.verdict import headline, verdict_of


def html_page(report: Measured) -> str:
    """The page, whole."""
    style = files("fastrealign.gap_report").joinpath("page.css").read_text("utf-8")
    lines = [
        _head(report),
        _table(report),
        _notes(report),
        '<section class="figures" aria-label="Figures">',
        *(_figure(drawing, panels) for drawing, panels in svgs(report)),
        "</section>",
        f"<footer>Measured and drawn by fastrealign {__version__}: {escape(basis(report))}. Methods and metrics: "
        "arXiv 2602.07026, arXiv 2605.07825.</footer>",
    ]
    body = "\n".join(lines)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="fastrealign {__version__}">
<title>{escape(headline(report))}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _head(report: Measured) -> str:
    sides = " → ".join(f"<span>{escape(side.name)}</span>" for side in (report.source, report.target))
    return f"""<header>
<p class="sides">Modality gap, {sides}</p>
<h1>{escape(headline(report))}</h1>
<p class="verdict">{escape(verdict_of(report))}</p>
<p class="basis">{escape(basis(report))}</p>
</header>"""


def _table(report: Measured) -> str:
    names = list(report.methods)
    swatches = "".join(
        f'<th scope="col"><span class="swatch" style="background:var(--{name})"></span>{escape(name_of(name))}</th>'
        for name in names
        if name in METHOD
    )
    rows = []
    for metric in metrics(report):
        best = metric.best(report)
        cells = []
        for name in names:
            shown, plus = metric.cell(report.methods[name])
            idle = metric.keeps and name == "none"
            mark = ' class="best"' if name in best else ' class="idle"' if idle else ""
            star = '<span class="mark" title="best">●</span>' if name in best else ""
            small = f"<small>{plus}</small>" if plus else ""
            cells.append(f"<td{mark}>{star}{shown}{small}</td>")
        better = f"; <em>{metric.better}</em>" if metric.better else ""
        head = f"{escape(metric.label)}<small>{escape(metric.meaning)}{better}</small>"
        rows.append(f'<tr><th scope="row">{head}</th>{"".join(cells)}</tr>')
    sampled = (
        f" The sides were sampled, which changes a gap by about {number(report.gap_error)}." if report.gap_error else ""
    )
    return f"""<section class="scroll" aria-label="Methods and metrics" tabindex="0">
<table>
<thead><tr><th scope="col">Source aligned by</th>{swatches}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table>
</section>
<p class="basis">Shaded <span class="mark">●</span>: best, or within two standard errors of the best; “none”, which moves no
row, does not compete in what a method keeps. ±: standard error of a sampled figure;
all others are over all rows.{sampled}</p>"""


def _notes(report: Measured) -> str:
    if not report.notes:
        return ""
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in report.notes)}</ul>'


def _figure(drawing: Drawing, panels: list[str]) -> str:
    several = " several" if len(panels) > 1 else ""
    return f"""<figure id="{drawing.name}" class="card{several}">
<h2>{escape(drawing.title)}</h2>
<div class="panels">
{chr(10).join(panels)}
</div>
<figcaption>{escape(drawing.reading)}<span class="basis">{escape(drawing.basis)}</span></figcaption>
</figure>"""
