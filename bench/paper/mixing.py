"""python -m bench.paper.mixing: how far the two sides mix (arXiv 2602.07026, figure 5).

The mixing rate, the shares of each side alone, their support balance (arXiv 2605.07825, appendix B.2), and what else they
depend on: the number of rows searched, and the length of C3's noise.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from bench.paper import two_sided
from bench.paper.common import (
    METHODS,
    NAMES,
    Reproduction,
    Results,
    Setting,
    fitted,
    half,
    main,
    mapped,
    percent,
    plus_minus,
    shipped,
    table,
)
from fastrealign import diagnostics
from fastrealign.core.reference import project

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = {"none": 0.0032, "c3": 0.0131, "realign": 0.0435}
# Support balance of arXiv 2605.07825, on held-out pairs: of the mapped source, of the target.
SUCCESSOR = {"c3": (0.410, 0.075), "realign": (0.357, 0.305)}
SHOWN = ("none", "c3", "realign")
K = 20
HALVES = 5
ROWS = (500, 1000, 2000, 4000)
# The last is sigma = sqrt(0.016) an entry, 128 wide.
NOISES = (0.1, 0.25, 0.5, 0.73, 1.0, two_sided.SIGMA * 128**0.5)
POINTS = 500


def measure(setting: Setting) -> Results:
    sides = shipped(250 if setting.quick else None)
    fits = {name: fitted(name, sides) for name in METHODS}
    moved = {name: mapped(fit, sides.text) for name, fit in fits.items()}
    methods = {}
    for name, rows in moved.items():
        halves = []
        for seed in range(2 if setting.quick else HALVES):
            part = half(sides, seed)
            halves.append(_mixing(part.image, mapped(fitted(name, part, seed), part.text))["rate"])
        held_out = _mixing(sides.pairs_image, mapped(fits[name], sides.pairs_text))
        methods[name] = _mixing(sides.image, rows) | {"halves": halves, "held out": held_out}
        setting.say(f"{NAMES[name]}: {percent(methods[name]['rate'])}")
    by_rows = [
        {"rows": n} | {name: _mixing(sides.image[:n], moved[name][:n])["rate"] for name in SHOWN}
        for n in ROWS
        if n <= len(sides.text)
    ]
    by_noise = []
    for noise in NOISES[:2] if setting.quick else NOISES:
        rows = mapped(fitted("c3", sides, sigma=noise / np.sqrt(sides.text.shape[1])), sides.text)
        both = two_sided.two_sided(sides, noise / np.sqrt(sides.text.shape[1]))
        by_noise.append({"noise": noise, "two-sided": _mixing(both.image, both.text)} | _mixing(sides.image, rows))
    return {
        "rows": len(sides.text),
        "d": sides.text.shape[1],
        "held out": len(sides.pairs_text),
        "methods": methods,
        "by rows": by_rows,
        "by noise": by_noise,
        "plane": _plane(sides.image, {name: moved[name] for name in SHOWN}),
    }


def _mixing(image: np.ndarray, text: np.ndarray) -> dict[str, float]:
    """The rate, the shares of captions and of images alone, and their support balance, around all rows."""
    of = diagnostics.mixing(image, text, k=K, rows=None)
    return {
        "rate": of.rate.value,
        "text": of.share_y.value,
        "image": of.share_x.value,
        "balance text": of.balance_y.value,
        "balance image": of.balance_x.value,
    }


def _plane(image: np.ndarray, moved: dict[str, np.ndarray]) -> Results:
    """Some rows on the first two principal axes of both sides as they come: one set of axes for all."""
    image, moved = project(image), {name: project(rows) for name, rows in moved.items()}
    both = np.concatenate([image, moved["none"]])
    centre = both.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(both, rowvar=False))
    plane = axes[:, :-3:-1]
    points = {"image": image, **moved}
    return {
        "share": (values[:-3:-1] / values.sum()).tolist(),
        "points": {name: np.round((rows[:POINTS] - centre) @ plane, 4).tolist() for name, rows in points.items()},
    }


def tell(results: Results) -> str:
    methods = results["methods"]
    rows = []
    for name, of in methods.items():
        balance = SUCCESSOR.get(name)
        rows.append(
            [
                NAMES[name],
                percent(PAPER[name]) if name in PAPER else "",
                percent(of["rate"]),
                plus_minus(of["halves"], percent),
                f"{of['text']:.3f} / {of['image']:.3f}",
                "" if balance is None else f"{balance[0]:.3f} / {balance[1]:.3f}",
                _balance(of),
                _balance(of["held out"]),
            ]
        )
    head = [
        "method",
        "paper",
        f"rendered, {results['rows']:,} rows a side",
        f"{len(methods['none']['halves'])} random halves",
        "shares, text / image",
        "support balance, 2605.07825",
        "support balance, rendered",
        f"{results['held out']:,} held-out pairs",
    ]
    by_rows = [[f"{of['rows']:,}", *(percent(of[name]) for name in SHOWN)] for of in results["by rows"]]
    by_noise = [
        [
            f"{of['noise']:.3g}",
            f"{of['noise'] / np.sqrt(results['d']):.3f}",
            percent(of["rate"]),
            f"{of['text']:.3f} / {of['image']:.3f}",
            _balance(of),
            percent(of["two-sided"]["rate"]),
            _balance(of["two-sided"]),
        ]
        for of in results["by noise"]
    ]
    beyond = [of for of in results["by noise"] if of["rate"] > methods["realign"]["rate"]]
    turned = f" From a length of {beyond[0]['noise']:.3g} on, C3 has a higher rate than ReAlign." if beyond else ""
    return "\n\n".join(
        [
            f"Share of the {K} nearest neighbours of a row, among the rows of both sides, that are of the other side; 50 % is "
            "perfectly mixed. Shares: the same over captions and over images alone. Support balance: the mean binary entropy "
            "of a row's share, divided by its expectation under permuted labels (arXiv 2605.07825, appendix B.2), over "
            "captions and over images; 0 where no row has neighbours of both sides, 1 where both mix as if labelled at "
            "random. The successor paper measures it on held-out pairs.",
            table(head, rows),
            "*Number of rows.* With more rows, more captions are close to a caption, so the raw rate falls; if the sides share "
            "their region, it hardly does:",
            table(["rows a side", *(NAMES[name] for name in SHOWN)], by_rows),
            "*The rate of C3 is one-sided.* Noise pushes captions apart, so that their nearest rows are images, while the "
            "neighbours of images remain images. Longer noise gives a higher rate (the length is 0.5 above), while the rate "
            f"of the image side falls to zero.{turned} The two shares and the support "
            "balance of both sides show this, the overall rate does not: a share near 0 or 1 has no entropy. Two-sided, as in "
            "C3's own paper (each side less its own mean, noise on captions; its sigma = √0.016 is the last row), it is the "
            "same:",
            table(
                [
                    "noise length",
                    "sigma of an entry",
                    "C3",
                    "shares, text / image",
                    "support balance",
                    "two-sided",
                    "support balance",
                ],
                by_noise,
            ),
        ]
    )


def _balance(of: Results) -> str:
    return f"{of['balance text']:.3f} / {of['balance image']:.3f}"


def draw(results: Results) -> Figure:
    """Both sides in a plane, a panel a method; below, mixing by the length of C3's noise."""
    from bench.drawing import COLOURS, TARGET, canvas
    from bench.drawing import PAPER as WHITE

    figure = canvas(5.9)
    above, below = figure.subfigures(2, 1, height_ratios=(1.5, 1))
    panels = above.subplots(1, len(SHOWN), sharex=True, sharey=True)
    points, share = results["plane"]["points"], results["plane"]["share"]
    for panel, name in zip(panels, SHOWN, strict=True):
        for which, colour, mark in (("image", TARGET, "o"), (name, COLOURS[name], "D")):
            cloud = np.array(points[which])
            panel.plot(*cloud.T, mark, ms=2.2, mew=0, alpha=0.5, color=colour)
            panel.plot(*cloud.mean(axis=0), mark, ms=8, mew=1.5, mec=WHITE, color=colour)
        panel.set_title(f"{NAMES[name]}:\nmixing {percent(results['methods'][name]['rate'])}")
        panel.set_aspect("equal")
    for mark, colour, label in (
        ("o", TARGET, "images"),
        *(("D", COLOURS[name], f"captions, {NAMES[name]}") for name in SHOWN),
    ):
        panels[0].plot([], [], mark, color=colour, ms=5, label=label)
    above.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, handletextpad=0.1, columnspacing=0.9
    )
    panels[1].set_xlabel(f"1st axis ({100 * share[0]:.0f} % of the variance)")
    panels[0].set_ylabel(f"2nd axis ({100 * share[1]:.0f} %)")
    last = below.subplots()
    noise = [of["noise"] for of in results["by noise"]]
    for key, label, style in (
        ("text", "C3, from the text side", "^-."),
        ("rate", "C3, both sides", "v-"),
        ("image", "C3, from the image side", "s:"),
    ):
        last.plot(noise, [of[key] for of in results["by noise"]], style, color=COLOURS["c3"], label=label)
    last.axhline(results["methods"]["realign"]["rate"], color=COLOURS["realign"], lw=1.4, label="ReAlign, both sides")
    last.set(
        xlabel="length of C3's noise (rows are 1 long)",
        ylabel=f"share of the other side\namong {K} neighbours",
        ylim=(0, 1),
    )
    below.legend(*last.get_legend_handles_labels(), loc="outside upper left", ncols=2)
    return figure


REPRODUCTION = Reproduction("mixing", "figure 5: how far the two sides mix", measure, tell, draw)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
