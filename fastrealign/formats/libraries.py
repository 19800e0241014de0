"""The optional libraries of the formats, imported on first use; the code that opens a file reports a missing one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrealign.core.optional import Lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import torch
    from pyarrow import fs
else:
    pa, pc, pq, fs = (Lazy(f"pyarrow{part}", "parquet", "a table") for part in ("", ".compute", ".parquet", ".fs"))
    torch = Lazy("torch", "torch", "a .pt file")

__all__ = ["fs", "pa", "pc", "pq", "torch"]
