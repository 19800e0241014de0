"""bench.paper.noise on few rows: what is trained on what, and what is written of it."""

from __future__ import annotations

import json

import benchmarks
import numpy as np
import pytest

from fastrealign.core.errors import InputError

pytest.importorskip("sklearn")
common, noise = benchmarks.module("paper.common"), benchmarks.module("paper.noise")


@pytest.fixture
def real(tmp_path, rng):
    """A folder as bench.paper.real makes it, of two heads of each kind; titles name what lies on the first two axes."""
    n, d = 300, 12
    kinds = rng.integers(2, size=n)
    named = np.where(kinds[:, None] == np.arange(2), 2.0, 0.0)
    np.save(tmp_path / "split.npy", np.array(["train", "fit", "test"])[np.arange(n) % 3])
    np.save(tmp_path / "categories.npy", np.array(["animals", "tools"])[kinds])
    np.save(tmp_path / "titles.npy", np.array(["A cat-07", "The hammer"])[kinds])
    (tmp_path / "heads").mkdir()
    for letter in noise.KINDS:
        for seed in range(2):
            for side, shift in (("image", 1.0), ("title", -1.0)):
                rows = 0.5 * rng.standard_normal((n, d)) + shift * (np.arange(d) >= 6)
                rows[:, :2] += named
                np.save(tmp_path / "heads" / f"{letter}{seed}_{side}.npy", rows.astype(np.float32))
    return tmp_path


def test_it_is_measured_reported_and_drawn(real, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(noise.made, "LEAST", 5)
    for limit, value in (("WORDS", 6), ("COPIES", 2)):
        monkeypatch.setattr(noise, limit, value)
    said = []
    measured = noise.REPRODUCTION.measure(common.Setting(True, None, said.append, real))
    results = json.loads(json.dumps({"machine": {"date": "2026-01-01T00:00:00"}, **measured}))
    assert len(said) == 1 + 2 * len(noise.KINDS) and list(results["worlds"]) == ["rendered", *noise.KINDS.values()]
    for name, of in results["worlds"].items():
        assert len(of["upper"]) == (1 if name == "rendered" else 2) == len(of["curves"]["none"]["1"])
    of = results["worlds"][noise.KINDS["C"]]
    assert of["classes"] == 2 and min(of["upper"]) > 0.9 and min(of["words upper"]) > 0.9
    assert (of["train"], of["test"]) == (100, 100)
    text = noise.REPRODUCTION.tell(results)
    assert "nan" not in text and text.count("**") == 2 * len(results["worlds"])
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1
    page = tmp_path / noise.PAGE
    page.parent.mkdir()
    page.write_text("<!-- results:noise -->\n<!-- /results:noise -->\n")
    common.write(tmp_path, noise.REPRODUCTION, results, text)
    assert text in page.read_text() and (tmp_path / "docs/paper/noise.png").read_bytes().startswith(b"\x89PNG")


def test_copies_have_noise_of_their_own_and_weigh_as_one(real, monkeypatch):
    monkeypatch.setattr(noise.made, "LEAST", 5)
    of = next(noise._real(real, "C"))
    method = noise._fitted("c3", of)
    still, rows = noise._noisy(method, of, 0.0, 0), noise._noisy(method, of, 0.5, 0)
    assert len(rows) == noise.COPIES * len(still) == noise.COPIES * len(of.text.rows)
    parts = rows.reshape(noise.COPIES, *still.shape)
    assert not np.isclose(parts[0], parts[1]).all(1).any()
    np.testing.assert_array_equal(parts[0], method(of.text.rows, noise=0.5, seed=0))
    once, many = (noise._model(np.tile(still, (n, 1)), of.text.labels, 3.0) for n in (1, 5))
    np.testing.assert_allclose(once.coef_, many.coef_, atol=1e-3)


def test_what_is_fitted_on_shows_no_picture_twice(real, monkeypatch):
    monkeypatch.setattr(noise.made, "LEAST", 5)
    of = next(noise._real(real, "A"))
    image, text = (np.load(real / "heads" / f"A0_{side}.npy") for side in ("image", "title"))
    split = np.load(real / "split.npy")
    used = [
        {int(np.flatnonzero((rows == row).all(1))[0]) for row in part}
        for rows, part in zip((text, image), of.fit, strict=True)
    ]
    assert not used[0] & used[1] and all(set(split[list(rows)]) == {"fit"} for rows in used)
    assert (of.test.rows == image[split == "test"]).all() and (of.test_text == text[split == "test"]).all()
    assert noise._vocabulary([{"cat", "of"}, {"cat"}, {"hammer"}]) == ["cat", "hammer"]
    assert noise._plain("The Hammer-07") == "the hammer   "


def test_a_folder_without_heads_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"heads: no ASEED_image\.npy; python -m bench\.paper\.real makes them"):
        next(noise._real(tmp_path, "A"))
