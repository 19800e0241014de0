"""What a model said of pictures it had never seen, beside the pictures. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from fastrealign.cli.demo.picture import save
from fastrealign.cli.demo.scenes import render, scene
from fastrealign.revision.evaluate import Answer

PICTURES = 6
_RIGHT, _WRONG = "#1a7f37", "#cf222e"


def draw(path: str | Path, answers: Sequence[Answer], family: str) -> None:
    """A PNG of the first PICTURES held-out scenes: the description, and each question with what was answered."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    seen = [a for a in answers if not a.blind]
    shown = list(dict.fromkeys(a.item.id for a in seen))[:PICTURES]
    figure = Figure(figsize=(11, 2.6 * -(-len(shown) // 2)), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-len(shown) // 2), 4, width_ratios=(1, 2, 1, 2), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for i, id in enumerate(shown):
        image, words = axes[i // 2, 2 * (i % 2)], axes[i // 2, 2 * (i % 2) + 1]
        image.imshow(render(scene(int(id), family)))
        image.set_title(f"scene {id}", fontsize=8)
        lines: list[tuple[str, str]] = []
        for a in (a for a in seen if a.item.id == id and a.item.task != "probe"):
            if a.item.task == "caption":
                lines += [(line, "black") for line in textwrap.wrap(f"“{a.given}”", 52)]
                continue
            right = a.given.split()[:1] == [a.item.answer]
            said = f"{a.item.prompt} {a.given}" + ("" if right else f"  ({a.item.answer})")
            lines += [(line, _RIGHT if right else _WRONG) for line in textwrap.wrap(said, 52)]
        for row, (text, colour) in enumerate(lines):
            words.text(0, 0.97 - 0.11 * row, text, color=colour, fontsize=9, va="top", transform=words.transAxes)
    save(figure, path, dpi=130)
