"""What formats with columns have in common: which one holds the embeddings, rows out of Arrow's lists and back into them."""

from __future__ import annotations

import json
import pickletools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, changed, shortage
from fastrealign.core.text import one_line
from fastrealign.formats.choose_column import Candidate, Fit, Unclear, Wanted, choose_name, instead
from fastrealign.formats.unsupported import embed
from fastrealign.storage.files import reading
from fastrealign.storage.records import parsed

if TYPE_CHECKING:
    import pyarrow as pa

# Where Hugging Face datasets note the types of the columns a second time.
_HUGGINGFACE = b"huggingface"
# Where a field notes an extension type that it is stored for.
_NAME = b"ARROW:extension:name"
_PARAMETERS = b"ARROW:extension:metadata"


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
            if shortage(error) is not None:
                raise
            if isinstance(error, NotImplementedError):  # of Arrow: the file is as it should be
                raise InputError(
                    f"{path}: this version of pyarrow cannot read all of it ({one_line(error)}); it is not damaged: upgrade "
                    f"pyarrow, or save it without what is named there"
                ) from error
            where = f" from row {rows_read} on" if rows_read else ""
            raise InputError(f"{path}: is not a readable {kind}{where} ({one_line(error)}); make it again") from error


def decoded(stream: Iterator[pa.RecordBatch], path: str | Path, kind: str, done: int = 0) -> Iterator[pa.RecordBatch]:
    """The batches of a stream, whose damage is told with the row from which on nothing can be read. done: rows before it."""
    while True:
        with decoding(path, kind, done):
            batch = next(stream, None)
        if batch is None:
            return
        yield batch
        done += batch.num_rows


@contextmanager
def writing_columns(path: str | Path, schema: pa.Schema, kind: str) -> Iterator[None]:
    """Turns what Arrow refuses to write to a file of this kind into an InputError that names the column of `schema`."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid, pa.ArrowTypeError) as error:
        text = str(error)
        named = [field for field in schema if str(field.type) in text or f"'{field.name}'" in text]
        field = max(named, key=lambda field: len(str(field.type)), default=None)
        what = "a column" if field is None else f"column {field.name!r} ({one_line(field.type)})"
        raise InputError(
            f"{path}: {kind} does not hold {what}: {one_line(error)}; leave it out, or choose another format"
        ) from error


def filtered(table: pa.Table, mask: np.ndarray) -> pa.Table:
    """The rows where the mask is true, also of types that Arrow has no filter for."""
    import pyarrow as pa

    try:
        return table.filter(pa.array(mask))
    except pa.ArrowNotImplementedError:
        ends = np.flatnonzero(np.diff(mask, prepend=False, append=False)).reshape(-1, 2)
        return pa.concat_tables([table.slice(0, 0), *(table.slice(lo, hi - lo) for lo, hi in ends.tolist())])


def plain(schema: pa.Schema, column: str) -> pa.Schema:
    """The schema with the column as it is stored: the name and parameters of an extension type in its field's metadata.

    That is how files hold such a type, and how it is read where nothing has registered it: files of both are the same.
    """
    at = schema.get_field_index(column)
    return schema.set(at, _plain(schema.field(at)))


def stored(column: pa.Array) -> pa.Array:
    """The values of an array of an extension type, or the array."""
    return getattr(column, "storage", column)


def _plain(field: pa.Field) -> pa.Field:
    import pyarrow as pa

    kind = field.type
    if not isinstance(kind, pa.BaseExtensionType):
        return field
    if isinstance(kind, pa.FixedShapeTensorType):
        parameters = {"shape": kind.shape, "permutation": kind.permutation, "dim_names": kind.dim_names}
        noted = json.dumps({name: value for name, value in parameters.items() if value is not None}).encode()
    elif isinstance(kind, pa.ExtensionType):
        noted = kind.__arrow_ext_serialize__()
    else:
        return field
    metadata = {**(field.metadata or {}), _NAME: kind.extension_name.encode(), _PARAMETERS: noted}
    return pa.field(field.name, kind.storage_type, field.nullable, metadata)


def choose(
    schema: pa.Schema, column: str | Wanted | None, path: str, is_blank: Callable[[str], bool] | None = None
) -> str:
    """The name of the embedding column. is_blank: whether a column holds nothing but nulls, and so may be of any type."""
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
    if fit(field) < Fit.PERHAPS and not (is_blank is not None and is_blank(column)):
        raise (Unclear if asked.column is None else InputError)(
            f"{path}: column {column!r} holds {one_line(field.type)}, expected lists of float16, float32 or float64, one "
            f"embedding a row{instead(candidates, column, asked)}"
        )
    return column


def candidates_of(schema: pa.Schema) -> list[Candidate]:
    """What of the columns could be the embeddings."""
    return [Candidate(field.name, one_line(field.type), fit(field)) for field in schema]


def is_list(kind: pa.DataType) -> bool:
    """A list of any kind, whose arrays have `flatten`."""
    import pyarrow as pa

    names = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(test(kind) for test in (getattr(pa.types, name, None) for name in names) if test is not None)


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def is_float_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return is_list(kind) and pa.types.is_floating(kind.value_type)


def element_type(kind: pa.DataType) -> np.dtype:
    """Of lists of floats, or lists of such lists."""
    return element_type(kind.value_type) if is_list(kind) else np.dtype(f"f{kind.bit_width // 8}")


def width(kind: pa.DataType) -> int:
    """Values in each row, where the type of the column says that; else 0."""
    return getattr(kind if is_float_list(kind) else kind.value_type, "list_size", 0) if _of_floats(kind) else 0


def _of_floats(kind: pa.DataType) -> bool:
    return is_list(kind) and (is_float_list(kind) or is_float_list(kind.value_type))


def fit(field: pa.Field) -> Fit:
    """Whether a column could hold embeddings: lists of floats can, and lists of one such list."""
    import pyarrow as pa

    field = _plain(field)
    kind, types = field.type, pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return min(max(fit(pa.field("", kind.storage_type)), Fit.CODED), Fit.SHAPED)
    if _of_floats(kind):
        noted = _noted_shape(field)
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


def _noted_shape(field: pa.Field) -> tuple[int, ...] | None:
    """The shape of each row that the parameters of an extension type give; () if it is not to be told, None without such."""
    metadata = field.metadata or {}
    name, text = metadata.get(_NAME), metadata.get(_PARAMETERS, b"")
    if name is None:
        return None
    try:
        noted = parsed(text) if not text.startswith(b"\x80") else _pickled_numbers(text)
    except ValueError:
        noted = None
    if isinstance(noted, dict):  # Arrow's own
        noted, order = noted.get("shape"), noted.get("permutation")
        if order is not None and isinstance(noted, list):
            noted = (
                [noted[i] for i in order] if sorted(map(str, order)) == sorted(map(str, range(len(noted)))) else None
            )
    if isinstance(noted, list) and noted and isinstance(noted[0], list):  # Hugging Face: [shape, dtype]
        noted = noted[0]
    if isinstance(noted, list) and noted and all(type(size) is int and size > 0 for size in noted):
        return tuple(noted)
    return () if b"tensor" in name.lower() or b"array" in name.lower() else None


def _pickled_numbers(text: bytes) -> list[int]:
    """The whole numbers of a pickled tuple of them, which is how Ray notes a shape; ValueError for others. Nothing is run."""
    numbers = []
    for code, value, _ in pickletools.genops(text):
        if code.name in ("BININT", "BININT1", "BININT2"):
            numbers.append(value)
        elif code.name not in ("PROTO", "FRAME", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "MEMOIZE", "STOP"):
            raise ValueError(f"a pickle with {code.name}")
    return numbers


def is_missing(column: pa.Array) -> np.ndarray:
    """bool (n,): which rows of a stored column are null, or hold nothing but nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

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

    Nulls are NaN, so that these rows are bad ones. dim None: that of the first row without nulls; 0 if there is none.
    Raises InputError for a row of another length.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = stored(column)
    count, kind = len(column), column.type
    if not _of_floats(kind):
        if not is_missing(column).all():
            raise changed(path)
        return np.full((count, dim or 0), np.nan, np.float32), np.ones(count, bool)
    bad = is_missing(column) if _has_nulls(column) else None
    rows = np.arange(count) if bad is None else np.flatnonzero(~bad)
    if len(rows) < count:
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
    """The rows of a matrix as an Arrow array of lists, in memory of its own.

    came: a stored column of as many rows, and which of its rows (bool) are to be as they are there, nulls and all
    """
    import pyarrow as pa

    array = _lists(pa.array(np.array(rows).reshape(-1)), len(rows), rows.shape[1], kind)
    if came is None:
        return array
    column, as_it_came = came
    kept = column.filter(pa.array(as_it_came))
    if kept.type != kind:
        kept = pa.array(kept.to_pylist(), kind)
    places = np.arange(len(rows))
    places[as_it_came] = len(rows) + np.arange(len(kept))
    return pa.concat_arrays([array, kept]).take(pa.array(places))


def _lists(values: pa.Array, count: int, dim: int, kind: pa.DataType) -> pa.Array:
    """`count` lists of `dim` values each, or for lists of lists each of one such list."""
    import pyarrow as pa

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


def retyped(schema: pa.Schema, column: str, dtype: np.dtype) -> pa.Schema:
    """The schema with the column as it is stored, its lists holding another element type, also where that is noted."""
    import pyarrow as pa

    schema = plain(schema, column)
    at = schema.get_field_index(column)
    field = schema.field(at)
    if element_type(field.type) == dtype:
        return schema
    noted = dict(field.metadata or {})
    if _PARAMETERS in noted:
        noted[_PARAMETERS] = _retyped_parameters(noted[_PARAMETERS], dtype)
    field = field.with_type(_list_of(field.type, pa.from_numpy_dtype(dtype))).with_metadata(noted or None)
    schema = schema.set(at, field)
    metadata = schema.metadata or {}
    try:
        noted = parsed(metadata[_HUGGINGFACE])
        features = noted["info"]["features"]
        features[column] = retyped_feature(features[column], dtype)
    except (KeyError, TypeError, ValueError):  # it is not there, or of a form that says nothing of the column
        return schema
    return schema.with_metadata({**metadata, _HUGGINGFACE: json.dumps(noted).encode()})


def _retyped_parameters(text: bytes, dtype: np.dtype) -> bytes:
    """Parameters of an extension type for another element type: those of Hugging Face name it, `[[1, 512], "float32"]`."""
    try:
        noted = parsed(text)
    except ValueError:
        return text
    if isinstance(noted, list) and len(noted) == 2 and isinstance(noted[1], str):
        return json.dumps([noted[0], dtype.name]).encode()
    return text


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

    inner = kind.value_type
    values = kind.value_field.with_type(_list_of(inner, value_type) if is_list(inner) else value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(values)
    if pa.types.is_large_list(kind):
        return pa.large_list(values)
    return pa.list_view(values) if pa.types.is_list_view(kind) else pa.large_list_view(values)
