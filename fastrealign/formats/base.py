"""The interface of a format: a Shard reads one file of embeddings, a ShardWriter writes its output shard."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from fastrealign.core.dtypes import CODES, EXPECTED
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.text import redacted
from fastrealign.formats.choose_column import Wanted
from fastrealign.storage.atomic import AtomicFile, AtomicFolder
from fastrealign.storage.files import check_state, state_of
from fastrealign.storage.paths import AnyPath, Place, place


def native_float(dtype: np.dtype, where: str) -> np.dtype:
    """`dtype` in native byte order if it is an accepted element type; else an InputError that starts with `where`."""
    native = dtype.newbyteorder("=")
    if native not in CODES:
        raise no_float(dtype, where)
    return native


def no_float(kind: object, where: str, convert: str = ".astype('float32')") -> InputError:
    """The error about elements of a `kind` that is not accepted. `convert` is the code that turns numbers into floats."""
    name = str(kind)
    if isinstance(kind, np.dtype) and kind.names is not None:
        fields = [field for field in kind.names if kind[field].base.kind == "f"] or kind.names
        step = f"save the field with the embeddings alone, for example numpy.load(FILE)[{fields[0]!r}]"
    elif isinstance(kind, np.dtype) and kind.hasobject:
        step = "save a matrix of numbers: numpy.stack(ROWS).astype('float32'), ROWS being the list of the embeddings"
    elif name.lower().startswith("c"):
        step = "embeddings are real: save the real part, .real, if there is no other"
    elif isinstance(kind, np.dtype) and kind.kind not in "biuf":
        step = "these are no embeddings; give those that they belong to"
    else:
        step = f"convert it first, for example with {convert}"
    return InputError(f"{where}: holds {name} values, {EXPECTED}; {step}")


class Shard(ABC):
    """One file of embeddings: its header is read and checked on construction, no rows are held.

    path      as shown to the user
    name      relative to the root of the source, with forward slashes; the output shard has the same one
    rows, dim, dtype   of what `chunks` yields: dtype is native float16, bfloat16, float32 or float64. dim is 0 in a file
              without rows that does not record their width.
    skipped   number of items without an embedding
    parts     number of rows of each part that `part` can read alone, where there are several
    column    the name under which the file holds the embeddings (column, key, tensor), where it has names
    note      remark for the user on how the file is read or its output shard written
    metadata  the parquet file that describes the same rows (clip-retrieval layout), or None
    metadata_name      of its copy, relative to the root of the output
    """

    format: ClassVar[str]
    random_access: ClassVar[bool] = False
    opens_whole: ClassVar[bool] = False  # opening decodes the whole file: one after another
    folder: ClassVar[bool] = False  # a shard is a folder, not a file

    path: str
    name: str
    rows: int
    dim: int
    dtype: np.dtype
    column: str | None = None
    skipped: int = 0
    parts: Sequence[int] = ()
    note: str | None = None
    metadata: Place | None = None
    metadata_name: str | None = None
    metadata_state: tuple[int, ...] | None = None
    _out_dim: int | None = None

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        self.path = str(path)
        self.name = name
        self._state = state_of(path)  # before its header is read

    @abstractmethod
    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        """All rows in order as C-contiguous arrays (n <= rows, dim) of `dtype`, each valid until the next one."""

    def part(self, lo: int, hi: int, rows: int) -> Iterator[np.ndarray]:
        """As `chunks`, of rows lo to hi, which are borders of `parts`."""
        raise TypeError(f"{self.path}: {self.format} has no parts; use chunks()")

    def read(self, lo: int, hi: int, scratch: np.ndarray) -> np.ndarray:
        """Rows lo to hi as a (hi - lo, dim) view of `scratch`, a uint8 array with room for them.

        Only where `random_access`; thread-safe if each thread has its own scratch.
        """
        raise TypeError(f"{self.path}: {self.format} is read in order; use chunks()")

    def groups(self) -> list[int]:
        """Number of rows of each part that is decoded separately: the cost of one row where there is no `random_access`."""
        return [self.rows]

    def group(self, at: int) -> np.ndarray:
        """The rows of one of `groups`, (n, dim) of `dtype`, in memory that stays valid."""
        return next((rows for rows in self.chunks(self.rows)), np.empty((0, self.dim), self.dtype))

    @abstractmethod
    def writer(self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> ShardWriter:
        """A writer of the same container at `out_path`, elements of `dtype`; ids and other columns are copied from here.

        rows   number of source rows that will be written or dropped, checked on commit; None: the container knows
        """

    def of_rows(self) -> tuple[dict[str, Any], list[str]]:
        """What a file that is not a table holds besides the embeddings: values with one entry per row, by name, and the names
        of everything else. For `convert`; a writer of the same format copies it from the file.
        """
        return {}, []

    @property
    def nbytes(self) -> int:
        """Size of the embeddings in bytes."""
        return self.rows * self.dim * self.dtype.itemsize

    @property
    def out_dim(self) -> int:
        """Width of the rows of the output shard: `dim`, unless a job sets another."""
        return self._out_dim or self.dim

    @out_dim.setter
    def out_dim(self, width: int) -> None:
        self._out_dim = width

    @property
    def out_dtype(self) -> np.dtype:
        """Element type of the output shard where none is given."""
        return self.dtype

    def check_unchanged(self) -> None:
        """ChangedError, an InputError, if the file was written to or replaced since it was opened."""
        check_state(self.path, self._state)

    def where(self, row: int) -> str:
        """The name of a row in messages."""
        return f"{redacted(self.path)}: row {row}"

    def close(self) -> None:  # noqa: B027 - most formats keep nothing open between calls
        """Close the file. It is opened again when needed."""


class ShardWriter(ABC):
    """Writes a shard to a temporary, which `commit` renames and any failure removes.

    As a context manager it aborts unless `commit` was called.
    """

    container: type[AtomicFile | AtomicFolder] = AtomicFile
    _file: AtomicFile | AtomicFolder

    def __init__(self, path: AnyPath, dtype: np.dtype, dim: int, rows: int | None, fsync: bool) -> None:
        self.path = place(path)
        self.dtype = native_float(np.dtype(dtype), str(path))
        self.dim = dim
        self._expected = rows
        self._seen = 0
        self._lock = threading.Lock()
        self._file = self.container(path, fsync)

    def write(self, rows: np.ndarray, keep: np.ndarray | None = None) -> None:
        """Append the (n, dim) array `rows`; one thread at a time.

        keep   where source rows were dropped, a boolean mask over the source rows of this chunk, true for the n in `rows`;
               ids and other columns are dropped with them
        """
        rows = self._matrix(rows)
        if keep is not None:
            keep = np.asarray(keep, dtype=bool)
            if keep.ndim != 1 or np.count_nonzero(keep) != len(rows):
                raise ValueError(f"{self.path}: keep must be a 1-D mask with {len(rows)} true entries, one a row")
        count = len(rows) if keep is None else len(keep)
        if self._expected is not None and self._seen + count > self._expected:
            raise ValueError(f"{self.path}: {self._seen + count} rows for a shard of {self._expected}")
        with self._whole():
            self._append(rows, keep)
        self._count(count)

    def write_at(self, lo: int, rows: np.ndarray) -> None:
        """Write the (n, dim) array `rows` as rows lo to lo + n; only for random-access formats. Thread-safe."""
        raise TypeError(f"{self.path}: this format is written in order; use write()")

    def reserve(self) -> None:  # noqa: B027 (most formats do not know their size)
        """Set aside the space of the expected rows, all of which will be written: a full disk is an error now."""

    def commit(self) -> None:
        """Finish, flush, rename into place; a second call does nothing.

        Raises FastRealignError, and keeps nothing, where a row of the source is missing.
        """
        if self._file.committed:
            return
        with self._whole():
            if self._expected is not None and self._seen != self._expected:
                raise FastRealignError(
                    f"{self.path}: {self._seen} of {self._expected} rows were written, nothing was kept; run again"
                )
            self._finish()
            self._file.commit()

    def abort(self) -> None:
        """Remove the temporary; safe to call at any time, no effect after `commit`."""
        self._file.abort()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Aborts if the block fails."""
        try:
            yield
        except BaseException:
            self.abort()
            raise

    def _matrix(self, rows: np.ndarray) -> np.ndarray:
        if rows.ndim != 2 or (rows.shape[1] != self.dim and len(rows)):
            raise ValueError(f"{self.path}: expected rows of shape (n, {self.dim}), got {rows.shape}")
        return np.ascontiguousarray(rows, dtype=self.dtype)

    def _count(self, rows: int) -> None:
        with self._lock:
            self._seen += rows

    @abstractmethod
    def _append(self, rows: np.ndarray, keep: np.ndarray | None) -> None:
        """Write contiguous rows of the right dtype and width."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what is left before the file is renamed."""
