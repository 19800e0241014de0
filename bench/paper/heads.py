"""Heads over frozen features, trained in a minute: what the open questions need of many encoders.

A head a side on standardised features. A pair is an image and its short or, in half of the cases, its long
caption. Needs the extra `torch`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

WIDTH, HIDDEN, BATCH, STEPS = 128, 512, 512, 300
RATE, DECAY, DROPOUT = 1e-3, 0.05, 0.2


@dataclass(frozen=True, eq=False)
class Features:
    """Of n pictures and their captions, as frozen towers give them, float32 (n, ...); rows to train on and held-out ones."""

    name: str
    image: np.ndarray
    short: np.ndarray
    long: np.ndarray
    train: np.ndarray
    held: np.ndarray
    label: np.ndarray


@dataclass(frozen=True, eq=False)
class Embedded:
    """Unit rows of all pictures and captions, float32 (n, width), and the logit scale at the end."""

    image: np.ndarray
    short: np.ndarray
    long: np.ndarray
    scale: float


@dataclass(frozen=True)
class Shape:
    """Of a head: its width, whether it is linear, and the standard deviation of its last bias at first.

    Such a bias puts the rows of a side into a cone, as a deep encoder does at first (arXiv 2203.02053): the gap that training
    starts from.
    """

    width: int = WIDTH
    linear: bool = False
    cone: float = 0.0


# loss(image, text, scale, bias): of unit rows.
Loss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def infonce(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """CLIP's (arXiv 2103.00020)."""
    import torch
    from torch.nn.functional import cross_entropy

    logits, own = scale * image @ text.T, torch.arange(len(image))
    return (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2


def siglip(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """SigLIP's (arXiv 2303.15343): every pair alone, matching or not."""
    import torch
    from torch.nn.functional import logsigmoid

    logits = scale * image @ text.T + bias
    return -logsigmoid(logits * (2 * torch.eye(len(image)) - 1)).sum() / len(image)


def infoloob(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """CLOOB's (arXiv 2110.11316), DCL's too (arXiv 2110.06848): the positive is left out of the denominator."""
    import torch

    logits = scale * image @ text.T
    others = logits.masked_fill(torch.eye(len(image), dtype=torch.bool), -torch.inf)
    return (-2 * logits.diagonal() + others.logsumexp(0) + others.logsumexp(1)).mean() / 2


def hinge(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """VSE++'s (arXiv 1707.05612): a margin of 0.2 over the hardest other row of the batch; no temperature."""
    import torch

    cosines = image @ text.T
    others = cosines.masked_fill(torch.eye(len(image), dtype=torch.bool), -torch.inf)
    own = cosines.diagonal()
    return ((0.2 + others.amax(0) - own).relu() + (0.2 + others.amax(1) - own).relu()).mean()


@dataclass(frozen=True)
class Objective:
    """A loss, its first logit scale and bias, and whether the scale is learned."""

    loss: Loss
    scale: float
    learned: bool
    bias: float = 0.0


OBJECTIVES = {
    "InfoNCE": Objective(infonce, 60.0, False),
    "InfoNCE, learned scale": Objective(infonce, 1 / 0.07, True),
    "SigLIP": Objective(siglip, 10.0, True, -10.0),
    "InfoLOOB": Objective(infoloob, 60.0, False),
    "hinge": Objective(hinge, 1.0, False),
}


def trained(
    of: Features,
    objective: Objective,
    seed: int,
    *,
    steps: int = STEPS,
    shape: Shape = Shape(),
    every: int = 0,
    look: Callable[[int, Embedded], None] | None = None,
) -> Embedded:
    """Train a pair of heads; `look` is called every so many steps, before the first and after the last."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    z = {"image": _standard(of.image, of.image[of.train])}
    z |= {name: _standard(getattr(of, name), of.short[of.train]) for name in ("short", "long")}

    def head(width: int) -> nn.Module:
        last = nn.Linear(width if shape.linear else HIDDEN, shape.width)
        if shape.cone:
            nn.init.normal_(last.bias, 0.0, shape.cone)
        if shape.linear:
            return last
        return nn.Sequential(nn.Linear(width, HIDDEN), nn.GELU(), nn.Dropout(DROPOUT), last)

    heads = nn.ModuleDict({"image": head(of.image.shape[1]), "text": head(of.short.shape[1])})
    scale, bias = (nn.Parameter(torch.tensor(value)) for value in (float(np.log(objective.scale)), objective.bias))
    parameters = [{"params": heads.parameters(), "weight_decay": DECAY}]
    if objective.learned:
        parameters.append({"params": [scale, bias], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(parameters, RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rows = torch.as_tensor(of.train)

    def unit(side: str, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(heads[side](x), dim=1)

    def embedded() -> Embedded:
        heads.eval()
        with torch.no_grad():
            sides = {name: unit("image" if name == "image" else "text", x).numpy() for name, x in z.items()}
        heads.train()
        return Embedded(**sides, scale=float(scale.detach().exp()))

    for step in range(steps):
        if look is not None and step % every == 0:
            look(step, embedded())
        at = rows[torch.randperm(len(rows), generator=generator)[:BATCH]]
        long = torch.rand(len(at), generator=generator) < 0.5
        text = torch.where(long[:, None], z["long"][at], z["short"][at])
        loss = objective.loss(unit("image", z["image"][at]), unit("text", text), scale.exp().clamp(max=100), bias)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    last = embedded()
    if look is not None:
        look(steps, last)
    return last


def _standard(rows: np.ndarray, by: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(((rows - by.mean(0)) / (by.std(0) + 1e-6)).astype(np.float32))
