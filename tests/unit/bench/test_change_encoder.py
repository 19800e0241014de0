"""bench.paper.change_encoder: its maps are those of `fit_map`, its recall that of `PairedMap.measure`."""

from __future__ import annotations

import benchmarks
import numpy as np
import pytest

import fastrealign as fr

change = benchmarks.module("paper.change_encoder")


@pytest.fixture
def heads(tmp_path, rng):
    items = rng.standard_normal((400, 12))
    (tmp_path / "heads").mkdir()
    np.save(tmp_path / "split.npy", np.repeat(["fit", "train", "test"], [200, 100, 100]))
    for head, d in (("A0", 8), ("B0", 6)):
        world = rng.standard_normal((12, d))
        for side in ("title", "long"):
            rows = items @ world + 0.2 * rng.standard_normal((400, d))
            np.save(tmp_path / f"heads/{head}_{side}.npy", rows.astype(np.float32))
    return change.Heads(tmp_path)


@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_its_map_and_its_recall_are_the_library_s(heads):
    assert sorted(heads.pairs[:200]) == list(range(200))
    at, test = heads.pairs[:150], heads.test
    old, new, asked = heads.rows("A0", "long"), heads.rows("B0", "long"), heads.rows("B0", "title")
    found = fr.fit_map(old[at], new[at], held_out=0)
    solution = change.solved("procrustes", old[at], new[at])
    assert np.allclose(found.matrix, solution.matrix, atol=1e-12)
    kept = found.measure(old[test], new[test], asked[test])
    here, there = change.measured(heads, "long", "procrustes", "A0", "B0", 150)
    assert (kept.mapped, kept.re_embedded) == (here.mean(), there.mean())
    assert kept.neighbours == pytest.approx(change.neighbours(new[test], found(old[test])))
    value, low, high = (
        float(part) for part in change.kept([(here, there)]).replace("–", " ").replace("(", "").strip(")").split()
    )
    assert (value, low, high) == pytest.approx((kept.kept, kept.low, kept.high), abs=0.02)
