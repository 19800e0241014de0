"""Ranks of torch.distributed in processes of their own on this machine, talking by gloo."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Callable
from pathlib import Path


def run_on_processes(work: Callable[[int, int, Path], None], size: int, folder: Path) -> None:
    """Call work(rank, size, folder) on each of `size` ranks; fails with the traceback of the first that fails."""
    import torch.multiprocessing as mp

    context = mp.get_context("spawn")
    errors = context.SimpleQueue()
    ranks = [context.Process(target=_on_a_rank, args=(work, rank, size, folder, errors)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(900)
        if process.is_alive():
            process.kill()
    said = [] if errors.empty() else [errors.get()]
    assert not said and [process.exitcode for process in ranks] == [0] * size, "\n".join(said)


def _on_a_rank(work, rank, size, folder, errors) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    try:
        work(rank, size, folder)
    except BaseException:
        errors.put(f"rank {rank}: {traceback.format_exc()}")
        raise SystemExit(1) from None
    finally:
        gc.collect()  # models that hold the group
        dist.destroy_process_group()
    # What the ranks computed is tested, not how torch ends: its threads may abort a process that ends by itself.
    os._exit(0)
