"""Unit rows for the metrics: streamed in blocks, sampled, in pairs; and `Estimate`, a sampled value with its error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from fastrealign.core import checks, ops
from fastrealign.core.bad_rows import GOOD, REASONS, Counts
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.progress import Progress
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.core.rows import as_rows
from fastrealign.core.tensors import on_device
from fastrealign.core.wording import either
from fastrealign.data.row_source import PIECE_BYTES, Piece, RowsLike, RowSource
from fastrealign.data.sources import open_rows

# Rows of a block: enough for products of matrices to be fast (spectrum.py), few enough to take little memory.
BLOCK_ROWS = 1024


# Stores mapped rows in the second array and says which have no direction, as `Method.apply` does.
Apply: TypeAlias = Callable[[np.ndarray, np.ndarray], Counts]


def applying(row_map: RowMap) -> Apply:
    """The kernel of a row map."""
    return lambda rows, out: ops.apply(rows, row_map, out)


to_unit = applying(UNIT)


@dataclass(frozen=True)
class Estimate:
    """A value measured on a sample, with its standard error; `float(estimate)` is the value.

    Attributes
    ----------
    value : float
    error : float
        Standard error of `value` against the same metric over all rows given; 0 where none was left out.
    n : int
        Rows sampled, of each side where there are two; `Mixing.rate` counts both sides together.
    seed : int or None
        Of the sample; None where no row was left out.
    """

    value: float
    error: float
    n: int
    seed: int | None

    def __post_init__(self) -> None:
        if self.seed is not None:
            object.__setattr__(self, "seed", int(self.seed))  # NumPy's integers are no JSON

    def __float__(self) -> float:
        return self.value


def mean_estimate(values: np.ndarray, of: int, seed: int) -> Estimate:
    """The mean of `values` (n,), sampled without replacement from `of` rows, each counting alone."""
    n = len(values)
    spread = values.std(ddof=1) if n > 1 else 0.0
    return Estimate(float(values.mean()), float(spread * left_out(n, of) / np.sqrt(n)), n, seed if n < of else None)


def left_out(n: int, of: int) -> float:
    """sqrt(1 - n/of): the finite-population correction of a standard error, for n of `of` rows without replacement."""
    return float(np.sqrt(1.0 - n / of))


def unit_blocks(
    source: RowSource, *, apply: Apply = to_unit, size: int = BLOCK_ROWS, dtype: type = np.float64
) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of a source in order, mapped (by default only to unit length), in blocks of `size` rows.

    Yields (number of the first row, (size, d) array that is valid until the next step); the last block may be shorter.
    Blocks do not depend on how the source is cut into chunks, so neither do sums over them. Raises BadRowsError naming the
    first row that has no direction.
    """
    block: np.ndarray = np.empty((size, source.d), dtype)
    first = filled = 0
    for piece, lo, rows in chunks(source):
        at = 0
        while at < len(rows):
            take = min(size - filled, len(rows) - at)
            found = apply(rows[at : at + take], block[filled : filled + take])
            if found.bad:
                _refuse(source, piece, lo + at + found.first_bad, found.why)
            at, filled = at + take, filled + take
            if filled == size:
                yield first, block
                first, filled = first + size, 0
    if filled:
        yield first, block[:filled]


def paired_blocks(x: RowSource, y: RowSource) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of float64 unit rows of both sides, row i of one beside row i of the other; of `open_sides` with `what`."""
    for (_, one), (_, other) in zip(unit_blocks(x), unit_blocks(y), strict=True):
        yield one, other


def open_sides(x: RowsLike, y: RowsLike, pairs_for: str | None = None) -> tuple[RowSource, RowSource]:
    """Both sides as sources of one width; with `pairs_for` (the name of a metric of pairs), of equally many rows.

    Raises InputError where widths or, for pairs, counts differ.
    """
    target, source = open_rows(x, "target"), open_rows(y, "source")
    if target.d != source.d:
        raise InputError(
            f"{source.name}: rows are {source.d} wide, those of {target.name} {target.d}; both must come from one encoder pair"
        )
    if pairs_for is not None and count_rows(target) != count_rows(source):
        raise InputError(
            f"{pairs_for} needs pairs, row i of one side belonging to row i of the other: {target.name} has {target.rows} "
            f"rows, {source.name} {source.rows}"
        )
    return target, source


def count_rows(source: RowSource) -> int:
    """How many rows a source has; one that does not know is read through once."""
    if source.rows is None:
        for _ in chunks(source):
            pass
    assert source.rows is not None
    return source.rows


def draw(of: int, rows: int | None, seed: int) -> np.ndarray:
    """Numbers of `rows` of `of` rows (all for None), drawn without replacement, ascending: int64. Raises InputError below 2."""
    rows, seed = of if rows is None else checks.whole("rows", rows, 2), checks.seed(seed)
    if of < 2:
        raise InputError(f"a sample of {of} rows: expected at least 2")
    if rows >= of:
        return np.arange(of)
    return np.sort(np.random.default_rng(seed).choice(of, rows, replace=False, shuffle=False))


def pick(source: RowSource, numbers: np.ndarray, apply: Apply = to_unit) -> Iterator[tuple[slice, np.ndarray]]:
    """The mapped rows with these ascending numbers, float64, a part at a time: (which of `numbers`, (n, d) array)."""
    for piece, lo, rows in chunks(source):
        first = piece.first - piece.lo + lo
        here = slice(*np.searchsorted(numbers, [first, first + len(rows)]))
        if here.stop > here.start:
            taken = rows[numbers[here] - first]
            out = np.empty(taken.shape)
            found = apply(taken, out)
            if found.bad:
                _refuse(source, piece, lo + int(numbers[here][found.first_bad]) - first, found.why)
            yield here, out


def picked(source: RowSource, numbers: np.ndarray, apply: Apply = to_unit) -> np.ndarray:
    """All rows that `pick` yields: (n, d)."""
    out = np.empty((len(numbers), source.d))
    for here, taken in pick(source, numbers, apply):
        out[here] = taken
    return out


def sample(source: RowSource, rows: int | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(numbers, (n, d) float64 unit rows) of a sample without replacement."""
    numbers = draw(count_rows(source), rows, seed)
    return numbers, picked(source, numbers)


def chunks(source: RowSource) -> Iterator[tuple[Piece, int, np.ndarray]]:
    """The rows of a source in order, as they are: (piece, first row within its shard, (n, d) array valid until the next)."""
    scratch = np.empty(PIECE_BYTES + source.d * 8 if source.side_by_side else 0, np.uint8)
    for piece in source.pieces():
        for lo, rows in source.chunks(piece, scratch):
            yield piece, lo, as_rows(cast(Any, rows).cpu() if on_device(rows) else rows)


def good_rows(source: RowSource, progress: Progress) -> tuple[np.ndarray, str | None]:
    """Numbers of the rows with a direction, ascending: int64; and which row is the first of the others and why, or None."""
    numbers, first_bad = [np.empty(0, np.int64)], None
    for piece, lo, rows in chunks(source):
        states = ops.row_states(rows)
        good = states == GOOD
        numbers.append(piece.first - piece.lo + lo + np.flatnonzero(good))
        if first_bad is None and not good.all():
            at = int(np.argmin(good))
            first_bad = f"{source.where(piece.shard, lo + at)} {REASONS[int(states[at])]}"
        progress.advance(len(rows), rows.nbytes)
    return np.concatenate(numbers), first_bad


@contextmanager
def measuring() -> Iterator[None]:
    """What a pass says of a row without a direction, as metrics say it: they have no option to skip rows."""
    try:
        yield
    except BadRowsError as error:
        if not error.row:
            raise
        raise _refused(error.row) from None


def _refuse(source: RowSource, piece: Piece, row: int, why: str) -> None:
    raise _refused(f"{source.where(piece.shard, row)} {why}")


def _refused(row: str) -> BadRowsError:
    how = either(
        "with `fastrealign convert --bad-rows skip`", "with rows[np.isfinite(rows).all(axis=1) & rows.any(axis=1)]"
    )
    error = BadRowsError(f"{row}; leave such rows out before measuring, of pairs on both sides, {how}")
    error.row = row
    return error
