"""python -m bench.paper.moments: third and fourth moments before and after each method, which the paper leaves open.

Skewness and excess kurtosis along the images' leading directions: RMS difference between each method's captions and
the images, beside that of sampling alone. On all shipped captions, a mixture of three lengths, and on those of one length.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.paper.common import (
    METHODS,
    NAMES,
    Reproduction,
    Results,
    Setting,
    Sides,
    fitted,
    half,
    main,
    mapped,
    plus_minus,
    shipped,
    table,
)
from bench.paper.long_captions import lengths
from fastrealign.diagnostics import Shape, covariance, shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Directions that carry variance: the rendered images have a cliff behind them (spectra.py).
DIRECTIONS = 12
HALVES = 5
ORDERS = ("skewness", "kurtosis")
ONE_LENGTH = ("long", "complete")
DRAWN = ("none", "c3", "bca", "realign")


def measure(setting: Setting) -> Results:
    sides = shipped(250 if setting.quick else None)
    whole = _read(sides, 0)
    setting.say("all captions are done")
    of = lengths(len(sides.text))
    by_length = {
        name: _distances(_read(Sides(sides.text[of == name], sides.image, sides.pairs_text, sides.pairs_image), 0))
        for name in ONE_LENGTH
    }
    halves = [_distances(_read(half(sides, seed), seed)) for seed in range(2 if setting.quick else HALVES)]
    return {
        "rows": len(sides.text),
        "directions": DIRECTIONS,
        "shapes": whole,
        "all": _distances(whole),
        "halves": halves,
        "by length": by_length,
    }


def _read(sides: Sides, seed: int) -> dict[str, Any]:
    """Skewness and kurtosis, with errors, of the images and of each method's captions along the images' directions."""
    directions = covariance(sides.image).eigenvectors[:, :DIRECTIONS]
    shapes = {"image": shape(sides.image, directions)}
    for name in METHODS:
        shapes[name] = shape(mapped(fitted(name, sides, seed), sides.text), directions)
    return {name: _plain(of) for name, of in shapes.items()}


def _plain(of: Shape) -> dict[str, list[float]]:
    return {name: getattr(of, name).tolist() for name in (*ORDERS, *(f"{order}_error" for order in ORDERS))}


def _distances(shapes: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Root mean square over the directions of the difference from the images, of its standard error, and of the change."""
    found = {}
    for name in METHODS:
        found[name] = {}
        for order in ORDERS:
            values, target, raw = (np.array(shapes[which][order]) for which in (name, "image", "none"))
            errors = [np.array(shapes[which][f"{order}_error"]) for which in (name, "image")]
            found[name][order] = _rms(values - target)
            found[name][f"{order} by chance"] = _rms(np.hypot(*errors))
            found[name][f"{order} moved"] = _rms(values - raw)
    return found


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def tell(results: Results) -> str:
    def of_order(order: str) -> str:
        rows = [
            [
                NAMES[name],
                f"{of[order]:.2f}",
                plus_minus([read[name][order] for read in results["halves"]], lambda v: f"{v:.2f}"),
                f"{of[f'{order} by chance']:.2f}",
                "" if name == "none" else f"{of[f'{order} moved']:.2f}",
            ]
            for name, of in results["all"].items()
        ]
        halves = f"{len(results['halves'])} halves"
        return table([order, "distance", halves, "standard error", "change by the method"], rows)

    lengths_head = ["method"] + [f"{order}, {name} captions" for name in ONE_LENGTH for order in ORDERS]
    by_length = [
        [
            NAMES[name],
            *(f"{results['by length'][length][name][order]:.2f}" for length in ONE_LENGTH for order in ORDERS),
        ]
        for name in METHODS
    ]
    return "\n\n".join(
        [
            f"Distance: root mean square of the difference between captions and images, over the images' leading "
            f"{results['directions']} directions ({results['rows']:,} rows a side; mean ± standard deviation over halves).",
            *map(of_order, ORDERS),
            "Distance for captions of one length, each aligned to all images:",
            table(lengths_head, by_length),
        ]
    )


def draw(results: Results) -> Figure:
    """Skewness above, excess kurtosis below, along the leading directions; bars of two standard errors."""
    from bench.drawing import COLOURS, MARKS, QUIET, TARGET, canvas, legend_above

    figure = canvas(5.2)
    at = np.arange(1, results["directions"] + 1)
    panels = figure.subplots(len(ORDERS), 1, sharex=True)
    for axes, order in zip(panels, ORDERS, strict=True):
        for i, name in enumerate(("image", *DRAWN)):
            of = results["shapes"][name]
            axes.errorbar(
                at + 0.15 * (i - 2),
                of[order],
                2 * np.array(of[f"{order}_error"]),
                fmt="o" if name == "image" else MARKS[name],
                color=TARGET if name == "image" else COLOURS[name],
                label="images" if name == "image" else NAMES[name],
                lw=1.2,
            )
        axes.axhline(0, color=QUIET, lw=0.8)
        axes.set_xticks(at)
        axes.set_ylabel("skewness" if order == "skewness" else "excess kurtosis")
        axes.grid(False, axis="x")
        for between in at[:-1] + 0.5:
            axes.axvline(between, color=QUIET, lw=0.3)
    panels[-1].set_xlabel("leading direction of the images")
    legend_above(figure, panels[0], note="Bars: two standard errors")
    return figure


REPRODUCTION = Reproduction("moments", "beyond the paper: third and fourth moments", measure, tell, draw)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
