"""Batches prepared ahead of the encoder: threads read and decode images while it computes."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.embed.inputs import Item

# Batches in memory beside the current one: decoded images are large.
_AHEAD = 2


@dataclass(frozen=True)
class Batch:
    """Items of a shard, at the positions `at`; last: whether this is the last batch of the shard."""

    shard: int
    items: list[Item]
    at: Sequence[int]
    last: bool


@dataclass(frozen=True)
class Loaded:
    """A batch as the encoder takes it: `inputs` of the positions `at`; bad: (position, reason) of items that cannot be used."""

    batch: Batch
    at: list[int]
    inputs: list[Any]
    bad: list[tuple[int, str]]


@contextmanager
def prepared(batches: Iterator[Batch], prepare: Callable[[Any], Any], threads: int) -> Iterator[Iterator[Loaded]]:
    """The batches in order, a few of them loaded ahead by `threads` threads, which stop when the block ends."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="fastrealign-load")

    def begun(batch: Batch) -> tuple[Batch, list[Future]]:
        return batch, [pool.submit(_loaded, batch.items[i], prepare) for i in batch.at]

    def in_order() -> Iterator[Loaded]:
        ahead = deque(map(begun, islice(batches, _AHEAD)))
        while ahead:
            ahead.extend(map(begun, islice(batches, 1)))
            yield _together(*ahead.popleft())

    try:
        with warnings.catch_warnings():
            # Pillow's warnings do not name the file; whatever makes a picture unusable is raised as an InputError.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


def _loaded(item: Item, prepare: Callable[[Any], Any]) -> Any:
    """The item as the encoder takes it, or an InputError (returned, not raised) with the reason why there is none."""
    if item.problem is not None:
        return InputError(f"{item.where}: {item.problem}")
    try:
        return prepare(item.load())
    except InputError as error:
        return error


def _together(batch: Batch, futures: list[Future]) -> Loaded:
    at, inputs, bad = [], [], []
    for i, future in zip(batch.at, futures, strict=True):
        found = future.result()
        if isinstance(found, InputError):
            bad.append((i, str(found)))
        else:
            at.append(i)
            inputs.append(found)
    return Loaded(batch, at, inputs, bad)
