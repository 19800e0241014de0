"""Train the rendered encoder and remake the shipped embeddings: `python -m bench.paper.world.shipped --out DIR`.

Needs the extra `encoder`. Two runs are as equal as fastrealign/cli/demo/encoder.py describes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.paper.world import encoder_training
from bench.paper.world.losses import LOSSES, build
from fastrealign.cli.demo import encoder, samples
from fastrealign.cli.demo.captions import holds
from fastrealign.cli.demo.measurements import RECALL_AT, measure_pairs, recall
from fastrealign.cli.demo.scenes import render
from fastrealign.core.reference import project

if TYPE_CHECKING:
    import open_clip

STEPS = 1_000


def embed(model: open_clip.CLIP) -> dict[str, np.ndarray]:
    """The four sets of samples.SEEDS as unit rows, float16 (n, DIM)."""
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
    reading = measure_pairs(sets["pairs_text"], sets["pairs_image"])
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
        prog="python -m bench.paper.world.shipped",
        description="Train the rendered encoder and embed its scenes and captions.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for *.npy, training.json, encoder.safetensors")
    parser.add_argument(
        "--steps", type=int, default=STEPS, help=f"batches of {encoder_training.BATCH} pairs (default {STEPS})"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights (default 0)")
    parser.add_argument("--loss", choices=list(LOSSES), default="infonce", help="CLIP's (default) or SigLIP's")
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
    model = build(options.seed, options.loss)
    encoder_training.train(model, options.steps, loss_of=LOSSES[options.loss])
    seconds = time.perf_counter() - start
    sets = embed(model)
    for name, rows in sets.items():
        np.save(options.out / f"{name}.npy", rows)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, options.out / "encoder.safetensors"
    )
    report = {
        "steps": options.steps,
        "batch": encoder_training.BATCH,
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
