"""python -m bench.paper.long_captions [--encoders DIR]: gap and rank of long captions (arXiv 2602.07026, figure 10).

Gap and effective rank of captions by length, from the same number of rows each, and the effect of ReAlign on each length. On
the shipped captions, whose length follows from their scenes' seeds; with --encoders also on captions of the same scenes at
every length, for each encoder.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.paper import encoders
from bench.paper.common import (
    Reproduction,
    Results,
    Setting,
    Sides,
    fitted,
    main,
    mapped,
    percent,
    plus_minus,
    shipped,
    small,
    table,
)
from fastrealign.cli.demo.captions import LENGTHS, caption
from fastrealign.cli.demo.samples import SEEDS, sample_caption, sample_scene
from fastrealign.diagnostics import covariance, effective_rank, gap, mixing, subspace_overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER = {"image": 57.5, "long": 52.9, "short": 41.0}
# Its figure 10a: the gap before alignment.
PAPER_GAP = {"long": 0.51, "short": 0.39}
DRAWS = 5
Q = 12


def measure(setting: Setting) -> Results:
    sides = shipped(250 if setting.quick else None)
    by_length = {name: sides.text[lengths(len(sides.text)) == name] for name in LENGTHS}
    rows = min(len(of) for of in by_length.values())
    draws = []
    for seed in range(2 if setting.quick else DRAWS):
        rng = np.random.default_rng(seed)
        draws.append(
            _read(sides.image, {name: of[rng.permutation(len(of))[:rows]] for name, of in by_length.items()}, rng)
        )
    results: Results = {
        "rows": rows,
        "shipped": draws,
        "scenes": encoders.QUICK_ROWS if setting.quick else encoders.ROWS,
    }
    if setting.encoders:
        results["encoders"], results["about"] = {}, encoders.about(setting.encoders)
        for seed in encoders.seeds(setting.encoders):
            of = encoders.embedded(seed, _wanted(setting.quick), setting.encoders)
            results["encoders"][seed] = _read(of.pop("image"), of, np.random.default_rng(seed))
            setting.say(f"encoder {seed} is done")
    return results


def _wanted(quick: bool) -> dict[str, encoders.Rows]:
    n = encoders.QUICK_ROWS if quick else encoders.ROWS
    wanted = {"image": encoders.Rows("image", "shapes", range(n))}
    return wanted | {name: encoders.Rows("text", "shapes", range(100_000, 100_000 + n), name) for name in LENGTHS}


def lengths(rows: int, side: str = "text") -> np.ndarray:
    """The length of each of the first captions that come along: str (rows,)."""
    found = []
    for seed in SEEDS[side][:rows]:
        of = sample_scene(seed)
        text = sample_caption(of).text
        found.append(next(name for name in LENGTHS if caption(of, name).text == text))
    return np.array(found)


def _read(image: np.ndarray, captions: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, Any]:
    """Figures of the images and of captions of each length, of as many rows."""
    n = len(next(iter(captions.values())))
    image = image[rng.permutation(len(image))[:n]]
    x = covariance(image)
    read = {"image": {"effective rank": effective_rank(x.eigenvalues), "radius": float(np.linalg.norm(x.mean))}}
    for name, text in captions.items():
        y = covariance(text)
        aligned = mapped(fitted("realign", Sides(text, image, text, image)), text)
        read[name] = {
            "effective rank": effective_rank(y.eigenvalues),
            "radius": float(np.linalg.norm(y.mean)),
            "gap before": gap(image, text),
            "shared": subspace_overlap(x, y, Q).value,
            "left by ReAlign": gap(image, aligned),
            "mixing": mixing(image, aligned, k=20, rows=None).rate.value,
        }
    return read


def tell(results: Results) -> str:
    parts = [
        f"The shipped captions, {results['rows']:,} of each length; {len(results['shipped'])} draws, mean ± standard "
        "deviation.",
        *_tables(results["shipped"]),
    ]
    if "encoders" in results:
        parts += [
            f"With {results['about']}, captions of the same {results['scenes']:,} scenes at each length:",
            *_tables(list(results["encoders"].values())),
        ]
    return "\n\n".join(parts)


def _tables(reads: list[dict[str, Any]]) -> list[str]:
    """Captions by themselves, and beside the images."""
    shown = {"effective rank": lambda v: f"{v:.1f}", "shared": percent, "mixing": percent}

    def cells(name: str, figures: tuple[str, ...]) -> list[str]:
        return [
            plus_minus([read[name][f] for read in reads], shown.get(f, small)) if f in reads[0][name] else ""
            for f in figures
        ]

    alone = [
        [name, f"{PAPER[name]:.1f}" if name in PAPER else "", *cells(name, ("effective rank", "radius"))]
        for name in ("image", *LENGTHS)
    ]
    beside = [
        [
            name,
            f"{PAPER_GAP[name]:.2f}" if name in PAPER_GAP else "",
            *cells(name, ("gap before", "shared", "left by ReAlign", "mixing")),
        ]
        for name in LENGTHS
    ]
    return [
        table(["rows", "effective rank, paper", "effective rank", "length of the mean"], alone),
        table(
            [
                "captions",
                "gap before, paper",
                "gap before",
                f"shared by the leading {Q}",
                "left by ReAlign",
                "mixing after ReAlign",
            ],
            beside,
        ),
    ]


def draw(results: Results) -> Figure:
    """The gap by length of captions; below, the effective rank, the paper's and ours."""
    from bench.drawing import COLOURS, INK, TARGET, canvas

    colours = {"image": TARGET, "complete": COLOURS["realign-exact"], "long": COLOURS["realign"], "short": "#f0a878"}
    figure = canvas(4.9)
    grid = figure.subplot_mosaic([["gaps", "gaps"], ["paper", "ours"]], width_ratios=(1, 1.3))
    gaps, left, right = (grid[name] for name in ("gaps", "paper", "ours"))
    reads = list(results["encoders"].values()) if "encoders" in results else results["shipped"]
    what = results["about"] if "encoders" in results else f"{len(reads)} draws of {results['rows']:,} rows"

    def bars(panel: Axes, names: Sequence[str], figure_of: str) -> None:
        values = [[read[name][figure_of] for read in reads] for name in names]
        panel.bar(names, [np.mean(of) for of in values], 0.6, color=[colours[name] for name in names])
        for at, of in enumerate(values):
            panel.plot([at] * len(of), of, "_", color=INK, ms=9)

    lengths_ = ("complete", "long", "short")
    bars(gaps, lengths_, "gap before")
    for at, name in enumerate(lengths_):
        if name in PAPER_GAP:
            gaps.plot(at + 0.36, PAPER_GAP[name], "D", mfc="white", mec=INK, ms=6)
    gaps.plot([], [], "D", mfc="white", mec=INK, label="paper")
    gaps.set(ylim=(0, 0.75), ylabel="gap before alignment")
    gaps.set_title(f"Rendered: {what}; bars: mean, lines: each")
    gaps.legend(loc="upper right", borderaxespad=0)
    names = [name for name in ("image", *lengths_) if name in PAPER]
    left.bar(names, [PAPER[name] for name in names], 0.6, color=[colours[name] for name in names])
    left.set_title("paper")
    left.set_ylabel("effective rank")
    bars(right, ("image", *lengths_), "effective rank")
    right.set_title("rendered")
    for axes in (gaps, left, right):
        axes.grid(False, axis="x")
    return figure


REPRODUCTION = Reproduction(
    "long_captions", "figure 10: gap and effective rank of long and short captions", measure, tell, draw
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
