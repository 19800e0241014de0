"""The picture of `fastrealign demo`: both sides in a plane, and the best pictures of some queries. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.cli.demo.measurements import NEIGHBOURS, Measurement
from fastrealign.cli.demo.picture_style import IMAGE, PAPER, TEXT, save
from fastrealign.cli.demo.real_world import RealWorld, thumbnail
from fastrealign.cli.demo.uses import BEST, Best
from fastrealign.core.reference import project
from fastrealign.gap_report.svg import STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

OWN = "#1a7f37"
NAMES = ("Before", "Titles aligned")


def draw(
    path: str | Path,
    test: RealWorld,
    aligned: np.ndarray,
    measured: tuple[Measurement, Measurement],
    found: Sequence[Best],
) -> None:
    """Write a PNG: above, the held-out pairs before and after; below, a row of best pictures a query, before and after."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(h_pad=0.1)
    heights = 3.3, 0.58 * len(found) + 0.6
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, sum(heights)), dpi=200, facecolor=PAPER, layout=layout)
        above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
        planes(above, test, aligned, measured)
        widths = (2.1, *(1,) * BEST, 0.3, *(1,) * BEST)  # the title, pictures before, a space, pictures after
        axes = below.subplots(len(found), len(widths), squeeze=False, width_ratios=widths)
        for axis in axes.flat:
            axis.set_axis_off()
        for row, one in zip(axes, found, strict=True):
            title = textwrap.fill(f"“{test.titles[one.query]}”", 13)
            row[0].text(0, 0.5, title, fontsize=9, va="center", transform=row[0].transAxes)
            for axis, number in zip(np.delete(row[1:], BEST), [*one.before, *one.after], strict=True):
                _picture(axis, number, own=number == one.query)
        heading = f"Best pictures for titles whose own (framed) is among the {BEST} best\nbefore or after"
        below.suptitle(heading, fontsize=10, x=0.01, ha="left")
        for name, axis in zip(("before", "after"), (axes[0, 1], axes[0, 2 + BEST]), strict=True):
            axis.set_title(name, fontsize=10, loc="left")
        save(figure, path, facecolor=PAPER)


def planes(
    figure: Figure | SubFigure, test: RealWorld, aligned: np.ndarray, measured: tuple[Measurement, Measurement]
) -> None:
    """Both panels show the same two axes: along the difference of the means before, and the widest direction across it."""
    text, moved, image = map(project, (test.title, aligned, test.image))
    both = np.concatenate([text, image])
    centre = both.mean(0)
    along = text.mean(0) - image.mean(0)
    along /= np.linalg.norm(along)
    across = both - centre - np.outer((both - centre) @ along, along)
    axes = np.stack([along, np.linalg.svd(across, full_matrices=False)[2][0]])
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, rows, reading, name in zip(panels, (text, moved), measured, NAMES, strict=True):
        for cloud, colour, marker, label in ((image, IMAGE, "o", "pictures"), (rows, TEXT, "D", "titles")):
            at = (cloud - centre) @ axes.T
            panel.scatter(*at.T, s=5, marker=marker, color=colour, alpha=0.45, linewidths=0, label=label)
            panel.scatter(*at.mean(0), s=60, marker=marker, color=colour, edgecolors=PAPER, linewidths=1.5, zorder=3)
        figures = f"{name}: gap {reading.gap:.3f}\nother side among {NEIGHBOURS} nearest: {reading.mixing:.1%}"
        panel.set_title(figures, fontsize=9.5, loc="left")
        panel.set_xlabel("along the gap before")
        panel.set_aspect("equal")
    panels[0].set_ylabel("widest direction across it")
    pairs = f"{len(text):,} held-out pairs"
    panels[1].legend(loc="upper right", markerscale=2.5, title=pairs, alignment="left", handletextpad=0.2)


def _picture(axis: Axes, number: int, own: bool) -> None:
    axis.imshow(np.asarray(thumbnail(number)), interpolation="antialiased")
    if own:
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=OWN, linewidth=2.5, visible=True)
