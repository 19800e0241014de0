"""Launches the Triton kernels: tiles, grids, memory for partial sums. Takes tensors and enqueues on the current stream.

Memory besides input and output: for sums, `programs` x D int64, at most PROGRAMS_PER_MULTIPROCESSOR per multiprocessor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton

import fastrealign._core as _core

from . import apply as _apply
from . import reduce as _reduce
from . import rows as _rows
from . import vjp as _vjp

INTERPRETED = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
PROGRAMS_PER_MULTIPROCESSOR = 8
# The number of rows that a program's int64 sums can hold.
ROWS_BEFORE_FLUSH = _core.ROWS_BEFORE_FLUSH
# A shift larger than this is computed in float64, by the element type of the result (csrc/row_map.h).
_LARGEST_SHIFT: dict[torch.dtype, float] = {
    torch.float32: _core.LARGEST_SHIFT_32,
    torch.float16: _core.LARGEST_SHIFT_16,
    torch.bfloat16: _core.LARGEST_SHIFT_16,
}
_NO_LIMIT = -1.0
# Entries of a tile: as many as four warps hold in registers, with three float64 sums per entry.
TILE = 1024
WARPS = 4
# For `apply`: by default ptxas uses 128 registers and spills; with 160 it does not.
APPLY_REGISTERS = 160


class Tile(NamedTuple):
    rows: int
    block: int


def apply_tile(d: int) -> Tile:
    """Few rows, long blocks: 16 bytes per thread."""
    block = min(256, triton.next_power_of_2(max(d, 16)))
    return Tile(TILE // block, block)


def reduce_tile(d: int, itemsize: int) -> Tile:
    """Sixteen rows share one load and store of the sums; a block of a row is at least 128 bytes."""
    block = min(128 if itemsize == 2 else 64, triton.next_power_of_2(max(d, 16)))
    return Tile(max(16, TILE // block), block)


def apply(
    x: torch.Tensor,
    out: torch.Tensor,
    packed: torch.Tensor,
    terms: int,
    *,
    sums: tuple[torch.Tensor, torch.Tensor] | None,
    bad: torch.Tensor,
    flags: torch.Tensor | None,
) -> None:
    """Store f(x) in `out`; x and out (n, d), any row stride, contiguous columns. Adds to sums (low, high) and bad."""
    d = x.shape[1]
    tile = apply_tile(d)
    wide = torch.float64 in (x.dtype, out.dtype)
    for lo, hi in _slices(x, tile) if sums is not None else [(0, len(x))]:
        programs = _programs(hi - lo, tile, x)
        partial = _partial(programs, d, x) if sums is not None else bad
        with _on(x):
            _apply.apply_kernel[(programs,)](
                x[lo:hi],
                out[lo:hi],
                packed,
                partial,
                bad,
                bad if flags is None else flags[lo:hi],
                hi - lo,
                x.stride(0),
                out.stride(0),
                lo,
                D=d,
                ROWS=tile.rows,
                BLOCK=tile.block,
                TERMS=terms,
                LARGEST_SHIFT=_NO_LIMIT if wide else _LARGEST_SHIFT[out.dtype],
                WIDE=wide,
                SUMS=sums is not None,
                FLAGS=flags is not None,
                **_options(APPLY_REGISTERS),
            )
            if sums is not None:
                _finish(partial, sums, programs, d)


def reduce(
    x: torch.Tensor,
    packed: torch.Tensor,
    terms: int,
    *,
    sums: tuple[torch.Tensor, torch.Tensor],
    bad: torch.Tensor,
    flags: torch.Tensor | None,
) -> None:
    """Add f(x) over the rows of x (n, d) to sums (low, high), and rows without a direction to bad."""
    d = x.shape[1]
    tile = reduce_tile(d, x.element_size())
    for lo, hi in _slices(x, tile):
        programs = _programs(hi - lo, tile, x)
        partial = _partial(programs, d, x)
        with _on(x):
            _reduce.reduce_kernel[(programs,)](
                x[lo:hi],
                packed,
                partial,
                bad,
                bad if flags is None else flags[lo:hi],
                hi - lo,
                x.stride(0),
                lo,
                D=d,
                ROWS=tile.rows,
                BLOCK=tile.block,
                TERMS=terms,
                FLAGS=flags is not None,
                **_options(),
            )
            _finish(partial, sums, programs, d)


def vjp(y: torch.Tensor, g: torch.Tensor, out: torch.Tensor, packed: torch.Tensor, terms: int) -> None:
    """Store J(y)^T g in `out`; all (n, d), any row stride, contiguous columns."""
    if len(y) == 0:
        return
    d = y.shape[1]
    tile = apply_tile(d)
    with _on(y):
        _vjp.vjp_kernel[(_programs(len(y), tile, y),)](
            y,
            g,
            out,
            packed,
            len(y),
            y.stride(0),
            g.stride(0),
            out.stride(0),
            D=d,
            ROWS=tile.rows,
            BLOCK=tile.block,
            TERMS=terms,
            **_options(),
        )


def _finish(partial: torch.Tensor, sums: tuple[torch.Tensor, torch.Tensor], programs: int, d: int) -> None:
    block = min(128, triton.next_power_of_2(max(d, 16)))
    _rows.finish_kernel[(triton.cdiv(d, block),)](partial, *sums, programs, D=d, BLOCK=block, **_options())


def _programs(n: int, tile: Tile, x: torch.Tensor) -> int:
    """Enough programs to fill the device, at most one per tile. Results do not depend on their number."""
    most = 3 if INTERPRETED else PROGRAMS_PER_MULTIPROCESSOR * _multiprocessors(x.device)
    return max(1, min(most, triton.cdiv(n, tile.rows)))


def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _slices(x: torch.Tensor, tile: Tile) -> Iterator[tuple[int, int]]:
    """Slices of the rows, as many rows as the programs' sums can hold."""
    step = _programs(len(x), tile, x) * ROWS_BEFORE_FLUSH
    for lo in range(0, len(x), step):
        yield lo, min(lo + step, len(x))


def _partial(programs: int, d: int, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(programs, d, dtype=torch.int64, device=x.device)


def _on(x: torch.Tensor) -> AbstractContextManager[Any]:
    """Makes the device of x current: Triton launches kernels on the current device, wherever the tensors are."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _options(registers: int | None = None) -> dict[str, Any]:
    # No implicit fused multiply-add: kernels fuse explicitly. (The default of this option changes with Triton 3.10.)
    options: dict[str, Any] = {"num_warps": WARPS, "enable_fp_fusion": False}
    if registers and not INTERPRETED and not torch.version.hip:
        options["maxnreg"] = registers
    return options
