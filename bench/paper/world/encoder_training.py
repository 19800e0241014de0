"""Training of the demo's dual encoder (`fastrealign.cli.demo.encoder`) on drawn scenes.

The temperature starts at CLIP's value (arXiv 2103.00020), is learned, and is clamped at CLIP's floor of 0.01.

Every training step draws new scenes. Captions are partial, so an image holds more than its caption states. The modality gap
comes from that and from the learned temperature alone. The same seed, machine, PyTorch and number of threads give the same
weights. Needs the extra `encoder` (torch, open_clip_torch).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.cli.demo.encoder import pixels, tokenize
from fastrealign.cli.demo.samples import FIRST_TRAINING_SEED, sample_caption, sample_scene
from fastrealign.cli.demo.scenes import Scene, render

if TYPE_CHECKING:
    import open_clip
    import torch

MAX_LOGIT_SCALE = 100.0
BATCH = 128
WARM_UP = 100
PEAK_RATE = 2e-3
# The temperature is one number that has to move far in few steps. At five times the rate of the weights, and with fewer
# complete captions, it fell to 1/33 and the gap was 0.58.
TEMPERATURE_RATE = 2 * PEAK_RATE
WEIGHT_DECAY = 0.1

Loss = Callable[["open_clip.CLIP", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def infonce(model: open_clip.CLIP, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """open_clip's ClipLoss (InfoNCE in both directions) of unit rows, (n, DIM) each, at the model's temperature."""
    from open_clip.loss import ClipLoss

    return ClipLoss()(image, text, model.logit_scale.exp())


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
