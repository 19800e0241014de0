"""A training run looks at all its paths before it loads anything, and asks no network but for a model the user names so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import runs  # noqa: E402

import fastrealign as fr  # noqa: E402
from fastrealign import InputError  # noqa: E402
from fastrealign.cli.main import main  # noqa: E402
from fastrealign.revision.config import Lora, TrainConfig  # noqa: E402
from fastrealign.revision.model import RevisionModel, load_lm  # noqa: E402
from fastrealign.revision.paths import check_paths  # noqa: E402
from fastrealign.revision.train import train  # noqa: E402


@pytest.fixture
def world(tmp_path, rng, monkeypatch):
    runs.write_world(tmp_path, rng)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def written(world, tiny_lm):
    """written(key=value, ...): run.yaml with these in place of what would run."""

    def written(**other):
        values = {"model": tiny_lm, "data": "captions.jsonl", "embeddings": "text.npy", "out": "run", "device": "cpu"}
        values |= {"batch_size": 4, **other}
        (world / "run.yaml").write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return world / "run.yaml"

    return written


@pytest.fixture
def loads_nothing(monkeypatch):
    def reached(*_, **__):
        raise AssertionError("it began to load")

    for name in ("load_lm", "open_embeddings", "read_examples", "_tokenizer"):
        monkeypatch.setattr(f"fastrealign.revision.train.{name}", reached)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model", "/no/such/lm", "model: /no/such/lm: no such file or folder"),
        ("model", "org/lm", "model: org/lm: no such file or folder, .* name it hf://org/lm, or set hub: true"),
        ("model", "hf://a/b/c", "model: hf://a/b/c: expected hf://ORG/NAME"),
        ("data", "caption.jsonl", "data: caption.jsonl: no such file, did you mean 'captions.jsonl'"),
        ("data", "[captions.jsonl, more/b.json]", "data: more/b.json: no such file"),
        ("data", ".", "data: .: is a folder, expected a file"),
        (
            "data",
            "[captions.jsonl, text.npy]",
            r"data: text.npy: examples are not read from '.npy' files; expected .json",
        ),
        ("model", ".", "model: .: has no config.json; name a folder that transformers saved"),
        ("embeddings", "txt.npy", r"embeddings: txt.npy: no such file or folder, did you mean 'text.npy'\?"),
        ("embeddings", "[text.npy, 'emb/*.npy']", r"embeddings: emb/\*.npy: no file of that pattern"),
        ("alignment", "a.safetensors", "alignment: a.safetensors: no such file or folder"),
        ("adapter", "runs/stage1", "adapter: runs/stage1: no such file or folder"),
        ("out", "captions.jsonl/run", "out: captions.jsonl/run: .*captions.jsonl is a file, expected a folder"),
    ],
)
def test_a_path_that_is_not_there_is_reported_with_its_key_before_anything_is_loaded(
    no_network, loads_nothing, written, capsys, key, value, message
):
    path = written(**{key: value})
    assert main(["train", "stage1", str(path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    with pytest.raises(InputError, match=f"run.yaml: {message}"):
        raise InputError(said)
    assert not os.path.exists("run")


def test_folders_that_lack_what_would_be_loaded_last(no_network, loads_nothing, written, tiny_lm, capsys):
    shutil.copytree(tiny_lm, "lm", ignore=shutil.ignore_patterns("*.safetensors"))
    os.mkdir("stopped")
    assert main(["train", "stage1", str(written(model="lm", adapter="stopped"))]) == 2
    said = capsys.readouterr().err
    assert (
        "model: lm: has no weights (.safetensors, .bin) beside config.json; adapter: stopped: has no adapter; " in said
    )


@pytest.mark.parametrize("command", ["train", "embed"])
def test_a_misspelt_path_is_reported_before_the_libraries_are_imported(written, world, command):
    words = ["train", "stage1", str(written(model="/no/such/lm", data="x.json"))]
    if command == "embed":
        words = ["embed", str(world / "captions.jsonl"), "--model", "/no/such/lm", "--out", str(world / "out")]
    code = (
        "import sys; from fastrealign.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(10 * code + len({'torch', 'transformers', 'open_clip'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert "/no/such/lm: no such file or folder" in done.stderr and done.returncode == 20


def test_all_that_are_not_there_are_reported_at_once(loads_nothing, written, capsys):
    assert main(["train", "stage1", str(written(model="./lm", data="zz", alignment="y"))]) == 2
    said = capsys.readouterr().err
    assert "model: ./lm: no such file or folder; data: zz: no such file; alignment: y: no such file" in said


def test_a_folder_that_cannot_be_written_to(world, tiny_lm, monkeypatch):
    config = TrainConfig(str(tiny_lm), "captions.jsonl", "text.npy", "runs/one", "stage1")
    check_paths(config)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(InputError, match=f"^out: runs/one: cannot be written to: permission denied in {world}$"):
        check_paths(config)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    with pytest.raises(InputError, match=r"^data: captions.jsonl: cannot be read: permission denied; embeddings: "):
        check_paths(config)


def test_training_and_loading_ask_no_network(no_network, written, world, tiny_lm):
    assert main(["train", "stage1", str(written()), "--quiet"]) == 0
    options = {"batch_size": 8, "device": "cpu", "adapter": "run"}
    for out, lora in (("two", None), ("three", Lora(r=2))):
        if lora is not None:
            pytest.importorskip("peft")
        train(TrainConfig(str(tiny_lm), "chats.json", "image.npy", out, "stage2", lora=lora, **options))
        assert RevisionModel.from_pretrained(out).dim == runs.DIM


def test_a_model_of_the_hub_is_read_from_its_cache_and_not_asked_for(no_network, written, world, tiny_lm, monkeypatch):
    cache = world / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(cache), raising=False)  # of transformers 4
    repository = cache / "models--org--lm"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(tiny_lm, repository / "snapshots" / ("0" * 40))
    assert main(["train", "stage1", str(written(model="org/lm")), "--quiet"]) == 0
    assert RevisionModel.from_pretrained("run").dim == runs.DIM
    shutil.rmtree(cache)
    with pytest.raises(
        InputError, match=r"run: its language model org/lm: no such .*hf://org/lm, or allow it with hub"
    ):
        RevisionModel.from_pretrained("run")
    assert RevisionModel.from_pretrained("run", lm=str(tiny_lm)).dim == runs.DIM


def test_the_hub_is_asked_where_the_configuration_says_so(written, world, monkeypatch):
    import huggingface_hub.constants as constants
    import transformers

    seen = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(world / "none"))

    def stop(name, *_, **options):
        seen.append((name, options["local_files_only"], constants.HF_HUB_OFFLINE))
        raise RuntimeError("far enough")

    for kind in (transformers.AutoTokenizer, transformers.AutoModelForCausalLM):
        monkeypatch.setattr(kind, "from_pretrained", stop)
    for given in ({"model": "hf://org/lm"}, {"model": "org/lm", "hub": "true"}):
        assert main(["train", "stage1", str(written(**given))]) == 2
    assert main(["train", "stage1", str(written(model="org/lm")), "--set", "hub=true"]) == 2
    with pytest.raises(InputError):
        load_lm("hf://org/lm")
    assert seen == [("org/lm", False, False)] * 4


def test_a_damaged_alignment_is_reported_before_the_data_is_read(world, tiny_lm, monkeypatch):
    monkeypatch.delattr("fastrealign.revision.train.read_examples")
    wide = fr.fit(np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32)[::-1] + 0.5)
    wide.save("wide.safetensors")
    config = TrainConfig(str(tiny_lm), "captions.jsonl", "text.npy", "run", "stage1", alignment="wide.safetensors")
    with pytest.raises(InputError, match=r"wide.safetensors: was fitted on rows 5 wide"):
        train(config)


def test_a_language_model_without_a_tokenizer(world, tiny_lm, tmp_path):
    """transformers makes one without words of some configurations, to which all texts are the same."""
    from transformers import Qwen2Config

    Qwen2Config().save_pretrained(tmp_path / "lm")
    (tmp_path / "lm" / "model.safetensors").touch()
    with pytest.raises(InputError, match="lm: has no tokenizer"):
        train(TrainConfig(str(tmp_path / "lm"), "captions.jsonl", "text.npy", "run", "stage1"))
