"""SearchReport: figures of search as text (str), for machines (to_json), as a page (save, to_html)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastrealign.gap_report.result import check_files, local
from fastrealign.retrieval.bootstrap import Figure
from fastrealign.retrieval.score_figures import QUANTILES, Curve, Distribution
from fastrealign.retrieval.search_data import Measured
from fastrealign.retrieval.search_page import search_page
from fastrealign.retrieval.search_table import as_text
from fastrealign.retrieval.search_verdict import advice_of, choice_of, take_of, warnings_of
from fastrealign.storage.atomic import save_bytes


@dataclass(frozen=True, eq=False)
class SearchReport(Measured):
    """The result of `fastrealign.retrieval.evaluate`: `print` it, or `save` it as a page."""

    @property
    def advice(self) -> str:
        """One sentence: which method to take and why, or that none helps."""
        return advice_of(self)

    @property
    def choice(self) -> str | None:
        """The method to take: it raises NDCG@10 (in the mixed corpus, if there is one) and lowers it in no corpus."""
        return choice_of(self)

    @property
    def warnings(self) -> list[str]:
        """What a method lowers: the 95 % interval of its paired difference from doing nothing lies below zero."""
        return warnings_of(self)

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps; densities are left to the page."""
        return {
            "names": dict(self.names),
            "rows": dict(self.rows),
            "dim": self.dim,
            "judged_queries": self.judged,
            "seed": self.seed,
            "advice": self.advice,
            "choice": self.choice,
            "take": list(take_of(self)),
            "warnings": self.warnings,
            "corpora": {
                corpus: {
                    metric: {
                        "queries": self.counted[of, metric],
                        "methods": {name: _figure(one) for name, one in methods.items()},
                    }
                    for (of, metric), methods in self.figures.items()
                    if of == corpus
                }
                for corpus in self.corpora
            },
            "scores": {
                name: {
                    "distributions": {pair: _distribution(of) for pair, of in one.distributions.items()},
                    "thresholds": {role: _curve(of) for role, of in one.curves.items()},
                }
                for name, one in self.scores.items()
            },
            "notes": list(self.notes),
        }

    def to_html(self) -> str:
        """The page, whole. Needs matplotlib."""
        return search_page(self)

    def save(self, path: str | Path) -> list[Path]:
        """Write the page (a name that ends in .html), and its figures as JSON beside it (same name, .json).

        Returns the files written. Raises InputError or FastRealignError where a file cannot be written there, or matplotlib is
        missing; before anything is drawn.
        """
        path = local(path)
        check_files(path)
        figures = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        texts = {path: self.to_html(), path.with_suffix(".json"): figures}
        for name, text in texts.items():
            save_bytes(name, text.encode())
        return list(texts)

    def __str__(self) -> str:
        return as_text(self)


def _figure(of: Figure) -> dict[str, Any]:
    return {
        "value": of.value,
        "interval": list(of.interval),
        "change": of.change,
        "change_interval": list(of.change_interval),
        "better": of.better,
    }


def _distribution(of: Distribution) -> dict[str, Any]:
    return {
        "rows": list(of.rows),
        "quantiles": {str(q): value for q, value in zip(QUANTILES, of.quantiles, strict=True)},
    }


def _curve(of: Curve) -> dict[str, list[float]]:
    return {"threshold": of.threshold.tolist(), "precision": of.precision.tolist(), "recall": of.recall.tolist()}
