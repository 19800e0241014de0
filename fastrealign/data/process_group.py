"""Ranks that compute one result together: messages by torch.distributed, sums that are exact.

Sums are exact and order-free (exact_sum.py), so those over any number of ranks have the same bits as those of one
process. Messages are few and small: a sum takes 32 bytes a column.

    torchrun --nproc-per-node 8 -m fastrealign apply text2image.safetensors text_emb/ --out aligned/
"""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fastrealign.core.errors import BadShardError, FastRealignError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.libraries import dist, torch
from fastrealign.core.optional import optional
from fastrealign.core.text import brief

T = TypeVar("T")
# What users name a group by: one of torch.distributed, or "world" for the default one; None is this process alone.
GroupLike: TypeAlias = "dist.ProcessGroup | str | None"

# Ranks wait for the slowest one, which may take long; a rank that is gone is noticed by its closed connection.
_PATIENCE = timedelta(days=7)


class ProcessGroup:
    """The ranks of a process group, or one process alone (the default)."""

    rank = 0
    size = 1

    def broadcast(self, value: T) -> T:
        """The value that rank 0 has, on every rank."""
        return value

    def all_gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on every rank."""
        return [value]

    def on_rank_0(self, work: Callable[[], T]) -> T | None:
        """What `work` returns, on rank 0, which alone does it; None elsewhere. If it raises, every rank does."""
        with self.fail_together():
            return work() if self.rank == 0 else None

    def all_reduce(self, sums: ExactSum) -> None:
        """Replace the sums by those of all ranks together."""

    def close(self) -> None:
        """Close the connections."""

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """Every rank leaves without an error, or every rank with one: its own, else that of the first rank that failed."""
        yield


ALONE = ProcessGroup()


class TorchGroup(ProcessGroup):
    """The ranks of a torch.distributed group."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        backend = dist.get_backend(group)
        self._device = "cuda" if "nccl" in backend and "gloo" not in backend else "cpu"
        # A thread of torch's that is the last to hold a message needs the GIL to free it. In torch 2.6, destroy_process_group
        # holds the GIL while it waits for that thread: so the last messages are kept here.
        self._sent: deque[dist.Work] = deque(maxlen=8)

    def broadcast(self, value: T) -> T:
        values: list[Any] = self.all_gather(value if self.rank == 0 else None)
        return values[0]

    def all_gather(self, value: T) -> list[T]:
        message = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
        sizes = [int(size) for size in self._gather(torch.tensor([len(message)]))]
        padded = torch.nn.functional.pad(message, (0, max(sizes) - len(message)))
        messages = zip(self._gather(padded), sizes, strict=True)
        return [pickle.loads(one[:size].cpu().numpy().tobytes()) for one, size in messages]

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        tensor = tensor.to(self._device)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._finish(dist.all_gather(parts, tensor, group=self._group, async_op=True))
        return parts

    def _finish(self, work: dist.Work) -> None:
        work.wait()
        self._sent.append(work)

    def all_reduce(self, sums: ExactSum) -> None:
        # 128 bits as four numbers below 2^32, whose sums over ranks stay far below 2^63; rows as a fifth.
        low, high = sums.low, sums.high.view(np.uint64)
        parts = [low & 0xFFFFFFFF, low >> np.uint64(32), high & 0xFFFFFFFF, high >> np.uint64(32)]
        numbers = np.concatenate([*parts, [sums.count]]).astype(np.int64)
        tensor = torch.from_numpy(numbers).to(self._device)
        self._finish(dist.all_reduce(tensor, group=self._group, async_op=True))
        *pieces, count = np.split(tensor.cpu().numpy().view(np.uint64), [i * sums.d for i in range(1, 5)])
        carried = pieces[1] + (pieces[0] >> np.uint64(32))
        sums.low[:] = (pieces[0] & 0xFFFFFFFF) | (carried << np.uint64(32))
        high = pieces[2] + (carried >> np.uint64(32)) + (pieces[3] << np.uint64(32))
        sums.high[:] = high.view(np.int64)
        sums.count = int(count[0])

    def close(self) -> None:
        dist.destroy_process_group(self._group)

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        answers = self.all_gather(None if failure is None else _Failure.of(failure))
        failed = [one for one in answers if one is not None]
        bad_shards = [one.bad_shard for one in failed if one.bad_shard is not None]
        if failed and len(bad_shards) == len(failed):
            raise BadShardError(failed[0].message, *bad_shards[0])  # the same on every rank: all can leave it out
        if failure is not None:
            raise failure
        for rank, other in enumerate(answers):
            if other is not None:
                known = other.kind if issubclass(other.kind, FastRealignError) else FastRealignError
                failed_there = known(f"rank {rank}: {other.message}")
                failed_there.reported_elsewhere = True
                raise failed_there


class _Failure(NamedTuple):
    """How a rank reports its failure."""

    kind: type[Exception]
    message: str
    bad_shard: tuple[int, str] | None  # place and source of a shard that it could not read

    @classmethod
    def of(cls, failure: Exception) -> _Failure:
        bad = (failure.shard, failure.source) if isinstance(failure, BadShardError) else None
        return cls(type(failure), str(failure), bad)


def ranks_of(group: GroupLike) -> ProcessGroup:
    """The ranks of a torch.distributed process group (or "world", the default group); one process alone for None."""
    if group is None:
        return ALONE
    if isinstance(group, str) and group != "world":
        raise InputError(f"group={brief(group)}: expected 'world', or a process group of torch.distributed")
    optional("torch.distributed", "torch", "group=: a process group")
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            f"group={brief(group)}: this process is in no process group; call torch.distributed.init_process_group first, or "
            "leave group out"
        )
    if not isinstance(group, (str, dist.ProcessGroup)):
        raise InputError(f"group={brief(group)}: expected 'world', or a process group of torch.distributed")
    return TorchGroup(None if isinstance(group, str) else group)


def from_torchrun() -> ProcessGroup:
    """The ranks that torchrun started, of which this process is one; one process alone where it did not."""
    if processes() == 1 or "RANK" not in os.environ:
        return ALONE
    size = os.environ["WORLD_SIZE"]
    optional("torch.distributed", "torch", f"WORLD_SIZE={size}: a process group")
    rank, missing = os.environ["RANK"], [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing or not (rank.isascii() and rank.isdigit() and int(rank) < processes()):
        raise InputError(
            f"WORLD_SIZE={size} and RANK={brief(rank)}{f' without {missing[0]}' if missing else ''}: expected the variables "
            "that torchrun sets; start with torchrun, or unset WORLD_SIZE and RANK"
        )
    dist.init_process_group("gloo", timeout=_PATIENCE)
    return TorchGroup()


def processes() -> int:
    """How many ranks there are on all machines, by torchrun's environment."""
    return _number("WORLD_SIZE")


def processes_here() -> int:
    """How many ranks share this machine, by torchrun's environment."""
    return _number("LOCAL_WORLD_SIZE")


def _number(name: str) -> int:
    """A variable that torchrun sets, 1 where it did not. InputError for what is no number of processes."""
    value = os.environ.get(name, "1")
    if not (value.isascii() and value.isdigit() and int(value)):
        raise InputError(f"{name}={brief(value)}: expected a number of processes, as torchrun sets it; unset it")
    return int(value)
