"""What computes a pass: threads on the CPU, or threads that each feed a GPU.

A thread on the CPU reads a piece into its buffer, maps it in place (or into another buffer, where the element type changes)
while it is in the cache, and writes it.
A thread that feeds a GPU has pinned buffers and its own stream: it reads (or packs rows that are in memory), copies up,
launches the kernel, copies down, waits and writes. With several threads per device, one thread's copy up overlaps another's
kernel, a third one's copy down, and the reads and writes of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core import ops
from fastrealign.core.backend import choose
from fastrealign.core.bad_rows import Counts
from fastrealign.core.checks import whole
from fastrealign.core.cpu import thread_count
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.libraries import torch
from fastrealign.core.optional import Lazy
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import RowMap
from fastrealign.core.tensors import as_tensor, is_tensor
from fastrealign.core.text import brief
from fastrealign.core.wording import option
from fastrealign.data.row_source import PIECE_BYTES, paged_rows

if TYPE_CHECKING:
    from fastrealign.core import device_ops, packed_map
else:
    device_ops = Lazy("fastrealign.core.device_ops", "torch", "a device")
    packed_map = Lazy("fastrealign.core.packed_map", "torch", "a device")

# For a GPU: copies reach the speed of the bus, and the cost of launching a kernel is negligible.
DEVICE_PIECE_BYTES = 32 << 20
# Threads that feed one GPU: one reads, one copies up, one copies down, one writes.
THREADS_A_DEVICE = 4
# Smaller pieces cost more to hand out than to work on.
_SMALLEST_PIECE = 64 << 10


class Host:
    """Where a thread computes: on the CPU."""

    def memory(self, nbytes: int) -> np.ndarray:
        """A buffer to read to or to write from, uint8 (nbytes,)."""
        return paged_rows(1, nbytes, np.dtype(np.uint8))[0]

    def reduce(self, rows: Rows, maps: Sequence[RowMap], sums: Sequence[ExactSum], threads: int) -> Counts:
        """Add f(rows) to the sums, for each map; returns the counts of the first."""
        # The first map leaves the rows in the cache for the others.
        counts = [ops.reduce(rows, m, into, threads=threads) for m, into in zip(maps, sums, strict=True)]
        return counts[0]

    def apply(
        self, rows: np.ndarray, row_map: RowMap, out: np.ndarray, sums: ExactSum, flags: np.ndarray | None, threads: int
    ) -> Counts:
        """Store f(rows) in `out` and add it to the sums."""
        return ops.apply(rows, row_map, out, into=sums, flags=flags, threads=threads)


class Device:
    """Where a thread computes: on a torch device, with its own stream. The host waits once a piece."""

    def __init__(self, name: str) -> None:
        self._device = torch.device(name)
        self._stream = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        # By the map's identity, which stays its own as long as the map is kept here.
        self._packed: dict[int, tuple[RowMap, tuple[torch.Tensor, int]]] = {}

    def memory(self, nbytes: int) -> np.ndarray:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._stream is not None).numpy()

    def reduce(self, rows: Rows, maps: Sequence[RowMap], sums: Sequence[ExactSum], threads: int) -> Counts:
        with self._stream_after(rows):
            here = self._up(rows)
            pairs = zip(maps, sums, strict=True)
            launched = [device_ops.Launched(here, self._pack(m, here), None, into, None) for m, into in pairs]
            return device_ops.collected(*launched)[0]

    def apply(
        self, rows: np.ndarray, row_map: RowMap, out: np.ndarray, sums: ExactSum, flags: np.ndarray | None, threads: int
    ) -> Counts:
        with self._stream_after(rows):
            here = self._up(rows)
            result = torch.empty(rows.shape, dtype=getattr(torch, out.dtype.name), device=self._device)
            launched = device_ops.Launched(here, self._pack(row_map, here), result, sums, flags)
            as_tensor(out).copy_(result, non_blocking=True)
            return device_ops.collected(launched)[0]

    @contextmanager
    def _stream_after(self, rows: Any) -> Iterator[None]:
        """Makes the thread's stream current. Rows on a device may still be computed by the caller's stream, so it waits."""
        if self._stream is None:
            yield
            return
        if is_tensor(rows):
            self._stream.wait_stream(torch.cuda.current_stream(rows.device))
        with torch.cuda.stream(self._stream):
            yield

    def _pack(self, row_map: RowMap, rows: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The map on the device, packed and copied once."""
        if id(row_map) not in self._packed:
            self._packed[id(row_map)] = row_map, packed_map.pack(row_map, rows.shape[1], self._device)
        return self._packed[id(row_map)][1]

    def _up(self, rows: Any) -> torch.Tensor:
        return (rows if is_tensor(rows) else as_tensor(rows)).to(self._device, non_blocking=True)


@dataclass(frozen=True)
class Workers:
    """How many threads, where each computes, and how large the pieces are that they take.

    threads      in all
    devices      torch names of devices that the threads feed in turn; none: they compute on the CPU
    piece_bytes  size of a thread's read buffer; its write buffer, where it needs one, is as large
    """

    threads: int
    devices: tuple[str, ...] = ()
    piece_bytes: int = PIECE_BYTES

    @classmethod
    def of(
        cls, threads: int | None = None, devices: Sequence[int | str] | None = None, max_memory: int | None = None
    ) -> Workers:
        """From the user's options. Raises InputError for a device that cannot be used, and too little memory for one thread.

        threads      None: one per core, or some for each device
        devices      numbers of GPUs or names of torch devices; None: the CPU
        max_memory   bytes that the buffers may take together; what a format needs to decode (a row group) comes on top
        """
        if devices is not None and (isinstance(devices, str) or not isinstance(devices, Iterable)):
            raise InputError(
                f"devices={brief(devices)}: expected a list of numbers or names of devices, such as [0, 1]"
            )
        names = tuple(_usable(device) for device in devices or ())
        if threads is None and names:
            threads = THREADS_A_DEVICE * len(names)
        threads = thread_count(threads)
        piece = DEVICE_PIECE_BYTES if names else PIECE_BYTES
        if max_memory is not None:
            max_memory = whole("max_memory", max_memory, 2 * _SMALLEST_PIECE, why="in bytes")
            threads = min(threads, max_memory // (2 * _SMALLEST_PIECE))
            piece = min(piece, max_memory // (2 * threads))
        return cls(threads, names, piece)

    @property
    def where(self) -> str:
        """The devices, each with its kernels, as " on cuda:0 (cuda kernels)"; nothing where the CPU computes."""
        found = [(name, torch.device(name)) for name in dict.fromkeys(self.devices)]
        named = [f"{name} ({choose(device.type, device.index or 0).name} kernels)" for name, device in found]
        return f" on {', '.join(named)}" if named else ""

    def place(self, thread: int) -> Host | Device:
        """Where the thread with this number computes."""
        return Device(self.devices[thread % len(self.devices)]) if self.devices else Host()


def _usable(device: int | str) -> str:
    name = f"cuda:{device}" if str(device).isdecimal() else str(device)
    if not name:
        raise InputError(f"{option('devices')}: a name is empty, expected numbers or names of devices, such as 0,1")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0].partition(". ")[0]
        without = f"without {option('devices')} the CPU computes"
        raise InputError(f"device {device}: cannot be used here: {reason}; {without}") from None
    return name
