"""What one method finds: the best documents of each query in each corpus, and their metrics by trec_eval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fastrealign.core.optional import optional
from fastrealign.core.progress import Progress
from fastrealign.methods.method import Method
from fastrealign.retrieval.compared_roles import Mapped
from fastrealign.retrieval.documents import IMAGE, Judged, Rows
from fastrealign.retrieval.exact_search import top_k

# Documents found for each query and corpus: MRR and the threshold curves look no further.
DEPTH = 100
TOP = 10
MIXED = "mixed"
# Names in the report, and those of trec_eval.
METRICS = {"R@1": "recall_1", "R@5": "recall_5", "R@10": "recall_10", "NDCG@10": "ndcg_cut_10", "MRR": "recip_rank"}
SHARE = "images in the top 10"


class Found(NamedTuple):
    """The best documents of each query, best first, of all roles of a corpus.

    scores     float64 (n, k)
    documents  int64 (n, k): rows of their role
    image      bool (n, k): whether each is an image
    """

    scores: np.ndarray
    documents: np.ndarray
    image: np.ndarray


# Of each corpus and metric the value of every judged query: float64 (n,), NaN where a query has no relevant document there.
Values = dict[tuple[str, str], np.ndarray]


def search(parts: Sequence[Mapped], documents: Mapping[str, Rows], progress: Progress) -> dict[str, Found]:
    """The best of each corpus for all queries, of which each part has its own maps."""
    order = np.argsort(np.concatenate([part.at for part in parts]))
    found = [_search(part.queries, documents, part.maps, progress) for part in parts]
    by_corpus = {corpus: zip(*(one[corpus] for one in found), strict=True) for corpus in found[0]}
    return {corpus: Found(*(np.concatenate(of)[order] for of in parts)) for corpus, parts in by_corpus.items()}


def _search(
    queries: np.ndarray, documents: Mapping[str, Rows], maps: Mapping[str, Method], progress: Progress
) -> dict[str, Found]:
    """The best of each corpus: of each role alone, and with two roles of both together, ties to the text."""
    found = {}
    for role, one in documents.items():
        best = top_k(queries, one.source, DEPTH, method=maps[role], progress=progress)
        found[role] = Found(best.cosines, best.numbers, np.full(best.numbers.shape, role == IMAGE))
    if len(found) > 1:
        both = [np.concatenate(of, axis=1) for of in zip(*found.values(), strict=True)]
        order = np.argsort(-both[0], axis=1, kind="stable")[:, :DEPTH]
        found[MIXED] = Found(*(np.take_along_axis(of, order, 1) for of in both))
    return found


def measured(found: Mapping[str, Found], judged: Judged) -> Values:
    """Every metric in every corpus; in the mixed one also R@10 of relevant texts and images alone, and the share of images."""
    values: Values = {}
    grades = {role: _qrels(judged, (role,)) for role in judged.relevant}
    for corpus, best in found.items():
        relevant = _qrels(judged, tuple(judged.relevant)) if corpus == MIXED else grades[corpus]
        by_metric = _metrics(best, relevant, len(judged.queries))
        values |= {(corpus, name): by_metric[of] for name, of in METRICS.items()}
        if corpus == MIXED:
            for role, of_role in grades.items():
                values[MIXED, own(role)] = _metrics(best, of_role, len(judged.queries))["recall_10"]
            values[MIXED, SHARE] = best.image[:, :TOP].mean(axis=1)
    return values


def own(role: str) -> str:
    """The name of the recall of one role's documents in the mixed corpus."""
    return f"R@10 of {role}s"


def _qrels(judged: Judged, roles: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Relevance as trec_eval takes it: names of queries are their places, of documents role and row."""
    grades: dict[str, dict[str, int]] = {}
    for role in roles:
        of = judged.relevant[role]
        for query, document, grade in zip(of.query.tolist(), of.document.tolist(), of.grade.tolist(), strict=True):
            grades.setdefault(str(query), {})[_name(role == IMAGE, document)] = grade
    return grades


def _name(image: bool, row: int) -> str:
    return f"{'i' if image else 't'}{row}"


def _metrics(best: Found, relevant: dict[str, dict[str, int]], n: int) -> dict[str, np.ndarray]:
    """The metrics of trec_eval: (n,) each. It sorts by score and breaks ties by name, so ranks are the scores."""
    trec = optional("pytrec_eval", "search", "evaluating search")
    values = {name: np.full(n, np.nan) for name in METRICS.values()}
    k = best.scores.shape[1]
    run = {}
    for query in relevant:
        at = int(query)
        names = map(_name, best.image[at].tolist(), best.documents[at].tolist())
        run[query] = {name: float(k - rank) for rank, name in enumerate(names)}
    evaluator = trec.RelevanceEvaluator(relevant, {"recall.1,5,10", "ndcg_cut.10", "recip_rank"})
    for query, of in evaluator.evaluate(run).items():
        for name, column in values.items():
            column[int(query)] = of[name]
    return values
