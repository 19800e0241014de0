"""python -m bench.paper.held_scale --encoders DIR: the rendered encoder trained with its logit scale held, and learned.

Every weight of both towers is trained, not heads over frozen features. Training is shorter than that of the shipped encoder; an
encoder whose embeddings are in DIR/held/ is not trained again. Needs the extras `encoder` and `sklearn`.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.paper import uses
from bench.paper.common import Reproduction, Results, Say, Setting, keep_rows, main
from bench.paper.world import encoder_training
from fastrealign.cli.demo import encoder
from fastrealign.cli.demo.samples import SEEDS, sample_caption, sample_scene
from fastrealign.cli.demo.scenes import render
from fastrealign.core.errors import InputError
from fastrealign.core.reference import project

if TYPE_CHECKING:
    import open_clip
    import torch
    from matplotlib.figure import Figure

STEPS, QUICK_STEPS, QUICK_ROWS = 500, 2, 120
# None: learned, from CLIP's 1/0.07 on.
SCALES: tuple[float | None, ...] = (None, 60.0)
SEED_COUNT = 2
METHODS = ("none", "none+noise", "anchor", "realign", "realign+noise", "c3", "two-sided", "bca")


def measure(setting: Setting) -> Results:
    if setting.encoders is None and not setting.quick:
        raise InputError("expected --encoders DIR, where the embeddings of what is trained are kept")
    steps = QUICK_STEPS if setting.quick else STEPS
    found: dict[str, Results] = {}
    # Seed by seed, so that scales can be compared at any time.
    for seed, scale in itertools.product(range(SEED_COUNT), SCALES):
        name = "learned" if scale is None else f"{scale:g}"
        kept = None if setting.quick else setting.encoders / "held" / f"{name}-{steps}-{seed}.npz"
        rows = _embeddings(scale, seed, steps, kept, setting.say)
        of = found.setdefault(name, {"n": len(rows["pairs_image"]), "scales": [], "seeds": []})
        of["scales"].append(float(rows["scale"]))
        of["seeds"].append(uses.figures_of(_head(rows), seed, METHODS))
        setting.say(f"scale {name}, seed {seed}: {of['seeds'][-1]['methods']['none']}")
    return {"scales": found, "steps": steps, "batch": encoder_training.BATCH, "noise": uses.NOISE}


def _embeddings(scale: float | None, seed: int, steps: int, kept: Path | None, say: Say) -> dict[str, np.ndarray]:
    """samples.SEEDS, captions of the images, complete ones of the pairs: unit rows float32 (n, DIM); the scale at the end."""
    if kept is None or not kept.exists():
        model = encoder.build(seed)
        encoder_training.train(
            model, steps, log=say, loss_of=encoder_training.infonce if scale is None else _held(scale)
        )
        rows = _embedded(model, QUICK_ROWS if kept is None else None)
        rows["scale"] = np.array(model.logit_scale.exp().item() if scale is None else scale)
        if kept is None:
            return rows
        keep_rows(kept, rows)
    return dict(np.load(kept))


def _held(scale: float) -> encoder_training.Loss:
    def loss(model: open_clip.CLIP, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        from open_clip.loss import ClipLoss

        return ClipLoss()(image, text, scale)

    return loss


def _embedded(model: open_clip.CLIP, most: int | None) -> dict[str, np.ndarray]:
    scenes = {name: [sample_scene(seed) for seed in seeds[:most]] for name, seeds in SEEDS.items()}
    rows = {name: encoder.encode_images(model, [render(s) for s in scenes[name]]) for name in ("image", "pairs_image")}
    captions = {name: [sample_caption(s).text for s in scenes[name]] for name in ("text", "pairs_text")}
    captions["image_text"] = [sample_caption(s).text for s in scenes["image"]]
    captions["pairs_long"] = [sample_caption(s, "complete").text for s in scenes["pairs_text"]]
    rows |= {name: encoder.encode_texts(model, texts) for name, texts in captions.items()}
    return {name: project(x).astype(np.float32) for name, x in rows.items()}


def _head(rows: dict[str, np.ndarray]) -> uses.Head:
    """The class is the number of objects."""
    number = {
        name: np.array([str(len(sample_scene(seed).objects)) for seed in SEEDS[name][: len(rows[name])]])
        for name in ("image", "pairs_image")
    }
    fit, pairs = (rows["text"], rows["image"]), (rows["pairs_text"], rows["pairs_long"], rows["pairs_image"])
    return uses.Head(fit, rows["image_text"], rows["image"], number["image"], *pairs, number["pairs_image"])


def tell(results: Results) -> str:
    parts = [
        f"Encoders trained from scratch for {results['steps']:,} steps of {results['batch']} pairs (the shipped one: 1,000); "
        "titles are captions of mixed lengths, the other documents of the one index are complete captions; the class is the "
        "number of objects."
    ]
    for name, of in results["scales"].items():
        seeds = of["seeds"]
        gaps = uses.figure_cell(seeds, "none", "gap")
        ranks = ", ".join(
            f"{np.mean([s['ranks'][i] for s in seeds]):.1f} {side}" for i, side in enumerate(("image", "text"))
        )
        parts.append(
            f"**Scale {'learned' if name == 'learned' else f'held at {name}'}** (at the end {np.mean(of['scales']):.1f}), "
            f"{len(seeds)} {'seed' if len(seeds) == 1 else 'seeds'}, {of['n']:,} held-out pairs: gap {gaps}, effective rank "
            f"{ranks}."
        )
        parts.append(uses.table_of(seeds))
    return "\n\n".join(parts)


def draw(results: Results) -> Figure:
    """Three figures by method: a bar a scale."""
    from bench.drawing import COLOURS, TARGET, canvas, legend_above

    shown = {"mixing": "mixing", "one index": "R@10 in one index", "accuracy": "accuracy on images"}
    figure = canvas(3.6)
    scales = results["scales"]
    height = 0.8 / len(scales)
    panels = figure.subplots(1, len(shown), sharey=True)
    for axes, (name, title) in zip(panels, shown.items(), strict=True):
        for i, (scale, of) in enumerate(scales.items()):
            means = [np.mean([seed["methods"][m][name] for seed in of["seeds"]]) for m in METHODS]
            label = f"scale {'learned' if scale == 'learned' else f'held at {scale}'}"
            at = np.arange(len(METHODS)) + height * (i - (len(scales) - 1) / 2)
            axes.barh(
                at, means, 0.9 * height, color=(TARGET, COLOURS["realign"])[i], hatch="//" if i else None, label=label
            )
        axes.set_title(title)
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(len(METHODS)), [uses.LABELS[m] for m in METHODS])
    panels[0].invert_yaxis()
    legend_above(figure, panels[0])
    return figure


REPRODUCTION = Reproduction(
    "held_scale", "the rendered encoder with its logit scale held, and learned", measure, tell, draw
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
