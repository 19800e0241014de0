"""A shard through its writer, as runs do it: in order, or by threads at any place."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from fastrealign.formats.base import Shard


def rewrite(shard: Shard, out: Path, dtype=None, keep: np.ndarray | None = None, chunk: int = 4) -> None:
    """Write the rows of `shard` to `out` in order, those where `keep` is true."""
    with shard.writer(out, np.dtype(dtype or shard.dtype), shard.rows) as writer:
        lo = 0
        for part in shard.chunks(chunk):
            mask = None if keep is None else keep[lo : lo + len(part)]
            writer.write(part if keep is None else part[mask], mask)
            lo += len(part)
        writer.commit()


def rewrite_at_random(shard: Shard, out: Path, dtype=None, closing: bool = False) -> None:
    """The same by four threads that read and write blocks of 100 rows; closing: while another may be reading, too."""
    writer = shard.writer(out, np.dtype(dtype or shard.dtype), shard.rows)

    def work(start: int) -> None:
        scratch = np.empty(100 * shard.dim * shard.dtype.itemsize, np.uint8)
        for lo in range(start, shard.rows, 400):
            writer.write_at(lo, shard.read(lo, lo + 100, scratch))
            if closing and lo % 1000 == 0:
                shard.close()

    threads = [threading.Thread(target=work, args=(100 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.commit()
