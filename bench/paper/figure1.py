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
from bench.drawing import save
from bench.paper.world import encoder_training
from bench.paper.world.losses import LOSSES, build
from bench.table import fill
from fastrealign.cli.demo import encoder, samples
from fastrealign.cli.demo.measurements import recall
from fastrealign.cli.demo.scenes import render
from fastrealign.diagnostics import GapMonitor
from fastrealign.storage.atomic import save_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEPS = 400
EVERY = 10
SMOOTH = 5  # records of a running median
PROBE = range(300_000, 301_024)  # seeds of scenes that are neither shipped nor trained on
# The paper's figure shows more than 4,000 steps, its frame is fixed at 800. The second is for a late window, as its theory is.
FRAMES = {"a sixth": 1 / 6, "late": 3 / 4}
# Written out, since a linter takes them for y and p.
GAMMA, RHO = "\N{GREEK SMALL LETTER GAMMA}", "\N{GREEK SMALL LETTER RHO}"

Say = Callable[[str], None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.figure1", description="The gap while it trains.")
    parser.add_argument("--quick", action="store_true", help="20 steps, printed alone")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON there too")
    parser.add_argument("--docs", type=Path, metavar="DIR", help="where figure1.md and figure1.png are")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="where each loss's run is kept, and taken from")
    parser.add_argument("--only", choices=list(LOSSES), help="train with this loss and end; needs --runs")
    given = parser.parse_args(arguments)
    if given.only and not given.runs:
        parser.error("--only keeps its run for later: give --runs DIR")
    if given.quick and (given.docs or given.runs):
        parser.error(
            "--quick is too short for the page, and its runs are not those of the figure: leave --docs and --runs out"
        )
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
            "batch": encoder_training.BATCH,
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
        save(lambda: draw(results), given.docs / "figure1.png")
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
            every=EVERY, loss=partial(LOSSES[loss], model), batch=encoder_training.BATCH, frame_at=round(share * steps)
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
    for step, _ in enumerate(encoder_training.training(model, steps, loss_of=LOSSES[loss]), 1):
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
        save_bytes(kept, (json.dumps(run) + "\n").encode())
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


def draw(results: dict[str, Any]) -> Figure:
    """Panels (a) to (d) of the paper, two or four of ours each. In the frame of the sixth; a colour and a mark a loss."""
    from bench.drawing import COLOURS, FAINT, QUIET, TARGET, canvas, key, legend_above, log_ticks

    settings = results["settings"]
    figure = canvas(11.4)
    (a, a2), (b, b2), (b3, b4), (c, c2), (d, d2) = grid = figure.subplots(5, 2, sharex=True)
    runs = {loss: run["frames"]["a sixth"] for loss, run in results["runs"].items()}
    rank = next(record["rank"] for record in next(iter(runs.values())) if record["fixed"])
    width, probe = settings["d"], settings["probe"]
    solid, dashed = "-", (0, (2.5, 1.5))
    panels = (
        (a, "(a) gradient leakage into V", {"gradient.leakage": (solid, "")}, random_leakage(rank, width)),
        (
            a2,
            "(a) angles between U_t and U",
            {"sin_theta": (solid, "sin θ"), "rms_sin": (dashed, "all sines, RMS")},
            None,
        ),
        (b, f"(b) {GAMMA}: cosine with record before", {"gamma_stability": (solid, "")}, None),
        (b2, "(b) β: cosine with record before", {"beta_stability": (solid, "")}, None),
        (b3, f"(b) {GAMMA}: drift since fixed", {"gamma_drift": (solid, "")}, None),
        (b4, "(b) β: drift since fixed", {"beta_drift": (solid, "")}, None),
        (c, "(c) κ(Σ_U)", {"kappa_u.value": (solid, "")}, isotropic_kappa(probe, rank)),
        (
            c2,
            "(c) Σ_U and the gradients, correlation",
            {
                "gradient.eigen_correlation": (solid, "eigenvalues"),
                "gradient.diagonal_correlation": (dashed, "along U's axes"),
            },
            None,
        ),
        (d, "(d) κ(Σ_V)", {"kappa_v.value": (solid, "")}, isotropic_kappa(probe, width - rank)),
        (d2, f"(d) angle of {GAMMA} and v1 of Σ_V, degrees", {"angle": (solid, "")}, random_angle(width - rank)),
    )
    looks = dict(zip(runs, ((TARGET, "o"), (COLOURS["realign"], "s")), strict=True))
    for axes, title, names, chance in panels:
        axes.set_title(title, fontsize=9)
        for name, (line, label) in names.items():
            for loss, (colour, mark) in looks.items():
                _line(axes, runs[loss], name, colour, mark, line, smooth=axes in (b, b2, d2))
            if label:
                key(axes, label, linestyle=line)
        if chance is not None:
            axes.axhline(chance, color=QUIET, linewidth=1, linestyle="-.")
        for fixed in {_window(records)[0]["step"] for records in runs.values()}:
            axes.axvline(fixed, color=FAINT, linewidth=3, zorder=0)
        if len(names) > 1:
            axes.legend(loc="lower right", borderaxespad=0.2, handlelength=1.8)
    for axes in (c, d):
        axes.set_yscale("log")
        log_ticks(axes.yaxis)
    for axes, limits in (
        (a, (0, 1.05)),
        (a2, (0, 1.05)),
        (b, (-0.5, 1.05)),
        (b2, (-0.5, 1.05)),
        (b3, (0, 2.4)),
        (b4, (0, 2.4)),
        (c2, (0.5, 1.02)),
        (d2, (30, 95)),
    ):
        axes.set_ylim(*limits)
    for axes in grid[-1]:
        axes.set_xlabel("optimizer steps")
    for loss, (colour, mark) in looks.items():
        key(d, NAMES[loss], mark, color=colour, linestyle="-")
    key(d, "isotropic rows and gradients, a random line", linestyle="-.", linewidth=1, color=QUIET)
    note = (
        f"The rendered encoder from scratch, {settings['steps']} steps of {settings['batch']} pairs; "
        f"{probe:,} held-out pairs.\n"
        "Grey bar: the frame is fixed; before it, each record is in its own.\n"
        f"Cosines and angle: thin lines are single records, thick ones medians of {SMOOTH} records."
    )
    legend_above(figure, d, 3, note)
    return figure


def _line(
    panel: Axes,
    records: Sequence[dict[str, Any]],
    name: str,
    colour: str,
    mark: str,
    line: Any,
    *,
    smooth: bool = False,
) -> None:
    """A measure against the steps; with `smooth`, its running median, and what it is of as a thin line behind."""
    points = [(record["step"], _value(record, name)) for record in records]
    steps, values = zip(*((step, value) for step, value in points if value is not None), strict=True)
    if smooth:
        panel.plot(steps, values, color=colour, linewidth=0.6, alpha=0.45)
        values = running_median(values)
    panel.plot(steps, values, ls=line, color=colour, marker=mark, markevery=6, markersize=3.5, linewidth=1.3)


def running_median(values: Sequence[float]) -> list[float]:
    """The median of each value and its neighbours, SMOOTH in all; at the ends, of those that there are."""
    half = SMOOTH // 2
    return [float(np.median(values[max(0, at - half) : at + half + 1])) for at in range(len(values))]


if __name__ == "__main__":
    sys.exit(main())
