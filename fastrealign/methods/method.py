"""What every fitted method can do: an Alignment (ReAlign), a Baseline, which it is compared with, a PairedMap."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from fastrealign.core.bad_rows import Counts
from fastrealign.core.dtypes import ElementType
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import RowMap
from fastrealign.storage.paths import AnyPath


class Call(NamedTuple):
    """The options of one call of `Method.apply`.

    Attributes
    ----------
    into : ExactSum or None
        Is added what was stored.
    flags : uint8 array (n,) or None
        Gets the state of each row (core/bad_rows.py).
    first : int or array (n,)
        Number of the first row, or of each: noise depends on it.
    threads, backend : int, str or None
        As for `Alignment.__call__`.
    """

    into: ExactSum | None = None
    flags: np.ndarray | None = None
    first: int | np.ndarray = 0
    threads: int | None = None
    backend: str | None = None


CALL = Call()


class Method(Protocol):
    """A fitted map of rows, as a value: it can be called, saved, and loaded with `fastrealign.load`."""

    @property
    def name(self) -> str:
        """One of METHODS (fit_options.py)."""

    @property
    def dim(self) -> int:
        """Width of the rows it maps."""

    @property
    def dim_out(self) -> int:
        """Width of the rows it gives: `dim`, but for a map from pairs of two encoders."""

    @property
    def s(self) -> float:
        """The scale."""

    @property
    def mean_target(self) -> np.ndarray:
        """float64 (dim_out,): the mean of the target's unit rows."""

    @property
    def gap_before(self) -> float:
        """|mean of the source - mean of the target| that it was fitted on."""

    @property
    def gap_left(self) -> float:
        """|mean of the mapped source - mean of the target|; NaN if it was not measured."""

    @property
    def encoder_source(self) -> str | None:
        """The encoder of the rows it maps, if that was given and the method keeps it."""

    @property
    def encoder_target(self) -> str | None:
        """The encoder of the rows that it moves them to."""

    @property
    def row_map(self) -> RowMap | None:
        """The method as a single row map for the kernels; None if it takes several steps."""

    @property
    def numbered(self) -> bool:
        """Whether the result for a row depends on its number (noise)."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the output."""

    def __call__(
        self,
        x: object,
        *,
        dtype: ElementType | None = None,
        out: Rows | None = None,
        bad_rows: str = "error",
        threads: int | None = None,
        backend: str | None = None,
        first: int | np.ndarray = 0,
        noise: float = 0.0,
        seed: int = 0,
    ) -> Any:
        """Map rows (n, dim), or one vector (dim,), to the caller's kind of array; `first`: number of the first row."""

    def apply(self, rows: Rows, out: Rows, call: Call = CALL) -> Counts:
        """Store f(rows) in `out` and add up what was stored in `call.into`, as `ops.apply` does for a row map."""

    def check_width(self, d: int, name: str = "") -> None:
        """InputError, which begins with `name`, if rows of another width than `dim` are to be mapped."""

    def save(self, path: AnyPath, fsync: bool = True) -> None:
        """Write to a safetensors file, a path or a URL; wait until the disk has it unless `fsync` is false."""
