"""Names, numbers and findings: what a report says of its figures, in text and on the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from fastrealign.diagnostics import Estimate
from fastrealign.gap_report.result import GapReport, MethodFigures, drift_cosine
from fastrealign.jobs.summary import count

NAMES = {
    "none": "none",
    "mean-shift": "mean shift",
    "c3": "C3",
    "bca": "BCA",
    "anchor": "anchor",
    "anchor-trace": "anchor + trace",
    "realign": "ReAlign",
    "realign-exact": "ReAlign, exact",
}
LEAST, MOST, NEAREST = "lower is better", "higher is better", "nearest the source's own is best"


@dataclass(frozen=True)
class Metric:
    """A row of the table.

    read    the value of a method: a number, an Estimate, or None for what these rows do not have
    better  LEAST, MOST, NEAREST, or None where no direction is better
    keeps   about what a map keeps: "none", which moves nothing, is perfect in it and does not compete
    """

    label: str
    says: str
    read: Callable[[MethodFigures], float | Estimate | None]
    shown: Callable[[float], str]
    better: str | None
    keeps: bool = False

    def best(self, report: GapReport) -> set[str]:
        """The methods that nothing beats by more than two standard errors."""
        rivals = {
            name: read
            for name, of in report.methods.items()
            if (read := self.read(of)) is not None and not (self.keeps and name == "none")
        }
        if self.better is None or len(rivals) < 2:
            return set()
        origin = self.read(report.methods["none"]) if "none" in report.methods else None
        if self.better == NEAREST and origin is None:
            return set()
        worse = {
            LEAST: float,
            MOST: lambda read: -float(read),
            NEAREST: lambda read: abs(float(read) - float(origin)),
        }[self.better]
        first = min(rivals, key=lambda name: worse(rivals[name]))
        return {
            name
            for name, read in rivals.items()
            if worse(read) - worse(rivals[first]) <= 2 * float(np.hypot(error(read), error(rivals[first])))
        }


def metrics(report: GapReport) -> list[Metric]:
    """The table's rows."""
    target = report.target_spectrum
    slope = f"; target {target.power.alpha:.2f}" if target.power else ""
    rows = [
        Metric("Gap", "distance of the two means, 0 to 2", lambda m: m.gap, number, LEAST),
        Metric("Covariance gap", "‖Σx − Σy‖ / ‖Σx‖", lambda m: m.sigma_gap, number, LEAST),
        Metric(
            "Angles",
            "Jensen-Shannon from the target's, nats",
            lambda m: m.topology and m.topology.divergence,
            number,
            LEAST,
        ),
        Metric("Mixing", "of 20 neighbours, of the other side", lambda m: m.mixing.rate, percent, MOST),
        Metric("Neighbours kept", f"of {report.kept_k} before", lambda m: m.kept, percent, MOST, True),
        Metric("Cosines kept", "correlation with before", lambda m: m.correlation, number, MOST, True),
        Metric(
            "Slope α",
            f"of the spectrum{slope}",
            lambda m: m.spectrum.power and m.spectrum.power.alpha,
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
            "Pairs apart",
            "mean squared distance, 0 to 4",
            lambda m: m.pairs and m.pairs.distance,
            number,
            LEAST,
        )
        rows.insert(2, distance)
    return rows


def number(value: float) -> str:
    """ "0.460", "0.0091", "9.2e-4"."""
    if value == 0.0:
        return "0"
    if abs(value) >= 0.001:
        return f"{value:#.{3 if abs(value) >= 0.01 else 2}g}".rstrip(".")
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}e{int(power)}"


def percent(value: float) -> str:
    """ "20.7 %", "0.32 %"."""
    return f"{100 * value:.1f} %" if value >= 0.01 or value == 0.0 else f"{100 * value:.2f} %"


def error(read: float | Estimate) -> float:
    return read.error if isinstance(read, Estimate) else 0.0


def margin(metric: Metric, read: float | Estimate | None) -> str:
    """ " ± 0.004", or nothing for a value over all rows."""
    if not isinstance(read, Estimate) or read.error == 0.0:
        return ""
    return f" ± {100 * read.error if metric.shown is percent else read.error:.1g}"


def name_of(method: str) -> str:
    return NAMES.get(method, method)


def moved(report: GapReport) -> list[str]:
    """The methods that do something, or "none" alone."""
    return [name for name in report.methods if name != "none"] or list(report.methods)


def verdict(report: GapReport) -> str:
    """Two sentences: how far apart the sides are as they come, and what the methods make of it."""
    sides = f"source and target lie {number(report.gap_before)} apart"
    if "none" in report.methods:
        rate = report.methods["none"].mixing.rate.value
        before = (
            f"As they come, {sides}, and {percent(rate)} of a row's 20 nearest neighbours are of the other side "
            f"(well mixed would be {percent(mixed(report))})."
        )
    else:
        before = f"As they come, {sides}."
    names = moved(report)
    if names == ["none"]:
        return f"{before} No method was asked to close this gap."
    of = report.methods
    least = min(names, key=lambda name: of[name].gap)
    mixes = max(names, key=lambda name: of[name].mixing.rate.value)
    keeps = max(names, key=lambda name: of[name].kept.value)
    claims = [
        (least, f"leaves the least gap ({number(of[least].gap)})"),
        (mixes, f"mixes the sides best ({percent(of[mixes].mixing.rate.value)})"),
        (keeps, f"keeps most of the source's neighbourhoods ({percent(of[keeps].kept.value)})"),
    ]
    if len(names) == 1:
        only = of[names[0]]
        return (
            f"{before} {name_of(names[0])} leaves {number(only.gap)}, mixes the sides to "
            f"{percent(only.mixing.rate.value)} and keeps {percent(only.kept.value)} of the source's neighbourhoods."
        )
    by_method = {name: listed([said for who, said in claims if who == name]) for name, _ in claims}
    return f"{before} {'; '.join(f'{name_of(name)} {said}' for name, said in by_method.items())}."


def mixed(report: GapReport) -> float:
    """The mixing rate of two sides that are one cloud: chance alone says of which side a neighbour is."""
    x, y = report.target.rows, report.source.rows
    return 2 * x * y / (x + y) ** 2


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def basis(report: GapReport) -> str:
    """What was looked at."""
    sides = [
        count(side.rows, f"{what} row")
        + (f" of {side.of:,}" if side.of > side.rows else "")
        + (f" ({side.column!r})" if side.column is not None else "")
        for side, what in ((report.source, "source"), (report.target, "target"))
    ]
    return f"{sides[0]}, {sides[1]}, {report.dim} wide, seed {report.seed}"


def summary(report: GapReport) -> str:
    """The verdict, the table and the notes as plain text."""
    rows = [["", *(name_of(name) for name in report.methods)]]
    for metric in metrics(report):
        best = metric.best(report)
        cells = []
        for name, of in report.methods.items():
            read = metric.read(of)
            shown = "–" if read is None else metric.shown(float(read)) + margin(metric, read)
            cells.append(shown + (" *" if name in best else "  "))
        rows.append([metric.label, *cells])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        row[0].ljust(widths[0]) + "".join("  " + cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    notes = ["", *(f"note: {note}" for note in report.notes)] if report.notes else []
    return "\n".join([report.verdict, "", *(line.rstrip() for line in table), f"* best; {basis(report)}", *notes])


def spectra_title(report: GapReport) -> str:
    target = report.target_spectrum.power
    slopes = {name: of.spectrum.power.alpha for name, of in report.methods.items() if of.spectrum.power}
    own, others = slopes.pop("none", None), slopes
    if own is None or not others or target is None:
        return "Spectra and their slopes"
    by_change = sorted(others, key=lambda name: abs(others[name] - own))
    near, far = by_change[0], by_change[-1]
    if len(by_change) == 1:
        return f"{name_of(near)}: slope of the spectrum {own:.2f} before, {others[near]:.2f} after"
    kept = f"{name_of(near)} keeps the source's slope ({own:.2f}, {others[near]:.2f} after)"
    return f"{kept}; {name_of(far)} moves it to {others[far]:.2f}"


def angles_title(report: GapReport) -> str:
    js = {name: of.topology.divergence.value for name, of in report.methods.items() if of.topology}
    near = min([name for name in moved(report) if name in js] or js, key=js.get)
    if near == "none":
        return f"The angles are {number(js[near])} nats from the target's"
    before = f", from {number(js['none'])} before" if "none" in js else ""
    return f"{name_of(near)} brings the angles nearest to the target's: {number(js[near])} nats{before}"


def plane_title(report: GapReport) -> str:
    best = max(moved(report), key=lambda name: report.methods[name].mixing.rate.value)
    rate = percent(report.methods[best].mixing.rate.value)
    if "none" not in report.methods or best == "none":
        return f"{rate} of neighbours are of the other side with {name_of(best)}"
    before = percent(report.methods["none"].mixing.rate.value)
    return f"{before} of neighbours are of the other side before, {rate} with {name_of(best)}"


def parts_title(report: GapReport) -> str:
    shares = {
        name: (of.pairs.parts.bias_u + of.pairs.parts.bias_v) / of.pairs.parts.total
        for name, of in report.methods.items()
        if of.pairs and of.pairs.parts.total
    }
    if not shares:
        return "What the distance of pairs is made of"
    best = min(shares, key=shares.get)
    before = f"is {percent(shares['none'])} of the distance of pairs before" if "none" in shares else "of pairs"
    return f"Bias {before}, {percent(shares[best])} with {name_of(best)}; the rest is residual"


def drift_title(report: GapReport) -> str:
    measured, predicted = (np.linalg.norm(v) for v in (report.drift.measured, report.drift.predicted))
    alike = drift_cosine(report.drift)
    along = "" if alike is None else f" (cosine {alike:.3f})"
    return f"Projection makes the mean drift by {number(measured)}; second order predicts {number(predicted)}{along}"


def sizes_title(report: GapReport) -> str:
    first, *_, last = report.sizes if len(report.sizes) > 1 else report.sizes * 2
    if first is last:
        return f"Fitted on all rows, ReAlign leaves {number(last.gaps[0])}"
    return (
        f"Fitted on {first.rows:,} rows ReAlign leaves {number(np.median(first.gaps))}, "
        f"on all {last.rows:,} rows {number(last.gaps[0])}"
    )


def domains_title(report: GapReport) -> str:
    gaps = report.domains.gaps
    own = np.median(np.diag(gaps))
    other = np.median(gaps[~np.eye(len(gaps), dtype=bool)])
    return f"Statistics of another domain leave {number(other)}, a domain's own {number(own)} (medians)"
