"""Models for bench.paper.revision: by method, amount and length of captions, amount of conversations, and statistics."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.paper.world.sets import World
from fastrealign.cli.demo import statements
from fastrealign.cli.demo.train import COMMON, STAGE_1, STAGE_2, TUNINGS, fitted, rows_of, timed, train_stages
from fastrealign.core.errors import InputError
from fastrealign.methods.fit_options import check_method
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.evaluate import score
from fastrealign.storage.atomic import save_bytes

# Of the figures in docs/paper.md; `train demo`, whose models come trained, takes more epochs.
FIRST, SECOND = {**STAGE_1, "epochs": 2.0}, {**STAGE_2, "epochs": 1.0}
PAIRED = "paired"  # not a method of alignment: pretraining on the images of the captions' own scenes


@dataclass(frozen=True)
class Recipe:
    """One model to train in a world.

    method     of baselines.METHODS: how text stands in for images; or PAIRED
    tuning     of stage 2: "image", on real images; "text", on text in place of them; None: stage 1 alone
    length     of the captions to pretrain on (sets.LENGTHS); None: no stage 1
    seed       of the adapter's initial weights and of the order of the examples
    captions, conversations   shares of the sets that are used, above 0 to 1
    statistics  another world, to whose images the alignment is fitted
    """

    method: str = "realign"
    tuning: str | None = "image"
    length: str | None = "mixed"
    seed: int = 0
    captions: float = 1.0
    conversations: float = 1.0
    statistics: World | None = None

    def __post_init__(self) -> None:
        if self.method != PAIRED:
            check_method(self.method)
        if self.tuning not in (*TUNINGS, None):
            raise InputError(f"tuning={self.tuning!r}: expected one of {', '.join(TUNINGS)}")

    @property
    def name(self) -> str:
        """Of its stage 1; without one, of its initial weights."""
        of = "" if self.statistics is None else f"-of-{self.statistics.family}"
        return f"{self.method}{of}-{self.length or 'none'}-{self.captions:g}-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "statistics"}


def train_recipe(world: World, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Align, train and evaluate one recipe in `folder`, which recipes share: what one has done another does not do again."""
    folder.mkdir(parents=True, exist_ok=True)
    seconds: dict[str, float] = {}
    with timed(seconds, "fit"):
        texts = f"pretrain_{recipe.length or 'mixed'}"
        of = recipe.statistics or world
        alignment = None if recipe.method == PAIRED else fitted(recipe.method, of, texts, folder)
    stages = _stages(world, recipe, folder, alignment)
    answers = train_stages(stages, world, seconds)
    return {
        "recipe": recipe.to_json(),
        "scores": score(answers, statements.said),
        "seconds": seconds,
        "out": Path(stages[-1].out).name,
    }


def _stages(world: World, recipe: Recipe, folder: Path, alignment: str | None) -> list[TrainConfig]:
    stages = []
    if recipe.length is not None:
        rows = rows_of(world, f"pretrain_{recipe.length}")
        if recipe.method == PAIRED:
            rows["embeddings"] = str(world.path("pretrain_images.parquet"))
        rows["data"] = _part(rows["data"], recipe.captions, folder)
        out = str(folder / f"stage1-{recipe.name}")
        stages.append(TrainConfig(**COMMON, **FIRST, **rows, alignment=alignment, seed=recipe.seed, out=out))
    if recipe.tuning is not None:
        rows = rows_of(world, "tuning" if recipe.tuning == "image" else "text_tuning")
        rows["data"] = _part(rows["data"], recipe.conversations, folder)
        second = TrainConfig(
            **COMMON,
            **SECOND,
            **rows,
            alignment=alignment if recipe.tuning == "text" else None,
            adapter=stages[-1].out if stages else None,
            seed=recipe.seed,
            out=str(folder / f"stage2-{recipe.tuning}-{recipe.conversations:g}-{recipe.name}"),
        )
        stages.append(second)
    return stages


def _part(path: str, share: float, folder: Path) -> str:
    """The first records of a file, in a file of their own."""
    if share == 1.0:
        return path
    part = folder / f"{Path(path).stem}-{share:g}.json"
    if not part.exists():
        records = json.loads(Path(path).read_text())
        save_bytes(part, json.dumps(records[: max(1, round(share * len(records)))]).encode())
    return str(part)
