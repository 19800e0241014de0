"""Scores that mean the same for every modality: the cosines of each modality pair calibrated by their own distribution.

A cosine of 0.3 is low between two texts and high between a text and an image. `fit_scores` fits a map for each pair of roles;
calibrated scores of several pairs can be ranked together, and with labelled pairs a threshold of a stated precision is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core import checks
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.text import meant
from fastrealign.data.row_source import RowsLike
from fastrealign.formats.saved_tensors import check_record, check_saved_name, damaged, load_tensors, save_tensors
from fastrealign.retrieval.array_arguments import ArrayLike, array_of
from fastrealign.retrieval.calibration import FORMS, LABELLED, SCORE_METHODS, Calibration, checked_cosines
from fastrealign.retrieval.labelled import ModalityPair, Pair, curves_of, naming, open_pair, pair_name
from fastrealign.retrieval.thresholds import COLUMNS, Curve, Threshold
from fastrealign.storage.record_rules import LIST, NOT_NEGATIVE, TEXT, Rule

if TYPE_CHECKING:
    from fastrealign.storage.paths import AnyPath

# Below it is what indexes return where they found fewer than asked: -inf, or the lowest float32.
_NOTHING_FOUND = -1e38
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_RECORD = {"method": TEXT, "pairs": LIST}
_PAIR = {"query": TEXT, "document": TEXT, "form": Rule(" or ".join(FORMS), FORMS.__contains__)}
_CURVE = {"relevant": NOT_NEGATIVE, "weight": NOT_NEGATIVE}


@dataclass(frozen=True, eq=False)
class Scores:
    """A fitted calibration for each modality pair. `scores("query", "image", cosines)` calibrates; iterating gives the pairs.

    Attributes
    ----------
    maps : mapping of (str, str) to Calibration
        By the role of the query and that of the document.
    method : str
        One of SCORE_METHODS.
    curves : mapping
        Of each labelled pair, and of all together by None where every pair is labelled: precision at each threshold.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> query, image = np.random.default_rng(0).standard_normal((2, 200, 8))
    >>> scores = fr.retrieval.fit_scores({("query", "image"): (query, image + query)})
    >>> scores
    Scores(query to image; method='z-score')
    >>> list(scores)
    [('query', 'image')]
    """

    maps: Mapping[Pair, Calibration]
    method: str
    curves: Mapping[Pair | None, Curve]

    @computes
    def __call__(self, query: str, document: str, cosines: ArrayLike) -> np.ndarray:
        """Calibrated scores, which rise with the cosine.

        Parameters
        ----------
        query, document : str
            The roles of the query and of the documents.
        cosines : array
            Of any shape and type of floats, of unit rows mapped as those fitted on. What stands where fewer results were found
            (-inf of a `Searcher`, about -3e38 of FAISS) becomes -inf.

        Returns
        -------
        ndarray of float64
            Of that shape; float32 would not tell quantiles near 1 apart.

        Raises
        ------
        InputError
            For a pair that was not fitted, a NaN, or a value outside -1 to 1 beyond rounding (0.002, that of float16 rows).
        """
        one = self.maps[_known((query, document), self.maps)]
        given = array_of(cosines, "cosines", "f").astype(np.float64)
        empty = given < _NOTHING_FOUND
        scores = one(checked_cosines(np.where(empty, 0.0, given) if empty.any() else given))
        return np.where(empty, -np.inf, scores)[()] if empty.any() else scores

    def threshold(self, query: str | None = None, document: str | None = None, *, precision: float) -> Threshold:
        """The lowest threshold whose precision on the labelled pairs is at least `precision`.

        Parameters
        ----------
        query, document : str, optional
            A modality pair; without them, one threshold on the results of all pairs together.
        precision : float
            The share of relevant ones among the query-document pairs that score at least the threshold, between 0 and 1.

        Returns
        -------
        Threshold
            Prints itself: value, precision with its interval, recall, number of labelled pairs.

        Raises
        ------
        InputError
            Without labels, with too few of them for that precision (how many are needed is said), and where no threshold
            reaches it.
        """
        if (query is None) != (document is None):
            raise InputError("threshold: name both roles, of the query and of the document, or neither for all pairs")
        pair = None if query is None or document is None else _known((query, document), self.maps)
        if pair not in self.curves:
            unlabelled = [one for one in self.maps if one not in self.curves] if pair is None else [pair]
            raise InputError(
                f"a threshold needs labelled pairs, and there are none of {', '.join(map(pair_name, unlabelled))}: "
                "fit_scores(..., labels=...)"
            )
        return self.curves[pair].threshold(precision, "all pairs" if pair is None else pair_name(pair))

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.maps)

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        return f"Scores({', '.join(map(pair_name, self.maps))}; method={self.method!r})"

    def save(self, path: AnyPath) -> None:
        """Write to one safetensors file, a path or a URL, replaced in one step.

        Raises
        ------
        InputError
            For a name of another kind of file.
        FastRealignError
            When writing fails.
        """
        check_saved_name(path, "scores")
        tensors: dict[str, np.ndarray] = {}
        records: list[dict[str, Any]] = []
        for number, (pair, one) in enumerate(self.maps.items()):
            tensors[f"{number}/values"] = one.values
            records.append({"query": pair[0], "document": pair[1], "form": one.form})
        for key, curve in self.curves.items():
            name = "all" if key is None else str(list(self.maps).index(key))
            tensors[f"{name}/curve"] = curve.counts
            record = {"relevant": curve.relevant, "weight": curve.weight}
            if key is None:
                records.append({"all": record})
            else:
                records[int(name)]["curve"] = record
        save_tensors(path, tensors, {"kind": "scores", "method": self.method, "pairs": records})

    @classmethod
    def load(cls, path: AnyPath) -> Scores:
        """Read what `save` wrote; InputError, which names the file, if it is missing, damaged or something else."""
        tensors, meta = load_tensors(path, "scores")
        check_record(path, "scores", meta, _RECORD)
        maps: dict[Pair, Calibration] = {}
        curves: dict[Pair | None, Curve] = {}
        for number, record in enumerate(meta["pairs"]):
            if isinstance(record, dict) and "all" in record:
                curves[None] = _curve(path, tensors.get("all/curve"), record["all"])
                continue
            check_record(path, "scores", record, _PAIR)
            pair = record["query"], record["document"]
            maps[pair] = Calibration(record["form"], _values(path, tensors.get(f"{number}/values"), record["form"]))
            if "curve" in record:
                curves[pair] = _curve(path, tensors.get(f"{number}/curve"), record["curve"])
        if not maps:
            raise damaged(path, "scores", "there is no pair")
        return cls(maps, meta["method"], curves)


def _values(path: AnyPath, values: np.ndarray | None, form: str) -> np.ndarray:
    knots = form == "knots"
    shaped = values is not None and values.dtype == np.float64 and values.shape[:1] == (2,) and values.ndim == 1 + knots
    if values is None or not shaped or not values.size or not np.isfinite(values).all():
        raise damaged(path, "scores", "the values of a calibration are missing or malformed")
    if (np.diff(values, axis=1) < 0).any() if knots else values[0] <= 0:
        raise damaged(path, "scores", "a calibration falls with the cosine")
    return values


def _curve(path: AnyPath, counts: np.ndarray | None, record: dict[str, Any]) -> Curve:
    check_record(path, "scores", record, _CURVE)
    if counts is None or counts.dtype != np.float64 or counts.ndim != 2 or counts.shape[1] != len(COLUMNS):
        raise damaged(path, "scores", "the counts of a threshold are missing or malformed")
    return Curve(counts, int(record["relevant"]), float(record["weight"]))


@computes
def fit_scores(
    pairs: Mapping[Pair, tuple[RowsLike, RowsLike]],
    *,
    method: str = "z-score",
    labels: Mapping[Pair, ArrayLike] | None = None,
    collection: Mapping[Pair, int] | None = None,
    seed: int = 0,
) -> Scores:
    """Fit the calibration of each modality pair of an index.

    Parameters
    ----------
    pairs : mapping of (str, str) to (rows, rows)
        For each modality pair, such as ("query", "image"): rows of queries and rows of documents, as `fastrealign.fit` takes
        them, after the map of their role. Rows are divided by their norms. They need not be paired: z-score and quantile need
        the scores of random queries with random documents, of which at most 2,000 rows a side are drawn.
    method : str
        One of SCORE_METHODS. Of isotonic and logistic the calibrated score is the probability that a document of that cosine
        is relevant; they need `labels` of every pair and the extra `sklearn`.
    labels : mapping of (str, str) to integer array (m, 2), optional
        The relevant pairs: (number of the query's row, number of the document's row). Every other pair of the rows given counts
        as not relevant, so give the queries that were judged, with those that have no relevant document, and the documents that
        are searched (or a random sample, and `collection`). With any method they make `Scores.threshold` possible.
    collection : mapping of (str, str) to int, optional
        How many documents users search, where the rows are a sample that has all relevant documents: each of the others then
        counts that many times more. Without it, the rows are the collection.
    seed : int
        Of the rows, and of the pairs that are not relevant, that are drawn where there are many.

    Returns
    -------
    Scores

    Raises
    ------
    InputError
        For too few rows or labelled pairs, labels of unknown pairs or rows, another method, rows of different widths; it names
        the modality pair.
    BadRowsError
        For a row without a direction.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> query, image = rng.standard_normal((2, 200, 8))
    >>> scores = fr.retrieval.fit_scores({("query", "image"): (query, image + query)}, method="z-score")
    >>> scores("query", "image", np.array([-0.5, 0.9])).round(1)
    array([-1.4,  2.5])
    """
    _check(pairs, method, labels, collection)
    seed = checks.seed(seed)
    opened: dict[Pair, ModalityPair] = {}
    maps: dict[Pair, Calibration] = {}
    for pair, (queries, documents) in pairs.items():
        with naming(pair):
            opened[pair] = open_pair(queries, documents, (labels or {}).get(pair), (collection or {}).get(pair), seed)
            maps[pair] = opened[pair].calibration(method)
    return Scores(maps, method, curves_of(opened, maps))


def _check(pairs: Any, method: str, labels: Any, collection: Any) -> None:
    if not isinstance(pairs, Mapping) or not pairs:
        raise InputError(
            "pairs: expected a mapping such as {('query', 'image'): (query_rows, image_rows), ('query', 'text'): (...)}"
        )
    for pair, rows in pairs.items():
        names = (
            isinstance(pair, tuple)
            and len(pair) == 2
            and all(isinstance(one, str) and _NAME.fullmatch(one) for one in pair)
        )
        if not names:
            raise InputError(
                f"pair {pair!r}: expected two names of letters, digits, _ and -: (query role, document role)"
            )
        if not isinstance(rows, (tuple, list)) or len(rows) != 2:
            raise InputError(f"{pair_name(pair)}: expected (query rows, document rows)")
    if method not in SCORE_METHODS:
        hint = meant(str(method), SCORE_METHODS, f"choose one of {', '.join(SCORE_METHODS)}")
        raise InputError(f"there is no calibration {method!r}{hint}")
    for what, given in (("labels", labels), ("collection", collection)):
        if given is not None and not isinstance(given, Mapping):
            raise InputError(f"{what}: expected a mapping with the keys of `pairs`")
        for pair in given or {}:
            _known(pair, pairs)
    missing = [pair for pair in pairs if pair not in (labels or {})]
    if missing and method in LABELLED:
        raise InputError(
            f"{method} needs labelled pairs, and there are none of {', '.join(map(pair_name, missing))}; give them with labels="
        )
    for pair in collection or {}:
        if pair not in (labels or {}):
            raise InputError(f"collection: {pair_name(pair)} has no labels, without which its size does not matter")


def _known(pair: Any, pairs: Mapping[Pair, Any]) -> Pair:
    if pair not in pairs:
        names = {pair_name(one): one for one in pairs}
        given = pair_name(pair) if isinstance(pair, tuple) and len(pair) == 2 else repr(pair)
        near = meant(given, names, f"the pairs are {', '.join(names)}")
        raise InputError(f"there is no modality pair {given}{near}")
    return pair
