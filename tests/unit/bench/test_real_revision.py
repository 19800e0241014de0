"""bench.paper.real_revision: from embeddings of a head to a page, and how answers are judged."""

from __future__ import annotations

import json

import benchmarks
import numpy as np
import pytest

pytest.importorskip("transformers")

from fastrealign.core.errors import InputError

real_revision, common = (benchmarks.module(f"paper.{name}") for name in ("real_revision", "common"))
WORDS = ("red frog", "green frog 2", "old house", "house by night", "red apple")


@pytest.fixture
def heads(tmp_path, rng):
    folder = tmp_path / "real"
    (folder / "heads").mkdir(parents=True)
    n = 50
    titles = np.array([WORDS[i % 5] for i in range(n)])
    kinds = np.array([("animals", "buildings", "food")[(i % 5) // 2] for i in range(n)])
    split = np.array([("train", "train", "fit", "test", "duplicate")[i // 10] for i in range(n)])
    for name, values in {
        "ids": [f"a/{i}" for i in range(n)],
        "titles": titles,
        "categories": kinds,
        "split": split,
    }.items():
        np.save(folder / f"{name}.npy", np.array(values))
    for name in ("title", "image"):
        rows = rng.standard_normal((n, 8)).astype(np.float32)
        np.save(folder / "heads" / f"A0_{name}.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return folder


def test_words_and_category_of_a_line_are_judged():
    line = real_revision.line_of("signs_and_symbols", "No Smoking (2)")
    assert line == "signsandsymbols : no smoking 2"
    stated = real_revision.said(line)
    assert stated == {"category": {("signsandsymbols",)}, "words": {("no",), ("smoking",), ("2",)}}
    assert real_revision.said("")["words"] == set()


def test_what_is_asked_is_counted(heads):
    """Ten pictures of five titles, all of which are in four lines of the training."""
    found = real_revision.asked(real_revision.read(heads, "A0"))
    assert found == {"pictures": 10, "largest category": 0.4, "words known": 1.0}
    lines = ["animals : red frog", "animals : red house", "food : apple"]
    assert real_revision.vocabulary(lines) == [":", "animals", "red"]


def test_only_the_heads_own_split_is_trained_on(heads):
    parts = real_revision.read(heads, "A0")
    assert {name: len(pairs.ids) for name, pairs in parts.items()} == {"train": 20, "fit": 10, "test": 10}
    assert not set(parts["test"].ids) & set(parts["train"].ids)


def test_an_arm_that_was_interrupted_finds_its_files_unchanged(heads, tmp_path, monkeypatch):
    """A run of training is resumed only where its files are those that it began with."""

    def stopped(config, resume):
        raise InputError("stopped")

    monkeypatch.setattr("fastrealign.revision.train.train", stopped)
    parts, found = real_revision.read(heads, "A0"), []
    for _ in range(2):
        with pytest.raises(InputError, match="stopped"):
            real_revision.run(parts, real_revision.ARMS[3], 0, tmp_path)
        found.append({path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.*")})
    assert found[0] == found[1] and len(found[0]) == 3


def test_a_language_model_that_is_not_whole_is_made_again(heads, tmp_path, monkeypatch):
    """Releases before 0.3 wrote into its folder from the start, its config.json last."""

    def make(lines, folder, steps, seed):
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(real_revision, "make_model", make)
    (tmp_path / "titles").mkdir()
    (tmp_path / "titles/weights").touch()
    real_revision.prepare(real_revision.read(heads, "A0")["train"], tmp_path)
    assert [path.name for path in (tmp_path / "titles").iterdir()] == ["config.json"]


def test_heads_that_are_not_measured_keep_their_results(tmp_path, monkeypatch):
    page = tmp_path / "docs/paper.md"
    page.parent.mkdir()
    page.write_text("<!-- results:real_revision -->\n<!-- /results:real_revision -->\n")
    before = json.loads((common.ROOT / common.RESULTS.format("real_revision")).read_text())
    kept = tmp_path / common.RESULTS.format("real_revision")
    kept.parent.mkdir(parents=True)
    kept.write_text(json.dumps(before))
    of_b = {"arms": {"B": before["arms"]["C"]}, "gap": {"B": [0.5, 0.5, 0.5]}, "asked": before["asked"]}
    monkeypatch.setattr(real_revision, "measure", lambda heads, work, only, seeds: of_b if only == ["B"] else None)
    assert real_revision.main(["--heads", "h", "--work", "w", "--only", "B", "--into", str(tmp_path)]) == 0
    after = json.loads(kept.read_text())
    assert {head: after["arms"][head] == before["arms"][head] for head in "ABC"} == {"A": True, "B": False, "C": True}
    assert after["arms"]["B"] == before["arms"]["C"] and after["gap"]["B"] == [0.5, 0.5, 0.5]
    assert after["machines"]["A"] == before["machines"]["A"] != after["machines"]["B"]


@pytest.mark.slow
def test_from_embeddings_to_a_page(heads, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(real_revision, "STEPS", 1)
    monkeypatch.setitem(real_revision.TRAINING, "epochs", 1.0)
    monkeypatch.setattr(real_revision, "ARMS", real_revision.ARMS[:1] + real_revision.ARMS[3:])
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "paper.md"
    page.write_text("# Page\n\n<!-- results:real_revision -->\n<!-- /results:real_revision -->\n")
    command = [
        "--heads",
        str(heads),
        "--work",
        str(tmp_path / "work"),
        "--only",
        "A",
        "--seeds",
        "1",
        "--into",
        str(tmp_path),
    ]
    assert real_revision.main(command) == 0
    kept = json.loads((tmp_path / "bench/results/paper/real_revision.json").read_text())
    assert set(kept["arms"]["A"]) == {"raw text", "ReAlign + noise", "paired images"}
    assert "A, ReAlign + noise minus raw text: title words, F1" in page.read_text()
    assert real_revision.main([*command[:4], "--only", "B", "--seeds", "1"]) == 2
    assert "B0_title.npy" in capsys.readouterr().err
