"""ReVision's model: an adapter turns an embedding into visual tokens for any causal language model.

`<image>` is IMAGE_TOKEN in `input_ids` (LLaVA's id for it). In `inputs_embeds` the adapter's output takes its place, so the
language model stays as it is, with transformers' own forward and generate (arXiv 2602.07026, section 5).

A saved model is a folder:

    adapter.safetensors   the adapter, under the reference code's names
    lm/                   the language model as transformers saves it, if it was trained (stage 2) or not loaded from a path
    lora/                 the low-rank updates, if peft trained some
    revision.json         widths, and the language model: "lm", or the path or name that it was loaded from

A frozen language model is kept by reference: a copy would take gigabytes for every run of stage 1. A fingerprint of its weights
shows whether the model at the reference is still the one that the adapter was trained with.
"""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.revision import adapter as adapters
from fastrealign.revision.adapter import Adapter
from fastrealign.revision.config import Lora
from fastrealign.revision.language_model import fingerprint, load_lm
from fastrealign.revision.model_record import RECORD, check_language_model, read_record, write_record
from fastrealign.revision.templates import IMAGE_TOKEN, STAGES
from fastrealign.storage import hub_models as hubs
from fastrealign.storage.atomic import AtomicFolder
from fastrealign.storage.paths import is_path

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Without requests, and without warnings of what peft calls in transformers."""
    with hubs.asked(False), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


class RevisionModel(torch.nn.Module):
    """An adapter in front of a causal language model of transformers.

    The adapter is float32 whatever the dtype of the language model. Both are trained until `set_stage` decides.

    Parameters
    ----------
    lm
        The language model, from `load_lm`.
    dim
        Width of the embeddings.
    tokens
        Visual tokens per embedding.
    """

    def __init__(self, lm: PreTrainedModel, dim: int, *, tokens: int = 1) -> None:
        super().__init__()
        self.lm = lm
        self.adapter = Adapter(dim, lm.get_input_embeddings().embedding_dim, tokens)
        self.stage: str | None = None
        self.lm_source: str | None = lm.config._name_or_path or None
        self.lm_fingerprint = fingerprint(lm)
        self.lm_dtype = lm.dtype
        self._lm_trained = self._lora = False
        # transformers.Trainer reads these: whether the loss takes `num_items_in_batch`, and the name of the loss.
        kinds = {p.kind for p in inspect.signature(lm.forward).parameters.values()}
        self.accepts_loss_kwargs = inspect.Parameter.VAR_KEYWORD in kinds
        self.loss_type = getattr(lm, "loss_type", None)

    @property
    def dim(self) -> int:
        return self.adapter.dim

    @property
    def tokens(self) -> int:
        return self.adapter.tokens

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """The language model's output, with `.loss` if there are labels.

        Parameters
        ----------
        input_ids
            int64 (batch, length), IMAGE_TOKEN at `tokens` places of each row that has an image.
        attention_mask
            (batch, length), 0 on the padding.
        labels
            int64 (batch, length), -100 where there is no loss, as at every IMAGE_TOKEN.
        embeddings
            Any floating dtype (batch, dim); the row of an example without an image is ignored.
        **options
            Passed to the language model.

        Raises
        ------
        InputError
            For another number of IMAGE_TOKENs, or embeddings that are missing or of another shape.
        """
        if labels is not None:
            options = {"labels": labels, "use_cache": False, **options}
        words = self._words(input_ids, embeddings)
        return self.lm(inputs_embeds=words, attention_mask=attention_mask, **options)

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        embeddings: torch.Tensor | None = None,
        **options: Any,
    ) -> torch.Tensor:
        """New tokens, int64 (batch, n), without the prompt. Arguments as for `forward`, options of transformers' `generate`.

        Padding may be on either side; rows are moved to the right, where generation continues.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        order = torch.argsort(attention_mask, dim=1, stable=True)
        input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        settings = self.lm.generation_config
        if settings.pad_token_id is None and "pad_token_id" not in options:
            ends = settings.eos_token_id
            options["pad_token_id"] = ends[0] if isinstance(ends, list) else ends
        words = self._words(input_ids, embeddings)
        return self.lm.generate(inputs_embeds=words, attention_mask=attention_mask, **options)

    def _words(self, input_ids: torch.Tensor, embeddings: torch.Tensor | None) -> torch.Tensor:
        """(batch, length, width): the language model's word embeddings, and the adapter's output at IMAGE_TOKEN."""
        places = input_ids == IMAGE_TOKEN
        counts = places.sum(1)
        if embeddings is None:
            if counts.any():
                raise InputError(f"input_ids have {IMAGE_TOKEN} for an image, but there are no embeddings")
            return self.lm.get_input_embeddings()(input_ids)
        if embeddings.shape != (len(input_ids), self.dim):
            raise InputError(
                f"embeddings are {tuple(embeddings.shape)}, expected ({len(input_ids)}, {self.dim}): "
                "one for each row of input_ids, as wide as the adapter's input"
            )
        seen = counts > 0
        wrong = seen & (counts != self.tokens)
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"row {row} of input_ids has {int(counts[row])} image tokens ({IMAGE_TOKEN}), "
                f"expected {self.tokens}: as many as the adapter makes per embedding"
            )
        words = self.lm.get_input_embeddings()(input_ids.masked_fill(places, 0))
        visual = self.adapter(embeddings)[seen.to(embeddings.device)]
        return words.masked_scatter(places.unsqueeze(-1), visual.to(words.device, words.dtype))

    def set_stage(self, stage: str, lora: Lora | None = None) -> RevisionModel:
        """Set what is trained: in "stage1" the adapter, with the language model frozen and in eval mode; in "stage2" both.

        Parameters
        ----------
        lora
            In stage 2, low-rank updates (peft) in place of the language model's own weights. Needs the extra `lora`.
        """
        if stage not in STAGES:
            raise InputError(f"stage={stage!r}: expected one of {', '.join(STAGES)}")
        self.stage = stage
        self.adapter.requires_grad_(True)
        if stage == "stage1" or lora is None:
            self.lm.requires_grad_(stage == "stage2")
            self._lm_trained |= stage == "stage2"
        else:
            self._add_lora(lora)
        return self.train(self.training)

    def _add_lora(self, lora: Lora) -> None:
        peft = optional("peft", "lora", "LoRA")
        targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
        try:
            config = peft.LoraConfig(task_type="CAUSAL_LM", r=lora.r, lora_alpha=lora.alpha, target_modules=targets)
            with _quiet_peft():
                self.lm = peft.get_peft_model(self.lm, config)
        except ValueError as error:
            raise InputError(f"lora.targets: {one_line(error)}") from None
        self._lora = True

    def train(self, mode: bool = True) -> RevisionModel:
        super().train(mode)
        if self.stage == "stage1":
            self.lm.eval()
        return self

    def load_adapter(self, path: str | os.PathLike) -> None:
        """Load the weights of an adapter that `save_pretrained`, `export_adapter` or LLaVA saved.

        Parameters
        ----------
        path
            A file, or a folder with one (adapter.py).

        Raises
        ------
        InputError
            If its widths are not those of this model, or if it was trained with another language model.
        """
        found = adapters.load(path)
        if found.width != self.adapter.width:
            raise InputError(
                f"{path}: its adapter makes tokens of width {found.width}, the language model "
                f"{self.lm_source or ''} takes {self.adapter.width}; use the one that it was trained with"
            )
        for name, has, needs in (("dim", found.dim, self.dim), ("tokens", found.tokens, self.tokens)):
            if has != needs:
                raise InputError(f"{path}: its adapter has {name}={has}, expected {name}={needs}")
        if (Path(path) / RECORD).is_file():
            record = read_record(Path(path))
            if record["lm"] != "lm":
                check_language_model(path, record, self.lm_fingerprint, self.lm_source)
        self.adapter.load_state_dict(found.state_dict())

    def export_adapter(self, path: str | os.PathLike, layout: str = "reference") -> None:
        """Write the adapter under the names of "reference" (mm_projector.bin) or "hf-llava" (adapter.py)."""
        self.adapter.export(path, layout)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the model to a folder, each file atomically, revision.json last."""
        folder, source = Path(folder), self.lm_source
        if self._lora and source is None:
            raise InputError(
                f"{folder}: with LoRA the language model is saved as a reference; load it from a path or name"
            )
        whole = not self._lora and (self._lm_trained or source is None)
        self.adapter.export(folder / "adapter.safetensors")
        for name, there in (("lm", whole), ("lora", self._lora)):
            if there:
                with_weights = AtomicFolder(folder / name)
                with with_weights.writing(), hubs.asked(False):  # peft would ask the hub for the base's configuration
                    self.lm.save_pretrained(with_weights.temporary)
                with_weights.commit()
        record = {
            "dim": self.dim,
            "tokens": self.tokens,
            "width": self.adapter.width,
            "lm": "lm" if whole or source is None else str(Path(source).resolve()) if Path(source).exists() else source,
            "lm_fingerprint": fingerprint(self.lm) if whole else self.lm_fingerprint,
            "lora": self._lora,
        }
        write_record(folder, record)

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike, *, lm: PreTrainedModel | str | None = None, hub: bool = False
    ) -> RevisionModel:
        """The model that `save_pretrained` wrote, on the CPU and in eval mode.

        Parameters
        ----------
        lm
            The language model, loaded or by path or name, if it is kept by reference and has moved.
        hub
            Whether it may be downloaded.

        Raises
        ------
        InputError
            With the folder: no model, a part missing, or another language model at the reference.
        """
        folder = Path(folder)
        record = read_record(folder)
        if record["lm"] == "lm":
            model = cls(load_lm(folder / "lm"), record["dim"], tokens=record["tokens"])
            model.lm_source, model._lm_trained = str(folder / "lm"), True
        else:
            given = lm if lm is not None else record["lm"]
            if lm is None:
                hubs.find(
                    given,
                    f"{folder}: its language model {given}",
                    hub,
                    "allow it with hub=True (or name another with lm=)",
                )
            given = load_lm(given, hub=hub) if is_path(given) else given
            model = cls(given, record["dim"], tokens=record["tokens"])
            check_language_model(folder, record, model.lm_fingerprint, model.lm_source)
        model.load_adapter(adapters.find(folder))
        if record["lora"]:
            peft = optional("peft", "lora", "LoRA")
            with _quiet_peft():
                try:
                    model.lm = peft.PeftModel.from_pretrained(model.lm, folder / "lora", is_trainable=True)
                except Exception as error:  # a damaged file of weights may raise anything
                    if (short := shortage(error)) is not None:
                        raise FastRealignError(f"{folder / 'lora'}: cannot be read: {short}") from error
                    raise InputError(
                        f"{folder / 'lora'}: cannot be loaded as updates by LoRA: {one_line(error)}; "
                        "copy or save the model again"
                    ) from error
            model._lora = True
        return model.eval()
