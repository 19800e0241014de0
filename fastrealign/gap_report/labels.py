"""How a report writes methods, numbers and lists."""

from __future__ import annotations

from collections.abc import Sequence

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


def name_of(method: str) -> str:
    """The method as the literature writes it."""
    return NAMES.get(method, method)


def number(value: float) -> str:
    """Three significant digits, two below 0.01: "0.460", "0.0091", "9.2e-4"."""
    if value == 0.0:
        return "0"
    if abs(value) >= 0.001:
        return f"{value:#.{3 if abs(value) >= 0.01 else 2}g}".rstrip(".")
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}e{int(power)}"


def percent(value: float) -> str:
    """A share in percent: "20.7 %", "0.32 %"."""
    return f"{100 * value:.1f} %" if value >= 0.01 or value == 0.0 else f"{100 * value:.2f} %"


def listed(parts: Sequence[str]) -> str:
    """The parts as a sentence lists them: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
