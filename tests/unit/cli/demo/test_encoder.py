"""The encoder: an open_clip model that learns from one step, and a tokenizer that knows its words."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

from fastrealign import InputError  # noqa: E402
from fastrealign.cli.demo import encoder, samples, train  # noqa: E402
from fastrealign.cli.demo.scenes import render  # noqa: E402


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


def test_siglips_loss_is_its_formula_with_a_bias_that_learns(batch, rng):
    model = encoder.build(0, "siglip")
    assert model.logit_scale.exp().item() == pytest.approx(10) and model.logit_bias.item() == -10
    image, text = (rng.standard_normal((6, 4)) for _ in range(2))
    with torch.no_grad():
        model.logit_scale.fill_(np.log(3.0))
        model.logit_bias.fill_(-2.0)
        found = encoder.loss_of(model)(torch.tensor(image), torch.tensor(text)).item()
    logits = 3 * image @ text.T - 2
    agrees = 2 * np.eye(6) - 1
    assert found == pytest.approx(np.log1p(np.exp(-agrees * logits)).sum() / 6, rel=1e-6)
    before = model.logit_bias.item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = [encoder.step(model.train(), optimizer, *batch) for _ in range(3)]
    assert losses[2] < losses[0] and model.logit_bias.item() != before


def test_infonces_loss_is_its_formula(rng):
    model = encoder.build(0)
    assert model.logit_bias is None
    image, text = (rng.standard_normal((6, 4)) for _ in range(2))
    found = encoder.loss_of(model)(torch.tensor(image), torch.tensor(text)).item()
    p = np.exp(image @ text.T / 0.07)
    own = np.diag(p)
    assert found == pytest.approx(-np.mean(np.log(own / p.sum(0)) + np.log(own / p.sum(1))) / 2, rel=1e-5)


def test_an_unknown_loss_is_named():
    with pytest.raises(InputError, match="no loss 'triplet': choose one of infonce, siglip"):
        encoder.build(0, "triplet")


@pytest.mark.parametrize("loss", list(encoder.LOSSES))
def test_watching_does_not_change_the_training(loss, monkeypatch):
    monkeypatch.setattr(train, "BATCH", 4)
    pictures = [render(samples.sample_scene(0))]
    steps = []

    def on_step(step, model):
        steps.append(step)
        encoder.encode_images(model, pictures)  # in evaluation mode, which it leaves the model in

    watched, alone = (train.train(2, 0, loss=loss, on_step=watch) for watch in (on_step, None))
    assert steps == [0, 1, 2]
    for (name, one), other in zip(watched.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    assert (watched.logit_bias is not None) == (loss == "siglip")


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
    assert (report["steps"], report["loss"]) == (2, "infonce") and set(report["by length"]) == {
        "short",
        "long",
        "complete",
    }
    encoder.build(1).load_state_dict(load_file(tmp_path / "one" / "encoder.safetensors"))
