"""Every CUDA and Triton kernel once, on small and odd shapes: what compute-sanitizer watches (bench/gpu.sh)."""

from __future__ import annotations

import numpy as np
import torch

from fastrealign.core import device_ops
from fastrealign.core.backend import choose
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap


def main() -> None:
    rng = np.random.default_rng(0)
    for backend in ("cuda", "triton"):
        try:
            choose("cuda", 0, backend)
        except InputError as error:
            print(error)
            continue
        for d in (3, 96, 257, 768, 1280, 4096):
            row_map = RowMap(1.2, *rng.standard_normal((2, d)) * 0.4 / np.sqrt(d))
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                rows = torch.randn(37, d, device="cuda").to(dtype)
                rows[5], rows[6, 0] = 0, float("nan")
                device_ops.apply_rows(rows, row_map, torch.empty_like(rows), into=ExactSum(d), backend=backend)
                device_ops.reduce_rows(rows, row_map, ExactSum(d), backend=backend)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
