"""The sentences of a report that state a finding: the verdict, the headline of the page, the title of each figure."""

from __future__ import annotations

import numpy as np

from fastrealign.diagnostics.mean_gap import cosine
from fastrealign.gap_report.labels import listed, name_of, number, percent
from fastrealign.gap_report.report_data import Domains, Measured


def verdict_of(report: Measured) -> str:
    """Two sentences: the gap before alignment, and what the methods do to it."""
    before = f"Before alignment, the gap between source and target is {number(report.gap_before)}"
    if "none" in report.methods:
        rate = percent(report.methods["none"].mixing.rate.value)
        before += (
            f", and {rate} of a row's 20 nearest neighbours are on the other side "
            f"({percent(_mixed(report))} if the sides were fully mixed)"
        )
    names, of = _moving(report), report.methods
    if names == ["none"]:
        return f"{before}. No method was asked to close this gap."
    least = min(names, key=lambda name: of[name].gap)
    mixes = max(names, key=lambda name: of[name].mixing.rate.value)
    keeps = max(names, key=lambda name: of[name].kept.value)
    if len(names) == 1:
        only = of[least]
        return (
            f"{before}. {name_of(least)} leaves {number(only.gap)}, mixes the sides to "
            f"{percent(only.mixing.rate.value)} and keeps {percent(only.kept.value)} of the source's neighbours."
        )
    claims = [
        (least, f"leaves the smallest gap ({number(of[least].gap)})"),
        (mixes, f"mixes the sides best ({percent(of[mixes].mixing.rate.value)})"),
        (keeps, f"preserves neighbourhoods best ({percent(of[keeps].kept.value)})"),
    ]
    by_method = {name: listed([text for who, text in claims if who == name]) for name, _ in claims}
    return f"{before}. {'; '.join(f'{name_of(name)} {text}' for name, text in by_method.items())}."


def headline(report: Measured) -> str:
    """The gap before alignment, and the smallest that a method leaves."""
    names = _moving(report)
    before = f"A gap of {number(report.gap_before)}"
    if names == ["none"]:
        return before
    least = min(names, key=lambda name: report.methods[name].gap)
    return f"{before}; {name_of(least)} leaves {number(report.methods[least].gap)}"


def plane_title(report: Measured) -> str:
    """Mixing before, and of the method that mixes best."""
    rates = {name: report.methods[name].mixing.rate.value for name in report.methods}
    best = max(_moving(report), key=rates.__getitem__)
    if "none" not in rates or best == "none":
        return f"{percent(rates[best])} of neighbours are on the other side with {name_of(best)}"
    return f"{percent(rates['none'])} of neighbours are on the other side before, {percent(rates[best])} with {name_of(best)}"


def spectra_title(report: Measured) -> str:
    """The methods that change the slope least and most."""
    target = report.target_spectrum.power
    slopes = {name: of.spectrum.power.alpha for name, of in report.methods.items() if of.spectrum.power}
    own = slopes.pop("none", None)
    if own is None or not slopes or target is None:
        return "Spectra and their slopes"
    by_change = sorted(slopes, key=lambda name: abs(slopes[name] - own))
    near, far = by_change[0], by_change[-1]
    if near == far:
        return f"{name_of(near)}: slope of the spectrum {own:.2f} before, {slopes[near]:.2f} after"
    kept = f"{name_of(near)} keeps the source's slope ({own:.2f}, {slopes[near]:.2f} after)"
    return f"{kept}; {name_of(far)} changes it to {slopes[far]:.2f}"


def angles_title(report: Measured) -> str:
    """The method whose angles are most like the target's."""
    js = {name: of.topology.divergence.value for name, of in report.methods.items() if of.topology}
    near = min([name for name in _moving(report) if name in js] or js, key=js.__getitem__)
    if near == "none":
        return f"The angles differ from the target's by {number(js[near])} nats"
    before = f", from {number(js['none'])} before" if "none" in js else ""
    return f"{name_of(near)} brings the angles closest to the target's: {number(js[near])} nats{before}"


def parts_title(report: Measured) -> str:
    """The share of bias in the distance of pairs, before and at best."""
    shares = {
        name: (of.pairs.parts.bias_u + of.pairs.parts.bias_v) / of.pairs.parts.total
        for name, of in report.methods.items()
        if of.pairs and of.pairs.parts.total
    }
    if not shares:
        return "Bias and residual in the distance of pairs"
    best = min(shares, key=shares.__getitem__)
    before = f"{percent(shares['none'])} of the distance of pairs before, " if "none" in shares else ""
    of = "" if before else " of the distance of pairs"
    return f"Bias is {before}{percent(shares[best])}{of} with {name_of(best)}; the rest is residual"


def sizes_title(report: Measured) -> str:
    """The gap left by fits on the smallest sample and on all rows."""
    *_, last = report.sizes
    if len(report.sizes) == 1:
        return f"Fitted on all rows, ReAlign leaves {number(last.gaps[0])}"
    first = report.sizes[0]
    return (
        f"Fitted on {first.rows:,} rows ReAlign leaves {number(float(np.median(first.gaps)))}, "
        f"on all {last.rows:,} rows {number(last.gaps[0])}"
    )


def drift_title(measured: np.ndarray, predicted: np.ndarray) -> str:
    """The length of the drift, measured and predicted."""
    is_, should = (number(float(np.linalg.norm(v))) for v in (measured, predicted))
    alike = cosine(measured, predicted)
    along = "" if alike is None else f" (cosine {alike:.3f})"
    return f"Projection shifts the mean by {is_}; the second order predicts {should}{along}"


def domains_title(domains: Domains) -> str:
    """The gap left by statistics of another domain, and by a domain's own."""
    own = float(np.median(np.diag(domains.gaps)))
    other = float(np.median(domains.gaps[~np.eye(len(domains.gaps), dtype=bool)]))
    return f"Statistics of another domain leave {number(other)}, a domain's own {number(own)} (medians)"


def _moving(report: Measured) -> list[str]:
    """The methods that move rows, or "none" alone."""
    return [name for name in report.methods if name != "none"] or list(report.methods)


def _mixed(report: Measured) -> float:
    """The mixing rate if the sides were one cloud, in which a neighbour's side is left to chance."""
    x, y = report.target.rows, report.source.rows
    return 2 * x * y / (x + y) ** 2
