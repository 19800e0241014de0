"""The nearest rows of a PostgreSQL table to a query: by pgvector, or by reading the whole column."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastrealign.retrieval.stores.base import batch_rows
from fastrealign.retrieval.stores.pg_connection import PgConnection
from fastrealign.retrieval.stores.pg_format import Format


class Asked(NamedTuple):
    """How many rows, and the columns of their id and role; without an id column they are named by their places."""

    k: int
    id: str | None
    role: str | None

    def selected(self) -> tuple[str, str]:
        """SQL for id and role."""
        return ("{id}" if self.id else "ctid::text"), ("{role}::text" if self.role else "NULL")


def nearest(at: PgConnection, kind: Format, metric: str, query: np.ndarray, asked: Asked) -> list[Any]:
    """The k nearest rows by pgvector: id, cosine (of l2 the squared distance), role."""
    operator, score = {"cosine": ("<=>", "1 - d"), "l2": ("<->", "d * d"), "dot": ("<#>", "-d")}[metric]
    text = "[" + ",".join(map(repr, query.tolist())) + "]"
    id_, role = asked.selected()
    return at.do(
        f"SELECT i, {score}, r FROM (SELECT {id_} AS i, {role} AS r, {{target}} {operator} %s::{kind.name} AS d "
        f"FROM {{table}} WHERE {{target}} IS NOT NULL ORDER BY d LIMIT %s) AS nearest",
        text,
        asked.k,
        id=asked.id,
        role=asked.role,
    )


def scanned(at: PgConnection, kind: Format, query: np.ndarray, asked: Asked) -> list[Any]:
    """The same by reading the whole column."""
    text = "SELECT {}, {}, {{target}} FROM {{table}} WHERE {{target}} IS NOT NULL".format(*asked.selected())
    best: list[Any] = []
    with at.transaction():
        cursor = at.raw.cursor("fastrealign_scan", binary=True)
        cursor.execute(at.statement(text, id=asked.id, role=asked.role))
        while rows := cursor.fetchmany(batch_rows(len(query))):
            scores = kind.decode([row[2] for row in rows], at.where) @ query
            best += [(row[0], float(score), row[1]) for row, score in zip(rows, scores, strict=True)]
            best = sorted(best, key=lambda one: -one[1])[: asked.k]
    return best
