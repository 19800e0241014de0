"""Rows in the objects of table libraries: `take` of core/arrays.py, with these kinds added.

given                                              taken as       given back
pandas Series of rows or numbers, DataFrame        NumPy array    Series or DataFrame with its index
pyarrow lists, fixed-shape tensors, chunked or not NumPy array    NumPy array
polars Series, DataFrame                           NumPy array    the same
Hugging Face Column                                NumPy array    NumPy array
dask array                                         NumPy array    NumPy array
scipy and sparse matrices                          refused: embeddings are dense
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from fastrealign.core.arrays import KINDS, take
from fastrealign.core.errors import InputError
from fastrealign.core.libraries import pa
from fastrealign.core.list_rows import of_list, spread, with_none
from fastrealign.core.row_argument import RowArgument, named, unmasked
from fastrealign.core.text import described
from fastrealign.formats import arrow_columns, arrow_schema
from fastrealign.formats.choose_column import Fit

__all__ = ["take"]


def _of_pandas(x: Any, name: str) -> RowArgument | None:
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
        assert taken is not None  # of an Arrow array
        dtype, nulls = taken.rows.dtype, taken.nulls

        def as_arrow(result: Any, left: np.ndarray | None) -> Any:
            rows = with_none(result, nulls, left)
            kept = x.dtype if result.dtype == dtype else object
            return pandas.Series(rows, index(left), kept, **options)

        return RowArgument(taken.rows, as_arrow, nulls)
    if x.dtype != object:
        kind = getattr(x.dtype, "numpy_dtype", x.dtype)
        if not pandas.api.types.is_numeric_dtype(x.dtype):
            raise InputError(f"{name}: a Series of {x.dtype}, expected rows or numbers")
        row = x.to_numpy(kind if kind.kind == "f" or not x.hasnans else np.float64, na_value=np.nan)
        return RowArgument(row, lambda result, left: pandas.Series(result, x.index, **options))
    taken = of_list(x.tolist(), name, take)
    back = taken.back
    assert back is not None  # of a list
    return RowArgument(taken.rows, lambda r, left: pandas.Series(back(r, left), index(left), **options), taken.nulls)


def _of_frame(pandas: Any, x: Any, name: str) -> RowArgument:
    rows = np.asanyarray(x)
    if rows.dtype == object:
        floats = [getattr(kind, "numpy_dtype", kind) for kind in x.dtypes]
        odd = next((i for i, k in enumerate(floats) if not (isinstance(k, np.dtype) and k.kind == "f")), None)
        if odd is not None:
            raise InputError(
                f"{name}: a DataFrame whose column {x.columns[odd]!r} holds {x.dtypes.iloc[odd]}, expected numbers in every "
                "column; pass the one column that holds the embeddings, x[...], or x.select_dtypes('number')"
            )
        rows = x.to_numpy(np.result_type(*floats), na_value=np.nan)

    def back(result: Any, left: np.ndarray | None) -> Any:
        return pandas.DataFrame(result, x.index if left is None else x.index[left], x.columns)

    return RowArgument(rows, back)


def _of_arrow(x: Any, name: str) -> RowArgument | None:
    if isinstance(x, (pa.Table, pa.RecordBatch)):
        raise InputError(
            f"{name}: {described(x)} with {named(x.column_names)}; pass the column that holds the embeddings, x[...]"
        )
    if isinstance(x, pa.Scalar) and hasattr(x, "values"):
        x = x.values
    if not isinstance(x, (pa.Array, pa.ChunkedArray)):
        return None
    chunks = x.chunks if isinstance(x, pa.ChunkedArray) else [x]
    if pa.types.is_floating(x.type):
        return RowArgument(
            np.concatenate([np.empty(0, np.float16), *(c.to_numpy(zero_copy_only=False) for c in chunks)])
        )
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
        return RowArgument(rows)
    return RowArgument(
        rows, None, np.concatenate([np.zeros(len(part), bool) if bad is None else bad for part, bad in parts])
    )


def _of_polars(x: Any, name: str) -> RowArgument | None:
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
        return RowArgument(x.to_numpy(), lambda result, left: polars.DataFrame(result, schema=x.columns))
    if not isinstance(x, polars.Series):
        return None
    if x.dtype.is_numeric():
        return RowArgument(x.to_numpy(), lambda result, left: polars.Series(x.name, result))
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
    rows = spread(held.to_numpy(), nulls) if nulls.any() else held.to_numpy()

    def back(result: Any, left: np.ndarray | None) -> Any:
        out = polars.Series(x.name, result)
        out = out.cast(polars.List(out.dtype.inner)) if lists else out
        return polars.Series(x.name, with_none(out.to_list(), nulls, left), out.dtype) if nulls.any() else out

    return RowArgument(rows, back, nulls if nulls.any() else None)


def _of_datasets(x: Any, name: str) -> RowArgument | None:
    if hasattr(x, "column_names"):
        raise InputError(f"{name}: {described(x)} with {named(x.column_names or ())}; pass the column, x[...]")
    if not hasattr(x, "source"):
        return None
    column = x.source.with_format("arrow")[x.column_name] if hasattr(x.source, "with_format") else x[:]
    taken = take(column[:] if type(column) is type(x) else column, f"{name}: column {x.column_name!r}")
    return RowArgument(taken.rows, None, taken.nulls)


def _of_dask(x: Any, name: str) -> RowArgument | None:
    if not hasattr(x, "compute"):
        return None
    computed = x.compute()  # `__array__` drops masks
    if np.ma.is_masked(computed):
        raise InputError(
            f"{name}: {described(x)} of dask with masked numbers, and masks are not supported; leave such rows out"
        )
    return RowArgument(unmasked(computed, name))


def _of_sparse(x: Any, name: str) -> RowArgument | None:
    if not hasattr(x, "toarray") and not hasattr(x, "todense"):
        return None
    instead = "toarray" if hasattr(x, "toarray") else "todense"
    raise InputError(f"{name}: {described(x)}, which is sparse; embeddings are dense: pass x.{instead}()")


KINDS.update(pandas=_of_pandas, pyarrow=_of_arrow, polars=_of_polars, datasets=_of_datasets)
KINDS.update(dask=_of_dask, scipy=_of_sparse, sparse=_of_sparse)
