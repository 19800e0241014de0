"""A row map as one tensor, which the kernels for tensors take (csrc/device_layout.h)."""

from __future__ import annotations

import numpy as np
import torch

import fastrealign._core as _core
from fastrealign.core.errors import InputError
from fastrealign.core.row_map import RowMap

HEADER: int = _core.MAP_HEADER


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
    >>> import fastrealign.nn  # registers torch.ops.fastrealign
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


# The row maps of the last tensors, newest first, with their bytes and terms.
_known: tuple[tuple[bytes, int, RowMap], ...] = ()
_KEPT = 4


def row_map_of(map: torch.Tensor, terms: int) -> RowMap:
    """The row map of a tensor on the CPU.

    A model calls with few maps, again and again. They are known by their bytes, so a tensor that is written to is another map.
    """
    global _known
    values = map.numpy()
    data = values.tobytes()
    for known, its_terms, row_map in _known:
        if known == data and its_terms == terms:
            return row_map
    d = (len(values) - HEADER) // 2
    b, c = values[HEADER : HEADER + d], values[HEADER + d :]
    row_map = RowMap(
        float(values[_core.MAP_S]), b if terms >= _core.TERMS_B else None, c if terms == _core.TERMS_BC else None
    )
    _known = ((data, terms, row_map), *_known[: _KEPT - 1])
    return row_map
