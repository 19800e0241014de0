"""bench.paper on heads of the real world: a made-up folder in the layout of bench.paper.real."""

from __future__ import annotations

import json
from functools import partial

import benchmarks
import numpy as np
import pytest

from fastrealign.core.errors import InputError

pytest.importorskip("sklearn")
pytest.importorskip("torch")

aniso, caption_length, common, orderings, two_worlds, uses = (
    benchmarks.module(f"paper.{name}")
    for name in ("aniso", "caption_length", "common", "orderings", "two_worlds", "uses")
)
N, D = 240, 64


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Two kinds of subjects, whose images and captions share a direction, apart by a gap; three heads and one of scale 10."""
    folder, rng = tmp_path_factory.mktemp("real"), np.random.default_rng(5)
    (folder / "heads").mkdir()
    category = np.array(["animals", "food"])[np.arange(N) % 2]
    np.save(folder / "categories.npy", category)
    np.save(folder / "split.npy", np.array(["train", "fit", "fit", "test"])[np.arange(N) // 2 % 4])
    meaning = rng.standard_normal((N, D)) + 2 * (category == "food")[:, None] * np.eye(D)[0]
    for head in ("A0", "B0", "C0", "S10-0"):
        for side, where in (("image", 1), ("title", 2), ("long", 2)):
            rows = meaning + 0.3 * rng.standard_normal((N, D)) + 8 * np.eye(D)[where]
            np.save(folder / "heads" / f"{head}_{side}.npy", unit(rows).astype(np.float32))
    return folder


def test_uses_of_every_method_on_every_head(real, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(uses, "Refinement", partial(aniso.Refinement, steps=1))
    monkeypatch.setattr(uses, "KINDS", {"C": "MLP, scale 60"})
    found = json.loads(json.dumps(uses.measure(common.Setting(True, None, lambda line: None, real))))
    assert list(found["heads"]) == ["C", "S10-"]
    of = found["heads"]["C"]["seeds"][0]
    assert list(of["methods"]) == list(uses.LABELS) and of["images"] > 0.7
    none, realign = of["methods"]["none"], of["methods"]["realign-exact"]
    assert none["gap"] > 4 * realign["gap"] and none["mixing"] < realign["mixing"]
    # The gap hides every image from a query by text; in one index half of the documents are images.
    assert none["images in ten"] < 0.05 < 0.2 < realign["images in ten"] < 0.7
    assert none["images in one index"] < none["R@10"] and none["kept"] == 1.0
    text = uses.tell(found)
    assert text.count("| ReAlign + noise |") == 1 and "| scale 10 |" in text
    assert len(uses.draw(found).axes) == 2


def test_captions_by_length_on_the_heads_of_the_real_world_too(real, monkeypatch):
    pytest.importorskip("matplotlib")
    words = np.array([" ".join(["word"] * (1 + i % 4)) for i in range(N)])
    for side in ("titles", "longs"):
        np.save(real / f"{side}.npy", words)
    monkeypatch.setattr(two_worlds, "heads_of", lambda folder, objective: [two_worlds.made.heads_of(folder, "A")[0]])
    found = two_worlds.captions(common.Setting(True, None, lambda line: None, real))
    assert list(found) == ["rendered", *(f"real, {of}" for of in ("scale 60", "learned scale", "scale 60 from a cone"))]
    head, other = found["real, scale 60 from a cone"][0], found["real, scale 60"][0]
    images = np.load(real / "heads" / "C0_image.npy")[np.load(real / "split.npy") == "test"]
    assert sorted(map(tuple, head.pairs_image)) == sorted(map(tuple, np.concatenate([images, images])))
    assert not (head.text == other.text).all(1).any() and (head.words == other.words).all()
    monkeypatch.setattr("fastrealign.gap_report.by_length.FEWEST", 10)
    results = json.loads(json.dumps(caption_length.measure(common.Setting(True, None, lambda line: None, real))))
    assert caption_length.tell(results).count("**real, scale 60 from a cone**") == 2
    assert sum(axes.get_visible() for axes in caption_length.draw(results).axes) == 4


def test_uses_without_a_real_world():
    with pytest.raises(InputError, match=r"bench\.paper\.real --out"):
        uses.measure(common.Setting(True, None, lambda line: None))


def test_orderings_over_encoders(real):
    found = json.loads(json.dumps(orderings.measure(common.Setting(True, None, lambda line: None, real))))
    table = orderings.tell(found).split("Holds in, over encoders:\n\n")[1].split("\n\n")[0].splitlines()
    assert table[0].count("|") == 6 and table[0].count("real, ") == 3
    gap = next(line for line in table if line.startswith("| gap"))
    assert gap.endswith("| 1 of 1 | 1 of 1 | 1 of 1 |")


def test_a_rotation_is_found_without_pairs(rng):
    """Clusters of images, and the same turned a little and shuffled as captions."""
    centre = 2 * np.eye(16)[0]
    image = unit(rng.standard_normal((300, 16)) * np.linspace(1, 0.3, 16) + centre)
    axis = np.zeros((16, 16))
    axis[2, 5], axis[5, 2] = 0.15, -0.15
    turn = np.linalg.qr(np.eye(16) + axis)[0]
    turn *= np.sign(np.diag(turn))
    mean = image.mean(0)
    text = unit((image - mean) @ turn.T + mean)
    order = rng.permutation(300)
    refined = aniso.Rotation(text[order], image)
    before, after = (np.sum(rows * image, 1).mean() for rows in (text, refined(text)))
    assert 1 - after < 0.1 * (1 - before)


def test_a_refinement_is_bounded_and_repeats(rng):
    image = unit(rng.standard_normal((300, D)) + 2 * np.eye(D)[0])
    text = unit(image[rng.permutation(300)] + 0.1 * rng.standard_normal((300, D)))
    one, two = (aniso.Refinement(text, image, seed=3, steps=2) for _ in range(2))
    moved = one(text)
    np.testing.assert_array_equal(moved, two(text))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-6)
    assert np.abs(moved - text).max() > 0 and np.sum(moved * text, 1).min() > np.cos(
        aniso.MOST_PHASE + aniso.MOST_RADIUS
    )
