"""`fastrealign train demo`: a world made, a language model that learns from text to see, and what it says of real pictures."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastrealign.cli.demo import questions, statements
from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.methods.baselines import check_method, fit_baseline
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.evaluate import Answer, Item, Scores, ask, read_answers, read_items, score, write_answers
from fastrealign.revision.world import Sizes, World, make
from fastrealign.storage.atomic import save_bytes

TUNINGS = ("image", "text")
PAIRED = "paired"  # not a method of alignment: pretraining on the images of the captions' own scenes
TOKENS = 12  # a scene takes about as many words; with fewer a description named less of what is there
NEVER = 1_000_000  # steps between checkpoints: a stage takes a minute
# A small network and a corpus of thousands: larger steps than the paper's 5e-4 and 1e-5, and stage 1 twice over its captions.
STAGE_1 = {"learning_rate": 3e-3, "epochs": 2.0, "batch_size": 32}
STAGE_2 = {"learning_rate": 1e-3, "epochs": 1.0, "batch_size": 32}


@dataclass(frozen=True)
class Recipe:
    """One model to train in a world.

    method     of baselines.METHODS, by which text stands in for images; or PAIRED
    tuning     of stage 2: "image", real images; "text", texts that stand in for images again; None: stage 1 alone
    length     of the captions to pretrain on (world.LENGTHS); None: no stage 1
    seed       of the adapter's first weights and of the order of the examples
    captions, conversations   parts of the sets that are used, above 0 to 1
    statistics  another world, of which the alignment is fitted
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
        """Of its stage 1; without one, of its first weights."""
        of = "" if self.statistics is None else f"-of-{self.statistics.family}"
        return f"{self.method}{of}-{self.length or 'none'}-{self.captions:g}-{self.seed}"


@dataclass(frozen=True)
class DemoResult:
    """scores: see evaluate.score; seconds by part; out: the model's folder; picture: where it was drawn, if asked for."""

    recipe: Recipe
    scores: Scores
    seconds: dict[str, float]
    out: str
    picture: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        recipe = {k: v for k, v in asdict(self.recipe).items() if k != "statistics"}
        return {"recipe": recipe, "scores": self.scores, "seconds": self.seconds, "out": self.out}

    def summary(self) -> str:
        """What a person wants to read, some twenty lines."""
        kinds = {
            **{f"caption/{name}/f1": f"captions, {name}: F1" for name in statements.ATTRIBUTES},
            **{f"vqa/{kind}": f"questions, {kind}: accuracy" for kind in questions.KINDS},
            **{f"probe/{kind}": f"yes or no, {kind} absence: accuracy" for kind in questions.PROBES},
        }
        shown = {name: text for name, text in kinds.items() if name in self.scores}
        rows = [
            f"{text:44}{self.scores[name]:>9.3f}{self.scores[f'blind/{name}']:>9.3f}" for name, text in shown.items()
        ]
        means = "real images" if self.recipe.tuning == "image" else "text alone"
        took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return "\n".join(
            [
                f"Pretrained on text by {self.recipe.method}, tuned on {means} ({took}).",
                "",
                f"{'On pictures never seen':44}{'':>9}{'blind':>9}",
                *rows,
                "",
                f"{self.out}: the model, and its answers in answers.jsonl",
                *([f"{self.picture}: what it said of some pictures"] if self.picture else []),
            ]
        )


def run_demo(
    folder: str | Path,
    *,
    method: str = "realign",
    tuning: str = "image",
    seed: int = 0,
    sizes: Sizes | None = None,
    picture: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Progress = SILENT,
    watch: Callable[[str], Any] | None = None,
) -> DemoResult:
    """Make a world in `folder`, train in it and judge; what is there is not done again.

    watch   gives a stage a callback of transformers, which shows how it goes
    """
    if picture is not None:
        from fastrealign.cli.demo.picture import check_picture

        check_picture(picture)
    recipe = Recipe(method, tuning, seed=seed)
    world = World(Path(folder) / "world", sizes or Sizes(), seed)
    make(world, log=log)
    found = train_recipe(world, recipe, Path(folder) / "trained", progress=progress, watch=watch)
    if picture is None:
        return found
    from fastrealign.revision.picture import draw

    draw(picture, read_answers(Path(found.out) / "answers.jsonl"), world.family)
    return replace(found, picture=str(picture))


def train_recipe(
    world: World,
    recipe: Recipe,
    folder: Path,
    *,
    progress: Progress = SILENT,
    watch: Callable[[str], Any] | None = None,
) -> DemoResult:
    """Align, train and judge one recipe in `folder`, which recipes share: what one has done another does not do again.

    Text goes through the alignment on its way into a batch; real images, in stage 2 and in evaluation, stay as they are.
    """
    from fastrealign.revision.train import train

    seconds: dict[str, float] = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = work()
        seconds[name] = round(time.perf_counter() - started, 2)
        return done

    folder.mkdir(parents=True, exist_ok=True)
    alignment = timed("fit", lambda: _alignment(world, recipe, folder))
    stages = _stages(world, recipe, folder, alignment)
    for config in stages:
        callbacks = [watch(config.stage)] if watch else []
        timed(config.stage, partial(train, config, resume=Path(config.out).exists(), callbacks=callbacks))
    answers = timed("evaluate", lambda: judge(world, Path(stages[-1].out), stages[-1].stage, progress))
    write_answers(Path(stages[-1].out) / "answers.jsonl", answers)
    return DemoResult(recipe, score(answers), seconds, stages[-1].out)


def _stages(world: World, recipe: Recipe, folder: Path, alignment: str | None) -> list[TrainConfig]:
    common = {"model": str(world.backbone), "tokens": TOKENS, "seed": recipe.seed, "save_steps": NEVER}
    name = recipe.name
    stages = []
    if recipe.length is not None:
        file = f"pretrain_{recipe.length}"
        rows = "pretrain_images" if recipe.method == PAIRED else file
        first = TrainConfig(
            **common,
            **STAGE_1,
            stage="stage1",
            data=_part(world.path(f"{file}.json"), recipe.captions, folder),
            embeddings=str(world.path(f"{rows}.parquet")),
            alignment=alignment,
            out=str(folder / f"stage1-{name}"),
        )
        stages.append(first)
    if recipe.tuning is not None:
        file = "tuning" if recipe.tuning == "image" else "text_tuning"
        second = TrainConfig(
            **common,
            **STAGE_2,
            stage="stage2",
            data=_part(world.path(f"{file}.json"), recipe.conversations, folder),
            embeddings=str(world.path(f"{file}.parquet")),
            alignment=alignment if recipe.tuning == "text" else None,
            adapter=stages[-1].out if stages else None,
            out=str(folder / f"stage2-{recipe.tuning}-{recipe.conversations:g}-{name}"),
        )
        stages.append(second)
    return stages


def judge(world: World, model_folder: Path, stage: str, progress: Progress = SILENT) -> list[Answer]:
    """The trained model's answers about the held-out pictures, and its blind ones."""
    from transformers import AutoTokenizer

    from fastrealign.revision.data import open_embeddings
    from fastrealign.revision.model import RevisionModel

    model = RevisionModel.from_pretrained(model_folder)
    words = AutoTokenizer.from_pretrained(model_folder, local_files_only=True)
    embeddings = open_embeddings(str(world.path("held_out.parquet")))
    items: list[Item] = read_items(world.path("held_out.jsonl"))
    return [
        answer
        for blind in (False, True)
        for answer in ask(model, words, items, embeddings, stage=stage, blind=blind, progress=progress)
    ]


def _alignment(world: World, recipe: Recipe, folder: Path) -> str | None:
    if recipe.method == PAIRED:
        return None
    of = recipe.statistics or world
    path = folder / f"{recipe.method}-{recipe.length or 'mixed'}-{of.family}.safetensors"
    if not path.exists():
        texts = of.path(f"pretrain_{recipe.length or 'mixed'}.parquet")
        fit_baseline(recipe.method, str(texts), str(of.path("statistics.parquet"))).save(path)
    return str(path)


def _part(path: Path, share: float, folder: Path) -> str:
    """The first so many of the records, in a file of their own."""
    if share == 1.0:
        return str(path)
    part = folder / f"{path.stem}-{share:g}.json"
    if not part.exists():
        records = json.loads(path.read_text())
        save_bytes(part, json.dumps(records[: max(1, round(share * len(records)))]).encode())
    return str(part)
