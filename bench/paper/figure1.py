"""python -m bench.paper.figure1 [--quick] [--out FILE.json] [--docs DIR] [--runs DIR] [--only LOSS]: the gap while it trains.

Figure 1 of the paper: the demo's encoder from scratch, once with CLIP's loss and once with SigLIP's, watched by
`diagnostics.GapMonitor` on held-out pairs in two frames: one fixed a sixth of the way, as in the paper, and one fixed late.
`--runs DIR` keeps what each loss gave in DIR/LOSS.json and takes it from there if it is there; `--only` trains one loss and
ends, so that two may train side by side. `--docs` writes DIR/figure1.png and the numbers between the markers of
DIR/figure1.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import machine, publish
from bench.table import fill
from fastrealign.demo import encoder, samples
from fastrealign.demo.readings import recall
from fastrealign.demo.scenes import render
from fastrealign.demo.train import BATCH, train
from fastrealign.diagnostics import GapMonitor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 400
EVERY = 10
PROBE = range(300_000, 301_024)  # seeds of scenes that are neither shipped nor trained on
# The paper trains some 4,900 steps and fixes its frame at 800; the second frame shows a late window, which its theory is of.
FRAMES = {"a sixth": 1 / 6, "late": 3 / 4}

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.figure1", description="The gap while it trains.")
    parser.add_argument("--quick", action="store_true", help="20 steps")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there too")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="where figure1.md and figure1.png are")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where each loss's run is kept, and taken from")
    parser.add_argument("--only", choices=list(encoder.LOSSES), help="train with this loss and end; needs --runs")
    given = parser.parse_args(arguments)
    if given.only and not given.runs:
        parser.error("--only keeps its run for later: give --runs DIR")
    steps = 20 if given.quick else STEPS
    runs = {
        loss: watched(loss, steps, given.runs, lambda line: print(line, flush=True))
        for loss in ([given.only] if given.only else encoder.LOSSES)
    }
    if given.only:
        return 0
    results = {
        "kind": "figure1",
        "machine": machine(("numpy", "torch", "open_clip_torch"), fastrealign=fr.__version__),
        "settings": {"steps": steps, "batch": BATCH, "every": EVERY, "probe": len(PROBE), "seed": 0, "d": encoder.DIM},
        "runs": runs,
    }
    publish(results, given.out)
    if given.docs:
        page = given.docs / "figure1.md"
        page.write_text(fill(page.read_text(), results["kind"], render_numbers(results)))
        draw(results, given.docs / "figure1.png")
    return 0


def watched(loss: str, steps: int, folder: Path | None, say: Say) -> dict[str, Any]:
    """Train with a loss; the records of every frame, and retrieval and temperature at the same steps."""
    kept = folder and folder / f"{loss}.json"
    if kept and kept.exists():
        return json.loads(kept.read_text())
    scenes = [samples.sample_scene(seed) for seed in PROBE]
    pictures = [render(scene) for scene in scenes]
    captions = [samples.sample_caption(scene).text for scene in scenes]
    monitors: dict[str, GapMonitor] = {}
    training: list[dict[str, Any]] = []
    started = time.perf_counter()

    def on_step(step: int, model: Any) -> None:
        if step % EVERY:
            return
        if step == 0:
            for name, share in FRAMES.items():
                monitors[name] = GapMonitor(
                    every=EVERY, loss=encoder.loss_of(model), batch=BATCH, frame_at=round(share * steps)
                )
        text, image = encoder.encode_texts(model, captions), encoder.encode_images(model, pictures)
        for monitor in monitors.values():
            record = monitor.measure(step, text, image)
        training.append(
            {
                "step": step,
                "logit_scale": model.logit_scale.exp().item(),
                "logit_bias": None if model.logit_bias is None else model.logit_bias.item(),
                "recall_at_1": recall(text, image)[1],
            }
        )
        say(f"{loss}, step {step}: gap {record.gap:.3f}, recall@1 {training[-1]['recall_at_1']:.3f}")

    train(steps, 0, say, loss=loss, on_step=on_step)
    run = {
        "seconds": round(time.perf_counter() - started),
        "training": training,
        # m has as many numbers as a row, at every step: it stays in the monitor's own log.
        "frames": {
            name: [{k: v for k, v in record.items() if k != "mean"} for record in monitor.to_json()]
            for name, monitor in monitors.items()
        },
    }
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(run) + "\n")
    return run


def isotropic_kappa(rows: int, d: int) -> float:
    """Condition number that `rows` isotropic rows of width d have by chance (Marchenko-Pastur's edges)."""
    ratio = math.sqrt(d / rows)
    return ((1 + ratio) / (1 - ratio)) ** 2


def random_angle(d: int) -> float:
    """Degrees between a line and a random one in d dimensions, the median: cosines are about normal, of variance 1/d."""
    return math.degrees(math.acos(0.6745 / math.sqrt(d)))


def random_leakage(rank: int, d: int) -> float:
    """What gradients without a direction leak: the square root of V's share of all directions."""
    return math.sqrt((d - rank) / d)
