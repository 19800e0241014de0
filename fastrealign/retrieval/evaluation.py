"""Search in one index, before and after alignment: recall, NDCG and MRR in every corpus, scores, and thresholds."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

import numpy as np

from fastrealign.core import checks
from fastrealign.core.errors import BadRowsError, FitWarning, InputError
from fastrealign.core.float_state import computes
from fastrealign.core.formatting import count, listed
from fastrealign.core.optional import optional
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import described, meant, redacted
from fastrealign.core.wording import option
from fastrealign.data.id_index import RowNumbers
from fastrealign.data.row_source import RowsLike
from fastrealign.data.sources import FileSource
from fastrealign.diagnostics.unit_rows import picked, unit_blocks
from fastrealign.methods.choosing import AUTO
from fastrealign.methods.fit_options import BLOCKWISE, own_name
from fastrealign.methods.role_fits import ROLE_METHODS
from fastrealign.methods.role_pairs import FEWEST
from fastrealign.methods.roles import Roles
from fastrealign.retrieval.apply_recipe import ApplyRecipe
from fastrealign.retrieval.array_arguments import IdsLike, QrelsLike
from fastrealign.retrieval.bootstrap import figures
from fastrealign.retrieval.compared_roles import FEW, PAIRED, Fitting, by_roles, opened_roles
from fastrealign.retrieval.documents import (
    IMAGE,
    QUERY,
    TEXT,
    Judged,
    Rows,
    judged_rows,
    open_sides,
    sampled,
)
from fastrealign.retrieval.ranking import measured, search
from fastrealign.retrieval.score_figures import curves, distributions
from fastrealign.retrieval.search_data import MethodScores, method_name
from fastrealign.retrieval.search_report import SearchReport
from fastrealign.storage.paths import AnyPath

NONE = "none"
METHODS = (NONE, "realign", "centred")
# Judged queries that are measured, at most.
SAMPLE = 2000
# With fewer judged queries than this, intervals are too narrow.
FEW_JUDGED = 30
# Rows that are looked at at a time for one without a direction.
BLOCK = 8192


@computes
def evaluate(
    queries: RowsLike,
    *,
    text: RowsLike | None = None,
    images: RowsLike | None = None,
    qrels: QrelsLike | None = None,
    pairs: bool = False,
    roles: Roles | AnyPath | Mapping[str, Roles | AnyPath] | None = None,
    methods: Sequence[str] | None = None,
    ids: Mapping[str, IdsLike] | None = None,
    column: str | None = None,
    image_column: str | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    progress: Progress = SILENT,
) -> SearchReport:
    """Measure search in an index of text and images, without alignment and with each method.

    Documents are searched exactly, in blocks, so memory does not grow with their number. Each method is measured in the corpus
    of text, in that of images, and in both together (mixed). Its roles are fitted on the documents, and on queries: two halves,
    each mapped by what was fitted on the other. Metrics are those of trec_eval; 95 % intervals are bootstraps over queries.

    Parameters
    ----------
    queries : rows
        Rows (n, d), as `fastrealign.fit` takes them: an array, a tensor, paths.
    text, images : rows, optional
        The documents, at least one of both. With one alone, the mixed corpus is not measured.
    qrels : path or mapping, optional
        Judgements by id: TREC qrels, a BEIR or MTEB folder, a .csv or .tsv with a header. Or a mapping of query ids to mappings
        of document ids to grades. An id of a text and of an image is of both.
    pairs : bool
        Instead of qrels: row i of the queries belongs to row i of the text and to row i of the images.
    roles : Roles, path or mapping, optional
        Fitted roles to compare; or several by name. Those without a role "query" map queries as "text".
    methods : sequence of str, optional
        Of `fastrealign.fit_roles`, fitted here. By default none, realign and centred; with `roles` only none. "none", doing
        nothing, is always measured. balanced and auto choose by judged pairs, of which each half of the queries needs 100 of
        text and 100 of images.
    ids : mapping of str to path or list, optional
        Ids of the rows of "query", "text" and "image", in their order; of a table as "table.csv:column". By default those that
        the files hold; else those of a BEIR folder's lists; else the numbers of the rows.
    column, image_column : str, optional
        The column that holds the embeddings of queries and text (and of images, where theirs has that name and no other is
        given), and of images, where that is ambiguous.
    sample : int
        Judged queries that are measured, at most.
    seed : int
        Of samples, halves and the bootstrap.
    progress : Progress
        Called as passes advance.

    Returns
    -------
    SearchReport
        `print` it or `save` it as a page; `advice`, `warnings`, `figures`.

    Raises
    ------
    InputError
        No documents; neither or both of qrels and pairs; judgements that cannot be read or of which none can be measured; ids
        that occur twice; widths that differ; an unknown method; pytrec_eval is missing.
    BadRowsError
        A row without a direction.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.retrieval import evaluate
    >>> rng = np.random.default_rng(0)
    >>> things = rng.standard_normal((60, 8))
    >>> queries, images = things + [3] * 8, things - [3] * 8
    >>> text = rng.standard_normal((60, 8)) + [3] * 8
    >>> qrels = {str(i): {f"picture {i}": 1} for i in range(60)}
    >>> found = evaluate(queries, text=text, images=images, qrels=qrels,
    ...                  ids={"image": [f"picture {i}" for i in range(60)]})
    >>> found.figures["mixed", "R@10"]["centred"].value > found.figures["mixed", "R@10"]["none"].value
    True
    """
    optional("pytrec_eval", "search", "evaluating search")
    sample, seed, pairs = checks.whole("sample", sample, 1), checks.seed(seed), checks.flag("pairs", pairs)
    names = _checked_methods((METHODS if roles is None else ()) if methods is None else methods)
    given = {QUERY: queries, TEXT: text, IMAGE: images}
    if text is None and images is None:
        raise InputError("there are no documents; give text, images or both")
    if (qrels is None) != pairs:
        raise InputError(
            f"give either {option('qrels')}, judgements, or {option('pairs', True)}: row i of queries belongs to row i"
        )
    sides = open_sides(given, ids or {}, column, image_column)
    compared = opened_roles(roles, sides)
    if twice := set(names) & set(compared):
        raise InputError(f"roles: {min(twice)!r} is a method that is measured; give these roles another name")
    judged = sampled(judged_rows(sides, qrels), sample, seed)
    recipe = ApplyRecipe(given, sides, {"ids": ids, "column": column, "image_column": image_column}, qrels)
    saved = roles.values() if isinstance(roles, Mapping) else [roles]
    take = {name: recipe.by_fitting(name) for name in names if name != NONE}
    take |= {name: recipe.by_roles(name, one, compared[name]) for name, one in zip(compared, saved, strict=False)}
    try:
        return _measure(sides, judged, names, compared, take, seed, progress)
    except BadRowsError as error:
        numbered = [side for side in sides.values() if isinstance(side.ids, RowNumbers)]
        if qrels is None or not any(_names_a_row_of(side, str(error)) for side in numbered):
            raise
        raise BadRowsError(
            f"{error}; rows without ids are judged by their numbers, which shift: name ids first ({option('ids')})"
        ) from None


def _names_a_row_of(side: Rows, message: str) -> bool:
    """Whether a message begins with the name of a row of this side."""
    source = side.source
    names = [redacted(one.path) for one in source.files.shards] if isinstance(source, FileSource) else [source.name]
    return any(message.startswith(f"{name}: row ") for name in names)


def _checked_methods(methods: Sequence[str]) -> list[str]:
    if isinstance(methods, str):
        methods = [methods]
    if not isinstance(methods, Iterable):
        raise InputError(f"methods: {described(methods)}, expected names, such as ['realign', 'centred']")
    known = (*ROLE_METHODS, *PAIRED)
    methods = [own_name(name) if isinstance(name, str) else name for name in methods]
    for name in methods:
        if name not in known:
            hint = meant(str(name), (*known, BLOCKWISE), f"choose of {', '.join(known)}")
            raise InputError(f"there is no method {name!r} for roles{hint}")
    return list(dict.fromkeys([NONE, *methods]))


def _measure(
    sides: Mapping[str, Rows],
    judged: Judged,
    names: list[str],
    compared: Mapping[str, Roles],
    take: Mapping[str, tuple[str, ...]],
    seed: int,
    progress: Progress,
) -> SearchReport:
    """Measure the methods of these names, fitted here, and the roles that were given."""
    queries = sides[QUERY]
    documents = {role: side for role, side in sides.items() if role != QUERY}
    _check_directions(documents, progress)
    fitting = Fitting(queries, documents, judged, seed)
    for name in names:
        fitting.check(name)
    notes = [*judged.notes, *_notes(documents, judged, fitting, names)]
    raw = picked(queries.source, judged.queries)
    scores: dict[str, MethodScores] = {}
    values = []
    with _said_once():
        for name in [*names, *compared]:
            parts = by_roles(compared[name], raw, documents) if name in compared else fitting.by(name, progress)
            found = search(parts, documents, progress)
            values.append(measured(found, judged))
            scores[name] = MethodScores(distributions(documents, parts[0].maps, seed), curves(found, judged))
            if name == AUTO:
                taken = listed(list(dict.fromkeys(method_name(part.method) for part in parts)))
                notes.append(f"auto takes {taken}, by the judged pairs of each half of the queries for the other half")
    keys = [key for key, of in values[0].items() if np.isfinite(of).any()]
    of_all = figures(np.array([[of[key] for key in keys] for of in values]), seed)
    table = {key: {name: of_all[i][j] for i, name in enumerate(scores)} for j, key in enumerate(keys)}
    counted = {key: int(np.isfinite(values[0][key]).sum()) for key in keys}
    return SearchReport(
        names={role: side.source.name for role, side in sides.items()},
        rows={role: side.rows for role, side in sides.items()},
        dim=queries.source.d,
        judged=len(judged.queries),
        figures=table,
        counted=counted,
        scores=scores,
        notes=tuple(notes),
        seed=seed,
        take=take,
    )


def _check_directions(documents: Mapping[str, Rows], progress: Progress) -> None:
    """BadRowsError for the first row without a direction, before anything is fitted."""
    for role, side in documents.items():
        with progress.running(f"reading {role}", side.rows):
            for _, block in unit_blocks(side.source, size=BLOCK, dtype=np.float32):
                progress.advance(len(block), 0)


# What differs between warnings that differ in figures: these, and whether words are singular.
_FIGURES = re.compile(r"\d[\d.,]*|\b(is|are|was|were|has|have|does|do)\b|(s?es|ies|s|y)\b")


@contextmanager
def _said_once() -> Iterator[None]:
    """What several fits warn of is said once for each role or file: of those that differ in figures, of halves, the first."""
    show, said = warnings.showwarning, set[tuple[str, str]]()

    def show_first(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        of, _, text = str(message).partition(": ")
        if (key := (of, _FIGURES.sub("", text))) in said and issubclass(category, FitWarning):
            return
        said.add(key)
        show(message, category, filename, lineno, file, line)

    warnings.showwarning = show_first
    try:
        yield
    finally:
        warnings.showwarning = show


def _ceilings(judged: Judged) -> list[str]:
    """For judgements with several relevant documents a query: the highest R@k there can be, over all documents."""
    counts = sum(np.bincount(of.query, minlength=len(judged.queries)) for of in judged.relevant.values())
    highest = {k: float(np.mean(np.minimum(k, counts) / counts)) for k in (1, 5, 10)}
    limited = [f"R@{k} {value:.3f}" for k, value in highest.items() if value < 1.0]
    if not limited:
        return []
    mean = np.mean(counts)
    return [
        f"queries have {mean:.3g} relevant documents in the mean, so the highest possible is {listed(limited)} among all "
        "documents"
    ]


def _notes(documents: Mapping[str, Rows], judged: Judged, fitting: Fitting, names: list[str]) -> list[str]:
    notes = []
    if len(documents) == 1:
        (role,) = documents
        notes.append(
            f"all documents are {'text' if role == TEXT else 'images'}: figures of a mixed index cannot be measured"
        )
    for role, of in judged.relevant.items():
        if not len(of.query):
            notes.append(f"no {role} is relevant to a judged query: search in {role} alone cannot be measured")
    notes += _ceilings(judged)
    if (n := len(judged.queries)) < FEW_JUDGED:
        notes.append(f"{count(n, 'judged query', 'are')} few: their intervals are too narrow, judge more")
    if len(names) > 1 and not fitting.halves:
        notes.append(
            f"fewer than {FEW} queries: their map is fitted on the queries that it is measured on, which flatters it; fit "
            "roles on other queries and give these"
        )
    untried = [name for name in PAIRED if name not in names]
    if len(names) > 1 and fitting.halves and len(documents) == 2 and untried:
        few = min(fitting.pairs_in_half().values())
        how = (
            f"{option('methods')} names them"
            if few >= FEWEST
            else f"they need {FEWEST} of text and {FEWEST} of images in each half of the queries, one of which has {few}"
        )
        notes.append(f"not tried: {listed(untried)}, which choose by judged pairs: {how}")
    return notes
