"""The demo's world: sets of different scenes, files that training reads, and the command from captions to scores."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from pathlib import Path

import corpus
import pytest

pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from fastrealign import InputError
from fastrealign.cli.demo import backbone, train
from fastrealign.cli.demo.captions import WORDS
from fastrealign.cli.demo.questions import WORDS as ASKING
from fastrealign.cli.demo.train import Recipe
from fastrealign.cli.demo.world import FIRST, Sizes, World, make
from fastrealign.cli.main import main
from fastrealign.revision.data import available, open_embeddings, read_examples
from fastrealign.revision.evaluate import read_items

SIZES = Sizes(24, 40, 12, 12, 6)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("worlds") / "0", SIZES)
    make(world, log=lambda text: None)
    return world


def ids(world, name):
    path = world.path(name)
    if path.suffix == ".jsonl":
        return {item.id for item in read_items(path)}
    if path.suffix == ".json":
        return {example.id for example in read_examples(str(path), shared_ids=True)}
    import pyarrow.parquet as pq

    return set(pq.read_table(path)["id"].to_pylist())


def test_unpaired_means_unpaired(world):
    text = ["pretrain_mixed", "text_tuning"]
    pictures = ["statistics", "tuning", "held_out"]
    of = {name: ids(world, f"{name}.parquet") for name in (*text, *pictures)}
    assert len(of["pretrain_mixed"]) == 24 and len(of["statistics"]) == 40 and len(of["held_out"]) == 6
    for a in text:
        for b in pictures:
            assert not of[a] & of[b], (a, b)
    for i, a in enumerate(pictures):
        assert all(not of[a] & of[b] for b in pictures[i + 1 :])
    assert not of["pretrain_mixed"] & of["text_tuning"]


def test_no_set_of_any_seed_reaches_into_another(tmp_path):
    numbers = [s.seed for seed in (0, 1, 99) for name in FIRST for s in World(tmp_path, SIZES, seed).scenes(name, 30)]
    assert len(set(numbers)) == len(numbers)
    spans = [(first + seed * 1_000_000) for first in FIRST.values() for seed in range(100)]
    assert min(b - a for a, b in itertools.pairwise(sorted(spans))) == 1_000_000
    with pytest.raises(InputError, match="seed=100: expected a whole number from 0 to 99"):
        make(World(tmp_path, SIZES, seed=100))


def test_every_example_has_its_embedding(world):
    for name in ("pretrain_mixed", "tuning", "text_tuning"):
        examples = read_examples(str(world.path(f"{name}.json")))
        embeddings = open_embeddings(str(world.path(f"{name}.parquet")))
        assert len(available(examples, embeddings)) == len(examples) > 0
    held_out = open_embeddings(str(world.path("held_out.parquet")))
    items = read_items(world.path("held_out.jsonl"))
    assert all(item.id in held_out for item in items) and {item.task for item in items} == {"caption", "vqa", "probe"}


def test_the_tokenizer_knows_every_word():
    words = backbone.tokenizer()
    text = " ".join((*WORDS, *ASKING, "USER: ASSISTANT:", backbone.DESCRIBE))
    found = words(text, add_special_tokens=False).input_ids
    assert words.unk_token_id not in found
    assert words.decode(found) == text.replace(":", " :")


def test_what_is_there_is_not_made_again_and_another_world_is_refused(world):
    before = {path: path.stat().st_mtime_ns for path in world.folder.iterdir()}
    said = []
    make(world, log=said.append)
    assert said == [f"{world.folder}: exists already"]
    assert before == {path: path.stat().st_mtime_ns for path in world.folder.iterdir()}
    with pytest.raises(InputError, match="holds a world of other sizes"):
        make(World(world.folder, SIZES, seed=1), log=said.append)
    with pytest.raises(InputError, match="no family of scenes 'moon'"):
        make(World(world.folder / "new", SIZES, family="moon"), log=said.append)


def test_what_an_interrupted_run_left_is_made_again(world, tmp_path):
    again = World(tmp_path / "1", SIZES)
    shutil.copytree(world.folder, again.folder)
    again.path("world.json").unlink()
    left = [path for path in again.folder.rglob("*") if path.is_file()]
    assert {path.name for path in left} >= {"model.safetensors", "tokenizer.json", "statistics.parquet", "tuning.json"}
    for path in left:
        os.truncate(path, path.stat().st_size // 2)
    make(again, log=lambda text: None)
    assert corpus.tree(again.folder) == corpus.tree(world.folder)


def test_recipes_that_cannot_be():
    with pytest.raises(InputError, match="did you mean 'realign'"):
        Recipe("relign")
    with pytest.raises(InputError, match="tuning='sound'"):
        Recipe(tuning="sound")


def test_the_command_makes_trains_judges_and_draws(world, tmp_path, monkeypatch, capsys):
    import torch

    for stage in (train.STAGE_1, train.STAGE_2):
        monkeypatch.setitem(stage, "epochs", 1.0)
    monkeypatch.setattr(train, "Sizes", lambda: SIZES)
    trained, threads = train.train_stage, []
    monkeypatch.setattr(train, "train_stage", lambda *given: (threads.append(torch.get_num_threads()), trained(*given)))
    (tmp_path / "world").symlink_to(world.folder)
    picture = tmp_path / "seen.png"
    command = ["train", "demo", "--out", str(tmp_path), "--picture", str(picture)]
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    assert main(command) == 0
    assert threads == [1, 1] and torch.get_num_threads() == 2
    torch.set_num_threads(before)
    printed = capsys.readouterr()
    assert (
        "On images never seen" in printed.out and "captions, colours: F1" in printed.out and str(picture) in printed.out
    )
    assert "exists already" in printed.err and "Traceback" not in printed.err
    assert picture.read_bytes()[:4] == b"\x89PNG"
    drawn = os.stat(picture)
    assert main(command) == 2 and "seen.png: exists; choose another name" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0 and os.stat(picture).st_ino != drawn.st_ino
    capsys.readouterr()
    assert main([*command[:4], "--json", "--quiet", "--tuning", "text", "--method", "c3"]) == 0
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert found["recipe"] == {"method": "c3", "tuning": "text", "seed": 0}
    # --quiet leaves what is warned of: the fit of C3 has few rows.
    assert all("aim for 10,000 rows" in line for line in again.err.splitlines())
    assert {"caption", "blind/caption"} <= set(found["scores"]) and all(0 <= v <= 1 for v in found["scores"].values())
    kept = [json.loads(line) for line in Path(found["out"], "answers.jsonl").read_text().splitlines()]
    kinds = {(a["task"], a["blind"]) for a in kept}
    assert kinds == {(task, blind) for task in ("caption", "vqa", "probe") for blind in (False, True)}
    assert main([*command[:4], "--method", "relign"]) == 2
    assert "did you mean 'realign'" in capsys.readouterr().err
