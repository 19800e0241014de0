"""What all pictures of the docs share: one width, one style, one palette; how they are written. Needs matplotlib.

A picture is WIDTH inches wide, whatever it shows, so that its text has the same size in all of them and can be read where a
picture is 400 pixels wide. Panels that need more room go below each other. Paper is white and opaque: pages are light and dark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.gap_report.method_style import COLOURS, DASHES
from fastrealign.gap_report.svg import FAINT, INK, PAPER, STYLE, TARGET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "DASHES", "FAINT", "INK", "MARKS", "PAPER", "QUIET", "TARGET"]

ROOT = Path(__file__).parents[1]
WIDTH, DPI = 6.0, 200
SEEDS_NOTE = "A dot a seed, the bar their mean; orange line: the same model without the picture."
QUIET = "#6e7781"  # of reference lines
SMALLEST = 9.0  # points: 8.3 pixels where the picture is 400 wide
LOOK = {
    **STYLE,
    "font.size": 10.0,
    "axes.titlesize": 10.0,
    "axes.titlelocation": "left",
    "axes.labelsize": SMALLEST,
    "legend.fontsize": SMALLEST,
    "xtick.labelsize": SMALLEST,
    "ytick.labelsize": SMALLEST,
    "figure.titlesize": 10.0,
    "axes.grid": True,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "figure.constrained_layout.hspace": 0.06,
}
# A marker for each method, beside its colour and dashes: hue alone distinguishes no two.
MARKS = dict(zip(COLOURS, "Xv^sPDoh", strict=True))


def canvas(height: float) -> Figure:
    """An empty figure, so many inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def drawn(draw: Callable[[], Figure]) -> Figure:
    """A figure in the shared style, laid out."""
    import matplotlib

    with matplotlib.rc_context(LOOK):
        figure = draw()
        figure.canvas.draw()  # ticks are made now: in the style
    return figure


def save(draw: Callable[[], Figure], path: Path) -> None:
    """Draw and write a PNG. The same results give the same bytes, with one version of matplotlib."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(LOOK):
        draw().savefig(path, format="png", dpi=DPI, facecolor=PAPER, metadata={"Software": None})


def look(method: str) -> dict[str, Any]:
    """Colour, dashes and marker of a method's line."""
    return {"color": COLOURS[method], "linestyle": DASHES[method], "marker": MARKS[method]}


def legend_above(
    figure: Figure, entries: Axes | Iterable[Axes], columns: int | None = None, note: str | None = None
) -> None:
    """One legend above all panels, of what these have, by default in one line, under a note. A label counts once."""
    found: dict[str, Any] = {}
    for axes in [entries] if hasattr(entries, "get_legend_handles_labels") else entries:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(
        found.values(),
        found,
        loc="outside upper left",
        ncols=columns or len(found),
        columnspacing=1.2,
        title=note,
        title_fontsize=SMALLEST,
        alignment="left",
    )


def key(axes: Axes, label: str, marker: str = "", **how: Any) -> None:
    """An entry of the legend that stands for what several lines share, such as a dash: in neutral ink."""
    axes.plot([], [], marker=marker, **{"color": INK, "linestyle": "none" if marker else "-", "label": label} | how)


def heads(grid: np.ndarray, columns: Sequence[str], rows: Sequence[str]) -> None:
    """Titles of a grid of panels: of its columns on top, of its rows at the left, outside the label of the axis."""
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title)
    for axes, name in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(f"{name}\n{axes.get_ylabel()}")


def bars_of_seeds(axes: Axes, values: Mapping[str, Sequence[float]], blind: Sequence[float]) -> None:
    """A row a name: a bar for the mean, a dot a seed, a line for the model without the picture. The first is on top."""
    from fastrealign.cli.demo.picture_style import IMAGE, TEXT

    for at, (of, without) in enumerate(zip(values.values(), blind, strict=True)):
        axes.barh(at, np.mean(of), 0.7, color=IMAGE, alpha=0.35)
        axes.plot(of, np.full(len(of), at), "o", color=IMAGE, markersize=3)
        axes.plot([without, without], [at - 0.4, at + 0.4], color=TEXT, linewidth=1.8)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(False, axis="y")


def log_ticks(*axes: Axis) -> None:
    """Logarithmic axes with their powers of ten, and 2 and 5 where these are few, as plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    def label(value: float, _: object) -> str:
        if 0.0009 < value < 1e5:
            return f"{value:,.0f}" if value >= 1 else f"{value:g}"
        mantissa, power = f"{value:.0e}".split("e")
        return f"${'' if mantissa == '1' else mantissa + chr(92) + 'cdot '}10^{{{int(power)}}}$"

    for axis in axes:
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
        axis.set_major_formatter(FuncFormatter(label))
        axis.set_minor_formatter(NullFormatter())


def results(name: str) -> dict[str, Any]:
    """Committed results: `name` under bench/results/, without the ending."""
    found: dict[str, Any] = json.loads((ROOT / f"bench/results/{name}.json").read_text())
    return found
