"""Processes of their own that import nothing again, and ranks of torch.distributed among them, which talk by gloo."""

from __future__ import annotations

import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path

# Each process is a fork of one that has imported these and computed nothing: libraries with threads can be used in it.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["pytest", "faiss", "pyarrow.parquet", "torch.distributed", "fastrealign.nn"])


# Seconds that a process may take: several Pythons beside other work take minutes.
_HANGS = 900


def started(work: Callable[..., object], *arguments: object) -> multiprocessing.process.BaseProcess:
    """The process in which work(*arguments) has begun, a function of a module, in the environment of this one."""
    process = _SERVER.Process(target=_begun, args=(dict(os.environ), work, arguments))
    process.start()
    return process


def _begun(environment: dict[str, str], work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    os.environ.clear()  # the server has that of the first process that was started
    os.environ.update(environment)
    work(*arguments)


def ended(*processes: multiprocessing.process.BaseProcess) -> list[int | None]:
    """The exit codes of processes; one that hangs is killed."""
    for process in processes:
        process.join(_HANGS)
        if process.is_alive():
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def run_on_processes(work: Callable[[int, int, Path], None], size: int, folder: Path) -> None:
    """Call work(rank, size, folder) on each of `size` ranks; fails with the traceback of the first that fails."""
    errors = _SERVER.SimpleQueue()
    ranks = [started(_on_a_rank, work, rank, size, folder, errors) for rank in range(size)]
    codes = ended(*ranks)
    said = [] if errors.empty() else [errors.get()]
    assert not said and codes == [0] * size, "\n".join(said)


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
