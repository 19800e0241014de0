"""A kernel that only reads: 16 bytes a thread and load, eight of them under way; the ceiling of `reduce` on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096
PROGRAMS = 8  # of a multiprocessor, four warps each


@triton.jit(do_not_specialize=["blocks"])
def read_kernel(x_ptr, out_ptr, blocks, BLOCK: tl.constexpr):
    """Add up float32 numbers: a sum for each program."""
    total = tl.zeros([BLOCK], tl.float32)
    for block in range(tl.program_id(0), blocks, tl.num_programs(0)):
        # Without a mask: it would split the loads.
        total += tl.load(x_ptr + block * BLOCK + tl.arange(0, BLOCK))
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, 0))


def read(x: torch.Tensor, programs: int) -> torch.Tensor:
    """Read fewer than 2^31 float32 numbers, up to the last whole block; the sum of each program."""
    out = torch.empty(programs, device=x.device)
    read_kernel[(programs,)](x, out, x.numel() // BLOCK, BLOCK=BLOCK, num_warps=4)
    return out


def programs_on(device: torch.device) -> int:
    return PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count
