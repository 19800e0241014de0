"""The picture of `fastrealign demo`: embeddings before and after the alignment. Needs matplotlib."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.cli.demo.readings import Reading
from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.core.reference import project
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, IMAGE = "#d9661f", "#2f6db5"  # orange and blue: distinguishable with every common form of colour vision
INK, PAPER = "#24292f", "#ffffff"  # opaque, so that it reads on light and dark pages


def draw(
    path: str | Path, text: np.ndarray, aligned: np.ndarray, image: np.ndarray, before: Reading, after: Reading
) -> None:
    """Write a PNG with two panels. Both show the same two axes: the principal components of text and image before."""
    from matplotlib.figure import Figure

    text, aligned, image = map(project, (text, aligned, image))
    both = np.concatenate([text, image])
    centre = both.mean(0)
    _, singular, axes = np.linalg.svd(both - centre, full_matrices=False)
    share = singular**2 / (singular**2).sum()

    figure = Figure(figsize=(9.4, 5.6), dpi=160, facecolor=PAPER, layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    titles = ("As the encoder gives them", "Captions aligned by fastrealign")
    for panel, rows, reading, title in zip(panels, (text, aligned), (before, after), titles, strict=True):
        for cloud, colour, name in ((image, IMAGE, "pictures"), (rows, TEXT, "captions")):
            at = (cloud - centre) @ axes[:2].T
            panel.scatter(*at.T, s=7, color=colour, alpha=0.45, linewidths=0, label=name)
            panel.scatter(*at.mean(0), s=90, color=colour, edgecolors=PAPER, linewidths=1.5, zorder=3)
        panel.set_title(title, color=INK, fontsize=13, loc="left", pad=24)
        figures = f"gap {reading.gap:.3f}     other modality among the 20 nearest: {reading.mixing:.1%}"
        panel.text(0, 1.02, figures, transform=panel.transAxes, color=INK, fontsize=10)
        panel.set_xlabel(f"first principal component ({share[0]:.0%} of the variance before)", color=INK, fontsize=9)
        panel.set_facecolor(PAPER)
        panel.set_aspect("equal")
        panel.tick_params(colors=INK, labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"second ({share[1]:.0%})", color=INK, fontsize=9)
    pairs = f"{len(text):,} held-out pairs"
    panels[0].legend(loc="best", frameon=False, labelcolor=INK, markerscale=2.5, title=pairs, alignment="left")
    save(figure, path, facecolor=PAPER)


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
