"""python -m bench.paper.membership [--real DIR]: what mean and trace give away of single rows, and the noise that prevents it.

The attacker knows a row, the mean of n unit rows that an alignment keeps, and other rows of the same kind, and asks whether the
row was among the n. Two scores: the inner product with the mean (Homer et al. 2008; Dwork et al. 2015), and the log-likelihood
ratio of normal rows (Sankararaman et al. 2009), which is the best one if rows are normal. Noise: the Gaussian mechanism,
calibrated by the analytic formula of Balle and Wang (arXiv 1805.06530); a mean of unit rows changes by at most 2/n when one row
is replaced.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.paper.common import (
    Reproduction,
    Results,
    Setting,
    Sides,
    main,
    mapped,
    percent,
    plus_minus,
    small,
    spread,
    table,
)
from bench.paper.two_worlds import population, worlds
from fastrealign.methods.statistics import SideStatistics, alignment_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (30, 100, 300, 1000)
WIDTHS = (32, 128, 512, 1024)
TRIALS = 20
# Rows that the attacker asks about, members and others.
ASKED = 200
EPSILONS = (0.5, 1.0, 3.0, 10.0)
DELTA = 1e-6
SEEDS = 5
# Share of the rows of a world that the attacker has for reference.
REFERENCE = 0.5


def measure(setting: Setting) -> Results:
    trials = 2 if setting.quick else TRIALS
    found: dict[str, Any] = {}
    many = population(setting)
    for name, sides in worlds(setting).items():
        rows = _unit(many[name])
        found[name] = {
            "d": rows.shape[1],
            "rows": len(rows),
            "effective d": _effective(rows),
            "attacks": {n: _attack(rows, n, trials) for n in SIZES if n <= len(rows) // 4},
            "noise": _noised(sides, rows, 2 if setting.quick else SEEDS),
        }
        setting.say(f"{name} is done")
    widths = WIDTHS[:2] if setting.quick else WIDTHS
    return {
        "worlds": found,
        "widths": {d: _attack(_unit(_made_up(d)), 300, max(2, trials // 4)) for d in widths},
        "update": _update_gives_away(*(next(iter(worlds(setting).values())),)),
        "trials": trials,
        "delta": DELTA,
    }


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _made_up(d: int) -> np.ndarray:
    """6,000 rows whose directions, but for a mean of half their length, are uniform."""
    rng = np.random.default_rng(d)
    rows = rng.standard_normal((6000, d)) / np.sqrt(d)
    rows[:, 0] += 0.6
    return rows


def _effective(rows: np.ndarray) -> float:
    """(tr S)^2 / tr S^2."""
    values = np.linalg.eigvalsh(np.cov(rows.T))
    return float(values.sum() ** 2 / (values**2).sum())


def _attack(rows: np.ndarray, n: int, trials: int, sigma: float = 0.0) -> dict[str, list[float]]:
    """AUC of each score over draws of n members; true positives at 1 % false ones of the likelihood ratio."""
    found: dict[str, list[float]] = {"mean": [], "ratio": [], "trace": [], "at 1 %": []}
    d = rows.shape[1]
    for trial in range(trials):
        rng = np.random.default_rng([n, trial])
        order = rng.permutation(len(rows))
        known, rest = np.split(rows[order], [int(REFERENCE * len(rows))])
        members, others = rest[:n], rest[n:]
        asked = members[:ASKED], others[:ASKED]
        released = members.mean(axis=0) + sigma * rng.standard_normal(d)
        centre = known.mean(axis=0)
        values, vectors = np.linalg.eigh(np.cov(known.T))
        kept = values > 1e-3 * values.max() / d  # directions that the reference has
        # The release is of variance S/n, and noise on top.
        whiten = (vectors[:, kept] / (values[kept] / n + sigma**2)) @ vectors[:, kept].T
        away = whiten @ (released - centre)
        scores = {
            "mean": [part @ (released - centre) for part in asked],
            "ratio": [
                (part - centre) @ away / n - 0.5 * np.einsum("ij,jk,ik->i", part - centre, whiten, part - centre) / n**2
                for part in asked
            ],
            # The trace is 1 - |mean|^2: whether it is nearer to what it is with this row among the n.
            "trace": [
                2 * (part @ centre - centre @ centre) * (released @ released - centre @ centre) for part in asked
            ],
        }
        for name, (inside, outside) in scores.items():
            found[name].append(_auc(inside, outside))
        bound = np.quantile(scores["ratio"][1], 0.99)
        found["at 1 %"].append(float(np.mean(scores["ratio"][0] > bound)))
    return found


def _auc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Probability that a member scores above another row."""
    both = np.sort(outside)
    below = np.searchsorted(both, inside, "left") + np.searchsorted(both, inside, "right")
    return float(below.mean() / 2 / len(outside))


def sigma_of(epsilon: float, delta: float, sensitivity: float) -> float:
    """Standard deviation an entry of the Gaussian mechanism with (epsilon, delta) (arXiv 1805.06530, theorem 8)."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr

    def excess(sigma: float) -> float:
        a, b = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
        return float(np.exp(log_ndtr(a - b)) - np.exp(epsilon + log_ndtr(-a - b)) - delta)

    return float(brentq(excess, 1e-3 * sensitivity / epsilon, 1e3 * sensitivity / min(epsilon, 1.0)))


def _noised(sides: Sides, rows: np.ndarray, seeds: int) -> dict[str, Any]:
    """By epsilon: the noise, the gap that is left, and the attack.

    Released are the mean of each side, and that of projected text.
    """
    n = min(len(sides.text), len(sides.image))
    found: dict[str, Any] = {"n": n, "none": {"gap left": [_left(sides, 0.0, seed) for seed in range(seeds)]}}
    for epsilon in EPSILONS:
        # Of the text two means are released: together they change by at most sqrt(2) times as much.
        sigma = sigma_of(epsilon, DELTA, 2 * np.sqrt(2) / n)
        few = len(rows) // 4
        found[f"{epsilon:g}"] = {
            "sigma": sigma,
            "length": sigma * np.sqrt(rows.shape[1]),
            "gap left": [_left(sides, sigma, seed) for seed in range(seeds)],
            "attack": _attack(rows, few, 4, sigma_of(epsilon, DELTA, 2 * np.sqrt(2) / few))["ratio"],
        }
    return found


def _left(sides: Sides, sigma: float, seed: int) -> float:
    """The gap that ReAlign leaves on held-out pairs when its means carry the noise; fitted on a random nine tenths of rows."""
    rng = np.random.default_rng(seed)
    text, image = (rows[rng.permutation(len(rows))[: int(0.9 * len(rows))]] for rows in (sides.text, sides.image))
    d = text.shape[1]
    noisy = [_unit(rows).mean(axis=0) + sigma * rng.standard_normal(d) for rows in (text, image)]
    # |mean|^2 grows by sigma^2 d, which is known.
    traces = [float(np.clip(1 - mean @ mean + sigma**2 * d, 0.05, 1.0)) for mean in noisy]
    y, x = (SideStatistics(mean, trace, len(text), 0) for mean, trace in zip(noisy, traces, strict=True))
    half = alignment_of(y, x, np.zeros(d), "paper")
    projected = mapped(half, text).mean(axis=0) + sigma * rng.standard_normal(d)
    of = replace(half, c=x.mean - projected)
    return float(np.linalg.norm(mapped(of, sides.pairs_text).mean(axis=0) - _unit(sides.pairs_image).mean(axis=0)))


def _update_gives_away(sides: Sides) -> dict[str, float]:
    """Two files, before and after an update with two rows: how exactly their sum follows."""
    old = fr.fit(sides.text[:-2], sides.image)
    new = fr.update(old, sides.text[-2:])
    total = new.count_source * new.mean_source - old.count_source * old.mean_source
    true = _unit(sides.text[-2:]).sum(axis=0)
    return {"rows": len(sides.text), "relative error": float(np.linalg.norm(total - true) / np.linalg.norm(true))}


def tell(results: Results) -> str:
    auc = "{:.3f}".format
    parts = []
    for name, of in results["worlds"].items():
        rows = [
            [
                f"{int(n):,}",
                *(plus_minus(found[score], auc) for score in ("mean", "ratio", "trace")),
                auc(_expected(of["effective d"], int(n))),
                auc(_expected(of["d"], int(n))),
                plus_minus(found["at 1 %"], percent),
            ]
            for n, found in of["attacks"].items()
        ]
        head = [
            "rows in the mean",
            "inner product",
            "likelihood ratio",
            "trace alone",
            "Φ(√(d_eff/2n))",
            "Φ(√(d/2n))",
            "members found at 1 % false alarms",
        ]
        parts += [
            f"**{name}**, d = {of['d']}, d_eff = {of['effective d']:.0f}: AUC of the attacks (0.5: a guess), mean ± standard "
            f"deviation over {results['trials']} draws.",
            table(head, rows),
        ]
    rows = [
        [d, *(plus_minus(found[score], auc) for score in ("mean", "ratio")), auc(_expected(float(d), 300))]
        for d, found in results["widths"].items()
    ]
    parts += [
        "Rows of no structure (a common mean, else uniform), n = 300, by width:",
        table(["d", "inner product", "likelihood ratio", "Φ(√(d/2n))"], rows),
        "An update with two rows: the difference of the two files gives their sum to "
        f"{results['update']['relative error']:.0e} of its length.",
    ]
    for name, of in results["worlds"].items():
        noise = of["noise"]
        rows = [["none", "", plus_minus(noise["none"]["gap left"], small), ""]]
        rows += [
            [epsilon, small(found["length"]), plus_minus(found["gap left"], small), plus_minus(found["attack"], auc)]
            for epsilon, found in noise.items()
            if epsilon not in ("n", "none")
        ]
        parts += [
            f"**Noise, {name}**: {noise['n']:,} rows a side, δ = {results['delta']:g}; gap left on held-out pairs; the attack "
            f"is the likelihood ratio on a quarter of the rows ({of['rows'] // 4:,}), with the noise for so many.",
            table(["ε", "length of the noise", "gap left", "AUC"], rows),
        ]
    return "\n\n".join(parts)


def _expected(d: float, n: int) -> float:
    from scipy.special import ndtr

    return float(ndtr(np.sqrt(d / (2 * n))))


def draw(results: Results) -> Figure:
    """How well the attack does by rows in the mean; the gap that noise leaves."""
    from bench.drawing import COLOURS, TARGET, canvas, key, legend_above, log_ticks

    figure = canvas(3.1)
    left, right = figure.subplots(1, 2)
    looks = zip((TARGET, COLOURS["realign"], COLOURS["bca"], COLOURS["c3"]), ("o-", "s--", "^-.", "D:"), strict=True)
    for (name, of), (colour, style) in zip(results["worlds"].items(), looks, strict=False):
        sizes = [int(n) for n in of["attacks"]]
        ratios = [spread(found["ratio"])["mean"] for found in of["attacks"].values()]
        left.plot(sizes, ratios, style, color=colour, label=f"{name}, {of['noise']['n']:,} rows for the gap")
        grid = np.geomspace(sizes[0], 30_000, 50)
        left.plot(grid, [_expected(of["d"], int(n)) for n in grid], ":", color=colour, lw=1)
        epsilons = [float(e) for e in of["noise"] if e not in ("n", "none")]
        found = [spread(of["noise"][f"{e:g}"]["gap left"]) for e in epsilons]
        right.errorbar(epsilons, [one["mean"] for one in found], [one["std"] for one in found], fmt=style, color=colour)
        right.axhline(spread(of["noise"]["none"]["gap left"])["mean"], color=colour, ls=":", lw=1)
    key(left, "left: Φ(√(d/2n)); right: without noise", linestyle=":", linewidth=1)
    left.set(xscale="log", xlabel="rows in the mean", ylabel="AUC of the likelihood ratio")
    right.set(xscale="log", yscale="log", xlabel="ε of the noise", ylabel="gap left, held-out pairs")
    right.set_xticks(epsilons)
    log_ticks(left.xaxis, right.xaxis, right.yaxis)
    legend_above(figure, left, 2)
    return figure


REPRODUCTION = Reproduction(
    "membership",
    "open question: what mean and trace give away of single rows",
    measure,
    tell,
    draw,
    "docs/open-questions.md",
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
