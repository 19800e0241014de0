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

from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
import torch

import fastrealign._core as _core
from fastrealign.core import cpu
from fastrealign.core.backend import choose
from fastrealign.core.dtypes import CODES, EXPECTED
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.float_state import computes
from fastrealign.core.optional import Lazy
from fastrealign.core.row_map import Counts, RowMap
from fastrealign.core.rows import as_output, as_rows

if TYPE_CHECKING:
    import fastrealign._cuda as _cuda
    from fastrealign.kernels import launch
else:
    _cuda = Lazy("fastrealign._cuda", "torch", "the CUDA backend")
    launch = Lazy("fastrealign.kernels.launch", "torch", "the Triton backend")

_Packed = TypeVar("_Packed", int, torch.Tensor)
_Sums: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # the low and the high limbs
HEADER: int = _core.MAP_HEADER
_CODES = {getattr(torch, dtype.name): code for dtype, code in CODES.items()}


def pack(row_map: RowMap, d: int, device: torch.device | str = "cpu") -> tuple[torch.Tensor, int]:
    """A row map as the operators take it (csrc/device_layout.h).

    Parameters
    ----------
    row_map : RowMap
        Its b and c have d entries.
    d : int
        Width of the rows.
    device : torch.device or str
        Where the rows are.

    Returns
    -------
    map : float64 tensor (8 + 2 d,)
    terms : int
        Which of b and c the map has: 0 none, 1 b, 2 both.

    Raises
    ------
    InputError
        b or c has another width.

    Examples
    --------
    >>> torch.ops.fastrealign.apply(torch.tensor([[3.0, 4.0]]), *pack(RowMap(), 2))
    tensor([[0.6000, 0.8000]])
    """
    b, c = (np.zeros(d) if v is None else np.asarray(v, np.float64) for v in (row_map.b, row_map.c))
    if b.shape != (d,) or c.shape != (d,):
        raise InputError(f"rows are {d} wide, but the map's b and c have shapes {b.shape} and {c.shape}")
    # The CPU by name: the default device may be "meta", which has no values.
    values = (torch.tensor(v, dtype=torch.float64, device="cpu") for v in (row_map.s, b, c))
    return packed(*values).to(device), row_map.terms


def packed(s: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """The same map from float64 tensors s (), b (d,) and c (d,), on their device."""
    header = [torch.zeros_like(s)] * HEADER
    header[_core.MAP_S] = s
    header[_core.MAP_BB], header[_core.MAP_BC], header[_core.MAP_CC] = b @ b, b @ c, c @ c
    header[_core.MAP_LARGEST_B], header[_core.MAP_LARGEST_C] = b.abs().max(), c.abs().max()
    return torch.cat([torch.stack(header), b, c])


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
    >>> apply(torch.tensor([[3.0, 4.0]]), *pack(RowMap(), 2))
    tensor([[0.6000, 0.8000]])
    """
    rows = _checked(rows, map, terms)
    out = torch.empty(rows.shape, dtype=_float(dtype or rows.dtype), device=rows.device)
    _apply(rows, out, map, terms, None, None, None)
    return out


@apply.register_fake
def _(rows: torch.Tensor, map: torch.Tensor, terms: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    _checked(rows, map, terms)
    return torch.empty(rows.shape, dtype=_float(dtype or rows.dtype), device=rows.device)


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
    >>> low, high, bad = reduce(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), *pack(RowMap(), 2))
    >>> bad
    tensor([1, 1, 1])
    """
    rows = _checked(rows, map, terms)
    low, high = _zero_sums(rows)
    found = torch.zeros(2, dtype=torch.int64, device=rows.device)
    _reduce(rows, map, terms, (low, high), found, None)
    count, packed = found.unbind()
    row, state = _first_bad(packed)
    return low, high, torch.stack([count, torch.where(count > 0, row, -1), torch.where(count > 0, state, 0)])


@reduce.register_fake
def _(rows: torch.Tensor, map: torch.Tensor, terms: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    _checked(rows, map, terms)
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
    >>> vjp(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), *pack(RowMap(), 2))
    tensor([[ 0.1280, -0.0960]])
    """
    return _vjp(rows, gradient, map, terms)


@vjp.register_fake
def _(rows: torch.Tensor, gradient: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
    return torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)


@computes
def _vjp(rows: torch.Tensor, gradient: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
    kind = torch.promote_types(rows.dtype, gradient.dtype)
    y, g = (_checked(x.to(kind), map, terms) for x in (rows, gradient))
    out = torch.empty(y.shape, dtype=kind, device=y.device)
    chosen = _backend(y)
    if len(y) == 0:
        pass
    elif chosen == "cuda":
        _cuda.vjp(_matrix(y), _matrix(g), _matrix(out), (map.data_ptr(), terms), _launch(y))
    elif chosen == "triton":
        launch.vjp(y, g, out, map, terms)
    else:
        cpu.vjp(as_rows(y), as_rows(g), _row_map(map, terms), as_output(out), backend=chosen)
    return out.to(rows.dtype)


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


def apply_rows(
    rows: torch.Tensor,
    row_map: RowMap,
    out: torch.Tensor,
    *,
    into: ExactSum | None = None,
    flags: np.ndarray | None = None,
    backend: str | None = None,
) -> Counts:
    """`ops.apply` for tensors on a device. Synchronizes, for the counts."""
    _check_output(rows, out)
    return _counted(rows, row_map, out, into, flags, backend)


def _check_output(rows: torch.Tensor, out: torch.Tensor) -> None:
    """`rows.check_output` for tensors on a device."""
    if not isinstance(out, torch.Tensor) or out.device != rows.device:
        where = out.device if isinstance(out, torch.Tensor) else "the CPU"
        raise InputError(f"the rows are on {rows.device}, out on {where}; move one to the other")
    contiguous = out.numel() == 0 or out.shape[-1] == 1 or out.stride(-1) == 1
    if out.shape != rows.shape or out.dtype not in _CODES or not contiguous:
        raise InputError(
            f"out has shape {tuple(out.shape)} and type {out.dtype}, expected {tuple(rows.shape)} in a float type, "
            "rows together"
        )
    if len(out) > 1 and out.stride(0) < out.shape[1]:
        raise InputError("the rows of out overlap each other in memory; pass memory of its own for each")
    ends = [
        (x.data_ptr(), x.data_ptr() + ((len(x) - 1) * x.stride(0) + x.shape[1]) * x.element_size()) for x in (rows, out)
    ]
    in_place = (rows.data_ptr(), rows.stride(), rows.dtype) == (out.data_ptr(), out.stride(), out.dtype)
    if len(out) and not in_place and ends[0][0] < ends[1][1] and ends[1][0] < ends[0][1]:
        raise InputError("out and the rows overlap in memory; pass the rows themselves as out, or memory of its own")


def reduce_rows(
    rows: torch.Tensor,
    row_map: RowMap,
    into: ExactSum,
    *,
    flags: np.ndarray | None = None,
    backend: str | None = None,
) -> Counts:
    """`ops.reduce` for tensors on a device."""
    return _counted(rows, row_map, None, into, flags, backend)


def _counted(
    rows: torch.Tensor,
    row_map: RowMap,
    out: torch.Tensor | None,
    into: ExactSum | None,
    flags: np.ndarray | None,
    backend: str | None,
) -> Counts:
    """`reduce` where there is no out, else `apply`; then copies counts, sums and flags to the host."""
    map, terms = pack(row_map, rows.shape[1], rows.device)
    rows = _checked(rows, map, terms)
    found = torch.zeros(2, dtype=torch.int64, device=rows.device)
    sums = _zero_sums(rows) if into is not None else None
    states = None if flags is None else torch.zeros(len(rows), dtype=torch.uint8, device=rows.device)
    if out is None:
        assert sums is not None
        _reduce(rows, map, terms, sums, found, states, backend)
    else:
        _apply(rows, out, map, terms, sums, found, states, backend)
    bad, packed = found.tolist()
    counts = Counts(len(rows) - bad, bad, *_first_bad(packed)) if bad else Counts(len(rows))
    if into is not None and sums is not None:
        part = ExactSum.over(*(t.cpu().numpy() for t in sums))
        part.count = counts.good
        into.add(part)
    if flags is not None and states is not None:
        flags[:] = states.cpu().numpy()
    return counts


def _apply(
    rows: torch.Tensor,
    out: torch.Tensor,
    map: torch.Tensor,
    terms: int,
    sums: _Sums | None,
    found: torch.Tensor | None,
    states: torch.Tensor | None,
    backend: str | None = None,
) -> None:
    """Store f(rows) in `out`; add to sums and found (number of bad rows, the first one packed), set states."""
    name = _backend(rows, backend)
    if len(rows) == 0:
        return
    if name == "cuda":
        results = _addresses(sums, found, states)
        _cuda.apply(_matrix(rows), _matrix(out), (map.data_ptr(), terms), results, _launch(rows))
    elif name == "triton":
        found = torch.zeros(2, dtype=torch.int64, device=rows.device) if found is None else found
        computes(launch.apply)(rows, out, map, terms, sums=sums, bad=found, flags=states)
    else:
        into = None if sums is None else ExactSum.over(*(t.numpy() for t in sums))
        flags = None if states is None else states.numpy()
        counts = cpu.apply(as_rows(rows), _row_map(map, terms), as_output(out), into=into, flags=flags, backend=name)
        _note(found, counts)


def _reduce(
    rows: torch.Tensor,
    map: torch.Tensor,
    terms: int,
    sums: _Sums,
    found: torch.Tensor,
    states: torch.Tensor | None,
    backend: str | None = None,
) -> None:
    """Add f(rows) to sums; found and states as for `_apply`."""
    name = _backend(rows, backend)
    if len(rows) == 0:
        return
    if name == "cuda":
        _cuda.reduce(_matrix(rows), (map.data_ptr(), terms), _addresses(sums, found, states), _launch(rows))
    elif name == "triton":
        computes(launch.reduce)(rows, map, terms, sums=sums, bad=found, flags=states)
    else:
        into = ExactSum.over(*(t.numpy() for t in sums))
        flags = None if states is None else states.numpy()
        _note(found, cpu.reduce(as_rows(rows), _row_map(map, terms), into, flags=flags, backend=name))


def _checked(rows: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
    """Rows with contiguous columns. Raises InputError for rows and maps that no kernel takes."""
    _float(rows.dtype)
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise InputError(f"rows have shape {tuple(rows.shape)}, expected (rows, width)")
    if map.dtype != torch.float64:
        raise InputError(
            f"the map is {map.dtype}, expected float64: a module's buffers were cast, as FSDP does with a buffer_dtype; set "
            "MixedPrecision(buffer_dtype=None), or make the map with torch_ops.pack"
        )
    if terms not in (_core.TERMS_NONE, _core.TERMS_B, _core.TERMS_BC):
        raise InputError(f"terms={terms}: expected 0 (neither b nor c), 1 (b) or 2 (both)")
    if map.shape != (HEADER + 2 * rows.shape[1],):
        wide = (map.numel() - HEADER) // 2
        raise InputError(f"rows are {rows.shape[1]} wide, the map is of {wide} wide rows; make it with torch_ops.pack")
    if map.device != rows.device:
        raise InputError(f"the rows are on {rows.device}, the map on {map.device}; move one to the other")
    if rows.shape[1] > 1 and rows.stride(1) != 1:
        rows = rows.contiguous()
    return rows


def _float(dtype: torch.dtype) -> torch.dtype:
    if dtype not in _CODES:
        raise InputError(f"element type {dtype}, {EXPECTED}")
    return dtype


def _backend(rows: torch.Tensor, asked: str | None = None) -> str:
    return choose(rows.device.type, rows.device.index or 0, asked).name


def _matrix(x: torch.Tensor) -> tuple[int, int, int, int, int]:
    return x.data_ptr(), _CODES[x.dtype], x.shape[0], x.shape[1], x.stride(0) * x.element_size()


def _row_map(map: torch.Tensor, terms: int) -> RowMap:
    values = map.numpy()
    d = (len(values) - HEADER) // 2
    b, c = values[HEADER : HEADER + d], values[HEADER + d :]
    return RowMap(
        float(values[_core.MAP_S]), b if terms >= _core.TERMS_B else None, c if terms == _core.TERMS_BC else None
    )


def _launch(rows: torch.Tensor) -> tuple[int, int, int, int]:
    device = rows.device.index or 0
    return device, torch.cuda.current_stream(device).cuda_stream, 0, 0


def _addresses(
    sums: _Sums | None, found: torch.Tensor | None, states: torch.Tensor | None
) -> tuple[int, int, int, int]:
    low, high = (0, 0) if sums is None else (t.data_ptr() for t in sums)
    return low, high, 0 if found is None else found.data_ptr(), 0 if states is None else states.data_ptr()


def _zero_sums(rows: torch.Tensor) -> _Sums:
    low = torch.zeros(rows.shape[1], dtype=torch.int64, device=rows.device)
    return low, torch.zeros_like(low)


def _note(found: torch.Tensor | None, counts: Counts) -> None:
    """Store counts as the kernels do (csrc/device_layout.h)."""
    if found is not None and counts.bad:
        found[0] = counts.bad
        found[1] = _core.FIRST_BAD_BASE - (counts.first_bad << _core.STATE_BITS | counts.reason)


def _first_bad(packed: _Packed) -> tuple[_Packed, _Packed]:
    """The number of the first bad row and its state, as csrc/device_layout.h packs them."""
    first = _core.FIRST_BAD_BASE - packed
    return first >> _core.STATE_BITS, first & (1 << _core.STATE_BITS) - 1
