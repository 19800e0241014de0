"""Both worlds of the open questions: rendered scenes, and real pictures with their titles (bench/paper/real/)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.paper import encoders
from bench.paper.common import Setting, Sides, keep_rows, shipped
from bench.paper.heads import OBJECTIVES, Features, trained
from bench.paper.long_captions import lengths
from bench.paper.real import made
from fastrealign.cli.demo.captions import OPENINGS, Background
from fastrealign.cli.demo.samples import SEEDS as SCENES_OF
from fastrealign.cli.demo.samples import sample_caption, sample_scene

# Of the scenes whose features heads are trained on.
SCENES = 4000
# Of the heads of the real world: objectives of bench/paper/heads.py, and what the tables call them.
KINDS = {"InfoNCE": "scale 60", "InfoNCE, learned scale": "learned scale"}
SEEDS = 3


@dataclass(frozen=True, eq=False)
class Domain:
    """Rows of one domain, text (n, d) and image (m, d), not paired."""

    name: str
    text: np.ndarray
    image: np.ndarray


@dataclass(frozen=True, eq=False)
class Captions:
    """Text (n, d) to compare by length, images (m, d) of other scenes, and pairs (k, d).

    words, kind   of each caption (n,), and of the pairs (k,); factors: what else is known of each caption, numbers or names
    """

    text: np.ndarray
    words: np.ndarray
    kind: np.ndarray
    factors: dict[str, np.ndarray]
    image: np.ndarray
    pairs_text: np.ndarray
    pairs_image: np.ndarray
    pairs_kind: np.ndarray


def heads_of(folder: Path, objective: str = "InfoNCE") -> list[dict[str, np.ndarray]]:
    """Embeddings of the real pictures, image, title and long (n, d), by heads of each seed; trained once, and kept there."""
    kept = folder / "question-heads"
    found = []
    for seed in range(SEEDS):
        paths = {side: kept / f"{KINDS[objective]} {seed} {side}.npy" for side in ("image", "title", "long")}
        if not all(path.exists() for path in paths.values()):
            of = trained(_real_features(folder), OBJECTIVES[objective], seed)
            for path, rows in zip(paths.values(), (of.image, of.short, of.long), strict=True):
                keep_rows(path, rows)
        found.append({side: np.load(path) for side, path in paths.items()})
    return found


def _real_features(folder: Path) -> Features:
    rows = (np.load(folder / f"features_{side}.npy") for side in ("image", "title", "long"))
    train, held = _split(folder, "train"), _split(folder, "fit", "test")
    return Features("real", *rows, train, held, np.load(folder / "categories.npy"))


def _split(folder: Path, *names: str) -> np.ndarray:
    """Numbers of the pictures in these parts, in a random order."""
    rows = np.flatnonzero(np.isin(np.load(folder / "split.npy"), names))
    return np.random.default_rng(0).permutation(rows)


def worlds(setting: Setting) -> dict[str, Sides]:
    """Sides to fit on, of different scenes or pictures, and held-out pairs, by the name of the world."""
    found = {"rendered": shipped(250 if setting.quick else None)}
    if setting.real:
        of, (first, second), test = (
            heads_of(setting.real)[0],
            np.array_split(_split(setting.real, "fit"), 2),
            _split(setting.real, "test"),
        )
        found["real"] = Sides(of["title"][first], of["image"][second], of["title"][test], of["image"][test])
    return found


def population(setting: Setting) -> dict[str, np.ndarray]:
    """Many text rows of one kind, of each world: those of the real one are the heads' training rows."""
    found = {"rendered": shipped(250 if setting.quick else None).text}
    if setting.real:
        found["real"] = heads_of(setting.real)[0]["title"][_split(setting.real, "train")]
    return found


def domains(setting: Setting) -> dict[str, tuple[Domain, Domain]]:
    """Two domains of each world: other scenes or categories (both sides change), other captions (the text changes)."""
    sides = shipped(250 if setting.quick else None)
    scenes = {side: [sample_scene(seed) for seed in SCENES_OF[side][: len(sides.text)]] for side in ("text", "image")}
    white, black = (
        Domain(
            f"{name} backgrounds",
            sides.text[[of.background == name for of in scenes["text"]]],
            sides.image[[of.background == name for of in scenes["image"]]],
        )
        for name in ("white", "black")
    )
    length = lengths(len(sides.text))
    short, complete = (
        Domain(f"{name} captions", sides.text[length == name], sides.image) for name in ("short", "complete")
    )
    found = {"rendered, backgrounds": (white, black), "rendered, captions": (short, complete)}
    if setting.real:
        of, rows = heads_of(setting.real)[0], _split(setting.real, "fit", "test")
        category = np.load(setting.real / "categories.npy")[rows]
        names, counts = np.unique(category, return_counts=True)
        first, second = names[np.argsort(-counts)[:2]]
        parts = [np.array_split(rows[category == name], 2) for name in (first, second)]
        found["real, categories"] = tuple(
            Domain(str(name), of["title"][a], of["image"][b])
            for name, (a, b) in zip((first, second), parts, strict=True)
        )
        a, b = np.array_split(rows, 2)
        found["real, captions"] = (
            Domain("titles", of["title"][a], of["image"][b]),
            Domain("long captions", of["long"][a], of["image"][b]),
        )
    return found


def captions(setting: Setting) -> dict[str, list[Captions]]:
    """Captions of each world and kind of head, one for each head."""
    sides = shipped(250 if setting.quick else None)
    n = len(sides.text)
    texts = [sample_caption(sample_scene(seed)) for seed in SCENES_OF["text"][:n]]
    factors = {
        "style: opening words": np.array(
            [next((o for o in OPENINGS if o and of.text.startswith(o)), "none") for of in texts]
        ),
        "style: sentences": np.array([of.text.count(" .") for of in texts], float),
        "content: claims": np.array([len(of.claims) for of in texts], float),
        "content: background named": np.array(
            [any(isinstance(c, Background) for c in of.claims) for of in texts], float
        ),
    }
    pairs = len(sides.pairs_text)
    kind = lengths(n), lengths(pairs, "pairs_text")
    words = np.array([len(of.text.split()) for of in texts], float)
    rows = (side.astype(np.float32) for side in (sides.image, sides.pairs_text, sides.pairs_image))
    found = {"rendered": [Captions(sides.text.astype(np.float32), words, kind[0], factors, *rows, kind[1])]}
    if setting.real:
        # Half of the pictures that are no test give captions, each its title and its long one; the others give images.
        text, image = np.array_split(_split(setting.real, "fit"), 2)
        test = _split(setting.real, "test")
        texts = {side: np.load(setting.real / f"{side}s.npy")[text] for side in ("title", "long")}
        every = [str(of) for side in texts.values() for of in side]
        factors = {
            "style: capitals": np.array([np.mean([c.isupper() for c in of] or [0]) for of in every]),
            "style: sentences": np.array([of.count(". ") for of in every], float),
            "content: keywords": np.array([of.count(", ") for of in every], float),
            "content: category": np.tile(np.load(setting.real / "categories.npy")[text], 2),
        }
        words = np.array([len(of.split()) for of in every], float)
        heads = {name: heads_of(setting.real, objective) for objective, name in KINDS.items()}
        heads["scale 60 from a cone"] = [*made.heads_of(setting.real, "C").values()]
        for name, of_seeds in heads.items():
            found[f"real, {name}"] = [
                Captions(
                    np.concatenate([of[side][text] for side in texts]),
                    words,
                    np.repeat(list(texts), len(text)),
                    factors,
                    of["image"][image],
                    np.concatenate([of[side][test] for side in texts]),
                    np.tile(of["image"][test], (2, 1)),
                    np.repeat(list(texts), len(test)),
                )
                for of in of_seeds
            ]
    return found


@dataclass(frozen=True, eq=False)
class Labelled:
    """Text and images with a class each, of different scenes; held-out images."""

    text: np.ndarray
    text_label: np.ndarray
    image: np.ndarray
    image_label: np.ndarray
    held: np.ndarray
    held_label: np.ndarray


def labelled(setting: Setting) -> dict[str, list[Labelled]]:
    """Number of objects in a rendered scene; category of a real picture, of those with 30 or more in each part."""
    sides = shipped(250 if setting.quick else None)
    number = {
        side: np.array([str(len(sample_scene(seed).objects)) for seed in SCENES_OF[side][: len(sides.text)]])
        for side in ("text", "image", "pairs_image")
    }
    rendered = sides.text, number["text"], sides.image, number["image"], sides.pairs_image, number["pairs_image"]
    found = {"rendered": [Labelled(*rendered)]}
    if setting.real:
        category = np.load(setting.real / "categories.npy")
        text, image = np.array_split(_split(setting.real, "fit"), 2)
        held = _split(setting.real, "test")
        names = [
            name
            for name in np.unique(category)
            if min(np.sum(category[rows] == name) for rows in (text, image, held)) >= 30
        ]
        text, image, held = (rows[np.isin(category[rows], names)] for rows in (text, image, held))
        found["real"] = [
            Labelled(
                of["title"][text],
                category[text],
                of["image"][image],
                category[image],
                of["image"][held],
                category[held],
            )
            for of in heads_of(setting.real)
        ]
    return found


def features(setting: Setting) -> dict[str, Features]:
    """What heads are trained on: embeddings by the shipped encoder, and with --real those of the real towers."""
    found = {}
    if not setting.quick:
        from fastrealign.cli.demo import models

        model, scenes = models.load_encoder(), range(SCENES)
        of = {
            "image": encoders.embed(model, encoders.Rows("image", "shapes", scenes)),
            "short": encoders.embed(model, encoders.Rows("text", "shapes", scenes, "short")),
            "long": encoders.embed(model, encoders.Rows("text", "shapes", scenes, "complete")),
        }
        label = np.array([sample_scene(s).background for s in scenes])
        train, held = np.split(np.random.default_rng(0).permutation(SCENES), [int(0.6 * SCENES)])
        found["rendered"] = Features("rendered", of["image"], of["short"], of["long"], train, held, label)
    if setting.real:
        found["real"] = _real_features(setting.real)
    if setting.quick:
        sides = shipped()
        image, text = (rows.astype(np.float32) for rows in (sides.pairs_image, sides.pairs_text))
        train, held = np.array_split(np.arange(len(text)), 2)
        label = np.array([sample_scene(seed).background for seed in SCENES_OF["pairs_text"]])
        found["rendered"] = Features("rendered", image, text, text, train, held, label)
    return found
