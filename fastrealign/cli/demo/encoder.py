"""The demo's dual encoder: open_clip's own model and losses, in a size that two CPU cores train in minutes.

An open_clip custom configuration (`CONFIG`): a ModifiedResNet with one block a stage for 64 x 64 pictures and a
two-layer text transformer over the captions' own words. Temperature (and SigLIP's bias) start where the loss's paper has
them and are learned; the temperature is held at or above CLIP's floor of 0.01. Needs the extra `encoder` (torch,
open_clip_torch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

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
MAX_LOGIT_SCALE = 100.0
# What each loss starts from: CLIP's (arXiv 2103.00020) and SigLIP's (arXiv 2303.15343) own values.
LOSSES: dict[str, dict[str, float]] = {
    "infonce": {"init_logit_scale": math.log(1 / 0.07)},
    "siglip": {"init_logit_scale": math.log(10), "init_logit_bias": -10.0},
}


def build(seed: int = 0, loss: str = "infonce") -> open_clip.CLIP:
    """A fresh encoder for a loss of LOSSES; the same weights for the same seed. Raises InputError for an unknown loss."""
    import open_clip
    import torch

    if loss not in LOSSES:
        raise InputError(f"there is no loss {loss!r}: choose one of {', '.join(LOSSES)}")
    torch.manual_seed(seed)
    return open_clip.CLIP(**CONFIG, **LOSSES[loss])


def loss_of(model: open_clip.CLIP) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """loss(image, text) of unit rows (n, DIM) each, with the model's temperature as it is when called.

    open_clip's ClipLoss (InfoNCE both ways), or its SigLipLoss for a model that was built with a bias, as that loss needs.
    """
    from open_clip.loss import ClipLoss, SigLipLoss

    if model.logit_bias is None:
        return lambda image, text: ClipLoss()(image, text, model.logit_scale.exp())
    return lambda image, text: SigLipLoss()(image, text, model.logit_scale.exp(), model.logit_bias)


def tokenize(texts: Sequence[str]) -> torch.Tensor:
    """Captions as token ids: int64, shape (n, CONTEXT). Raises InputError for a word outside the vocabulary."""
    import torch

    ids = torch.full((len(texts), CONTEXT), PAD)
    for row, text in zip(ids, texts, strict=True):
        words = text.split()
        unknown = [word for word in words if word not in IDS]
        if unknown or len(words) > CONTEXT - 2:
            what = f"the word {unknown[0]!r}" if unknown else f"{len(words)} words, more than {CONTEXT - 2}"
            raise InputError(f"caption {text!r} has {what}: the demo's encoder reads the demo's captions alone")
        row[: len(words) + 2] = torch.tensor([START, *(IDS[word] for word in words), END])
    return ids


def pixels(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Pictures (each uint8, (SIDE, SIDE, 3)) as the encoder takes them: float32, (n, 3, SIDE, SIDE), in [-1, 1]."""
    import torch

    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def step(
    model: open_clip.CLIP,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    texts: torch.Tensor,
) -> float:
    """One step down the model's loss on pairs of `pixels` and `tokenize`d captions; returns the loss before it."""
    import torch

    image = model.encode_image(images, normalize=True)
    text = model.encode_text(texts, normalize=True)
    loss = loss_of(model)(image, text)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
    return loss.item()


def encode_images(model: open_clip.CLIP, pictures: Sequence[np.ndarray], batch: int = 256) -> np.ndarray:
    """Embeddings of pictures as the model gives them, not normalised: float32, (n, DIM)."""
    return _encode(model, lambda part: model.encode_image(pixels(part)), pictures, batch)


def encode_texts(model: open_clip.CLIP, texts: Sequence[str], batch: int = 256) -> np.ndarray:
    """Embeddings of captions as the model gives them, not normalised: float32, (n, DIM)."""
    return _encode(model, lambda part: model.encode_text(tokenize(part)), texts, batch)


def _encode(model, encode, items, batch: int) -> np.ndarray:
    import torch

    model.eval()
    with torch.inference_mode():
        parts = [encode(items[lo : lo + batch]).numpy() for lo in range(0, len(items), batch)]
    return np.concatenate(parts)
