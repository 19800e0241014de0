"""`fastrealign train demo`: make a world, train in it in two stages, and evaluate on held-out images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastrealign.cli.demo import questions, statements
from fastrealign.cli.demo.answers_picture import draw_answers
from fastrealign.cli.demo.world import Sizes, World, make
from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.methods.baselines import fit_baseline
from fastrealign.methods.fit_options import check_method
from fastrealign.revision.answers import Answer, read_items, write_answers
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.evaluate import Scores, ask, score

TUNINGS = ("image", "text")
EARLIER = ("before", "stage1")  # models whose answers are shown beside those of the last
# What all stages share. A scene takes about twelve words: with fewer visual tokens a description named less of it. A stage
# takes a minute, so no checkpoint is written on the way.
COMMON: dict[str, Any] = {"tokens": 12, "save_steps": 1_000_000, "batch_size": 32}
# A small network and a corpus of thousands: higher learning rates than the paper's 5e-4 and 1e-5, and several epochs.
STAGE_1: dict[str, Any] = {"stage": "stage1", "learning_rate": 3e-3, "epochs": 3.0}
STAGE_2: dict[str, Any] = {"stage": "stage2", "learning_rate": 1e-3, "epochs": 2.0}

Watch = Callable[[str], Any]


@dataclass(frozen=True)
class Recipe:
    """One model to train in a world.

    Parameters
    ----------
    method
        Of baselines.METHODS: how text stands in for images.
    tuning
        Of stage 2: "image", on real images; "text", on text in place of them.
    seed
        Of the adapter's initial weights and of the order of the examples.
    """

    method: str = "realign"
    tuning: str = "image"
    seed: int = 0

    @property
    def tuned_on(self) -> str:
        """What stage 2 sees, in words."""
        return "real images" if self.tuning == "image" else "text alone"

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", check_method(self.method))
        if self.tuning not in TUNINGS:
            raise InputError(f"tuning={self.tuning!r}: expected one of {', '.join(TUNINGS)}")


@dataclass(frozen=True)
class RecipeResult:
    """The result of a recipe.

    Attributes
    ----------
    scores
        Of evaluate.score.
    seconds
        By part of the run.
    out
        Folder of the model and its answers.
    picture
        File of the picture, if one was asked for.
    """

    recipe: Recipe
    scores: Scores
    seconds: dict[str, float]
    out: str
    picture: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return {name: value for name, value in asdict(self).items() if name != "picture"}

    def summary(self) -> str:
        """Some twenty-five lines of text."""
        titles = {
            **{f"caption/{name}/f1": f"captions, {name}: F1" for name in statements.ATTRIBUTES},
            **{f"vqa/{kind}": f"questions, {kind}: accuracy" for kind in questions.KINDS},
            **{f"probe/{kind}": f"yes or no, {kind} absence: accuracy" for kind in questions.PROBES},
        }
        columns = {"before": "before/", "stage 1": "stage1/", "stage 2": "", "blind": "blind/"}
        rows = [
            f"{title:42}" + "".join(f"{self.scores[front + name]:>9.3f}" for front in columns.values())
            for name, title in titles.items()
            if name in self.scores
        ]
        took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        lines = [
            f"Pretrained on text by {self.recipe.method}, tuned on {self.recipe.tuned_on} ({took}).",
            "",
            f"{'On images never seen':42}" + "".join(f"{name:>9}" for name in columns),
            *rows,
            "",
            "before: with the initial adapter; stage 1: text alone, no image seen; blind: stage 2's model, no image given.",
            "Where things stand (left of, above, ...) is beyond a model of this size: it is not asked.",
            "",
            f"{self.out}: the model, and its answers in answers.jsonl",
            *([f"{self.picture}: its answers about some images"] if self.picture else []),
        ]
        return "\n".join(lines)


def run_demo(
    folder: str | Path,
    recipe: Recipe,
    *,
    sizes: Sizes | None = None,
    picture: str | Path | None = None,
    log: Callable[[str], None] = print,
    progress: Progress = SILENT,
    watch: Watch | None = None,
) -> RecipeResult:
    """Make a world in `folder`, train a recipe in it and evaluate; what exists is not made again.

    Parameters
    ----------
    picture
        PNG to draw, with answers beside some images. Needs matplotlib.
    log
        Receives lines of text about the progress.
    watch
        Makes the callback of transformers that shows the progress of a stage ("stage1", "stage2").
    """
    world = World(Path(folder) / "world", sizes or Sizes(), recipe.seed)
    seconds: dict[str, float] = {}
    with timed(seconds, "world"):
        make(world, log=log)
    trained = Path(folder) / "trained"
    trained.mkdir(exist_ok=True)
    with timed(seconds, "fit"):
        alignment = fitted(recipe.method, world, "pretrain_mixed", trained)
    out = str(trained / f"stage1-{recipe.method}")
    rows = rows_of(world, "pretrain_mixed")
    first = TrainConfig(**COMMON, **STAGE_1, **rows, alignment=alignment, seed=recipe.seed, out=out)
    second = TrainConfig(
        **COMMON,
        **STAGE_2,
        **rows_of(world, "tuning" if recipe.tuning == "image" else "text_tuning"),
        alignment=alignment if recipe.tuning == "text" else None,
        adapter=first.out,
        seed=recipe.seed,
        out=str(trained / f"stage2-{recipe.tuning}-{recipe.method}"),
    )
    answers: dict[str, list[Answer]] = {}
    with one_thread():
        train_stage(first, seconds, watch)
        with timed(seconds, "evaluate"):
            for name in EARLIER:
                answers[name] = evaluate_earlier(world, first, name == "stage1", progress)
        answers["stage2"] = train_stages([second], world, seconds, progress=progress, watch=watch)
    if picture is not None:
        draw_answers(picture, answers, world.family, recipe.tuned_on)
    scores = score(answers["stage2"], statements.said)
    for name in EARLIER:
        scores |= {f"{name}/{key}": value for key, value in score(answers[name], statements.said).items()}
    return RecipeResult(recipe, scores, seconds, second.out, None if picture is None else str(picture))


@contextmanager
def one_thread() -> Iterator[None]:
    """In the block, torch computes in one thread.

    Several threads mostly wait for each other in a model this small, and the figures depend on the number of threads.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Notes the seconds that the block takes."""
    started = time.perf_counter()
    yield
    seconds[name] = round(seconds.get(name, 0) + time.perf_counter() - started, 2)


def rows_of(world: World, name: str) -> dict[str, Any]:
    """The keys of a configuration that name a set of the world."""
    return {
        "model": str(world.backbone),
        "data": str(world.path(f"{name}.json")),
        "embeddings": str(world.path(f"{name}.parquet")),
    }


def fitted(method: str, world: World, texts: str, folder: Path) -> str:
    """File of an alignment of a set of texts to the world's images, fitted if it is not there yet."""
    path = folder / f"{method}-{texts}-{world.family}.safetensors"
    if not path.exists():
        rows, images = world.path(f"{texts}.parquet"), world.path("statistics.parquet")
        fit_baseline(method, str(rows), str(images)).save(path)
    return str(path)


def train_stages(
    stages: Sequence[TrainConfig],
    world: World,
    seconds: dict[str, float],
    *,
    progress: Progress = SILENT,
    watch: Watch | None = None,
) -> list[Answer]:
    """Train the stages in order, an interrupted one from its beginning; return the last model's answers, kept in answers.jsonl.

    Text goes through the alignment on its way into a batch. Real images, in stage 2 and in the evaluation, are not mapped.
    """
    for config in stages:
        train_stage(config, seconds, watch)
    with timed(seconds, "evaluate"):
        answers = evaluate(world, stages[-1], progress)
    write_answers(Path(stages[-1].out) / "answers.jsonl", answers)
    return answers


def train_stage(config: TrainConfig, seconds: dict[str, float], watch: Watch | None = None) -> None:
    """Train one stage; one that was interrupted begins again."""
    from fastrealign.revision.train import train

    with timed(seconds, config.stage):
        train(config, resume=Path(config.out).exists(), callbacks=[watch(config.stage)] if watch else [])


def evaluate(world: World, config: TrainConfig, progress: Progress = SILENT) -> list[Answer]:
    """The trained model's answers about the held-out images, with the image and blind."""
    from transformers import AutoTokenizer

    from fastrealign.revision.data import open_embeddings
    from fastrealign.revision.model import RevisionModel

    model = RevisionModel.from_pretrained(config.out)
    tokenizer = AutoTokenizer.from_pretrained(config.out, local_files_only=True)
    embeddings = open_embeddings(str(world.path("held_out.parquet")))
    items = read_items(world.path("held_out.jsonl"))
    return [
        answer
        for blind in (False, True)
        for answer in ask(model, tokenizer, items, embeddings, stage=config.stage, blind=blind, progress=progress)
    ]


def evaluate_earlier(world: World, config: TrainConfig, trained: bool, progress: Progress = SILENT) -> list[Answer]:
    """Answers about the held-out images after stage 1, or with the initial adapter: descriptions without a prompt, as stage 1
    teaches them, and answers to questions, which the language model knows from text alone."""
    from transformers import AutoTokenizer
    from transformers.trainer_utils import set_seed

    from fastrealign.revision.data import open_embeddings
    from fastrealign.revision.language_model import load_lm
    from fastrealign.revision.model import RevisionModel

    embeddings = open_embeddings(str(world.path("held_out.parquet")))
    set_seed(config.seed)
    if trained:
        model = RevisionModel.from_pretrained(config.out)
    else:
        model = RevisionModel(load_lm(config.model), embeddings.dim, tokens=config.tokens)
    tokenizer = AutoTokenizer.from_pretrained(config.model, local_files_only=True)
    items = read_items(world.path("held_out.jsonl"))
    return [
        *ask(model, tokenizer, items, embeddings, stage="stage1", progress=progress),
        *ask(model, tokenizer, [i for i in items if i.task != "caption"], embeddings, progress=progress),
    ]
