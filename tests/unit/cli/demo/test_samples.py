"""The shipped embeddings: sizes, disjoint scenes, and a gap that is theirs alone."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastrealign.cli.demo import samples
from fastrealign.cli.demo.measurements import recall
from fastrealign.diagnostics import gap


@pytest.mark.parametrize(
    ("names", "most"), [("real_*", 6_000_000), ("*.safetensors", 10_000_000), ("*.npy", 9_000_000)]
)
def test_what_ships_is_small(names, most):
    assert 0 < sum(f.stat().st_size for f in samples.DATA.glob(names)) <= most


@pytest.mark.parametrize("name", samples.SEEDS)
def test_rows_are_unit_vectors_in_half_precision(name):
    rows = samples.load(name)
    assert rows.dtype == np.float16 and rows.shape == (len(samples.SEEDS[name]), 128)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1, atol=1e-3)
    assert len(np.unique(rows, axis=0)) > 0.95 * len(rows)


def test_unpaired_means_unpaired():
    contents = {
        name: {(s.background, s.objects) for s in map(samples.sample_scene, seeds)}
        for name, seeds in samples.SEEDS.items()
    }
    assert samples.SEEDS["pairs_text"] == samples.SEEDS["pairs_image"]
    for one, other in [("image", "text"), ("image", "pairs_image"), ("text", "pairs_image")]:
        assert not set(samples.SEEDS[one]) & set(samples.SEEDS[other])
        assert not contents[one] & contents[other]
    assert max(map(max, samples.SEEDS.values())) < samples.FIRST_TRAINING_SEED


def test_the_gap_is_of_the_size_that_real_encoders_have():
    assert 0.2 <= gap(samples.load("text"), samples.load("image")) <= 0.5
    assert 0.2 <= gap(samples.load("pairs_text"), samples.load("pairs_image")) <= 0.5


def test_held_out_captions_find_their_pictures():
    found = recall(samples.load("pairs_text"), samples.load("pairs_image"))
    assert found[1] > 0.2 and found[5] > 0.5  # by chance 0.001 and 0.005
    made = json.loads((samples.DATA / "training.json").read_text())  # as measured when they were made
    assert found == pytest.approx({int(k): v for k, v in made["recall"].items()}, abs=0.003)


def test_caption_lengths_follow_their_shares():
    captions = [samples.sample_caption(samples.sample_scene(s)) for s in samples.SEEDS["text"]]
    complete = np.mean([" , " in c.text for c in captions])  # no other caption has a comma
    assert complete == pytest.approx(samples.LENGTH_SHARES["complete"], abs=0.02)
