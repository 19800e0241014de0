"""A GPU whose memory is the CPU's, with streams that compute nothing before they are waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastrealign.core import device_ops, packed_map
from fastrealign.data.workers import Device


class Stream:
    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._queue: deque[Callable[[], Any]] = deque()

    def enqueue(self, work: Callable[[], Any]) -> None:
        self._queue.append(work)

    def wait_stream(self, other: Stream) -> None:
        """What is enqueued here from now on comes after all that is on the other stream now."""
        before = list(other._queue)
        self.enqueue(lambda: [other._queue.popleft()() for work in before if work in other._queue])

    def synchronize(self) -> None:
        self._gpu.waits += 1
        while self._queue:
            self._queue.popleft()()


class FakeGpu:
    """current: the calling thread's stream; waits: how often the host waited; packed: how many maps were packed."""

    def __init__(self, monkeypatch: Any) -> None:
        self.current = Stream(self)
        self.waits = self.packed = 0
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self._on)
        monkeypatch.setattr(device_ops, "_wait", lambda device: self.current.synchronize())
        reduce_into, pack = device_ops.reduce_into, packed_map.pack
        monkeypatch.setattr(
            device_ops, "reduce_into", lambda *arguments: self.current.enqueue(lambda: reduce_into(*arguments))
        )

        def counted(*arguments: Any) -> Any:
            self.packed += 1
            return pack(*arguments)

        monkeypatch.setattr(packed_map, "pack", counted)

    def place(self) -> Device:
        place = Device("cpu")
        place._stream = Stream(self)
        return place

    @contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before
