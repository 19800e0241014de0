"""Calibrated scores on real heads: do thresholds hold, what calibration does to one index, and fused documents.

    python -m bench.paper.scores               the head that ships
    python -m bench.paper.scores --real DIR    also one index and thresholds on the heads of bench.paper.real in DIR, by kind

Titles search pictures and long captions. The pictures that no head was trained on are divided at random: maps of roles,
calibrations, thresholds and weights come from one part, and every figure is of another.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastrealign as fr
from bench.paper.real.made import KINDS, heads_of
from fastrealign.cli.demo import real_world
from fastrealign.retrieval import Scores, fit_scores, fuse, fuse_scores
from fastrealign.retrieval.calibration import SCORE_METHODS, UNLABELLED

Rows = dict[str, np.ndarray]
IMAGE, TEXT = ("query", "image"), ("query", "text")
# Precisions asked for: what each pair of the head that ships can reach.
ASKED: dict[Any, tuple[float, ...]] = {IMAGE: (0.05, 0.1, 0.2), TEXT: (0.3, 0.5, 0.7, 0.9), None: (0.1, 0.3, 0.5)}
TOP = 10
MAPS = ("none", "realign", "centred")
THRESHOLD_SPLITS, SPLITS = 20, 5
WEIGHTS = np.linspace(0.0, 1.0, 11)


def shipped() -> Rows:
    """Rows of the head that ships, of the parts "fit" and "test" together."""
    world = real_world.load()
    held = np.isin(world.split, ("fit", "test"))
    sides = {"query": world.title, "text": world.long, "image": world.image}
    return {role: rows[held].astype(np.float32) for role, rows in sides.items()}


def made(folder: Path) -> Iterator[tuple[str, Rows]]:
    """Name and rows of every head that bench.paper.real made."""
    held = np.isin(np.load(folder / "split.npy"), ("fit", "test"))
    for kind in KINDS:
        for seed, of in heads_of(folder, kind).items():
            sides = {"query": of["title"], "text": of["long"], "image": of["image"]}
            yield f"{kind}{seed}", {role: rows[held].astype(np.float32) for role, rows in sides.items()}


def parts(rows: Rows, number: int, seed: int) -> list[Rows]:
    """Random parts of equally many pictures."""
    n = len(rows["query"]) // number * number
    order = np.random.default_rng(seed).permutation(len(rows["query"]))[:n].reshape(number, -1)
    return [{role: side[np.sort(at)] for role, side in rows.items()} for at in order]


def fitted(rows: Rows, method: str, labelled: bool = True) -> Scores:
    """Calibration of both modality pairs; the relevant document of a title is that of its picture."""
    own = np.stack([np.arange(len(rows["query"]))] * 2, axis=1)
    pairs = {pair: (rows["query"], rows[pair[1]]) for pair in (IMAGE, TEXT)}
    return fit_scores(pairs, method=method, labels={pair: own for pair in pairs} if labelled else None)


def calibrated(scores: Scores, rows: Rows) -> dict[tuple[str, str], np.ndarray]:
    """All scores, queries by documents; the relevant ones are on the diagonal."""
    return {pair: scores(*pair, rows["query"] @ rows[pair[1]].T) for pair in (IMAGE, TEXT)}


def ranks(scores: np.ndarray) -> np.ndarray:
    """How many documents score more than each query's own, that of its number."""
    return (scores > np.diag(scores)[:, None]).sum(axis=1)


def mapped(rows: Rows, roles: fr.Roles) -> Rows:
    """Each role by its map."""
    return {role: roles[role](side) for role, side in rows.items()}


class Held:
    """Thresholds of one kind on held-out pictures: their stated figures and those found, by split."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.refused = 0

    def add(self, scores: Scores, pair: Any, asked: float, values: dict[tuple[str, str], np.ndarray]) -> None:
        try:
            said = scores.threshold(*(pair or ()), precision=asked)
        except fr.InputError:
            self.refused += 1
            return
        kept = {one: values[one] >= said.value for one in ([pair] if pair else values)}
        total = sum(int(one.sum()) for one in kept.values())
        right = {one: int(np.diag(keep).sum()) for one, keep in kept.items()}
        precision = sum(right.values()) / max(total, 1)
        n = len(values[IMAGE])
        recalls = (right.get(IMAGE, 0) / n, right.get(TEXT, 0) / n)
        within = said.interval[0] <= precision <= said.interval[1]
        self.rows.append((said.precision, precision, within, said.interval[1] - said.interval[0], *recalls))

    def cells(self) -> str:
        if not self.rows:
            return "| refused | | | | | |"
        said, found, within, width, image, text = np.mean(self.rows, axis=0)
        spread = np.std([row[1] for row in self.rows], ddof=1) if len(self.rows) > 1 else 0.0
        count = f"{round(within * len(self.rows))} of {len(self.rows)}"
        return f"| {said:.3f} | {found:.3f} ± {spread:.3f} | {width:.3f} | {count} | {image:.3f} | {text:.3f} |"


def thresholds(heads: Sequence[tuple[str, Rows]], methods: Sequence[str]) -> None:
    """Print how thresholds hold: within the pairs by the cosine (any rising calibration gives the same), over all by method."""
    held: dict[tuple[Any, float, str], Held] = {}
    for _, rows in heads:
        for seed in range(THRESHOLD_SPLITS):
            here, there = parts(rows, 2, seed)
            for method in methods:
                scores = fitted(here, method)
                values = calibrated(scores, there)
                for pair, asked in ((pair, one) for pair, several in ASKED.items() for one in several):
                    if method == "none" or pair is None:
                        held.setdefault((pair, asked, method), Held()).add(scores, pair, asked, values)
    print("\n| scores | of | asked | stated | held out | width of interval | in it | recall, pictures | captions |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (pair, asked, method), found in held.items():
        where = "both" if pair is None else "pictures" if pair == IMAGE else "captions"
        print(f"| {'cosine' if method == 'none' else method} | {where} | {asked:g} {found.cells()}")


def one_index(heads: Sequence[tuple[str, Rows]], methods: Sequence[str]) -> None:
    """Print R@10 in one index of pictures and captions by map and calibration, mean and standard error.

    Over splits, or, of several heads, over heads: each has the mean of its splits.
    """
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for _, rows in heads:
        shares = _by_calibration(rows, methods)
        for key, by_split in shares.items():
            found.setdefault(key, []).extend(by_split if len(heads) == 1 else by_split.mean(axis=0, keepdims=True))
    print("\n| map | score | R@10 | picture | caption | pictures alone | captions alone | pictures in the first ten |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for (by, method), several in found.items():
        print(f"| {by} | {'cosine' if method == 'none' else method} | {' | '.join(with_error(np.array(several)))} |")


def _by_calibration(rows: Rows, methods: Sequence[str]) -> dict[tuple[str, str], np.ndarray]:
    """By map and calibration, the shares (splits, 6) of `one_index`."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(SPLITS):
        here, there = parts(rows, 2, seed)
        n = len(there["query"])
        picture = np.random.default_rng(seed).permutation(n) < n // 2  # the documents in the index as pictures
        for by in MAPS:
            roles = fr.fit_roles(here, anchor="image", method=by)
            fit, test = mapped(here, roles), mapped(there, roles)
            for method in methods:
                values = calibrated(fitted(fit, method), test)
                scores = np.where(picture[None], values[IMAGE], values[TEXT])
                top = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
                hit = (top == np.arange(n)[:, None]).any(axis=1)
                alone = [(ranks(scores[np.ix_(kind, kind)]) < TOP).mean() for kind in (picture, ~picture)]
                shares = [hit.mean(), hit[picture].mean(), hit[~picture].mean(), *alone, picture[top].mean()]
                found.setdefault((by, method), []).append([float(one) for one in shares])
    return {key: np.array(shares) for key, shares in found.items()}


def with_error(values: np.ndarray) -> list[str]:
    """Mean and standard error of each column, over the splits."""
    errors = values.std(axis=0, ddof=1) / len(values) ** 0.5
    return [f"{mean:.3f} ± {error:.3f}" for mean, error in zip(values.mean(axis=0), errors, strict=True)]


def joined(rows: Rows, scores: Scores, captioned: np.ndarray) -> Iterator[tuple[str, list[tuple[float, np.ndarray]]]]:
    """Ways to search documents, with the score matrix (queries, documents) of each weight that there is to choose."""
    values = calibrated(scores, rows)
    caption = np.where(captioned[None], values[TEXT], np.nan)
    yield "picture alone", [(1.0, values[IMAGE])]
    yield "caption alone", [(0.0, np.where(captioned[None], values[TEXT], -np.inf))]
    yield (
        "one fused row",
        [
            (w, rows["query"] @ fuse(rows["image"], rows["text"], weight=float(w), has_text=captioned).T)
            for w in WEIGHTS
        ],
    )
    yield "the better score", [(0.0, fuse_scores(values[IMAGE], caption))]
    yield "mean of scores", [(w, fuse_scores(values[IMAGE], caption, weight=float(w))) for w in WEIGHTS]


def documents(rows: Rows) -> None:
    """Print R@1 and R@10 of documents that have a picture and, all or half of them, a caption."""
    found: dict[tuple[float, str, str], list[list[float]]] = {}
    for share in (1.0, 0.5):
        for seed in range(SPLITS):
            here, choose, there = parts(rows, 3, seed)
            n = len(there["query"])
            captioned = np.random.default_rng(seed).permutation(n) < share * n
            for by in ("none", "centred"):
                roles = fr.fit_roles(here, anchor="image", method=by)
                fit, first, second = (mapped(part, roles) for part in (here, choose, there))
                scores = fitted(fit, "z-score", labelled=False)
                ways = zip(joined(first, scores, captioned), joined(second, scores, captioned), strict=True)
                for (name, tried), (_, of) in ways:
                    best = max(range(len(tried)), key=lambda i: (ranks(tried[i][1]) < TOP).mean())
                    rank = ranks(of[best][1])
                    lacking = (rank[~captioned] < TOP).mean() if share < 1 else np.nan
                    row = [(rank < 1).mean(), (rank < TOP).mean(), lacking, of[best][0]]
                    found.setdefault((share, by, name), []).append([float(one) for one in row])
    print("\n| captions | map | search | R@1 | R@10 | R@10, no caption | weight of the picture |")
    print("| ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for (share, by, name), figures in found.items():
        *cells, weight = with_error(np.array(figures))
        shown = weight if name in ("one fused row", "mean of scores") else ""
        print(f"| {share:.0%} | {by} | {name} | {' | '.join(cells).replace('nan ± nan', '')} | {shown} |")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--real", type=Path, metavar="DIR", help="the heads that bench.paper.real made")
    folder = parser.parse_args(arguments).real
    rows = shipped()
    print(f"{len(rows['query'])} pictures; {THRESHOLD_SPLITS} splits for thresholds, {SPLITS} for the rest")
    one_index([("shipped", rows)], SCORE_METHODS)
    documents(rows)
    thresholds([("shipped", rows)], SCORE_METHODS)
    if folder is None:
        return
    for kind, words in KINDS.items():
        heads = [one for one in made(folder) if one[0].startswith(kind)]
        print(f"\n{kind}, {words}: {len(heads)} heads, {SPLITS} splits each; {THRESHOLD_SPLITS} for thresholds")
        one_index(heads, UNLABELLED)
        thresholds(heads, ("none",))


if __name__ == "__main__":
    main()
