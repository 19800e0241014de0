"""Columns of Arrow tables: which one may hold the embeddings, its lists as a matrix, and a matrix as lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError, changed
from fastrealign.core.libraries import pa, pc
from fastrealign.core.text import one_line
from fastrealign.formats.arrow_schema import (
    element_type,
    is_float_list,
    is_list,
    noted_shape,
    of_floats,
    plain_field,
    stored,
    width,
)
from fastrealign.formats.choose_column import Candidate, Fit, Unclear, Wanted, choose_name, instead
from fastrealign.formats.unsupported import embed


def filtered(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """The rows where the mask is true, also of types that Arrow has no filter for."""
    try:
        return table.filter(pa.array(mask))
    except pa.ArrowNotImplementedError:
        ends = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
        return pa.concat_tables([table.slice(0, 0), *(table.slice(lo, hi - lo) for lo, hi in ends.tolist())])


def choose(
    schema: pa.Schema,
    column: str | Wanted | None,
    path: str,
    is_blank: Callable[[str], bool],
    first: Callable[[str], object],
) -> str:
    """The name of the embedding column.

    is_blank   whether a column has only nulls, and so may be of any type
    first      the first value of a column that is not null
    """
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: has more than one column named {twice[0]!r}; rename one of them")
    candidates, asked = candidates_of(schema), Wanted.of(column)
    try:
        column = choose_name(path, candidates, asked, "column", "lists of floats")
    except Unclear as error:
        if all(not is_list(field.type) for field in schema) and any(map(_is_text, schema.types)):
            raise InputError(f"{error}; it holds text: {embed(path)}") from None
        raise
    field = schema.field(column)
    if fit(field) < Fit.PERHAPS and not is_blank(column):
        raise (Unclear if asked.column is None else InputError)(
            f"{path}: column {column!r} holds {one_line(field.type)}, expected lists of float16, float32 or float64, one "
            f"embedding a row{instead(candidates, column, asked) or _as_lists(field.type, column, path, first)}"
        )
    return column


def _as_lists(kind: pa.DataType, column: str, path: str, first: Callable[[str], object]) -> str:
    """What makes lists of floats of encoded embeddings, in a DataFrame."""
    if _is_text(kind) and _is_json_list(first(column)):
        held, module, decode = "lists written as text", "json", "json.loads"
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        held, module, decode = "float32 as bytes", "numpy", "lambda row: numpy.frombuffer(row, 'float32')"
    elif is_list(kind) and pa.types.is_integer(kind.value_type):
        held, module, decode = "embeddings in whole numbers", "numpy", "lambda row: numpy.asarray(row, 'float32')"
    else:
        return ""
    of = f"frame[{column!r}]"
    steps = f"{of} = {of}.map({decode}, na_action='ignore')"
    if not path.endswith(".parquet"):
        return f"; if it holds {held}, convert it in a pandas.DataFrame and save it again: import {module}; {steps}"
    return (
        f"; if it holds {held}, convert it with pandas and save it again: import {module}, pandas; "
        f"frame = pandas.read_parquet({path!r}); {steps}; frame.to_parquet({path!r})"
    )


def _is_json_list(value: object) -> bool:
    try:
        return isinstance(json.loads(value), list) if isinstance(value, str) else False
    except ValueError:
        return False


def candidates_of(schema: pa.Schema) -> list[Candidate]:
    """The columns, and whether they may hold the embeddings."""
    return [Candidate(field.name, one_line(field.type), fit(field)) for field in schema]


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def fit(field: pa.Field) -> Fit:
    """Whether a column could hold embeddings: lists of floats can, and lists of one such list."""
    field = plain_field(field)
    kind, types = field.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return min(max(fit(pa.field("", kind.storage_type)), Fit.CODED), Fit.SHAPED)
    if of_floats(kind):
        noted = noted_shape(field)
        if noted is not None:
            return Fit.TAKEN if noted and set(noted[:-1]) <= {1} else Fit.SHAPED
        vectors = 1 if is_float_list(kind) else getattr(kind, "list_size", None)
        return Fit.PERHAPS if vectors is None else Fit.TAKEN if vectors == 1 else Fit.SHAPED
    if types.is_dictionary(kind) or getattr(types, "is_run_end_encoded", types.is_dictionary)(kind):
        return min(fit(pa.field("", kind.value_type)), Fit.SHAPED)
    if types.is_struct(kind) or types.is_union(kind):  # {"data": [...], "shape": [...]}
        parts = [fit(kind.field(i)) for i in range(kind.num_fields)]
        return Fit.SHAPED if max(parts, default=Fit.NO) >= Fit.SHAPED else Fit.CODED
    if is_list(kind):
        inner = kind.value_type
        if types.is_floating(inner) or types.is_decimal(inner) or isinstance(inner, pa.BaseExtensionType):
            return Fit.SHAPED
        return Fit.SHAPED if types.is_nested(inner) and fit(kind.value_field) >= Fit.SHAPED else Fit.CODED
    numbers = (types.is_primitive(kind) or types.is_decimal(kind)) and not types.is_null(kind)
    return Fit.NO if numbers else Fit.CODED


def is_missing(column: pa.Array) -> np.ndarray:
    """bool (n,): which rows of a stored column are null, or have only nulls."""
    kind = column.type
    missing = pc.is_null(column, nan_is_null=pa.types.is_floating(kind)).to_numpy(zero_copy_only=False).copy()
    if is_list(kind) and not missing.all():
        there = column.filter(pa.array(~missing))
        lengths = pc.list_value_length(there).to_numpy(zero_copy_only=False).astype(np.int64)
        values = there.flatten()
        within = _nulls(values) if pa.types.is_floating(values.type) else is_missing(values)
        ends, sums = np.cumsum(lengths), np.concatenate([[0], np.cumsum(within)])
        nothing = lengths > 0 if not pa.types.is_null(values.type) else lengths >= 0
        missing[~missing] = (sums[ends] - sums[ends - lengths] == lengths) & nothing
    return missing


def matrix(column: pa.Array, dim: int | None, first_row: int, path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The lists of a batch as (n, dim), a view of their values where none is null, and which rows have nulls: (n,) or None.

    Nulls become NaN, so that these rows are bad rows. dim None: the width of the first row without nulls, 0 if there is none.
    Raises InputError for a row of another length.
    """
    column = stored(column)
    count, kind = len(column), column.type
    if not of_floats(kind):
        if not is_missing(column).all():
            raise changed(path)
        return np.full((count, dim or 0), np.nan, np.float32), np.ones(count, bool)
    bad = is_missing(column) if _has_nulls(column) else None
    rows = np.arange(count) if bad is None else np.flatnonzero(~bad)
    if bad is not None and len(rows) < count:
        column = column.filter(pa.array(~bad))
    if not is_float_list(kind):
        _check_lengths(pc.list_value_length(column), 1, first_row, rows, path, "lists, expected one embedding a row")
        column = column.flatten()
    lengths = pc.list_value_length(column)
    dim = width(kind) or dim or (lengths[0].as_py() if len(rows) else 0)
    _check_lengths(lengths, dim, first_row, rows, path, f"values, others have {dim}: all must be of one width")
    values = column.flatten()
    block = values.to_numpy(zero_copy_only=not values.null_count).reshape(len(rows), dim)
    if bad is None:
        return block, None
    bad[rows] = _nulls(values).reshape(block.shape).any(axis=1)
    if len(rows) < count:
        whole = np.full((count, dim), np.nan, element_type(kind))
        whole[rows] = block
        block = whole
    return block, bad


def _check_lengths(lengths: pa.Array, expected: int, first_row: int, rows: np.ndarray, path: str, what: str) -> None:
    lengths = lengths.to_numpy(zero_copy_only=False)
    other = np.flatnonzero(lengths != expected)
    if len(other):
        raise InputError(f"{path}: row {first_row + int(rows[other[0]])} has {lengths[other[0]]} {what}")


def _has_nulls(column: pa.Array) -> bool:
    return column.null_count > 0 or (is_list(column.type) and _has_nulls(column.flatten()))


def _nulls(values: pa.Array) -> np.ndarray:
    return values.is_null().to_numpy(zero_copy_only=False)


def lists(rows: np.ndarray, kind: pa.DataType, came: tuple[pa.Array, np.ndarray] | None = None) -> pa.Array:
    """The rows of a matrix as an Arrow array of lists, copied.

    came: a stored column of as many rows, and which of its rows (bool) are copied unchanged, with their nulls
    """
    array = _lists(pa.array(np.array(rows).reshape(-1)), len(rows), rows.shape[1], kind)
    if came is None:
        return array
    column, as_it_came = came
    kept = column.filter(pa.array(as_it_came))
    if kept.type != kind:
        rows_kept = kept.to_pylist()
        kept = pa.array(_halves(rows_kept) if element_type(kind) == np.float16 else rows_kept, kind)
    places = np.arange(len(rows))
    places[as_it_came] = len(rows) + np.arange(len(kept))
    return pa.concat_arrays([array, kept]).take(pa.array(places))


def _halves(value: Any) -> Any:
    """Nested lists with np.float16 in place of float: before 21, pyarrow makes half floats of these alone."""
    if isinstance(value, list):
        return [_halves(one) for one in value]
    return value if value is None else np.float16(value)


def size_of(table: pa.Table | pa.RecordBatch) -> int:
    """Bytes that the rows take; where pyarrow cannot count those of views (such as 21), of the buffers that they lie in."""
    try:
        return table.nbytes
    except pa.ArrowTypeError:
        return table.get_total_buffer_size()


def _lists(values: pa.Array, count: int, dim: int, kind: pa.DataType) -> pa.Array:
    """`count` lists of `dim` values each, or for lists of lists each of one such list."""
    if is_list(kind.value_type):
        values, dim = _lists(values, count, dim, kind.value_type), 1
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    small = pa.types.is_list(kind) or getattr(pa.types, "is_list_view", pa.types.is_list)(kind)
    offsets = pa.array(np.arange(count + 1) * dim, pa.int32() if small else pa.int64())
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(offsets, values, type=kind)
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(offsets, values, type=kind)
    views = pa.ListViewArray if small else pa.LargeListViewArray
    sizes = pa.array(np.full(count, dim), offsets.type)
    return views.from_arrays(offsets[:-1], sizes, values, type=kind)
