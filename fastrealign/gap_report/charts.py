"""How each figure of a report is drawn: small panels, so that a phone can stack them. Needs matplotlib."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core.formatting import number, percent
from fastrealign.core.optional import optional
from fastrealign.diagnostics import Drift
from fastrealign.gap_report import verdict
from fastrealign.gap_report.method_style import COLOURS, DASHES, name_of
from fastrealign.gap_report.outcomes import MIXING
from fastrealign.gap_report.report_data import Domains, Measured
from fastrealign.gap_report.svg import FAINT, INK, PAPER, PARTS, TARGET

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.typing import LineStyleType

# Inches of 72 px: as wide as a phone's screen less its margins, so that text there keeps its size.
WIDE, SMALL = (4.9, 3.5), (3.5, 3.5)
# Letters that fit beside the figure of the domains, and under it, of all names together.
BESIDE, UNDER = 16, 40
# A gap below LEAST is not drawn as a full bar, nor at the top of an axis; the table of domains is faintest at FAINTEST.
LEAST, FAINTEST = 1e-3, 1e-5


@dataclass(frozen=True)
class Drawing:
    """A figure. name: in files and in the page; title: the finding; reading: how to read it; basis: n and seed."""

    name: str
    title: str
    reading: str
    basis: str
    panels: tuple[tuple[str, Figure], ...]


def plane(report: Measured) -> Drawing:
    """Rows of both sides along the gap and across it, a panel a method."""
    points = [report.plane.target, *(of.points for of in report.methods.values())]
    both = np.concatenate(points)
    low, high = both.min(axis=0), both.max(axis=0)
    pad = 0.04 * max(*(high - low), 1e-9)
    along = "along the gap" if report.gap_before > 1e-9 else "the widest direction"
    panels = []
    for name, of in report.methods.items():
        figure, axes = _axes(SMALL)
        for cloud, colour, label in (
            (report.plane.target, TARGET, "target"),
            (of.points, COLOURS[name], "source" if name == "none" else f"source by {name_of(name)}"),
        ):
            axes.plot(*cloud.T, "o", ms=2.6, mew=0, color=colour, alpha=0.55)
            axes.plot(*cloud.mean(axis=0), "o", ms=9, mew=1.5, mec=PAPER, color=colour, label=label, zorder=3)
        mixed = report.outcomes[MIXING].methods[name]
        title = f"{name_of(name)}: {percent(mixed.value)} ± {100 * mixed.margin:.2g}"
        axes.set_title(title, loc="left", fontsize=10.5, weight="bold")
        axes.set(xlim=(low[0] - pad, high[0] + pad), ylim=(low[1] - pad, high[1] + pad))
        axes.locator_params(nbins=5)
        axes.set_xlabel(f"{along} ({percent(report.plane.share[0])} of the variance)")
        axes.set_ylabel(f"across ({percent(report.plane.share[1])} of the variance)")
        axes.grid(True)
        figure.legend(loc="outside lower center", ncols=2, markerscale=0.7, handletextpad=0.2)
        panels.append((name, figure))
    return Drawing(
        "plane",
        verdict.plane_title(report),
        "Horizontally the direction from the mean of the source (0) to that of the target, vertically the direction of most "
        "variance within the sides at right angles to it (in lengths of unit rows): points are rows, large dots the means; the "
        "share above a panel is mixing, among the 20 nearest neighbours in the full space.",
        f"n = {_drawn(len(points[1]), len(points[0]))} drawn, mixing around {report.outcomes[MIXING].n:,} rows among all "
        f"{sum(report.measured):,}, seed {report.seed}; ± 95 % interval",
        tuple(panels),
    )


def spectra(report: Measured) -> Drawing:
    """Eigenvalues of the target and of each method's rows on logarithmic axes, with their power laws."""
    figure, axes = _axes(WIDE)
    lines: list[tuple[str, str, LineStyleType, float]] = [("target", TARGET, "-", 2.0)]
    lines += [(name_of(name), COLOURS[name], DASHES[name], 1.5) for name in report.methods]
    spectra = [report.target_spectrum, *(of.spectrum for of in report.methods.values())]
    lowest = 1.0
    for (name, colour, dash, width), of in zip(lines, spectra, strict=True):
        shares = of.eigenvalues[: of.rank] / of.eigenvalues.sum()
        lowest = min(lowest, shares[-1])
        slope = f", α = {of.power.alpha:.2f}" if of.power else ""
        axes.loglog(np.arange(1, len(shares) + 1), shares, color=colour, ls=dash, lw=width, label=f"{name}{slope}")
        if of.power:
            k = np.array([of.power.first, of.power.last])
            axes.loglog(k, of.power.scale * k**-of.power.alpha, color=colour, lw=0.7, alpha=0.8)
    fitted = report.target_spectrum.power
    if fitted:
        axes.axvspan(fitted.first, fitted.last, color=FAINT, alpha=0.25, lw=0)
    axes.set(ylim=(0.5 * lowest, 2.0), xlabel="rank k of the eigenvalue", ylabel="eigenvalue / trace (no unit)")
    _logarithmic(axes)
    axes.legend(loc="lower left")
    r2 = [of.power.r2 for of in spectra if of.power]
    fits = f"R² of the fits {min(r2):.2f} to {max(r2):.2f}" if r2 else "no slope could be fitted"
    return Drawing(
        "spectra",
        verdict.spectra_title(report),
        "Eigenvalues of each side's covariance over its trace; thin lines are the power laws of slope −α fitted in the shaded "
        "range: a steeper line puts more of the variance into few directions.",
        f"{_rows(report)}; {fits}",
        (("spectra", figure),),
    )


def angles(report: Measured) -> Drawing:
    """Densities of the pairwise cosines within each side."""
    figure, axes = _axes(WIDE)
    topologies = {name: of.topology for name, of in report.methods.items() if of.topology}
    first = next(iter(topologies.values()))
    axes.fill_between(first.grid, first.x, color=TARGET, alpha=0.25, lw=0, label="target")
    axes.plot(first.grid, first.x, color=TARGET, lw=1.2)
    for name, of in topologies.items():
        js = of.divergence
        label = f"{name_of(name)}: {number(js.value)}" + (f" ± {js.error:.1g}" if js.error else "")
        axes.plot(of.grid, of.y, color=COLOURS[name], ls=DASHES[name], lw=1.5, label=label)
    axes.set(xlabel="cosine between two rows of one side", ylabel="density (per unit of cosine)")
    axes.set_ylim(bottom=0)
    axes.grid(True)
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2)
    return Drawing(
        "angles",
        verdict.angles_title(report),
        "Densities of the pairwise cosines within each side; the closer a line is to the shaded target, the smaller its "
        "Jensen-Shannon divergence, which the legend has (in nats; 0 to 0.69).",
        f"n = {_drawn(*(min(first.divergence.n, rows) for rows in report.measured))}, all pairs of them, seed "
        f"{report.seed}; ± standard error",
        (("angles", figure),),
    )


def parts(report: Measured, frame: tuple[int, float]) -> Drawing:
    """Bias and residual of the pairs in U and V, a bar a method."""
    found = {name: of.pairs.parts for name, of in report.methods.items() if of.pairs}
    figure, axes = _axes((WIDE[0], 1.3 + 0.5 * len(found)))
    at = np.arange(len(found))[::-1]
    left = np.zeros(len(found))
    for part, colour in PARTS.items():
        kind, subspace = part.split("-")
        values = np.array([getattr(of, f"{kind}_{subspace}") for of in found.values()])
        axes.barh(at, values, left=left, height=0.62, color=colour, label=f"{kind} in {subspace.upper()}")
        left += values
    for y, total in zip(at, left, strict=True):
        axes.annotate(number(total), (total, y), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(at, [name_of(name) for name in found])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mean squared distance of pairs of unit rows")
    axes.set_xlim(0, 1.15 * max(left.max(), LEAST))
    figure.legend(loc="outside upper left", ncols=2, handlelength=1.2)
    rank, energy = frame
    return Drawing(
        "parts",
        verdict.parts_title(report),
        f"Each bar adds up to the mean squared distance of pairs: bias is the shift of the means, residual the rest, which "
        f"differs from pair to pair; in U (the {rank} leading directions, {percent(energy)} of the variance) and in V (the "
        f"other {report.dim - rank}).",
        f"n = {report.pair_rows:,} pairs, seed {report.seed}",
        (("parts", figure),),
    )


def sizes(report: Measured) -> Drawing:
    """The gap that ReAlign leaves when it is fitted on samples of growing size."""
    figure, axes = _axes(WIDE)
    trials = report.sizes[:-1]
    colour, measured = COLOURS["realign"], "other" if report.fitted_on else "all"
    if trials:
        for size in trials:
            axes.loglog([size.rows] * len(size.gaps), size.gaps, "o", ms=4, mew=0, alpha=0.5, color=colour)
        medians = [float(np.median(size.gaps)) for size in report.sizes]
        axes.loglog([size.rows for size in report.sizes], medians, color=colour, lw=1.5, label="ReAlign, median")
    last = report.sizes[-1]
    axes.loglog([last.rows], last.gaps, "D", ms=5, color=colour, label=f"fitted on {verdict.fitted_rows(report)}")
    axes.axhline(report.gap_before, color=COLOURS["none"], ls=DASHES["none"], lw=1.2, label="gap before")
    axes.set(xlabel="rows of each side that it was fitted on", ylabel=f"gap left on {measured} rows (0 to 2)")
    axes.set_ylim(top=max(axes.get_ylim()[1], LEAST))  # gaps that are rounding alone stay at the bottom
    _logarithmic(axes)
    axes.legend(loc="lower left")
    number_of = (
        f"{len(trials[0].gaps)} trials for each size, one dot each" if trials else "too few rows for smaller samples"
    )
    return Drawing(
        "sizes",
        verdict.sizes_title(report),
        f"ReAlign fitted on samples of growing size, the gap measured on {measured} rows: where "
        "the line is level, more rows would change nothing.",
        f"{_rows(report)}; {number_of}",
        (("sizes", figure),),
    )


def drift(report: Measured, of: Drift, predicted: np.ndarray) -> Drawing:
    """The phantom drift, measured against predicted, a dot a coordinate."""
    figure, axes = _axes(WIDE)
    ends = [min(predicted.min(), of.measured.min()), max(predicted.max(), of.measured.max())]
    axes.plot(ends, ends, color=INK, lw=0.8, alpha=0.6, label="predicted = measured")
    axes.plot(predicted, of.measured, "o", ms=3, mew=0, alpha=0.6, color=COLOURS["realign"], label="coordinate")
    axes.set(xlabel="drift predicted to second order (length)", ylabel="drift measured (length)")
    axes.locator_params(nbins=6)
    axes.grid(True)
    axes.legend(loc="upper left")
    return Drawing(
        "drift",
        verdict.drift_title(of.measured, predicted),
        "Each dot is a coordinate of the phantom drift, by which projection to the sphere shifts the mean of ReAlign's scaled "
        "rows: predicted from their mean and covariance, and measured.",
        f"n = {report.measured[0]:,} source rows, seed {report.seed}",
        (("drift", figure),),
    )


def domains(report: Measured, of: Domains) -> Drawing:
    """A table of the gaps left in each domain by ReAlign fitted on each."""
    n = len(of.names)
    figure, axes = _axes((WIDE[0], 1.2 + 0.55 * (n + 1)))
    shown = np.vstack([of.gaps, of.before])
    dark = 0.1 + 0.5 * np.clip(1 + np.log(np.maximum(shown, 1e-16)) / -np.log(FAINTEST), 0, 1)
    for i in range(n + 1):
        for j in range(n):
            axes.axvspan(j - 0.5, j + 0.5, 1 - (i + 1) / (n + 1), 1 - i / (n + 1), color=TARGET, alpha=dark[i, j], lw=0)
            axes.text(j, i, number(shown[i, j]), ha="center", va="center", weight="bold" if i == j else "normal")
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n + 0.5, -0.5), xlabel="measured on (gap, 0 to 2)", ylabel="fitted on")
    axes.set_xticks(range(n), [_short(name, UNDER // n) for name in of.names])
    axes.set_yticks(range(n + 1), [*(_short(name, BESIDE) for name in of.names), "not aligned"])
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return Drawing(
        "domains",
        verdict.domains_title(of),
        "The gap in the domain of a column after ReAlign with the statistics of the domain of a row: its own on the diagonal "
        "(bold), no alignment in the last row.",
        f"all rows of {n} domains, seed {report.seed}",
        (("domains", figure),),
    )


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = optional("matplotlib.figure", "report", "a report").Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def _logarithmic(axes: Axes) -> None:
    """A grid, and the ticks of both logarithmic axes."""
    axes.grid(True)
    _log_ticks(axes.xaxis)
    _log_ticks(axes.yaxis)


def _log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2 and 5 where there are few powers of ten, as plain text: a page's font has the raised digits."""
    ticker = optional("matplotlib.ticker", "report", "a report")
    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def label(value: float, _: object) -> str:
        if 0.0009 < value < 1e6:
            return f"{value:,.0f}" if value >= 1 else f"{value:g}"
        digit, power = f"{value:.0e}".split("e")
        return f"{'' if digit == '1' else digit + '·'}10{str(int(power)).translate(raised)}"

    low, high = axis.get_view_interval()
    axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axis.set_major_formatter(ticker.FuncFormatter(label))
    axis.set_minor_formatter(ticker.NullFormatter())


def _rows(report: Measured) -> str:
    return f"n = {report.measured[0]:,} + {report.measured[1]:,} rows (source + target), seed {report.seed}"


def _drawn(source: int, target: int) -> str:
    """The rows drawn: "300 rows of each side", "40 source and 300 target rows"."""
    return f"{source:,} rows of each side" if source == target else f"{source:,} source and {target:,} target rows"


def _short(name: str, most: int) -> str:
    """A name in at most about `most` letters, and at least 5: both ends of a longer one, as names often share one."""
    name, half = " ".join(name.split()), max(most // 2, 2)
    short = name if len(name) <= 2 * half + 1 else f"{name[:half]}…{name[-half:]}"
    return short.replace("$", r"\$")  # matplotlib typesets text between two dollar signs as mathematics
