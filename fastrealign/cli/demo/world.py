"""The world of `fastrealign train demo`: all that ReVision is trained and evaluated on, rendered in minutes.

A world is a folder:

    backbone/                              the shipped language model and its tokenizer (models.py)
    pretrain_mixed.json, .parquet          captions to pretrain on, and their text embeddings
    statistics.parquet                     image embeddings to align to
    tuning.json, tuning.parquet            conversations about images, and their image embeddings
    text_tuning.json, text_tuning.parquet  conversations about captions, and the captions' text embeddings
    held_out.jsonl, held_out.parquet       questions about images never seen, and their image embeddings
    world.json                             sizes, seed and family; written last

Embeddings are those of the shipped encoder. No two sets share a scene. The id of a scene is its seed, which determines its set
(`FIRST`).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastrealign.cli.demo import backbone, captions, encoder, models, questions, samples, statements
from fastrealign.cli.demo.scenes import Scene, family_of, render, scene
from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.reference import project
from fastrealign.revision.answers import Item, write_items
from fastrealign.revision.conversations import IMAGE
from fastrealign.storage.atomic import save_bytes
from fastrealign.storage.records import parsed

if TYPE_CHECKING:
    import open_clip

FIRST = {
    name: 100_000_000 * (i + 1)
    for i, name in enumerate(("pretrain", "statistics", "tuning", "text_tuning", "held_out", "corpus"))
}
QUESTIONS = 6  # more in a conversation than one of each kind
_STRIDE = 1_000_000  # between the scenes of two seeds: the largest size of a set

Log = Callable[[str], None]


@dataclass(frozen=True)
class Sizes:
    """Scenes per set."""

    pretrain: int = 8_000
    statistics: int = 4_000
    tuning: int = 4_000
    text_tuning: int = 4_000
    held_out: int = 300


@dataclass(frozen=True)
class World:
    """The folder of a world.

    Parameters
    ----------
    folder
        Where it is, or is to be made.
    sizes
        Of its sets.
    seed
        Of its scenes, 0 to 99.
    family
        Of the scenes in its sets: a key of FAMILIES.

    Raises
    ------
    InputError
        For another family or seed.
    """

    folder: Path
    sizes: Sizes = Sizes()
    seed: int = 0
    family: str = "shapes"

    # Whether relations are asked about, in conversations and of held-out images. No model here learns them.
    relations: ClassVar[bool] = False

    def __post_init__(self) -> None:
        family_of(self.family)
        whole("seed", self.seed, 0, 99)

    @property
    def encoder(self) -> Path:
        """File of the weights of the dual encoder."""
        return models.ENCODER

    @property
    def backbone(self) -> Path:
        """Folder of the language model and its tokenizer."""
        return self.path("backbone")

    def path(self, name: str) -> Path:
        """Of a file or folder of the world."""
        return self.folder / name

    def scenes(self, name: str, number: int | None = None) -> list[Scene]:
        """The scenes of a set of FIRST."""
        first = first_scene(name, self.seed)
        return [scene(s, self.family) for s in range(first, first + (number or getattr(self.sizes, name)))]

    @property
    def done(self) -> bool:
        """Whether it is complete, with these sizes, seed and family."""
        try:
            return parsed(self.path("world.json").read_text()) == self.about()
        except (OSError, ValueError):
            return False

    def about(self) -> dict[str, Any]:
        """Content of world.json."""
        return {"sizes": asdict(self.sizes), "seed": self.seed, "family": self.family}

    def asked(self, s: Scene) -> list[questions.Question]:
        """Questions about a held-out scene."""
        return [q for q in questions.questions(s) if self.relations or q.kind != "relation"]

    def talk(self, s: Scene, caption: captions.Caption | None = None) -> list[questions.Question]:
        """Questions of a conversation about a scene, or about what a caption says of it: one of each kind, which alone would
        teach little of existence and colour, and more."""
        more = questions.many(s, caption or captions.caption(s, "complete"), QUESTIONS, self.seed)
        return [q for q in (*questions.questions(s, caption), *more) if q.kind != "relation"]

    def true_of(self, s: Scene) -> dict[str, list[list[str]]]:
        """Facts that its descriptions are scored by."""
        facts = statements.true_of(s).items()
        return {name: sorted(map(list, of)) for name, of in facts if self.relations or name != "relations"}


def first_scene(name: str, seed: int) -> int:
    """The first scene of a set of FIRST in the world of a seed."""
    return FIRST[name] + seed * _STRIDE


def make(world: World, *, log: Log = print) -> None:
    """Make the missing parts of the world."""
    if world.done:
        log(f"{world.folder}: exists already")
        return
    if world.path("world.json").exists():
        raise InputError(f"{world.folder}: holds a world of other sizes, another seed or family; choose another folder")
    world.folder.mkdir(parents=True, exist_ok=True)
    backbone.save(models.load_backbone(), world.backbone)  # over what an interrupted run left
    model = models.load_encoder(world.encoder)
    log(f"captions of {world.sizes.pretrain:,} scenes to pretrain on, and their embeddings")
    write_pretraining(world, model, None, "pretrain_mixed")
    log(f"pictures of {world.sizes.statistics:,} scenes to align to")
    write_images(world, model, "statistics", "statistics")
    log(f"conversations about {world.sizes.tuning:,} pictures, and about {world.sizes.text_tuning:,} captions")
    write_images(world, model, "tuning", "tuning")
    _write_conversations(
        world.path("tuning.json"),
        [(s, world.talk(s), captions.caption(s, "complete").text) for s in world.scenes("tuning")],
    )
    _write_text_tuning(world, model)
    log(f"questions about {world.sizes.held_out:,} pictures never seen in training")
    write_images(world, model, "held_out", "held_out")
    write_items(world.path("held_out.jsonl"), items(world))
    save_bytes(world.path("world.json"), (json.dumps(world.about(), indent=2) + "\n").encode())


def write_pretraining(world: World, model: open_clip.CLIP, length: str | None, name: str) -> None:
    """NAME.json and .parquet: captions of one length (None: samples.LENGTH_SHARES) of the scenes to pretrain on."""
    scenes = world.scenes("pretrain")
    texts = [samples.sample_caption(s, length).text for s in scenes]
    write_rows(world.path(f"{name}.parquet"), _ids(scenes), encoder.encode_texts(model, texts))
    _write_examples(world.path(f"{name}.json"), scenes, [[("", text)] for text in texts])


def write_images(world: World, model: open_clip.CLIP, scenes: str, name: str) -> None:
    """NAME.parquet: image embeddings of a set of scenes."""
    rendered = [render(s) for s in world.scenes(scenes)]
    write_rows(world.path(f"{name}.parquet"), _ids(world.scenes(scenes)), encoder.encode_images(model, rendered))


def _write_text_tuning(world: World, model: open_clip.CLIP) -> None:
    """Conversations about captions alone: questions are only about what the caption states."""
    scenes = world.scenes("text_tuning")
    texts = [captions.caption(s, ("complete", "long")[i % 2]) for i, s in enumerate(scenes)]
    write_rows(world.path("text_tuning.parquet"), _ids(scenes), encoder.encode_texts(model, [c.text for c in texts]))
    _write_conversations(
        world.path("text_tuning.json"), [(s, world.talk(s, c), c.text) for s, c in zip(scenes, texts, strict=True)]
    )


def items(world: World) -> Iterator[Item]:
    """Of each held-out scene: its description, a question of each kind, and probes."""
    popular = questions.most_seen(world.scenes("tuning"))
    for s in world.scenes("held_out"):
        yield Item(str(s.seed), "caption", "", backbone.DESCRIBE, facts=world.true_of(s))
        for task, asked in (("vqa", world.asked(s)), ("probe", questions.probes(s, popular))):
            for q in asked:
                yield Item(str(s.seed), task, q.kind, q.text, q.answer)


def _ids(scenes: Sequence[Scene]) -> list[str]:
    return [str(s.seed) for s in scenes]


def write_rows(path: Path, ids: Sequence[str], rows: np.ndarray) -> None:
    """Unit rows, float16, with their ids."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = pa.array(project(rows).astype(np.float16).ravel())
    table = pa.table({"id": list(ids), "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    save_bytes(path, buffer.getvalue())


def _write_conversations(path: Path, about: Sequence[tuple[Scene, list[questions.Question], str]]) -> None:
    """Questions and the description of each scene."""
    turns = [[*((q.text, q.answer) for q in asked), (backbone.DESCRIBE, text)] for _, asked, text in about]
    _write_examples(path, [s for s, _, _ in about], turns)


def _write_examples(path: Path, scenes: Sequence[Scene], turns: Sequence[list[tuple[str, str]]]) -> None:
    """The JSON of the reference code."""
    records = []
    for s, spoken in zip(scenes, turns, strict=True):
        messages = []
        for i, (prompt, response) in enumerate(spoken):
            front = f"{IMAGE}\n" if i == 0 and prompt else IMAGE if i == 0 else ""
            messages += [{"from": "human", "value": front + prompt}, {"from": "gpt", "value": response}]
        records.append({"id": str(s.seed), "conversations": messages})
    save_bytes(path, json.dumps(records).encode())
