"""The demo's world: everything that ReVision is trained and judged on, made from rendered scenes in minutes.

A world is a folder:

    encoder.safetensors                    the dual encoder (demo/encoder.py), trained on scenes of both families
    backbone/                              the language model and its tokenizer (backbone.py)
    pretrain_{LENGTH}.json, .parquet       captions to pretrain on, and their text embeddings
    pretrain_images.parquet                image embeddings of the same scenes: for paired pretraining, which ReVision avoids
    statistics.parquet                     image embeddings to align to
    tuning.json, tuning.parquet            conversations about pictures, and their image embeddings
    text_tuning.json, text_tuning.parquet  conversations about captions, and the captions' text embeddings
    held_out.jsonl, held_out.parquet       what to ask of pictures never seen, and their image embeddings
    world.json                             what it was made with; written last

Sets are of different scenes: a scene's number, which is its id, tells the set (`FIRST`). Only pretrain_images shares
scenes, with the captions it is paired with.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.cli.demo import captions, encoder, questions, samples, statements
from fastrealign.cli.demo.captions import Caption
from fastrealign.cli.demo.scenes import FAMILIES, Scene, render, scene
from fastrealign.core.errors import InputError
from fastrealign.core.reference import project
from fastrealign.revision import backbone
from fastrealign.revision.data import IMAGE
from fastrealign.revision.evaluate import Item, write_items
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.records import parsed

if TYPE_CHECKING:
    import open_clip

FIRST = {
    name: 100_000_000 * (i + 1)
    for i, name in enumerate(("pretrain", "statistics", "tuning", "text_tuning", "held_out", "corpus"))
}
LENGTHS = ("mixed", "short", "long")  # of the captions to pretrain on; mixed: as samples.LENGTH_SHARES says
_STRIDE = 1_000_000  # a world's seed moves all its scenes by so much, so no set can be larger
_SIBLINGS = 4  # scenes that differ in their nouns alone


@dataclass(frozen=True)
class Sizes:
    """Scenes a set, and steps of training."""

    pretrain: int = 8_000
    statistics: int = 4_000
    tuning: int = 4_000
    text_tuning: int = 4_000
    held_out: int = 300
    encoder_steps: int = 400
    sibling_steps: int = 0
    backbone_steps: int = 1_500


@dataclass(frozen=True)
class World:
    """A world's folder.

    seed    of its scenes, 0 to 99, its encoder and its language model
    family  what its sets show
    parts   the folder of another world, whose encoder and language model it shares; None: it has its own
    """

    folder: Path
    sizes: Sizes
    seed: int = 0
    family: str = "shapes"
    parts: Path | None = None

    @property
    def encoder(self) -> Path:
        """File of the dual encoder's weights."""
        return (self.parts or self.folder) / "encoder.safetensors"

    @property
    def backbone(self) -> Path:
        """Folder of the language model and its tokenizer."""
        return (self.parts or self.folder) / "backbone"

    def path(self, name: str) -> Path:
        """Of a file or folder of the world."""
        return self.folder / name

    def scenes(self, name: str, number: int | None = None) -> list[Scene]:
        """The scenes of a set of FIRST."""
        first = FIRST[name] + self.seed * _STRIDE
        return [scene(s, self.family) for s in range(first, first + (number or getattr(self.sizes, name)))]

    @property
    def done(self) -> bool:
        """Whether it was made to the end, with these sizes, this seed and this family."""
        try:
            return parsed(self.path("world.json").read_text()) == self._about()
        except (OSError, ValueError):
            return False

    def _about(self) -> dict[str, Any]:
        return {"sizes": asdict(self.sizes), "seed": self.seed, "family": self.family}


def both_families(seed: int) -> Scene:
    """What encoder and language model are trained on: three scenes of ten are of the second family."""
    return scene(seed, _family_of(seed))


def _family_of(number: int) -> str:
    return "garden" if number % 10 < 3 else "shapes"


def siblings(seed: int) -> Scene:
    """Four scenes in a row with the same layout and colours, whose nouns are drawn anew.

    Among scenes of their own, colours and places tell a picture's caption from the others of a batch: after 1,000 steps the
    encoder knows them without fail, and of the nouns nothing. Among siblings it needs the nouns.
    """
    group = seed // _SIBLINGS
    eldest = scene(_SIBLINGS * group, _family_of(group))
    if seed == eldest.seed:
        return eldest
    nouns = list(FAMILIES[eldest.family].nouns)
    rng = random.Random(f"sib {seed}")
    return replace(eldest, objects=tuple(replace(o, noun=rng.choice(nouns)) for o in eldest.objects))


def make(world: World, *, log: Callable[[str], None] = print) -> None:
    """Make all of it, or what is not there yet of it."""
    if world.family not in FAMILIES:
        raise InputError(f"there is no family of scenes {world.family!r}: choose one of {', '.join(FAMILIES)}")
    if not 0 <= world.seed < 100:
        raise InputError(f"seed={world.seed}: expected 0 to 99, which have scenes of their own")
    if world.done:
        log(f"{world.folder}: is there already")
        return
    if world.path("world.json").exists():
        raise InputError(f"{world.folder}: holds a world of other sizes, another seed or family; choose another folder")
    world.folder.mkdir(parents=True, exist_ok=True)
    model = _encoder(world, log)
    _backbone(world, log)
    for length in LENGTHS:
        _pretrain(world, model, length)
    _write_images(world, model, "pretrain", "pretrain_images")
    _write_images(world, model, "statistics")
    _tuning(world, model)
    _text_tuning(world, model)
    _held_out(world, model)
    save_bytes(world.path("world.json"), (json.dumps(world._about(), indent=2) + "\n").encode())
    log(f"{world.folder}: made")


def _encoder(world: World, log: Callable[[str], None]) -> open_clip.CLIP:
    from safetensors.torch import load_file, save

    from fastrealign.cli.demo import train

    if world.encoder.exists():
        model = encoder.build(world.seed)
        model.load_state_dict(load_file(world.encoder))
        return model

    def said(text: str) -> None:
        log(f"encoder, {text}")

    model = train.train(world.sizes.encoder_steps, world.seed, said, both_families)
    model = train.train(world.sizes.sibling_steps, world.seed, said, siblings, start=model)
    save_bytes(world.encoder, save({name: value.contiguous() for name, value in model.state_dict().items()}))
    return model


def _backbone(world: World, log: Callable[[str], None]) -> None:
    if world.backbone.exists():
        return
    first = FIRST["corpus"] + world.seed * _STRIDE
    model = backbone.train(map(both_families, itertools.count(first)), world.sizes.backbone_steps, world.seed, log)
    backbone.save(model, world.backbone)


def caption_of(scene: Scene, length: str) -> Caption:
    """The caption to pretrain on; length: one of LENGTHS."""
    return samples.sample_caption(scene, None if length == "mixed" else length)


def _pretrain(world: World, model: open_clip.CLIP, length: str) -> None:
    scenes = world.scenes("pretrain")
    texts = [caption_of(s, length).text for s in scenes]
    _write_rows(world.path(f"pretrain_{length}.parquet"), scenes, encoder.encode_texts(model, texts))
    _write_examples(world.path(f"pretrain_{length}.json"), scenes, [[("", text)] for text in texts])


def _tuning(world: World, model: open_clip.CLIP) -> None:
    scenes = _write_images(world, model, "tuning")
    turns = []
    for s in scenes:
        asked = [(q.text, q.answer) for q in questions.questions(s)]
        turns.append([*asked, (backbone.DESCRIBE, captions.caption(s, "complete").text)])
    _write_examples(world.path("tuning.json"), scenes, turns)


def _text_tuning(world: World, model: open_clip.CLIP) -> None:
    """Of a scene nothing is known but its caption: questions are about what that tells."""
    scenes = world.scenes("text_tuning")
    told = [captions.caption(s, ("complete", "long")[i % 2]) for i, s in enumerate(scenes)]
    _write_rows(world.path("text_tuning.parquet"), scenes, encoder.encode_texts(model, [c.text for c in told]))
    turns = []
    for s, caption in zip(scenes, told, strict=True):
        asked = [(q.text, q.answer) for q in questions.questions(s, caption)]
        turns.append([*asked, (backbone.DESCRIBE, caption.text)])
    _write_examples(world.path("text_tuning.json"), scenes, turns)


def _held_out(world: World, model: open_clip.CLIP) -> None:
    scenes = _write_images(world, model, "held_out")
    write_items(world.path("held_out.jsonl"), items(scenes, questions.most_seen(world.scenes("tuning"))))


def items(scenes: Sequence[Scene], popular: Sequence[captions.Thing]) -> Iterator[Item]:
    """What to ask of each scene: a description, a question of each kind, probes."""
    for s in scenes:
        facts = {name: sorted(map(list, facts)) for name, facts in statements.true_of(s).items()}
        yield Item(str(s.seed), "caption", "", backbone.DESCRIBE, facts=facts)
        for task, asked in (("vqa", questions.questions(s)), ("probe", questions.probes(s, popular))):
            for q in asked:
                yield Item(str(s.seed), task, q.kind, q.text, q.answer)


def _write_images(world: World, model: open_clip.CLIP, name: str, file: str | None = None) -> list[Scene]:
    scenes = world.scenes(name)
    _write_rows(
        world.path(f"{file or name}.parquet"), scenes, encoder.encode_images(model, [render(s) for s in scenes])
    )
    return scenes


def _write_rows(path: Path, scenes: Sequence[Scene], rows: np.ndarray) -> None:
    """float16 unit rows with their ids, as `fastrealign align` and the index read them."""
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(project(rows).astype(np.float16).ravel())
    table = pa.table(
        {"id": [str(s.seed) for s in scenes], "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])}
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    save_bytes(path, buffer.getvalue())


def _write_examples(path: Path, scenes: Sequence[Scene], turns: Sequence[list[tuple[str, str]]]) -> None:
    """The reference code's JSON."""
    records = []
    for s, spoken in zip(scenes, turns, strict=True):
        said = []
        for i, (prompt, response) in enumerate(spoken):
            front = f"{IMAGE}\n" if i == 0 and prompt else IMAGE if i == 0 else ""
            said += [{"from": "human", "value": front + prompt}, {"from": "gpt", "value": response}]
        records.append({"id": str(s.seed), "conversations": said})
    save_bytes(path, json.dumps(records).encode())
