"""Train the encoder and the language model that `fastrealign train demo` starts from:

    python -m bench.paper.world.models --out fastrealign/cli/demo/data

writes encoder.safetensors, backbone.safetensors and models.json, their record. Needs the extras `encoder` and `revision`.

Both learn from scenes of the family "shapes" that no set of `train demo` contains. The first scenes are unrelated; the others
come in groups of four siblings with the same layout and colours, in which either nouns are redrawn, so that the encoder has to
know nouns, or the same nouns change places, so that it has to know which noun has which colour.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.paper.world import encoder_training, language
from fastrealign.cli.demo import encoder, models
from fastrealign.cli.demo.measurements import measure_pairs
from fastrealign.cli.demo.samples import FIRST_TRAINING_SEED, sample_caption
from fastrealign.cli.demo.scenes import FAMILIES, Scene, render, scene
from fastrealign.cli.demo.world import first_scene

if TYPE_CHECKING:
    import open_clip
    import torch
    from transformers import Lfm2ForCausalLM

ENCODER_STEPS, BACKBONE_STEPS = 1_600, 2_000
BACKBONE_RATE = 3e-3
LESSONS = language.Lessons(colours=12_000, notes=24_000)
FAMILY = "shapes"
UNRELATED = 0.12  # share of the encoder's steps before siblings
SIBLINGS = 4
_HELD_OUT = range(200_000, 201_000)  # scenes whose gap the record states
_NOUNS = list(FAMILIES[FAMILY].nouns)


def sibling(seed: int) -> Scene:
    """A scene of a group of SIBLINGS seeds, which share layout, colours and sizes. In every other group the eldest's nouns go
    around among the objects; where that would repeat a scene, and in the other groups, they are redrawn."""
    group, place = divmod(seed, SIBLINGS)
    eldest = scene(SIBLINGS * group, FAMILY)
    number = len(eldest.objects)
    if place == 0:
        return eldest
    rng = random.Random(f"sibling {seed}")
    if group % 2 and place < number:
        nouns = [eldest.objects[(i + place) % number].noun for i in range(number)]
    else:
        nouns = [rng.choice(_NOUNS) for _ in range(number)]
    objects = tuple(replace(o, noun=noun) for o, noun in zip(eldest.objects, nouns, strict=True))
    return replace(eldest, seed=seed, objects=objects)


def train_encoder(steps: int, seed: int) -> open_clip.CLIP:
    """Unrelated scenes, then siblings; encoders in bfloat16, loss and updates in float32."""
    import torch

    first_sibling = FIRST_TRAINING_SEED + int(UNRELATED * steps) * encoder_training.BATCH

    def curriculum(number: int) -> Scene:
        return scene(number, FAMILY) if number < first_sibling else sibling(number)

    def loss_of(model: open_clip.CLIP, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", enabled=False):
            return encoder_training.infonce(model, image.float(), text.float())

    model = encoder.build(seed)
    training = encoder_training.training(model, steps, curriculum, loss_of)
    for done in range(1, steps + 1):
        with torch.autocast("cpu", torch.bfloat16):  # one a step: autocast keeps its bfloat16 weights until it is left
            loss = next(training)
        if done % 100 == 0:
            print(f"encoder, step {done} of {steps}: loss {loss:.3f}", flush=True)
    return model


def measure(model: open_clip.CLIP) -> dict[str, Any]:
    """Gap, mixing and retrieval of held-out pairs."""
    scenes = [scene(s, FAMILY) for s in _HELD_OUT]
    texts = encoder.encode_texts(model, [sample_caption(s).text for s in scenes])
    reading = measure_pairs(texts, encoder.encode_images(model, [render(s) for s in scenes]))
    return {"pairs": len(scenes), "gap": reading.gap, "mixing": reading.mixing, "recall": reading.recall}


def record(
    dual: open_clip.CLIP, language_model: Lfm2ForCausalLM, options: argparse.Namespace, seconds: dict[str, int]
) -> dict[str, Any]:
    """Content of models.json."""
    import open_clip
    import torch
    import transformers

    return {
        "made by": "python -m bench.paper.world.models",
        "date": datetime.now(timezone.utc).date().isoformat(),
        "licence": "Apache-2.0, as fastrealign; rendered scenes and generated text alone, no other data or weights",
        "seed": options.seed,
        "encoder": {
            "steps": options.encoder_steps,
            "batch": encoder_training.BATCH,
            "seconds": seconds["encoder"],
            "parameters": sum(p.numel() for p in dual.parameters()),
            "logit scale": dual.logit_scale.exp().item(),
            **measure(dual),
        },
        "language model": {
            "steps": options.backbone_steps,
            "seconds": seconds["language model"],
            "parameters": sum(p.numel() for p in language_model.parameters()),
        },
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "transformers": transformers.__version__,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.paper.world.models", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the weights and their record"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the texts (default 0)")
    parser.add_argument("--encoder-steps", type=int, default=ENCODER_STEPS, metavar="N")
    parser.add_argument("--backbone-steps", type=int, default=BACKBONE_STEPS, metavar="N")
    options = parser.parse_args(arguments)
    try:
        import open_clip  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        print(f"{error}: pip install 'fastrealign[encoder,revision]'", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    trained = train_encoder(options.encoder_steps, options.seed)
    models.save(trained, options.out / models.ENCODER.name)
    half = time.perf_counter()
    scenes = (scene(s, FAMILY) for s in itertools.count(first_scene("corpus", options.seed)))
    log = lambda text: print(text, flush=True)  # noqa: E731
    backbone = language.train(scenes, options.backbone_steps, options.seed, log, LESSONS, BACKBONE_RATE)
    models.save(backbone, options.out / models.BACKBONE.name)
    seconds = {"encoder": round(half - started), "language model": round(time.perf_counter() - half)}
    about = record(trained, backbone, options, seconds)
    (options.out / models.RECORD.name).write_text(json.dumps(about, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
