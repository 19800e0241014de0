"""PostgreSQL tables with pgvector's types (vector, halfvec), or plain arrays (real[], double precision[]); needs psycopg.

The aligned vector is a column beside the one that is read, and the role it was made with another. They are added in one
transaction with the record, which is the comment of the first. Then the table is read in windows of blocks; the rows of a
window that lack the aligned vector, or whose role or vector has changed, are locked, mapped and updated in one transaction, so
that a row is either as it was or done. Values travel in PostgreSQL's binary format.
Without pgvector a search reads the whole column.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.formatting import count
from fastrealign.retrieval.stores import pg_connection, pg_format
from fastrealign.retrieval.stores.base import (
    Align,
    Batch,
    Found,
    StoreOptions,
    as_objects,
    as_scores,
    batch_rows,
    check_type,
    chosen,
    cosines,
    role_beside,
    source_and_target,
    taken,
    warn_no_roles,
)
from fastrealign.retrieval.stores.pg_connection import PgConnection
from fastrealign.retrieval.stores.pg_search import Asked, nearest, scanned

_RECORD, _ROLE_OF = "fastrealign: ", "fastrealign, role of "
_MOST_BLOCKS = 4096
_PASSES = 5


class PgvectorStore:
    """One table."""

    def __init__(self, location: str, options: StoreOptions) -> None:
        self._at = PgConnection(location)
        self._do = self._at.do
        try:
            self._at.wait_for_locks()
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
        chosen(self.where, "column", column, list(self._columns), "role_column")
        return Counter(dict(self._do("SELECT {role}::text, count(*) FROM {table} GROUP BY 1", role=column)))

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        self._at.check_name(self.target)
        comment = self._at.pg.sql.Literal(_RECORD + json.dumps(dict(record)))
        with self._at.transaction():
            self._do(f"ALTER TABLE {{table}} ADD COLUMN {{target}} {self._format.declared(dim)}")
            self._do("COMMENT ON COLUMN {table}.{target} IS {comment}", comment=comment)
            if record["role_column"] is not None and not self._keeps_roles():
                self._add_roles()
        self._read_columns()

    def restart(self, record: Mapping[str, Any]) -> None:
        self._at.hold(self._oid)
        if record["role_column"] is not None and not self._keeps_roles():
            self._at.check_name(role_beside(self.target))
        also = ", DROP COLUMN {stored}" if self._by() is not None and self._keeps_roles() else ""
        self._do(f"ALTER TABLE {{table}} DROP COLUMN {{target}}{also}")
        self._read_columns()

    def pending(self) -> tuple[int, int]:
        by, lacking = self._by(), self._lacking()
        has = "{column} IS NOT NULL AND " if self.has_source() else ""
        counts = (
            f"count(*) FILTER (WHERE {has}{lacking}), count(*) FILTER (WHERE {{target}} IS NOT NULL AND NOT {lacking})"
        )
        return self._do(f"SELECT {counts} FROM {{table}}", by=by)[0]

    def fill(self, align: Align, role_column: str | None) -> None:
        self._at.hold(self._oid)
        if role_column is not None and not self._keeps_roles():
            warn_no_roles(self.where, self.pending()[0])
            with self._at.transaction():
                self._add_roles()
            self._read_columns()
        dim = (self.record() or {})["dim"]
        columns = f"at tid, v {self._format.declared(dim)}, role int2"
        self._do(f"CREATE TEMP TABLE fastrealign_batch ({columns}) ON COMMIT DELETE ROWS")
        there = self._at.blocks(self._oid) if self.pending()[1] else 0  # rows of this run come after
        for _ in range(_PASSES):  # rows that others move while they are read are found in the next pass
            self._one_pass(align, dim, there)
            there = 0
            if self.pending()[0] <= len(self._bad):
                break
        align.bare = self._do("SELECT count(*) FROM {table} WHERE {column} IS NULL AND {target} IS NOT NULL")[0][0]

    def keeps_earlier(self) -> bool:
        return False

    def drop_old(self) -> str:
        self._at.hold(self._oid)
        self._do("ALTER TABLE {table} DROP COLUMN {column}")
        return self.column

    def sample(self, n: int) -> np.ndarray:
        rows = self._do("SELECT {target} FROM {table} WHERE {target} IS NOT NULL LIMIT %s", n, binary=True)
        if not rows:
            return np.zeros((0, self.dim), np.float32)
        return self._written.decode([row[0] for row in rows], self.where).astype(np.float32)

    def search(self, queries: np.ndarray, k: int, role_column: str | None) -> Found:
        asked = Asked(k, self._id, role_column)
        ids, scores, roles = [], [], []
        for query in queries:
            if self._format.searchable:
                found = nearest(self._at, self._format, self.metric, query, asked)
            else:
                found = scanned(self._at, self._written, query, asked)
            ids.append([row[0] for row in found])
            scores.append(np.array([row[1] for row in found], np.float64))
            roles.append([row[2] for row in found])
        values = as_objects(roles, k) if role_column else None
        return Found(as_objects(ids, k), as_scores([cosines(one, self.metric).tolist() for one in scores], k), values)

    def close(self) -> None:
        self._at.raw.close()

    @cached_property
    def metric(self) -> str:
        """That of an index on the aligned vectors, which serves no other; without one any will do."""
        kinds = {
            name.rpartition("_")[0].rpartition("_")[2]
            for (name,) in self._do(pg_connection.OPERATORS, self._oid, self.target)
        }
        return "cosine" if "cosine" in kinds or not kinds else {"l2": "l2", "ip": "dot"}.get(kinds.pop(), "cosine")

    def _look(self, location: str, options: StoreOptions) -> None:
        """What is read and what is written."""
        tables = {name: rest for name, *rest in self._do(pg_connection.TABLES)}
        with_vectors = [name for name, (*_, holds) in tables.items() if holds]
        table = chosen(location, "table", options.table, list(tables) if options.table else with_vectors, "table")
        self._oid = tables[table][0]
        self.where = self._at.where = f"{location}: {table}"
        self._at.names["table"] = tuple(tables[table][1:3])
        if (parts := tables[table][3]) is not None:  # all of them get a column at once, and a place names a row of each
            name = self._at.statement("{table}").as_string(self._at.raw)
            raise InputError(
                f"{self.where}: {parts}, expected a table by itself; index a copy: CREATE TABLE NAME AS TABLE {name}"
            )
        self._read_columns()
        kinds = {name: one for name, one in self._columns.items() if one.kind in pg_format.FORMATS}
        made = {
            n: json.loads(one.comment[len(_RECORD) :]) for n, one in kinds.items() if one.comment.startswith(_RECORD)
        }
        expected = "vector, halfvec, real[] or double precision[]; name another column, or convert this one"
        check_type(self.where, options, kinds, pg_format.other_types(self._columns, options.column), expected)
        self.column, self.target = source_and_target(self.where, "vector column", options, list(kinds), made)
        self._at.names |= {"column": self.column, "target": self.target, "stored": role_beside(self.target)}
        if self.target in self._columns and self.target not in made:
            raise taken(self.where, "column", self.target)
        there = self.column if self.has_source() else self.target
        self._format, self.dim = pg_format.FORMATS[kinds[there].kind], self._dim_of(there)
        self._written = self._format.written
        self._bad: set[bytes] = set()  # places of the rows that were met and left empty
        if options.id_column is not None:
            chosen(self.where, "column", options.id_column, list(self._columns), "id_column")
        self._id = options.id_column or next((name for name, one in self._columns.items() if one.key), None)
        for one in kinds.values():
            self._at.raw.adapters.register_loader(one.oid, pg_format.raw_loader(self._at.pg))

    def _read_columns(self) -> None:
        rows = self._do(pg_connection.COLUMNS, self._oid)
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

    def _one_pass(self, align: Align, dim: int, there: int) -> None:
        """All blocks of the table once; what the first blocks, `there`, hold of done rows is compared with their vectors."""
        first, blocks, most = 0, 1, batch_rows(self.dim)
        while first < self._at.blocks(self._oid):
            end = first + blocks
            seen, changed = self._changed(first, end, align) if first < there else (0, [])
            read, first = max(seen, self._window(first, end, align, dim, changed)), end
            blocks = min(_MOST_BLOCKS, max(1, blocks * most // max(read, 1)), 4 * blocks)

    def _keeps_roles(self) -> bool:
        """Whether the column of roles is there, and `begin` made it."""
        name = role_beside(self.target)
        if name not in self._columns:
            return False
        if self._columns[name].comment != _ROLE_OF + self.target:
            raise taken(self.where, "column", name)
        return True

    def _add_roles(self) -> None:
        self._at.check_name(role_beside(self.target))
        self._do("ALTER TABLE {table} ADD COLUMN {stored} text")
        comment = self._at.pg.sql.Literal(_ROLE_OF + self.target)
        self._do("COMMENT ON COLUMN {table}.{stored} IS {comment}", comment=comment)

    def _by(self) -> str | None:
        """The column of the roles that rows have now, where it decides whether a row is done."""
        by = (self.record() or {}).get("role_column")
        return by if by is not None and (self.has_source() or self._keeps_roles()) else None

    def _lacking(self) -> str:
        """The condition for a row that is not done; {by} is `_by()`."""
        if self._by() is None:
            return "({target} IS NULL)"
        if not self._keeps_roles():
            return "TRUE"
        return "({target} IS NULL OR {stored} IS DISTINCT FROM {by}::text)"

    def _changed(self, first: int, end: int, align: Align) -> tuple[int, list[str]]:
        """How many rows in blocks first to end are done, and the places of those that another vector was mapped to."""
        rows = self._do(
            f"SELECT ctid::text, {{column}}, {self._named()}, {{target}} FROM {{table}} WHERE ctid >= %s::tid "
            f"AND ctid < %s::tid AND NOT {self._lacking()} AND {{column}} IS NOT NULL",
            f"({first},0)",
            f"({end},0)",
            binary=True,
            by=self._by(),
            id=self._id,
        )
        if not rows:
            return 0, []
        stored = self._written.decode([row[-1] for row in rows], self.where)
        changed = align.changed(self._batch(rows), stored)
        return len(rows), [row[0] for row, one in zip(rows, changed, strict=True) if one]

    def _named(self) -> str:
        """SQL for what names a row, and its role; NULL where all have one."""
        return ("{id}::text" if self._id else "ctid::text") + (", {by}::text" if self._by() else ", NULL::text")

    def _batch(self, rows: list[Any]) -> Batch:
        """Rows that a statement selected: place, vector, and `_named`."""
        names = [row[2] for row in rows]
        vectors = self._format.decode([row[1] for row in rows], self.where, names)
        if vectors.shape[1] != self.dim:
            raise InputError(f"{self.where}: row {names[0]} is {vectors.shape[1]} wide, expected {self.dim}")
        return Batch(vectors, names, None if self._by() is None else [row[3] for row in rows])

    def _window(self, first: int, end: int, align: Align, dim: int, changed: list[str]) -> int:
        """Map the rows in blocks first to end that are not done, or `changed`, in one transaction; how many there were."""
        with self._at.transaction():
            rows = self._do(
                f"SELECT ctid, {{column}}, {self._named()}, {{target}} IS NOT NULL FROM {{table}} WHERE ctid >= %s::tid "
                f"AND ctid < %s::tid AND ({self._lacking()} OR ctid = ANY(%s::tid[])) AND {{column}} IS NOT NULL "
                "FOR NO KEY UPDATE",
                f"({first},0)",
                f"({end},0)",
                changed,
                binary=True,
                by=self._by(),
                id=self._id,
            )
            rows = [row for row in rows if row[0] not in self._bad]
            if not rows:
                return 0
            batch = self._batch(rows)
            mapped, good = align(batch)
            changes = good | np.array([row[-1] for row in rows])  # what a row without a direction had is emptied
            self._bad.update(row[0] for row, change in zip(rows, changes, strict=True) if not change)
            if not changes.any():
                return len(rows)
            names, codes = np.unique(np.array(batch.roles or [""] * len(rows)), return_inverse=True)
            codes = np.where(good, codes + 1, 0)[changes]  # arrays of SQL begin at 1
            places = [row[0] for row, change in zip(rows, changes, strict=True) if change]
            with self._at.raw.cursor() as cursor:
                with cursor.copy("COPY fastrealign_batch FROM STDIN (FORMAT BINARY)") as copy:
                    copy.write(self._written.encoded(places, mapped[changes], codes))
                for off in ("seqscan", "hashjoin", "mergejoin"):  # rows are found by their places
                    cursor.execute(f"SET LOCAL enable_{off} = off")
            also = ", {stored} = (%s::text[])[b.role]" if batch.roles is not None else ""
            moves = self._do(  # an update moves a row
                f"WITH moved AS (UPDATE {{table}} t SET {{target}} = CASE WHEN b.role > 0 THEN b.v END{also} "
                "FROM fastrealign_batch b WHERE t.ctid = b.at RETURNING t.ctid AS place, b.role AS code) "
                "SELECT NULL, count(*) FROM moved UNION ALL SELECT place, 0 FROM moved WHERE code = 0",
                *([] if batch.roles is None else [names.tolist()]),
                binary=True,
            )
            if left := len(places) - sum(n for _, n in moves):
                raise FastRealignError(
                    f"{self.where}: a trigger or a rule of the table keeps {left:,} of {count(len(places), 'row')} from being "
                    "updated; disable it, and run the same command again"
                )
            self._bad.update(place for place, _ in moves if place is not None)
            return len(rows)
