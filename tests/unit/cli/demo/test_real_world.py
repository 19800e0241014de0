"""The shipped real world: whole, parted without near-duplicates, and CLIP-like; what the demo measures on it."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.cli.demo import real_world
from fastrealign.core.reference import project
from fastrealign.diagnostics import covariance, effective_rank, gap, mixing


@pytest.fixture(scope="module")
def world():
    return real_world.load()


def test_all_files_are_of_the_same_pictures(world):
    n = len(world.ids)
    assert n > 6500 and len(set(world.ids.tolist())) == n
    for side in (world.image, world.title, world.long):
        assert side.shape == (n, 128) and side.dtype == np.float16
        np.testing.assert_allclose(np.linalg.norm(side.astype(np.float64), axis=1), 1, atol=2e-3)
    assert all(len(of) == n and all(of) for of in (world.titles, world.longs, world.categories))
    assert all(id.startswith(f"{c}/") for id, c in zip(world.ids, world.categories, strict=True))
    assert sum(path.stat().st_size for path in real_world.DATA.glob("real_*")) < 6e6


def test_parts_share_no_title(world):
    parts = {name: {t.lower() for t in world.part(name).titles} for name in ("train", "fit", "test")}
    assert not parts["test"] & parts["train"] and not parts["test"] & parts["fit"] and not parts["fit"] & parts["train"]


def test_it_is_like_a_clip(world):
    test = world.part("test")
    assert 0.8 < gap(test.image, test.title) < 1.0
    assert mixing(test.image, test.title, k=20, rows=None).rate.value < 0.01
    for side in (test.image, test.long):
        assert 40 < effective_rank(covariance(side).eigenvalues) < 60
    near = (project(test.title) @ project(test.image).T).argmax(1) == np.arange(len(test.ids))
    assert near.mean() > 20 / len(test.ids)  # twenty times chance


def test_a_thumbnail_of_every_held_out_picture(world):
    pytest.importorskip("PIL")
    shown = [np.asarray(real_world.thumbnail(i)) for i in range(len(world.part("test").ids))]
    assert {one.shape for one in shown} == {(real_world.THUMB, real_world.THUMB, 3)}
    assert np.mean([one.std() > 5 for one in shown]) > 0.95  # not blank
