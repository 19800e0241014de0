"""PostgreSQL tables with pgvector's types (vector, halfvec), or plain arrays (real[], double precision[]); needs psycopg.

The aligned vector is a column beside the one that is read. It is added with its record, which is the comment of the column, in
one transaction. Then the table is read in windows of blocks; the rows of a window that lack the aligned vector are locked,
mapped and updated in one transaction, so that a row is either as it was or done. Values travel in PostgreSQL's binary format.
Without pgvector a search reads the whole column.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.retrieval.stores import pg_format
from fastrealign.retrieval.stores.base import (
    Align,
    Batch,
    Found,
    StoreOptions,
    as_objects,
    as_scores,
    batch_rows,
    chosen,
    cosines,
    failing,
    source_and_target,
)

_RECORD = "fastrealign: "
_WAIT_SECONDS = 30
# Another run that has just ended, or was killed, still holds its lock for a moment.
_HELD_SECONDS = 3.0
_MOST_BLOCKS = 4096
_PASSES = 5
_TABLES = """\
SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END, c.oid::int8,
       bool_or(t.typname IN ('vector', 'halfvec', '_float4', '_float8'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_t%%'
GROUP BY 1, 2 ORDER BY 1"""
_COLUMNS = """\
SELECT a.attname, t.typname, a.atttypmod, col_description(a.attrelid, a.attnum), t.oid::int8,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND i.indkey[0] = a.attnum
               AND i.indnkeyatts = 1)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
_OPERATORS = """\
SELECT o.opcname FROM pg_index i JOIN pg_opclass o ON o.oid = i.indclass[0]
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = %s AND a.attname = %s AND (o.opcname LIKE 'vector%%' OR o.opcname LIKE 'halfvec%%')"""


class PgvectorStore:
    """One table."""

    def __init__(self, location: str, options: StoreOptions) -> None:
        self._pg = optional("psycopg", "pgvector", "a postgresql:// URL")
        self.where = location
        self._held = False
        try:
            self._connection = self._pg.connect(location, autocommit=True, connect_timeout=10)
        except self._pg.Error as error:
            said = one_line(error)
            raise FastRealignError(f"{location}: does not answer ({said}); is PostgreSQL running there?") from None
        try:
            self._sql = self._pg.sql
            self._do(f"SET lock_timeout = '{_WAIT_SECONDS}s'")
            self._look(location, options)
        except BaseException:
            self.close()
            raise

    def record(self) -> dict[str, Any] | None:
        comment = self._columns[self.target].comment if self.target in self._columns else ""
        return json.loads(comment[len(_RECORD) :]) if comment.startswith(_RECORD) else None

    def has_source(self) -> bool:
        return self.column in self._columns

    def role_values(self, column: str) -> Counter[Any]:
        chosen(self.where, "column", column, list(self._columns), "--role-column")
        return Counter(dict(self._do("SELECT {role}::text, count(*) FROM {table} GROUP BY 1", role=column)))

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        comment = self._sql.Literal(_RECORD + json.dumps(dict(record)))
        with self._answering(), self._connection.transaction():
            self._do(f"ALTER TABLE {{table}} ADD COLUMN {{target}} {self._format.declared(dim)}")
            self._do("COMMENT ON COLUMN {table}.{target} IS {comment}", comment=comment)
        self._read_columns()

    def restart(self) -> None:
        self._hold()
        self._do("ALTER TABLE {table} DROP COLUMN {target}")

    def pending(self) -> tuple[int, int]:
        if not self.has_source():
            return 0, self._do("SELECT count({target}) FROM {table}")[0][0]
        return self._do(
            "SELECT count(*) FILTER (WHERE {column} IS NOT NULL AND {target} IS NULL), count({target}) FROM {table}"
        )[0]

    def fill(self, align: Align, role_column: str | None) -> None:
        self._hold()
        dim = (self.record() or {})["dim"]
        self._do(f"CREATE TEMP TABLE fastrealign_batch (at tid, v {self._format.declared(dim)}) ON COMMIT DELETE ROWS")
        for _ in range(_PASSES):  # rows that others move while they are read are found in the next pass
            self._one_pass(align, role_column, dim)
            left = "SELECT count(*) FROM {table} WHERE {column} IS NOT NULL AND {target} IS NULL"
            if self._do(left)[0][0] <= len(self._bad):
                return

    def drop_old(self) -> str:
        self._hold()
        self._do("ALTER TABLE {table} DROP COLUMN {column}")
        return self.column

    def sample(self, n: int) -> np.ndarray:
        rows = self._do("SELECT {target} FROM {table} WHERE {target} IS NOT NULL LIMIT %s", n, binary=True)
        if not rows:
            return np.zeros((0, self.dim), np.float32)
        return self._written.decode([row[0] for row in rows], self.where).astype(np.float32)

    def search(self, queries: np.ndarray, k: int, role_column: str | None) -> Found:
        ids, scores, roles = [], [], []
        for query in queries:
            found = (
                self._nearest(query, k, role_column)
                if self._format.searchable
                else self._scanned(query, k, role_column)
            )
            ids.append([row[0] for row in found])
            scores.append(np.array([row[1] for row in found], np.float64))
            roles.append([row[2] for row in found])
        values = as_objects(roles, k) if role_column else None
        return Found(as_objects(ids, k), as_scores([cosines(one, self.metric).tolist() for one in scores], k), values)

    def close(self) -> None:
        self._connection.close()

    def _hold(self) -> None:
        """Keep other runs of index out until the connection closes; the server lets go of a lock some time after that."""
        until = time.monotonic() + _HELD_SECONDS
        while not self._held:
            self._held = self._do("SELECT pg_try_advisory_lock(%s)", self._oid)[0][0]
            if self._held:
                return
            if time.monotonic() > until:
                raise FastRealignError(f"{self.where}: is locked by another run of index; run again when it is done")
            time.sleep(0.05)

    @cached_property
    def metric(self) -> str:
        """That of an index on the aligned vectors, which serves no other; without one any will do."""
        kinds = {name.rpartition("_")[0].rpartition("_")[2] for (name,) in self._do(_OPERATORS, self._oid, self.target)}
        return "cosine" if "cosine" in kinds or not kinds else {"l2": "l2", "ip": "dot"}.get(kinds.pop(), "cosine")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Errors of the server as one line."""
        with failing(self.where, "nothing was changed in this step; run again when that is fixed"):
            try:
                yield
            except self._pg.errors.LockNotAvailable:
                raise FastRealignError(
                    f"{self.where}: is locked by another transaction for {_WAIT_SECONDS} s; run again when that is over"
                ) from None

    def _do(self, text: str, *values: Any, binary: bool = False, **names: Any) -> list[Any]:
        """Run a statement; names in braces are quoted."""
        with self._answering(), self._connection.cursor(binary=binary) as cursor:
            cursor.execute(self._statement(text, **names), values or None)
            return cursor.fetchall() if cursor.description else []

    def _statement(self, text: str, **names: Any) -> Any:
        known = {
            name: vars(self).get(own) for name, own in (("table", "_table"), ("column", "column"), ("target", "target"))
        }
        parts = {}
        for name, value in (known | names).items():
            if value is not None and f"{{{name}}}" in text:
                words = (value,) if isinstance(value, str) else value
                parts[name] = self._sql.Identifier(*words) if isinstance(words, tuple) else value
        return self._sql.SQL(text).format(**parts)

    def _look(self, location: str, options: StoreOptions) -> None:
        """What is read and what is written."""
        tables = {name: (oid, holds) for name, oid, holds in self._do(_TABLES)}
        with_vectors = [name for name, (_, holds) in tables.items() if holds]
        table = chosen(location, "table", options.table, list(tables) if options.table else with_vectors, "--table")
        self._table, self._oid = tuple(table.split(".", 1)), tables[table][0]
        self.where = f"{location}: {table}"
        self._read_columns()
        kinds = {name: one for name, one in self._columns.items() if one.kind in pg_format.FORMATS}
        made = {
            n: json.loads(one.comment[len(_RECORD) :]) for n, one in kinds.items() if one.comment.startswith(_RECORD)
        }
        self.column, self.target = source_and_target(self.where, "vector column", options, list(kinds), made)
        if self.target in self._columns and self.target not in made:
            raise InputError(f"{self.where}: there is a column {self.target} already; name another with --to")
        there = self.column if self.has_source() else self.target
        self._format, self.dim = pg_format.FORMATS[kinds[there].kind], self._dim_of(there)
        self._written = self._format.written
        self._bad: set[str] = set()  # rows that were met and left empty
        if options.id_column is not None:
            chosen(self.where, "column", options.id_column, list(self._columns), "--id-column")
        self._id = options.id_column or next((name for name, one in self._columns.items() if one.key), None)
        for one in kinds.values():
            self._connection.adapters.register_loader(one.oid, pg_format.raw_loader(self._pg))

    def _read_columns(self) -> None:
        rows = self._do(_COLUMNS, self._oid)
        self._columns = {
            name: pg_format.Column(kind, size, said or "", *more) for name, kind, size, said, *more in rows
        }

    def _dim_of(self, column: str) -> int:
        """The declared width of a column, or that of its first row."""
        declared = self._columns[column]
        if declared.size > 0:
            return declared.size
        size = pg_format.FORMATS[declared.kind].size
        rows = self._do(f"SELECT {size} FROM {{table}} WHERE {{of}} IS NOT NULL LIMIT 1", of=column)
        if rows:
            return rows[0][0]
        raise InputError(f"{self.where}: {column} holds no vectors; add rows first")

    def _one_pass(self, align: Align, role_column: str | None, dim: int) -> None:
        """All blocks of the table once."""
        first, blocks, most = 0, 1, batch_rows(self.dim)
        while (
            first < self._do("SELECT pg_relation_size(%s::oid) / current_setting('block_size')::int8", self._oid)[0][0]
        ):
            read = self._window(first, first + blocks, align, role_column, dim)
            first += blocks
            blocks = min(_MOST_BLOCKS, max(1, blocks * most // max(read, 1)), 4 * blocks)

    def _window(self, first: int, end: int, align: Align, role_column: str | None, dim: int) -> int:
        """Map the rows in blocks first to end that lack the aligned vector, in one transaction; how many there were."""
        role = ", {role}::text" if role_column else ""
        name = ", {id}::text" if self._id else ", ctid::text"
        names = {"role": role_column, "id": self._id}
        with self._answering(), self._connection.transaction():
            rows = self._do(
                f"SELECT ctid, {{column}}{name}{role} FROM {{table}} WHERE ctid >= %s::tid AND ctid < %s::tid "
                "AND {target} IS NULL AND {column} IS NOT NULL FOR NO KEY UPDATE",
                f"({first},0)",
                f"({end},0)",
                binary=True,
                **names,
            )
            rows = [row for row in rows if row[2] not in self._bad]
            if not rows:
                return 0
            vectors = self._format.decode([row[1] for row in rows], self.where)
            if vectors.shape[1] != self.dim:
                raise InputError(f"{self.where}: row {rows[0][2]} is {vectors.shape[1]} wide, expected {self.dim}")
            roles = [row[3] for row in rows] if role_column else None
            mapped, good = align(Batch(vectors, [row[2] for row in rows], roles))
            places = [row[0] for row, keep in zip(rows, good, strict=True) if keep]
            self._bad.update(row[2] for row, keep in zip(rows, good, strict=True) if not keep)
            if not places:
                return len(rows)
            with self._connection.cursor() as cursor:
                with cursor.copy("COPY fastrealign_batch FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(self._written.encoded(places, mapped[good]))
                for off in ("seqscan", "hashjoin", "mergejoin"):  # rows are found by their places
                    cursor.execute(f"SET LOCAL enable_{off} = off")
            self._do("UPDATE {table} t SET {target} = b.v FROM fastrealign_batch b WHERE t.ctid = b.at")
            return len(rows)

    def _nearest(self, query: np.ndarray, k: int, role_column: str | None) -> list[Any]:
        """The k nearest rows by pgvector: id, cosine (of l2 the squared distance), role."""
        operator, score = {"cosine": ("<=>", "1 - d"), "l2": ("<->", "d * d"), "dot": ("<#>", "-d")}[self.metric]
        text = "[" + ",".join(map(repr, query.tolist())) + "]"
        id_, role = ("{id}" if self._id else "ctid::text"), ("{role}::text" if role_column else "NULL")
        return self._do(
            f"SELECT i, {score}, r FROM (SELECT {id_} AS i, {role} AS r, {{target}} {operator} %s::{self._format.name} AS d "
            f"FROM {{table}} WHERE {{target}} IS NOT NULL ORDER BY d LIMIT %s) AS nearest",
            text,
            k,
            id=self._id,
            role=role_column,
        )

    def _scanned(self, query: np.ndarray, k: int, role_column: str | None) -> list[Any]:
        """The same by reading the whole column."""
        id_, role = ("{id}" if self._id else "ctid::text"), ("{role}::text" if role_column else "NULL")
        text = f"SELECT {id_}, {role}, {{target}} FROM {{table}} WHERE {{target}} IS NOT NULL"
        best: list[Any] = []
        with self._answering(), self._connection.transaction():
            cursor = self._connection.cursor("fastrealign_scan", binary=True)
            cursor.execute(self._statement(text, id=self._id, role=role_column))
            while rows := cursor.fetchmany(batch_rows(len(query))):
                scores = self._written.decode([row[2] for row in rows], self.where) @ query
                best += [(row[0], float(score), row[1]) for row, score in zip(rows, scores, strict=True)]
                best = sorted(best, key=lambda one: -one[1])[:k]
        return best
