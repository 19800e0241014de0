"""The table of a search report: its rows, and the report as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fastrealign.core.formatting import count
from fastrealign.retrieval.bootstrap import DRAWS, Figure
from fastrealign.retrieval.documents import IMAGE, QUERY, TEXT
from fastrealign.retrieval.ranking import DEPTH, METRICS, MIXED, SHARE, own
from fastrealign.retrieval.score_figures import QUANTILES
from fastrealign.retrieval.search_data import CORPORA, Measured, method_name
from fastrealign.retrieval.search_verdict import advice_of, findings, interval, score, take_of, warnings_of

MEANINGS = {
    "R@1": "share of the relevant documents that are the first result",
    "R@5": "share of the relevant documents in the first 5",
    "R@10": "share of the relevant documents in the first 10",
    "NDCG@10": "grades of the first 10 results, discounted by rank, over the best possible",
    "MRR": f"one over the rank of the first relevant document, 0 beyond {DEPTH}",
    own(TEXT): "R@10 of relevant text, among text and images",
    own(IMAGE): "R@10 of relevant images, among text and images",
    SHARE: "share of images among the first 10 results",
}
KEY = (
    "+ better than doing nothing, - worse: the 95 % interval of the paired difference excludes zero. Each interval holds by "
    "itself."
)


@dataclass(frozen=True, eq=False)
class Row:
    """A metric in a corpus; judged: whether higher is better."""

    corpus: str
    label: str
    queries: int
    figures: dict[str, Figure]
    judged: bool


def table(report: Measured) -> Iterator[tuple[str, list[Row]]]:
    """The rows of each corpus: (its title, rows)."""
    for corpus in report.corpora:
        rows = [
            Row(corpus, metric, report.counted[corpus, metric], dict(report.figures[corpus, metric]), metric != SHARE)
            for metric in (*METRICS, own(TEXT), own(IMAGE), SHARE)
            if (corpus, metric) in report.figures
        ]
        documents = report.rows[TEXT] + report.rows[IMAGE] if corpus == MIXED else report.rows[corpus]
        yield f"{CORPORA[corpus]}, {count(documents, 'document')}", rows


def basis(report: Measured) -> str:
    """What was measured on."""
    return (
        f"{count(report.judged, 'judged query')} of {report.rows[QUERY]:,}, width {report.dim}; "
        f"metrics by trec_eval, 95 % intervals by the bootstrap, {DRAWS:,} resamples of the queries, seed {report.seed}"
    )


def as_text(report: Measured) -> str:
    """Advice, warnings, the table, scores and notes as plain text."""
    grid = [["", *map(method_name, report.methods)]]
    for title, rows in table(report):
        grid.append([title])
        for row in rows:
            cells = [
                f"{score(of.value)} ({interval(of.interval)}) {_sign(of) if row.judged else ' '}"
                for of in row.figures.values()
            ]
            grid.append([f"  {row.label}", *cells])
    widths = [max(len(row[i]) for row in grid if len(row) > 1) for i in range(len(grid[0]))]
    lines = [
        row[0].ljust(widths[0]) + "".join("  " + cell.ljust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        if len(row) > 1
        else row[0]
        for row in grid
    ]
    present = {metric for _, metric in report.figures}
    meanings = [f"  {metric.ljust(20)}  {text}" for metric, text in MEANINGS.items() if metric in present]
    parts = [
        [f"Advice: {advice_of(report)}", *(f"  {step}" for step in take_of(report))],
        [f"warning: {one}" for one in warnings_of(report)],
        findings(report),
        [*(line.rstrip() for line in lines), KEY, basis(report)],
        meanings,
        list(_scores(report)),
        [f"note: {note}" for note in report.notes],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _sign(of: Figure) -> str:
    return {True: "+", False: "-", None: " "}[of.better]


def _scores(report: Measured) -> Iterator[str]:
    """Medians and tails of the cosines between documents."""
    low, middle, high = (QUANTILES.index(q) for q in (0.05, 0.5, 0.95))
    yield "cosines between documents: median (5 % to 95 %)"
    for name in report.methods:
        parts = [
            f"{pair} {score(of.quantiles[middle])} ({interval((of.quantiles[low], of.quantiles[high]))})"
            for pair, of in report.scores[name].distributions.items()
        ]
        yield f"  {method_name(name)}: {', '.join(parts)}"
