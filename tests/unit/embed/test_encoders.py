"""Embeddings against those of the library called directly, for every kind of encoder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from embed_fixtures import SIDE
from embed_output import in_order, rows_of, unit

torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402


def embedded(run, tmp_path, source, *words):
    """The rows that the command writes for `source`, as float32."""
    out = tmp_path / "out"
    code, _, err = run(source, "--out", out, "--dtype", "float32", "--batch-size", 4, "--shard-rows", 7, *words)
    assert (code, err) == (0, "")
    return rows_of(out)


def pictures_of(photos):
    return [Image.open(photos / name).convert("RGB") for name in in_order(photos)]


def test_open_clip_images_are_those_of_open_clip(tmp_path, run, photos, open_clip_folder):
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{open_clip_folder}")
    with torch.no_grad():
        wanted = model.eval().encode_image(torch.stack([transform(picture) for picture in pictures_of(photos)]))
    np.testing.assert_allclose(embedded(run, tmp_path, photos, "--clip", open_clip_folder), unit(wanted), atol=2e-6)


@pytest.mark.parametrize("named", ["folder", "local-dir", "json"])
def test_open_clip_captions_are_those_of_open_clip_however_it_is_named(
    tmp_path, run, jsonl, captions, open_clip_folder, named
):
    import open_clip

    model = open_clip.create_model(f"local-dir:{open_clip_folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{open_clip_folder}")(captions)
    with torch.no_grad():
        wanted = model.encode_text(tokens)
    words = {"folder": ["--clip", open_clip_folder], "local-dir": ["--clip", f"local-dir:{open_clip_folder}"]}.get(
        named
    )
    if named == "json":
        config = json.loads((open_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
        config["text_cfg"]["hf_tokenizer_name"] = str(open_clip_folder)
        path = tmp_path / f"tiny-{tmp_path.name}.json"
        path.write_text(json.dumps(config))
        words = ["--clip", path, "--pretrained", open_clip_folder / "open_clip_model.safetensors"]
    np.testing.assert_allclose(embedded(run, tmp_path, jsonl, *words), unit(wanted), atol=2e-6)


def test_the_demos_own_encoder_saved_as_open_clip_saves(tmp_path, run):
    """Its words are the tokens of a tokenizer saved beside it; pictures are 64 x 64 as its scenes are."""
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import HFTokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from fastrealign.cli.demo import encoder, samples
    from fastrealign.cli.demo.scenes import render

    model = encoder.build(0).eval()
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<s>": 1, **encoder.IDS, "</s>": encoder.END}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", encoder.END)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(tmp_path / "words")
    config = {**encoder.CONFIG, "text_cfg": {**encoder.CONFIG["text_cfg"], "hf_tokenizer_name": "beside it"}}
    half = (0.5, 0.5, 0.5)
    how = {"size": 64, "mode": "RGB", "mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "shortest"}
    set_model_preprocess_cfg(model, {**how, "fill_color": 0})
    tokenizer = HFTokenizer(str(tmp_path / "words"), context_length=encoder.CONTEXT)
    save_for_hf(model, tokenizer, config, str(tmp_path / "demo"), safe_serialization=True)

    scenes = [samples.sample_scene(s) for s in range(6)]
    texts = [samples.sample_caption(scene).text for scene in scenes]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    (tmp_path / "pictures").mkdir()
    for i, scene in enumerate(scenes):
        Image.fromarray(render(scene)).save(tmp_path / "pictures" / f"{i}.png")
    found = embedded(run, tmp_path, tmp_path / "texts.txt", "--clip", tmp_path / "demo")
    np.testing.assert_allclose(found, unit(encoder.encode_texts(model, texts)), atol=2e-6)
    shutil.rmtree(tmp_path / "out")
    found = embedded(run, tmp_path, tmp_path / "pictures", "--clip", tmp_path / "demo")
    np.testing.assert_allclose(found, unit(encoder.encode_images(model, [render(s) for s in scenes])), atol=2e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_images_are_those_of_transformers(tmp_path, run, photos, request, kind):
    from transformers import AutoImageProcessor, AutoModel

    folder = request.getfixturevalue(f"{kind}_folder")
    batch = AutoImageProcessor.from_pretrained(folder)(images=pictures_of(photos), return_tensors="pt")
    assert batch["pixel_values"].shape[-2:] == (SIDE, SIDE)
    with torch.no_grad():
        wanted = AutoModel.from_pretrained(folder).eval().get_image_features(**batch)
    found = embedded(run, tmp_path, photos, "--model", folder)
    np.testing.assert_allclose(found, unit(getattr(wanted, "pooler_output", wanted)), atol=2e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_transformers_captions_are_those_of_transformers(tmp_path, run, jsonl, captions, request, kind):
    """One by one, CLIP's without padding and SigLIP's padded to its limit, as it was trained: a batch must not matter."""
    from transformers import AutoModel, AutoTokenizer

    folder = request.getfixturevalue(f"{kind}_folder")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    padding = {"clip": {"max_length": 16}, "siglip": {"padding": "max_length", "max_length": 12}}[kind]
    wanted = []
    for text in captions:
        batch = tokenizer([text], truncation=True, return_tensors="pt", **padding)
        with torch.no_grad():
            features = model.get_text_features(**batch)
        wanted.append(getattr(features, "pooler_output", features)[0].numpy())
    np.testing.assert_allclose(embedded(run, tmp_path, jsonl, "--model", folder), unit(wanted), atol=2e-6)


@pytest.fixture
def states(llama_folder):
    """states(text): the tokens of a text and the last hidden states of each, alone in its batch."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(llama_folder).eval(), AutoTokenizer.from_pretrained(llama_folder)

    def states(text):
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            found = model(input_ids=batch["input_ids"]).last_hidden_state[0].numpy()
        return tokenizer.convert_ids_to_tokens(batch["input_ids"][0]), found

    return states


def test_a_language_models_mean_is_llm2vecs(tmp_path, run, jsonl, captions, llama_folder, states):
    """As many states from the end as the caption has tokens of its own, whatever the tokenizer puts around it."""
    wanted = [states(text)[1][-len(text.split()) :].mean(0) for text in captions]
    np.testing.assert_allclose(embedded(run, tmp_path, jsonl, "--model", llama_folder), unit(wanted), atol=2e-6)


def test_what_stands_before_the_caption_is_read_and_not_pooled(tmp_path, run, jsonl, captions, llama_folder, states):
    short = [text for text in captions if len(text.split()) < 9]
    (tmp_path / "short.txt").write_text("\n".join(short))
    wanted = [states(f"the large {text} near")[1][-len(text.split()) - 1 :].mean(0) for text in short]
    found = embedded(run, tmp_path, tmp_path / "short.txt", "--model", llama_folder, "--template", "the large {} near")
    np.testing.assert_allclose(found, unit(wanted), atol=2e-6)


def test_last_and_end_tokens(tmp_path, run, jsonl, captions, llama_folder, states):
    tokens, last = zip(*(states(text) for text in captions), strict=True)
    assert {words[-1] for words in tokens} == {"</s>"}
    found = embedded(run, tmp_path, jsonl, "--model", llama_folder, "--pooling", "last")
    np.testing.assert_allclose(found, unit([rows[-1] for rows in last]), atol=2e-6)
    shutil.rmtree(tmp_path / "out")
    found = embedded(run, tmp_path, jsonl, "--model", llama_folder, "--pooling", "eos")
    wanted = [states(f"{text} </s>")[1][-1] for text in captions]
    np.testing.assert_allclose(found, unit(wanted), atol=2e-6)


# In place of LLM2CLIP's CLIP part, whose code comes with it: what takes pooled states.
_CODE = """
import torch
from transformers import PretrainedConfig, PreTrainedModel


class PartConfig(PretrainedConfig):
    model_type = "clip_part"


class Part(PreTrainedModel):
    config_class = PartConfig

    def __init__(self, config):
        super().__init__(config)
        self.adapter = torch.nn.Linear(32, 24)
        self.post_init()

    def get_text_features(self, states):
        return self.adapter(states)
"""


@pytest.fixture(scope="module")
def part_folder(tmp_path_factory):
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("models") / "llm2clip"
    folder.mkdir()
    (folder / "part.py").write_text(_CODE)
    auto = {"AutoConfig": "part.PartConfig", "AutoModel": "part.Part"}
    (folder / "config.json").write_text(json.dumps({"model_type": "clip_part", "auto_map": auto}))
    torch.manual_seed(2)
    tensors = {"adapter.weight": torch.randn(24, 32), "adapter.bias": torch.randn(24)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_llm2clip_hands_the_pooled_states_on_and_runs_its_code_only_if_asked(
    tmp_path, run, jsonl, captions, llama_folder, part_folder, states, monkeypatch
):
    from safetensors.torch import load_file

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "code"))
    words = ["--model", part_folder, "--text-model", llama_folder]
    code, _, err = run(jsonl, "--out", tmp_path / "out", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert f"--model {part_folder}: runs code" in err and "--trust-remote-code" in err
    assert not (tmp_path / "out").exists()
    pooled = np.stack([states(text)[1][-len(text.split()) :].mean(0) for text in captions])
    tensors = load_file(part_folder / "model.safetensors")
    wanted = unit(pooled @ tensors["adapter.weight"].numpy().T + tensors["adapter.bias"].numpy())
    found = embedded(run, tmp_path, jsonl, *words, "--trust-remote-code")
    np.testing.assert_allclose(found, wanted, atol=2e-6)


@pytest.mark.parametrize(("kind", "precision"), [("open_clip", "bf16"), ("clip", "fp16"), ("llama", "bf16")])
def test_sixteen_bits_come_close(tmp_path, run, jsonl, request, kind, precision):
    folder = request.getfixturevalue(f"{kind}_folder")
    words = ["--clip" if kind == "open_clip" else "--model", folder]
    whole = embedded(run, tmp_path, jsonl, *words)
    shutil.rmtree(tmp_path / "out")
    half = embedded(run, tmp_path, jsonl, *words, "--precision", precision)
    assert not np.array_equal(whole, half)
    # Steps of 2^-8, or 2^-11, a layer, and a handful of layers.
    assert (whole * half).sum(1).min() > 0.995
