"""A connection to PostgreSQL: statements about one table, errors in one line, and what its catalogue is asked."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.core.wording import option
from fastrealign.retrieval.stores.base import failing

_WAIT_SECONDS = 30
_MOST_BYTES = 63
# Refusals that pass: the server starts, stops or recovers, or has no connection left.
_LATER = re.compile("database system is|too many (clients|connections)|connection slots")
# Another run that has just ended, or was killed, still holds its lock for a moment.
_HELD_SECONDS = 3.0
TABLES = """\
SELECT CASE WHEN pg_table_is_visible(c.oid) THEN c.relname ELSE n.nspname || '.' || c.relname END, c.oid::int8,
       n.nspname, c.relname,
       CASE WHEN c.relkind = 'p' THEN 'is partitioned' WHEN c.relispartition THEN 'is a partition'
            WHEN EXISTS (SELECT 1 FROM pg_inherits i WHERE i.inhparent = c.oid) THEN 'has tables that inherit from it' END,
       bool_or(t.typname IN ('vector', 'halfvec', '_float4', '_float8'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_t%%'
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1"""
COLUMNS = """\
SELECT a.attname, t.typname, a.atttypmod, col_description(a.attrelid, a.attnum), t.oid::int8,
       EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND i.indkey[0] = a.attnum
               AND i.indnkeyatts = 1)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""
OPERATORS = """\
SELECT o.opcname FROM pg_index i JOIN pg_opclass o ON o.oid = i.indclass[0]
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = %s AND a.attname = %s AND (o.opcname LIKE 'vector%%' OR o.opcname LIKE 'halfvec%%')"""


class PgConnection:
    """A connection that commits each statement, unless a transaction is open.

    `where` names the table in messages; `names` are what statements have in braces: a str or tuple of them is quoted.
    """

    def __init__(self, location: str) -> None:
        self.where = location
        self.names: dict[str, Any] = {}
        self._held = False
        self.pg = optional("psycopg", "pgvector", "a postgresql:// URL")
        # What it logs of a lost connection is raised, too.
        logging.getLogger("psycopg").addHandler(logging.NullHandler())
        try:
            self.raw = self.pg.connect(location, autocommit=True, connect_timeout=10)
        except self.pg.Error as error:
            said = one_line(error)
            refused = said.rpartition("FATAL: ")[2] if "FATAL: " in said else said if "invalid" in said else None
            if refused is None:
                raise FastRealignError(f"{location}: does not answer ({said}); is PostgreSQL running there?") from None
            advice = "run again later" if _LATER.search(refused) else "correct the URL, or what the server allows"
            raise FastRealignError(f"{location}: no connection: {refused.strip()}; {advice}") from None

    def do(self, text: str, *values: Any, binary: bool = False, **names: Any) -> list[Any]:
        """Run a statement, and return its rows."""
        with self.answering(), self.raw.cursor(binary=binary) as cursor:
            cursor.execute(self.statement(text, with_values=bool(values), **names), values or None)
            return cursor.fetchall() if cursor.description else []

    def statement(self, text: str, *, with_values: bool = False, **names: Any) -> Any:
        """A statement with these names, besides those of the connection; with values % stands for one, %% for itself."""
        parts = {}
        for name, value in (self.names | names).items():
            if value is not None and f"{{{name}}}" in text:
                words = (value,) if isinstance(value, str) else value
                if isinstance(words, tuple):
                    value = self.pg.sql.Identifier(
                        *(word.replace("%", "%%") if with_values else word for word in words)
                    )
                parts[name] = value
        return self.pg.sql.SQL(text).format(**parts)

    def blocks(self, number: int) -> int:
        """How many blocks a table has."""
        return self.do("SELECT pg_relation_size(%s::oid) / current_setting('block_size')::int8", number)[0][0]

    def check_name(self, name: str) -> None:
        """InputError for a column to make whose name PostgreSQL would cut, so that it would not be found again."""
        if len(name.encode()) > _MOST_BYTES:
            raise InputError(
                f"{self.where}: {name} is longer than the {_MOST_BYTES} bytes of a name in PostgreSQL; give a shorter one with "
                f"{option('to')}"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All statements of the block, or none."""
        with self.answering(), self.raw.transaction():
            yield

    def hold(self, number: int) -> None:
        """Keep other runs of index out until the connection closes; the server lets go of a lock some time after that."""
        until = time.monotonic() + _HELD_SECONDS
        while not self._held:
            self._held = self.do("SELECT pg_try_advisory_lock(%s)", number)[0][0]
            if self._held:
                return
            if time.monotonic() > until:
                raise FastRealignError(f"{self.where}: is locked by another run of index; run again when it is done")
            time.sleep(0.05)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Errors of the server as one line."""
        with failing(self.where, "nothing was changed in this step; run again when that is fixed"):
            try:
                yield
            except self.pg.errors.LockNotAvailable:
                raise FastRealignError(
                    f"{self.where}: is locked by another transaction for {_WAIT_SECONDS} s; run again when that is over"
                ) from None

    def wait_for_locks(self) -> None:
        """At most some seconds, in every statement."""
        self.do(f"SET lock_timeout = '{_WAIT_SECONDS}s'")
