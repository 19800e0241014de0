"""The table of methods and metrics: its rows, and the report as plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastrealign.core.formatting import count, number, percent
from fastrealign.diagnostics import Estimate
from fastrealign.gap_report.advice import advice_of
from fastrealign.gap_report.by_length import length_lines
from fastrealign.gap_report.method_style import name_of
from fastrealign.gap_report.outcomes import ACCURACY, GAP, KEPT, MIXING, SEARCH, Outcome, quantile
from fastrealign.gap_report.report_data import Measured, MethodFigures
from fastrealign.gap_report.verdict import verdict_of

# How a figure compares with doing nothing, and its sign in plain text.
BEST, BETTER, WORSE, ALIKE = "best", "better", "worse", ""
SIGNS = {BEST: "*", BETTER: "+", WORSE: "-", ALIKE: " "}
ALL = "all rows"
# Measured on pairs, not on rows of one side.
PAIRED = ("Distance of pairs", "R_res")
Value = float | Estimate | None


@dataclass(frozen=True)
class Cell:
    """A figure: the value as text, its margin ("± 0.6") or "", and how it compares with doing nothing."""

    value: str
    margin: str = ""
    mark: str = ALIKE


@dataclass(frozen=True)
class Row:
    """A row of the table. meaning: what the figure is, in a line; measured: on what; judged: a figure that decides."""

    label: str
    meaning: str
    measured: str
    cells: dict[str, Cell]
    judged: bool = False


def table(report: Measured) -> list[Row]:
    """All rows: first those by which methods are judged, then those that say what the gap is made of."""
    return [_judged(report, of) for of in report.outcomes.values()] + _described(report)


def _judged(report: Measured, of: Outcome) -> Row:
    label, meaning, measured = _text(report, of)
    shown = number if of.name == GAP else percent
    cells = {}
    for name, figure in of.methods.items():
        margin = figure.margin if of.name == GAP else 100 * figure.margin
        mark = {True: BETTER, False: WORSE, None: ALIKE}[of.better(name)]
        mark = ALIKE if of.name == KEPT else BEST if name in of.best else mark
        cells[name] = Cell(shown(figure.value), f"± {_short(margin)}" if figure.margin else "", mark)
    return Row(label, meaning, measured, cells, True)


def _text(report: Measured, of: Outcome) -> tuple[str, str, str]:
    """Label, meaning, and what it was measured on."""
    search, classes = report.search, report.classes
    queries = f"{of.n:,} queries"
    if of.name == ACCURACY and classes:
        return (
            "Classifier",
            "target rows classified right by a logistic regression trained on the source; "
            f"{percent(classes.own)} if trained on the target, {percent(classes.most)} for the most frequent of "
            f"{len(classes.names)} classes; higher is better",
            f"{classes.test:,} target rows, trained on {classes.train:,}",
        )
    if of.name in SEARCH and search:
        if of.name == SEARCH[3]:
            pool = f"{search.pool:,} target and {search.sources:,} source rows in one index"
            return "R@10, one index", f"source rows that find their own target row in the first 10 of {pool}", queries
        k = of.name.partition("@")[2]
        place = "as the first" if k == "1" else f"in the first {k}"
        meaning = f"source rows that find their own target row {place} of {search.pool:,}; higher is better"
        return f"R@{k}", meaning, queries
    if of.name == MIXING:
        full = percent(of.limit or 0.0)
        return (
            "Mixing",
            "share of a row's 20 nearest neighbours on the other side; "
            f"{full} is fully mixed, more around one side counts as missing",
            f"{of.n:,} rows",
        )
    if of.name == KEPT:
        meaning = f"share of a source row's {report.kept_k} nearest source rows that stay so; what a method costs"
        return "Neighbours kept", meaning, f"{of.n:,} rows"
    chance = number(report.means.chance)
    return "Gap", f"distance of the means, 0 to 2; on new rows chance alone makes {chance}; lower is better", ALL


def _described(report: Measured) -> list[Row]:
    target = report.target_spectrum
    slope = f"; target {target.power.alpha:.2f}" if target.power else ""
    spread = float(target.eigenvalues.sum()) ** 0.5
    angles = "how differently the cosines within each side are distributed: Jensen-Shannon divergence, nats; 0 is alike"
    balance = (
        "how evenly the 20 neighbours of a {} row are of both sides: 0 one side alone, 1 as labels at random would be"
    )
    rows: list[tuple[str, str, Callable[[MethodFigures], Value], Callable[[float], str]]] = [
        (
            "Gap / spread",
            "gap over the distance of target rows from their mean (rms)",
            lambda m: m.gap / spread,
            number,
        ),
        (
            "Covariance gap",
            "difference of the covariances over the target's, ‖Σx − Σy‖ / ‖Σx‖; 0 is alike",
            lambda m: m.sigma_gap,
            number,
        ),
        ("Angles", angles, lambda m: m.topology.divergence if m.topology else None, number),
        ("Support balance, source", balance.format("source"), lambda m: m.mixing.balance_y, number),
        ("Support balance, target", balance.format("target"), lambda m: m.mixing.balance_x, number),
        (
            "Cosines kept",
            "correlation of the cosines between source rows with those before",
            lambda m: m.correlation,
            number,
        ),
        (
            "Slope α",
            f"how fast the spectrum falls, as a power law{slope}",
            lambda m: m.spectrum.power.alpha if m.spectrum.power else None,
            "{:.2f}".format,
        ),
        (
            "Effective rank",
            f"how many directions carry the variance; target {target.effective_rank:.0f}",
            lambda m: m.spectrum.effective_rank,
            "{:.0f}".format,
        ),
    ]
    if any(of.pairs for of in report.methods.values()):
        meaning = "mean squared distance of a source row from its own target row, 0 to 4"
        rows.insert(1, ("Distance of pairs", meaning, lambda m: m.pairs.distance if m.pairs else None, number))
        left = "share of that distance that no translation removes"
        rows.insert(2, ("R_res", left, lambda m: m.pairs.parts.r_res if m.pairs else None, number))
    return [_row(report, label, meaning, read, shown) for label, meaning, read, shown in rows]


def _row(
    report: Measured, label: str, meaning: str, read: Callable[[MethodFigures], Value], shown: Callable[[float], str]
) -> Row:
    found = {name: read(of) for name, of in report.methods.items()}
    sampled = [value for value in found.values() if isinstance(value, Estimate)]
    measured = f"{sampled[0].n:,} rows" if sampled else ALL
    if label in PAIRED:
        measured = f"{report.pair_rows:,} pairs"
    return Row(label, meaning, measured, {name: _cell(value, shown) for name, value in found.items()})


def _cell(value: Value, shown: Callable[[float], str]) -> Cell:
    if value is None:
        return Cell("–")
    margin = quantile(1, value.n - 1) * value.error if isinstance(value, Estimate) else 0.0
    return Cell(shown(float(value)), f"± {margin:.1g}" if margin else "")


def _short(margin: float) -> str:
    return f"{margin:.2g}" if margin < 1 else f"{margin:.1f}"


def basis(report: Measured) -> str:
    """What was measured: rows of each side, width, seed."""
    sides = [
        count(side.rows, f"{what} row")
        + (f" of {side.of:,}" if side.of > side.rows else "")
        + (f" ({side.column!r})" if side.column is not None else "")
        for side, what in ((report.source, "source"), (report.target, "target"))
    ]
    fitted = ""
    if len(report.halved) == 1:
        [(side, rows)] = report.halved.items()
        fitted = f", methods fitted on {rows:,} of the {side} rows and measured on the others"
    elif report.halved:
        rows_of = " + ".join(f"{rows:,}" for rows in report.halved.values())
        fitted = f", methods fitted on {rows_of} of them and measured on the others"
    elif report.reused:
        fitted = ", methods fitted on the rows that they are measured on"
    return f"{sides[0]}, {sides[1]}{fitted}, width {report.dim}, seed {report.seed}"


def noise_of(report: Measured) -> list[str]:
    """A line for each method that added noise."""
    return [
        f"{name_of(name)} adds random noise of length {of.noise:.2f} to every row (seed {report.seed})"
        for name, of in report.methods.items()
        if of.noise
    ]


KEY = (
    "compared with doing nothing: + better, * best of those, - worse; no sign: neither better nor worse, as far as these rows "
    "show"
)
MARGINS = "±: 95 % interval, for other rows like these; figures without are exact for these rows"


def as_text(report: Measured) -> str:
    """The verdict, the advice, the table, its metrics in a line each, and the notes as plain text."""
    rows = table(report)
    lines = [["", *(name_of(name) for name in report.methods)]]
    for row in rows:
        cells = [f"{f'{cell.value} {cell.margin}'.strip()} {SIGNS[cell.mark]}" for cell in row.cells.values()]
        lines.append([row.label, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    grid = [
        one[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(one[1:], widths[1:], strict=True))
        for one in lines
    ]
    meanings = [f"  {row.label.ljust(widths[0])}  {row.meaning} ({row.measured})" for row in rows]
    notes = [f"note: {note}" for note in (*noise_of(report), *report.notes)]
    parts = [
        [verdict_of(report), f"Advice: {advice_of(report)}"],
        [*(line.rstrip() for line in grid), KEY, f"{MARGINS}; {basis(report)}"],
        meanings,
        length_lines(report.by_length) if report.by_length else [],
        notes,
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)
