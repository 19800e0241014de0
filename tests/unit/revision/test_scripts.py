"""The examples, run on tiny random models: each learns what it says and leaves what others can read."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import runs  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny import HIDDEN, build_lm  # noqa: E402

import fastrealign as fr  # noqa: E402
from fastrealign.cli.main import main  # noqa: E402
from fastrealign.revision.model import IMAGE_TOKEN, RevisionModel, load_lm  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def world(tmp_path, rng):
    runs.write_world(tmp_path, rng)
    return tmp_path


@pytest.fixture
def arguments(world):
    def arguments(**more):
        given = {"captions": "captions.jsonl", "text": "text.npy", "images": "image.npy", **more}
        return [part for name, file in given.items() for part in (f"--{name}", str(world / file))]

    return arguments


def test_the_plain_loop_trains_an_adapter(world, tiny_lm, arguments, capsys):
    loop = example("plain_loop")
    assert len((EXAMPLES / "plain_loop.py").read_text().splitlines()) <= 60
    given = [*arguments(out="mm_projector.bin"), "--lm", str(tiny_lm), "--batch-size", "4", "--learning-rate", "0.05"]
    losses = loop.main(given)
    assert len(losses) == 6 and losses[-1] < losses[0] and "6 steps" in capsys.readouterr().out
    model = RevisionModel(load_lm(tiny_lm), runs.DIM)
    model.load_adapter(world / "mm_projector.bin")


def test_a_llava_script_takes_aligned_text_for_images(world, tiny_tokenizer, arguments):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = {
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 16,
        "patch_size": 8,
    }
    text = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": len(tiny_tokenizer)}
    llava = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(hidden_size=16, **vision),
            text_config=LlamaConfig(hidden_size=HIDDEN, **text),
        )
    )
    llava.save_pretrained(world / "llava")
    tiny_tokenizer.save_pretrained(world / "llava")
    dropin = example("llava_dropin")
    losses = dropin.main([*arguments(llava="llava", out="projector.safetensors"), "--batch-size", "4"])
    assert len(losses) == 6 and np.isfinite(losses).all()

    # What it trained is LLaVA's projector, and RevisionModel's adapter: both make the same of a real image.
    model = RevisionModel(build_lm(len(tiny_tokenizer)), runs.DIM)
    model.load_adapter(world / "projector.safetensors")
    projector = dropin.projector_of(llava, runs.DIM)
    trained = load_file(world / "projector.safetensors")
    projector.load_state_dict({name.removeprefix("multi_modal_projector."): value for name, value in trained.items()})
    image = torch.from_numpy(np.load(world / "image.npy")[:1])
    words = dropin.words_and_images(llava, torch.tensor([[1, 5, IMAGE_TOKEN, 9]]), image)
    torch.testing.assert_close(words[:, 2], model.adapter(image)[:, 0])
    assert torch.equal(words[0, 1], llava.get_input_embeddings().weight[5])


def test_the_configurations_train_both_stages(world, tiny_lm, monkeypatch, capsys):
    monkeypatch.chdir(world)
    (world / "lm").symlink_to(tiny_lm)
    (world / "chats.json").rename("conversations.json")
    for name, file in (("text_emb", "text.npy"), ("img_emb", "image.npy")):
        (world / name).mkdir()
        (world / file).rename(world / name / file)
    fr.fit("text_emb", "img_emb").save("text2image.safetensors")
    assert main(["train", "stage1", str(EXAMPLES / "stage1.yaml"), "--set", "batch_size=4", "--set", "device=cpu"]) == 0
    said = capsys.readouterr()
    assert (
        "24 examples in 6 steps" in said.out and "of it aligning" in said.out and "runs/stage1: the model" in said.out
    )
    two = ["train", "stage2", str(EXAMPLES / "stage2.yaml"), "--set", "batch_size=4", "--set", "device=cpu", "--json"]
    assert main(two) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["steps"] == 3 and done["stage"] == "stage2"
    model = RevisionModel.from_pretrained("runs/stage2")
    ids = torch.tensor([[1, IMAGE_TOKEN, 9]])
    image = torch.from_numpy(np.load("img_emb/image.npy")[:1])
    assert model.generate(ids, embeddings=image, max_new_tokens=3, min_new_tokens=3).shape == (1, 3)


def test_the_command_tells_mistakes_in_one_line(world, capsys, monkeypatch):
    (world / "run.yaml").write_text("model: lm\ndata: a.json\nembeddings: e\nout: o\n")
    assert main(["train", "stage1", str(world / "run.yaml"), "--set", "sed=1"]) == 2
    assert "unknown key 'sed', did you mean 'seed'?" in capsys.readouterr().err
    assert main(["train", "stage2", str(world / "run.yaml")]) == 2
    assert "adapter is missing" in capsys.readouterr().err
    assert main(["train", "stage3", str(world / "run.yaml")]) == 2
    assert "stage3" in capsys.readouterr().err
    assert main(["train"]) == 0
    assert capsys.readouterr().out.startswith("usage: fastrealign train ")


def test_an_interrupted_command_says_how_to_resume(world, tiny_lm, capsys, monkeypatch):
    from fastrealign.revision import train as module

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module.Trainer, "train", interrupted)
    values = {"model": tiny_lm, "data": "captions.jsonl", "embeddings": "text.npy", "out": "run", "device": "cpu"}
    (world / "run.yaml").write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
    monkeypatch.chdir(world)
    assert main(["train", "stage1", "run.yaml", "--quiet"]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "fastrealign: stopped; the same command --resume resumes from the last checkpoint in run"
    monkeypatch.undo()
    monkeypatch.chdir(world)
    assert main(["train", "stage1", "run.yaml", "--quiet", "--resume"]) == 0
    assert capsys.readouterr().out == "" and (world / "run" / "adapter.safetensors").is_file()
