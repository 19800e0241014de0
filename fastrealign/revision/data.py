"""Batches for training: token ids, loss masks, and embeddings found by id and aligned. Imported from here:

read_examples      examples.py            conversations and captions from files
open_embeddings    data/lookup.py         embeddings by id
available          matching.py            the examples that have one
Template           templates.py           token ids of prompts and responses
Collator           here                   batches of all that
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from fastrealign.core.checks import whole
from fastrealign.core.errors import BadRowsError, InputError, warn
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import described
from fastrealign.data.lookup import Embeddings, open_embeddings
from fastrealign.data.options import NoiseOptions, check_choice
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import unit_rows
from fastrealign.methods.input_checks import FirstRows
from fastrealign.methods.method import Call, Method
from fastrealign.methods.misfit import FIRST, LeftGap
from fastrealign.methods.noisy import with_noise
from fastrealign.nn import ReAlign
from fastrealign.revision.conversations import IMAGE, Example
from fastrealign.revision.examples import Examples, read_examples
from fastrealign.revision.matching import MISSING, Selected, available, names_of
from fastrealign.revision.templates import IMAGE_TOKEN, NO_LOSS, Template, left_padded, pad_token, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "IMAGE", "IMAGE_TOKEN", "NO_LOSS", "Checked", "Collator", "Embeddings", "Example", "Examples", "Selected",
    "Template", "available", "left_padded", "open_embeddings", "prompt_ids", "read_examples",
]  # fmt: skip

_CHECKED = 1024  # examples at a time
_SLOTS = 64  # workers with separate counts; further ones share them
_COUNTS = ("seconds", "truncated", "missing", "unanswered")
# Tokenizers without a limit state about 1e30.
_NO_LIMIT = 1 << 30


class Checked(NamedTuple):
    """Of `Collator.check`: number of examples that max_length cuts; whether each keeps some of a response, bool (n,)."""

    truncated: int
    answered: np.ndarray


Encoded = tuple[list[int], list[int]]  # token ids and labels of one example


class Collator:
    """Collates examples into a batch for a causal language model. Any number of worker processes may use it.

    Parameters
    ----------
    tokenizer
        Of transformers; templates.py documents what it needs. One without pad_token is padded with its eos_token.
    embeddings
        From `open_embeddings`, or an object with its dim, find, missing and rows.
    stage
        "stage1": loss on the text and its end. "stage2": loss on the responses and their ends.
    tokens
        Visual tokens per image.
    max_length
        Tokens per example, visual ones included. Longer examples are cut, with one warning, and counted. None: an example
        longer than the tokenizer's model_max_length is an error.
    alignment
        A fitted method or an nn.ReAlign that maps the embeddings of each batch; no copy is written. A FitWarning reports an
        Alignment that does not fit the embeddings: in `check` from a sample of all, otherwise from the first batches.
    noise, seed
        Length and seed of noise on the mapped rows, or on unit rows where there is no alignment: that of the row's number, as
        if the whole source were mapped, and so is C3's.
    missing
        For an example whose id has no embedding: "error", or "skip" to leave it out and count it.
    unanswered
        For an example that max_length leaves no response: "error", or "skip" to leave it out and count it.
    form
        Of stage 2: "llava" or "chat"; default "chat" if the tokenizer has a chat template (templates.py).

    Raises
    ------
    InputError
        With the id of the example at fault; also when collating a batch of which nothing is left.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        embeddings: Embeddings,
        *,
        stage: str,
        tokens: int = 1,
        max_length: int | None = None,
        alignment: Method | ReAlign | None = None,
        missing: str = "error",
        unanswered: str = "error",
        form: str | None = None,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        whole("tokens", tokens, 1, why="visual tokens")
        max_length = None if max_length is None else whole("max_length", max_length, 1, why="in tokens")
        check_choice("missing", missing, MISSING)
        check_choice("unanswered", unanswered, MISSING)
        _check_kinds(tokenizer, embeddings, alignment)
        if alignment is not None and alignment.dim != embeddings.dim:
            raise InputError(
                f"the embeddings are {embeddings.dim} wide, the alignment was fitted on {alignment.dim}; use one encoder"
            )
        self.template = Template(tokenizer, stage, tokens, form)
        self.embeddings, self.alignment, self.max_length = embeddings, alignment, max_length
        self._skip_missing, self._skip_unanswered = missing == "skip", unanswered == "skip"
        self._pad = pad_token(tokenizer)
        self._warned = False
        named = getattr(embeddings, "name", "the embeddings")
        self._first = FirstRows(named, FIRST, LeftGap(alignment)) if isinstance(alignment, Alignment) else None
        # What an nn.ReAlign mapped gets noise as raw rows do.
        below = unit_rows(embeddings.dim) if alignment is None or isinstance(alignment, ReAlign) else alignment
        self._noisy = with_noise(below, options) if (options := NoiseOptions(noise, seed)) else None
        self._limit = max_length or min(getattr(tokenizer, "model_max_length", _NO_LIMIT), _NO_LIMIT)
        # In shared memory, so that the process that started the workers reads their counts.
        self._counts = torch.zeros(_SLOTS, len(_COUNTS), dtype=torch.float64).share_memory_()

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """A batch of B examples, the longest of L tokens.

        Returns
        -------
        dict
            "input_ids", int64 (B, L): IMAGE_TOKEN at `tokens` adjacent places, padded on the right.
            "attention_mask", int64 (B, L): 0 on the padding.
            "labels", int64 (B, L): NO_LOSS (-100) where there is no loss.
            "embeddings", float32 (B, dim).
        """
        found, numbers = self._found(examples)
        kept = [(i, one) for i, one in enumerate(self._encoded(found)) if one is not None]
        if not kept:
            raise InputError(f"nothing is left of a batch, whose first example is {found[0].id!r}; see max_length")
        length = max(len(tokens) for _, (tokens, _) in kept)
        ids = torch.full((len(kept), length), self._pad)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, NO_LOSS)
        for row, (_, (tokens, learned)) in enumerate(kept):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, : len(tokens)] = torch.tensor(learned)
            mask[row, : len(tokens)] = 1
        places = [i for i, _ in kept]
        rows = self._aligned([found[i] for i in places], numbers[places])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "embeddings": rows}

    def check(self, examples: Sequence[Example], vocabulary: int, progress: Progress = SILENT) -> Checked:
        """Check all examples before training, so that no fault appears in the middle of it. Changes no count.

        Parameters
        ----------
        vocabulary
            Token ids that the language model knows.

        Raises
        ------
        InputError
            For every fault that a batch would raise, and for a token that the language model does not know.
        """
        answered = np.ones(len(examples), dtype=bool)
        with progress.running("checking examples", len(examples)):
            for lo in range(0, len(examples), _CHECKED):
                part = examples[lo : lo + _CHECKED]
                self.embeddings.rows(*names_of(part, self.embeddings))
                for i, one in enumerate(self._encoded(part)):
                    answered[lo + i] = one is not None
                    highest = max([self._pad, *(one[0] if one else ())])
                    if highest >= vocabulary:
                        raise InputError(
                            f"example {part[i].id!r}: its token ids go up to {highest}, the language model knows {vocabulary}; "
                            "use the tokenizer it was trained with"
                        )
                progress.advance(len(part), 0)
        if isinstance(self.alignment, Alignment) and self._first is not None and len(examples):
            places = np.unique(np.linspace(0, len(examples) - 1, _CHECKED).astype(int))
            rows = self.embeddings.rows(*names_of([examples[int(i)] for i in places], self.embeddings))
            aligned = np.empty_like(rows)
            self.alignment.apply(rows, aligned)
            FirstRows(self._first.which, len(rows), LeftGap(self.alignment)).look(torch.from_numpy(aligned), len(rows))
            self._first = None
        truncated = self.truncated
        self._warned = truncated > 0
        self._counts.zero_()
        return Checked(truncated, answered)

    @property
    def align_seconds(self) -> float:
        """Seconds spent aligning, over all batches and workers."""
        return self._count("seconds")

    @property
    def truncated(self) -> int:
        """Examples that max_length cut."""
        return int(self._count("truncated"))

    @property
    def skipped(self) -> dict[str, int]:
        """Examples left out of their batches: "missing", without an embedding, and "unanswered"."""
        return {name: int(self._count(name)) for name in ("missing", "unanswered")}

    def _found(self, examples: Sequence[Example]) -> tuple[list[Example], np.ndarray]:
        """The examples that have an embedding, and its row, int64 (n,)."""
        if not len(examples):
            raise InputError("an empty batch, expected examples")
        if odd := [one for one in examples if not hasattr(one, "turns")]:
            raise InputError(f"{described(odd[0])} in a batch, expected an Example, of read_examples")
        ids = [example.id for example in examples]
        numbers = self.embeddings.find(*names_of(examples, self.embeddings))
        there = np.flatnonzero(numbers >= 0)
        if len(there) < len(ids):
            if not self._skip_missing or not len(there):
                first = next(id for id, number in zip(ids, numbers, strict=True) if number < 0)
                raise self.embeddings.missing(first, len(ids) - len(there), len(ids))
            self._add("missing", len(ids) - len(there))
        return [examples[int(i)] for i in there], numbers[there]

    def _encoded(self, examples: Sequence[Example]) -> list[Encoded | None]:
        """Each example, cut to the limit; None for one that is to be left out."""
        try:
            encoded = self.template.examples([example.turns for example in examples])
        except InputError:
            for example in examples:  # find the one at fault
                try:
                    self.template.examples([example.turns])
                except InputError as error:
                    raise InputError(f"example {example.id!r}: {error}") from None
            raise
        return [self._cut(example, *one) for example, one in zip(examples, encoded, strict=True)]

    def _cut(self, example: Example, ids: list[int], labels: list[int]) -> Encoded | None:
        if len(ids) <= self._limit:
            return ids, labels
        if self.max_length is None:
            raise InputError(
                f"example {example.id!r}: takes {len(ids)} tokens, the context of the tokenizer is {self._limit}; shorten "
                "it, or pass max_length to cut longer examples"
            )
        first = ids.index(IMAGE_TOKEN) + self.template.tokens
        if first > self._limit:
            raise InputError(
                f"example {example.id!r}: its visual tokens end at token {first}, max_length is {self._limit}; raise it"
            )
        if all(label == NO_LOSS for label in labels[: self._limit]):
            if not self._skip_unanswered:
                raise InputError(
                    f"example {example.id!r}: its first response begins beyond max_length, {self._limit} tokens; shorten its "
                    "prompt, or set unanswered to skip"
                )
            self._add("unanswered", 1)
            return None
        if not (self.truncated or self._warned):
            warn(
                f"example {example.id!r} is cut to max_length: {len(ids)} tokens to {self._limit}; others may follow, all of "
                "which are counted (`truncated`)",
                UserWarning,
            )
        self._add("truncated", 1)
        return ids[: self._limit], labels[: self._limit]

    def _aligned(self, examples: list[Example], numbers: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(self.embeddings.rows(*names_of(examples, self.embeddings)))
        if self.alignment is None and self._noisy is None:
            return rows
        started = time.perf_counter()
        numbered = self._noisy or any(getattr(self.alignment, name, False) for name in ("numbered", "noise"))
        first = self.embeddings.pass_numbers(numbers) if numbered else 0
        aligned = rows
        if isinstance(self.alignment, ReAlign):
            with torch.no_grad():
                aligned = self.alignment(rows.to(self.alignment.map.device), first=first).cpu()
        elif self.alignment is not None and (self._noisy is None or self._first is not None):
            aligned = _mapped(self.alignment, rows, first)
        if self._first is not None and (_worker() not in (None, 0) or self._first.look(aligned, len(aligned))):
            self._first = None
        if self._noisy is not None:
            aligned = _mapped(self._noisy, aligned if isinstance(self.alignment, ReAlign) else rows, first)
        self._add("seconds", time.perf_counter() - started)
        return aligned

    def _add(self, name: str, amount: float) -> None:
        worker = _worker()
        slot = 0 if worker is None else 1 + worker % (_SLOTS - 1)
        self._counts[slot, _COUNTS.index(name)] += amount

    def _count(self, name: str) -> float:
        return float(self._counts[:, _COUNTS.index(name)].sum())


def _mapped(method: Method, rows: torch.Tensor, first: int | np.ndarray) -> torch.Tensor:
    """Mapped rows (n, dim_out). Not by a call of the method, which checks rows by itself, in every worker."""
    out = torch.empty(len(rows), method.dim_out, dtype=rows.dtype)
    found = method.apply(rows.numpy(), out.numpy(), Call(first=first, threads=1))
    if found.bad:
        raise BadRowsError(f"row {found.first_bad} of a batch {found.why}; leave its example out")
    return out


def _check_kinds(tokenizer: object, embeddings: object, alignment: object) -> None:
    """InputError for arguments of a Collator that are of another kind."""
    if not hasattr(tokenizer, "eos_token_id"):
        raise InputError(f"tokenizer is {described(tokenizer)}, expected a tokenizer of transformers")
    if not all(hasattr(embeddings, name) for name in ("dim", "find", "missing", "rows")):
        raise InputError(f"embeddings is {described(embeddings)}, expected what open_embeddings returns")
    fitted = hasattr(alignment, "dim") and hasattr(alignment, "apply") and not isinstance(alignment, torch.nn.Module)
    if not (alignment is None or isinstance(alignment, ReAlign) or fitted):
        raise InputError(
            f"alignment is {described(alignment)}, expected a fitted method, as fastrealign.load returns it, or an nn.ReAlign"
        )


def _worker() -> int | None:
    """Number of this worker of a DataLoader; None in the process that started them."""
    info = torch.utils.data.get_worker_info()
    return None if info is None else info.id
