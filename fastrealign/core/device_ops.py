"""The kernels on torch tensors: `reduce_rows`, `apply_rows`, and the functions behind the operators of torch_ops.py.

Rows on the CPU go to cpu.py; rows on a device go to the CUDA or Triton kernels, on torch's current stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import torch

import fastrealign._core as _core
from fastrealign.core import cpu
from fastrealign.core.backend import choose
from fastrealign.core.bad_rows import Counts
from fastrealign.core.dtypes import CODES, EXPECTED
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.float_state import computes
from fastrealign.core.optional import Lazy
from fastrealign.core.packed_map import HEADER, pack, row_map_of
from fastrealign.core.row_map import RowMap
from fastrealign.core.rows import as_output, as_rows
from fastrealign.core.tensors import in_large_pages

if TYPE_CHECKING:
    import fastrealign_cuda

    from fastrealign.kernels import launch
else:
    fastrealign_cuda = Lazy("fastrealign_cuda", "cuda", "the CUDA backend")
    launch = Lazy("fastrealign.kernels.launch", "torch", "the Triton backend")

_Packed = TypeVar("_Packed", int, torch.Tensor)
Sums: TypeAlias = tuple[torch.Tensor, torch.Tensor]  # the low and the high limbs
_CODES = {getattr(torch, dtype.name): code for dtype, code in CODES.items()}


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
    return collected(Launched(rows, pack(row_map, rows.shape[1], rows.device), out, into, flags, backend))[0]


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
        raise InputError("the rows of out overlap in memory; pass separate memory for each row")
    ends = [
        (x.data_ptr(), x.data_ptr() + ((len(x) - 1) * x.stride(0) + x.shape[1]) * x.element_size()) for x in (rows, out)
    ]
    in_place = (rows.data_ptr(), rows.stride(), rows.dtype) == (out.data_ptr(), out.stride(), out.dtype)
    if len(out) and not in_place and ends[0][0] < ends[1][1] and ends[1][0] < ends[0][1]:
        raise InputError("out and the rows overlap in memory; pass the rows themselves as out, or separate memory")


def reduce_rows(
    rows: torch.Tensor, row_map: RowMap, into: ExactSum, *, flags: np.ndarray | None = None, backend: str | None = None
) -> Counts:
    """`ops.reduce` for tensors on a device."""
    return collected(Launched(rows, pack(row_map, rows.shape[1], rows.device), None, into, flags, backend))[0]


class Launched:
    """A kernel that was launched, and its results on their way to the host: `collected` waits for them.

    rows, packed   on one device; packed as `pack` gives it
    out            where the kernel stores f(rows); None: it only adds f(rows) to `into`
    into, flags    receive the sums and the state of each row
    """

    def __init__(
        self,
        rows: torch.Tensor,
        packed: tuple[torch.Tensor, int],
        out: torch.Tensor | None,
        into: ExactSum | None,
        flags: np.ndarray | None,
        backend: str | None = None,
    ) -> None:
        self._into, self._flags = into, flags
        rows, (n, d) = checked(rows, *packed), rows.shape
        self._rows, self.device = n, rows.device
        # What was found and the limbs of the sums in one tensor: one copy to the host.
        results = torch.zeros(2 if into is None else 2 + 2 * d, dtype=torch.int64, device=rows.device)
        found, sums = results[:2], None if into is None else (results[2 : 2 + d], results[2 + d :])
        states = None if flags is None else torch.zeros(n, dtype=torch.uint8, device=rows.device)
        if out is not None:
            apply_into(rows, out, *packed, sums, found, states, backend)
        elif sums is not None:
            reduce_into(rows, *packed, sums, found, states, backend)
        self._results, self._states = _sent(results), None if states is None else _sent(states)

    def counts(self) -> Counts:
        """What was counted, once the device is done; adds the sums to `into` and sets the flags."""
        results = self._results.numpy()
        bad, packed = int(results[0]), int(results[1])
        counts = Counts(self._rows - bad, bad, *first_bad(packed)) if bad else Counts(self._rows)
        if self._into is not None:
            part = ExactSum.over(*np.split(results[2:], 2))
            part.count = counts.good
            self._into.add(part)
        if self._flags is not None and self._states is not None:
            self._flags[:] = self._states.numpy()
        return counts


def collected(*launched: Launched) -> list[Counts]:
    """Wait, once, for what this thread launched on the current stream of a device; the counts of each."""
    _wait(launched[0].device)
    return [one.counts() for one in launched]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def _sent(x: torch.Tensor) -> torch.Tensor:
    """A copy on the host that is there after `_wait`."""
    if not x.is_cuda:
        return x.cpu()
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def apply_into(
    rows: torch.Tensor,
    out: torch.Tensor,
    map: torch.Tensor,
    terms: int,
    sums: Sums | None,
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
        fastrealign_cuda.apply(_matrix(rows), _matrix(out), (map.data_ptr(), terms), results, _launch(rows))
    elif name == "triton":
        found = torch.zeros(2, dtype=torch.int64, device=rows.device) if found is None else found
        computes(launch.apply)(rows, out, map, terms, sums=sums, bad=found, flags=states)
    else:
        into = None if sums is None else ExactSum.over(*(t.numpy() for t in sums))
        flags = None if states is None else states.numpy()
        counts = cpu.apply(as_rows(rows), row_map_of(map, terms), as_output(out), into=into, flags=flags, backend=name)
        _note(found, counts)


def reduce_into(
    rows: torch.Tensor,
    map: torch.Tensor,
    terms: int,
    sums: Sums,
    found: torch.Tensor,
    states: torch.Tensor | None,
    backend: str | None = None,
) -> None:
    """Add f(rows) to sums; found and states as for `apply_into`."""
    name = _backend(rows, backend)
    if len(rows) == 0:
        return
    if name == "cuda":
        fastrealign_cuda.reduce(_matrix(rows), (map.data_ptr(), terms), _addresses(sums, found, states), _launch(rows))
    elif name == "triton":
        computes(launch.reduce)(rows, map, terms, sums=sums, bad=found, flags=states)
    else:
        into = ExactSum.over(*(t.numpy() for t in sums))
        flags = None if states is None else states.numpy()
        _note(found, cpu.reduce(as_rows(rows), row_map_of(map, terms), into, flags=flags, backend=name))


@computes
def vjp_of(rows: torch.Tensor, gradient: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
    kind = torch.promote_types(rows.dtype, gradient.dtype)
    y, g = (checked(x.to(kind), map, terms) for x in (rows, gradient))
    out = in_large_pages(torch.empty(y.shape, dtype=kind, device=y.device))
    chosen = _backend(y)
    if len(y) == 0:
        pass
    elif chosen == "cuda":
        fastrealign_cuda.vjp(_matrix(y), _matrix(g), _matrix(out), (map.data_ptr(), terms), _launch(y))
    elif chosen == "triton":
        launch.vjp(y, g, out, map, terms)
    else:
        cpu.vjp(as_rows(y), as_rows(g), row_map_of(map, terms), as_output(out), backend=chosen)
    return out.to(rows.dtype)


def checked(rows: torch.Tensor, map: torch.Tensor, terms: int) -> torch.Tensor:
    """Rows with contiguous columns. Raises InputError for rows and maps that no kernel takes."""
    float_type(rows.dtype)
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
        raise InputError(f"rows are {rows.shape[1]} wide, the map is for rows {wide} wide; make it with torch_ops.pack")
    if map.device != rows.device:
        raise InputError(f"the rows are on {rows.device}, the map on {map.device}; move one to the other")
    if rows.shape[1] > 1 and rows.stride(1) != 1:
        rows = rows.contiguous()
    return rows


def float_type(dtype: torch.dtype) -> torch.dtype:
    if dtype not in _CODES:
        raise InputError(f"element type {dtype}, {EXPECTED}")
    return dtype


def _backend(rows: torch.Tensor, asked: str | None = None) -> str:
    return choose(rows.device.type, rows.device.index or 0, asked).name


def _matrix(x: torch.Tensor) -> tuple[int, int, int, int, int]:
    return x.data_ptr(), _CODES[x.dtype], x.shape[0], x.shape[1], x.stride(0) * x.element_size()


def _launch(rows: torch.Tensor) -> tuple[int, int, int, int]:
    device = rows.device.index or 0
    return device, torch.cuda.current_stream(device).cuda_stream, 0, 0


def _addresses(sums: Sums | None, found: torch.Tensor | None, states: torch.Tensor | None) -> tuple[int, int, int, int]:
    low, high = (0, 0) if sums is None else (t.data_ptr() for t in sums)
    return low, high, 0 if found is None else found.data_ptr(), 0 if states is None else states.data_ptr()


def zero_sums(rows: torch.Tensor) -> Sums:
    low = torch.zeros(rows.shape[1], dtype=torch.int64, device=rows.device)
    return low, torch.zeros_like(low)


def _note(found: torch.Tensor | None, counts: Counts) -> None:
    """Store counts as the kernels do (csrc/device_layout.h)."""
    if found is not None and counts.bad:
        found[0] = counts.bad
        found[1] = _core.FIRST_BAD_BASE - (counts.first_bad << _core.STATE_BITS | counts.reason)


def first_bad(packed: _Packed) -> tuple[_Packed, _Packed]:
    """The number of the first bad row and its state, as csrc/device_layout.h packs them."""
    first = _core.FIRST_BAD_BASE - packed
    return first >> _core.STATE_BITS, first & (1 << _core.STATE_BITS) - 1
