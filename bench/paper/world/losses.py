"""The rendered encoder with CLIP's or SigLIP's loss, as open_clip implements them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bench.paper.world import encoder_training
from fastrealign.cli.demo import encoder

if TYPE_CHECKING:
    import open_clip
    import torch


def siglip(model: open_clip.CLIP, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """open_clip's SigLipLoss of unit rows, (n, DIM) each, at the model's temperature and bias."""
    from open_clip.loss import SigLipLoss

    return SigLipLoss()(image, text, model.logit_scale.exp(), model.logit_bias)


LOSSES: dict[str, encoder_training.Loss] = {"infonce": encoder_training.infonce, "siglip": siglip}
# Initial values of each loss: CLIP's (arXiv 2103.00020) and SigLIP's (arXiv 2303.15343).
_LOGITS = {"infonce": encoder.INITIAL_LOGITS, "siglip": {"init_logit_scale": math.log(10), "init_logit_bias": -10.0}}


def build(seed: int, loss: str) -> open_clip.CLIP:
    """A new encoder with the initial temperature (and bias) of one of LOSSES, laid out as for `encoder_training`."""
    import torch

    return encoder.build(seed, _LOGITS[loss]).to(memory_format=torch.channels_last)
