"""The training of the demo's dual encoder: it learns from one step, and its temperature has a floor."""

from __future__ import annotations

import benchmarks
import numpy as np
import pytest

pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

from fastrealign.cli.demo import encoder, samples  # noqa: E402
from fastrealign.cli.demo.scenes import render  # noqa: E402

encoder_training = benchmarks.module("paper.world.encoder_training")


@pytest.fixture(scope="module")
def batch():
    scenes = [samples.sample_scene(s) for s in range(16)]
    texts = [samples.sample_caption(s).text for s in scenes]
    return encoder.pixels([render(s) for s in scenes]), encoder.tokenize(texts)


def test_steps_lower_the_loss_and_the_first_moves_both_towers(batch):
    model = encoder.build(0).train()
    parts = [model.visual.conv1.weight, model.text_projection, model.logit_scale]
    before = [p.detach().clone() for p in parts]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    losses = [encoder_training.step(model, optimizer, *batch)]
    assert losses[0] == pytest.approx(np.log(16), abs=1.0)
    assert not any(torch.equal(a, b) for a, b in zip(before, parts, strict=True))
    losses += [encoder_training.step(model, optimizer, *batch) for _ in range(2)]
    assert losses[1] < losses[0] and losses[2] < losses[1]


def test_the_temperature_stays_at_clips_floor(batch):
    model = encoder.build(0)
    with torch.no_grad():
        model.logit_scale.fill_(5.0)
    encoder_training.step(model, torch.optim.SGD(model.parameters(), lr=0.0), *batch)
    assert model.logit_scale.exp().item() == pytest.approx(100)


def test_infonces_loss_is_its_formula(rng):
    model = encoder.build(0)
    assert model.logit_bias is None
    image, text = (rng.standard_normal((6, 4)) for _ in range(2))
    found = encoder_training.infonce(model, torch.tensor(image), torch.tensor(text)).item()
    p = np.exp(image @ text.T / 0.07)
    own = np.diag(p)
    assert found == pytest.approx(-np.mean(np.log(own / p.sum(0)) + np.log(own / p.sum(1))) / 2, rel=1e-5)


def test_between_two_steps_the_model_may_be_used(monkeypatch):
    monkeypatch.setattr(encoder_training, "BATCH", 4)
    pictures = [render(samples.sample_scene(0))]
    used, alone = encoder.build(0), encoder.build(0)
    for _ in encoder_training.training(used, 2):
        encoder.encode_images(used, pictures)  # in evaluation mode, which it leaves the model in
    encoder_training.train(alone, 2)
    for (name, one), other in zip(used.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
