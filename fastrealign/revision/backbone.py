"""The demo's language model: a small Llama that has read the world's captions and dialogues, never a picture.

It plays the part of the pretrained language model in ReVision (arXiv 2602.07026, section 5): it speaks the captions'
English, and answers questions about a scene that is described to it in words.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fastrealign.demo import captions, questions
from fastrealign.demo.scenes import Scene

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

DESCRIBE = "describe the picture ."
CONTEXT = 192
WIDTH = 128
LAYERS = 3
RATE = 3e-3
REPEATED = 12_000  # texts at first that say a thing twice
ROWS, LENGTH = 20, 128  # a batch: texts one after the other, cut into rows
_SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, of all words that captions, questions and prompts can hold."""
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


def texts(scenes: Iterable[Scene], seed: int) -> Iterator[str]:
    """A text a scene, as the tokenizer takes them; the end mark is written out.

    Two captions of one scene, or a dialogue about a caption: so the model learns to go on from what it is told of a scene,
    without which no visual token could tell it anything.
    """
    rng = random.Random(f"corpus {seed}")
    for number, scene in enumerate(scenes):
        told, other = (captions.caption(scene, rng.choice(captions.LENGTHS), 2 * seed + i) for i in range(2))
        if number < REPEATED or rng.random() < 0.3:
            other = told  # to repeat is learned first, and the rest from there
        if rng.random() < 0.5:
            yield f"{told.text} {other.text} </s>"
            continue
        turns = [(q.text, q.answer) for q in questions.questions(scene, told, seed)]
        turns.insert(rng.randint(0, len(turns)), (DESCRIBE, other.text))
        asked = [f"USER: {prompt} ASSISTANT: {answer} </s>" for prompt, answer in turns]
        yield f"USER: {told.text} {asked[0].removeprefix('USER: ')} {' '.join(asked[1:])}"


def train(scenes: Iterator[Scene], steps: int, seed: int, log: Callable[[str], None] = print) -> LlamaForCausalLM:
    """A model trained on `steps` batches of texts about the scenes. The same for the same scenes and seed."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    words = tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT,
            initializer_range=WIDTH
            ** -0.5,  # transformers' 0.02 is for wide models: attention would begin all but uniform
            tie_word_embeddings=True,
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
        rows = next(batches)
        loss = model(rows, labels=rows).loss
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


def _batches(words: PreTrainedTokenizerFast, lines: Iterator[str]) -> Iterator[torch.Tensor]:
    """int64 (ROWS, LENGTH): no token is padding, so none is computed in vain."""
    import torch

    ids: list[int] = []
    for line in lines:
        ids += words(line).input_ids
        if len(ids) >= ROWS * LENGTH:
            yield torch.tensor(ids[: ROWS * LENGTH]).reshape(ROWS, LENGTH)
            ids = ids[ROWS * LENGTH :]


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """As transformers saves them: the model and its tokenizer in one folder."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
