"""Arrow types: lists of floats of any kind, extension types as files store them, schemas with another element type."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from fastrealign.core.libraries import pa
from fastrealign.storage.records import parsed

# The metadata in which Hugging Face datasets repeat the types of the columns.
_HUGGINGFACE = b"huggingface"
# The metadata of a field that names its extension type.
_NAME = b"ARROW:extension:name"
_PARAMETERS = b"ARROW:extension:metadata"


def is_list(kind: pa.DataType) -> bool:
    """A list of any kind, whose arrays have `flatten`."""
    names = ("is_list", "is_large_list", "is_fixed_size_list", "is_list_view", "is_large_list_view")
    return any(test(kind) for test in (getattr(pa.types, name, None) for name in names) if test is not None)


def is_float_list(kind: pa.DataType) -> bool:
    return is_list(kind) and pa.types.is_floating(kind.value_type)


def element_type(kind: pa.DataType) -> np.dtype:
    """Of lists of floats, or lists of such lists."""
    return element_type(kind.value_type) if is_list(kind) else np.dtype(f"f{kind.bit_width // 8}")


def width(kind: pa.DataType) -> int:
    """Values per row, where the type of the column fixes that; else 0."""
    return getattr(kind if is_float_list(kind) else kind.value_type, "list_size", 0) if of_floats(kind) else 0


def of_floats(kind: pa.DataType) -> bool:
    return is_list(kind) and (is_float_list(kind) or is_float_list(kind.value_type))


def plain(schema: pa.Schema, column: str) -> pa.Schema:
    """The schema with the stored type of the column; an extension type goes to its field's metadata.

    That is how files hold such a type, and how it is read where it is not registered.
    """
    at = schema.get_field_index(column)
    return schema.set(at, plain_field(schema.field(at)))


def stored(column: pa.Array) -> pa.Array:
    """The values of an array of an extension type, or the array."""
    return getattr(column, "storage", column)


def plain_field(field: pa.Field) -> pa.Field:
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


def noted_shape(field: pa.Field) -> tuple[int, ...] | None:
    """The shape of a row from the parameters of an extension type; () if it is unknown, None without an extension type."""
    metadata = field.metadata or {}
    name, text = metadata.get(_NAME), metadata.get(_PARAMETERS, b"")
    if name is None:
        return None
    noted: Any
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
    """The integers of a pickled tuple, in which Ray stores a shape; ValueError for anything else. Nothing is run."""
    import pickletools

    numbers: list[Any] = []
    for code, value, _ in pickletools.genops(text):
        if code.name in ("BININT", "BININT1", "BININT2"):
            numbers.append(value)
        elif code.name not in ("PROTO", "FRAME", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "MEMOIZE", "STOP"):
            raise ValueError(f"a pickle with {code.name}")
    return numbers


def retyped(schema: pa.Schema, column: str, dtype: np.dtype, wide: int | None = None) -> pa.Schema:
    """The schema with another element type, and width, in the lists of a column, also where metadata repeats them.

    An extension type, which notes the shape of a row, becomes a plain list where the width is another.
    """
    schema = plain(schema, column)
    at = schema.get_field_index(column)
    field = schema.field(at)
    if element_type(field.type) == dtype and wide is None:
        return schema
    noted = dict(field.metadata or {})
    if wide is not None:
        noted = {key: value for key, value in noted.items() if key not in (_NAME, _PARAMETERS)}
    elif _PARAMETERS in noted:
        noted[_PARAMETERS] = _retyped_parameters(noted[_PARAMETERS], dtype)
    field = field.with_type(_list_of(field.type, pa.from_numpy_dtype(dtype), wide)).with_metadata(noted or None)
    schema = schema.set(at, field)
    metadata = schema.metadata or {}
    try:
        noted = parsed(metadata[_HUGGINGFACE])
        features = noted["info"]["features"]
        features[column] = retyped_feature(features[column], dtype, wide)
    except (KeyError, TypeError, ValueError):  # absent, or without this column
        return schema
    return schema.with_metadata({**metadata, _HUGGINGFACE: json.dumps(noted).encode()})


def _retyped_parameters(text: bytes, dtype: np.dtype) -> bytes:
    """Parameters of an extension type with another element type; Hugging Face's name it: `[[1, 512], "float32"]`."""
    try:
        noted = parsed(text)
    except ValueError:
        return text
    if isinstance(noted, list) and len(noted) == 2 and isinstance(noted[1], str):
        return json.dumps([noted[0], dtype.name]).encode()
    return text


def retyped_feature(feature: Any, dtype: np.dtype, wide: int | None = None) -> Any:
    """A column's description by Hugging Face (`{"feature": {"dtype": "float32", ...}, ...}`), with another type and width."""
    if isinstance(feature, list):
        return [retyped_feature(part, dtype, wide) for part in feature]
    if not isinstance(feature, dict):
        return feature
    found = dict(feature)
    if "dtype" in found:
        found["dtype"] = dtype.name
    if "feature" in found:
        found["feature"] = retyped_feature(found["feature"], dtype, wide)
        inner = not isinstance(feature["feature"], dict) or "feature" not in feature["feature"]
        if wide is not None and inner and found.get("length", -1) != -1:
            found["length"] = wide
    elif wide is not None and isinstance(found.get("shape"), list):
        found["shape"] = [*found["shape"][:-1], wide]
    return found


def _list_of(kind: pa.DataType, value_type: pa.DataType, wide: int | None) -> pa.DataType:
    """The same kind of list with other values, and so many of them where it fixes their number."""
    inner = kind.value_type
    values = kind.value_field.with_type(_list_of(inner, value_type, wide) if is_list(inner) else value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(values, kind.list_size if wide is None or is_list(inner) else wide)
    if pa.types.is_list(kind):
        return pa.list_(values)
    if pa.types.is_large_list(kind):
        return pa.large_list(values)
    return pa.list_view(values) if pa.types.is_list_view(kind) else pa.large_list_view(values)
