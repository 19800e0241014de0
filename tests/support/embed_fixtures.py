"""Tiny encoders with random weights, saved as open_clip and transformers save theirs, and pictures and captions to embed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastrealign.cli.main import main

SIDE = 32  # of the pictures that the tiny encoders take
WORDS = [
    "a",
    "the",
    "red",
    "green",
    "blue",
    "round",
    "square",
    "cat",
    "dog",
    "house",
    "on",
    "under",
    "near",
    "small",
    "large",
]


@pytest.fixture(scope="session")
def one_thread_and_no_network():
    torch = pytest.importorskip("torch")
    pytest.importorskip("open_clip")
    pytest.importorskip("transformers")
    pytest.importorskip("pyarrow")
    import huggingface_hub.constants

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    patch = pytest.MonkeyPatch()
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    yield
    patch.undo()
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer(one_thread_and_no_network):
    """Words as tokens between a start and an end, as transformers has it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<pad>", "<s>", "<unk>", *WORDS, "</s>"])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(word, vocabulary[word]) for word in ("<s>", "</s>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=16,
        model_input_names=["input_ids", "attention_mask"],  # as CLIP takes them; transformers 4 adds types of tokens
    )


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory, tokenizer):
    """What open_clip's save_for_hf writes: configuration, weights, tokenizer."""
    import torch
    from open_clip import CLIP
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.push_to_hf_hub import save_for_hf
    from open_clip.tokenizer import HFTokenizer

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIDE, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": len(tokenizer),
            "width": 32,
            "heads": 2,
            "layers": 1,
            "hf_tokenizer_name": "within the folder",
        },
    }
    torch.manual_seed(0)
    model = CLIP(**{**config, "text_cfg": {k: v for k, v in config["text_cfg"].items() if k != "hf_tokenizer_name"}})
    how = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "interpolation": "bicubic", "resize_mode": "shortest"}
    set_model_preprocess_cfg(model, {"size": SIDE, "mode": "RGB", "fill_color": 0, **how})
    folder = tmp_path_factory.mktemp("models") / "tiny_open_clip"
    words = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save_pretrained(words)
    save_for_hf(model, HFTokenizer(str(words), context_length=16), config, str(folder), safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory, tokenizer):
    """A CLIPModel of transformers with its tokenizer and image processor."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id}
    config = CLIPConfig(
        text_config={**tower, **text, "bos_token_id": 1, "pad_token_id": 0},
        vision_config={**tower, "image_size": SIDE, "patch_size": 16},
        projection_dim=24,
    )
    size = {"shortest_edge": SIDE}
    processor = CLIPImageProcessor(size=size, crop_size={"height": SIDE, "width": SIDE})
    return _saved(tmp_path_factory, "tiny_clip", CLIPModel(config), tokenizer, processor)


@pytest.fixture(scope="session")
def siglip_folder(tmp_path_factory, tokenizer):
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tower = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 12},
        vision_config={**tower, "image_size": SIDE, "patch_size": 16},
    )
    processor = SiglipImageProcessor(size={"height": SIDE, "width": SIDE})
    return _saved(tmp_path_factory, "tiny_siglip", SiglipModel(config), tokenizer, processor)


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory, tokenizer):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    return _saved(tmp_path_factory, "tiny_llama", LlamaForCausalLM(config), tokenizer)


def _saved(tmp_path_factory, name, model, *others):
    import torch

    torch.manual_seed(1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path_factory.mktemp("models") / name
    for part in (model, *others):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path, rng):
    """A folder of 11 pictures of several formats and sizes, in folders of its own; beside them something else."""
    Image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(11):
        pixels = rng.integers(0, 256, (20 + 7 * i, 60, 3), dtype=np.uint8)
        name = f"more/{i}.png" if i % 3 == 0 else f"{i}.{'jpg' if i % 2 else 'webp'}"
        Image.fromarray(pixels).save(folder / name)
    (folder / "notes.csv").write_text("nothing to see")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


@pytest.fixture
def captions(rng):
    return [" ".join(rng.choice(WORDS, rng.integers(1, 12))) for _ in range(23)]


@pytest.fixture
def jsonl(tmp_path, captions):
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps({"id": f"c{i}", "caption": text}) + "\n" for i, text in enumerate(captions)))
    return path


@pytest.fixture
def run(capfd, one_thread_and_no_network):
    """Runs `fastrealign embed`; returns the exit code, stdout and stderr."""

    def run(*argv):
        capfd.readouterr()  # what others printed before
        code = main(["embed", "--device", "cpu", *map(str, argv)])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run
