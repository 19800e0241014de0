"""Search over one index that holds several modalities: scores, evaluation, and where vectors live."""

from __future__ import annotations

from fastrealign.retrieval.evaluation import evaluate
from fastrealign.retrieval.exact_search import top_k
from fastrealign.retrieval.fusion import fuse, fuse_scores
from fastrealign.retrieval.index_job import index
from fastrealign.retrieval.index_report import IndexReport
from fastrealign.retrieval.merging import Hits, merge
from fastrealign.retrieval.pairs_from_judgements import judged_pairs
from fastrealign.retrieval.scores import Scores, fit_scores
from fastrealign.retrieval.search_report import SearchReport
from fastrealign.retrieval.searching import Searcher, searcher

__all__ = [
    "Hits",
    "IndexReport",
    "Scores",
    "SearchReport",
    "Searcher",
    "evaluate",
    "fit_scores",
    "fuse",
    "fuse_scores",
    "index",
    "judged_pairs",
    "merge",
    "searcher",
    "top_k",
]
