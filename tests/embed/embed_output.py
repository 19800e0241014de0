"""What `fastrealign embed` wrote, and what it should have."""

from __future__ import annotations

import numpy as np

SIDE = 32  # of the pictures that the tiny encoders take


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
