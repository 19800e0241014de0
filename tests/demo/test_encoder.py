"""The encoder: an open_clip model that learns from one step, and a tokenizer that knows its words."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

from fastrealign import InputError  # noqa: E402
from fastrealign.demo import encoder, samples, train  # noqa: E402
from fastrealign.demo.scenes import render  # noqa: E402


@pytest.fixture(scope="module")
def batch():
    scenes = [samples.sample_scene(s) for s in range(16)]
    texts = [samples.sample_caption(s).text for s in scenes]
    return encoder.pixels([render(s) for s in scenes]), encoder.tokenize(texts)


def test_it_is_open_clips_model_and_a_seed_decides_its_weights():
    import open_clip

    model, again, other = encoder.build(0), encoder.build(0), encoder.build(1)
    assert isinstance(model, open_clip.CLIP)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)]
    assert all(same) and not torch.equal(model.text_projection, other.text_projection)


def test_steps_lower_the_loss_and_the_first_moves_both_towers(batch):
    model = encoder.build(0).train()
    parts = [model.visual.conv1.weight, model.text_projection, model.logit_scale]
    before = [p.detach().clone() for p in parts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = [encoder.step(model, optimizer, *batch)]
    assert losses[0] == pytest.approx(np.log(16), abs=1.0)
    assert not any(torch.equal(a, b) for a, b in zip(before, parts, strict=True))
    losses += [encoder.step(model, optimizer, *batch) for _ in range(2)]
    assert losses[1] < losses[0] and losses[2] < losses[1]


def test_the_temperature_stays_at_clips_floor(batch):
    model = encoder.build(0)
    with torch.no_grad():
        model.logit_scale.fill_(5.0)
    encoder.step(model, torch.optim.SGD(model.parameters(), lr=0.0), *batch)
    assert model.logit_scale.exp().item() == pytest.approx(100)


def test_embeddings_do_not_depend_on_the_batch():
    model = encoder.build(0)
    scenes = [samples.sample_scene(s) for s in range(10)]
    pictures, texts = [render(s) for s in scenes], [samples.sample_caption(s).text for s in scenes]
    for encode, items in [(encoder.encode_images, pictures), (encoder.encode_texts, texts)]:
        rows = encode(model, items)
        assert rows.shape == (10, encoder.DIM) and rows.dtype == np.float32
        np.testing.assert_allclose(encode(model, items, batch=3), rows, atol=1e-5)


def test_tokens():
    ids = encoder.tokenize(["a red circle", "stars"])
    assert ids.shape == (2, encoder.CONTEXT) and ids.dtype == torch.int64
    assert ids[0].tolist().index(encoder.END) == 4 and ids[0, 0] == encoder.START and ids[0, 5] == encoder.PAD
    assert (ids.max(dim=1).values == encoder.END).all()


def test_words_outside_the_vocabulary_are_named():
    with pytest.raises(InputError, match="'a red dog' has the word 'dog'"):
        encoder.tokenize(["a red circle", "a red dog"])
    with pytest.raises(InputError, match="has 32 words, more than 31"):
        encoder.tokenize([" ".join(["red"] * 32)])


def test_pixels():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[0, 1] = 255
    tensor = encoder.pixels([picture])
    assert tensor.shape == (1, 3, 64, 64) and tensor[0, :, 0, 1].tolist() == [1, 1, 1] and tensor[0, 0, 0, 0] == -1


@pytest.mark.slow
def test_the_command_remakes_the_files(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    few = {name: seeds[:40] for name, seeds in samples.SEEDS.items()}
    monkeypatch.setattr(samples, "SEEDS", few)
    for folder in ("one", "two"):
        assert train.main(["--out", str(tmp_path / folder), "--steps", "2"]) == 0
    for name in few:
        one, two = (np.load(tmp_path / folder / f"{name}.npy") for folder in ("one", "two"))
        assert one.shape == (40, encoder.DIM) and one.dtype == np.float16
        np.testing.assert_array_equal(one, two)
    report = json.loads((tmp_path / "one" / "training.json").read_text())
    assert report["steps"] == 2 and set(report["by length"]) == {"short", "long", "complete"}
    encoder.build(1).load_state_dict(load_file(tmp_path / "one" / "encoder.safetensors"))
