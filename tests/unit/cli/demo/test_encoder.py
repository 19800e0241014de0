"""The encoder: an open_clip model, and a tokenizer that knows its words."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

from fastrealign import InputError  # noqa: E402
from fastrealign.cli.demo import encoder, samples  # noqa: E402
from fastrealign.cli.demo.scenes import render  # noqa: E402


def test_it_is_open_clips_model_and_a_seed_decides_its_weights():
    import open_clip

    model, again, other = encoder.build(0), encoder.build(0), encoder.build(1)
    assert isinstance(model, open_clip.CLIP)
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07)
    same = [torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)]
    assert all(same) and not torch.equal(model.text_projection, other.text_projection)


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
