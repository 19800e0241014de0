"""The name of each method in a report, and the colour and dashes of its lines."""

from __future__ import annotations

from typing import Any

# Of each method: its name, the colour and the dashes of its lines.
_LOOKS: dict[str, tuple[str, str, Any]] = {
    "none": ("none", "#7d8590", (0, (4, 2))),
    "mean-shift": ("mean shift", "#8a6d00", (0, (1, 1))),
    "c3": ("C3", "#b03a83", (0, (5, 1.5, 1, 1.5))),
    "bca": ("blockwise", "#2c8a57", (0, (2, 1))),
    "anchor": ("anchor", "#7a62c9", "-"),
    "anchor-trace": ("anchor + trace", "#0b8494", "-"),
    "realign": ("ReAlign", "#d9661f", "-"),
    "realign-exact": ("ReAlign exact", "#a3341a", (0, (3, 1))),
}
COLOURS = {method: colour for method, (_, colour, _) in _LOOKS.items()}
DASHES = {method: dashes for method, (_, _, dashes) in _LOOKS.items()}


def name_of(method: str) -> str:
    """The method as the literature writes it."""
    return _LOOKS[method][0]
