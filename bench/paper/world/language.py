"""How the language model of the rendered world is trained: captions, notes and dialogues about scenes, without images."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastrealign.cli.demo import backbone, captions, questions
from fastrealign.cli.demo.captions import Caption
from fastrealign.cli.demo.scenes import COLOURS, Scene

if TYPE_CHECKING:
    import torch
    from transformers import Lfm2ForCausalLM, PreTrainedTokenizerFast

RATE = 4e-3
QUESTIONS = 6  # per dialogue
ROWS, LENGTH = 20, 128  # of a batch, in tokens
_IGNORED = -100  # label without loss
_END = "</s>"
Parts = list[tuple[str, bool]]


@dataclass(frozen=True)
class Lessons:
    """What the first texts are, before all kinds are mixed.

    Mixed from the start, neither looking up a colour nor telling what is there from what is not appeared in 1,500 steps; alone
    the first takes 200.

    colours   texts with notes on colours alone, of complete captions
    notes     texts after these, of complete captions too: all notes, and one in ten a caption and its repetition
    """

    colours: int = 0
    notes: int = 0


def texts(scenes: Iterable[Scene], seed: int, lessons: Lessons = Lessons()) -> Iterator[Parts]:
    """A text per scene, in parts: (words, whether they have a loss); the end mark is included.

    A text is a caption and its repetition, notes on a caption, or a dialogue about one: the model learns to continue from a
    description of a scene, without which visual tokens could not help it. The caption itself cannot be predicted, so it has no
    loss. Notes are the questions of dialogues in fewer words: looking up the colour of a thing takes some hundred thousand
    examples to learn.
    """
    rng = random.Random(f"corpus {seed}")
    for number, scene in enumerate(scenes):
        described = captions.caption(scene, rng.choices(captions.LENGTHS, (1, 2, 3))[0], 2 * seed)
        kind = rng.choices((_twice, _notes, _dialogue), (0.15, 0.5, 0.35))[0]
        if number < lessons.colours + lessons.notes:
            described = captions.caption(scene, "complete")
            kind = _colours if number < lessons.colours else _twice if rng.random() < 0.1 else _notes
        parts = kind(scene, described, seed, rng)
        if any(learned for _, learned in parts):
            yield parts


def _twice(scene: Scene, described: Caption, seed: int, rng: random.Random) -> Parts:
    return [(described.text, False), (f"{described.text} {_END}", True)]


def _notes(scene: Scene, described: Caption, seed: int, rng: random.Random) -> Parts:
    return _noted(described, questions.notes(scene, described, seed))


def _colours(scene: Scene, described: Caption, seed: int, rng: random.Random) -> Parts:
    return _noted(described, [note for note in questions.notes(scene, described, seed) if note[1] in COLOURS])


def _noted(described: Caption, notes: list[tuple[str, str]]) -> Parts:
    noted = [part for words, end in notes for part in ((words, False), (end, True), (".", False))]
    return [(f"{described.text} .", False), *noted, (_END, False)]


def _dialogue(scene: Scene, described: Caption, seed: int, rng: random.Random) -> Parts:
    turns = [(q.text, q.answer) for q in questions.many(scene, described, QUESTIONS, seed)]
    if rng.random() < 0.3:
        turns.insert(rng.randint(0, 2), (backbone.DESCRIBE, described.text))
    parts = [(f"USER: {described.text}", False)]
    for prompt, answer in turns:
        before = "USER: " if len(parts) > 1 else ""
        parts += [(f"{before}{prompt} ASSISTANT:", False), (f"{answer} {_END}", True)]
    return parts


def train(
    scenes: Iterator[Scene],
    steps: int,
    seed: int,
    log: Callable[[str], None] = print,
    lessons: Lessons = Lessons(),
    peak: float = RATE,
) -> Lfm2ForCausalLM:
    """A model trained on `steps` batches of texts about the scenes; the same for the same scenes and seed."""
    words, model = backbone.tokenizer(), backbone.build(seed)
    learn(model, words, texts(scenes, seed, lessons), steps, peak, log)
    return model


def learn(
    model: Lfm2ForCausalLM,
    words: PreTrainedTokenizerFast,
    lines: Iterator[Parts],
    steps: int,
    peak: float = RATE,
    log: Callable[[str], None] = print,
) -> None:
    """Train a model on `steps` batches of lines."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), peak, betas=(0.9, 0.98), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min(1.0, (done + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done / steps))
    )
    model.train()
    total = 0.0
    batches = _batches(words, lines)
    for step in range(steps):
        rows, labels = next(batches)
        loss = model(rows, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
        total += loss.item()
        if (step + 1) % 100 == 0:
            log(f"language model, step {step + 1} of {steps}: loss {total / 100:.3f}")
            total = 0.0
    model.eval()


def _batches(words: PreTrainedTokenizerFast, lines: Iterator[Parts]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Tokens and labels, int64 (ROWS, LENGTH) each. A row holds as many whole texts as fit: an answer without its description
    would teach the model to guess. A text longer than a row loses its end."""
    import torch

    rows: list[tuple[list[int], list[int]]] = []
    row: list[int] = []
    labels: list[int] = []
    for parts in lines:
        ids, wanted = [words.bos_token_id], [_IGNORED]
        for text, learned in parts:
            added = words(text, add_special_tokens=False).input_ids
            ids += added
            wanted += added if learned else [_IGNORED] * len(added)
        if len(row) + min(len(ids), LENGTH) > LENGTH:
            rest = LENGTH - len(row)
            rows.append((row + [words.pad_token_id] * rest, labels + [_IGNORED] * rest))
            row, labels = [], []
        row, labels = row + ids[:LENGTH], labels + wanted[:LENGTH]
        if len(rows) == ROWS:
            yield torch.tensor([r for r, _ in rows]), torch.tensor([w for _, w in rows])
            rows = []
