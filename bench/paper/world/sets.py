"""Worlds for bench.paper.revision: captions of each length, paired images, another family of scenes, a better encoder.

On top of the files of fastrealign/cli/demo/world.py:

    pretrain_short.json, .parquet, and _long   captions of one length
    pretrain_images.parquet                    image embeddings of the same scenes, for paired pretraining
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path

from fastrealign.cli.demo import encoder, world
from fastrealign.cli.demo.scenes import FAMILIES, Scene, scene

LENGTHS = ("mixed", "short", "long")  # of the captions to pretrain on; mixed: samples.LENGTH_SHARES
_SIBLINGS = 4  # scenes that differ only in their nouns


@dataclass(frozen=True)
class Sizes(world.Sizes):
    """sibling_steps: of the encoder's training, after encoder_steps."""

    sibling_steps: int = 0


@dataclass(frozen=True)
class World(world.World):
    """parts: folder of another world, whose encoder and language model this one uses; None: it has its own."""

    sizes: Sizes = Sizes()
    parts: Path | None = None

    @property
    def encoder(self) -> Path:
        return (self.parts or self.folder) / "encoder.safetensors"

    @property
    def backbone(self) -> Path:
        return (self.parts or self.folder) / "backbone"


def siblings(seed: int) -> Scene:
    """Four scenes in a row with the same layout and colours, and newly drawn nouns.

    Among unrelated scenes, colours and places identify the caption of an image within a batch: after 1,000 steps the encoder
    knows these without fail, and nothing of the nouns. Among siblings it needs the nouns.
    """
    group = seed // _SIBLINGS
    eldest = scene(_SIBLINGS * group, world.family_of(group))
    if seed == eldest.seed:
        return eldest
    nouns = list(FAMILIES[eldest.family].nouns)
    rng = random.Random(f"sib {seed}")
    return replace(eldest, objects=tuple(replace(o, noun=rng.choice(nouns)) for o in eldest.objects))


def make(of: World, *, log: world.Log = print) -> None:
    """Make what the world lacks."""
    if of.done or of.path("world.json").exists():
        world.make(of, log=log)
        return
    of.folder.mkdir(parents=True, exist_ok=True)
    if of.encoder.exists():
        model = world.load_encoder(of)
    else:
        model = encoder.build(of.seed)
        for steps, scenes in ((of.sizes.encoder_steps, world.both_families), (of.sizes.sibling_steps, siblings)):
            encoder.train(model, steps, scenes, lambda text: log(f"encoder, {text}"))
        world.save_encoder(of, model)
    for length in LENGTHS[1:]:
        world.write_pretraining(of, model, length, f"pretrain_{length}")
    world.write_images(of, model, "pretrain", "pretrain_images")
    world.make(of, log=log)
