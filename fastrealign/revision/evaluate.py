"""A trained model's answers about images it has never seen, and their scores.

    caption   attribute F1: facts in the model's description (objects, colours, ...) against those of the image
    vqa       accuracy by kind of question
    probe     yes/no questions about what is and is not there, in POPE's form (arXiv 2305.10355): accuracy, precision,
              recall and F1 of "yes", and the share of answers "yes"

Decoding is greedy. The blind baseline is the same model with the same prompts and no visual token.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import described
from fastrealign.revision.answers import Answer, Item, read_answers, read_items, write_answers, write_items
from fastrealign.revision.conversations import IMAGE
from fastrealign.revision.templates import Template, left_padded, pad_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from fastrealign.data.lookup import Embeddings
    from fastrealign.revision.model import RevisionModel

__all__ = [
    "Answer", "Facts", "Item", "Scores", "ask", "over_seeds", "read_answers", "read_items", "score",
    "write_answers", "write_items",
]  # fmt: skip

Scores = dict[str, float]
# By attribute ("colours"): the facts that a text states, or that are true of an image. A fact is a tuple of words.
Facts = dict[str, set[tuple[str, ...]]]


def ask(
    model: RevisionModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    embeddings: Embeddings,
    *,
    stage: str = "stage2",
    blind: bool = False,
    batch: int = 128,
    max_new_tokens: int = 48,
    progress: Progress = SILENT,
) -> list[Answer]:
    """Greedy answers, in the order of the items.

    Parameters
    ----------
    embeddings
        Of real images, which are not mapped.
    stage
        "stage1": the model has seen no questions, so only items of task "caption" are asked, without a prompt.
    blind
        Whether to omit the visual tokens.
    batch
        Prompts at a time.

    Raises
    ------
    InputError
        For an id without an embedding, or a prompt as long as the language model's context.
    """
    batch, max_new_tokens = whole("batch", batch, 1), whole("max_new_tokens", max_new_tokens, 1)
    if stage == "stage1":
        items = [item for item in items if item.task == "caption"]
    template = Template(tokenizer, stage, tokens=0 if blind else model.tokens)
    model.eval()
    context = getattr(model.lm.config, "max_position_embeddings", math.inf)
    prompts = template.prompts([[(f"{IMAGE}\n{item.prompt}", None)] for item in items])
    for item, prompt in zip(items, prompts, strict=True):
        if len(prompt) >= context:
            raise InputError(f"item {item.id!r}: its prompt takes {len(prompt)} tokens, the context is {context}")
    # Sorted by length: less padding, and a batch of one-word answers ends early.
    order = sorted(range(len(items)), key=lambda i: (items[i].task == "caption", len(items[i].prompt)))
    given: dict[int, str] = {}
    with progress.running("asking blindly" if blind else "asking", len(items)):
        for lo in range(0, len(order), batch):
            chosen = order[lo : lo + batch]
            rows = None if blind else embeddings.rows([items[i].id for i in chosen])
            texts = generated(model, template, [prompts[i] for i in chosen], rows, max_new_tokens)
            given |= {i: text.strip() for i, text in zip(chosen, texts, strict=True)}
            progress.advance(len(chosen), 0)
    return [Answer(item, given[i], blind) for i, item in enumerate(items)]


def generated(
    model: RevisionModel,
    template: Template,
    prompts: Sequence[Sequence[int]],
    embeddings: np.ndarray | None,
    max_new_tokens: int,
) -> list[str]:
    """Greedy continuation of each prompt (token ids), as text; embeddings float32 (n, dim)."""
    import torch

    tokenizer = template.tokenizer
    inputs = left_padded(tokenizer, prompts)
    if embeddings is not None:
        inputs["embeddings"] = torch.from_numpy(embeddings)
    device = next(model.parameters()).device
    with torch.inference_mode():
        ids = model.generate(
            **{name: value.to(device) for name, value in inputs.items()},
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=template.end,
            pad_token_id=pad_token(tokenizer),
        )
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def score(answers: Iterable[Answer], said: Callable[[str], Facts] | None = None) -> Scores:
    """Named figures, each from 0 to 1.

    "vqa" and "probe" are accuracies over all questions, "vqa/colour" and "probe/random" over those of a kind, and
    "probe/random/f1" the F1 of answering yes. "caption/colours/f1" is the F1 of the facts of an attribute, "caption" the mean
    of these. Counts are summed over all items before a ratio is taken. The figures of blind answers begin with "blind/".

    Parameters
    ----------
    said
        Parses a description into facts; needed where there are answers of task "caption".

    Raises
    ------
    InputError
        For a caption without facts, a question without an answer, or captions without `said`.

    Examples
    --------
    >>> item = Item("7", "vqa", "colour", "what colour is it ?", answer="red")
    >>> score([Answer(item, "Red.", blind=False), Answer(item, "blue", blind=True)])
    {'vqa': 1.0, 'vqa/colour': 1.0, 'blind/vqa': 0.0, 'blind/vqa/colour': 0.0}
    """
    right: dict[str, list[bool]] = defaultdict(list)
    yes: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    named: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for a in answers:
        front = "blind/" if a.blind else ""
        if a.item.task == "caption":
            if not a.item.facts:
                raise InputError(f"item {a.item.id!r}: a caption without facts to score it by")
            if said is None:
                raise InputError("captions are scored by the facts that they state: pass said=, which parses a caption")
            truth = {name: {tuple(fact) for fact in facts} for name, facts in a.item.facts.items()}
            stated = said(a.given)
            if not isinstance(stated, dict):
                raise InputError(f"said= gave {described(stated)} for item {a.item.id!r}, expected facts by attribute")
            for name, counts in matched(stated, truth).items():
                named[f"{front}caption/{name}"] += counts
            continue
        given, answer = _word(a.given), _word(a.item.answer or "")
        if not answer:
            raise InputError(f"item {a.item.id!r}: a question without an answer to score it by")
        for name in (f"{front}{a.item.task}", f"{front}{a.item.task}/{a.item.kind}"):
            right[name].append(given == answer)
        if a.item.task == "probe":
            yes[f"{front}probe/{a.item.kind}"].append((given == "yes", answer == "yes"))
    scores = {name: float(np.mean(values)) for name, values in right.items()}
    for name, pairs in yes.items():
        said_yes, is_yes = np.array(pairs).T
        scores |= _ratios(name, np.sum(said_yes), np.sum(said_yes & is_yes), np.sum(is_yes))
        scores[f"{name}/yes"] = float(np.mean(said_yes))
    for name, (found, true, there) in named.items():
        scores |= _ratios(name, found, true, there)
    for front in ("", "blind/"):
        of_attributes = [scores[name + "/f1"] for name in named if name.startswith(f"{front}caption/")]
        if of_attributes:
            scores[f"{front}caption"] = float(np.mean(of_attributes))
    return scores


def matched(stated: Facts, truth: Facts) -> dict[str, tuple[int, int, int]]:
    """By attribute: the number of facts stated, of those that are true, and of all true facts.

    "" in a stated fact agrees with any word: a relation stated without a colour is true if it is with some.

    Examples
    --------
    >>> matched({"colours": {("red", "star"), ("", "ring")}}, {"colours": {("blue", "star"), ("red", "ring")}})
    {'colours': (2, 1, 2)}
    """

    def agree(fact: tuple[str, ...], true: tuple[str, ...]) -> bool:
        return len(fact) == len(true) and all(part in ("", other) for part, other in zip(fact, true, strict=True))

    return {
        name: (len(facts), sum(any(agree(fact, one) for one in true) for fact in facts), len(true))
        for name, true in truth.items()
        for facts in (stated.get(name, set()),)
    }


def over_seeds(runs: Sequence[Scores]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation (n - 1; NaN for one run) of every figure that all runs have."""
    if not runs:
        raise InputError("no scores of runs, expected those of at least one")
    common = [name for name in runs[0] if all(name in run for run in runs)]
    values = {name: np.array([run[name] for run in runs]) for name in common}
    return {n: (float(v.mean()), float(v.std(ddof=1)) if len(v) > 1 else float("nan")) for n, v in values.items()}


def _ratios(name: str, found: int, true: int, there: int) -> Scores:
    precision, recall = true / max(found, 1), true / max(there, 1)
    f1 = 2 * true / max(found + there, 1)
    return {f"{name}/precision": float(precision), f"{name}/recall": float(recall), f"{name}/f1": float(f1)}


def _word(text: str) -> str:
    """The first word, by which a short answer is judged."""
    words = text.lower().replace(".", " ").replace(",", " ").split()
    return words[0] if words else ""
