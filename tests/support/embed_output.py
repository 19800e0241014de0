"""What `fastrealign embed` reads, an encoder for it that costs nothing, what it wrote and what it should have."""

from __future__ import annotations

import numpy as np
import pytest

from fastrealign.core.errors import InputError
from fastrealign.embed.encoders import Encoder
from fastrealign.embed.inputs import open_input


def in_order(folder):
    """The ids of the pictures of `photos`, as they should come."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*.*") if path.suffix != ".csv"]
    return sorted(names, key=lambda name: (int(name.split("/")[-1].split(".")[0])) + 100 * ("/" in name))


def rows_of(folder, column="embedding"):
    """A column of all shards of an output, in order."""
    import pyarrow.parquet as pq

    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    values = [value for table in tables for value in table.column(column).to_pylist()]
    return np.array(values, np.float32) if column == "embedding" else values


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def read(*args, **kwargs):
    return [(item.id, item.load()) for item in open_input(*args, **kwargs)]


def refused(what, *args, **kwargs):
    with pytest.raises(InputError, match=what) as caught:
        read(*args, **kwargs)
    assert "\n" not in str(caught.value)


class Fake:
    """An encoder of a few numbers of each item, for what is not about encoders."""

    def __init__(self, dim=6, weights="w", by_length=False):
        self.dim, self.weights, self.by_length = dim, weights, by_length
        self.batches = []

    def check(self):
        pass

    def load(self, side):
        def prepare(item):
            text = item if isinstance(item, str) else bytes(item.tobytes()).hex()
            return [len(text), *(sum(text.encode()[i :: self.dim]) for i in range(self.dim - 1))]

        def encode(items):
            self.batches.append(len(items))
            return unit(items).astype(np.float32)

        return Encoder("fake", self.weights, {"side": side, "precision": "fp32"}, prepare, encode, self.by_length)
