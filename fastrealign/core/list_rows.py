"""Rows in lists: each row of any kind, missing rows as NaN, results as lists again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np

from fastrealign.core.dtypes import NAMES
from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.libraries import torch
from fastrealign.core.row_argument import RowArgument, unmasked
from fastrealign.core.tensors import is_tensor, plain
from fastrealign.core.text import described

Take: TypeAlias = Callable[[Any, str], RowArgument]


def of_list(x: Any, name: str, take: Take) -> RowArgument:
    """The rows of a list, a tuple or an array of objects, which holds rows or the numbers of one row; `take` reads a row."""
    kind = next((k for k in (list, tuple) if isinstance(x, k)), None)
    nulls = np.array([_missing(row) for row in x], dtype=bool)
    held = [row for row, null in zip(x, nulls, strict=True) if not null]
    if not held:
        raise InputError(f"{name}: {described(x)} of {count(len(x), 'row')}, all of them missing")
    if all(isinstance(number, (int, float, np.number)) for number in held):
        # NumPy scalars keep their type; Python's numbers are float64
        kinds = {type(number) for number in held}
        row = np.array([np.nan if null else number for number, null in zip(x, nulls, strict=True)])
        row = row if all(issubclass(k, np.number) for k in kinds) else row.astype(np.float64)
        return RowArgument(row, None if kind is None else lambda result, left: kind(result.tolist()))
    if any(isinstance(row, (str, bytes, Mapping)) for row in held):
        odd = next(row for row in held if isinstance(row, (str, bytes, Mapping)))
        raise InputError(f"{name}: {described(x)} that holds {described(odd)}, expected rows of numbers")
    rows, back = _stacked(held, np.flatnonzero(~nulls), name, take)
    if nulls.any():
        rows = spread(rows, nulls)

    missing = nulls if nulls.any() else None
    return RowArgument(rows, (lambda r, left: kind(with_none(back(r), missing, left))) if kind else None, missing)


def with_none(rows: Iterable[Any], nulls: np.ndarray | None, left: np.ndarray | None) -> list[Any]:
    """The rows as a list, with None for those that were missing; `left` as for `Back`."""
    if nulls is None:
        return list(rows)
    return [None if null else row for row, null in zip(rows, nulls if left is None else nulls[left], strict=True)]


def _missing(row: Any) -> bool:
    return row is None or (isinstance(row, float) and row != row) or type(row).__name__ == "NAType"


def _stacked(held: list[Any], numbers: np.ndarray, name: str, take: Take) -> tuple[Any, Callable[[Any], list[Any]]]:
    """Rows of one width stacked to (n, d), and a function that makes a list of such rows from a result.

    numbers: the index of each row, for messages.
    """
    if all(type(row) is list for row in held):
        with suppress(ValueError, TypeError):  # the checks row by row below say which one is wrong
            table = np.array(held)
            if table.ndim == 2 and table.dtype.kind in "iuf":
                return table if table.dtype.kind == "f" else table.astype(np.float64), lambda result: result.tolist()
    taken = [_one(row, number, name, take) for row, number in zip(held, numbers, strict=True)]
    widths = [len(one.rows) for one in taken]
    other = next((i for i, width in enumerate(widths) if width != widths[0]), None)
    if other is not None:
        raise InputError(
            f"{name}: row {numbers[other]} is {widths[other]} wide, row {numbers[0]} {widths[0]}; all must be of one width"
        )
    rows: list[Any] = [one.rows for one in taken]
    if all(is_tensor(row) for row in rows):
        kind = type(held[0])
        stacked = torch.stack([row.detach().to(rows[0].device) for row in rows])
        back = (lambda result: [row.as_subclass(kind) for row in result]) if _simple(kind) else list
        return stacked, back
    arrays = [row.cpu().float().numpy() if is_tensor(row) else row for row in rows]
    first = taken[0].back
    return np.stack(arrays), (lambda result: [first(row, None) for row in result]) if first else list


def _simple(kind: Any) -> bool:
    """Whether torch's operations on this tensor subclass return the subclass."""
    return (
        kind is not torch.nn.Parameter and kind.__torch_function__.__func__ is torch.Tensor.__torch_function__.__func__
    )


def _one(row: Any, number: int, name: str, take: Take) -> RowArgument:
    if type(row) is np.ndarray:
        taken = RowArgument(row)
    elif is_tensor(row):
        if row.requires_grad:
            raise InputError(f"{name}: row {number} requires a gradient, which is not recorded; pass its .detach()")
        taken = RowArgument(plain(row, f"{name}: row {number}"))
    else:
        taken = take(row, f"{name}: row {number}")
        if not is_tensor(taken.rows):
            taken = RowArgument(unmasked(taken.rows, f"{name}: row {number}"), taken.back)
    if taken.rows.ndim != 1:
        raise InputError(
            f"{name}: row {number} of a list has shape {tuple(taken.rows.shape)}, expected one dimension; pass one array of "
            "all rows (numpy.concatenate, torch.cat)"
        )
    return taken


def spread(rows: Any, nulls: np.ndarray) -> Any:
    """The rows (n, d) at the places that are not null, and NaN at the others."""
    if is_tensor(rows):
        out = rows.new_full((len(nulls), rows.shape[1]), torch.nan)
        out[torch.from_numpy(~nulls).to(rows.device)] = rows
        return out
    dtype = rows.dtype if rows.dtype.name in NAMES else np.float64
    out = np.full((len(nulls), rows.shape[1]), np.nan, dtype)
    out[~nulls] = rows
    return out
