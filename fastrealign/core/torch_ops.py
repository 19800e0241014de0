"""torch.ops.fastrealign: the row map as PyTorch operators, on the backend that backend.py chooses.

    apply(rows, map, terms, dtype=None) -> (n, d)             f of each row
    reduce(rows, map, terms) -> (low, high, bad)              exact sums of f over the rows
    vjp(rows, gradient, map, terms) -> (n, d)                 J(row)^T gradient, which autograd calls

`rows` (n, d) may be float16, bfloat16, float32 or float64, with any row stride. `map` and `terms` come from `pack`. No operator
synchronizes and none depends on values, so they work under torch.compile and in CUDA graphs. Rows without a direction are
passed on unchanged; `reduce` reports them (`bad`: their number, the index of the first or -1, its state). Autocast does not
change the operators: they compute in float32 or float64 for every type of rows.
"""

from __future__ import annotations

from typing import Any

import torch

from fastrealign.core.device_ops import apply_into, checked, first_bad, float_type, reduce_into, vjp_of, zero_sums
from fastrealign.core.errors import InputError
from fastrealign.core.packed_map import pack, packed
from fastrealign.core.tensors import in_large_pages

__all__ = ["apply", "pack", "packed", "reduce", "vjp"]


@torch.library.custom_op("fastrealign::apply", mutates_args=())
def apply(rows: torch.Tensor, map: torch.Tensor, terms: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """f of each row.

    Parameters
    ----------
    rows : tensor (n, d)
        float16, bfloat16, float32 or float64, with any row stride.
    map, terms
        From `pack`, on the device of the rows.
    dtype : torch.dtype, optional
        Of the result; the type of the rows by default.

    Returns
    -------
    tensor (n, d)
        A row without a direction is returned unchanged.

    Raises
    ------
    InputError
        The map belongs to rows of another width or device, or the kernels do not take such rows.

    Examples
    --------
    >>> from fastrealign.core.row_map import RowMap
    >>> apply(torch.tensor([[3.0, 4.0]]), *pack(RowMap(), 2))
    tensor([[0.6000, 0.8000]])
    """
    rows = checked(rows, map, terms)
    out = in_large_pages(torch.empty(rows.shape, dtype=float_type(dtype or rows.dtype), device=rows.device))
    apply_into(rows, out, map, terms, None, None, None)
    return out


@apply.register_fake
def _(rows: torch.Tensor, map: torch.Tensor, terms: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    checked(rows, map, terms)
    return torch.empty(rows.shape, dtype=float_type(dtype or rows.dtype), device=rows.device)


@torch.library.custom_op("fastrealign::reduce", mutates_args=())
def reduce(rows: torch.Tensor, map: torch.Tensor, terms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Exact sums of f over the rows.

    Parameters
    ----------
    rows, map, terms
        As for `apply`.

    Returns
    -------
    low, high : int64 tensors (d,)
        The limbs of the sums (ExactSum).
    bad : int64 tensor (3,)
        The number of rows without a direction, the index of the first or -1, and its state.

    Examples
    --------
    >>> from fastrealign.core.row_map import RowMap
    >>> low, high, bad = reduce(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), *pack(RowMap(), 2))
    >>> bad
    tensor([1, 1, 1])
    """
    rows = checked(rows, map, terms)
    low, high = zero_sums(rows)
    found = torch.zeros(2, dtype=torch.int64, device=rows.device)
    reduce_into(rows, map, terms, (low, high), found, None)
    count, packed = found.unbind()
    row, state = first_bad(packed)
    return low, high, torch.stack([count, torch.where(count > 0, row, -1), torch.where(count > 0, state, 0)])


@reduce.register_fake
def _(rows: torch.Tensor, map: torch.Tensor, terms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    checked(rows, map, terms)
    sums = torch.empty(rows.shape[1], dtype=torch.int64, device=rows.device)
    return sums, torch.empty_like(sums), torch.empty(3, dtype=torch.int64, device=rows.device)


@torch.library.custom_op("fastrealign::vjp", mutates_args=())
def vjp(rows: torch.Tensor, gradient: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
    """J(row)^T gradient for each row, where J is the Jacobian of f; autograd calls it for `apply`.

    Parameters
    ----------
    rows, gradient : tensor (n, d)
        Computed in the wider of their types.
    map, terms
        As for `apply`.

    Returns
    -------
    tensor (n, d)
        Of the type of the rows; zeros for rows without a direction.

    Examples
    --------
    >>> from fastrealign.core.row_map import RowMap
    >>> vjp(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), *pack(RowMap(), 2))
    tensor([[ 0.1280, -0.0960]])
    """
    return vjp_of(rows, gradient, map, terms)


@vjp.register_fake
def _(rows: torch.Tensor, gradient: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
    return torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    rows, map, ctx.terms, _ = inputs
    if ctx.needs_input_grad[1]:
        raise InputError("the map is fitted, not trained: no gradient flows to it; pass map.detach()")
    ctx.save_for_backward(rows, map.clone())  # a module may update its map before the backward pass


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    rows, map = ctx.saved_tensors
    return torch.ops.fastrealign.vjp(rows, gradient, map, ctx.terms), None, None, None


def _refuse(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    raise InputError("exact sums are whole numbers, through which no gradient flows; pass rows.detach()")


def _refuse_second(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    raise InputError("no gradient flows through a gradient of the row map; leave out create_graph")


def _never(ctx: Any, *gradients: torch.Tensor) -> None:
    raise AssertionError("reached only if _refuse was not")


apply.register_autograd(_backward, setup_context=_remember)
reduce.register_autograd(_never, setup_context=_refuse)
vjp.register_autograd(_never, setup_context=_refuse_second)
