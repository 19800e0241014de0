"""Launches the Triton kernels: tiles, grids, memory for sums. Takes tensors and enqueues on the current stream.

Memory besides input and output: for sums, 2 d + 2 int64 per program. A program is one warp; as many run as registers allow.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

import fastrealign._core as _core

from . import apply as _apply
from . import reduce as _reduce
from . import sums as _sums
from . import vjp as _vjp

INTERPRETED = _sums.INTERPRETED
# Rows of a program in one launch. Its int64 sums hold them: of the rows, at most 128 2^40 steps each, and of beta, 644 2^40.
ROWS_BEFORE_FLUSH = 1 << 13
_CANCELLED_BELOW_16 = _core.CANCELLED_BELOW_16
_HALVES = (torch.float16, torch.bfloat16)
# Of a multiprocessor of NVIDIA's.
_REGISTERS = 1 << 16


class Tile(NamedTuple):
    """Rows of a tile; columns of each for the dot products, columns of one row where it is written or added.

    registers: of a thread, as few as the code takes without spilling.
    """

    rows: int
    block: int
    long: int
    registers: int


def tile_of(d: int, itemsize: int, registers: int) -> Tile:
    """Tiles in which a thread loads 16 bytes of a row."""
    line = 128 // itemsize
    block, long = (min(most, triton.next_power_of_2(max(d, 16))) for most in (line, 4 * line))
    # The weights of eight rows, at most 128 each, fit an accumulator.
    return Tile(8, block, long, registers)


def apply_tile(x: torch.dtype, out: torch.dtype, d: int, sums: bool) -> Tile:
    return tile_of(d, max(x.itemsize, out.itemsize), 200 if sums else 168)


def reduce_tile(x: torch.dtype, d: int, terms: int) -> Tile:
    shifted = 255 if x.itemsize == 2 else 200
    return tile_of(d, x.itemsize, 128 if terms == _core.TERMS_NONE else shifted)


def vjp_tile(x: torch.dtype, d: int) -> Tile:
    return tile_of(d, x.itemsize, 255)


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
    tile = apply_tile(x.dtype, out.dtype, d, sums is not None)
    for lo, hi in _slices(x, tile) if sums is not None else [(0, len(x))]:
        programs = _programs(hi - lo, tile, x)
        partial = _partial(programs, x) if sums is not None else bad
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
                **constants(d, terms, tile),
                **arithmetic(x.dtype, out.dtype),
                SUMS=sums is not None,
                FLAGS=flags is not None,
                **_options(tile),
            )
            if sums is not None:
                _finish(partial, packed, _core.TERMS_NONE, sums, programs)


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
    tile = reduce_tile(x.dtype, d, terms)
    for lo, hi in _slices(x, tile):
        programs = _programs(hi - lo, tile, x)
        partial = _partial(programs, x)
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
                **constants(d, terms, tile),
                FLAGS=flags is not None,
                **_options(tile),
            )
            _finish(partial, packed, terms, sums, programs)


def vjp(y: torch.Tensor, g: torch.Tensor, out: torch.Tensor, packed: torch.Tensor, terms: int) -> None:
    """Store J(y)^T g in `out`; all (n, d), any row stride, contiguous columns."""
    if len(y) == 0:
        return
    d = y.shape[1]
    tile = vjp_tile(y.dtype, d)
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
            **_options(tile),
        )


def arithmetic(x: torch.dtype, out: torch.dtype) -> dict[str, Any]:
    """The types of dot products and entries, and the bounds that go with them (csrc/row_map.h), as csrc/cuda/apply.cu."""
    if torch.float64 in (x, out):
        dot, entry, cancelled, shift = tl.float64, tl.float64, _core.CANCELLED_BELOW, 0.0
    elif out not in _HALVES:
        dot, entry, cancelled, shift = tl.float64, tl.float32, _core.CANCELLED_BELOW, _core.LARGEST_SHIFT_32
    elif x not in _HALVES:
        dot, entry, cancelled, shift = tl.float64, tl.float32, _core.CANCELLED_BELOW, _core.LARGEST_SHIFT_16
    else:
        dot, entry, cancelled, shift = (
            tl.float32,
            tl.float32,
            _CANCELLED_BELOW_16,
            _core.LARGEST_SHIFT_16,
        )
    return {"DOT": dot, "ENTRY": entry, "CANCELLED_BELOW": cancelled, "LARGEST_SHIFT": shift}


def constants(d: int, terms: int, tile: Tile) -> dict[str, int]:
    """What a kernel is compiled for."""
    return {"D": d, "ROWS": tile.rows, "BLOCK": tile.block, "LONG": tile.long, "TERMS": terms}


def _finish(
    partial: torch.Tensor, packed: torch.Tensor, terms: int, sums: tuple[torch.Tensor, torch.Tensor], programs: int
) -> None:
    d = len(sums[0])
    _sums.finish_kernel[(triton.cdiv(d, FINISH["BLOCK"]),)](
        partial, packed, *sums, programs, D=d, TERMS=terms, **FINISH, num_warps=4
    )


# Many programs' sums of a few columns at a time, so that the loads of a launch are under way together.
FINISH = {"PROGRAMS": 64, "BLOCK": 16}


def _programs(n: int, tile: Tile, x: torch.Tensor) -> int:
    """As many programs as run at the same time, or fewer: so many that all have the same number of tiles, one more or less.

    Results do not depend on their number.
    """
    tiles = max(1, triton.cdiv(n, tile.rows))
    return triton.cdiv(tiles, triton.cdiv(tiles, _resident(x.device, tile.registers)))


@cache
def _resident(device: torch.device, registers: int) -> int:
    """How many warps with so many registers the device runs at the same time; asked once."""
    if INTERPRETED:
        return 3
    return torch.cuda.get_device_properties(device).multi_processor_count * (_REGISTERS // (32 * registers))


def _slices(x: torch.Tensor, tile: Tile) -> Iterator[tuple[int, int]]:
    """Slices of the rows, as many rows as the programs' sums can hold."""
    step = _programs(len(x), tile, x) * ROWS_BEFORE_FLUSH
    for lo in range(0, len(x), step):
        yield lo, min(lo + step, len(x))


def _partial(programs: int, x: torch.Tensor) -> torch.Tensor:
    return torch.empty(programs * (2 * x.shape[1] + 2), dtype=torch.int64, device=x.device)


def _on(x: torch.Tensor) -> AbstractContextManager[Any]:
    """Makes the device of x current: Triton launches kernels on the current device, wherever the tensors are."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _options(tile: Tile) -> dict[str, Any]:
    # No implicit fused multiply-add: kernels fuse explicitly. (The default of this option changes with Triton 3.10.)
    options: dict[str, Any] = {"num_warps": 1, "enable_fp_fusion": False}
    if not INTERPRETED and not torch.version.hip:
        options["maxnreg"] = tile.registers
    return options
