"""Worlds for bench.paper.revision: captions of each length, paired images, another family of scenes, and an encoder and a
language model of their own, of both families.

On top of the files of fastrealign/cli/demo/world.py:

    encoder.safetensors, backbone/             in place of the shipped ones
    pretrain_short.json, .parquet, and _long   captions of one length
    pretrain_images.parquet                    image embeddings of the same scenes, for paired pretraining
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from bench.paper.world import encoder_training, language
from fastrealign.cli.demo import backbone, encoder, models, world
from fastrealign.cli.demo.captions import Caption
from fastrealign.cli.demo.questions import Question, questions
from fastrealign.cli.demo.scenes import FAMILIES, Scene, scene
from fastrealign.storage.atomic import save_bytes

LENGTHS = ("mixed", "short", "long")  # of the captions to pretrain on; mixed: samples.LENGTH_SHARES
_SIBLINGS = 4  # scenes that differ only in their nouns


@dataclass(frozen=True)
class Sizes(world.Sizes):
    """And steps of training. sibling_steps: of the encoder, after encoder_steps."""

    encoder_steps: int = 400
    sibling_steps: int = 0
    backbone_steps: int = 1_500


@dataclass(frozen=True)
class World(world.World):
    """parts: folder of another world, whose encoder and language model this one uses; None: it has its own."""

    sizes: Sizes = Sizes()
    parts: Path | None = None

    relations: ClassVar[bool] = True

    @property
    def encoder(self) -> Path:
        return (self.parts or self.folder) / "encoder.safetensors"

    @property
    def backbone(self) -> Path:
        return (self.parts or self.folder) / "backbone"

    def talk(self, s: Scene, caption: Caption | None = None) -> list[Question]:
        return questions(s, caption)


def family_of(number: int) -> str:
    """Family of a scene that encoder and language model are trained on: three of ten are of the second."""
    return "garden" if number % 10 < 3 else "shapes"


def both_families(seed: int) -> Scene:
    """A scene that encoder and language model are trained on."""
    return scene(seed, family_of(seed))


def siblings(seed: int) -> Scene:
    """Four scenes in a row with the same layout and colours, and newly drawn nouns.

    Among unrelated scenes, colours and places identify the caption of an image within a batch: after 1,000 steps the encoder
    knows these without fail, and nothing of the nouns. Among siblings it needs the nouns.
    """
    group = seed // _SIBLINGS
    eldest = scene(_SIBLINGS * group, family_of(group))
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
    if not of.encoder.exists():
        _train_encoder(of, log)
    if not of.backbone.exists():
        scenes = map(both_families, itertools.count(world.first_scene("corpus", of.seed)))
        backbone.save(language.train(scenes, of.sizes.backbone_steps, of.seed, log), of.backbone)
    model = models.load_encoder(of.encoder)
    for length in LENGTHS[1:]:
        world.write_pretraining(of, model, length, f"pretrain_{length}")
    world.write_images(of, model, "pretrain", "pretrain_images")
    world.make(of, log=log)


def _train_encoder(of: World, log: world.Log) -> None:
    from safetensors.torch import save

    model = encoder.build(of.seed)
    for steps, scenes in ((of.sizes.encoder_steps, both_families), (of.sizes.sibling_steps, siblings)):
        encoder_training.train(model, steps, scenes, lambda text: log(f"encoder, {text}"))
    save_bytes(of.encoder, save({name: value.contiguous() for name, value in model.state_dict().items()}))
