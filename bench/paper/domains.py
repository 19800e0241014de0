"""python -m bench.paper.domains [--encoders DIR]: statistics of one domain applied to another (arXiv 2602.07026, figure 8).

With --encoders the domains are the two families of scenes, "shapes" and "garden", for each encoder. The shipped embeddings are
of shapes alone; their domains are the backgrounds of the scenes. Fits and gaps are on different rows, so the gap left within a
domain is that of another sample of it; the floor is the gap between samples of this size.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.paper import encoders
from bench.paper.common import Reproduction, Results, Setting, Sides, fitted, main, mapped, plus_minus, shipped, table
from fastrealign.cli.demo.samples import SEEDS, sample_scene
from fastrealign.cli.demo.scenes import FAMILIES
from fastrealign.diagnostics import covariance, gap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 5
BACKGROUNDS = tuple(FAMILIES["shapes"].backgrounds)
METHOD = "realign"

# A domain: text (n, d) and image (m, d).
Domains = dict[str, tuple[np.ndarray, np.ndarray]]


def measure(setting: Setting) -> Results:
    sides = shipped(250 if setting.quick else None)
    by_background = {
        name: tuple(
            rows[[sample_scene(seed).background == name for seed in SEEDS[side][: len(rows)]]]
            for side, rows in (("text", sides.text), ("image", sides.image))
        )
        for name in BACKGROUNDS
    }
    draws = 2 if setting.quick else DRAWS
    results: Results = {"backgrounds": [_read(by_background, seed) for seed in range(draws)]}
    if setting.encoders:
        results["families"], results["about"] = {}, encoders.about(setting.encoders)
        for seed in encoders.seeds(setting.encoders):
            of = encoders.embedded(seed, _wanted(setting.quick), setting.encoders)
            families = {family: (of[f"text {family}"], of[f"image {family}"]) for family in FAMILIES}
            results["families"][seed] = _read(families, seed)
            setting.say(f"encoder {seed} is done")
    return results


def _wanted(quick: bool) -> dict[str, encoders.Rows]:
    n = encoders.QUICK_ROWS if quick else encoders.ROWS
    return {
        f"{side} {family}": encoders.Rows(side, family, range(first, first + n))
        for family in FAMILIES
        for side, first in (("text", 100_000), ("image", 0))
    }


def _read(domains: Domains, seed: int) -> dict[str, Any]:
    """gaps[i][j]: left on the second half of domain j by statistics from the first half of domain i; before and floor by j."""
    rng = np.random.default_rng(seed)
    first, second = {}, {}
    for name, of in domains.items():
        parts = [np.array_split(rows[rng.permutation(len(rows))], 2) for rows in of]
        first[name], second[name] = ([part[i] for part in parts] for i in (0, 1))
    fits = {name: fitted(METHOD, Sides(*of, *of)) for name, of in first.items()}
    return {
        "names": list(domains),
        "gaps": [[gap(image, mapped(fit, text)) for text, image in second.values()] for fit in fits.values()],
        "before": [gap(image, text) for text, image in second.values()],
        "floor": [_floor(fits[name], first[name], second[name]) for name in domains],
    }


def _floor(fit, first, second) -> float:
    """Root mean square of the gap that chance alone would leave: four means, each of so many rows."""
    squared = 0.0
    for text, image in (first, second):
        for rows in (mapped(fit, text), image):
            of = covariance(rows)
            squared += of.trace / of.count
    return float(np.sqrt(squared))


def tell(results: Results) -> str:
    parts = []
    if "families" in results:
        reads = list(results["families"].values())
        parts += [
            f"Gap left by ReAlign, two families of scenes, {encoders.ROWS // 2:,} rows a side for the fit and as many for the "
            f"measurement, {results['about']}, mean ± standard deviation. {_means(reads)}",
            _matrix(reads),
        ]
    reads = results["backgrounds"]
    parts += [
        f"Backgrounds of the shipped scenes as domains, {len(reads)} random splits into rows for the fit and rows for the "
        f"measurement. {_means(reads)}",
        _matrix(reads),
    ]
    return "\n\n".join(parts)


def _means(reads: list[dict[str, Any]]) -> str:
    return f"Mean gap left within a domain {_mean(reads, True):.3f}, across domains {_mean(reads, False):.3f}."


def _mean(reads: list[dict[str, Any]], within: bool) -> float:
    gaps = np.mean([read["gaps"] for read in reads], axis=0)
    return float(gaps[np.eye(len(gaps), dtype=bool) == within].mean())


def _matrix(reads: list[dict[str, Any]]) -> str:
    names = reads[0]["names"]

    def line(what: str, values: list[list[float]]) -> list[str]:
        return [what, *(plus_minus(of, lambda v: f"{v:.3f}") for of in zip(*values, strict=True))]

    rows = [line("no alignment", [read["before"] for read in reads])]
    rows += [line(f"fitted on {name}", [read["gaps"][i] for read in reads]) for i, name in enumerate(names)]
    rows.append(line("sampling error alone, own fit", [read["floor"] for read in reads]))
    return table(["gap left on", *names], rows)


def draw(results: Results) -> Figure:
    """The gap left in the domain of a column by the statistics of that of a row, as a table."""
    from bench.drawing import canvas

    panels = [("backgrounds", results["backgrounds"])]
    if "families" in results:
        panels.insert(0, ("families of scenes", list(results["families"].values())))
    figure = canvas(2.9)
    widths = [len(reads[0]["names"]) for _, reads in panels]
    grid = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False)[0]
    for axes, (what, reads) in zip(grid, panels, strict=True):
        names = reads[0]["names"]
        gaps = np.mean([read["gaps"] for read in reads], axis=0)
        before = np.mean([read["before"] for read in reads], axis=0)
        shown = np.vstack([before, gaps])
        # Half the range of the map: dark ink reads on all of it.
        axes.imshow(shown, cmap="Blues", vmin=0, vmax=shown.max() * 2, aspect="auto")
        for (i, j), value in np.ndenumerate(shown):
            bold = "bold" if i == j + 1 else "normal"
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", weight=bold, fontsize=9)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names) + 1), ["none", *names])
        axes.set_xlabel("gap left on")
        axes.set_title(f"{what},\nmean of {len(reads)}")
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
    grid[0].set_ylabel("fitted on")
    return figure


REPRODUCTION = Reproduction("domains", "figure 8: statistics from another domain", measure, tell, draw)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
