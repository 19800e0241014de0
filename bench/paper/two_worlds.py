"""Both worlds of the open questions: the shipped embeddings of rendered scenes, and those of real pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.paper.common import Setting, Sides, shipped
from bench.paper.long_captions import lengths
from fastrealign.cli.demo.samples import SEEDS, sample_scene


@dataclass(frozen=True, eq=False)
class Domain:
    """Rows of one domain, text (n, d) and image (m, d), not paired."""

    name: str
    text: np.ndarray
    image: np.ndarray


def worlds(setting: Setting) -> dict[str, Sides]:
    """Sides to fit on and held-out pairs, by the name of the world."""
    return {"rendered": shipped(250 if setting.quick else None)}


def domains(setting: Setting) -> dict[str, tuple[Domain, Domain]]:
    """Two domains of each world: backgrounds of the rendered scenes, and lengths of their captions."""
    sides = shipped(250 if setting.quick else None)
    scenes = {side: [sample_scene(seed) for seed in SEEDS[side][: len(sides.text)]] for side in ("text", "image")}
    white, black = (
        Domain(
            f"{name} backgrounds",
            sides.text[[of.background == name for of in scenes["text"]]],
            sides.image[[of.background == name for of in scenes["image"]]],
        )
        for name in ("white", "black")
    )
    length = lengths(len(sides.text))
    short, complete = (
        Domain(f"{name} captions", sides.text[length == name], sides.image) for name in ("short", "complete")
    )
    return {"rendered, backgrounds": (white, black), "rendered, captions": (short, complete)}
