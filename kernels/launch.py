"""How the Triton kernels are started: tiles, grids, memory for partial sums. Tensors in, work queued on the current stream.

Memory besides input and output: for sums, `programs` x D int64, at most PROGRAMS_A_PROCESSOR a multiprocessor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton

from . import apply as _apply
from . import reduce as _reduce
from . import rows as _rows
from . import vjp as _vjp

INTERPRETED = bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
PROGRAMS_A_PROCESSOR = 8
# A program's int64 sums hold 2^22 rows (csrc/exact_sum.h).
ROWS_BEFORE_FLUSH = 1 << 22
# Entries of a tile: what four warps hold in registers beside three float64 sums an entry.
TILE = 1024
WARPS = 4
# Of `apply`: left alone, ptxas prefers 128 and a spill where it could have 160 and none.
APPLY_REGISTERS = 160


class Tile(NamedTuple):
    rows: int
    block: int


def apply_tile(d: int) -> Tile:
    """Few rows, long pieces: 16 bytes a thread."""
    block = min(256, triton.next_power_of_2(max(d, 16)))
    return Tile(TILE // block, block)


def reduce_tile(d: int, itemsize: int) -> Tile:
    """Sixteen rows share a reading and a writing of the sums; a piece of a row is at least 128 bytes."""
    block = min(128 if itemsize == 2 else 64, triton.next_power_of_2(max(d, 16)))
    return Tile(max(16, TILE // block), block)


def apply(
    x: torch.Tensor,
    out: torch.Tensor,
    packed: torch.Tensor,
    terms: int,
    *,
    largest_shift: float,
    sums: tuple[torch.Tensor, torch.Tensor] | None,
    bad: torch.Tensor,
    flags: torch.Tensor | None,
) -> None:
    """Store f(x) in `out`; x and out (n, d), rows at any stride, columns together. Adds to sums (low, high) and bad."""
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
                LARGEST_SHIFT=-1.0 if wide else largest_shift,
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
    """Add f(x) over the rows of x (n, d) to sums (low, high), and to bad what has no direction."""
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
    """Store J(y)^T g in `out`; all (n, d), rows at any stride, columns together."""
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
    """Enough to fill the device, no more than there are tiles. Results do not depend on it."""
    most = 3 if INTERPRETED else PROGRAMS_A_PROCESSOR * _processors(x.device)
    return max(1, min(most, triton.cdiv(n, tile.rows)))


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _slices(x: torch.Tensor, tile: Tile) -> Iterator[tuple[int, int]]:
    """Pieces of the rows that the programs' sums can hold."""
    step = _programs(len(x), tile, x) * ROWS_BEFORE_FLUSH
    for lo in range(0, len(x), step):
        yield lo, min(lo + step, len(x))


def _partial(programs: int, d: int, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(programs, d, dtype=torch.int64, device=x.device)


def _on(x: torch.Tensor) -> Any:
    """Triton starts kernels on the current device, whatever device the tensors are on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _options(registers: int | None = None) -> dict[str, Any]:
    # No fusing behind our back: what is fused says so in the kernel. (The default of this option changes with Triton 3.10.)
    options: dict[str, Any] = {"num_warps": WARPS, "enable_fp_fusion": False}
    if registers and not INTERPRETED and not torch.version.hip:
        options["maxnreg"] = registers
    return options
