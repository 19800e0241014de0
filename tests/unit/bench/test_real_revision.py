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


@pytest.fixture
def kept(heads, tmp_path, monkeypatch):
    """Results of heads A and C, one seed, and a function that measures B with these arguments."""
    for head in "BC":
        for name in ("title", "image"):
            rows = np.load(heads / "heads" / f"A0_{name}.npy")
            np.save(heads / "heads" / f"{head}0_{name}.npy", rows if head == "B" else -rows)
    page = tmp_path / "docs/paper.md"
    page.parent.mkdir()
    page.write_text("<!-- results:real_revision -->\n<!-- /results:real_revision -->\n")
    scores = json.loads((common.ROOT / common.RESULTS.format("real_revision")).read_text())

    def measure(folder, work, only, seeds):
        arms = {head: {arm: of[:seeds] for arm, of in scores["arms"][head].items()} for head in only}
        return {"arms": arms, "gap": dict.fromkeys(only, [0.5] * seeds), "asked": scores["asked"]}

    monkeypatch.setattr(real_revision, "measure", measure)

    def of(only, *more):
        given = ["--heads", str(heads), "--work", str(tmp_path / "work"), "--seeds", "1", "--into", str(tmp_path)]
        return real_revision.main([*given, "--only", *only, *more])

    assert of("AC") == 0
    return of


def test_heads_that_are_not_measured_keep_their_results(kept, tmp_path):
    path = tmp_path / common.RESULTS.format("real_revision")
    before = json.loads(path.read_text())
    before["machines"]["A"] = {"cpu": "another"}
    path.write_text(json.dumps(before))
    assert kept("B") == 0
    after = json.loads(path.read_text())
    assert list(after["arms"]) == list(after["made from"]) == ["A", "B", "C"]
    assert all(after[part]["A"] == before[part]["A"] for part in ("arms", "gap", "machines", "made from"))
    assert after["arms"]["B"] != after["arms"]["A"] and "cpu" in after["machines"]["B"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda heads, of: of.setitem(real_revision.TRAINING, "epochs", 1.0), "A were made from stage 1 {"),
        (lambda heads, of: np.save(heads / "ids.npy", np.zeros(50)), "A were made from another ids.npy;"),
        (
            lambda heads, of: (heads / "heads/C0_image.npy").write_bytes(b"x"),
            "C were made from another heads/C0_image.npy;",
        ),
    ],
)
def test_kept_results_of_other_heads_or_settings_are_refused(kept, heads, tmp_path, monkeypatch, capsys, change, says):
    """In one line, before anything is measured; the advice works, in another folder of models."""
    change(heads, monkeypatch)
    path = tmp_path / common.RESULTS.format("real_revision")
    before = path.read_bytes()
    assert kept("B") == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and "measure all alike, with --only A B C" in said
    assert path.read_bytes() == before
    assert kept("ABC", "--work", str(tmp_path / "other")) == 0


def test_kept_results_of_other_seeds_are_refused(kept, capsys):
    assert kept("B", "--seeds", "0") == 2
    assert "of head A were made from seeds 1, now 0; measure all alike" in capsys.readouterr().err


def test_results_that_do_not_say_what_they_were_made_from_are_refused(kept, tmp_path, capsys):
    path = tmp_path / common.RESULTS.format("real_revision")
    before = json.loads(path.read_text())
    del before["made from"]
    path.write_text(json.dumps(before))
    assert kept("B") == 2
    assert "results of head A were made from; measure all heads, without --only" in capsys.readouterr().err


def test_models_and_scores_of_other_heads_are_not_taken_for_these(kept, heads, tmp_path, capsys):
    """What is in --work of other heads of one name, or of no stated origin."""
    np.save(heads / "heads/A0_title.npy", np.zeros((50, 8), np.float32))
    work = tmp_path / "work"
    assert kept("AC") == 2
    said = capsys.readouterr().err
    assert f"{work}: was made from another heads/A0_title.npy; remove the folder" in said and said.count("\n") == 1
    (work / "made_from.json").rename(work / "titles.jsonl")
    assert kept("AC") == 2 and "has no made_from.json" in capsys.readouterr().err
    assert kept("AC", "--work", str(tmp_path / "other")) == 0


def test_the_committed_results_say_what_they_were_made_from():
    found = json.loads((common.ROOT / common.RESULTS.format("real_revision")).read_text())
    settings = {"noise": real_revision.NOISE, "steps of the language model": real_revision.STEPS}
    expected = settings | {"stage 1": real_revision.TRAINING, "seeds": real_revision.SEEDS}
    assert {head: of["settings"] for head, of in found["made from"].items()} == dict.fromkeys("ABC", expected)
    assert {len(of["inputs"]) for of in found["made from"].values()} == {4 + 2 * real_revision.SEEDS}


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
