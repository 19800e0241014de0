"""One page about a modality gap: what it is made of, and what each method does to it.

measure   which figures are taken, from the diagnostics and the compared methods
result    GapReport: the figures, as text, JSON and HTML
words     names, numbers and findings: the verdict, the titles
figures   how each is drawn; svg: a drawing inside a page that is light or dark
page      how it becomes one HTML file
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from fastrealign.gap_report.result import GapReport

METHODS = ("none", "c3", "bca", "realign")
# At most so many rows of each side are looked at.
ROWS = 100_000


@computes
def report(
    source: Any,
    target: Any,
    *,
    pairs: bool | tuple[Any, Any] | None = None,
    methods: Sequence[str] = METHODS,
    domains: Mapping[str, tuple[Any, Any]] | None = None,
    rows: int = ROWS,
    seed: int = 0,
    column: str | None = None,
    target_column: str | None = None,
    progress: Progress = SILENT,
) -> GapReport:
    """Measure the gap between `source` (text) and `target` (images), and what `methods` make of it.

    source, target   as `fastrealign.fit` takes them: arrays, tensors, files, folders, chunks that can be read again
    pairs     True: row i of source and target belong together; or (source, target) rows of their own that do, held out
              perhaps. Then the gap is also taken apart into bias and residual
    methods   names of fastrealign.methods.baselines.METHODS
    domains   other sides by name, (source, target) each: what alignments leave of each other's gaps
    rows      of a side with more, so many are drawn, on which all else is done: fits, metrics, pools of neighbours
    seed      of every sample and of the noise of c3
    column, target_column   the column of each side that holds the embeddings, where it cannot be told, of pairs and domains,
              too; as for `fastrealign.fit`
    Takes a minute for 100,000 x 768 a side on two cores, and memory for three times the rows drawn.
    Raises InputError for an unknown method, fewer than 21 rows, sides without a spread, pairs of unequal number; BadRowsError
    naming the first row that has no direction.
    """
    from fastrealign.gap_report.measure import measure

    return measure(source, target, pairs, methods, domains, rows, seed, column, target_column, progress)
