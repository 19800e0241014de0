"""Moments: mean and trace of unit rows, exact, mergeable in any order, and small enough to send anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core import ops
from fastrealign.core.checks import whole
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.exact_sum import FRACTION_BITS, ExactSum
from fastrealign.core.float_state import computes
from fastrealign.core.row_map import UNIT
from fastrealign.core.rows import as_rows
from fastrealign.data.process_group import ranks_of
from fastrealign.formats.saved_tensors import check_record, check_saved_name, check_tensors, load_tensors, save_tensors
from fastrealign.formats.table_objects import take
from fastrealign.storage.paths import AnyPath
from fastrealign.storage.record_rules import COUNT, or_none

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Moments:
    """Count, mean and trace of the unit rows seen so far (arXiv 2602.07026, the statistics of ReAlign).

    The same rows give the same bits, however they are split into chunks, ordered, spread over threads or workers, and merged:
    `update`, `a + b` and `a += b` are exact integer additions (csrc/exact_sum.h).

    Parameters
    ----------
    dim : int
        Width of the rows.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> chunks = np.random.default_rng(0).standard_normal((2, 100, 8))
    >>> moments = fr.Moments(8).update(chunks[0])
    >>> moments += fr.Moments(8).update(chunks[1])
    >>> moments.count, moments.mean.shape, bool(0.0 < moments.trace <= 1.0)
    (200, (8,), True)
    """

    def __init__(self, dim: int) -> None:
        self.sums = ExactSum(whole("dim", dim, 1))
        self.bad_rows = 0

    @property
    def dim(self) -> int:
        """Width of the rows."""
        return self.sums.d

    @property
    def count(self) -> int:
        """Rows added; rows without a direction (NaN, Inf, zero) are not among them."""
        return self.sums.count

    @property
    def mean(self) -> np.ndarray:
        """float64 (d,): the mean of the unit rows. NaN while there are none."""
        return self.sums.mean

    @property
    def trace(self) -> float:
        """E|e - mean|^2 = tr(covariance) of the unit rows. NaN while there are none."""
        return trace_of_unit_rows(self.mean) if self.count else float("nan")

    def update(self, x: object, *, bad_rows: str = "error", threads: int | None = None) -> Moments:
        """Add rows.

        Parameters
        ----------
        x : array or tensor (n, dim)
            Of any float type, NumPy or torch.
        bad_rows : str, default "error"
            "error" raises BadRowsError, which names the first row without a direction, and adds nothing; "skip" leaves such
            rows out and counts them in `bad_rows`.
        threads : int, optional
            CPU threads; by default one per core.

        Returns
        -------
        Moments
            Itself.

        Raises
        ------
        BadRowsError
            For a row without a direction, where bad_rows is "error".
        InputError
            For rows of another width, and as `Alignment.__call__` does.

        Examples
        --------
        >>> moments = Moments(2).update([[3.0, 4.0], [0.0, 0.0]], bad_rows="skip")
        >>> moments.mean, moments.bad_rows
        (array([0.6, 0.8]), 1)
        """
        if bad_rows not in ("error", "skip"):
            raise InputError(f"bad_rows={bad_rows!r}: expected 'error' or 'skip'")
        taken = take(x)
        rows = as_rows(taken.rows)
        part = ExactSum(self.dim)
        found = ops.reduce(rows, UNIT, part, threads=threads)
        if found.bad and bad_rows == "error":
            raise BadRowsError(
                f"row {found.first_bad} {taken.why(found)}; pass bad_rows='skip' to leave out the {found.bad} such rows"
            )
        self.sums.add(part)
        self.bad_rows += found.bad
        return self

    def all_reduce_(self, group: ProcessGroup | None = None) -> Moments:
        """Replace these moments by those of all ranks together; every rank calls it.

        Exact: the bits are those of one process that had seen all rows, for any number of ranks and any backend.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            By default the default group.

        Returns
        -------
        Moments
            Itself.

        Raises
        ------
        InputError
            Where the ranks' widths differ, or there is no process group.
        """
        ranks = ranks_of("world" if group is None else group)
        widths = ranks.all_gather(self.dim)
        if len(set(widths)) > 1:
            raise InputError(
                f"moments of widths {widths} on the ranks cannot be added: they come from different encoders"
            )
        ranks.all_reduce(self.sums)
        self.bad_rows = sum(ranks.all_gather(self.bad_rows))
        return self

    def __iadd__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        if other.dim != self.dim:
            raise InputError(
                f"moments of width {self.dim} and {other.dim} cannot be added: they come from different encoders"
            )
        self.sums.add(other.sums)
        self.bad_rows += other.bad_rows
        return self

    def __add__(self, other: Moments) -> Moments:
        if not isinstance(other, Moments):
            return NotImplemented
        total = Moments(self.dim)
        total += self
        total += other
        return total

    def __copy__(self) -> Moments:
        return self + Moments(self.dim)  # a copy of the sums

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Moments):
            return NotImplemented
        return self.sums == other.sums and self.bad_rows == other.bad_rows

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Moments(dim={self.dim}, count={self.count}, trace={self.trace:.6g})"

    def save(self, path: AnyPath) -> None:
        """Write to a safetensors file: the integers of the exact sums, so that loading gives the same bits.

        Parameters
        ----------
        path : str or path
            A file name or a URL; replaced in one step.

        Raises
        ------
        InputError
            For a name of another kind of file.
        FastRealignError
            When writing fails.

        Examples
        --------
        >>> moments = Moments(2).update([[3.0, 4.0]])
        >>> moments.save("text.safetensors")
        >>> Moments.load("text.safetensors") == moments
        True
        """
        check_saved_name(path, "moments")
        tensors = {"low": self.sums.low.view(np.int64), "high": self.sums.high}
        record = {"kind": "moments", "count": self.count, "bad_rows": self.bad_rows, "fraction_bits": FRACTION_BITS}
        save_tensors(path, tensors, record)

    @classmethod
    def load(cls, path: AnyPath) -> Moments:
        """Read what `save` wrote.

        Parameters
        ----------
        path : str or path
            A file name or a URL.

        Returns
        -------
        Moments

        Raises
        ------
        InputError
            Names the file if it is missing, damaged or something else.
        """
        tensors, meta = load_tensors(path, "moments", ("low", "high"))
        check_tensors(path, "moments", tensors, {"low": 1, "high": 1}, np.int64)
        check_record(path, "moments", meta, {"count": COUNT, "bad_rows": COUNT, "fraction_bits": or_none(COUNT)})
        moments = cls(len(tensors["low"]))
        try:
            moments.sums = ExactSum.saved(tensors["low"], tensors["high"], meta["count"], meta.get("fraction_bits"))
        except ValueError as error:
            raise InputError(f"{path}: moments of another fastrealign: {error}") from None
        moments.bad_rows = meta["bad_rows"]
        return moments


@computes
def trace_of_unit_rows(mean: np.ndarray) -> float:
    """E|e - mean|^2 = 1 - |mean|^2, exactly so for unit rows. mean: float64 (d,)."""
    return max(0.0, 1.0 - float((mean * mean).sum()))
