"""What a store of vectors offers to `index` and to a searcher, and what all stores share.

A store holds rows with a vector each, and gets an aligned vector beside it, the target. Where rows have a role each, the role
that a row was mapped with is stored beside its target. A row is not done yet if its target is empty, the role beside it is not
the one that the row has now, or its target is not what its vector is mapped to now, since the vector was changed. There is no
other mark of progress, and vector and role are written together, so that a run that was killed resumes where it was. The
fingerprint of the roles that the target is made with is stored with the target.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, shortage, warn
from fastrealign.core.formatting import count
from fastrealign.core.text import meant, one_line, without_secrets
from fastrealign.core.wording import option

# A batch of rows takes about this much memory.
BATCH_BYTES = 32 << 20
# Rows whose length differs from 1 by more are not unit rows; float16 rows of unit length are within it.
_UNIT = 1e-2
# Places in the sources of a library in Rust.
_PLACES = re.compile(r"^(External error: )?LanceError\(IO\): |,? /\S+\.rs:\d+(:\d+)?")
_DISK = [
    (
        re.compile("No space left|File too large|Disk quota exceeded|database or disk is full"),
        "no space left on the disk; free some, and run the same command again",
    ),
    (
        re.compile("Read-only file system|readonly database"),
        "must not be written to; give yourself the right to write, or work on a copy",
    ),
    (
        re.compile("Permission denied"),
        "access is denied; give yourself the right to read and write it, or work on a copy",
    ),
]
# Ctrl-C and SIGTERM as a library in Rust passes them on: the message of an error of its own.
_INTERRUPTED = re.compile(r"\b(KeyboardInterrupt|Terminated)\b")


@dataclass(frozen=True)
class StoreOptions:
    """Which part of a store is read and written.

    table      the table or collection, where the store holds several
    column     the column or named vector that is read
    to         that of the aligned vectors; of FAISS, the file of the new index
    id_column  the column that identifies a row
    """

    table: str | None = None
    column: str | None = None
    to: str | None = None
    id_column: str | None = None


class Batch(NamedTuple):
    """Rows (n, dim) as they are stored; how messages name each; their values in the role column, if there is one."""

    rows: np.ndarray
    ids: Sequence[Any] | np.ndarray
    roles: Sequence[Any] | np.ndarray | None


class Aligned(NamedTuple):
    """Mapped rows (n, dim of the target), and which of them (bool (n,)) have a direction and are to be written."""

    rows: np.ndarray
    good: np.ndarray


class Align(Protocol):
    """The maps of the roles, as a store uses them."""

    def __call__(self, batch: Batch) -> Aligned:
        """Map rows that are to be written."""

    bare: int  # rows that have an aligned vector, and none to read: it was emptied since

    def changed(self, batch: Batch, stored: np.ndarray) -> np.ndarray:
        """Which rows (bool (n,)) are mapped to something else than what is stored (n, dim of the target), or to nothing."""


class Found(NamedTuple):
    """The k best rows of each query, best first: ids (queries, k), cosine similarities, and values of the role column."""

    ids: np.ndarray
    scores: np.ndarray
    roles: np.ndarray | None


class Store(Protocol):
    """A store of vectors, opened.

    Attributes: `where` names it in messages, `column` what is read, `target` what is written, `dim` is the width of the
    vectors read, `metric` is "cosine", "dot" or "l2".
    """

    where: str
    column: str
    target: str
    dim: int

    @property
    def metric(self) -> str: ...

    def record(self) -> dict[str, Any] | None:
        """What `begin` stored with the target; None where there is no target."""

    def has_source(self) -> bool:
        """Whether the vectors that are read are there: `drop_old` removes them. InputError where `index` made them."""

    def role_values(self, column: str) -> Counter[Any]:
        """The values of the role column, and how many rows have each."""

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        """Make an empty target for rows of width `dim`, with this record, in one step; where the record has a role_column,
        a place for the role beside each, too."""

    def restart(self, record: Mapping[str, Any]) -> None:
        """Remove the target, the roles beside it and its record; InputError first where `begin` could not make them with this
        record."""

    def pending(self) -> tuple[int, int]:
        """How many rows have no aligned vector, or one of another role than they have now, and how many have theirs: `fill`
        finds those of them whose vector was changed since.

        Where an earlier version stored no roles, none is done while the vectors that were read are there.
        """

    def fill(self, align: Align, role_column: str | None) -> None:
        """Map in batches, and write, the pending rows and those whose vector was changed since; what is written stays,
        whatever happens next."""

    def keeps_earlier(self) -> bool:
        """Whether aligned vectors of an earlier run, which `fill` replaces at its end, are still there."""

    def drop_old(self) -> str:
        """Remove the vectors that were read, and name what was removed; "" for nothing."""

    def sample(self, n: int) -> np.ndarray:
        """Up to n rows of the target."""

    def search(self, queries: np.ndarray, k: int, role_column: str | None) -> Found:
        """The nearest rows of the target to each query (n, dim of the target)."""

    def close(self) -> None:
        """Let go of files and connections."""


def chosen(where: str, kind: str, given: str | None, names: Sequence[str], keyword: str) -> str:
    """The name that the user gave, or the only one there is; InputError with the nearest name otherwise."""
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    if given is not None:
        if given in names:
            return given
        there = f"the {kind}s are {listed}" if names else f"it has no {kind}s"
        raise InputError(f"{where}: there is no {kind} {given!r}{meant(given, names, there)}")
    if len(names) == 1:
        return names[0]
    if not names:
        raise InputError(f"{where}: there is no {kind}; name a store that holds vectors")
    raise InputError(f"{where}: there are {len(names)} {kind}s ({listed}); choose one with {option(keyword)}")


def source_and_target(
    where: str, kind: str, options: StoreOptions, vectors: Sequence[str], records: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str]:
    """The vectors to read, which may have been dropped since, and the aligned ones; `records` of these by their names."""
    column, target = options.column, options.to
    if column is None and target is not None and target in records:
        return records[target]["column"], target
    if column is not None and column in records:
        if target is None:
            return records[column]["column"], column
        raise InputError(
            f"{where}: {column} holds what `fastrealign index` aligned; name the {kind} that it was made from"
        )
    readable = [name for name in vectors if name not in records]
    lost = sorted({record["column"] for record in records.values()} - {*readable})
    if target is not None and (column == target or (column is None and readable == [target] and not lost)):
        raise InputError(f"{where}: {option('to')} names the {kind} that is read, {target}; name another")
    names = [name for name in readable if name != target]
    column = chosen(where, kind, column, (names or lost) if column is None else [*names, *lost], "column")
    if column in lost and target is None:  # what was made from it can still be searched
        made = [name for name, record in records.items() if record["column"] == column and name in vectors]
        target = chosen(where, f"aligned {kind}", None, made, "to") if made else None
    return column, target or beside(column)


def check_type(
    where: str, options: StoreOptions, vectors: Collection[str], others: Mapping[str, str], expected: str
) -> None:
    """InputError where the column that is asked for, or the only one of numbers, is of a type that is not read.

    others    the columns of numbers, or all, that are no vectors, with the type of each
    expected  the types that are read, and what to do
    """
    name = options.column if options.column is not None else next(iter(others), None) if not vectors else None
    if name in others and name is not None:
        raise InputError(f"{where}: {name} holds {others[name]}, expected {expected}")


def batch_rows(dim: int) -> int:
    """Rows of a batch."""
    return max(1, min(1 << 16, BATCH_BYTES // (4 * dim)))


def written_dtype(read: np.dtype) -> np.dtype:
    """The element type of aligned vectors: that of the vectors read, if that is float16, and float32 otherwise."""
    return read if read == np.float16 else np.dtype(np.float32)


def beside(column: str) -> str:
    """The name of the aligned vector beside a column."""
    return f"{column}_aligned" if column else "aligned"


def role_beside(target: str) -> str:
    """The name of the column that holds the role each aligned vector was made with."""
    return f"{target}_role"


def taken(where: str, kind: str, name: str) -> InputError:
    """For a name that `index` would write to and did not make."""
    return InputError(f"{where}: there is a {kind} {name} already; name another with {option('to')}")


def warn_no_roles(where: str, rows: int) -> None:
    """For a target that an earlier version made."""
    warn(
        f"{where}: an earlier version aligned this without storing the role of each row; {count(rows, 'row', 'are')} mapped "
        "once more"
    )


def check_unit(store: Store) -> None:
    """InputError where the metric of a store does not compare directions: L2 on rows that are not of unit length."""
    if store.metric == "cosine":
        return
    lengths = np.linalg.norm(store.sample(1000).astype(np.float64), axis=1)
    odd = lengths[~(np.abs(lengths - 1.0) <= _UNIT)]
    if not len(odd):
        return
    name = {"l2": "L2", "dot": "the inner product"}[store.metric]
    raise InputError(
        f"{store.where}: the metric is {name} and rows of {store.target} are not of unit length (one is {odd[0]:.3g}), so "
        "scores depend on lengths; index it with `fastrealign index`, whose rows are of unit length"
    )


def cosines(distances: np.ndarray, metric: str) -> np.ndarray:
    """Cosine similarities (float32) of distances or products of unit rows."""
    if metric == "l2":  # squared
        return (1.0 - distances / 2.0).astype(np.float32)
    return distances.astype(np.float32)


def as_objects(values: Sequence[Sequence[Any]], k: int) -> np.ndarray:
    """Values of found rows as an array (queries, k) of objects, None where fewer were found."""
    table = np.full((len(values), k), None, dtype=object)
    for at, row in enumerate(values):
        table[at, : len(row)] = row
    return table


def as_scores(values: Sequence[Sequence[float]], k: int) -> np.ndarray:
    """Scores of found rows (queries, k), -inf where fewer were found."""
    table = np.full((len(values), k), -np.inf, dtype=np.float32)
    for at, row in enumerate(values):
        table[at, : len(row)] = row
    return table


def disk_trouble(error: BaseException) -> str | None:
    """What to report where a disk is full, or may not be read or written; None for all other errors."""
    text = str(error)
    return next((said for pattern, said in _DISK if pattern.search(text)), None)


@contextmanager
def failing(where: str, advice: str) -> Iterator[None]:
    """Turns the error of a library into one line that names the store."""
    try:
        yield
    except FastRealignError:
        raise
    except Exception as error:
        if _INTERRUPTED.search(str(error)):
            raise KeyboardInterrupt from None
        short = disk_trouble(error) or shortage(error)
        said = one_line(RuntimeError(_PLACES.sub("", str(error)))) if str(error) else type(error).__name__
        raise FastRealignError(f"{where}: {short or f'{said}; {advice}'}") from without_secrets(error)
