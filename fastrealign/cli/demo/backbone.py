"""The demo's language model: a small LFM2, trained on captions, notes and dialogues about scenes, without images.

It takes the place of ReVision's pretrained language model (arXiv 2602.07026, section 5): it writes the captions' English, and
answers questions about a scene that is described in words.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastrealign.cli.demo import captions, questions
from fastrealign.cli.demo.captions import Caption
from fastrealign.cli.demo.scenes import Scene

if TYPE_CHECKING:
    import torch
    from transformers import Lfm2ForCausalLM, PreTrainedTokenizerFast

DESCRIBE = "describe the picture ."
CONTEXT = 192
WIDTH = 64
# A convolution shows each noun the words before it, such as its colour; attention alone learned this more slowly.
LAYERS = ("conv", "full_attention", "conv", "full_attention")
RATE = 4e-3
QUESTIONS = 6  # per dialogue
ROWS, LENGTH = 20, 128  # of a batch, in tokens
_IGNORED = -100  # label without loss
_END = "</s>"
_SPECIAL = ("<pad>", "<s>", _END, "<unk>")
Parts = list[tuple[str, bool]]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, for all words of captions, questions and prompts."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*_SPECIAL, "USER", "ASSISTANT", ":", *captions.WORDS, *questions.WORDS, "describe"])
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    made.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def texts(scenes: Iterable[Scene], seed: int) -> Iterator[Parts]:
    """A text per scene, in parts: (words, whether they have a loss); the end mark is included.

    A text is a caption and its repetition, notes on a caption, or a dialogue about one: the model learns to continue from a
    description of a scene, without which visual tokens could not help it. The caption itself cannot be predicted, so it has no
    loss. Notes are the questions of dialogues in fewer words: looking up the colour of a thing takes some hundred thousand
    examples to learn.
    """
    rng = random.Random(f"corpus {seed}")
    for scene in scenes:
        told = captions.caption(scene, rng.choices(captions.LENGTHS, (1, 2, 3))[0], 2 * seed)
        kind = rng.choices((_twice, _notes, _dialogue), (0.15, 0.5, 0.35))[0]
        parts = kind(scene, told, seed, rng)
        if any(learned for _, learned in parts):
            yield parts


def _twice(scene: Scene, told: Caption, seed: int, rng: random.Random) -> Parts:
    return [(told.text, False), (f"{told.text} {_END}", True)]


def _notes(scene: Scene, told: Caption, seed: int, rng: random.Random) -> Parts:
    noted = [
        part
        for words, end in questions.notes(scene, told, seed)
        for part in ((words, False), (end, True), (".", False))
    ]
    return [(f"{told.text} .", False), *noted, (_END, False)]


def _dialogue(scene: Scene, told: Caption, seed: int, rng: random.Random) -> Parts:
    turns = [(q.text, q.answer) for q in questions.many(scene, told, QUESTIONS, seed)]
    if rng.random() < 0.3:
        turns.insert(rng.randint(0, 2), (DESCRIBE, told.text))
    parts = [(f"USER: {told.text}", False)]
    for prompt, answer in turns:
        before = "USER: " if len(parts) > 1 else ""
        parts += [(f"{before}{prompt} ASSISTANT:", False), (f"{answer} {_END}", True)]
    return parts


def train(scenes: Iterator[Scene], steps: int, seed: int, log: Callable[[str], None] = print) -> Lfm2ForCausalLM:
    """A model trained on `steps` batches of texts about the scenes; the same for the same scenes and seed."""
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    words = tokenizer()
    torch.manual_seed(seed)
    model = Lfm2ForCausalLM(
        Lfm2Config(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            block_auto_adjust_ff_dim=False,
            num_hidden_layers=len(LAYERS),
            layer_types=list(LAYERS),
            conv_L_cache=3,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            # transformers' 0.02 is for wide models: attention would start almost uniform.
            initializer_range=WIDTH**-0.5,
            pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.05)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda done: min(1.0, (done + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done / steps))
    )
    model.train()
    total = 0.0
    batches = _batches(words, texts(scenes, seed))
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
    return model.eval()


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


def save(model: Lfm2ForCausalLM, folder: Path) -> None:
    """The model and its tokenizer in one folder, as transformers saves them."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
