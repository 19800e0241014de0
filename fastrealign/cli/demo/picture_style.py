"""Colours of the demos' pictures, and how they are checked and written. Needs matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.gap_report.method_style import COLOURS
from fastrealign.gap_report.svg import INK, PAPER, TARGET
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["IMAGE", "INK", "PAPER", "TEXT", "check_picture", "save"]

# Orange and blue: distinguishable with every common form of colour vision. Paper is opaque: it reads on light and dark pages.
TEXT, IMAGE = COLOURS["realign"], TARGET


def check_picture(path: str | Path) -> None:
    """Raises InputError if no picture can be drawn to `path`. Call it before long work."""
    optional("matplotlib", "demo", "a picture")
    if Path(path).suffix.lower() != ".png":
        raise InputError(f"{path}: a picture is a PNG, expected a name that ends in .png, such as picture.png")
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder, expected the name of a file such as picture.png")


def save(figure: Figure, path: str | Path, **options: Any) -> None:
    """Write a figure as a PNG, in one step."""
    data = io.BytesIO()
    figure.savefig(data, format="png", **options)
    save_bytes(Path(path), data.getvalue())
