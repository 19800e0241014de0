"""Figure 6 on the real heads (bench/paper/real/): how many rows a fit needs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import fastrealign as fr
from bench.paper.common import plus_minus, small, table
from bench.paper.real.made import KINDS, heads_of, unpaired
from fastrealign.core.errors import FitWarning
from fastrealign.diagnostics import gap

SIZES, DRAWS = (50, 100, 200, 400), 5
CENTROIDS = ("paper", "exact")


def gaps_by_rows(folder: Path) -> dict[str, Any]:
    """By kind of head: held-out gap before; what is left by rows of a side, centroid and place, a value a seed and draw."""
    first, second = unpaired(folder)
    test = np.flatnonzero(np.load(folder / "split.npy") == "test")
    found = {}
    for kind in KINDS:
        entry: dict[str, Any] = {"before": [], "rows": min(len(first), len(second)), "left": {}}
        for of in heads_of(folder, kind, ("image", "title")).values():
            text, image = of["title"][first], of["image"][second]
            entry["before"].append(gap(of["image"][test], of["title"][test]))
            for n in (*SIZES, entry["rows"]):
                for draw in range(1 if n == entry["rows"] else DRAWS):
                    rng = np.random.default_rng([n, draw])
                    a, b = (rows[rng.permutation(len(rows))[:n]] for rows in (text, image))
                    for centroid in CENTROIDS:
                        with warnings.catch_warnings():
                            warnings.simplefilter(
                                "ignore", FitWarning
                            )  # fewer rows than the width is what is shown here
                            align = fr.fit(a, b, centroid=centroid)
                        left = {
                            "fitted": gap(b, align(a, dtype=np.float64)),
                            "held out": gap(of["image"][test], align(of["title"][test], dtype=np.float64)),
                        }
                        for where, value in left.items():
                            entry["left"].setdefault(str(n), {}).setdefault(f"{centroid}, {where}", []).append(value)
        found[kind] = entry
    return found


def gaps_table(found: Mapping[str, Any]) -> str:
    """The text under figure 6."""
    columns = {
        "paper centroid, held out": "paper, held out",
        "exact centroid, held out": "exact, held out",
        "paper centroid, rows of the fit": "paper, fitted",
        "exact centroid, rows of the fit": "exact, fitted",
    }
    rows = []
    for kind, of in found.items():
        rows.append([f"{kind}: {KINDS[kind]}", "no alignment", plus_minus(of["before"], small), "", "", ""])
        for n, left in of["left"].items():
            rows.append([f"{kind}: {KINDS[kind]}", n, *(plus_minus(left[key], small) for key in columns.values())])
    seeds = len(next(iter(found.values()))["before"])
    says = (
        f"Real heads, {seeds} seeds, titles and images of different pictures; gap left on held-out pairs and on the rows of "
        f"the fit, mean ± standard deviation over seeds and {DRAWS} draws each:"
    )
    return f"{says}\n\n{table(['head', 'rows a side', *columns], rows, left=2)}"
