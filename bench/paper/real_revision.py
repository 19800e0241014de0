"""Stage 1 on titles, then titles asked of real pictures: raw text, ReAlign, and noise, on the heads of the real world.

    python -m bench.paper.real_revision --heads DIR --work DIR

An adapter is pretrained on the titles' text embeddings, in front of a small language model that has learned the titles' words
and to repeat a title, and then describes held-out pictures from their image embeddings. "paired images" trains on the pictures'
own embeddings. Alignments are fitted on pictures that neither was trained on. What is in --work is not repeated.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import machine
from bench.paper.common import RESULTS, ROOT, Reproduction, table, write
from bench.paper.made_from import MadeFrom, check_kept, check_work
from bench.paper.world import language
from fastrealign.cli.demo import backbone
from fastrealign.cli.demo.world import write_rows
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.methods.baselines import fit_baseline
from fastrealign.revision.answers import Answer, Item
from fastrealign.revision.config import TrainConfig
from fastrealign.revision.evaluate import Facts, Scores, ask, over_seeds, score
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from transformers import PreTrainedTokenizerFast

HEADS = ("A", "B", "C")
SEEDS = 3
NOISE = 1.0  # length of the whole vector, beside rows of length one
STEPS = 400  # of the language model
TRAINING: dict[str, Any] = {
    "tokens": 8,
    "batch_size": 64,
    "learning_rate": 4e-3,
    "epochs": 4.0,
    "save_steps": 1_000_000,
}
ASK_TOKENS = 16


@dataclass(frozen=True)
class Arm:
    """What stands for a picture in training: text mapped by a method, with noise or without; None: the picture itself."""

    label: str
    method: str | None
    noise: float = 0.0


ARMS = (
    Arm("raw text", "none"),
    Arm("raw text + noise", "none", NOISE),
    Arm("ReAlign", "realign"),
    Arm("ReAlign + noise", "realign", NOISE),
    Arm("paired images", None),
)


@dataclass(frozen=True)
class Pairs:
    """Pictures of one split: ids, titles, categories, and unit rows float32 (n, d) of titles and pictures."""

    ids: list[str]
    titles: list[str]
    categories: list[str]
    text: np.ndarray
    image: np.ndarray


def words_of(text: str) -> list[str]:
    """
    >>> words_of("2 dead Frogs (green)")
    ['2', 'dead', 'frogs', 'green']
    """
    return re.findall(r"[a-z]+|\d+", text.lower())


def line_of(category: str, title: str) -> str:
    """What a model writes about a picture: the category in one word, then the title."""
    return " ".join(["".join(words_of(category)), ":", *words_of(title)])


def said(text: str) -> Facts:
    """Facts of such a line: its category, and the words of its title."""
    category, _, title = text.partition(":")
    return {"category": {(category.strip(),)}, "words": {(word,) for word in words_of(title)}}


def vocabulary(lines: Iterable[str]) -> list[str]:
    """Words that appear in two lines at least."""
    seen = Counter(word for line in lines for word in set(line.split()))
    return sorted(word for word, count in seen.items() if count > 1)


def tokenizer(lines: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token per word of the vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<unk>", *vocabulary(lines)]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=backbone.CONTEXT, **special)


def texts(lines: Sequence[str], seed: int) -> Iterator[language.Parts]:
    """Each line twice, without end, in new order every time: the second time can be learned from the first."""
    rng = np.random.default_rng(seed)
    while True:
        for i in rng.permutation(len(lines)):
            yield [(lines[i], False), (f"{lines[i]} </s>", True)]


def make_model(lines: Sequence[str], folder: Path, steps: int, seed: int) -> None:
    """The language model of the titles, and its tokenizer."""
    words = tokenizer(lines)
    model = backbone.build(seed, words)
    language.learn(model, words, texts(lines, seed), steps)
    backbone.save(model, folder, words)


def read(folder: Path, head: str) -> dict[str, Pairs]:
    """The pictures of a head by split: "train" (the head's own), "fit" and "test"."""
    of = {name: np.load(folder / f"{name}.npy") for name in ("ids", "titles", "categories", "split")}
    rows = {name: np.load(folder / "heads" / f"{head}_{name}.npy") for name in ("title", "image")}
    found = {}
    for split in ("train", "fit", "test"):
        at = np.flatnonzero(of["split"] == split)
        lists = [[str(x) for x in of[name][at]] for name in ("ids", "titles", "categories")]
        found[split] = Pairs(*lists, rows["title"][at], rows["image"][at])
    return found


def items(pairs: Pairs) -> list[Item]:
    """A request for the line of each picture."""
    lines = [line_of(c, t) for c, t in zip(pairs.categories, pairs.titles, strict=True)]
    facts = [{name: sorted(map(list, of)) for name, of in said(line).items()} for line in lines]
    return [Item(id, "caption", "", "", facts=of) for id, of in zip(pairs.ids, facts, strict=True)]


def run(parts: dict[str, Pairs], arm: Arm, seed: int, folder: Path) -> Scores:
    """Train an arm and score its answers about the pictures of "test", with the picture and without."""
    from transformers import AutoTokenizer

    from fastrealign.revision.data import open_embeddings
    from fastrealign.revision.model import RevisionModel
    from fastrealign.revision.train import train

    name = re.sub(r"\W+", "-", arm.label)
    shown = parts["train"].image if arm.method is None else parts["train"].text
    _keep(folder / f"{name}.parquet", parts["train"].ids, shown)
    _keep(folder / "test.parquet", parts["test"].ids, parts["test"].image)
    alignment = folder / f"{name}.safetensors"
    if arm.method is not None and not alignment.exists():
        fit_baseline(arm.method, parts["fit"].text, parts["fit"].image).save(alignment)
    config = TrainConfig(
        model=str(folder.parent / "titles"),
        data=str(folder.parent / "titles.jsonl"),
        embeddings=str(folder / f"{name}.parquet"),
        out=str(folder / f"{name}-{seed}"),
        stage="stage1",
        alignment=str(alignment) if arm.method is not None else None,
        seed=seed,
        noise=arm.noise,
        **TRAINING,
    )
    train(config, resume=Path(config.out).exists())
    model = RevisionModel.from_pretrained(config.out)
    words = AutoTokenizer.from_pretrained(config.out, local_files_only=True)
    embeddings = open_embeddings(str(folder / "test.parquet"))
    answers: list[Answer] = []
    for blind in (False, True):
        answers += ask(
            model, words, items(parts["test"]), embeddings, stage="stage1", blind=blind, max_new_tokens=ASK_TOKENS
        )
    return score(answers, said)


def _keep(path: Path, ids: Sequence[str], rows: np.ndarray) -> None:
    """Write rows that are not there yet: an interrupted run of training is resumed only from files that did not change."""
    if not path.exists():
        write_rows(path, ids, rows)


def measure(folder: Path, work: Path, heads: Sequence[str], seeds: int) -> dict[str, Any]:
    """{"arms": {head: {arm: [scores of each seed]}}, "gap": {head: [of each seed]}, "asked": of `asked`}; a seed is one of head
    and adapter."""
    arms: dict[str, dict[str, list[Scores]]] = {}
    gaps: dict[str, list[float]] = {}
    for seed in range(seeds):
        for head in heads:
            parts = read(folder, f"{head}{seed}")
            test, about = parts["test"], asked(parts)
            gaps.setdefault(head, []).append(float(np.linalg.norm(test.text.mean(0) - test.image.mean(0))))
            prepare(parts["train"], work)
            own = work / f"{head}{seed}"
            own.mkdir(exist_ok=True)
            for arm in ARMS:
                kept = own / f"scores-{arm.label}.json"
                if not kept.exists():
                    save_bytes(kept, json.dumps(run(parts, arm, seed, own)).encode())
                found = json.loads(kept.read_text())
                arms.setdefault(head, {}).setdefault(arm.label, []).append(found)
                print(f"{head}{seed}, {arm.label}: {_cells([found])}", flush=True)
    return {"arms": arms, "gap": gaps, "asked": about}


def asked(parts: dict[str, Pairs]) -> dict[str, float]:
    """How many pictures are asked about, the share of their largest category, and of their titles' words in the vocabulary."""
    test, train = parts["test"], parts["train"]
    known = set(vocabulary(map(line_of, train.categories, train.titles)))
    words = [word in known for title in test.titles for word in words_of(title)]
    largest = Counter(test.categories).most_common(1)[0][1]
    return {
        "pictures": len(test.ids),
        "largest category": largest / len(test.ids),
        "words known": float(np.mean(words)),
    }


def prepare(pairs: Pairs, work: Path) -> None:
    """The lines to train on, and the language model of their words."""
    lines = [line_of(c, t) for c, t in zip(pairs.categories, pairs.titles, strict=True)]
    data = work / "titles.jsonl"
    if not data.exists():
        work.mkdir(parents=True, exist_ok=True)
        records = [json.dumps({"id": id, "caption": line}) for id, line in zip(pairs.ids, lines, strict=True)]
        save_bytes(data, ("\n".join(records) + "\n").encode())
    if not (work / "titles" / "config.json").exists():
        shutil.rmtree(work / "titles", ignore_errors=True)
        part = work / "titles.part"
        make_model(lines, part, STEPS, seed=0)
        part.rename(work / "titles")


FIGURES = {"caption/words/f1": "title words, F1", "caption/category/f1": "category named"}


def _cells(scores: Sequence[Scores]) -> list[str]:
    """Per cent, mean and standard deviation over seeds; the blind model in brackets."""
    found = over_seeds(scores)
    cells = []
    for name in FIGURES:
        (mean, spread), (blind, _) = found[name], found[f"blind/{name}"]
        error = f" ± {100 * spread:.1f}" if len(scores) > 1 else ""
        cells.append(f"{100 * mean:.1f}{error} ({100 * blind:.1f})")
    return cells


def tell(results: dict[str, Any]) -> str:
    """Markdown: a row a head and arm, and ReAlign and noise against raw text within seeds."""
    head = ("head", "gap", "trained on", "seeds", *FIGURES.values())
    rows, lines = [], []
    for name, arms in results["arms"].items():
        gap = float(np.mean(results["gap"][name]))
        for label, scores in arms.items():
            rows.append([name, f"{gap:.2f}", label, str(len(scores)), *_cells(scores)])
        raw = arms["raw text"]
        for label in [arm.label for arm in ARMS if arm.label not in ("raw text", "paired images")]:
            differences = []
            for figure, title in FIGURES.items():
                apart = 100 * np.array([a[figure] - b[figure] for a, b in zip(arms[label], raw, strict=True)])
                differences.append(f"{title} {apart.mean():+.1f} (from {apart.min():+.1f} to {apart.max():+.1f})")
            lines.append(f"- {name}, {label} minus raw text: {'; '.join(differences)}")
    asked = results["asked"]
    says = (
        f"In per cent on {asked['pictures']:,} held-out pictures, of which the largest category is "
        f"{100 * asked['largest category']:.1f} %; {100 * asked['words known']:.0f} % of the words of their titles are in the "
        "vocabulary. Mean ± standard deviation over seeds of head and adapter together; in brackets the "
        "same model without the picture."
    )
    differences = "\n".join(["Differences within seeds, mean and range:", "", *lines])
    return "\n\n".join([says, table(head, rows, left=3), differences])


def draw(results: dict[str, Any]) -> Figure:
    """A panel a figure: each seed a dot, the mean a bar."""
    from bench.drawing import SEEDS_NOTE, bars_of_seeds, canvas

    arms = {f"{head}: {label}": scores for head, of in results["arms"].items() for label, scores in of.items()}
    figure = canvas(0.95 + 0.26 * len(arms))
    for axes, (name, title) in zip(figure.subplots(1, len(FIGURES), sharey=True), FIGURES.items(), strict=True):
        values = {label: [100 * found[name] for found in scores] for label, scores in arms.items()}
        blind = [100 * float(np.mean([found[f"blind/{name}"] for found in scores])) for scores in arms.values()]
        bars_of_seeds(axes, values, blind)
        axes.set_title(f"{title}, %")
    figure.suptitle(SEEDS_NOTE, x=0.01, ha="left", fontsize=9)
    return figure


REPRODUCTION = Reproduction(
    "real_revision", "Stage 1 on titles, then titles asked of real pictures", lambda _: {}, tell, draw
)


def _kept(path: Path, heads: Path, new: dict[str, MadeFrom]) -> dict[str, Any]:
    """Earlier results, whose heads that are not measured stay; InputError where they do not go with the new ones."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    others = [head for head in before.get("arms", {}) if head not in new]
    made = before.get("made from", {})
    if lacking := [head for head in others if head not in made]:
        raise InputError(
            f"{path}: does not say what its results of head {lacking[0]} were made from; measure all heads, without --only"
        )
    check_kept(path, {head: made[head] for head in others}, heads, new)
    return before


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.real_revision", description=REPRODUCTION.says)
    parser.add_argument("--heads", type=Path, required=True, metavar="DIR", help="embeddings of `bench.paper.real`")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="for models and scores")
    parser.add_argument(
        "--only", nargs="+", metavar="HEAD", help="of A, B and C: measure these, and keep the results of the others"
    )
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--into", type=Path, default=ROOT, metavar="DIR", help="the folder that docs/paper.md is in")
    given = parser.parse_args(arguments)
    kept = given.into / RESULTS.format(REPRODUCTION.name)
    try:
        heads = given.only or HEADS
        settings = {"noise": NOISE, "steps of the language model": STEPS, "stage 1": TRAINING}
        of_all = settings | {"seeds": given.seeds}
        new = {head: MadeFrom.of(given.heads, head, given.seeds, of_all) for head in heads}
        before = _kept(kept, given.heads, new) if given.only else {}
        check_work(given.work, [MadeFrom(settings, of.inputs) for of in new.values()])
        found: dict[str, Any] = measure(given.heads, given.work, heads, given.seeds)
        about = machine(("numpy", "torch", "transformers"), fastrealign=fr.__version__)
        found["machines"] = dict.fromkeys(found["arms"], about)
        found["made from"] = {head: of.to_json() for head, of in new.items()}
        found = {part: dict(sorted((before.get(part, {}) | of).items())) for part, of in found.items()}
        results = {"kind": REPRODUCTION.name, "machine": about, "settings": settings, **found}
        write(given.into, REPRODUCTION, results, tell(results))
    except (OSError, FastRealignError) as error:
        print(f"bench.paper.real_revision: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
