"""Where models are found: here, then in the cache; a network is asked only where the user names it (`no_network` guards)."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

torch = pytest.importorskip("torch")

from fastrealign import InputError  # noqa: E402
from fastrealign.embed import OpenClip, Transformers  # noqa: E402
from fastrealign.storage import hub_models as hub  # noqa: E402


@pytest.fixture
def refused(run, tmp_path):
    def refused(what, source, *words):
        code, out, err = run(source, "--out", tmp_path / "out", *words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert re.search(what, err), err
        assert not (tmp_path / "out").exists()

    return refused


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """cache(name, folder): a model in Hugging Face's cache, as a download leaves it."""
    root = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(root), raising=False)  # of transformers 4

    def cache(name, folder):
        repository = root / f"models--{name.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / "main").write_text("0" * 40)
        shutil.copytree(folder, repository / "snapshots" / ("0" * 40))

    return cache


@pytest.mark.parametrize(
    "name", ["nowhere", "org/nowhere", "./org/nowhere", "/a/b/c", "a/b/c", "org/nowhere/", "models/.."]
)
def test_a_model_that_is_not_here_is_an_error_at_once(
    no_network, refused, jsonl, clip_folder, llama_folder, name, cache
):
    """Of every option that names one."""
    for words in (
        ["--model", name],
        ["--model", clip_folder, "--text-model", name],
        ["--model", clip_folder, "--processor", name],
        ["--clip", name],
        ["--clip", f"local-dir:{name}"],
        ["--clip", "ViT-B-32", "--pretrained", name],
    ):
        refused(f"{name}: no such file|{os.path.normpath(name)}: has no open_clip_config|no config.json", jsonl, *words)


@pytest.mark.parametrize("tag", ["openai", "laion2b_s34b_b79k", "laion400m_e32"])
def test_a_tag_of_open_clip_is_not_downloaded(no_network, refused, photos, cache, tag):
    refused(f"--pretrained {tag}: a tag of open_clip, .* pass --hub to download them, or name a file of weights$", photos,
            "--clip", "ViT-B-32", "--pretrained", tag)  # fmt: skip


def test_what_a_local_model_says_is_elsewhere_is_not_fetched(no_network, refused, jsonl, photos, tmp_path, open_clip_folder,
                                                             clip_folder, cache):  # fmt: skip
    """A tokenizer that a configuration names, a folder without one, code that lies in another repository."""
    config = json.loads((open_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    config["text_cfg"]["hf_tokenizer_name"] = "org/tokenizer"
    (tmp_path / "named.json").write_text(json.dumps(config))
    words = ["--clip", tmp_path / "named.json", "--pretrained", open_clip_folder / "open_clip_model.safetensors"]
    refused("its tokenizer: (needs files that are not on this machine .*--hub|cannot be loaded)", jsonl, *words)
    shutil.copytree(clip_folder, tmp_path / "bare", ignore=shutil.ignore_patterns("token*", "*processor*"))
    without = "bare(: has no tokenizer, or one without words; save it there|, its tokenizer: cannot be loaded)"
    refused(without, jsonl, "--model", tmp_path / "bare")
    refused("its image processor", photos, "--model", tmp_path / "bare")
    shutil.copytree(open_clip_folder, tmp_path / "mute", ignore=shutil.ignore_patterns("token*", "vocab*"))
    refused("--clip .*mute(: has no tokenizer|, its tokenizer: )", jsonl, "--clip", tmp_path / "mute")
    auto = {"AutoConfig": "org/code--part.Config", "AutoModel": "org/code--part.Model"}
    shutil.copytree(clip_folder, tmp_path / "coded")
    (tmp_path / "coded" / "config.json").write_text(json.dumps({"model_type": "of its own", "auto_map": auto}))
    refused("--model .*coded: ", jsonl, "--model", tmp_path / "coded", "--trust-remote-code")


def test_local_models_ask_for_nothing(
    no_network, run, tmp_path, photos, jsonl, open_clip_folder, clip_folder, llama_folder
):
    for i, words in enumerate(
        [
            (photos, "--model", clip_folder),
            (jsonl, "--model", clip_folder),
            (jsonl, "--model", llama_folder),
            (photos, "--clip", open_clip_folder),
            (jsonl, "--clip", open_clip_folder),
        ]
    ):
        assert run(*words, "--out", tmp_path / f"out{i}", "--quiet") == (0, "", "")


def test_a_name_is_read_from_the_cache_of_an_earlier_download(no_network, run, tmp_path, photos, clip_folder, cache):
    cache("org/tiny", clip_folder)
    assert run(photos, "--out", tmp_path / "named", "--model", "org/tiny", "--quiet") == (0, "", "")
    assert run(photos, "--out", tmp_path / "folder", "--model", clip_folder, "--quiet") == (0, "", "")
    rows = [(tmp_path / name / "embeddings_00000.parquet").read_bytes() for name in ("named", "folder")]
    assert rows[0] == rows[1]


def test_a_folder_goes_before_a_name_of_the_hub(no_network, tmp_path, monkeypatch, clip_folder, llama_folder, cache):
    cache("org/tiny", llama_folder)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(clip_folder, "org/tiny")
    assert hub.find("org/tiny", "--model org/tiny", False, "") == hub.Found("org/tiny", False)
    assert Transformers("org/tiny", device="cpu").load("images").dim == 24


def test_the_hub_is_asked_where_the_user_says_so(monkeypatch, cache, clip_folder):
    """What the libraries are handed; no network is needed to see it."""
    import huggingface_hub.constants as constants
    import open_clip
    import transformers

    seen = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def stop(name, *_, **options):
        seen.append((name, options.get("local_files_only"), constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")))
        raise RuntimeError("far enough")

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", stop)
    monkeypatch.setattr(open_clip, "create_model", stop)
    for encoder in (
        Transformers("hf://org/tiny", device="cpu"),
        Transformers("org/tiny", device="cpu", hub=True),
        Transformers(str(clip_folder), device="cpu", hub=True),
        OpenClip("hf://org/tiny", device="cpu"),
        OpenClip("hf-hub:org/tiny", device="cpu"),
        OpenClip("ViT-B-32", "openai", device="cpu", hub=True),
    ):
        encoder.check()
        with pytest.raises(InputError, match="far enough"):
            encoder.load("images")
        assert seen[-1][0] in ("org/tiny", "hf-hub:org/tiny", "ViT-B-32", str(clip_folder))
        assert seen.pop()[1:] in ((False, False, None), (None, False, None))
    with pytest.raises(InputError, match="far enough"):
        Transformers(str(clip_folder), device="cpu").load("images")
    assert seen == [(str(clip_folder), True, True, "1")]
    assert constants.HF_HUB_OFFLINE is False and "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize("old", [True, False], ids=["before 1.0", "since 1.0"])
def test_no_session_of_the_hub_is_kept(monkeypatch, old):
    """Before 1.0 a session stays online or offline as it was opened."""
    from huggingface_hub import constants, utils

    offline = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    if old:
        monkeypatch.setattr(utils, "reset_sessions", lambda: offline.append(constants.HF_HUB_OFFLINE), raising=False)
    else:
        monkeypatch.delattr(utils, "reset_sessions", raising=False)
    with hub.asked(online=False):
        assert constants.HF_HUB_OFFLINE and offline == [True] * old
    assert offline == [True, False] * old and not constants.HF_HUB_OFFLINE
    with hub.asked(online=True):
        pass
    assert len(offline) == 2 * old


@pytest.mark.parametrize("name", ["hf://", "hf:///", "hf://a/b/c", "hf://../x", "hf://a b"])
def test_names_that_are_none_of_the_hub(name):
    with pytest.raises(InputError, match=r"--model .*: expected hf://ORG/NAME"):
        hub.find(name, f"--model {name}", True, "")


def test_the_encoder_is_looked_for_before_the_input_is_read(tmp_path, run, captions):
    """Hours of counting captions must not end in a misspelt path."""
    (tmp_path / "a.txt").write_text("\n".join([*captions, "", "and then an empty line before it"]))
    code, _, err = run(tmp_path / "a.txt", "--out", tmp_path / "out", "--model", tmp_path / "nothing")
    assert code == 2 and "nothing: no such file or folder" in err


def test_a_name_that_is_nearly_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(
        InputError, match=r"no such file or folder, did you mean 'model'\? Hugging Face's cache has no model"
    ):
        hub.find("modle", "--model modle", False, "pass --hub")
    with pytest.raises(InputError, match="no such file or folder, and Hugging Face's cache has no model"):
        hub.find("zzz/qqq", "--model zzz/qqq", False, "pass --hub")
