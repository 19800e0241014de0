"""docs/train.md states what `fastrealign train demo` printed with seeds 0 and 1: bench/results/train_demo.json."""

from __future__ import annotations

import json

import pytest
from doc_figures import common, unsaid

RESULTS = json.loads((common.ROOT / "bench/results/train_demo.json").read_text())["seeds"]
ROWS = {
    "captions, objects: F1": "caption/objects/f1",
    "captions, colours: F1": "caption/colours/f1",
    "captions, sizes: F1": "caption/sizes/f1",
    "questions, existence": "vqa/existence",
    "questions, colour": "vqa/colour",
    "questions, count": "vqa/count",
    "yes or no, random absence": "probe/random",
    "yes or no, popular absence": "probe/popular",
    "yes or no, adversarial absence": "probe/adversarial",
}


def short(value: float) -> str:
    """
    >>> short(0.4642)
    '.464'
    """
    return f"{value:.3f}".removeprefix("0")


def test_the_table_is_that_of_seed_0():
    scores = RESULTS["0"]["scores"]
    columns = ("before/", "stage1/", "", "blind/")
    assert not unsaid(
        "docs/train.md",
        [f"| {row} | {' | '.join(short(scores[of + name]) for of in columns)} |" for row, name in ROWS.items()],
    )


def test_the_sentences_are_those_of_both_seeds():
    scores = RESULTS["1"]["scores"]
    alone = [
        f"{word} {short(scores[name])} ({blind}{short(scores['blind/' + name])})"
        for word, name, blind in (
            ("objects", "caption/objects/f1", "blind "),
            ("existence", "vqa/existence", ""),
            ("colour", "vqa/colour", ""),
            ("count", "vqa/count", ""),
        )
    ]
    (first, second, third), of_blind = (
        [short(scores[of + f"probe/{kind}"]) for kind in ("random", "popular", "adversarial")] for of in ("", "blind/")
    )
    seconds = {f"{run['cpu_seconds']:.0f}" for run in RESULTS.values()}
    memory = max(run["peak_memory_kb"] for run in RESULTS.values()) * 1024 / 1e9
    assert not unsaid(
        "docs/train.md",
        [
            ", ".join(alone),
            f"absences {first}, {second} and {third} ({', '.join(of_blind)})",
            f"It took {seconds.pop()} s of CPU time and {memory:.1f} GB",
        ],
    )
    assert not seconds


@pytest.mark.parametrize("seed", RESULTS)
def test_every_row_is_above_the_blind_model_and_far_above_where_it_matters(seed):
    scores = RESULTS[seed]["scores"]
    assert all(scores[name] > scores[f"blind/{name}"] for name in ROWS.values())
    assert scores["caption/objects/f1"] > scores["blind/caption/objects/f1"] + 0.08 and scores["vqa/existence"] > 0.62
    assert min(scores[f"probe/{kind}"] for kind in ("random", "popular", "adversarial")) > 0.6
