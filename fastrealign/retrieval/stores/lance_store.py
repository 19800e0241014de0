"""LanceDB tables, which are folders in the Lance format; read and written with pylance.

The aligned vectors are a column of their own. It is added empty, with the record in its metadata, which is one commit. Then
each fragment (up to a million rows) gets a data file with that column alone, written in batches, and a commit of the fragments
that are complete. Fragments that hold the column for some of their rows (rows were added and the table compacted since) are
updated. Other columns are neither read nor written.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.formats.libraries import pa
from fastrealign.retrieval.stores.base import (
    Align,
    Batch,
    Found,
    StoreOptions,
    as_objects,
    as_scores,
    batch_rows,
    chosen,
    failing,
    source_and_target,
    written_dtype,
)

_RECORD = "fastrealign"
_ADVICE = "if another program writes to the table, run again when it is done"
# Complete fragments are committed this often, or when they hold this many rows.
_COMMIT_SECONDS, _COMMIT_ROWS = 10.0, 1 << 20
_TRIES = 5
# Its own default is 2 GB.
_READ_AHEAD_BYTES = 64 << 20


class LanceStore:
    """One table of a LanceDB database."""

    def __init__(self, location: str, options: StoreOptions) -> None:
        self._lance = optional("lance", "lancedb", f"{location}: LanceDB")
        self._folder = _table(location, options.table)
        self.where = self._folder
        self._id = options.id_column
        with failing(self.where, "is it a LanceDB table?"):
            self._data = self._lance.dataset(os.path.abspath(self._folder))
        schema = self._data.schema
        if self._id is not None:
            chosen(self.where, "column", self._id, schema.names, "--id-column")
        self._written = {name for name in schema.names if _RECORD.encode() in (schema.field(name).metadata or {})}
        vectors = [field.name for field in schema if _is_vector(field.type)]
        records = {name: json.loads(schema.field(name).metadata[_RECORD.encode()]) for name in self._written}
        self.column, self.target = source_and_target(self.where, "vector column", options, vectors, records)
        if self.target in schema.names and self.target not in self._written:
            raise InputError(f"{self.where}: there is a column {self.target} already; name another with --to")
        read = schema.field(self.column if self.has_source() else self.target).type
        self.dim, self.dtype = read.list_size, np.dtype(read.value_type.to_pandas_dtype())

    def record(self) -> dict[str, Any] | None:
        if self.target not in self._written:
            return None
        return json.loads(self._data.schema.field(self.target).metadata[_RECORD.encode()])

    def has_source(self) -> bool:
        return self.column in self._data.schema.names

    def role_values(self, column: str) -> Counter[Any]:
        chosen(self.where, "column", column, self._data.schema.names, "--role-column")
        counts: Counter[Any] = Counter()
        with failing(self.where, _ADVICE):
            for batch in self._data.to_batches([column]):
                for pair in batch.column(0).value_counts():
                    counts[pair["values"].as_py()] += pair["counts"].as_py()
        return counts

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        kind = pa.list_(pa.from_numpy_dtype(written_dtype(self.dtype)), dim)
        field = pa.field(self.target, kind, metadata={_RECORD: json.dumps(dict(record))})
        with failing(self.where, _ADVICE):
            self._data.add_columns(pa.schema([field]))
        self._reopen()

    def restart(self) -> None:
        self._drop(self.target)

    def pending(self) -> tuple[int, int]:
        lacking = done = 0
        for fragment in self._data.get_fragments():
            rows = fragment.count_rows()
            # Without a filter, no vector is read.
            with failing(self.where, _ADVICE):
                null = fragment.count_rows(filter=f"`{self.target}` is null") if self._has_target(fragment) else rows
            lacking, done = lacking + null, done + rows - null
        return lacking, done

    def fill(self, align: Align, role_column: str | None) -> None:
        columns = [name for name in (self.column, role_column, self._id) if name is not None]
        complete: dict[int, Any] = {}
        begun = time.monotonic()
        try:
            for fragment in self._data.get_fragments():
                if self._has_target(fragment):
                    self._update(fragment, align, columns)
                    continue
                with failing(self.where, _ADVICE):
                    complete[fragment.fragment_id] = self._write(fragment, align, columns)
                rows = sum(self._data.get_fragment(number).physical_rows for number in complete)
                if rows >= _COMMIT_ROWS or time.monotonic() - begun > _COMMIT_SECONDS:
                    self._commit(complete)
                    complete, begun = {}, time.monotonic()
        finally:  # an interrupt, or a bad row later on: what is complete stays
            self._commit(complete)

    def drop_old(self) -> str:
        self._drop(self.column)
        return self.column

    def sample(self, n: int) -> np.ndarray:
        table = self._data.to_table([self.target], filter=f"`{self.target}` is not null", limit=n)
        return _matrix(table.column(0).combine_chunks())

    def search(self, queries: np.ndarray, k: int, role_column: str | None) -> Found:
        columns = [name for name in (self._id, role_column) if name is not None]
        ids, scores, roles = [], [], []
        for query in queries.astype(np.float32):
            nearest = {"column": self.target, "q": query, "k": k, "metric": self.metric}
            with failing(self.where, "is the column whole? run `fastrealign index`"):
                found = self._data.to_table([*columns, "_distance"], nearest=nearest, with_row_id=self._id is None)
            ids.append(found[self._id or "_rowid"].to_pylist())
            distances = found["_distance"].to_numpy()
            scores.append(1.0 - (distances / 2.0 if self.metric == "l2" else distances))
            roles.append(found[role_column].to_pylist() if role_column else [])
        return Found(as_objects(ids, k), as_scores(scores, k), as_objects(roles, k) if role_column else None)

    def close(self) -> None:
        self._data = None

    @cached_property
    def metric(self) -> str:
        """That of the target's index, which another metric would not use; without an index any will do."""
        for index in self._data.describe_indices():
            if index.field_names == [self.target]:
                statistics = self._data.stats.index_stats(index.name)
                return {"dot": "dot", "l2": "l2"}.get(statistics["indices"][0].get("metric_type", ""), "cosine")
        return "cosine"

    @property
    def _field(self) -> int:
        """The number of the target's field."""
        return next(field.id() for field in self._data.lance_schema.fields() if field.name() == self.target)

    def _has_target(self, fragment: Any) -> bool:
        return any(self._field in file.fields for file in fragment.data_files())

    def _reopen(self) -> None:
        self._data = self._lance.dataset(os.path.abspath(self._folder))
        self._written.add(self.target)

    def _drop(self, column: str) -> None:
        with failing(self.where, _ADVICE):
            self._data.drop_columns([column])
        self._data = self._lance.dataset(os.path.abspath(self._folder))

    def _batches(self, fragment: Any, columns: list[str], **which: Any) -> Iterator[tuple[Any, np.ndarray]]:
        """Batches of a fragment, and which of their rows have a vector."""
        options = {
            "batch_size": batch_rows(self.dim),
            "batch_readahead": 2,
            "io_buffer_size": _READ_AHEAD_BYTES,
            **which,
        }
        for batch in self._data.scanner(columns, fragments=[fragment], scan_in_order=True, **options).to_batches():
            yield batch, np.asarray(batch[self.column].is_valid())

    def _aligned(self, batch: Any, has: np.ndarray, address: str, align: Align, columns: list[str]) -> tuple[Any, Any]:
        """The mapped rows of a batch that have a vector, and which are good."""
        part = batch if has.all() else batch.filter(pa.array(has))
        ids = part[self._id] if self._id else part[address]
        extra = [name for name in columns if name not in (self.column, self._id)]
        roles = _values(part[extra[0]]) if extra else None
        return align(Batch(_matrix(part[self.column]), ids, roles))

    def _write(self, fragment: Any, align: Align, columns: list[str]) -> Any:
        """A data file with the target's column of one fragment; of deleted rows, and of those without a vector, it is null."""
        file = optional("lance.file", "lancedb", "LanceDB")
        library = optional("lance.fragment", "lancedb", "LanceDB")
        schema = pa.schema([pa.field(self.target, self._data.schema.field(self.target).type)])
        dim = schema.field(0).type.list_size
        name, at = f"{uuid.uuid4()}.lance", 0
        path = os.path.join(os.path.abspath(self._folder), "data", name)

        def put(rows: np.ndarray, good: np.ndarray) -> None:
            null = None if good.all() else pa.array(~good)
            array = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dim, mask=null)
            writer.write_batch(pa.record_batch([array], schema=schema))

        try:
            with file.LanceFileWriter(path, schema, version=self._data.data_storage_version) as writer:
                for batch, has in self._batches(fragment, columns, with_row_address=True):
                    places = np.asarray(batch["_rowaddr"]) & 0xFFFFFFFF
                    end = int(places[-1]) + 1
                    rows, good = self._aligned(batch, has, "_rowaddr", align, columns)
                    if len(rows) < end - at:
                        whole, all_good = np.zeros((end - at, dim), rows.dtype), np.zeros(end - at, bool)
                        whole[places[has] - at], all_good[places[has] - at] = rows, good
                        rows, good = whole, all_good
                    put(rows, good)
                    at = end
                if at < fragment.physical_rows:
                    left = fragment.physical_rows - at
                    put(np.zeros((left, dim), written_dtype(self.dtype)), np.zeros(left, bool))
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise
        like = fragment.data_files()[0]
        version = like.file_major_version, like.file_minor_version
        return library.DataFile(name, [self._field], [0], *version, writer.size_bytes)

    def _commit(self, files: dict[int, Any]) -> None:
        """Make these data files part of their fragments; again from the latest version if another program was faster."""
        if not files:
            return
        for left in reversed(range(_TRIES)):
            data = self._lance.dataset(os.path.abspath(self._folder))
            fragments = [fragment.metadata for fragment in data.get_fragments()]
            if not files.keys() <= {fragment.id for fragment in fragments}:
                raise FastRealignError(f"{self.where}: was compacted during the run; run again to go on")
            for fragment in fragments:
                if fragment.id in files and not any(
                    self._field in file.fields for file in fragment.files
                ):  # another run
                    fragment.files.append(files[fragment.id])
            operation = self._lance.LanceOperation.Merge(fragments, data.lance_schema)
            try:
                self._data = self._lance.LanceDataset.commit(data, operation, read_version=data.version)
                return
            except Exception as error:
                if not left:
                    raise FastRealignError(f"{self.where}: cannot be committed: {one_line(error)}; {_ADVICE}") from None

    def _update(self, fragment: Any, align: Align, columns: list[str]) -> None:
        """Fill in the rows of a fragment that lack the target, which other rows of it have."""
        # Each batch rewrites the column of the fragment.
        which = {"batch_size": 8 * batch_rows(self.dim), "filter": f"`{self.target}` is null", "with_row_id": True}
        for batch, has in self._batches(fragment, columns, **which):
            rows, good = self._aligned(batch, has, "_rowid", align, columns)
            if not good.any():
                continue
            array = pa.FixedSizeListArray.from_arrays(pa.array(rows[good].reshape(-1)), rows.shape[1])
            numbers = batch["_rowid"].filter(pa.array(has)).filter(pa.array(good))
            table = pa.table({"_rowid": numbers, self.target: array})
            with failing(self.where, _ADVICE):
                data = self._lance.dataset(os.path.abspath(self._folder))
                new, fields = data.get_fragment(fragment.fragment_id).update_columns(table)
                operation = self._lance.LanceOperation.Update(updated_fragments=[new], fields_modified=fields)
                self._data = self._lance.LanceDataset.commit(data, operation, read_version=data.version)


def _is_vector(kind: Any) -> bool:
    return pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)


def _matrix(lists: Any) -> np.ndarray:
    """The rows of a fixed-size list array without nulls, as a view."""
    return np.asarray(lists.flatten()).reshape(len(lists), lists.type.list_size)


def _values(column: Any) -> np.ndarray:
    """The values of a column as objects; None for null."""
    coded = column.dictionary_encode()
    values = np.array([*coded.dictionary.to_pylist(), None], object)
    return values[np.asarray(coded.indices.fill_null(len(values) - 1))]


def _table(location: str, table: str | None) -> str:
    """The folder of the table: `location` itself, or a table in this database."""
    if location.rstrip("/").endswith(".lance"):
        return location.rstrip("/")
    names = sorted(one.name[: -len(".lance")] for one in Path(location).iterdir() if one.name.endswith(".lance"))
    return os.path.join(location, f"{chosen(location, 'table', table, names, '--table')}.lance")
