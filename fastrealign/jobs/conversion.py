"""Converts embeddings from one format to another, number for number: for the output of a script, before it is aligned.

Rows and their columns are read in steps and written as a table (parquet, Arrow, Lance), or as .npy and metadata.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastrealign import formats
from fastrealign.core.bad_rows import GOOD, REASONS
from fastrealign.core.choices import SIDES
from fastrealign.core.dtypes import ElementType
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.float_state import computes
from fastrealign.core.formatting import count, listing, size
from fastrealign.core.ops import row_states
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import shown, shown_values
from fastrealign.core.wording import option
from fastrealign.data.options import BAD_ROWS, OutputOptions, check_choice, check_progress
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.metadata import attach_metadata
from fastrealign.formats.pickle_layouts import AnyPickleShard
from fastrealign.formats.table_copy import STEP_ROWS
from fastrealign.formats.tables import TableShard
from fastrealign.jobs.converted_files import ConvertedFiles
from fastrealign.jobs.protected_inputs import check_outside
from fastrealign.jobs.row_columns import RowColumns, kept
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import AnyPath, check_output, named_paths


@dataclass(frozen=True)
class Conversion:
    """What `convert` did.

    Attributes
    ----------
    source, out : str
        As the user named them.
    to : str
        The format written.
    rows, dim : int
        Embeddings written and their width.
    column : str or None
        The name under which the source holds them (column, key, tensor), if it has one.
    skipped : int
        Items of the source without an embedding.
    bad_rows : list of str
        With ``bad_rows="skip"`` the rows that were left out, one "FILE: row N WHY" each.
    columns : list of str
        Columns written beside the embeddings.
    left_out : list of str
        What does not belong to rows and was not written, as "FILE: NAME".
    files : list of str
        Files that were written, relative to `out` where that is a folder; `bytes` is their size.
    """

    source: str
    out: str
    to: str
    rows: int
    dim: int
    column: str | None
    skipped: int
    bad_rows: list[str]
    columns: list[str]
    left_out: list[str]
    files: list[str]
    bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps."""
        return shown_values(vars(self))

    def __str__(self) -> str:
        head = f"converted {count(self.rows, 'row')} of {self.source}, {self.dim} wide, to {self.to}"
        others = f"{', '.join(self.left_out)}: not one value for each row"
        bad = [f"{len(self.bad_rows):,} left out, the first of them:", *self.bad_rows[:5]]
        lines = listing(
            ("columns", ", ".join(self.columns)),
            ("column", None if self.column is None else f"of the embeddings: taken from {self.column!r}"),
            ("skipped", f"{count(self.skipped, 'item')} without an embedding" if self.skipped else None),
            ("bad rows", bad if self.bad_rows else None),
            ("left out", others if self.left_out else None),
            ("written", f"{self.out}: {count(len(self.files), 'file')}, {size(self.bytes)}"),
        )
        return "\n".join([shown(head), *lines])


@computes
def convert(
    source: AnyPath | Sequence[AnyPath],
    out: AnyPath,
    *,
    to: str | None = None,
    dtype: ElementType | None = None,
    column: str | None = None,
    side: str | None = None,
    bad_rows: str = "keep",
    overwrite: bool = False,
    progress: Progress = SILENT,
    fsync: bool = True,
) -> Conversion:
    """Write the embeddings of `source` in another format, with what belongs to them.

    Every number stays as it is. Items without an embedding, and rows of tables whose embedding is null or has a null, are
    counted and left out. A conversion that fails leaves nothing new behind.

    Parameters
    ----------
    source : path, glob, folder or list of paths
        Shards; of pickles, also the layouts of formats/pickle_layouts.py.
    out : path
        A folder, which gets a file for every shard of the source; for a single shard also a file name.
    to : str, optional
        "npy", "parquet", "arrow" or "lance"; by default what the suffix of `out` says, else "parquet". Other columns, and
        what else pickled items hold, become columns: for "npy" those of a parquet file beside it.
    dtype : str, optional
        Element type: "float32", "float16", "bfloat16" or "float64"; by default that of each shard.
    column : str, optional
        The column or pickle key that holds the embeddings, where that is ambiguous; or of a pickle with several sets of items
        the one to take.
    side : str, optional
        "text" or "image": of a clip-retrieval folder, which side to read; with "npy", also write such a folder.
    bad_rows : {"keep", "skip", "error"}
        Rows with NaN, Inf or only zeros: "keep" writes them as they are, "skip" leaves them out with their columns and lists
        them, "error" names the first.
    overwrite : bool, default False
        Replace files that are there.
    progress : Progress
        Called as rows are read; by default nothing is shown.
    fsync : bool, default True
        Wait until the disk has everything.

    Returns
    -------
    Conversion

    Raises
    ------
    InputError
        For bad input, a value that `dtype` cannot hold, or files that are there; BadRowsError for a bad row, where that is
        an error.
    FastRealignError
        When writing fails.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import fastrealign as fr
    >>> folder = Path(tempfile.mkdtemp())
    >>> np.save(folder / "text.npy", np.ones((10, 4), np.float32))
    >>> fr.convert(folder / "text.npy", folder / "text.arrow").rows
    10
    """
    started = time.perf_counter()
    options = OutputOptions(dtype, overwrite=overwrite, fsync=fsync)
    check_progress(progress)
    check_choice("bad_rows", bad_rows, BAD_ROWS)
    if side is not None and side not in SIDES:
        raise InputError(f"side={side!r}: expected text or image")
    of = None if side is None else SIDES[side]
    files = formats.open_source(
        source, side=of or "source", column=Wanted(column, of, alone=True), pickles=AnyPickleShard
    )
    if side == "image":
        attach_metadata(files.shards)
    check_output(out)
    target = ConvertedFiles(out, to, side, files, options)
    target.check()
    check_outside(out, target.root, named_paths(source), [files])
    copied = _Copied()
    with progress.running("converting", files.rows, sum(shard.nbytes for shard in files.shards)), target:
        for number, shard in enumerate(files.shards):
            _copy_shard(number, shard, target, options.dtype or shard.dtype, bad_rows, copied, progress)
    return Conversion(
        source=files.name,
        out=os.fspath(out),
        to=target.to,
        rows=copied.rows,
        dim=files.dim,
        column=files.column,
        skipped=files.skipped + copied.nulls,
        bad_rows=copied.bad,
        columns=list(copied.columns),
        left_out=copied.left_out,
        files=[path.relative_to(target.root).as_posix() for path in target.written],  # type: ignore[arg-type]  # as in Layout
        bytes=sum(FileFingerprint.of(path).bytes for path in target.written),
        seconds=time.perf_counter() - started,
    )


@dataclass
class _Copied:
    """What was copied so far, and what was left out: rows with nulls, bad rows, and values that are not of rows."""

    rows: int = 0
    nulls: int = 0
    columns: dict[str, None] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def _copy_shard(
    number: int,
    shard: formats.Shard,
    target: ConvertedFiles,
    dtype: np.dtype,
    bad_rows: str,
    copied: _Copied,
    progress: Progress,
) -> None:
    with ExitStack() as stack:
        rest = RowColumns(shard, stack)
        copied.columns |= dict.fromkeys(rest.names)
        copied.left_out += rest.left_out
        writers = target.writers(number, shard, rest, dtype, stack)
        for at, rows, there in _rows(shard, dtype):
            beside = rest.take(len(rows))
            progress.advance(len(rows), rows.size * shard.dtype.itemsize)
            if there is not None:
                copied.nulls += len(rows) - np.count_nonzero(there)
            if bad_rows != "keep":
                there = _good(shard, at, rows, there, copied.bad, strict=bad_rows == "error")
            if there is not None:
                rows = rows[there]
                beside = {name: kept(values, there) for name, values in beside.items()}
            copied.rows += len(rows)
            for writer in writers if len(rows) else ():
                writer.write(rows, beside)
        shard.check_unchanged()
        for writer in writers:
            target.written.append(writer.path)  # before the commit: an interrupt may come right after it
            writer.commit()
    shard.close()


def _good(
    shard: formats.Shard, at: int, rows: np.ndarray, there: np.ndarray | None, bad: list[str], strict: bool
) -> np.ndarray | None:
    """A mask (n,) bool of the rows that are there and have a direction, or None for all; others are listed in `bad`.

    Raises BadRowsError for the first of them where `strict`.
    """
    states = row_states(rows)
    good = states == GOOD
    if good.all():
        return there
    for row in np.flatnonzero(~good if there is None else there & ~good).tolist():
        bad.append(f"{shard.where(at + row)} {REASONS[int(states[row])]}")
        if strict:
            raise BadRowsError(f"{bad[0]}; fix it, or leave such rows out ({option('bad_rows', 'skip')})")
    return good if there is None else there & good


def _rows(shard: formats.Shard, dtype: np.dtype) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """The shard in steps: number of the first row, rows in `dtype`, and, where some are null, a mask (n,) bool of the others.

    Raises InputError for the first row with a number that becomes infinite.
    """
    at = 0
    for rows in shard.chunks(STEP_ROWS):
        nulls = shard.nulls(at, len(rows)) if isinstance(shard, TableShard) else None
        if dtype != shard.dtype:
            with np.errstate(over="ignore"):
                converted = rows.astype(dtype)
            lost = np.flatnonzero((np.isinf(converted) & np.isfinite(rows)).any(axis=1))
            if len(lost):
                raise InputError(
                    f"{shard.where(at + int(lost[0]))} has a number that {dtype} cannot hold; choose a wider dtype"
                )
            rows = converted
        yield at, rows, None if nulls is None else ~nulls[1]
        at += len(rows)
