"""Batches for training: examples, their embeddings by id, token ids with loss masks, and the alignment on the way.

Examples are read in examples.py, embeddings looked up in embeddings.py, prompts made in templates.py; their names are here too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from fastrealign.core.errors import InputError, warn
from fastrealign.core.progress import SILENT, Progress
from fastrealign.data.image_paths import is_tail
from fastrealign.data.lookup import Embeddings, open_embeddings
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.misfit import FirstRows
from fastrealign.nn import ReAlign
from fastrealign.revision.conversations import IMAGE, Example
from fastrealign.revision.examples import Examples, read_examples
from fastrealign.revision.templates import IMAGE_TOKEN, NO_LOSS, Template, left_padded, pad_token, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "IMAGE",
    "IMAGE_TOKEN",
    "NO_LOSS",
    "Checked",
    "Collator",
    "Embeddings",
    "Example",
    "Examples",
    "Selected",
    "Template",
    "available",
    "left_padded",
    "open_embeddings",
    "prompt_ids",
    "read_examples",
]

_STEP = 1 << 12
# Examples that are checked at a time.
_CHECKED = 1024
# Workers whose counts are kept apart; more share.
_SLOTS = 64
_COUNTS = ("seconds", "truncated", "missing", "unanswered")
# Tokenizers that know no limit say some 1e30.
_NO_LIMIT = 1 << 30


class Checked(NamedTuple):
    """What `Collator.check` found: how many examples max_length cuts, and which keep some of a response, bool (n,)."""

    truncated: int
    answered: np.ndarray


class Collator:
    """Examples in, a batch for a causal language model out; any number of worker processes may do so.

    tokenizer   of transformers (templates.py says what it is asked for); without pad_token it is padded with eos_token
    embeddings  what `open_embeddings` gives, or anything with its dim, find, missing and rows
    stage       "stage1": loss on the text and its end; "stage2": on the responses and theirs
    tokens      visual tokens an image takes
    max_length  of an example, in tokens, the visual ones included: what is beyond is cut off, said once, and counted. None: an
                example longer than the tokenizer's model_max_length is an error
    alignment   an Alignment, nn.ReAlign or Baseline, through which the embeddings of the batch pass; no copy is written.
                Noise of a Baseline is that of the row's number, as if the whole source had been mapped. A FitWarning
                says where an Alignment does not fit the embeddings: of a sample of all in `check`, else of the first batches
    missing     "error", or "skip": an example whose id has no embedding is left out of its batch and counted
    unanswered  "error", or "skip": an example of whose responses max_length leaves nothing is left out and counted
    form        of stage 2: "llava" or "chat"; "chat" where the tokenizer has a chat template (templates.py)

    Raises InputError, which names the example, for what is wrong with one, and for a batch of which nothing is left.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        embeddings: Embeddings,
        *,
        stage: str,
        tokens: int = 1,
        max_length: int | None = None,
        alignment: Alignment | ReAlign | Baseline | None = None,
        missing: str = "error",
        unanswered: str = "error",
        form: str | None = None,
    ) -> None:
        if tokens < 1:
            raise InputError(f"tokens={tokens}: expected at least one visual token")
        if max_length is not None and max_length < 1:
            raise InputError(f"max_length={max_length}: expected a number of tokens")
        _check_choice("missing", missing)
        _check_choice("unanswered", unanswered)
        if alignment is not None and alignment.dim != embeddings.dim:
            raise InputError(
                f"the embeddings are {embeddings.dim} wide, the alignment was fitted on {alignment.dim}; take one encoder's"
            )
        self.template = Template(tokenizer, stage, tokens, form)
        self.embeddings, self.alignment, self.max_length = embeddings, alignment, max_length
        self._skip_missing, self._skip_unanswered = missing == "skip", unanswered == "skip"
        self._pad = pad_token(tokenizer)
        self._told_cut = False
        named = getattr(embeddings, "name", "the embeddings")
        self._first = FirstRows(alignment, named) if isinstance(alignment, Alignment) else None
        self._limit = max_length or min(getattr(tokenizer, "model_max_length", _NO_LIMIT), _NO_LIMIT)
        # Shared, so that the process that started the workers knows what they did.
        self._counts = torch.zeros(_SLOTS, len(_COUNTS), dtype=torch.float64).share_memory_()

    def __call__(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """The batch, B examples of which the longest has L tokens.

        input_ids       int64 (B, L), IMAGE_TOKEN at `tokens` places one after another, padded on the right
        attention_mask  int64 (B, L), 0 on the padding
        labels          int64 (B, L), NO_LOSS (-100) where there is no loss
        embeddings      float32 (B, dim)
        """
        examples, numbers = self._found(examples)
        encoded = self._encoded(examples)
        kept = [i for i, one in enumerate(encoded) if one is not None]
        if not kept:
            raise InputError(f"nothing is left of a batch, whose first example is {examples[0].id!r}; see max_length")
        length = max(len(encoded[i][0]) for i in kept)
        ids = torch.full((len(kept), length), self._pad)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, NO_LOSS)
        for row, i in enumerate(kept):
            tokens, learned = encoded[i]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, : len(tokens)] = torch.tensor(learned)
            mask[row, : len(tokens)] = 1
        rows = self._aligned([examples[i] for i in kept], numbers[kept])
        return {"input_ids": ids, "attention_mask": mask, "labels": labels, "embeddings": rows}

    def check(self, examples: Sequence[Example], vocabulary: int, progress: Progress = SILENT) -> Checked:
        """Go through all that batches will be made of, so that nothing comes up in the middle of a training.

        vocabulary  token ids that the language model knows
        Raises InputError for what a batch would, and for a token that is none of the language model's. Counts nothing.
        """
        answered = np.ones(len(examples), dtype=bool)
        progress.start("checking examples", len(examples), None)
        try:
            for lo in range(0, len(examples), _CHECKED):
                part = examples[lo : lo + _CHECKED]
                self.embeddings.rows(*_names(part, self.embeddings))
                for i, one in enumerate(self._encoded(part)):
                    answered[lo + i] = one is not None
                    highest = max([self._pad, *(one[0] if one else ())])
                    if highest >= vocabulary:
                        raise InputError(
                            f"example {part[i].id!r}: its token ids go up to {highest}, the language model knows {vocabulary}; "
                            "take the tokenizer it was trained with"
                        )
                progress.advance(len(part), 0)
        finally:
            progress.finish()
        if self._first is not None and len(examples):
            places = np.unique(np.linspace(0, len(examples) - 1, _CHECKED).astype(int))
            rows = self.embeddings.rows(*_names([examples[int(i)] for i in places], self.embeddings))
            self._first.look(self.alignment(rows, bad_rows="keep"), len(rows), enough=0)
            self._first = None
        found = Checked(self.truncated, answered)
        self._told_cut = found.truncated > 0
        self._counts.zero_()
        return found

    @property
    def align_seconds(self) -> float:
        """Seconds that the alignment took, over all batches and workers."""
        return self._count("seconds")

    @property
    def truncated(self) -> int:
        """Examples of which max_length cut something off."""
        return int(self._count("truncated"))

    @property
    def skipped(self) -> dict[str, int]:
        """Examples left out of their batches: "missing", whose id has no embedding, and "unanswered"."""
        return {name: int(self._count(name)) for name in ("missing", "unanswered")}

    def _found(self, examples: Sequence[Example]) -> tuple[list[Example], np.ndarray]:
        """The examples that have an embedding, and the numbers of its rows."""
        ids = [example.id for example in examples]
        numbers = self.embeddings.find(*_names(examples, self.embeddings))
        there = np.flatnonzero(numbers >= 0)
        if len(there) < len(ids):
            if not self._skip_missing or not len(there):
                first = next(id for id, number in zip(ids, numbers, strict=True) if number < 0)
                raise self.embeddings.missing(first, len(ids) - len(there), len(ids))
            self._add("missing", len(ids) - len(there))
        return [examples[i] for i in there], numbers[there]

    def _encoded(self, examples: list[Example]) -> list[tuple[list[int], list[int]] | None]:
        """(token ids, labels) of each, at most as long as may be; None for those to be left out."""
        try:
            encoded = self.template.examples([example.turns for example in examples])
        except InputError:
            for example in examples:  # which one it was
                try:
                    self.template.examples([example.turns])
                except InputError as error:
                    raise InputError(f"example {example.id!r}: {error}") from None
            raise
        return [self._cut(example, *one) for example, one in zip(examples, encoded, strict=True)]

    def _cut(self, example: Example, ids: list[int], labels: list[int]) -> tuple[list[int], list[int]] | None:
        if len(ids) <= self._limit:
            return ids, labels
        if self.max_length is None:
            raise InputError(
                f"example {example.id!r}: takes {len(ids)} tokens, the context of the tokenizer is {self._limit}; shorten "
                "it, or pass max_length to cut what is longer"
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
        if not (self.truncated or self._told_cut):
            warn(
                f"example {example.id!r} is cut to max_length: {len(ids)} tokens to {self._limit}; others may follow, all of "
                "which are counted (`truncated`)",
                UserWarning,
            )
        self._add("truncated", 1)
        return ids[: self._limit], labels[: self._limit]

    def _aligned(self, examples: list[Example], numbers: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(self.embeddings.rows(*_names(examples, self.embeddings)))
        if self.alignment is None:
            return rows
        started = time.perf_counter()
        if isinstance(self.alignment, ReAlign):
            with torch.no_grad():
                aligned = self.alignment(rows.to(self.alignment.map.device)).cpu()
        else:
            aligned = self.alignment(rows, threads=1, first=self.embeddings.pass_numbers(numbers))
            worker = torch.utils.data.get_worker_info()
            if (
                self._first is not None
                and (worker is None or worker.id == 0)
                and self._first.look(aligned, len(aligned))
            ):
                self._first = None
        self._add("seconds", time.perf_counter() - started)
        return aligned

    def _add(self, name: str, amount: float) -> None:
        worker = torch.utils.data.get_worker_info()
        slot = 0 if worker is None else 1 + worker.id % (_SLOTS - 1)
        self._counts[slot, _COUNTS.index(name)] += amount

    def _count(self, name: str) -> float:
        return float(self._counts[:, _COUNTS.index(name)].sum())


class Selected(Sequence[Example]):
    """Those of `examples` at the places `chosen`, ascending; left_out: how many are not among them.

    by_image   of how many no row has the id, so that another way led to it (near.py)
    """

    def __init__(self, examples: Sequence[Example], chosen: np.ndarray, by_image: int = 0) -> None:
        self._examples, self._chosen, self.by_image = examples, chosen, by_image
        self.left_out = len(examples) - len(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, at):
        if isinstance(at, slice):
            return [self._examples[int(i)] for i in self._chosen[at]]
        return self._examples[int(self._chosen[at])]


def available(
    examples: Sequence[Example], embeddings: Embeddings, missing: str = "error", progress: Progress = SILENT
) -> Selected:
    """The examples whose ids have an embedding, looked up before training; reads no embedding.

    missing   "error": InputError naming the first id that has none, how many, and where they were looked for; "skip": they
              are left out, and counted in `left_out`. None left is an error, too.
    Raises InputError, too, where the id is that of one row and the image's path that of another, and where one row is the
    nearest to two images.
    """
    _check_choice("missing", missing)
    there = np.zeros(len(examples), dtype=bool)
    pairs = _Pairs(embeddings)
    progress.start("looking up ids", len(examples), None)
    try:
        for lo in range(0, len(examples), _STEP):
            part = examples[lo : lo + _STEP]
            numbers = embeddings.find(*_names(part, embeddings))
            there[lo : lo + len(part)] = numbers >= 0
            pairs.add(part, numbers)
            progress.advance(len(part), 0)
    finally:
        progress.finish()
    without = np.flatnonzero(~there)
    if len(without) and (missing == "error" or len(without) == len(examples)):
        raise embeddings.missing(examples[int(without[0])].id, len(without), len(examples))
    return Selected(examples, np.flatnonzero(there), pairs.by_image)


class _Pairs:
    """The images that rows were found for: of one row there must not be two, which paths cut short cannot tell apart."""

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self._image_of: dict[int, str] = {}
        self.by_image = 0

    def add(self, examples: Sequence[Example], numbers: np.ndarray) -> None:
        own = self._embeddings.exact([example.id for example in examples])
        named = [i for i, example in enumerate(examples) if example.image is not None]
        for i, row in zip(named, self._embeddings.exact([str(examples[i].image) for i in named]), strict=True):
            if 0 <= row != own[i] >= 0:
                raise InputError(
                    f"{self._embeddings.name}: the id {examples[i].id!r} of an example is that of {self._where(own[i])}, its "
                    f"image {examples[i].image!r} that of {self._where(row)}; give it the id of its row, or leave image out"
                )
        for i in np.flatnonzero((own < 0) & (numbers >= 0)):
            self.by_image += 1
            image = examples[i].image or examples[i].id
            other = self._image_of.setdefault(int(numbers[i]), image)
            if other != image and not is_tail(other, image):
                raise InputError(
                    f"{self._where(numbers[i])}: is the nearest to two images, {other!r} and {image!r}; give the rows ids that "
                    "tell these apart, or give the examples the ids of their rows"
                )
            self._image_of[int(numbers[i])] = max(other, image, key=len)

    def _where(self, row: np.integer) -> str:
        return self._embeddings.where(int(row))


def _names(examples: Sequence[Example], embeddings: Embeddings) -> tuple[list[Any], ...]:
    """What examples are looked up by: ids, and the paths of their images where `embeddings` know what to do with them."""
    ids = [example.id for example in examples]
    return (ids, [example.image for example in examples]) if isinstance(embeddings, Embeddings) else (ids,)


def _check_choice(name: str, value: Any) -> None:
    if value not in ("error", "skip"):
        raise InputError(f"{name}={value!r}: expected error or skip")
