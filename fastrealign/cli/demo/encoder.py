"""The dual encoder of the demo: an open_clip model, small enough to train in minutes on two CPU cores.

`CONFIG` is a custom configuration of open_clip: a ModifiedResNet with one block per stage for 64 x 64 images, and a text
transformer of two layers over the words of the captions. bench/paper/world/encoder_training.py trains it. Needs the extra
`encoder` (torch, open_clip_torch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.cli.demo.captions import WORDS
from fastrealign.cli.demo.scenes import SIDE
from fastrealign.core.errors import InputError

if TYPE_CHECKING:
    import open_clip
    import torch

DIM = 128
CONTEXT = 33  # tokens: the longest caption (31 words) and its two marks
PAD, START, END = 0, 1, len(WORDS) + 2  # END is the largest id: open_clip pools the text at the largest
IDS = {word: i + 2 for i, word in enumerate(WORDS)}
CONFIG = {
    "embed_dim": DIM,
    "vision_cfg": {"image_size": SIDE, "layers": (1, 1, 1, 1), "width": 24, "head_width": 64},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": len(WORDS) + 3, "width": 128, "heads": 4, "layers": 2},
}
INITIAL_LOGITS = {"init_logit_scale": math.log(1 / 0.07)}


def build(seed: int = 0, logits: Mapping[str, float] = INITIAL_LOGITS) -> open_clip.CLIP:
    """A new encoder, with the same weights for the same seed. `logits`: options of open_clip.CLIP for its temperature."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    return open_clip.CLIP(**CONFIG, **logits)


def tokenize(texts: Sequence[str]) -> torch.Tensor:
    """Captions as token ids, int64 (n, CONTEXT). Raises InputError for a word outside the vocabulary."""
    import torch

    ids = torch.full((len(texts), CONTEXT), PAD)
    for row, text in zip(ids, texts, strict=True):
        words = text.split()
        unknown = [word for word in words if word not in IDS]
        if unknown or len(words) > CONTEXT - 2:
            what = f"the word {unknown[0]!r}" if unknown else f"{len(words)} words, more than {CONTEXT - 2}"
            raise InputError(f"caption {text!r} has {what}: the demo's encoder reads only captions of the demo")
        row[: len(words) + 2] = torch.tensor([START, *(IDS[word] for word in words), END])
    return ids


def pixels(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Images, uint8 (SIDE, SIDE, 3) each, as input of the encoder: float32 (n, 3, SIDE, SIDE) in [-1, 1]."""
    import torch

    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def encode_images(model: open_clip.CLIP, pictures: Sequence[np.ndarray], batch: int = 256) -> np.ndarray:
    """Embeddings of images, not normalised: float32 (n, DIM)."""
    return _encode(model, lambda part: model.encode_image(pixels(part)), pictures, batch)


def encode_texts(model: open_clip.CLIP, texts: Sequence[str], batch: int = 256) -> np.ndarray:
    """Embeddings of captions, not normalised: float32 (n, DIM)."""
    return _encode(model, lambda part: model.encode_text(tokenize(part)), texts, batch)


def _encode(
    model: open_clip.CLIP, encode: Callable[[Any], torch.Tensor], items: Sequence[Any], batch: int
) -> np.ndarray:
    import torch

    model.eval()
    with torch.inference_mode():
        parts = [encode(items[lo : lo + batch]).numpy() for lo in range(0, len(items), batch)]
    return np.concatenate(parts)
