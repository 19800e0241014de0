"""The protocol of a format: a Shard reads one file of embeddings, a ShardWriter writes its aligned twin."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import ml_dtypes
import numpy as np

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.text import redacted
from fastrealign.formats.choose_column import Wanted
from fastrealign.storage.atomic import AtomicFile, AtomicFolder
from fastrealign.storage.files import check_state, state_of
from fastrealign.storage.paths import AnyPath, Place, place

if TYPE_CHECKING:
    from typing_extensions import Self

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT_DTYPES = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))


def native_float(dtype: np.dtype, where: str) -> np.dtype:
    """`dtype` in native byte order if it is an accepted element type; else an InputError that starts with `where`."""
    native = dtype.newbyteorder("=")
    if native not in FLOAT_DTYPES:
        raise no_float(dtype, where)
    return native


def no_float(kind: object, where: str, convert: str = ".astype('float32')") -> InputError:
    """The error, starting with `where`, about elements of a `kind` that is not accepted; `convert` is how numbers are."""
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
    return InputError(f"{where}: holds {name} values, expected float16, bfloat16, float32 or float64; {step}")


class Shard(ABC):
    """One file of embeddings: its header is read and checked on construction, no rows are held.

    path      as shown to the user
    name      relative to the root of the source, with forward slashes; the output takes the same one
    rows, dim, dtype   what `chunks` yields: dtype is native float16, bfloat16, float32 or float64. A container
              that has no rows and does not say how wide they would be has dim 0.
    skipped   items of the container that carry no embedding
    parts     how many rows lie in each part that `part` reads alone, where that is known and there are several
    column    the name under which the file holds the embeddings (column, key, tensor), where it has names
    note      what is to be known of how the file is read and its twin written, where that is not as a matter of course
    metadata  the parquet file that describes the same rows (clip-retrieval layout), or None
    metadata_name      where its twin goes, relative to the output's root
    """

    format: ClassVar[str]
    random_access: ClassVar[bool] = False
    opens_whole: ClassVar[bool] = False  # opening has to decode the whole file, so few are opened at once
    folder: ClassVar[bool] = False  # a shard is a folder that holds nothing else, not a file

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

    def __init__(self, path: AnyPath, name: str, column: str | Wanted | None = None) -> None:
        self.path = str(path)
        self.name = name
        self._state = state_of(path)  # before its header is read

    @abstractmethod
    def chunks(self, rows: int) -> Iterator[np.ndarray]:
        """The rows in order as C-contiguous (n <= rows, dim) arrays of `dtype`, each valid until the next step."""

    def part(self, lo: int, hi: int, rows: int) -> Iterator[np.ndarray]:
        """The same of rows lo to hi alone. Only where there are `parts`, of which some begin at lo and end at hi."""
        raise TypeError(f"{self.path}: {self.format} has no parts; use chunks()")

    def read(self, lo: int, hi: int, scratch: np.ndarray) -> np.ndarray:
        """Rows lo to hi as a (hi - lo, dim) view of `scratch`, a uint8 array of at least that many bytes.

        Only where `random_access`; safe to call from several threads, each with a scratch of its own.
        """
        raise TypeError(f"{self.path}: {self.format} is read in order; use chunks()")

    def groups(self) -> list[int]:
        """How many rows each part has that is decoded by itself: where not `random_access`, what a row at random costs."""
        return [self.rows]

    def group(self, at: int) -> np.ndarray:
        """The rows of one of `groups`, (n, dim) of `dtype`, in memory of their own or of a mapped file."""
        return next((rows for rows in self.chunks(self.rows)), np.empty((0, self.dim), self.dtype))

    @abstractmethod
    def writer(self, out_path: Place, dtype: np.dtype, rows: int | None = None, fsync: bool = True) -> ShardWriter:
        """A writer of the same container at `out_path`, elements of `dtype`; ids and other columns come from here.

        rows: how many source rows will pass through, checked on commit; None leaves that to the container.
        """

    def of_rows(self) -> tuple[dict[str, Any], list[str]]:
        """What the file holds beside the embeddings, where that is no table: by name, values with one for each row, and the
        names of what does not belong to rows. For `convert`; a writer of the same format takes it from the file itself.
        """
        return {}, []

    @property
    def nbytes(self) -> int:
        """Size of the embeddings as they are read."""
        return self.rows * self.dim * self.dtype.itemsize

    @property
    def out_dtype(self) -> np.dtype:
        """Element type of the aligned twin where none is asked for."""
        return self.dtype

    def check_unchanged(self) -> None:
        """ChangedError, an InputError, if the file was written to or replaced since it was opened."""
        check_state(self.path, self._state)

    def where(self, row: int) -> str:
        """How to name a row in a message."""
        return f"{redacted(self.path)}: row {row}"

    def close(self) -> None:  # noqa: B027 - most formats keep nothing open between calls
        """Let go of the file. It opens again when needed."""


class ShardWriter(ABC):
    """Writes a shard to a temporary that `commit` puts in place and any failure removes.

    As a context manager it aborts unless `commit` was called.
    """

    container: ClassVar[type[AtomicFile | AtomicFolder]] = AtomicFile
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

        keep: where source rows were dropped, a boolean mask over the source rows of this chunk, true for the n
        that are in `rows`; ids and other columns are dropped with them.
        """
        rows = self._matrix(rows)
        if keep is not None:
            keep = np.asarray(keep, dtype=bool)
            if keep.ndim != 1 or np.count_nonzero(keep) != len(rows):
                raise ValueError(f"{self.path}: keep must be a 1-D mask with {len(rows)} true entries, one a row")
        count = len(rows) if keep is None else len(keep)
        if self._expected is not None and self._seen + count > self._expected:
            raise ValueError(f"{self.path}: {self._seen + count} rows for a shard of {self._expected}")
        try:
            self._append(rows, keep)
        except BaseException:
            self.abort()
            raise
        self._count(count)

    def write_at(self, lo: int, rows: np.ndarray) -> None:
        """Write the (n, dim) array `rows` as rows lo to lo + n; only for random-access formats; thread-safe."""
        raise TypeError(f"{self.path}: this format is written in order; use write()")

    def commit(self) -> None:
        """Finish, flush, rename into place; a second call does nothing.

        Raises FastRealignError, and keeps nothing, when a row of the source is still missing.
        """
        if self._file.committed:
            return
        try:
            if self._expected is not None and self._seen != self._expected:
                raise FastRealignError(
                    f"{self.path}: {self._seen} of {self._expected} rows were written, nothing was kept; run again"
                )
            self._finish()
            self._file.commit()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove the temporary; safe to call at any time, does nothing after `commit`."""
        self._file.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

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
        """Write what is left before the file is put in place."""
