"""Encoders of transformers: CLIP, SigLIP and their like, language models as text encoders (LLM2Vec), and both (LLM2CLIP).

LLM2Vec (arXiv 2404.05961) pools the last hidden states over the caption's own tokens, padding on the left; LLM2CLIP (arXiv
2411.04997) hands these vectors to `get_text_features` of its CLIP part.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.libraries import Image, torch, transformers
from fastrealign.core.optional import optional
from fastrealign.core.wording import either, option
from fastrealign.data.options import check_choice
from fastrealign.embed.encoders import (
    PRECISIONS,
    Encoder,
    allow_hub,
    device_of,
    digest,
    fingerprint,
    loading,
    unit_rows,
)
from fastrealign.storage import hub_models as hub
from fastrealign.storage.hub_models import Found

POOLINGS = ("mean", "last", "eos")
# Most tokens of a caption for language models, as in LLM2Vec; models with towers have their own limit.
_MAX_TOKENS = 512
# For models that state no limit. Tokenizers without a limit state about 1e30.
_NO_LIMIT = 10**6


@dataclass(frozen=True)
class Transformers:
    """An encoder of transformers.

    Parameters
    ----------
    name : str
        A model with `get_image_features` and `get_text_features` (CLIP, SigLIP, ...), or, for text alone, a language model
        whose hidden states are pooled. A folder; "hf://ORG/NAME", which may be downloaded; or a name of the hub, which is read
        from its cache.
    text_model : str, optional
        A language model whose pooled states `get_text_features` takes in place of tokens (LLM2CLIP).
    processor : str, optional
        The tokenizer and the image processor, if not those of the model.
    pooling : {"mean", "last", "eos"}
        Of a language model: mean over the caption's tokens, the last token, or an end token appended to it.
    template : str
        Of a language model: its input, with {} for the caption; text before {} is not pooled.
    trust_remote_code : bool
        Run code that comes with the model.
    device : str
        "auto", "cpu", "cuda" or "cuda:N".
    precision : {"fp32", "fp16", "bf16"}
    hub : bool
        Allow downloads of what is not in the cache.

    Examples
    --------
    >>> encoder = Transformers("hf://google/siglip-base-patch16-224", device="cuda", precision="bf16")
    """

    name: str
    text_model: str | None = None
    processor: str | None = None
    pooling: str = "mean"
    template: str = "{}"
    trust_remote_code: bool = False
    device: str = "auto"
    precision: str = "fp32"
    hub: bool = False

    def check(self) -> None:
        """InputError for unknown options, models that cannot be found and a device that does not exist."""
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("pooling", self.pooling, POOLINGS)
        if self.template.count("{}") != 1:
            raise InputError(f"{option('template', self.template)}: expected one {{}}, where the caption goes")
        for name in filter(None, (self.name, self.text_model, self.processor)):
            self._found(name)
        for name in filter(None, (self.name, self.text_model)):
            if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
                raise InputError(
                    f"{name}: has no config.json; name a folder that transformers saved, or one of open_clip with "
                    f"{either('--clip', 'OpenClip')}"
                )
        device_of(self.device)  # torch and transformers take seconds to import
        optional("transformers", "embed", either("--model", "Transformers"))

    def load(self, side: str) -> Encoder:
        """Its tower for "images" or "text". InputError for models that cannot be found, or without that tower."""
        self.check()
        device = device_of(self.device)
        model = self._model(self.name, device)
        options = {"side": side, "precision": self.precision}
        if side == "images":
            if not hasattr(model, "get_image_features"):
                raise self._no_tower(model, "image tower (get_image_features)")
            return self._images(model, device, options)
        if self.text_model is not None:
            if not hasattr(model, "get_text_features"):
                raise self._no_tower(model, f"get_text_features, which takes the states of {option('text_model')}")
            language = self._model(self.text_model, device)
            return self._language(language, self.text_model, device, options, model)
        if hasattr(model, "get_text_features"):
            return self._tower(model, device, options)
        if not hasattr(model, "get_input_embeddings") or getattr(model, "main_input_name", "input_ids") != "input_ids":
            raise self._no_tower(model, "text tower")
        return self._language(model, self.name, device, options)

    def _images(self, model: Any, device: torch.device, options: dict[str, str]) -> Encoder:
        named = self.processor or self.name
        source = self._found(named)
        with loading(f"{self._asked(named)}, its image processor", online=source.online):
            processor = transformers.AutoImageProcessor.from_pretrained(
                source.name, trust_remote_code=self.trust_remote_code, local_files_only=not source.online
            )

        def prepare(picture: Image.Image) -> dict[str, torch.Tensor]:
            return dict(processor(images=picture, return_tensors="pt"))

        def encode(pictures: Sequence[dict[str, torch.Tensor]]) -> np.ndarray:
            batch = {name: torch.cat([one[name] for one in pictures]).to(device) for name in pictures[0]}
            batch = {name: x.to(model.dtype) if x.is_floating_point() else x for name, x in batch.items()}
            return unit_rows(lambda: _features(model.get_image_features(**batch)))

        options = {**options, "preparation": digest(processor.to_dict())}
        return Encoder(_shown(self.name), fingerprint(model), options, prepare, encode)

    def _tower(self, model: Any, device: torch.device, options: dict[str, str]) -> Encoder:
        """The text tower of a model with two."""
        tokenizer = self._tokenizer(self.name)
        text = getattr(model.config, "text_config", model.config)
        limit = min(tokenizer.model_max_length, getattr(text, "max_position_embeddings", _NO_LIMIT))
        # SigLIP was trained on captions padded to its limit and reads its last position, padding or not.
        padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
        options = {**options, "preparation": digest([type(tokenizer).__name__, limit, padding])}

        def encode(captions: Sequence[str]) -> np.ndarray:
            batch = tokenizer(list(captions), padding=padding, truncation=True, max_length=limit, return_tensors="pt")
            return unit_rows(lambda: _features(model.get_text_features(**batch.to(device))))

        by_length = padding == "longest"
        return Encoder(_shown(self.name), fingerprint(model), options, str, encode, by_length=by_length)

    def _language(
        self, model: Any, name: str, device: torch.device, options: dict[str, str], clip: Any = None
    ) -> Encoder:
        """A language model as a text encoder; `clip`: the part that takes its pooled states."""
        tokenizer = self._tokenizer(name)
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.pooling == "eos" and tokenizer.eos_token is None:
            others = f"{option('pooling', 'last')} or {option('pooling', 'mean')}"
            raise InputError(f"{name}: its tokenizer has no end token; choose {others}")
        before, after = self.template.split("{}")
        after += tokenizer.eos_token if self.pooling == "eos" else ""
        limit = min(_MAX_TOKENS, tokenizer.model_max_length)

        def encode(captions: Sequence[str]) -> np.ndarray:
            texts = [caption + after for caption in captions]
            batch = tokenizer(
                [before + text for text in texts], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            ).to(device)
            own = tokenizer(texts, add_special_tokens=False, truncation=True, max_length=limit)["input_ids"]

            def features() -> torch.Tensor:
                states = model(**batch).last_hidden_state
                pooled = _pooled(states, batch["attention_mask"], [len(ids) for ids in own], self.pooling)
                return pooled if clip is None else _features(clip.get_text_features(pooled.to(clip.dtype)))

            return unit_rows(features)

        described = [type(tokenizer).__name__, limit]
        options = {**options, "preparation": digest(described), "pooling": self.pooling, "template": self.template}
        models, shown = [model], _shown(self.name)
        if clip is not None:
            models, shown = [clip, model], f"{shown} with {_shown(name)}"
        return Encoder(shown, fingerprint(*models), options, str, encode, by_length=True)

    def _model(self, name: str, device: torch.device) -> Any:
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.precision]
        found = self._found(name)
        options = {"local_files_only": not found.online, hub.dtype_option(): dtype}
        with loading(self._asked(name), online=found.online):
            model, report = transformers.AutoModel.from_pretrained(
                found.name, output_loading_info=True, trust_remote_code=self.trust_remote_code, **options
            )
        missing = sorted(report["missing_keys"])
        if missing:
            raise InputError(
                f"{self._asked(name)}: its weights lack {count(len(missing), 'tensor')}, such as {missing[0]}"
            )
        return model.to(device).eval()

    def _tokenizer(self, name: str) -> Any:
        named = self.processor or name
        source = self._found(named)
        with loading(f"{self._asked(named)}, its tokenizer", online=source.online):
            return hub.load_tokenizer(source, trust_remote_code=self.trust_remote_code)

    def _found(self, name: str) -> Found:
        return hub.find(name, self._asked(name), self.hub, allow_hub())

    def _asked(self, name: str) -> str:
        """One of the names that the user gave, as messages show it."""
        if name == self.name:
            return either(f"--model {name}", f"Transformers({name!r})")
        return option("text_model" if name == self.text_model else "processor", name)

    def _no_tower(self, model: Any, what: str) -> InputError:
        return InputError(f"{self._asked(self.name)}: {type(model).__name__} has no {what}; choose another model")


def _pooled(states: torch.Tensor, mask: torch.Tensor, own: list[int], pooling: str) -> torch.Tensor:
    """(n, width): a vector for each caption, from states (n, tokens, width) padded on the left; own: its tokens at the end."""
    if pooling != "mean":
        return states[:, -1]
    tokens = states.shape[1]
    counts = torch.tensor(own, device=states.device).clamp(max=tokens)
    wanted = mask.bool() & (torch.arange(tokens, device=states.device) >= tokens - counts[:, None])
    weights = wanted.float() / wanted.sum(1, keepdim=True)
    return torch.einsum("ntd,nt->nd", states.float(), weights)


def _features(found: Any) -> torch.Tensor:
    """The tensor, which transformers 5 wraps in an output object."""
    return getattr(found, "pooler_output", found)


def _shown(name: str) -> str:
    return f"transformers {Path(name).resolve().name if os.path.exists(name) else name.removeprefix(hub.SCHEME)}"
