"""The figures of a search report, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastrealign.gap_report.method_style import COLOURS, name_of
from fastrealign.retrieval.bootstrap import Figure
from fastrealign.retrieval.documents import IMAGE, TEXT
from fastrealign.retrieval.ranking import MIXED
from fastrealign.retrieval.score_figures import Curve, Distribution

CORPORA = {MIXED: "text and images in one index", TEXT: "text alone", IMAGE: "images alone"}


@dataclass(frozen=True, eq=False)
class MethodScores:
    """Of one method: how cosines are distributed by pairs of modalities, and the threshold curves by role of the results."""

    distributions: Mapping[str, Distribution]
    curves: Mapping[str, Curve]


@dataclass(frozen=True, eq=False)
class Measured:
    """Figures of search in every corpus with every method.

    Attributes
    ----------
    names, rows : mapping of str to str, int
        Of each role ("query", "text", "image") what was given, and how many rows.
    dim : int
        Width of the rows.
    judged : int
        Queries measured.
    figures : mapping of (corpus, metric) to mapping of method to Figure
        Corpora: "mixed", "text", "image". Metrics: "R@1", "R@5", "R@10", "NDCG@10", "MRR"; of the mixed corpus also "R@10 of
        texts" and "R@10 of images", which count only those among the relevant documents, and "images in the top 10", a share.
    counted : mapping of (corpus, metric) to int
        Queries that have a relevant document there.
    scores : mapping of method to MethodScores
    notes : tuple of str
        What was left out, and what limits the figures.
    seed : int
    take : mapping of str to tuple of str
        For each method but "none" how to take it: shell commands where paths were given, else Python calls.
    """

    names: Mapping[str, str]
    rows: Mapping[str, int]
    dim: int
    judged: int
    figures: Mapping[tuple[str, str], Mapping[str, Figure]]
    counted: Mapping[tuple[str, str], int]
    scores: Mapping[str, MethodScores]
    notes: tuple[str, ...]
    seed: int
    take: Mapping[str, tuple[str, ...]]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names compared, "none" first."""
        return tuple(self.scores)

    @property
    def corpora(self) -> tuple[str, ...]:
        """Those measured, the mixed one first."""
        return tuple(corpus for corpus in CORPORA if any(of == corpus for of, _ in self.figures))


def method_name(method: str) -> str:
    """The method as the literature writes it; a name of given roles as it is."""
    return name_of(method) if method in COLOURS else method
