"""The optional libraries that many modules use, imported on first use: `from fastrealign.core.libraries import torch`.

The code that opens a file or loads a model calls `optional` first: its error names what needs the library, and the extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrealign.core.optional import Lazy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    import torch
    import torch.distributed as dist
    import transformers
    from PIL import Image, ImageOps
    from pyarrow import fs
else:
    Image, ImageOps = (Lazy(f"PIL.{name}", "embed", "a picture") for name in ("Image", "ImageOps"))
    pa, pc, pq, fs = (Lazy(f"pyarrow{part}", "parquet", "a table") for part in ("", ".compute", ".parquet", ".fs"))
    torch = Lazy("torch", "torch", "a tensor or a device")
    dist = Lazy("torch.distributed", "torch", "a process group")
    transformers = Lazy("transformers", "embed", "a model of transformers")

__all__ = ["Image", "ImageOps", "dist", "fs", "pa", "pc", "pq", "torch", "transformers"]
