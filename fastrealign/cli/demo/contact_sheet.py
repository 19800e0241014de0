"""The picture of `fastrealign demo`: both sides in a plane, and the best pictures of some queries. Needs matplotlib."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.cli.demo.picture import IMAGE, INK, PAPER, TEXT, save
from fastrealign.cli.demo.readings import Reading
from fastrealign.cli.demo.real_world import RealWorld, thumbnail
from fastrealign.cli.demo.uses import BEST, Best
from fastrealign.core.reference import project

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

OWN = "#1a7f37"
NAMES = ("Before", "After ReAlign of the titles")


def draw(
    path: str | Path, test: RealWorld, aligned: np.ndarray, readings: tuple[Reading, Reading], found: Sequence[Best]
) -> None:
    """Write a PNG: above, the held-out pairs before and after; below, a row of best pictures a query, before and after."""
    from matplotlib.figure import Figure

    heights = 4.8, 0.85 * len(found) + 0.5
    figure = Figure(figsize=(9.4, sum(heights)), dpi=160, facecolor=PAPER, layout="constrained")
    above, below = figure.subfigures(2, 1, squeeze=False, height_ratios=heights).flat
    _planes(above, test, aligned, readings)
    widths = (1.6, *(1,) * BEST, 0.4, *(1,) * BEST)  # the title, pictures before, a space, pictures after
    axes = below.subplots(len(found), len(widths), squeeze=False, width_ratios=widths)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, one in zip(axes, found, strict=True):
        title = textwrap.fill(f"“{test.titles[one.query]}”", 16)
        row[0].text(0, 0.5, title, color=INK, fontsize=9, va="center", transform=row[0].transAxes)
        for axis, number in zip(np.delete(row[1:], BEST), [*one.before, *one.after], strict=True):
            _picture(axis, number, own=number == one.query)
    heading = f"Best of all held-out pictures for titles whose own (framed) is among the {BEST} best before or after"
    below.suptitle(heading, color=INK, fontsize=10, x=0.01, ha="left")
    for name, axis in zip(("before", "after"), (axes[0, 1], axes[0, 2 + BEST]), strict=True):
        axis.set_title(name, color=INK, fontsize=10, loc="left")
    save(figure, path, facecolor=PAPER)


def _planes(figure: SubFigure, test: RealWorld, aligned: np.ndarray, readings: tuple[Reading, Reading]) -> None:
    """Both panels show the same two axes: along the difference of the means before, and the widest direction across it."""
    text, moved, image = map(project, (test.title, aligned, test.image))
    both = np.concatenate([text, image])
    centre = both.mean(0)
    along = text.mean(0) - image.mean(0)
    along /= np.linalg.norm(along)
    across = both - centre - np.outer((both - centre) @ along, along)
    axes = np.stack([along, np.linalg.svd(across, full_matrices=False)[2][0]])
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, rows, reading, name in zip(panels, (text, moved), readings, NAMES, strict=True):
        for cloud, colour, label in ((image, IMAGE, "pictures"), (rows, TEXT, "titles")):
            at = (cloud - centre) @ axes.T
            panel.scatter(*at.T, s=7, color=colour, alpha=0.45, linewidths=0, label=label)
            panel.scatter(*at.mean(0), s=90, color=colour, edgecolors=PAPER, linewidths=1.5, zorder=3)
        panel.set_title(name, color=INK, fontsize=13, loc="left", pad=20)
        figures = f"gap {reading.gap:.3f}     other modality among the 20 nearest: {reading.mixing:.1%}"
        panel.text(0, 1.02, figures, transform=panel.transAxes, color=INK, fontsize=10)
        panel.set_xlabel("along the gap before (between the means)", color=INK, fontsize=9)
        panel.set_facecolor(PAPER)
        panel.set_aspect("equal")
        panel.tick_params(colors=INK, labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("widest direction across it", color=INK, fontsize=9)
    pairs = f"{len(text):,} held-out pairs"
    panels[1].legend(loc="best", frameon=False, labelcolor=INK, markerscale=2.5, title=pairs, alignment="left")


def _picture(axis: Axes, number: int, own: bool) -> None:
    axis.imshow(np.asarray(thumbnail(number)), interpolation="antialiased")
    if own:
        axis.set_axis_on()
        axis.set(xticks=[], yticks=[])
        for spine in axis.spines.values():
            spine.set(color=OWN, linewidth=2.5)
