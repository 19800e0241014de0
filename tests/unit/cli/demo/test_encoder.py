"""The encoder: an open_clip model that learns from one step, and a tokenizer that knows its words."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

from fastrealign import InputError  # noqa: E402
from fastrealign.cli.demo import encoder, samples  # noqa: E402
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


def test_infonces_loss_is_its_formula(rng):
    model = encoder.build(0)
    assert model.logit_bias is None
    image, text = (rng.standard_normal((6, 4)) for _ in range(2))
    found = encoder.infonce(model, torch.tensor(image), torch.tensor(text)).item()
    p = np.exp(image @ text.T / 0.07)
    own = np.diag(p)
    assert found == pytest.approx(-np.mean(np.log(own / p.sum(0)) + np.log(own / p.sum(1))) / 2, rel=1e-5)


def test_between_two_steps_the_model_may_be_used(monkeypatch):
    monkeypatch.setattr(encoder, "BATCH", 4)
    pictures = [render(samples.sample_scene(0))]
    used, alone = encoder.build(0), encoder.build(0)
    for _ in encoder.training(used, 2):
        encoder.encode_images(used, pictures)  # in evaluation mode, which it leaves the model in
    encoder.train(alone, 2)
    for (name, one), other in zip(used.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


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
