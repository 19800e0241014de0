"""LanceDB tables, which are folders in the Lance format; read and written with pylance.

The aligned vectors are a column of their own, and the roles that they were made with another. Both are added empty, with the
record in their metadata, which is one commit. Then each fragment (up to a million rows) with rows to map gets a data file with
these columns alone, written in batches, in place of the one that held them; the fragments that are complete are committed.
The name of that file stands for the files of the vectors that it was made of: those never change, and a row that is changed
moves to others. Aligned vectors in other files are compared with what their vectors are mapped to. A commit names the columns
it changed, so that an index on them no longer answers for these fragments. Other columns are not written.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.libraries import pa
from fastrealign.core.optional import optional
from fastrealign.retrieval.stores.base import (
    Align,
    Found,
    StoreOptions,
    as_objects,
    as_scores,
    batch_rows,
    check_type,
    chosen,
    failing,
    role_beside,
    source_and_target,
    taken,
    warn_no_roles,
    written_dtype,
)
from fastrealign.retrieval.stores.lance_commit import ADVICE, commit, files_with
from fastrealign.retrieval.stores.lance_mapping import Columns, aligned, changed_in
from fastrealign.retrieval.stores.lance_parts import (
    DataFile,
    Filled,
    Made,
    is_vector,
    made_of,
    matrix_of,
    metric_of,
    numbers_in,
    other_types,
    table_folder,
)

_RECORD, _ROLE_OF = "fastrealign", "fastrealign_role_of"
_FIRST_FORMAT = ("0.1", "legacy")
# Complete fragments are committed this often, or when they hold this many rows.
_COMMIT_SECONDS, _COMMIT_ROWS = 10.0, 1 << 20
# Its own default is 2 GB.
_READ_AHEAD_BYTES = 64 << 20


class LanceStore:
    """One table of a LanceDB database."""

    def __init__(self, location: str, options: StoreOptions) -> None:
        self._lance = optional("lance", "lancedb", f"{location}: LanceDB")
        self._folder = table_folder(location, options.table)
        self.where = self._folder
        self._id = options.id_column
        with failing(self.where, "is it a LanceDB table?"):
            self._data = self._lance.dataset(os.path.abspath(self._folder))
        schema = self._data.schema
        if self._id is not None:
            chosen(self.where, "column", self._id, schema.names, "id_column")
        self._counted: dict[tuple[int, int], int] = {}
        self._written = {name for name in schema.names if _RECORD.encode() in (schema.field(name).metadata or {})}
        vectors = [field.name for field in schema if is_vector(field.type)]
        records = {name: json.loads(schema.field(name).metadata[_RECORD.encode()]) for name in self._written}
        expected = (
            "vectors of one width, as LanceDB searches them; name another column, or write one of type "
            "pa.list_(pa.float32(), width)"
        )
        check_type(self.where, options, vectors, other_types(schema, options.column), expected)
        self.column, self.target = source_and_target(self.where, "vector column", options, vectors, records)
        if odd := next((name for name in (self.column, self.target) if "`" in name), None):
            raise InputError(
                f"{self.where}: Lance cannot ask for a column with a backtick in its name, {odd}; rename it"
            )
        if self.target in schema.names and self.target not in self._written:
            raise taken(self.where, "column", self.target)
        read = schema.field(self.column if self.has_source() else self.target).type
        self.dim, self.dtype = read.list_size, np.dtype(read.value_type.to_pandas_dtype())

    def record(self) -> dict[str, Any] | None:
        if self.target not in self._written:
            return None
        return json.loads(self._data.schema.field(self.target).metadata[_RECORD.encode()])

    def has_source(self) -> bool:
        return self.column in self._data.schema.names

    def role_values(self, column: str) -> Counter[Any]:
        chosen(self.where, "column", column, self._data.schema.names, "role_column")
        kind = self._data.schema.field(column).type
        if pa.types.is_nested(kind) or pa.types.is_binary(kind):
            raise InputError(f"{self.where}: {column} holds {kind}, expected text that names roles")
        counts: Counter[Any] = Counter()
        with failing(self.where, ADVICE):
            for batch in self._data.to_batches([column]):
                for pair in batch.column(0).value_counts():
                    counts[pair["values"].as_py()] += pair["counts"].as_py()
        return counts

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        if self._data.data_storage_version in _FIRST_FORMAT:
            raise InputError(
                f"{self.where}: is in the first format of Lance, which takes no empty columns; rewrite it: "
                "lance.write_dataset(lance.dataset(OLD), NEW, data_storage_version='stable')"
            )
        kind = pa.list_(pa.from_numpy_dtype(written_dtype(self.dtype)), dim)
        self._add(pa.field(self.target, kind, metadata={_RECORD: json.dumps(dict(record))}), record)
        self._written.add(self.target)

    def restart(self, record: Mapping[str, Any]) -> None:
        roles = [] if record["role_column"] is None else [role_beside(self.target)]
        self._drop(*(name for name in {*self._names(), *roles} if name == self.target or self._is_ours(name)))

    def pending(self) -> tuple[int, int]:
        lacking = done = 0
        for fragment in self._data.get_fragments():
            of = self._pending_in(fragment)
            lacking, done = lacking + of, done + fragment.count_rows() - of
        return lacking, done

    def fill(self, align: Align, role_column: str | None) -> None:
        if role_column is not None and not self._is_ours(role_beside(self.target)):
            warn_no_roles(self.where, self.pending()[0])
            self._add(None, self.record() or {})
        complete: dict[int, Made] = {}
        begun = time.monotonic()
        try:
            for fragment in self._data.get_fragments():
                with failing(self.where, ADVICE):
                    changed = self._changed_in(fragment, align, role_column)
                    if not changed.any() and not self._pending_in(fragment):
                        continue
                    made = self._write(fragment, align, role_column, changed)
                if made is None:
                    continue
                complete[fragment.fragment_id] = made
                rows = sum(self._data.get_fragment(number).physical_rows for number in complete)
                if rows >= _COMMIT_ROWS or time.monotonic() - begun > _COMMIT_SECONDS:
                    self._commit(complete)
                    complete, begun = {}, time.monotonic()
        finally:  # an interrupt, or a bad row later on: what is complete stays
            self._commit(complete)

    def keeps_earlier(self) -> bool:
        return False

    def drop_old(self) -> str:
        self._drop(self.column)
        return self.column

    def sample(self, n: int) -> np.ndarray:
        table = self._data.to_table([self.target], filter=f"`{self.target}` is not null", limit=n)
        return matrix_of(table.column(0).combine_chunks())

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
        return metric_of(self._data, self.target) or "cosine"

    def _is_ours(self, column: str) -> bool:
        """Whether a column of roles is there, and `begin` made it."""
        schema = self._data.schema
        if column not in schema.names:
            return False
        if (schema.field(column).metadata or {}).get(_ROLE_OF.encode()) != self.target.encode():
            raise taken(self.where, "column", column)
        return True

    def _names(self) -> list[str]:
        """The columns that are written: the target, and that of its roles where rows have one each."""
        role, there = role_beside(self.target), self._data.schema.names
        of_rows = (self.record() or {}).get("role_column") is not None and (self.has_source() or role in there)
        return [self.target, role] if of_rows else [self.target]

    def _fields(self) -> dict[str, int]:
        """The numbers of the fields of these columns, as far as they are there."""
        numbers = {field.name(): field.id() for field in self._data.lance_schema.fields()}
        return {name: numbers[name] for name in self._names() if name in numbers}

    def _lacks_columns(self, fragment: Any) -> bool:
        """Whether a fragment, or the table, has no values of one of these columns."""
        fields = self._fields()
        return len(fields) < len(self._names()) or not {*fields.values()} <= numbers_in(fragment)

    def _pending_in(self, fragment: Any) -> int:
        """How many rows of a fragment have no aligned vector, or one of another role; a pass over the column, made once."""
        known = self._data.version, fragment.fragment_id
        if known not in self._counted:
            self._counted[known] = self._count_pending(fragment)
        return self._counted[known]

    def _count_pending(self, fragment: Any) -> int:
        if self._lacks_columns(fragment):
            return fragment.count_rows()
        lacking = f"`{self.target}` is null"
        if len(self._names()) > 1:
            role, by = f"`{role_beside(self.target)}`", (self.record() or {})["role_column"]
            lacking += f" or {role} is null or {role} <> cast(`{by}` as string)"
        with failing(self.where, ADVICE):
            return fragment.count_rows(filter=lacking)

    def _add(self, target: Any, record: Mapping[str, Any]) -> None:
        """Add the target's column and, where rows have a role each, that of their roles, in one commit."""
        fields = [] if target is None else [target]
        role = role_beside(self.target)
        if record.get("role_column") is not None and not self._is_ours(role):
            fields.append(pa.field(role, pa.string(), metadata={_ROLE_OF: self.target}))
        with failing(self.where, ADVICE):
            try:
                self._data.add_columns(pa.schema(fields))
            except OSError:
                # Another run may have added the same at the same time.
                now = self._lance.dataset(os.path.abspath(self._folder)).schema
                if not all(one.name in now.names and now.field(one.name).equals(one, True) for one in fields):
                    raise
            self._data = self._lance.dataset(os.path.abspath(self._folder))

    def _drop(self, *columns: str) -> None:
        with failing(self.where, ADVICE):
            self._data.drop_columns([*columns])
            self._data = self._lance.dataset(os.path.abspath(self._folder))

    def _batches(self, fragment: Any, columns: list[str]) -> Iterator[Any]:
        """Batches of a fragment, in order, with the places of their rows."""
        ahead = {"batch_readahead": 2, "io_buffer_size": _READ_AHEAD_BYTES}
        options = {"batch_size": batch_rows(self.dim), "scan_in_order": True, "with_row_address": True, **ahead}
        return self._data.scanner(columns, fragments=[fragment], **options).to_batches()

    def _columns(self, by: str | None) -> Columns:
        return Columns(self.column, self.target, by, role_beside(self.target), self._id)

    def _changed_in(self, fragment: Any, align: Align, by: str | None) -> np.ndarray:
        """Which rows of a fragment (bool, by their places) have an aligned vector that another vector was mapped to.

        No row where `index` wrote the aligned vectors and the file of the vectors is the one that they were made of.
        """
        fields = self._fields()
        made = made_of(self._data, self.column, fragment)
        if self._lacks_columns(fragment) or all(
            made in path for path in files_with(fragment.metadata, fields.values())
        ):
            return np.zeros(fragment.physical_rows, bool)
        columns = self._columns(by)
        return changed_in(self._batches(fragment, columns.named(*fields)), fragment.physical_rows, align, columns)

    def _write(self, fragment: Any, align: Align, by: str | None, changed: np.ndarray) -> Made | None:
        """A data file with what is written of one fragment, null for deleted rows and those without a vector; None where
        no row has changed, so that the fragment stays as it is."""
        fields = self._fields()
        schema = pa.schema([pa.field(name, self._data.schema.field(name).type) for name in fields])
        old = fields if fields[self.target] in numbers_in(fragment) else ()
        columns = self._columns(by)
        at, differs = 0, False
        made = made_of(self._data, self.column, fragment)
        with DataFile(self._folder, schema, self._data.data_storage_version, made) as file:
            for batch in self._batches(fragment, columns.named(*old)):
                part = aligned(batch, at, align, columns, changed)
                file.write(part)
                at, differs = at + len(part.rows), differs or part.changed
            if not differs:
                return None
            if at < fragment.physical_rows:
                file.write(Filled.empty(fragment.physical_rows - at, part.rows, by is not None))
            file.finish()
        return Made(
            file.described([*fields.values()], fragment.data_files()[0]), files_with(fragment.metadata, fields.values())
        )

    def _commit(self, made: dict[int, Made]) -> None:
        """Make these data files part of their fragments; again from the latest version if another program was faster."""
        if not made:
            return
        self._data = commit(self._folder, made, self._fields())
