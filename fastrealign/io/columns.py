"""What formats with columns have in common: which one holds the embeddings, rows out of Arrow's lists and back into them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.errors import FastRealignError, InputError
from fastrealign.io.files import one_line, reading
from fastrealign.io.names import Candidate, Fit, choose_name, instead
from fastrealign.io.other_formats import embed

if TYPE_CHECKING:
    import pyarrow as pa

# Where Hugging Face datasets note the types of the columns a second time.
_HUGGINGFACE = b"huggingface"


@contextmanager
def decoding(path: str | Path, kind: str, rows_read: int = 0) -> Iterator[None]:
    """Turns what a library raises over a damaged or unreadable file of this kind into an InputError."""
    with reading(path):
        try:
            yield
        except FastRealignError:
            raise
        except BaseException as error:  # damage shows as anything, from Arrow's own errors to text that is not UTF-8
            panic = type(error).__name__ == "PanicException"  # of Rust, which is no Exception
            if (isinstance(error, OSError) and error.errno is not None) or not (isinstance(error, Exception) or panic):
                raise
            where = f" from row {rows_read} on" if rows_read else ""
            raise InputError(f"{path}: is not a readable {kind}{where} ({one_line(error)}); make it again") from error


def decoded(stream: Iterator[pa.RecordBatch], path: str | Path, kind: str) -> Iterator[pa.RecordBatch]:
    """The batches of a stream, whose damage is told with the row from which on nothing can be read."""
    done = 0
    while True:
        with decoding(path, kind, done):
            batch = next(stream, None)
        if batch is None:
            return
        yield batch
        done += batch.num_rows


def choose(schema: pa.Schema, column: str | None, path: str) -> str:
    """The name of the embedding column."""
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: has more than one column named {twice[0]!r}; rename one of them")
    candidates = [Candidate(field.name, one_line(field.type), _fit(field.type)) for field in schema]
    try:
        column = choose_name(path, candidates, column, "column", "lists of floats")
    except InputError as error:
        if column is None and all(not is_list(field.type) for field in schema) and any(map(_is_text, schema.types)):
            raise InputError(f"{error}; it holds text: {embed(path)}") from None
        raise
    kind = schema.field(column).type
    if not is_float_list(kind):
        raise InputError(
            f"{path}: column {column!r} holds {one_line(kind)}, expected lists of float16, float32 or float64"
            f"{instead(candidates, column)}"
        )
    return column


def is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_float_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return is_list(kind) and pa.types.is_floating(kind.value_type)


def _fit(kind: pa.DataType) -> Fit:
    """Whether a column of this type could hold embeddings."""
    import pyarrow as pa

    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return min(max(_fit(kind.storage_type), Fit.CODED), Fit.SHAPED)
    if is_float_list(kind):
        return Fit.TAKEN
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return min(_fit(kind.value_type), Fit.SHAPED)
    if types.is_struct(kind) or types.is_union(kind):  # {"data": [...], "shape": [...]}
        parts = [_fit(kind.field(i).type) for i in range(kind.num_fields)]
        return Fit.SHAPED if max(parts, default=Fit.NO) >= Fit.SHAPED else Fit.CODED
    if types.is_nested(kind) and not types.is_map(kind):
        inner = kind.value_type
        if types.is_floating(inner) or types.is_decimal(inner) or isinstance(inner, pa.BaseExtensionType):
            return Fit.SHAPED
        return Fit.SHAPED if types.is_nested(inner) and _fit(inner) >= Fit.SHAPED else Fit.CODED
    numbers = types.is_primitive(kind) or types.is_decimal(kind) or types.is_null(kind)
    return Fit.NO if numbers else Fit.CODED


def matrix(column: pa.Array, dim: int | None, first_row: int, path: str) -> np.ndarray:
    """The lists of a batch as an (n, dim) view of their values; InputError for a null or a row of another length."""
    import pyarrow as pa

    if column.null_count:
        row = first_row + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{path}: row {row} is null, expected an embedding; remove the row or fill it")
    if pa.types.is_fixed_size_list(column.type):
        dim = column.type.list_size
    else:
        lengths = np.diff(column.offsets.to_numpy())
        if dim is None:
            dim = int(lengths[0])
        other = np.flatnonzero(lengths != dim)
        if len(other):
            row = int(other[0])
            raise InputError(
                f"{path}: row {first_row + row} has {lengths[row]} values, row 0 has {dim}: all must be of one width"
            )
    values = column.flatten()
    if values.null_count:
        row = first_row + int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // dim
        raise InputError(f"{path}: row {row} has a null among its values; remove the row or fill it")
    return values.to_numpy(zero_copy_only=True).reshape(len(column), dim)


def lists(rows: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The rows of a matrix as an Arrow array of lists, in memory of its own."""
    import pyarrow as pa

    values = pa.array(np.array(rows).reshape(-1), type=kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(values, type=kind)
    count, dim = rows.shape
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(np.arange(count + 1) * dim, pa.int64()), values, type=kind)
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * dim, pa.int32()), values, type=kind)


def retyped(schema: pa.Schema, column: str, dtype: np.dtype) -> pa.Schema:
    """The schema with the lists of a column holding another element type, also where Hugging Face notes it."""
    import pyarrow as pa

    at = schema.get_field_index(column)
    field = schema.field(at)
    schema = schema.set(at, field.with_type(_list_of(field.type, pa.from_numpy_dtype(dtype))))
    metadata = schema.metadata or {}
    try:
        noted = json.loads(metadata[_HUGGINGFACE])
        features = noted["info"]["features"]
        features[column] = retyped_feature(features[column], dtype)
    except (KeyError, TypeError, ValueError):  # it is not there, or of a form that says nothing of the column
        return schema
    return schema.with_metadata({**metadata, _HUGGINGFACE: json.dumps(noted).encode()})


def retyped_feature(feature: Any, dtype: np.dtype) -> Any:
    """How Hugging Face datasets describe a column (`{"feature": {"dtype": "float32", ...}, ...}`), of another type."""
    if isinstance(feature, list):
        return [retyped_feature(part, dtype) for part in feature]
    if isinstance(feature, dict):
        return {
            key: dtype.name if key == "dtype" else retyped_feature(value, dtype) if key == "feature" else value
            for key, value in feature.items()
        }
    return feature


def _list_of(kind: pa.DataType, value_type: pa.DataType) -> pa.DataType:
    """The same kind of list with other values."""
    import pyarrow as pa

    values = kind.value_field.with_type(value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size)
    return pa.large_list(values) if pa.types.is_large_list(kind) else pa.list_(values)
