"""Rows of every kind that holds them, and results as the kind that was given: `take`, `plain`, `unmasked`.

The kinds of other libraries are known by what they can do and by where they are from; whoever has an object of a library has
imported it.

    given                                                       taken as          given back
    NumPy array, buffer, `__array__`, `__array_interface__`     NumPy array       NumPy array
    torch tensor                                                itself            tensor, of its subclass where torch makes one
    CuPy, `__cuda_array_interface__`                            tensor            CuPy array, tensor
    `__dlpack__`: JAX, array API                                NumPy array, or   array of its namespace; without one a NumPy
                                                                tensor (device)   array or a tensor
    list or tuple of rows or of numbers                         array, tensor     list or tuple of the same
    pandas Series of rows or numbers, DataFrame                 NumPy array       Series or DataFrame with its index
    pyarrow lists, fixed-shape tensors, chunked or not          NumPy array       NumPy array
    polars Series, DataFrame                                    NumPy array       the same
    Hugging Face Column                                         NumPy array       NumPy array

Rows that are missing (null, None) are taken as rows of NaN, which `bad_rows` decides about.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError

if TYPE_CHECKING:
    from fastrealign.core.ops import Counts

# (the result, bool (n,) of the rows that are left in it or None for all) -> it as the kind that was given
Back = Callable[[Any, np.ndarray | None], Any]

_FLOATS = ("float16", "bfloat16", "float32", "float64")
# DLDeviceType of dlpack.h: memory that the CPU reads, pinned or not.
_IN_MEMORY = (1, 3)


class Taken(NamedTuple):
    """Rows as a NumPy array or a torch tensor, (n, d), or (d,) for one vector.

    back    makes of a result the kind that was given; None: it is that kind
    nulls   bool (n,): rows that were missing, and are NaN here; None: none was
    """

    rows: Any
    back: Back | None = None
    nulls: np.ndarray | None = None

    def why(self, found: Counts) -> str:
        """What the first bad row is."""
        return (
            "is missing, or holds missing numbers"
            if self.nulls is not None and self.nulls[found.first_bad]
            else found.why
        )


def is_tensor(x: Any) -> bool:
    """Whether x is a torch tensor, of a subclass perhaps; torch is not imported to find out."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(x, tensor)


def take(x: Any, name: str = "embeddings") -> Taken:
    """x as rows. Raises InputError, which begins with `name`, for what holds no rows."""
    if isinstance(x, np.ndarray) and (x.dtype.kind != "O" or x.ndim != 1):
        return Taken(x)
    if is_tensor(x):
        return Taken(plain(x, name))
    try:
        taken = _taken(x, name)
    except (FastRealignError, MemoryError):
        raise
    except Exception as error:  # the libraries that made x raise what they like
        from fastrealign.core.text import one_line

        raise InputError(
            f"{name}: {_a(x)} cannot be read as rows: {type(error).__name__}: {one_line(error)}; pass a NumPy array"
        ) from error
    if taken is None:
        raise InputError(f"{name}: {_a(x)}, expected rows: an array or a tensor (rows, width)")
    return taken


def given_back(back: Back, result: Any, left: np.ndarray | None, given: Any) -> Any:
    """The result as the kind that was given. Raises InputError where that has no such element type."""
    try:
        return back(result, left)
    except (FastRealignError, MemoryError):
        raise
    except Exception as error:
        from fastrealign.core.text import one_line

        raise InputError(
            f"{_a(given)} of {result.dtype} cannot be made: {one_line(error)}; pass out=, or another dtype"
        ) from error


def holds_rows(x: Any) -> bool:
    """Whether x is rows, and no iterable of chunks of rows."""
    if isinstance(x, (list, tuple)):
        first = next((row for row in x if row is not None), None)
        return first is not None and not isinstance(first, Mapping) and _axes(first) < 2
    if isinstance(x, Iterator):
        return False
    known = isinstance(x, np.ndarray) or is_tensor(x) or _library(x) in _KINDS
    return known or any(hasattr(x, protocol) for protocol in _PROTOCOLS) or _buffer(x)


def plain(x: Any, name: str) -> Any:
    """A dense torch tensor that holds values of its own, as a torch.Tensor without gradient and without negative bit.

    Raises InputError for every other, on what is to be done instead.
    """
    import torch

    if type(x) is torch.Tensor and not x.is_nested:
        return _plain(torch, x, name)
    with torch._C.DisableTorchFunctionSubclass():  # what a subclass makes of these questions is not asked
        if x.is_nested:
            join = "stack" if x.dim() == 2 else "cat"  # of vectors, or of matrices
            raise InputError(f"{name}: a nested tensor, expected (rows, width); pass torch.{join}(x.unbind())")
        if torch._C._dispatch_keys(x).has(torch._C.DispatchKey.Python):
            instead = "; pass x.full_tensor() or x.to_local()" if hasattr(x, "full_tensor") else ""
            raise InputError(f"{name}: a {type(x).__name__}, expected a tensor that holds its rows itself{instead}")
        return _plain(torch, x.as_subclass(torch.Tensor), name)


def _plain(torch: Any, x: Any, name: str) -> Any:
    if x.layout != torch.strided:
        raise InputError(f"{name}: a tensor of layout {x.layout}, expected a dense one; pass x.to_dense()")
    if x.is_quantized:
        raise InputError(f"{name}: a quantized tensor, expected float values; pass x.dequantize()")
    if x.is_meta:
        raise InputError(f"{name}: a tensor on meta, expected one on the CPU or a GPU: it has no values")
    if torch._C._functorch.is_functorch_wrapped_tensor(x):
        raise InputError(f"{name}: a tensor within a transform of torch.func, which has no values there")
    x = x.detach() if x.requires_grad else x
    return x.resolve_neg() if x.is_neg() else x


def unmasked(x: Any, name: str) -> np.ndarray:
    """x as a NumPy array. Raises InputError where it has a mask that masks something: no kernel looks at masks."""
    array = np.asanyarray(x)
    mask = getattr(array, "mask", None)
    mask = getattr(x, "mask", None) if mask is None else mask
    if mask is not None and not callable(mask) and np.shape(mask) in (array.shape, array.shape[:1]) and np.any(mask):
        whole = isinstance(x, np.ma.MaskedArray) and x.ndim == 2
        example = ", for example with x[~numpy.ma.getmaskarray(x).any(axis=1)]" if whole else ""
        raise InputError(
            f"{name}: {np.count_nonzero(mask)} numbers are masked, and a mask is not looked at; leave such rows out{example}"
        )
    return np.asarray(array)


def as_rows_of(x: Any, name: str) -> np.ndarray:
    """x as a NumPy array of whatever element type, wherever it lies."""
    rows = take(x, name).rows
    if not is_tensor(rows):
        return unmasked(rows, name)
    import torch

    rows = rows.cpu()
    return rows.float().numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


# --- which kind it is -------------------------------------------------------------------------------------------------

_PROTOCOLS = ("__dlpack__", "__cuda_array_interface__", "__array_interface__", "__array_struct__", "__array__")


def _library(x: Any) -> str:
    """Where the class of x is from, or the first of those that it inherits from that is of a known library."""
    libraries = [kind.__module__.partition(".")[0] for kind in type(x).__mro__]
    return next((library for library in libraries if library in _KINDS), libraries[0])


def _a(x: Any) -> str:
    name = type(x).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _taken(x: Any, name: str) -> Taken | None:
    if isinstance(x, (list, tuple, np.ndarray)):
        return _of_list(x, name)
    if isinstance(x, Mapping):
        raise InputError(f"{name}: {_a(x)} with {named(x)}; pass the one that holds the embeddings, x[...]")
    kind = _KINDS.get(_library(x))
    taken = None if kind is None else kind(x, name)
    if taken is not None:
        return taken
    if hasattr(x, "__dlpack__"):
        return _of_dlpack(x, name)
    if hasattr(x, "__cuda_array_interface__"):
        if x.__cuda_array_interface__.get("mask") is not None:
            raise InputError(f"{name}: {_a(x)} with a mask, which is not looked at; leave such rows out")
        import torch

        return Taken(plain(torch.as_tensor(x, device="cuda"), name))
    if hasattr(x, "__array_interface__"):
        mask = x.__array_interface__.get("mask")
        if mask is not None and np.any(mask):
            raise InputError(f"{name}: {_a(x)} with a mask, which is not looked at; leave such rows out")
    if any(hasattr(x, protocol) for protocol in _PROTOCOLS) or _buffer(x):
        array = unmasked(x, name)
        return _of_list(array, name) if array.dtype == object and array.ndim == 1 else Taken(array)
    return None


def _buffer(x: Any) -> bool:
    try:
        return memoryview(x).ndim > 0 and not isinstance(x, bytes)
    except TypeError:
        return False


def named(names: Iterable[Any]) -> str:
    shown = [repr(name) for name in itertools.islice(names, 9)]
    return ", ".join(shown[:8] + ["..."] * (len(shown) > 8)) or "nothing in it"


def may_hold_rows(x: Any) -> bool:
    """Whether this entry of a batch may be its rows: floats of two dimensions and more, or a list of arrays."""
    if isinstance(x, (list, tuple)):
        return len(x) > 0 and _axes(x) > 1
    if _axes(x) < 2:
        return False
    return x.is_floating_point() if is_tensor(x) else str(getattr(x, "dtype", "float")).startswith(("float", "bfloat"))


def _axes(x: Any) -> int:
    """How many dimensions x has, seen by its first elements; 0 for what is no array."""
    if isinstance(x, (list, tuple)):
        return 1 + max((_axes(first) for first in itertools.islice(x, 1)), default=0)
    if is_tensor(x):
        return x.dim()
    if hasattr(x, "ndim"):
        return int(x.ndim)
    return len(getattr(x, "shape", ())) or int(holds_rows(x) and hasattr(x, "__len__"))


# --- rows one by one --------------------------------------------------------------------------------------------------


def _of_list(x: Any, name: str) -> Taken:
    """A list, a tuple or an array of objects: of rows, or of the numbers of one."""
    kind = next((k for k in (list, tuple) if isinstance(x, k)), None)
    nulls = np.array([_missing(row) for row in x], dtype=bool)
    held = [row for row, null in zip(x, nulls, strict=True) if not null]
    if not held:
        raise InputError(f"{name}: {_a(x)} of {len(x)} rows, none of which is there")
    if all(isinstance(number, (int, float, np.number)) for number in held):
        # float32 where that is what they are; numbers of Python's own are float64 as they stand
        kinds = {type(number) for number in held}
        row = np.array([np.nan if null else number for number, null in zip(x, nulls, strict=True)])
        row = row if all(issubclass(k, np.number) for k in kinds) else row.astype(np.float64)
        return Taken(row, None if kind is None else lambda result, left: kind(result.tolist()))
    if any(isinstance(row, (str, bytes, Mapping)) for row in held):
        odd = next(row for row in held if isinstance(row, (str, bytes, Mapping)))
        raise InputError(f"{name}: {_a(x)} that holds {_a(odd)}, expected rows of numbers")
    rows, back = _stacked(held, np.flatnonzero(~nulls), name)
    if nulls.any():
        rows = _spread(rows, nulls)

    missing = nulls if nulls.any() else None
    return Taken(rows, (lambda r, left: kind(_with_none(back(r), missing, left))) if kind else None, missing)


def _with_none(rows: Iterable[Any], nulls: np.ndarray | None, left: np.ndarray | None) -> list[Any]:
    """A list of the rows, None in the places of those that were missing; `left` as for `Back`."""
    if nulls is None:
        return list(rows)
    return [None if null else row for row, null in zip(rows, nulls if left is None else nulls[left], strict=True)]


def _missing(row: Any) -> bool:
    return row is None or (isinstance(row, float) and row != row) or type(row).__name__ == "NAType"


def _stacked(held: list[Any], numbers: np.ndarray, name: str) -> tuple[Any, Callable[[Any], list[Any]]]:
    """Rows (n, d) of equally long ones, of these numbers, and what makes a list of such rows of a result."""
    if all(type(row) is list for row in held):
        with suppress(ValueError, TypeError):  # one by one they tell which it is
            rows = np.array(held)
            if rows.ndim == 2 and rows.dtype.kind in "iuf":
                return rows if rows.dtype.kind == "f" else rows.astype(np.float64), lambda result: result.tolist()
    taken = [_one(row, number, name) for row, number in zip(held, numbers, strict=True)]
    widths = [len(one.rows) for one in taken]
    other = next((i for i, width in enumerate(widths) if width != widths[0]), None)
    if other is not None:
        raise InputError(
            f"{name}: row {numbers[other]} is {widths[other]} wide, row {numbers[0]} {widths[0]}; all must be of one width"
        )
    rows = [one.rows for one in taken]
    if all(is_tensor(row) for row in rows):
        import torch

        kind = type(held[0])
        stacked = torch.stack([row.detach().to(rows[0].device) for row in rows])
        back = (lambda result: [row.as_subclass(kind) for row in result]) if _simple(kind) else list
        return stacked, back
    arrays = [row.cpu().float().numpy() if is_tensor(row) else row for row in rows]
    first = taken[0].back
    return np.stack(arrays), (lambda result: [first(row, None) for row in result]) if first else list


def _simple(kind: type) -> bool:
    """Whether torch gives a result of this subclass to an operation on one."""
    import torch

    return (
        kind is not torch.nn.Parameter and kind.__torch_function__.__func__ is torch.Tensor.__torch_function__.__func__
    )


def _one(row: Any, number: int, name: str) -> Taken:
    if type(row) is np.ndarray:
        taken = Taken(row)
    elif is_tensor(row):
        if row.requires_grad:
            raise InputError(f"{name}: row {number} requires a gradient, which is not recorded; pass its .detach()")
        taken = Taken(plain(row, f"{name}: row {number}"))
    else:
        taken = take(row, f"{name}: row {number}")
        if not is_tensor(taken.rows):
            taken = Taken(unmasked(taken.rows, f"{name}: row {number}"), taken.back)
    if taken.rows.ndim != 1:
        raise InputError(
            f"{name}: row {number} of a list has shape {tuple(taken.rows.shape)}, expected one dimension; pass one array of "
            "all rows (numpy.concatenate, torch.cat)"
        )
    return taken


def _spread(rows: Any, nulls: np.ndarray) -> Any:
    """(n, d): the rows in the places that are not null, NaN in those that are."""
    if is_tensor(rows):
        import torch

        out = rows.new_full((len(nulls), rows.shape[1]), torch.nan)
        out[torch.from_numpy(~nulls).to(rows.device)] = rows
        return out
    dtype = rows.dtype if rows.dtype.name in _FLOATS else np.float64
    out = np.full((len(nulls), rows.shape[1]), np.nan, dtype)
    out[~nulls] = rows
    return out


# --- what speaks DLPack -----------------------------------------------------------------------------------------------


def _of_dlpack(x: Any, name: str) -> Taken:
    in_memory = int(x.__dlpack_device__()[0]) in _IN_MEMORY
    space = x.__array_namespace__() if hasattr(x, "__array_namespace__") else None
    back: Back | None = None
    # First, for DLPack drops masks and NumPy takes no bfloat16 from it.
    if in_memory and (hasattr(x, "__array__") or hasattr(x, "__array_interface__")):
        rows = unmasked(x, name)
    elif in_memory and (space is not None or find_spec("torch") is None):
        rows = unmasked(np.from_dlpack(x), name)
    else:
        import torch

        rows = plain(torch.from_dlpack(x), name)
    if space is not None:
        back = (
            (lambda result, left: space.asarray(result))
            if in_memory
            else lambda result, left: space.from_dlpack(result)
        )
    if _library(x) == "cupy":
        import cupy

        back = lambda result, left: cupy.from_dlpack(result)  # noqa: E731
    shape = getattr(x, "shape", None)
    if isinstance(shape, tuple) and shape != tuple(rows.shape):
        raise InputError(f"{name}: {_a(x)} of shape {shape} that exports {tuple(rows.shape)}; pass a NumPy array")
    return Taken(rows, back)


# --- tables and their columns -----------------------------------------------------------------------------------------


def _of_pandas(x: Any, name: str) -> Taken | None:
    pandas = sys.modules["pandas"]
    if isinstance(x, pandas.DataFrame):
        return _of_frame(pandas, x, name)
    if not isinstance(x, pandas.Series):
        return None
    options = {"name": x.name}

    def index(left: np.ndarray | None) -> Any:
        return x.index if left is None else x.index[left]

    if getattr(x.dtype, "pyarrow_dtype", None) is not None:
        taken = _of_arrow(x.array.__arrow_array__(), name)

        def as_arrow(result: Any, left: np.ndarray | None) -> Any:
            rows = _with_none(result, taken.nulls, left)
            kept = x.dtype if result.dtype == taken.rows.dtype else object
            return pandas.Series(rows, index(left), kept, **options)

        return Taken(taken.rows, as_arrow, taken.nulls)
    if x.dtype != object:
        kind = getattr(x.dtype, "numpy_dtype", x.dtype)
        if not pandas.api.types.is_numeric_dtype(x.dtype):
            raise InputError(f"{name}: a Series of {x.dtype}, expected rows or numbers")
        row = x.to_numpy(kind if kind.kind == "f" or not x.hasnans else np.float64, na_value=np.nan)
        return Taken(row, lambda result, left: pandas.Series(result, x.index, **options))
    taken = _of_list(x.tolist(), name)
    return Taken(taken.rows, lambda r, left: pandas.Series(taken.back(r, left), index(left), **options), taken.nulls)


def _of_frame(pandas: Any, x: Any, name: str) -> Taken:
    rows = np.asanyarray(x)
    if rows.dtype == object:
        floats = [getattr(kind, "numpy_dtype", kind) for kind in x.dtypes]
        if not all(isinstance(kind, np.dtype) and kind.kind == "f" for kind in floats):
            odd = next(i for i, k in enumerate(floats) if not (isinstance(k, np.dtype) and k.kind == "f"))
            raise InputError(
                f"{name}: a DataFrame whose column {x.columns[odd]!r} holds {x.dtypes.iloc[odd]}, expected numbers in every "
                "column; pass the one column that holds the embeddings, x[...], or x.select_dtypes('number')"
            )
        rows = x.to_numpy(np.result_type(*floats), na_value=np.nan)

    def back(result: Any, left: np.ndarray | None) -> Any:
        return pandas.DataFrame(result, x.index if left is None else x.index[left], x.columns)

    return Taken(rows, back)


def _of_arrow(x: Any, name: str) -> Taken | None:
    import pyarrow as pa

    if isinstance(x, (pa.Table, pa.RecordBatch)):
        raise InputError(
            f"{name}: {_a(x)} with {named(x.column_names)}; pass the column that holds the embeddings, x[...]"
        )
    if isinstance(x, pa.Scalar) and hasattr(x, "values"):
        x = x.values
    if not isinstance(x, (pa.Array, pa.ChunkedArray)):
        return None
    chunks = x.chunks if isinstance(x, pa.ChunkedArray) else [x]
    if pa.types.is_floating(x.type):
        return Taken(np.concatenate([np.empty(0, np.float16), *(c.to_numpy(zero_copy_only=False) for c in chunks)]))
    from fastrealign.formats import arrow_columns, arrow_schema
    from fastrealign.formats.choose_column import Fit

    if arrow_columns.fit(pa.field("", x.type)) < Fit.PERHAPS:
        whole = arrow_schema.is_list(x.type) and pa.types.is_integer(x.type.value_type)
        instead = "; convert with .cast(pyarrow.list_(pyarrow.float32()))" if whole else ""
        raise InputError(f"{name}: a pyarrow array of {x.type}, expected lists of floats, one a row{instead}")
    firsts = np.cumsum([0, *map(len, chunks)]).tolist()
    wide = (arrow_columns.matrix(c, None, first, name)[0].shape[1] for c, first in zip(chunks, firsts, strict=False))
    dim = next(filter(None, wide), None)
    parts = [arrow_columns.matrix(c, dim, first, name) for c, first in zip(chunks, firsts, strict=False)]
    if not parts:
        raise InputError(f"{name}: a pyarrow array without chunks, expected rows")
    rows = parts[0][0] if len(parts) == 1 else np.concatenate([part for part, _ in parts])
    if all(bad is None for _, bad in parts):
        return Taken(rows)
    return Taken(rows, None, np.concatenate([np.zeros(len(part), bool) if bad is None else bad for part, bad in parts]))


def _of_polars(x: Any, name: str) -> Taken | None:
    polars = sys.modules["polars"]
    if isinstance(x, polars.LazyFrame):
        raise InputError(f"{name}: a LazyFrame, which holds no rows yet; pass x.collect()")
    if isinstance(x, polars.DataFrame):
        odd = next((column for column, kind in x.schema.items() if not kind.is_numeric()), None)
        if odd is not None:
            raise InputError(
                f"{name}: a DataFrame whose column {odd!r} holds {x.schema[odd]}, expected numbers in every column; pass the "
                "one column that holds the embeddings, x[...]"
            )
        return Taken(x.to_numpy(), lambda result, left: polars.DataFrame(result, schema=x.columns))
    if not isinstance(x, polars.Series):
        return None
    if x.dtype.is_numeric():
        return Taken(x.to_numpy(), lambda result, left: polars.Series(x.name, result))
    inner = getattr(x.dtype, "inner", None)
    if inner is None or not inner.is_float():
        instead = (
            "; convert with .cast(polars.List(polars.Float32))" if inner is not None and inner.is_integer() else ""
        )
        raise InputError(f"{name}: a Series of {x.dtype}, expected lists or arrays of floats, one a row{instead}")
    nulls, held = x.is_null().to_numpy(), x.drop_nulls()
    lists = isinstance(x.dtype, polars.List)
    if lists:
        widths = held.list.len().unique().to_list()
        if len(widths) != 1:
            raise InputError(f"{name}: lists of {named(sorted(widths))} values, expected all to be of one width")
        held = held.list.to_array(widths[0])
    rows = _spread(held.to_numpy(), nulls) if nulls.any() else held.to_numpy()

    def back(result: Any, left: np.ndarray | None) -> Any:
        out = polars.Series(x.name, result)
        out = out.cast(polars.List(out.dtype.inner)) if lists else out
        return polars.Series(x.name, _with_none(out.to_list(), nulls, left), out.dtype) if nulls.any() else out

    return Taken(rows, back, nulls if nulls.any() else None)


def _of_datasets(x: Any, name: str) -> Taken | None:
    if hasattr(x, "column_names"):
        raise InputError(f"{name}: {_a(x)} with {named(x.column_names or ())}; pass the column, x[...]")
    if not hasattr(x, "source"):
        return None
    column = x.source.with_format("arrow")[x.column_name] if hasattr(x.source, "with_format") else x[:]
    taken = take(column[:] if type(column) is type(x) else column, f"{name}: column {x.column_name!r}")
    return Taken(taken.rows, None, taken.nulls)


def _of_dask(x: Any, name: str) -> Taken | None:
    if not hasattr(x, "compute"):
        return None
    computed = x.compute()  # `__array__` drops masks
    if np.ma.is_masked(computed):
        raise InputError(
            f"{name}: {_a(x)} of dask with masked numbers, and a mask is not looked at; leave such rows out"
        )
    return Taken(unmasked(computed, name))


def _of_sparse(x: Any, name: str) -> Taken | None:
    if not hasattr(x, "toarray") and not hasattr(x, "todense"):
        return None
    instead = "toarray" if hasattr(x, "toarray") else "todense"
    raise InputError(f"{name}: {_a(x)}, which is sparse; embeddings are dense: pass x.{instead}()")


_KINDS: dict[str, Callable[[Any, str], Taken | None]] = {
    "pandas": _of_pandas,
    "pyarrow": _of_arrow,
    "polars": _of_polars,
    "datasets": _of_datasets,
    "dask": _of_dask,
    "scipy": _of_sparse,
    "sparse": _of_sparse,
}
