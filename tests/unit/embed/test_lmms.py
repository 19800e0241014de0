"""The model of lmms-eval, against a stand-in for that package with the parts of its interface that are used."""

from __future__ import annotations

import importlib
import sys
import types
from dataclasses import dataclass
from importlib.metadata import entry_points

import numpy as np
import pytest
import torch

from fastrealign import InputError


@dataclass
class Instance:
    args: tuple


@dataclass
class ModelManifest:
    model_id: str
    simple_class_path: str


@pytest.fixture
def lmms(monkeypatch):
    """fastrealign.revision.lmms, imported beside the stand-in."""

    class Base:
        def __init__(self):
            self.task_dict = {}

    for name in (
        "lmms_eval",
        "lmms_eval.api",
        "lmms_eval.api.model",
        "lmms_eval.models",
        "lmms_eval.models.registry_v2",
    ):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["lmms_eval.api.model"].lmms = Base
    sys.modules["lmms_eval.models.registry_v2"].ModelManifest = ModelManifest
    monkeypatch.delitem(sys.modules, "fastrealign.revision.lmms", raising=False)
    yield importlib.import_module("fastrealign.revision.lmms")
    sys.modules.pop("fastrealign.revision.lmms", None)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, llama_folder, clip_folder):
    """A folder with a model as stage 2 leaves it, for the embeddings of clip_folder."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from fastrealign.embed.hf import Transformers
    from fastrealign.revision.model import RevisionModel

    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    words = AutoTokenizer.from_pretrained(llama_folder)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
        )
    )
    model = RevisionModel(lm, Transformers(str(clip_folder), device="cpu").load("images").dim, tokens=2)
    model.set_stage("stage2").save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture
def pictures(rng):
    from PIL import Image

    return [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype="uint8")) for _ in range(3)]


def asked(lmms, trained, clip_folder, pictures, questions, **options):
    model = lmms.Revision(str(trained), encoder=str(clip_folder), device="cpu", **options)
    model.task_dict = {"pope": {"test": pictures}}
    settings = {"max_new_tokens": 6, "until": ["\n"], "temperature": 0}
    return model.generate_until(
        [
            Instance((q, settings, lambda doc: doc if isinstance(doc, list) else [doc], i, "pope", "test"))
            for i, q in enumerate(questions)
        ]
    )


def test_what_it_says_is_what_the_model_says(lmms, trained, clip_folder, pictures):
    from transformers import AutoTokenizer

    from fastrealign.embed.hf import Transformers
    from fastrealign.revision.data import Template
    from fastrealign.revision.model import RevisionModel

    questions = ["what is this", "<image>\nis there a dog", "is it red"]
    found = asked(lmms, trained, clip_folder, pictures, questions, batch_size="2")
    model, words = RevisionModel.from_pretrained(trained).eval(), AutoTokenizer.from_pretrained(trained)
    encoder = Transformers(str(clip_folder), device="cpu").load("images")
    for picture, question, text in zip(pictures, questions, found, strict=True):
        template = Template(words, "stage2", 2)
        ids = torch.tensor(template.prompts([[("<image>\n" + question.replace("<image>\n", ""), None)]]))
        row = torch.from_numpy(encoder.encode([encoder.prepare(picture.convert("RGB"))]))
        said = model.generate(ids, None, row, max_new_tokens=6, do_sample=False, eos_token_id=template.end)
        assert text == words.decode(said[0], skip_special_tokens=True).split("\n")[0].strip()
    assert any(found), "a random model says something"


def test_it_is_shown_grey_of_16_bits_as_embed_reads_it(lmms, trained, clip_folder):
    from PIL import Image

    model = lmms.Revision(str(trained), encoder=str(clip_folder), device="cpu")
    wide = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    model.task_dict = {"pope": {"test": [Image.fromarray(wide), Image.fromarray(wide.astype(np.float32))]}}
    found = model._picture(lambda doc: [doc], 0, "pope", "test")
    assert np.array_equal(found, np.repeat(np.rint(wide / 257).astype(np.uint8)[..., None], 3, 2))
    with pytest.raises(InputError, match="pope, test 1: the image has pixels of unknown range"):
        model._picture(lambda doc: [doc], 1, "pope", "test")


def test_it_is_found_by_its_name(lmms):
    (entry,) = entry_points(group="lmms_eval.models", name="fastrealign")
    found = entry.load()()
    module, name = found.simple_class_path.rsplit(".", 1)
    assert found.model_id == "fastrealign" and getattr(importlib.import_module(module), name) is lmms.Revision


def test_what_it_cannot_do_is_said(lmms, trained, clip_folder, pictures):
    with pytest.raises(InputError, match=r"expected clip=.* or encoder="):
        lmms.Revision(str(trained))
    with pytest.raises(InputError, match="pope, test 0: has 3 images"):
        asked(lmms, trained, clip_folder, [pictures], ["which"])
    model = lmms.Revision(str(trained), encoder=str(clip_folder), device="cpu")
    with pytest.raises(NotImplementedError):
        model.loglikelihood([])


def test_without_lmms_eval_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    monkeypatch.delitem(sys.modules, "fastrealign.revision.lmms", raising=False)
    with pytest.raises(ImportError, match="is for lmms-eval, which is not installed"):
        importlib.import_module("fastrealign.revision.lmms")
