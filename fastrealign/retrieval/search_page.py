"""A search report as one HTML file, in the style of the gap report: no scripts, nothing loaded, light or dark."""

from __future__ import annotations

from html import escape

from fastrealign.core.formatting import count
from fastrealign.gap_report.page import FEW_COLUMNS, document, notes_of, text_of
from fastrealign.retrieval.bootstrap import Figure
from fastrealign.retrieval.documents import QUERY
from fastrealign.retrieval.search_charts import svgs
from fastrealign.retrieval.search_data import Measured, method_name
from fastrealign.retrieval.search_table import MEANINGS, Row, basis, table
from fastrealign.retrieval.search_verdict import advice_of, findings, headline, score, take_of, warnings_of


def search_page(report: Measured) -> str:
    """The page, whole."""
    sections = [_head(report), _table(report), notes_of(report.notes)]
    return document(headline(report), sections, svgs(report), basis(report))


def _head(report: Measured) -> str:
    documents = " and ".join(f"<span>{escape(name)}</span>" for role, name in report.names.items() if role != QUERY)
    warned = "".join(f"<li><strong>Warning</strong> {text_of(one)}.</li>" for one in warnings_of(report))
    steps = "".join(f"<code>{_words(step)}</code>" for step in take_of(report))
    take = f'<div class="take" role="group" aria-label="How to take it">{steps}</div>' if steps else ""
    return f"""<header>
<p class="sides">Search with <span>{escape(report.names[QUERY])}</span> in {documents}</p>
<h1>{escape(headline(report))}</h1>
<p class="advice"><strong>Advice</strong> {text_of(advice_of(report))}</p>
{take}
<ul class="verdict">{"".join(f"<li>{text_of(one)}</li>" for one in findings(report))}{warned}</ul>
<p class="basis">{escape(basis(report))}</p>
</header>"""


def _words(command: str) -> str:
    """A command that breaks between words, not after the hyphens of an option."""
    return " ".join(f"<span>{escape(word)}</span>" for word in command.split(" "))


def _table(report: Measured) -> str:
    heads = "".join(f'<th scope="col">{escape(method_name(name))}</th>' for name in report.methods)
    bodies = []
    for title, rows in table(report):
        body = "\n".join(_row(row) for row in rows)
        group = f'<tr class="group"><th scope="rowgroup" colspan="{len(report.methods) + 1}">{escape(title)}</th></tr>'
        bodies.append(f"<tbody>\n{group}\n{body}\n</tbody>")
    many = " many" if len(report.methods) > FEW_COLUMNS else ""
    return f"""<section class="methods{many}" style="--n:{len(report.methods)}" aria-label="Methods and metrics">
<table>
<thead><tr><th scope="col">Documents and queries aligned by</th>{heads}</tr></thead>
{chr(10).join(bodies)}
</table>
</section>
<p class="basis">Below each figure its 95 % interval. Compared with doing nothing (“none”) on the same queries:
<span class="key better">▲ better</span> <span class="key worse">▼ worse</span>; no mark: the interval of the difference
includes zero. Each interval holds by itself.</p>"""


def _row(row: Row) -> str:
    meaning = f"<small>{text_of(MEANINGS[row.label])} <i>({count(row.queries, 'query')})</i></small>"
    cells = "".join(_cell(of, row.judged) for of in row.figures.values())
    return f'<tr><th scope="row">{escape(row.label)}{meaning}</th>{cells}</tr>'


def _cell(of: Figure, judged: bool) -> str:
    kind = {True: "better", False: "worse", None: ""}[of.better] if judged else ""
    mark = f'<span class="mark" title="{kind}">{"▲" if kind == "better" else "▼"}</span>' if kind else ""
    low, high = map(score, of.interval)
    return f"<td{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{mark}{score(of.value)}<small>{low} to {high}</small></td>"
