"""Find a model: a local path first, then Hugging Face's cache; the hub is asked only if the user allows it.

A name is, in this order: a file or folder; `hf://ORG/NAME`, which may be downloaded; a name of the hub, which may be downloaded
if the user allows it (`--hub`, `hub: true`), and else is read from the cache of an earlier download, without a network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.core.optional import optional
from fastrealign.core.text import meant

SCHEME = "hf://"
_REPOSITORY = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
# One of these is in the cache after a model, a tokenizer or an image processor was loaded from the hub.
_FILES = ("config.json", "open_clip_config.json", "tokenizer_config.json", "preprocessor_config.json")
# Messages of the hub's libraries about a file that is not available, online or offline.
_NOT_HERE = re.compile(
    r"couldn't connect|local cache|Can't load|is not a local folder|Failed to download|Connection error|Repo id must be|"
    r"Max retries|offline mode|outgoing traffic has been disabled"
)


@dataclass(frozen=True)
class Found:
    """name: for transformers and open_clip; online: whether they may ask the hub."""

    name: str
    online: bool


def find(name: str | os.PathLike[str], what: str, hub: bool, ask: str) -> Found:
    """Find a model without a network.

    what   the name as messages show it, with its option: "--model NAME", "model: NAME"
    hub    whether the user allows a download
    ask    how the user would allow it: "set hub: true"
    Raises InputError for a path that does not exist, and for a name that is not in the cache where `hub` is false.
    """
    text = os.fspath(name)
    if text.startswith(SCHEME):
        repository = text.removeprefix(SCHEME).strip("/")
        if not _REPOSITORY.fullmatch(repository):
            raise InputError(f"{what}: expected {SCHEME}ORG/NAME, a model of the Hugging Face hub")
        return Found(repository, True)
    if os.path.exists(text):
        return Found(text, hub)
    path = Path(text)
    there = path.parent if str(path.parent) != "." or path.is_absolute() else Path()
    near = meant(path.name, os.listdir(there)) if there.is_dir() else ""
    if not _REPOSITORY.fullmatch(text):
        raise InputError(f"{what}: no such file or folder{near}")
    if hub or is_cached(text, *_FILES):
        return Found(text, hub)
    raise InputError(
        f"{what}: no such file or folder{near or ', and'} Hugging Face's cache has no model of that name; to download "
        f"one name it {SCHEME}{text}, or {ask}"
    )


def is_cached(repository: str, *files: str) -> bool:
    """Whether one of the files of a repository of the hub is in the cache."""
    try:
        cached = optional("huggingface_hub", "embed", repository).try_to_load_from_cache
        return any(isinstance(cached(repository, file), str) for file in files)
    except ValueError:  # not installed, or not the name of a repository
        return False


@contextmanager
def asked(online: bool) -> Iterator[None]:
    """Let libraries ask the hub only if `online`; otherwise they read the cache or fail at once."""
    if online:
        yield
        return
    constants = optional("huggingface_hub.constants", "embed", "the hub")
    before, environment = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    # Before 1.0 a thread keeps its session, which stays online or offline as it was opened.
    reset = getattr(optional("huggingface_hub.utils", "embed", "the hub"), "reset_sessions", lambda: None)
    constants.HF_HUB_OFFLINE, os.environ["HF_HUB_OFFLINE"] = True, "1"
    reset()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if environment is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = environment
        reset()


def is_not_here(error: BaseException) -> bool:
    """Whether the error of a library means that a file is not available."""
    return _NOT_HERE.search(str(error)) is not None


def dtype_option() -> str:
    """The keyword of transformers' `from_pretrained` for the element type, which 4.56 renamed."""
    major, minor = version("transformers").split(".")[:2]
    return "dtype" if (int(major), int(minor)) >= (4, 56) else "torch_dtype"


def load_tokenizer(found: Found, **options: Any) -> Any:
    """A tokenizer of transformers. Raises its errors, and InputError for a tokenizer without words (`check_words`)."""
    auto = optional("transformers", "embed", found.name).AutoTokenizer
    tokenizer = auto.from_pretrained(found.name, local_files_only=not found.online, **options)
    check_words(tokenizer, found.name)
    return tokenizer


def check_words(tokenizer: Any, name: str) -> None:
    """InputError for a tokenizer without words, which makes all texts equal.

    transformers makes one of a folder that has only a configuration.
    """
    special = {*tokenizer.all_special_tokens, "▁"}
    if not any(word not in special for word in tokenizer.get_vocab()):
        raise InputError(
            f"{name}: has no tokenizer, or one without words; save it there (tokenizer.json), or name a folder that has it"
        )
