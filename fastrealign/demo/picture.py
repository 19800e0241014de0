"""The demo's picture: both modalities in two dimensions, before and after the alignment. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastrealign.demo.readings import Reading
from fastrealign.reference import project

TEXT, IMAGE = "#d9661f", "#2f6db5"  # orange and blue: told apart with every common colour vision
INK, PAPER = "#24292f", "#ffffff"  # an opaque card of its own, so that it reads on a light and on a dark page


def draw(
    path: str | Path, text: np.ndarray, aligned: np.ndarray, image: np.ndarray, before: Reading, after: Reading
) -> None:
    """Write a PNG with two panels. Both show the same two axes: the principal components of text and image before."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    text, aligned, image = map(project, (text, aligned, image))
    both = np.concatenate([text, image])
    centre = both.mean(0)
    _, singular, axes = np.linalg.svd(both - centre, full_matrices=False)
    share = singular**2 / (singular**2).sum()

    figure = Figure(figsize=(9.4, 5.6), dpi=160, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, rows, reading, title in zip(
        panels,
        (text, aligned),
        (before, after),
        ("As the encoder gives them", "Captions aligned by fastrealign"),
        strict=True,
    ):
        for cloud, colour, name in ((image, IMAGE, "pictures"), (rows, TEXT, "captions")):
            at = (cloud - centre) @ axes[:2].T
            panel.scatter(*at.T, s=7, color=colour, alpha=0.45, linewidths=0, label=name)
            panel.scatter(*at.mean(0), s=90, color=colour, edgecolors=PAPER, linewidths=1.5, zorder=3)
        panel.set_title(title, color=INK, fontsize=13, loc="left", pad=24)
        panel.text(
            0,
            1.02,
            f"gap {reading.gap:.3f}     other modality among the 20 nearest: {reading.mixing:.1%}",
            transform=panel.transAxes,
            color=INK,
            fontsize=10,
        )
        panel.set_xlabel(f"first principal component ({share[0]:.0%} of the variance before)", color=INK, fontsize=9)
        panel.set_facecolor(PAPER)
        panel.set_aspect("equal")
        panel.tick_params(colors=INK, labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"second ({share[1]:.0%})", color=INK, fontsize=9)
    panels[0].legend(
        loc="best",
        frameon=False,
        labelcolor=INK,
        markerscale=2.5,
        title=f"{len(text):,} held-out pairs",
        alignment="left",
    )
    figure.savefig(path, format="png", facecolor=PAPER)
