"""A report as one HTML file: no scripts, nothing loaded from elsewhere, light or dark as the system is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from fastrealign.core.version import __version__
from fastrealign.gap_report.advice import advice_of
from fastrealign.gap_report.by_length import length_section
from fastrealign.gap_report.charts import Drawing
from fastrealign.gap_report.figures import svgs
from fastrealign.gap_report.method_style import COLOURS, name_of
from fastrealign.gap_report.report_data import Measured
from fastrealign.gap_report.table import BEST, BETTER, MARGINS, WORSE, Row, basis, noise_of, table
from fastrealign.gap_report.verdict import findings, headline

MARKS = {BEST: "●", BETTER: "▲", WORSE: "▼"}
# With more methods than this, a phone shows them in two rows.
FEW_COLUMNS = 5


def html_page(report: Measured) -> str:
    """The page, whole."""
    lengths = length_section(report.by_length) if report.by_length else ""
    notes = notes_of([*noise_of(report), *report.notes])
    papers = "Methods and metrics: arXiv 2602.07026, arXiv 2605.07825"
    sections = [_head(report), _table(report), lengths, notes]
    return document(headline(report), sections, svgs(report), f"{basis(report)}. {papers}")


def document(title: str, sections: list[str], figures: Iterable[tuple[Drawing, list[str]]], measured: str) -> str:
    """An HTML file of these sections, each figure with the <svg> of its panels, and a line on what was measured."""
    lines = [
        *sections,
        '<section class="figures" aria-label="Figures">',
        *(_figure_card(drawing, panels) for drawing, panels in figures),
        "</section>",
        f"<footer>Measured and drawn by fastrealign {__version__}: {escape(measured)}.</footer>",
    ]
    body = "\n".join(lines)
    style = files("fastrealign.gap_report").joinpath("page.css").read_text("utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="fastrealign {__version__}">
<title>{escape(title)}</title>
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
<p class="advice"><strong>Advice</strong> {text_of(advice_of(report))}</p>
<ul class="verdict">{"".join(f"<li>{text_of(one)}</li>" for one in findings(report))}</ul>
<p class="basis">{escape(basis(report))}</p>
</header>"""


def text_of(text: str) -> str:
    """Escaped, with figures that do not part from their signs."""
    return escape(text).replace(" %", "\u00a0%").replace(" ± ", "\u00a0±\u00a0")


def _table(report: Measured) -> str:
    names = list(report.methods)
    heads = "".join(
        f'<th scope="col"><span class="swatch" style="background:var(--{name})"></span>{escape(name_of(name))}</th>'
        for name in names
        if name in COLOURS
    )
    judged: list[str] = []
    described: list[str] = []
    for row in table(report):
        cells = "".join(_cell(row, name) for name in names)
        meaning = f"<small>{text_of(row.meaning)} <i>({escape(row.measured)})</i></small>"
        head = f'<th scope="row">{escape(row.label)}{meaning}</th>'
        (judged if row.judged else described).append(f"<tr>{head}{cells}</tr>")
    many = " many" if len(names) > FEW_COLUMNS else ""
    return f"""<section class="methods{many}" style="--n:{len(names)}" aria-label="Methods and metrics">
<table>
<thead><tr><th scope="col">Source aligned by</th>{heads}</tr></thead>
<tbody>
{chr(10).join(judged)}
</tbody>
<tbody class="described">
<tr class="group"><th scope="rowgroup" colspan="{len(names) + 1}">What the gap is made of: described, not judged</th></tr>
{chr(10).join(described)}
</tbody>
</table>
</section>
<p class="basis">Compared with doing nothing (“none”), by the interval of the difference:
<span class="key better">▲ better</span>
<span class="key best">● best of those, or not behind it by more than chance</span>
<span class="key worse">▼ worse</span>; no mark: neither better nor worse, as far as these rows show.
All differences on this page hold together with 95 % confidence. {escape(MARGINS)}.</p>"""


def _cell(row: Row, name: str) -> str:
    cell = row.cells[name]
    mark = f'<span class="mark" title="{cell.mark}">{MARKS[cell.mark]}</span>' if cell.mark else ""
    small = f"<small>{cell.margin}</small>" if cell.margin else ""
    kind = f' class="{cell.mark}"' if cell.mark else ""
    return f"<td{kind}>{mark}{cell.value}{small}</td>"


def notes_of(notes: Sequence[str]) -> str:
    """The section of notes; "" for none."""
    return f'<ul class="notes">{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>' if notes else ""


def _figure_card(drawing: Drawing, panels: list[str]) -> str:
    several = " several" if len(panels) > 1 else ""
    return f"""<figure id="{drawing.name}" class="card{several}">
<h2>{escape(drawing.title)}</h2>
<div class="panels">
{chr(10).join(panels)}
</div>
<figcaption>{escape(drawing.reading)}<span class="basis">{escape(drawing.basis)}</span></figcaption>
</figure>"""
