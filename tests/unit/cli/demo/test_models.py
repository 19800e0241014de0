"""The models that ship: small enough, with their record, and able to do what the demo relies on; and their remaking."""

from __future__ import annotations

import json

import benchmarks
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("open_clip")

from safetensors.torch import load_file  # noqa: E402

from fastrealign.cli.demo import backbone, captions, encoder, models, questions  # noqa: E402
from fastrealign.cli.demo.scenes import render, scene  # noqa: E402
from fastrealign.cli.demo.world import FIRST  # noqa: E402

encoder_training = benchmarks.module("paper.world.encoder_training")

SCENES = [scene(s) for s in range(800_000, 800_060)]


def test_files_are_small_and_say_where_they_come_from():
    files = (models.ENCODER, models.BACKBONE)
    assert sum(path.stat().st_size for path in files) <= 10_000_000
    for path in files:
        assert {v.dtype for v in load_file(path).values() if v.is_floating_point()} == {torch.float16}
    record = json.loads(models.RECORD.read_text())
    assert {"made by", "date", "licence", "seed", "encoder", "language model", "torch"} <= set(record)
    assert record["made by"] == "python -m bench.paper.world.models"


def test_the_encoder_finds_the_picture_of_a_complete_caption():
    model = models.load_encoder()
    image = encoder.encode_images(model, [render(s) for s in SCENES])
    text = encoder.encode_texts(model, [captions.caption(s, "complete").text for s in SCENES])
    image, text = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (image, text))
    assert (np.argmax(text @ image.T, axis=1) == np.arange(len(SCENES))).mean() > 0.9


def test_the_language_model_reads_a_description():
    """It names colours and tells what is there from what is not, where a text describes the scene."""
    model, words = models.load_backbone(), backbone.tokenizer()
    right: dict[str, list[bool]] = {}
    for s in SCENES[:8]:
        made = captions.caption(s, "complete")
        asked = [(f"{made.text} . {note}", answer, "note") for note, answer in questions.notes(s, made, 0)]
        existence = [q for q in questions.questions(s, made) if q.kind == "existence"]
        asked += [(f"USER: {made.text} {q.text} ASSISTANT:", q.answer, q.kind) for q in existence]
        for text, answer, kind in asked:
            with torch.inference_mode():
                given = model(words(text, return_tensors="pt").input_ids).logits[0, -1].argmax()
            right.setdefault(kind, []).append(words.decode(given) == answer)
    shares = {kind: float(np.mean(values)) for kind, values in right.items()}
    assert set(shares) == {"note", "existence"} and min(shares.values()) > 0.9, shares


def test_the_command_remakes_them(tmp_path, monkeypatch):
    made = benchmarks.module("paper.world.models")
    monkeypatch.setattr(encoder_training, "BATCH", 8)
    monkeypatch.setattr(made, "_HELD_OUT", range(30))
    monkeypatch.setattr(made.language, "ROWS", 2)
    command = ["--encoder-steps", "2", "--backbone-steps", "1", "--seed", "3", "--out", str(tmp_path)]
    assert made.main(command) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        p.name for p in (models.ENCODER, models.BACKBONE, models.RECORD)
    }
    shipped = load_file(models.ENCODER)
    assert {n: v.shape for n, v in load_file(tmp_path / models.ENCODER.name).items()} == {
        n: v.shape for n, v in shipped.items()
    }
    assert models.load_backbone(tmp_path / models.BACKBONE.name).config.hidden_size == backbone.WIDTH
    record, ours = (json.loads(path.read_text()) for path in (tmp_path / models.RECORD.name, models.RECORD))
    assert set(record) == set(ours) and record["seed"] == 3 and record["encoder"]["steps"] == 2


def test_siblings_share_all_but_nouns_and_none_is_of_the_demo():
    made = benchmarks.module("paper.world.models")
    for group in range(500_000, 500_040):
        family = [made.sibling(4 * group + i) for i in range(4)]
        assert len({tuple((o.colour, o.size, o.x, o.y) for o in s.objects) for s in family}) == 1
        if group % 2:
            kinds = [sorted(o.noun for o in s.objects) for s in family[: len(family[0].objects)]]
            assert all(k == kinds[0] for k in kinds)
    assert min(FIRST.values()) > encoder_training.BATCH * made.ENCODER_STEPS + 1_000_000
