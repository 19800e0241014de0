"""python -m bench.paper.recalibration [--real DIR]: rows, seconds and gap; and a decay on a drifting stream.

Rows: ReAlign fitted on n rows a side, the gap left on held-out rows. Stream: batches of one domain that changes into another,
slowly or at once; at each step an alignment is tested on held-out rows of the step's own mixture before it may learn the batch.
Domains: backgrounds of the rendered scenes; categories of the real pictures.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.paper.common import Reproduction, Results, Setting, main, mapped, plus_minus, small, table
from bench.paper.two_worlds import Domain, domains
from fastrealign.core.errors import FitWarning
from fastrealign.methods.alignment import Alignment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = (30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000)
WIDTH = 768  # of the timed fits: seconds hang on rows and width, not on the world
TRIALS = 5
STEPS, BATCH, SEEDS = 24, 100, 5
DECAYS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1)
TRIGGERED = (0.7, 0.3)
# Gap that `check` tolerates, as a share of the gap before: its default is 0.1, of which a batch of 100 rows alone leaves more.
TOLERATED = 0.4
STREAMS: dict[str, Callable[[int], float]] = {  # share of the second domain at a step
    "steady": lambda _: 0.0,
    "slow": lambda step: float(np.clip((step - 4) / 16, 0, 1)),
    "sudden": lambda step: float(step >= STEPS // 2),
}


def measure(setting: Setting) -> Results:
    seeds, steps = (1, 3) if setting.quick else (SEEDS, STEPS)
    found: dict[str, Any] = {}
    for name, of in domains(setting).items():
        found[name] = {
            "domains": [part.name for part in of],
            "gap across": _across(*of),
            "rows": _by_rows(of, 1 if setting.quick else TRIALS),
            "streams": {
                stream: [_stream(of, share, steps, seed) for seed in range(seeds)] for stream, share in STREAMS.items()
            },
        }
        setting.say(f"{name} is done")
    return {"worlds": found, "seconds": _seconds(ROWS[:3] if setting.quick else ROWS), "batch": BATCH, "steps": steps}


def _fit(text: np.ndarray, image: np.ndarray) -> Alignment:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return Alignment.of(fr.fit(text, image))


def _update(old: Alignment, text: np.ndarray, image: np.ndarray, decay: float) -> Alignment:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        return fr.update(old, text, image, decay=decay)


def _halves(of: Domain) -> tuple[Domain, Domain]:
    """To draw from, and to measure on."""
    rng = np.random.default_rng(0)
    text, image = (np.array_split(rows[rng.permutation(len(rows))], 2) for rows in (of.text, of.image))
    return Domain(of.name, text[0], image[0]), Domain(of.name, text[1], image[1])


def _unit_mean(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)


def _left(alignment: Alignment | None, on: tuple[Domain, Domain], share: float) -> float:
    """The gap on a mixture of held-out rows of two domains, without sampling them."""
    total = np.zeros(on[0].text.shape[1])
    for of, weight in zip(on, (1 - share, share), strict=True):
        text = _unit_mean(of.text) if alignment is None else mapped(alignment, of.text).mean(axis=0)
        total += weight * (text - _unit_mean(of.image))
    return float(np.linalg.norm(total))


def _across(first: Domain, second: Domain) -> dict[str, float]:
    (draw, held), (_, other) = _halves(first), _halves(second)
    fitted = _fit(draw.text, draw.image)
    return {
        "before": _left(None, (held, other), 1.0),
        "within": _left(fitted, (held, other), 0.0),
        "across": _left(fitted, (held, other), 1.0),
    }


def _by_rows(of: tuple[Domain, Domain], trials: int) -> dict[str, Any]:
    """Of both domains together: gap left on held-out rows by the rows of a fit, and what chance predicts."""
    both = Domain("both", *(np.concatenate([getattr(part, side) for part in of]) for side in ("text", "image")))
    draw, held = _halves(both)
    most = min(len(draw.text), len(draw.image))
    whole = _fit(held.text, held.image)
    floor = (whole.trace_target * (1 / len(held.text) + 1 / len(held.image))) ** 0.5
    gaps, expected = {}, {}
    for n in [*(n for n in ROWS if n < most), most]:
        left = []
        for trial in range(trials):
            rng = np.random.default_rng([n, trial])
            text, image = (rows[rng.permutation(len(rows))[:n]] for rows in (draw.text, draw.image))
            left.append(_left(_fit(text, image), (held, held), 0.0))
        gaps[n] = left
        expected[n] = float(np.hypot(floor, (2 * whole.trace_target / n) ** 0.5))
    return {"gap left": gaps, "expected": expected, "before": _left(None, (held, held), 0.0), "floor": floor}


def _seconds(sizes: tuple[int, ...]) -> dict[int, float]:
    """Of a fit on rows in memory, the least of three runs."""
    rng = np.random.default_rng(0)
    text, image = (rng.standard_normal((max(sizes), WIDTH), dtype=np.float32) for _ in range(2))
    text[:, 0] += 20
    took = {}
    for n in sizes:
        runs = []
        for _ in range(3):
            started = time.perf_counter()
            _fit(text[:n], image[:n])
            runs.append(time.perf_counter() - started)
        took[n] = min(runs)
    return took


def _stream(of: tuple[Domain, Domain], share: Callable[[int], float], steps: int, seed: int) -> dict[str, Any]:
    """Gap left at each step by policy; updates: how many a triggered policy made."""
    rng = np.random.default_rng(seed)
    drawn, held = zip(*map(_halves, of), strict=True)

    def batch(step: int, rows: int = BATCH) -> tuple[np.ndarray, np.ndarray]:
        sides = []
        for side in ("text", "image"):
            second = rng.random(rows) < share(step)
            pools = [getattr(part, side) for part in drawn]
            sides.append(np.where(second[:, None], *(pool[rng.integers(0, len(pool), rows)] for pool in pools[::-1])))
        return sides[0], sides[1]

    start = _fit(*batch(0, 4 * BATCH))
    names = ["never", "refit", *(f"decay {d:g}" for d in DECAYS), *(f"check, decay {d:g}" for d in TRIGGERED)]
    now: dict[str, Alignment] = dict.fromkeys(names, start)
    left: dict[str, list[float]] = {name: [] for name in names}
    updates = dict.fromkeys(names, 0)
    tol = TOLERATED * start.gap_before
    for step in range(steps):
        for name in names:
            left[name].append(_left(now[name], held, share(step)))
        text, image = batch(step)
        for name in names:
            if name == "never" or (name.startswith("check") and fr.check(now[name], text, image, tol=tol).holds):
                continue
            updates[name] += 1
            decay = None if name == "refit" else float(name.rsplit(" ", 1)[1])
            now[name] = _fit(text, image) if decay is None else _update(now[name], text, image, decay)
    return {
        "mean": {name: float(np.mean(values)) for name, values in left.items()},
        "steps": left,
        "updates": updates,
        "before": float(np.mean([_left(None, held, share(step)) for step in range(steps)])),
    }


def tell(results: Results) -> str:
    parts = []
    worlds = results["worlds"]
    sizes = sorted(
        {int(n) for of in worlds.values() for n in of["rows"]["gap left"]} | {int(n) for n in results["seconds"]}
    )
    rows = []
    for n in sizes:
        cells = [f"{n:,}", f"{results['seconds'][str(n)]:.3f}" if str(n) in results["seconds"] else ""]
        for of in worlds.values():
            found = of["rows"]
            there = str(n) in found["gap left"]
            cells += (
                [plus_minus(found["gap left"][str(n)], small), small(found["expected"][str(n)])] if there else ["", ""]
            )
        rows.append(cells)
    head = ["rows a side", f"seconds, d = {WIDTH}"]
    for name in worlds:
        head += [f"gap left, {name}", "by chance alone"]
    before = ", ".join(f"{name} {small(of['rows']['before'])}" for name, of in worlds.items())
    parts += [
        f"Fitted on random rows, measured on held-out ones; mean ± standard deviation of {TRIALS} draws. Gap before: {before}. "
        "By chance alone: √(2T/n + 2T/m), T the trace, n rows a side fitted on, m measured on.",
        table(head, rows),
    ]
    for name, of in worlds.items():
        across = of["gap across"]
        streams = of["streams"]
        policies = list(next(iter(streams.values()))[0]["mean"])
        rows = [
            ["no alignment", *(plus_minus([run["before"] for run in runs], small) for runs in streams.values()), ""]
        ]
        for policy in policies:
            made = [run["updates"][policy] for run in streams["slow"]]
            rows.append(
                [
                    policy,
                    *(plus_minus([run["mean"][policy] for run in runs], small) for runs in streams.values()),
                    plus_minus(made, lambda v: f"{v:.1f}") if policy != "never" else "0",
                ]
            )
        parts += [
            f"**{name}**, from {' to '.join(of['domains'])} (a fit on the first leaves {small(across['within'])} on it, "
            f"{small(across['across'])} on the second, where no alignment leaves {small(across['before'])}): mean gap left "
            f"over {results['steps']} steps of {results['batch']} rows a side, each measured before its batch is learned; "
            f"mean ± standard deviation over {len(streams['slow'])} seeds.",
            table(["policy", *streams, "updates, slow"], rows),
        ]
    return "\n\n".join(parts)


def draw(results: Results) -> Figure:
    """The gap left at each step: a row a world and drift, a column a stream."""
    from bench.drawing import canvas, heads, legend_above, look

    worlds = results["worlds"]
    shown = {"never": "none", "refit": "c3", "decay 1": "anchor", "decay 0.7": "realign", "decay 0.3": "bca"}
    figure = canvas(1.7 * len(worlds) + 0.7)
    grid = figure.subplots(len(worlds), len(STREAMS), squeeze=False, sharey="row", sharex=True)
    for row, of in zip(grid, worlds.values(), strict=True):
        for axes, runs in zip(row, of["streams"].values(), strict=True):
            for policy, like in shown.items():
                steps = np.mean([run["steps"][policy] for run in runs], axis=0)
                axes.plot(steps, **look(like) | {"markersize": 3.5, "markevery": 4}, label=policy)
        row[0].set_ylabel("gap left")
        row[0].set_ylim(bottom=0)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    heads(grid, list(STREAMS), [name.replace(", ", ",\n") for name in worlds])
    legend_above(figure, grid[0][0], note="Gap left before learning the batch of a step")
    return figure


REPRODUCTION = Reproduction(
    "recalibration",
    "open question: rows, seconds and gap of a fit; decay on a drifting stream",
    measure,
    tell,
    draw,
    "docs/recalibration.md",
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
