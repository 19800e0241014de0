"""The dual encoder of the demo: an open_clip model, small enough to train in minutes on two CPU cores.

`CONFIG` is a custom configuration of open_clip: a ModifiedResNet with one block per stage for 64 x 64 images, and a text
transformer of two layers over the words of the captions. The temperature starts at CLIP's value (arXiv 2103.00020), is
learned, and is clamped at CLIP's floor of 0.01.

Every training step draws new scenes. Captions are partial, so an image holds more than its caption states. The modality gap
comes from that and from the learned temperature alone. The same seed, machine, PyTorch and number of threads give the same
weights. Needs the extra `encoder` (torch, open_clip_torch).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.cli.demo.captions import WORDS
from fastrealign.cli.demo.samples import FIRST_TRAINING_SEED, sample_caption, sample_scene
from fastrealign.cli.demo.scenes import SIDE, Scene, render
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
INITIAL_LOGITS = {"init_logit_scale": math.log(1 / 0.07)}
BATCH = 128
WARM_UP = 100
PEAK_RATE = 2e-3
# The temperature is one number that has to move far in few steps. At five times the rate of the weights, and with fewer
# complete captions, it fell to 1/33 and the gap was 0.58.
TEMPERATURE_RATE = 2 * PEAK_RATE
WEIGHT_DECAY = 0.1

Loss = Callable[["open_clip.CLIP", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def build(seed: int = 0, logits: Mapping[str, float] = INITIAL_LOGITS) -> open_clip.CLIP:
    """A new encoder, with the same weights for the same seed. `logits`: options of open_clip.CLIP for its temperature."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    return open_clip.CLIP(**CONFIG, **logits)


def infonce(model: open_clip.CLIP, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """open_clip's ClipLoss (InfoNCE in both directions) of unit rows, (n, DIM) each, at the model's temperature."""
    from open_clip.loss import ClipLoss

    return ClipLoss()(image, text, model.logit_scale.exp())


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


def step(
    model: open_clip.CLIP,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    texts: torch.Tensor,
    loss_of: Loss = infonce,
) -> float:
    """One optimizer step on a batch from `pixels` and `tokenize`; returns the loss before the step."""
    import torch

    image = model.encode_image(images, normalize=True)
    text = model.encode_text(texts, normalize=True)
    loss = loss_of(model, image, text)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
    return loss.item()


def training(
    model: open_clip.CLIP, steps: int, scene_of: Callable[[int], Scene] = sample_scene, loss_of: Loss = infonce
) -> Iterator[float]:
    """Train on `steps` batches of new scenes, one batch each time the iterator advances; yields the loss of each step.

    `scene_of` maps a seed to its scene. Between two steps the caller may leave the model in evaluation mode.
    """
    import torch

    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(_parameter_groups(model), betas=(0.9, 0.98))
    for done in range(steps):
        model.train()
        rate = min(1.0, (done + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done / steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["peak"]
        first = FIRST_TRAINING_SEED + done * BATCH
        scenes = [scene_of(s) for s in range(first, first + BATCH)]
        texts = tokenize([sample_caption(s).text for s in scenes])
        yield step(model, optimizer, pixels([render(s) for s in scenes]), texts, loss_of)


def train(
    model: open_clip.CLIP,
    steps: int,
    scene_of: Callable[[int], Scene] = sample_scene,
    log: Callable[[str], None] = print,
    loss_of: Loss = infonce,
) -> None:
    """`training` to its end, with a line of log every 100 steps."""
    started, recent = time.perf_counter(), deque[float](maxlen=100)
    for done, loss in enumerate(training(model, steps, scene_of, loss_of), 1):
        recent.append(loss)
        if done % 100 == 0:
            scale, seconds = model.logit_scale.exp().item(), time.perf_counter() - started
            log(f"step {done:>5} of {steps}  loss {np.mean(recent):.3f}  logit scale {scale:.1f}  {seconds:.0f} s")


def _parameter_groups(model: open_clip.CLIP) -> list[dict[str, Any]]:
    """Weight decay is for matrices, not for gains, biases and the temperature (nor SigLIP's bias of all logits)."""
    logits = [p for name, p in model.named_parameters() if name in ("logit_scale", "logit_bias")]
    rest = [p for name, p in model.named_parameters() if name not in ("logit_scale", "logit_bias")]
    return [
        {"params": [p for p in rest if p.ndim >= 2], "peak": PEAK_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in rest if p.ndim < 2], "peak": PEAK_RATE, "weight_decay": 0.0},
        {"params": logits, "peak": TEMPERATURE_RATE, "weight_decay": 0.0},
    ]


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
