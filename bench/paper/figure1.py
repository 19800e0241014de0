"""python -m bench.paper.figure1 [--quick] [--out FILE.json] [--docs DIR] [--runs DIR] [--only LOSS]: the gap during training.

Figure 1 of the paper: the rendered encoder from scratch, once with CLIP's loss and once with SigLIP's, with
`diagnostics.GapMonitor` on held-out pairs in two frames: one fixed after a sixth of the steps, as in the paper, and one late.
`--runs DIR` keeps the run of each loss in DIR/LOSS.json and reuses it; `--only` trains with one loss and stops, so that two can
train side by side. `--docs` writes DIR/figure1.png and the numbers between the markers of DIR/figure1.md.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.common import machine, publish
from bench.paper.world.losses import LOSSES, build
from bench.table import fill
from fastrealign.cli.demo import encoder, samples
from fastrealign.cli.demo.readings import recall
from fastrealign.cli.demo.scenes import render
from fastrealign.diagnostics import GapMonitor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 400
EVERY = 10
PROBE = range(300_000, 301_024)  # seeds of scenes that are neither shipped nor trained on
# The paper's figure shows more than 4,000 steps, its frame is fixed at 800. The second is for a late window, as its theory is.
FRAMES = {"a sixth": 1 / 6, "late": 3 / 4}
# Written out, since a linter takes them for y and p.
GAMMA, RHO = "\N{GREEK SMALL LETTER GAMMA}", "\N{GREEK SMALL LETTER RHO}"

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.figure1", description="The gap while it trains.")
    parser.add_argument("--quick", action="store_true", help="20 steps")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there too")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="where figure1.md and figure1.png are")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where each loss's run is kept, and taken from")
    parser.add_argument("--only", choices=list(LOSSES), help="train with this loss and end; needs --runs")
    given = parser.parse_args(arguments)
    if given.only and not given.runs:
        parser.error("--only keeps its run for later: give --runs DIR")
    steps = 20 if given.quick else STEPS
    runs = {
        loss: watched(loss, steps, given.runs, lambda line: print(line, flush=True))
        for loss in ([given.only] if given.only else LOSSES)
    }
    if given.only:
        return 0
    results = {
        "kind": "figure1",
        "machine": machine(("numpy", "torch", "open_clip_torch"), fastrealign=fr.__version__),
        "settings": {
            "steps": steps,
            "batch": encoder.BATCH,
            "every": EVERY,
            "probe": len(PROBE),
            "seed": 0,
            "d": encoder.DIM,
        },
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
    training: list[dict[str, Any]] = []
    started = time.perf_counter()

    model = build(0, loss)
    monitors = {
        name: GapMonitor(
            every=EVERY, loss=partial(LOSSES[loss], model), batch=encoder.BATCH, frame_at=round(share * steps)
        )
        for name, share in FRAMES.items()
    }

    def measure(step: int) -> None:
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

    measure(0)
    for step, _ in enumerate(encoder.training(model, steps, loss_of=LOSSES[loss]), 1):
        if step % EVERY == 0:
            measure(step)
    run = {
        "seconds": round(time.perf_counter() - started),
        "training": training,
        # m has as many numbers as a row, at every step: it stays in the monitor's own log.
        "frames": {
            name: [_short({k: v for k, v in record.items() if k != "mean"}) for record in monitor.to_json()]
            for name, monitor in monitors.items()
        },
    }
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(run) + "\n")
    return run


def _short(value: Any) -> Any:
    """Numbers to six digits."""
    if isinstance(value, dict):
        return {key: _short(of) for key, of in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


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


def render_numbers(results: dict[str, Any]) -> str:
    """What each loss gave in each frame, from the step at which the frame was fixed to the end."""
    m, s = results["machine"], results["settings"]
    columns = [(loss, frame) for loss in results["runs"] for frame in FRAMES]
    windows = [_window(results["runs"][loss]["frames"][frame]) for loss, frame in columns]
    head = [
        "",
        *(f"{NAMES[loss]}, frame of step {w[0]['step']}" for (loss, _), w in zip(columns, windows, strict=True)),
    ]
    lines = [head, ["---"] + ["---:"] * len(columns)]
    for name, cell in _MEASURES:
        lines.append([name, *(cell(window) for window in windows)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in lines)
    first = windows[0][0]
    ends = "; ".join(
        f"{NAMES[loss]} ends with a gap of {run['frames']['late'][-1]['gap']:.3f} (starts at "
        f"{run['frames']['late'][0]['gap']:.3f}), retrieves {run['training'][-1]['recall_at_1']:.0%} of the held-out images "
        f"at rank 1, logit scale {run['training'][-1]['logit_scale']:.1f}"
        + (f", bias {run['training'][-1]['logit_bias']:.1f}" if run["training"][-1]["logit_bias"] is not None else "")
        for loss, run in results["runs"].items()
    )
    chance = ", ".join(
        f"{isotropic_kappa(s['probe'], w[0]['rank']):.1f} and {isotropic_kappa(s['probe'], s['d'] - w[0]['rank']):.1f}"
        f" (U of {w[0]['rank']})"
        for w in {w[0]["rank"]: w for w in windows}.values()
    )
    untrained = ", ".join(
        "{eigen_correlation:.2f} and {diagonal_correlation:.2f} ({loss})".format(
            **run["frames"]["late"][0]["gradient"], loss=NAMES[loss]
        )
        for loss, run in results["runs"].items()
    )
    return "\n\n".join(
        [
            f"{m['cpu']}, {m['date'][:10]}; fastrealign {m['fastrealign']}, seed {s['seed']}, {s['steps']} steps of "
            f"{s['batch']} pairs, measured every {s['every']} on {s['probe']:,} held-out pairs, {s['d']} wide, gradients in "
            f"batches of {s['batch']}. {ends} ([`bench/results/figure1.json`](../../bench/results/figure1.json)).",
            table,
            f"Median over the records since the frame was fixed, with minimum and maximum in brackets; drifts at the end. By "
            f"chance: condition numbers of as many isotropic rows {chance}; angle of a random line to v1 "
            f"{random_angle(s['d'] - first['rank']):.0f}°, leakage of gradients without a direction "
            f"{random_leakage(first['rank'], s['d']):.2f} (U of {first['rank']}). "
            f"Before the first step the correlations of eigenvalues and along U's axes are {untrained}.",
        ]
    )


NAMES = {"infonce": "InfoNCE", "siglip": "SigLIP"}


def _window(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in records if record["fixed"]]


def _value(record: dict[str, Any], name: str) -> float | None:
    """A measure of a record by its path, "gradient.leakage", or made of several; angles in degrees."""
    if name in _MADE:
        return _MADE[name](record)
    value: Any = record
    for key in name.split("."):
        value = value[key]
    return math.degrees(value) if name == "angle" else value


def _spread(name: str, form: str = ".2f") -> Callable[[Sequence[dict[str, Any]]], str]:
    def cell(window: Sequence[dict[str, Any]]) -> str:
        values = [_value(record, name) for record in window]
        low, middle, high = (format(float(of(values)), form) for of in (np.min, np.median, np.max))
        return f"{middle} ({low}-{high})"

    return cell


def _last(name: str) -> Callable[[Sequence[dict[str, Any]]], str]:
    return lambda window: f"{_value(window[-1], name):.2f}"


def _stability(name: str) -> Callable[[Sequence[dict[str, Any]]], str]:
    """Between records that are both in the frame: the first one's neighbour is older than the frame."""
    return lambda window: _spread(name, ".3f")(window[1:])


def _steadier(window: Sequence[dict[str, Any]]) -> str:
    later = window[1:]
    return f"{sum(r['gamma_stability'] > r['beta_stability'] for r in later)} of {len(later)}"


# GapRecord.leakage_bound and Decomposition.eta_u of a record as the log keeps it.
_MADE: dict[str, Callable[[dict[str, Any]], float]] = {
    "bound": lambda r: r["sin_theta"] + r["coupling"]["norm"] + r["gradient"]["outside"],
    "eta_u": lambda r: r["residual_u"] / (r["residual_u"] + r["residual_v"]),
}

_MEASURES: list[tuple[str, Callable[[Sequence[dict[str, Any]]], str]]] = [
    ("directions in U", lambda window: str(window[0]["rank"])),
    ("share of the trace in U, at the end", _last("energy")),
    ("(a) leakage of the gradients into V", _spread("gradient.leakage")),
    ("(a) sin θ(U_t, U)", _spread("sin_theta")),
    ("root-mean-square of all their sines", _spread("rms_sin")),
    ("share of the gradients outside U_t (RMS)", _spread("gradient.outside")),
    (f"(theorem C.3) bound of the leakage, sin θ + norm of L + {RHO}", _spread("bound")),
    ("sin θ of the gradients' own leading directions", _spread("gradient.sin_theta")),
    (f"(b) {GAMMA}: length", _spread("gamma")),
    (f"(b) {GAMMA}: cosine to the previous record", _stability("gamma_stability")),
    (f"(b) {GAMMA}: drift", _last("gamma_drift")),
    ("β: length", _spread("beta")),
    ("β: cosine to the previous record", _stability("beta_stability")),
    ("β: drift", _last("beta_drift")),
    (f"records in which {GAMMA} is steadier than β", _steadier),
    ("(c) κ(Σ_U)", _spread("kappa_u.value", ".0f")),
    (f"(c) {RHO}_eig with the gradients", _spread("gradient.eigen_correlation")),
    ("the same of logarithms", _spread("gradient.spectral_correlation")),
    ("(c) along U's axes", _spread("gradient.diagonal_correlation")),
    ("(d) κ(Σ_V)", _spread("kappa_v.value", ".0f")),
    (f"(d) angle({GAMMA}, v1), degrees", _spread("angle", ".0f")),
    ("trace of Σ_U", _spread("residual_u")),
    ("trace of Σ_V", _spread("residual_v")),
    ("η_U: share of the residual in U", _spread("eta_u")),
    ("coupling: norm of L", _spread("coupling.norm")),
    ("coupling: share of Σ_V that it explains", _spread("coupling.explained")),
]


def draw(results: dict[str, Any], path: Path) -> None:
    """The four panels; (c) and (d) have two axes each, one above the other. Both losses in the frame of the sixth."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from fastrealign.cli.demo.picture import IMAGE, INK, PAPER, TEXT

    figure = Figure(figsize=(10.5, 10.5), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    settings = results["settings"]
    panels = figure.subplots(3, 2, sharex=True)
    (a, b), (c, d), (c2, d2) = panels
    runs = {loss: run["frames"]["a sixth"] for loss, run in results["runs"].items()}
    rank = next(record["rank"] for record in next(iter(runs.values())) if record["fixed"])
    for (loss, records), colour in zip(runs.items(), (IMAGE, TEXT), strict=True):
        name = NAMES[loss]
        _line(a, records, "gradient.leakage", colour, "-", f"{name}: leakage")
        _line(a, records, "sin_theta", colour, "--", f"{name}: sin θ(U_t, U)")
        _line(a, records, "rms_sin", colour, ":", f"{name}: all sines (RMS)")
        _line(b, records, "gamma_stability", colour, "-", f"{name}: {GAMMA}, cosine to the one before")
        _line(b, records, "gamma_drift", colour, "--", f"{name}: {GAMMA}, drift since fixed")
        _line(b, records, "beta_stability", colour, ":", f"{name}: β, cosine to the one before")
        _line(c, records, "kappa_u.value", colour, "-", name)
        _line(c2, records, "gradient.eigen_correlation", colour, "-", f"{name}: eigenvalues")
        _line(c2, records, "gradient.diagonal_correlation", colour, "--", f"{name}: along U's axes")
        _line(d, records, "kappa_v.value", colour, "-", name)
        _line(d2, records, "angle", colour, "-", name)
    width = settings["d"]
    for panel, title, chance, what in (
        (a, "(a) gradient leakage into V", random_leakage(rank, width), "gradients without a direction"),
        (b, "(b) passive orthogonal bias", None, ""),
        (c, "(c) residual in U: κ(Σ_U)", isotropic_kappa(settings["probe"], rank), "isotropic rows"),
        (d, "(d) residual in V: κ(Σ_V)", isotropic_kappa(settings["probe"], width - rank), "isotropic rows"),
        (c2, "(c) Σ_U against the gradients' covariance: correlation", None, ""),
        (d2, f"(d) angle between {GAMMA} and v1 of Σ_V, degrees", random_angle(width - rank), "a random line (median)"),
    ):
        panel.set_title(title, color=INK, fontsize=11, loc="left")
        if chance is not None:
            panel.axhline(chance, color="#6e7781", linewidth=1, linestyle="-.", label=what)
        for fixed in {_window(records)[0]["step"] for records in runs.values()}:
            panel.axvline(fixed, color="#d0d7de", linewidth=3, zorder=0)
        panel.grid(color="#d0d7de", linewidth=0.6)
        panel.tick_params(colors=INK, labelbottom=True)
        panel.spines[["top", "right"]].set_visible(False)
        crowded = panel in (a, b)
        panel.legend(
            frameon=False,
            labelcolor=INK,
            fontsize=7.5,
            ncols=2 if crowded else 1,
            loc="upper center" if crowded else "best",
        )
    for panel in (c, d):
        panel.set_yscale("log")
    a.set_ylim(0, 1.5)
    b.set_ylim(-0.55, 2.1)
    c2.set_ylim(-0.05, 1.05)
    d2.set_ylim(0, 95)
    for panel in (c2, d2):
        panel.set_xlabel("optimizer steps", color=INK)
    figure.suptitle(
        f"The rendered encoder from scratch, {settings['steps']} steps of {settings['batch']} pairs; {settings['probe']:,} "
        "held-out pairs. Grey bar: the frame is fixed; before it, each record is in its own.",
        color=INK,
        fontsize=10,
    )
    figure.savefig(path, format="png", facecolor=PAPER)


def _line(panel: Axes, records: Sequence[dict[str, Any]], name: str, colour: str, style: str, label: str) -> None:
    points = [(record["step"], _value(record, name)) for record in records]
    steps, values = zip(*((step, value) for step, value in points if value is not None), strict=True)
    panel.plot(steps, values, style, color=colour, linewidth=1.6, label=label)


if __name__ == "__main__":
    sys.exit(main())
