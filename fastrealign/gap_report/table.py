"""The table of methods and metrics: its rows, which methods are best in each, and the table as plain text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fastrealign.core.listing import count
from fastrealign.diagnostics import Estimate
from fastrealign.gap_report.labels import name_of, number, percent
from fastrealign.gap_report.report_data import Measured, MethodFigures
from fastrealign.gap_report.verdict import verdict_of

LEAST, MOST, NEAREST = "lower is better", "higher is better", "closest to the source's own is best"


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    meaning one line that explains the label
    read    the value for a method: a number, an Estimate, or None where these rows have none
    better  LEAST, MOST, NEAREST, or None where no direction is better
    keeps   the metric compares a method's output with its input: "none" is perfect by it and does not compete
    """

    label: str
    meaning: str
    read: Callable[[MethodFigures], float | Estimate | None]
    shown: Callable[[float], str]
    better: str | None
    keeps: bool = False

    def best(self, report: Measured) -> set[str]:
        """The best method, and those within two standard errors of it."""
        rivals = {
            name: read
            for name, of in report.methods.items()
            if (read := self.read(of)) is not None and not (self.keeps and name == "none")
        }
        own = self.read(report.methods["none"]) if "none" in report.methods else None
        if self.better is None or len(rivals) < 2 or (self.better == NEAREST and own is None):
            return set()
        origin = 0.0 if own is None else float(own)
        worse = {
            LEAST: float,
            MOST: lambda read: -float(read),
            NEAREST: lambda read: abs(float(read) - origin),
        }[self.better]
        first = min(rivals, key=lambda name: worse(rivals[name]))
        return {
            name
            for name, read in rivals.items()
            if worse(read) - worse(rivals[first]) <= 2 * float(np.hypot(_error(read), _error(rivals[first])))
        }

    def cell(self, of: MethodFigures) -> tuple[str, str]:
        """The value of a method and its standard error as text: ("35.4 %", "± 0.6"); no error for a value over all rows."""
        read = self.read(of)
        if read is None:
            return "–", ""
        error = _error(read)
        margin = f"± {100 * error if self.shown is percent else error:.1g}" if error else ""
        return self.shown(float(read)), margin


def metrics(report: Measured) -> list[Metric]:
    """The rows of the table."""
    target = report.target_spectrum
    slope = f"; target {target.power.alpha:.2f}" if target.power else ""
    rows = [
        Metric("Gap", "distance between the two means, 0 to 2", lambda m: m.gap, number, LEAST),
        Metric("Covariance gap", "‖Σx − Σy‖ / ‖Σx‖", lambda m: m.sigma_gap, number, LEAST),
        Metric(
            "Angles",
            "Jensen-Shannon divergence from the target's, nats",
            lambda m: m.topology.divergence if m.topology else None,
            number,
            LEAST,
        ),
        Metric("Mixing", "share of 20 neighbours on the other side", lambda m: m.mixing.rate, percent, MOST),
        Metric("Neighbours kept", f"share of the {report.kept_k} before", lambda m: m.kept, percent, MOST, True),
        Metric("Cosines kept", "correlation with those before", lambda m: m.correlation, number, MOST, True),
        Metric(
            "Slope α",
            f"of the spectrum{slope}",
            lambda m: m.spectrum.power.alpha if m.spectrum.power else None,
            "{:.2f}".format,
            NEAREST,
            True,
        ),
        Metric(
            "Effective rank",
            f"directions; target {target.effective_rank:.0f}",
            lambda m: m.spectrum.effective_rank,
            "{:.0f}".format,
            None,
        ),
    ]
    if any(of.pairs for of in report.methods.values()):
        distance = Metric(
            "Distance of pairs", "mean squared, 0 to 4", lambda m: m.pairs.distance if m.pairs else None, number, LEAST
        )
        rows.insert(2, distance)
    return rows


def basis(report: Measured) -> str:
    """What was measured: rows of each side, width, seed."""
    sides = [
        count(side.rows, f"{what} row")
        + (f" of {side.of:,}" if side.of > side.rows else "")
        + (f" ({side.column!r})" if side.column is not None else "")
        for side, what in ((report.source, "source"), (report.target, "target"))
    ]
    return f"{sides[0]}, {sides[1]}, width {report.dim}, seed {report.seed}"


def as_text(report: Measured) -> str:
    """The verdict, the table and the notes as plain text."""
    rows = [["", *(name_of(name) for name in report.methods)]]
    for metric in metrics(report):
        best = metric.best(report)
        cells = [
            " ".join(filter(None, metric.cell(of))) + (" *" if name in best else "  ")
            for name, of in report.methods.items()
        ]
        rows.append([metric.label, *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        row[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    notes = ["", *(f"note: {note}" for note in report.notes)] if report.notes else []
    return "\n".join([verdict_of(report), "", *(line.rstrip() for line in table), f"* best; {basis(report)}", *notes])


def _error(read: float | Estimate) -> float:
    return read.error if isinstance(read, Estimate) else 0.0
