"""How a report writes and draws methods, and writes numbers and lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Of each method: its name, the colour and the dashes of its lines.
_LOOKS: dict[str, tuple[str, str, Any]] = {
    "none": ("none", "#7d8590", (0, (4, 2))),
    "mean-shift": ("mean shift", "#8a6d00", (0, (1, 1))),
    "c3": ("C3", "#b03a83", (0, (5, 1.5, 1, 1.5))),
    "bca": ("BCA", "#2c8a57", (0, (2, 1))),
    "anchor": ("anchor", "#7a62c9", "-"),
    "anchor-trace": ("anchor + trace", "#0b8494", "-"),
    "realign": ("ReAlign", "#d9661f", "-"),
    "realign-exact": ("ReAlign exact", "#a3341a", (0, (3, 1))),
}
METHOD = {method: colour for method, (_, colour, _) in _LOOKS.items()}
DASHES = {method: dashes for method, (_, _, dashes) in _LOOKS.items()}


def name_of(method: str) -> str:
    """The method as the literature writes it."""
    return _LOOKS[method][0]


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
