"""Train the demo's encoder and remake the shipped embeddings: `python -m fastrealign.cli.demo.train --out DIR`.

Every training step draws scenes never seen before. Their captions are partial, so a picture holds more than its caption
tells, and the temperature is learned: what gap there is between the modalities comes of that alone. Two runs with the
same seed on the same machine, PyTorch and thread count give the same encoder. Needs the extra `encoder`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.cli.demo import encoder, samples
from fastrealign.cli.demo.captions import holds
from fastrealign.cli.demo.readings import RECALL_AT, read, recall
from fastrealign.cli.demo.scenes import Scene, render
from fastrealign.core.reference import project

if TYPE_CHECKING:
    import open_clip

STEPS = 1_000
BATCH = 128
WARM_UP = 100
PEAK_RATE = 2e-3
# The temperature is one number with far to go in few steps: it moves faster than the weights. At five times their rate,
# and with fewer complete captions, it fell to 1/33 and the gap was 0.58.
TEMPERATURE_RATE = 2 * PEAK_RATE
WEIGHT_DECAY = 0.1


def train(
    steps: int = STEPS,
    seed: int = 0,
    log: Callable[[str], None] = print,
    scene_of: Callable[[int], Scene] = samples.sample_scene,
    *,
    loss: str = "infonce",
    start: open_clip.CLIP | None = None,
    on_step: Callable[[int, open_clip.CLIP], None] | None = None,
) -> open_clip.CLIP:
    """A trained encoder, after `steps` batches of new scenes.

    scene_of  the scene of a seed: of which kind, that is
    loss      one of encoder.LOSSES
    start     an encoder to go on from, with a schedule of its own; None: a fresh one of `seed` and `loss`
    on_step   called with the number of steps done, 0 first, and the model; it may leave the model in evaluation mode
    """
    import torch

    model = (start or encoder.build(seed, loss)).to(memory_format=torch.channels_last)
    groups = _parameter_groups(model)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    started, losses = time.perf_counter(), []
    for done in range(steps):
        if on_step:
            on_step(done, model)
        model.train()
        warm = min(1.0, (done + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * done / steps))
        for group in optimizer.param_groups:
            group["lr"] = warm * group["peak"]
        first = samples.FIRST_TRAINING_SEED + done * BATCH
        scenes = [scene_of(s) for s in range(first, first + BATCH)]
        images = encoder.pixels([render(s) for s in scenes])
        texts = encoder.tokenize([samples.sample_caption(s).text for s in scenes])
        losses.append(encoder.step(model, optimizer, images, texts))
        if (done + 1) % 100 == 0:
            scale = model.logit_scale.exp().item()
            log(
                f"step {done + 1:>5} of {steps}  loss {np.mean(losses[-100:]):.3f}  logit scale {scale:.1f}  "
                f"{time.perf_counter() - started:.0f} s"
            )
    if on_step:
        on_step(steps, model)
    return model


def _parameter_groups(model: open_clip.CLIP) -> list[dict[str, Any]]:
    """Weight matrices decay; gains, biases and the temperature (with SigLIP's bias of all logits) do not."""
    logits = [p for name, p in model.named_parameters() if name in ("logit_scale", "logit_bias")]
    rest = [p for name, p in model.named_parameters() if name not in ("logit_scale", "logit_bias")]
    return [
        {"params": [p for p in rest if p.ndim >= 2], "peak": PEAK_RATE, "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in rest if p.ndim < 2], "peak": PEAK_RATE, "weight_decay": 0.0},
        {"params": logits, "peak": TEMPERATURE_RATE, "weight_decay": 0.0},
    ]


def embed(model: open_clip.CLIP) -> dict[str, np.ndarray]:
    """The four sets of samples.SEEDS as float16 unit rows."""
    sets = {}
    for name, seeds in samples.SEEDS.items():
        scenes = [samples.sample_scene(s) for s in seeds]
        if name.endswith("image"):
            rows = encoder.encode_images(model, [render(s) for s in scenes])
        else:
            rows = encoder.encode_texts(model, [samples.sample_caption(s).text for s in scenes])
        sets[name] = project(rows).astype(np.float16)
    return sets


def measure(model: open_clip.CLIP, sets: dict[str, np.ndarray]) -> dict[str, Any]:
    """Gap and text-to-image retrieval on the held-out pairs: for the captions as they are and by their length."""
    scenes = [samples.sample_scene(s) for s in samples.SEEDS["pairs_text"]]
    images = sets["pairs_image"]
    reading = read(sets["pairs_text"], sets["pairs_image"])
    by_length = {}
    for length in samples.LENGTH_SHARES:
        captions = [samples.sample_caption(s, length) for s in scenes]
        texts = encoder.encode_texts(model, [c.text for c in captions])
        # A caption that is true of m pictures finds its own among the first k in min(1, k/m) of the cases at best.
        true_of = np.array([sum(all(holds(claim, s) for claim in c.claims) for s in scenes) for c in captions])
        ceiling = {k: float(np.minimum(1, k / true_of).mean()) for k in RECALL_AT}
        by_length[length] = {"recall": recall(texts, images), "best possible": ceiling}
    return {
        "pairs": len(scenes),
        "gap": reading.gap,
        "mixing": reading.mixing,
        "recall": reading.recall,
        "chance": {k: k / len(scenes) for k in RECALL_AT},
        "by length": by_length,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fastrealign.cli.demo.train",
        description="Train the demo's encoder and embed its scenes and captions.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for *.npy, training.json, encoder.safetensors")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"batches of {BATCH} pairs (default {STEPS})")
    parser.add_argument("--seed", type=int, default=0, help="of the encoder's first weights (default 0)")
    parser.add_argument("--loss", choices=list(encoder.LOSSES), default="infonce", help="CLIP's (default) or SigLIP's")
    options = parser.parse_args(arguments)
    try:
        import open_clip
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        print(f"{error}: training needs the extra `encoder`: pip install 'fastrealign[encoder]'", file=sys.stderr)
        return 2

    options.out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    model = train(options.steps, options.seed, loss=options.loss)
    seconds = time.perf_counter() - start
    sets = embed(model)
    for name, rows in sets.items():
        np.save(options.out / f"{name}.npy", rows)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, options.out / "encoder.safetensors"
    )
    report = {
        "steps": options.steps,
        "batch": BATCH,
        "seed": options.seed,
        "loss": options.loss,
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "logit scale": model.logit_scale.exp().item(),
        **measure(model, sets),
    }
    (options.out / "training.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
