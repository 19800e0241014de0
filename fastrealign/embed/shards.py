"""A shard of embeddings as parquet, and the fingerprint of the items that it is made of.

Parquet keeps ids and captions in the file of their embeddings, so that every reader of the rows has them, too.
"""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.libraries import pa, pq
from fastrealign.embed.captions import Caption
from fastrealign.embed.inputs import Item
from fastrealign.formats.arrow_columns import lists
from fastrealign.formats.parquet import ParquetSink
from fastrealign.formats.table_copy import GROUP_BYTES
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import Place


def fingerprint_of(items: list[Item], bad_items: str) -> FileFingerprint:
    """A fingerprint that shows whether a shard's items changed: captions by text, images by name, size and time of change.

    bad_items "skip": an image that cannot be accessed counts as one that does not exist
    """
    found, total = hashlib.sha256(), 0
    for item in items:
        try:
            size, state = item.state()
        except InputError as error:
            if bad_items == "error":
                raise
            size, state = 0, [item.id, str(error)]
        total += size
        found.update(json.dumps(state).encode() + b"\n")
    return FileFingerprint(total, found.hexdigest())


def write_shard(path: Place, items: list[Item], rows: np.ndarray, left_out: set[int], fsync: bool) -> FileFingerprint:
    """Write ids, captions and the (n, d) rows of the items but those `left_out`; returns the fingerprint of the file."""
    keep = [i for i in range(len(items)) if i not in left_out]
    columns = {"id": pa.string()}
    if items and isinstance(items[0], Caption):
        columns["caption"] = pa.string()
    kind = pa.list_(pa.from_numpy_dtype(rows.dtype), rows.shape[1])
    schema = pa.schema({**columns, "embedding": kind})
    step = max(1, GROUP_BYTES // (rows.shape[1] * rows.itemsize))
    with AtomicFile(path, fsync) as file:
        # Embeddings do not compress, and their values do not repeat.
        leaf = _leaf(schema)
        sink = ParquetSink(
            file, schema, compression={**dict.fromkeys(columns, "ZSTD"), leaf: "NONE"}, use_dictionary=False
        )
        try:
            for lo in range(0, len(keep), step):
                part = keep[lo : lo + step]
                texts = {"id": [items[i].id for i in part]}
                if "caption" in columns:
                    texts["caption"] = [item.text for i in part if isinstance(item := items[i], Caption)]
                sink.write(pa.table({**texts, "embedding": lists(rows[part], kind)}, schema=schema))
            sink.finish()
        except BaseException:
            sink.abandon()
            raise
        file.commit()
    return FileFingerprint.of(path)


def _leaf(schema: pa.Schema) -> str:
    """The name that parquet gives the values of the embedding."""
    empty = io.BytesIO()
    pq.write_table(schema.empty_table(), empty)
    return pq.ParquetFile(empty).schema.column(len(schema) - 1).path
