"""The sentences of a report that state a finding: the verdict, the headline of the page, the title of each figure."""

from __future__ import annotations

import numpy as np

from fastrealign.core.formatting import count, listed, number, percent
from fastrealign.diagnostics.mean_gap import cosine
from fastrealign.gap_report.advice import FAR, MIX, ONLY_NOISE, by_chance, choice, no_method, only_noise, uses
from fastrealign.gap_report.copies import SAME_SIDES
from fastrealign.gap_report.method_style import name_of
from fastrealign.gap_report.outcomes import ACCURACY, GAP, MIXING, SEARCH, Outcome
from fastrealign.gap_report.report_data import Domains, Measured
from fastrealign.gap_report.sides import FEW

# A slope that changes by more than this share is not kept.
KEEPS = 0.1


def verdict_of(report: Measured) -> str:
    """What was found: the gap, then by outcome which methods are better than doing nothing, or that none is."""
    return " ".join(findings(report))


def findings(report: Measured) -> list[str]:
    """The sentences of the verdict."""
    search, classes = report.search, report.classes
    full = percent(report.outcomes[MIXING].limit or 0.0)
    found = {
        MIXING: f"{{}} of a row's 20 nearest neighbours are on the other side ({full} if the sides were fully mixed; more "
        "around one side counts as missing)"
    }
    if classes:
        found[ACCURACY] = (
            "A classifier trained on the source gets {} of the target right "
            f"({percent(classes.own)} if trained on the target)"
        )
    if search:
        # The recall that tells most methods apart.
        rank = max(
            SEARCH[:3], key=lambda name: sum(report.outcomes[name].better(one) is not None for one in report.methods)
        )
        first = "as the first" if rank == SEARCH[0] else f"among the first {rank.partition('@')[2]}"
        found[rank] = f"{{}} of source rows find their own target row {first} of {search.pool:,}"
        found[SEARCH[3]] = "In one index of both sides {} find it among the first 10"
    return [_gap(report), *(_effects(report.outcomes[name], text) for name, text in found.items()), *_few(report)]


def _few(report: Measured) -> list[str]:
    """What few rows mean for the methods that were fitted on them."""
    if len(report.methods) == 1 or not report.few:
        return []
    if report.reused:
        sides = (("the source", report.source.rows), ("the target", report.target.rows))
        few = listed([f"{side} has {count(rows, 'row')}" for side, rows in sides if rows < FEW * report.dim])
        return [
            f"{few[0].upper()}{few[1:]}, few for a width of {report.dim}, and no halves to fit methods on one and "
            "measure on the other; on other rows methods leave a larger gap."
        ]
    rows = listed([f"{rows:,} {side}" for side, rows in report.halved.items()])
    return [f"Methods were fitted on {rows} rows, few for a width of {report.dim}: with more, they may do better."]


def headline(report: Measured) -> str:
    """The gap, and what helps in what."""
    if report.same >= SAME_SIDES:
        return "Both sides hold the same embeddings: there is no gap"
    gap = f"A gap of {number(report.gap_before)}" if report.means.apart else "No gap"
    if len(report.methods) == 1:
        return gap
    helps: dict[str, list[str]] = {}
    of_uses = uses(report)
    for use in of_uses:
        if (method := choice(report, use)) is not None:
            helps.setdefault(method, []).append(use.short)
    if not helps:
        if only_noise(report, of_uses):
            return f"{gap}; {ONLY_NOISE}"
        chance = by_chance(*(report.outcomes[name] for use in of_uses for name in use.outcomes))
        return f"{gap}; {no_method(report, of_uses)} helps {listed([use.short for use in of_uses], 'or')}{chance}"
    return f"{gap}; {listed([f'{name_of(name)} helps {listed(of)}' for name, of in helps.items()])}"


def _gap(report: Measured) -> str:
    if report.same >= SAME_SIDES:
        return f"{percent(report.same)} of the source's rows are in the target, too: there is no gap to close."
    before, chance = number(report.gap_before), number(report.means.chance)
    if not report.means.apart:
        return (
            f"The means of source and target differ by {before}, no more than by chance (about {chance} for so many rows): "
            f"there is no gap to close{_apart_otherwise(report.outcomes[MIXING])}."
        )
    gaps = report.outcomes[GAP]
    text = f"The gap between source and target is {before} ± {number(report.means.margin)}"
    if not gaps.best:
        return f"{text}; no method makes it smaller." if len(report.methods) > 1 else f"{text}."
    most = number(max(gaps.methods[name].value for name in gaps.best))
    if len(gaps.best) == 1:
        return f"{text}; {name_of(gaps.best[0])} leaves {most}."
    return f"{text}; {listed([name_of(name) for name in gaps.best])} leave {most} or less."


def _apart_otherwise(mixing: Outcome) -> str:
    """What equal means leave open: sides that hardly mix are apart, by their spectra or clusters."""
    none = mixing.methods["none"]
    if none.value + none.margin + FAR >= (mixing.limit or 0.0):
        return ""
    return ", but the sides mix less than two parts of one set would: their spectra or clusters differ"


def _effects(of: Outcome, text: str) -> str:
    """The value before alignment, and the methods that change it by more than chance."""
    text = text.format(percent(of.methods["none"].value))
    if len(of.methods) == 1:
        return f"{text}."
    changed: dict[bool, list[str]] = {True: [], False: []}
    for name in sorted(of.methods, key=lambda name: -of.methods[name].change):
        if (better := of.better(name)) is not None:
            changed[better].append(f"{name_of(name)} ({percent(of.methods[name].value)})")
    mixing = of.name == MIXING
    none = f"no method {'mixes them better' if mixing else 'raises that'}{by_chance(of)}"
    more, less = ("better mixed", "worse") if mixing else ("more", "less")
    rise = f"{more} with {listed(changed[True])}" if changed[True] else none
    fall = f"; {less} with {listed(changed[False])}" if changed[False] else ""
    return f"{text}; {rise}{fall}."


def plane_title(report: Measured) -> str:
    """Mixing before, and with the method to take for mixing, if any mixes better."""
    of = report.outcomes[MIXING]
    before = f"Mixing is {percent(of.methods['none'].value)} before alignment"
    if len(of.methods) == 1:
        return before
    method = choice(report, MIX)
    if method is None:
        none = f"{no_method(report, [MIX])} mixes the sides better"
        return f"{before}; {ONLY_NOISE if only_noise(report, [MIX]) else none}"
    return f"{before}, {percent(of.methods[method].value)} with {name_of(method)}"


def spectra_title(report: Measured) -> str:
    """The methods that change the slope least and most; one that changes it by more than KEEPS does not keep it."""
    target = report.target_spectrum.power
    slopes = {name: of.spectrum.power.alpha for name, of in report.methods.items() if of.spectrum.power}
    own = slopes.pop("none", None)
    if own is None or not slopes or target is None:
        return "Spectra and their slopes"
    by_change = sorted(slopes, key=lambda name: abs(slopes[name] - own))
    near, far = by_change[0], by_change[-1]
    if near == far:
        return f"{name_of(near)}: slope of the spectrum {own:.2f} before, {slopes[near]:.2f} after"
    if abs(slopes[near] - own) > KEEPS * abs(own):
        return (
            f"No method keeps the source's slope ({own:.2f}): {name_of(near)} changes it to {slopes[near]:.2f}, "
            f"{name_of(far)} to {slopes[far]:.2f}"
        )
    if abs(slopes[far] - own) <= KEEPS * abs(own):
        after = f"{name_of(near)} {slopes[near]:.2f} after, {name_of(far)} {slopes[far]:.2f}"
        return f"Every method keeps the source's slope ({own:.2f}): {after}"
    kept = f"{name_of(near)} keeps the source's slope ({own:.2f}, {slopes[near]:.2f} after)"
    return f"{kept}; {name_of(far)} changes it to {slopes[far]:.2f}"


def angles_title(report: Measured) -> str:
    """The method whose angles are most like the target's, if a method makes them more alike by more than chance."""
    found = {name: of.topology for name, of in report.methods.items() if of.topology}
    js = {name: of.divergence for name, of in found.items()}
    none = js.pop("none", None)
    if none is None or not js:
        return f"The angles differ from the target's by {number(float(none or 0))} nats"
    near = min(js, key=lambda name: js[name].value)
    before = f"{number(none.value)} nats before alignment"
    if js[near].value + 2 * float(np.hypot(found[near].other_rows, found["none"].other_rows)) >= none.value:
        chance = " by more than chance" if js[near].value < none.value else ""
        return f"No method brings the angles closer to the target's{chance}: {before}"
    return f"{name_of(near)} brings the angles closest to the target's: {number(js[near].value)} nats, {before}"


def parts_title(report: Measured) -> str:
    """The share of bias in the distance of pairs, before and at best."""
    shares = {
        name: (of.pairs.parts.bias_u + of.pairs.parts.bias_v) / of.pairs.parts.total
        for name, of in report.methods.items()
        if of.pairs and of.pairs.parts.total
    }
    if not shares:
        return "Bias and residual in the distance of pairs"
    before = f"Bias is {percent(shares['none'])} of the distance of pairs" if "none" in shares else "Bias vanishes"
    best = min(shares, key=shares.__getitem__)
    after = "" if best == "none" else f" before alignment, {percent(shares[best])} with {name_of(best)}"
    return f"{before}{after}; the rest is residual"


def sizes_title(report: Measured) -> str:
    """The gap left by fits on the smallest sample and on all rows that there are to fit on."""
    first, last = report.sizes[0], report.sizes[-1]
    on, where = fitted_rows(report), " on others" if report.fitted_on else ""
    if len(report.sizes) == 1:
        return f"Fitted on {on}, ReAlign leaves {number(last.gaps[0])}{where}"
    return (
        f"Fitted on {first.rows:,} rows ReAlign leaves {number(float(np.median(first.gaps)))}{where}, "
        f"on {on} {number(last.gaps[0])}"
    )


def fitted_rows(report: Measured) -> str:
    """The rows that the methods were fitted on: "all 800 rows", "30 + 40 rows" of the source and the target."""
    source, target = report.fitted_on or (report.source.rows, report.target.rows)
    rows = f"{source:,} rows" if source == target else f"{source:,} + {target:,} rows"
    return rows if report.fitted_on else f"all {rows}"


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
