"""A report on a modality gap: its components, and the effect of each method, as text, JSON and one HTML page.

sides     the rows: both sides opened, and what is drawn from them; class_labels: their labels
by_length the source by the length of its captions; row_lengths: where these come from
measure   which figures are taken, from the diagnostics and the compared methods; refits: on samples, on other domains
scoring   every method scored on the same rows; tasks: search and the classifier; outcomes: differences and their intervals
data      report_data, the figures; result: GapReport, the same with text, JSON, HTML and files
verdict   the sentences that state a finding: verdict, headline, titles; advice: what to do
table     the rows of the table, and the report as plain text; method_style: names and colours
charts    how each figure is drawn; figures: all of them as SVG and PNG; svg: a drawing inside a page, light or dark
page      how it becomes one HTML file

Left out of JSON, and drawn on the page alone: rows in the plane, densities of angles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from fastrealign.core.float_state import computes
from fastrealign.core.progress import SILENT, Progress

if TYPE_CHECKING:
    from fastrealign.data.row_source import RowsLike
    from fastrealign.gap_report.class_labels import ValuesLike
    from fastrealign.gap_report.result import GapReport

METHODS = ("none", "realign", "realign-exact", "bca", "c3")
# Rows of each side that are measured, at most.
ROWS = 100_000


@computes
def report(
    source: RowsLike,
    target: RowsLike,
    *,
    pairs: bool | tuple[RowsLike, RowsLike] | None = None,
    labels: ValuesLike | tuple[ValuesLike, ValuesLike] | None = None,
    by_length: ValuesLike | None = None,
    methods: Sequence[str] = METHODS,
    domains: Mapping[str, tuple[RowsLike, RowsLike]] | None = None,
    rows: int = ROWS,
    seed: int = 0,
    bad_rows: str = "error",
    column: str | None = None,
    target_column: str | None = None,
    progress: Progress = SILENT,
) -> GapReport:
    """Measure the gap between `source` (text) and `target` (images), and what methods of alignment do to it.

    Takes a minute for 100,000 x 768 a side on two cores, and memory for three times the rows drawn.

    Parameters
    ----------
    source, target : array, tensor, path, list of paths, or chunks
        Rows (n, d) and (m, d), as `fastrealign.fit` takes them; chunks must be readable again.
    pairs : bool or (source, target), optional
        True: row i of source and target belong together. Or separate rows that do, such as held-out pairs. Search is then
        measured, and the distance of pairs is split into bias and residual.
    labels : list, array, path or (source, target), optional
        A class for each row: one list for both sides, whose rows match, or one for each. A path (.npy, .txt, .json, .csv,
        .parquet, "table.csv:column"), or a column of the sides' own tables. A classifier is then trained on the source, with
        each method, and tested on the target.
    by_length : list, array, path or str, optional
        The length of the caption of each source row: numbers, in any unit, or captions, whose words (between white space) are
        counted; a .npy file of numbers, a .txt file with a caption a line, or the name of a text column of the source. The
        report then compares up to four ranges of lengths.
    methods : sequence of str
        Names of `fastrealign.baselines.METHODS`. "none", doing nothing, is always measured: what others are compared with.
    domains : mapping of str to (source, target), optional
        Other sides by name: the report states the gap that an alignment of one domain leaves in another.
    rows : int
        Rows drawn from a side that has more. Fits, metrics and pools of neighbours use only these.
    seed : int
        Of every sample and of the noise of c3.
    bad_rows : {"error", "skip"}
        Rows with NaN, Inf or only zeros: "error" names the first, "skip" leaves them out after one more pass over each side;
        of sides with as many rows, and of pairs, with the row of the same number on the other side.
    column, target_column : str, optional
        The column of each side that holds the embeddings, where it is not clear; for pairs and domains, too.
    progress : Progress
        Receives the progress of the work.

    Returns
    -------
    GapReport
        `print` it, `save` it as a page, or let a notebook show it.

    Raises
    ------
    InputError
        An unknown method, fewer than 21 rows, a side without a spread, pairs of unequal number, labels of another number or
        without classes.
    BadRowsError
        A row without a direction, where bad_rows is "error"; the message names the first.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrealign as fr
    >>> rng = np.random.default_rng(0)
    >>> images = rng.normal(size=(60, 4)) + [4, 0, 0, 0]
    >>> text = rng.normal(size=(60, 4)) + [0, 4, 0, 0]
    >>> found = fr.report(text, images, methods=["none", "realign"])
    >>> found.methods["realign"].gap < found.methods["none"].gap
    True
    """
    from fastrealign.gap_report.measure import measure_gap
    from fastrealign.gap_report.sides import ReportOptions

    domains = {} if domains is None else domains
    options = ReportOptions(pairs, methods, domains, rows, seed, column, target_column, labels, by_length, bad_rows)
    return measure_gap(source, target, options, progress)
