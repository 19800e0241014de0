"""Colours of the demos' pictures, and how they are written. Needs matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastrealign.gap_report.method_style import COLOURS
from fastrealign.gap_report.svg import INK, PAPER, TARGET
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["IMAGE", "INK", "PAPER", "TEXT", "save"]

# Orange and blue: distinguishable with every common form of colour vision. Paper is opaque: it reads on light and dark pages.
TEXT, IMAGE = COLOURS["realign"], TARGET


def save(figure: Figure, path: str | Path, **options: Any) -> None:
    """Write a figure as a PNG, in one step."""
    data = io.BytesIO()
    figure.savefig(data, format="png", **options)
    save_bytes(Path(path), data.getvalue())
