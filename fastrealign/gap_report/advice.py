"""One sentence of advice: for each use that was measured the method to take, with the reason and the cost, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastrealign.core.formatting import listed, percent
from fastrealign.gap_report.copies import SAME_SIDES
from fastrealign.gap_report.method_style import name_of
from fastrealign.gap_report.outcomes import ACCURACY, KEPT, MIXING, SEARCH, Outcome
from fastrealign.gap_report.report_data import Measured

# A method is named beside the one advised if it keeps this much more of the neighbours; less than ALIKE decides nothing.
MORE_KEPT, ALIKE = 0.05, 0.01
# Sides are about as well mixed with a method that makes this share of the best one's change.
NEAR = 0.9
# A difference of shares this large is mentioned: a rise, even where these rows do not distinguish it from chance.
FAR = 0.05


@dataclass(frozen=True)
class Use:
    """What embeddings are used for, and the outcomes that measure it."""

    name: str
    short: str
    outcomes: tuple[str, ...]


USES = (
    Use("a classifier trained on the source and run on the target", "a classifier", (ACCURACY,)),
    Use("search from the source for the target", "search", SEARCH[:3]),
    Use("search in one index of both sides", "one index of both", SEARCH[3:]),
)
MIX = Use("mixing the sides", "mix the sides", (MIXING,))
ONLY_NOISE = "only methods that add noise were compared"
OUTCOMES = {
    ACCURACY: "accuracy",
    **dict(zip(SEARCH, ("R@1", "R@5", "R@10", "R@10"), strict=True)),
    MIXING: "mixing",
}


def advice_of(report: Measured) -> str:
    """One sentence: what to do, why, and what it costs."""
    chosen = {use: choice(report, use) for use in uses(report)}
    unmoved = [use.name for use, method in chosen.items() if method is None]
    idle = listed(unmoved) if unmoved else ""
    parts = []
    for method in dict.fromkeys(filter(None, chosen.values())):
        of = [use for use, one in chosen.items() if one == method]
        reasons = listed([_reason(report, use, method) for use in of])
        parts.append(
            f"use {name_of(method)} for {listed([use.name for use in of])}: {reasons}; {_cost(report, method)}"
            f"{_others(report, of, method)}"
        )
    if parts and idle:
        chance = by_chance(
            *(report.outcomes[name] for use, one in chosen.items() if one is None for name in use.outcomes)
        )
        parts.append(f"leave the source as it is for {idle}, where no method is better than doing nothing{chance}")
    elif not parts:
        parts.append(f"leave the source as it is: {_idle(report, idle)}")
    text = "; ".join(parts)
    if report.few:
        text += "; this was found with few rows, so look again with more"
    if report.swapped:
        return f"Swap the sides first, text is the source; as they are, {text}."
    return f"{text[0].upper()}{text[1:]}."


def uses(report: Measured) -> list[Use]:
    """The uses that were measured; mixing stands for them where none was."""
    return [use for use in USES if use.outcomes[0] in report.outcomes] or [MIX]


def by_chance(*of: Outcome) -> str:
    """What "no method is better" needs to be true: " by more than chance" where the value of one is far higher.

    At the limit of an outcome no other value is a gain, so there it is not a matter of chance.
    """
    rises = [one.methods[name].change for one in of if not one.full for name in one.methods if one.better(name) is None]
    return " by more than chance" if max(rises, default=0.0) >= FAR else ""


def choice(report: Measured, use: Use) -> str | None:
    """The method for a use: better than doing nothing by one of its outcomes, worse by none, and not behind the best.

    Mixing stands for uses that were not measured, so there a method that mixes about as well as the best counts, too.
    Of several the one that keeps most neighbours, and of those alike in that the first in the order of the report.
    """
    first = _deciding(report, use)
    if first is None:
        return None
    kept = report.outcomes[KEPT].methods
    good = first.best if use is not MIX else _about_best(first)
    most = max(kept[method].value for method in good)
    return next(method for method in good if kept[method].value >= most - ALIKE)


def _about_best(of: Outcome) -> tuple[str, ...]:
    """The best methods, and those that are about as near to the limit."""
    least = NEAR * max(of.methods[name].change for name in of.best)
    return tuple(
        name for name, one in of.methods.items() if name in of.best or (of.better(name) and one.change >= least)
    )


def _deciding(report: Measured, use: Use) -> Outcome | None:
    """The first of the outcomes of a use in which a method is better; without methods that are worse in another."""
    of = [report.outcomes[name] for name in use.outcomes] if use is not MIX else [_mixed_without_noise(report)]
    for one in of:
        best = tuple(method for method in one.best if all(other.better(method) is not False for other in of))
        if best:
            return replace(one, best=best)
    return None


def _mixed_without_noise(report: Measured) -> Outcome:
    """Mixing by methods that add no noise: enough of it mixes any sides, and says nothing of what they are used for."""
    of = report.outcomes[MIXING]
    methods = {name: one for name, one in of.methods.items() if not report.methods[name].noise}
    best = tuple(name for name in of.best if name in methods)
    better = [name for name in methods if of.better(name)]
    if better and not best:
        best = (max(better, key=lambda name: methods[name].change),)
    return replace(of, methods=methods, best=best)


def only_noise(report: Measured, of: list[Use]) -> bool:
    """Whether all methods that were compared for these uses add noise, and mixing is all that they were compared in."""
    return of == [MIX] and all(one.noise for name, one in report.methods.items() if name != "none")


def no_method(report: Measured, of: list[Use]) -> str:
    """What of methods helps none of these uses: of mixing alone, those without noise, where one that adds noise helps."""
    mixing = report.outcomes[MIXING]
    noisy = of == [MIX] and any(mixing.better(name) for name, one in report.methods.items() if one.noise)
    return "no method without noise" if noisy else "no method"


def _reason(report: Measured, use: Use, method: str) -> str:
    of = _deciding(report, use)
    assert of is not None
    before, after = (percent(of.methods[name].value) for name in ("none", method))
    full = "" if of.limit is None else f" ({percent(of.limit)} is fully mixed)"
    return f"{OUTCOMES[of.name]} rises from {before} to {after}{full}"


def _cost(report: Measured, method: str) -> str:
    lost = 1 - report.outcomes[KEPT].methods[method].value
    costs = [f"it costs {percent(lost)} of the neighbours within the source"]
    if method == "bca":
        costs.append("a product with a matrix for every row")
    if report.methods[method].noise:
        costs.append("random noise in every row")
    return listed(costs)


def _others(report: Measured, of: list[Use], method: str) -> str:
    """What other methods reach and cost: the best, if this one is about as good, and one that keeps far more neighbours."""
    decided = _deciding(report, of[0])
    assert decided is not None
    others = [] if method in decided.best else [_highest(decided, decided.best)]
    if helps := [name for name in _kinder(report, of, method) if name in decided.methods]:
        others.append(_highest(decided, helps))
    if not others:
        return ""
    kept = report.outcomes[KEPT].methods
    reached = [
        f"{name_of(name)} reaches {percent(decided.methods[name].value)} and costs {percent(1 - kept[name].value)}"
        for name in others
    ]
    return f", where {listed(reached)}"


def _highest(of: Outcome, names: Sequence[str]) -> str:
    return max(names, key=lambda name: of.methods[name].change)


def _kinder(report: Measured, of: list[Use], method: str) -> list[str]:
    """Other methods that help, too, and keep far more of the neighbours."""
    kept = report.outcomes[KEPT].methods
    return [
        name
        for name in report.methods
        if kept[name].value > kept[method].value + MORE_KEPT
        and all(
            any(report.outcomes[one].better(name) for one in use.outcomes)
            and all(report.outcomes[one].better(name) is not False for one in use.outcomes)
            for use in of
        )
    ]


def _idle(report: Measured, idle: str) -> str:
    if report.same >= SAME_SIDES:
        return "both sides hold the same embeddings"
    if len(report.methods) == 1:
        return "no method was asked to close the gap"
    of = uses(report)
    if only_noise(report, of):
        return f"{ONLY_NOISE}, and noise mixes any sides; compare others, such as realign"
    chance = by_chance(*(report.outcomes[name] for use in of for name in use.outcomes))
    none = f"{no_method(report, of)} is better than doing nothing{chance} for {idle}"
    return none if report.means.apart else f"there is no gap to close, and {none}"
