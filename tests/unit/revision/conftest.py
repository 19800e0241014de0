"""A tiny language model with a tokenizer of its own, in a folder, as transformers saves them."""

from __future__ import annotations

import gc

import pytest
from tiny import build_lm, build_tokenizer


@pytest.fixture(scope="session", autouse=True)
def _imported_objects_are_left_alone():
    """Each training collects garbage, which takes a second where it goes through all that torch has imported."""
    pytest.importorskip("transformers")
    import transformers.trainer  # noqa: F401

    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory):
    """A folder with a random Llama (2 layers, 32 wide, context 64) and its word tokenizer; not to be written to."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny_lm")
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_lm(len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_lm):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_lm)
