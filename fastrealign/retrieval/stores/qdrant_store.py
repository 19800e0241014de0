"""Qdrant collections, on a server or in a local folder; read and written with qdrant-client.

The aligned vector of a point is a named vector beside the one that is read; other vectors stay, and payloads get a field with
the role that the aligned vector was made with. The record is in the metadata of the collection, which is written before the
name is made. A server that cannot add a name to a collection (before 1.18) gets a second collection, NAME_aligned, with the
same points, payloads and other vectors; there the role that a payload holds is the one its vector was made with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, warn
from fastrealign.core.wording import option
from fastrealign.retrieval.stores.base import (
    Align,
    Batch,
    Found,
    StoreOptions,
    as_objects,
    as_scores,
    chosen,
    role_beside,
    source_and_target,
    taken,
    warn_no_roles,
)
from fastrealign.retrieval.stores.qdrant_connection import RECORD, QdrantConnection, named, path_to, selected, value_of

_COPY = "_aligned"


class QdrantStore:
    """One collection."""

    metric = "cosine"
    column: str
    target: str
    dim: int
    # The collection and the vector that are written.
    _into: str
    _name: str

    def __init__(self, location: str, options: StoreOptions) -> None:
        if options.id_column is not None:
            raise InputError(
                f"{location}: points of Qdrant have ids of their own; leave {option('id_column')} out, and look payloads up "
                "by the ids that are found"
            )
        self._at = QdrantConnection(location)
        self._q, self._client, self._answering = self._at.q, self._at.client, self._at.answering
        self._fields: set[str] = set()  # of payloads
        try:
            with self._answering():
                names = sorted(one.name for one in self._client.get_collections().collections)
                originals = [name for name in names if name.removesuffix(_COPY) not in {*names} - {name}]
                known = originals if options.table is None else names
                self._collection = chosen(location, "collection", options.table, known, "table")
                self.where = f"{location}: {self._collection}"
                self._look(options, names)
        except BaseException:
            self.close()
            raise

    def record(self) -> dict[str, Any] | None:
        vectors, records = self._at.state(self._into)
        return records.get(self.target) if self._name in vectors else None

    def has_source(self) -> bool:
        """The configuration keeps the vector without a name when it is dropped, so the first that a point has is looked for."""
        if self.column not in self._at.state(self._collection)[0]:
            return False
        pages = self._pages(with_payload=False, with_vectors=[self.column] if self.column else True)
        empty = True
        for page in pages:
            if any(self._vector(point) is not None for point in page):
                return True
            empty = False
        return empty

    def role_values(self, column: str) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        for points in self._pages(with_payload=True, with_vectors=False):
            self._fields.update(*(point.payload or {} for point in points))
            values = [value_of(point.payload, column) for point in points]
            counts.update(str(value) if isinstance(value, (list, dict)) else value for value in values)
        if counts and set(counts) == {None}:
            chosen(self.where, "payload field", column, sorted(self._fields), "role_column")
        return counts

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        m, roles = self._q.models, role_beside(self.target)
        if record["role_column"] is None and self._keeps_roles():
            with self._answering():
                self._client.delete_payload(self._collection, keys=[path_to(roles)], points=m.Filter())
        self._note(record)
        with self._answering():
            vector = m.DenseVectorConfig(size=dim, distance=m.Distance.COSINE)
            try:
                self._client.create_vector_name(self._collection, self.target, m.DenseVectorNameConfig(dense=vector))
                return
            except Exception as error:
                if getattr(error, "status_code", None) not in (404, 405):
                    raise
            self._copied(record, dim)

    def restart(self, record: Mapping[str, Any]) -> None:
        self._check_field(record)
        with self._answering():
            if self._into == self._collection:  # the roles beside it are overwritten, or removed by `begin`
                self._client.delete_vector_name(self._collection, self.target)
            else:
                self._client.delete_collection(self._into)
                self._into, self._name = self._collection, self.target

    def pending(self) -> tuple[int, int]:
        total, done = self._at.count(self._collection), self._at.count(self._into, self._name)
        by = (self.record() or {}).get("role_column")
        if by is None or not done:
            return total - done, done
        if self._into == self._collection and not self._keeps_roles():  # of an earlier version
            return (total, 0) if self.has_source() else (total - done, done)
        read = {"with_payload": selected(by, role_beside(self.target)), "with_vectors": False}
        changed = sum(self._other_role(*pair, by) for pairs in self._done(**read) for pair in pairs)
        return total - done + changed, done - changed

    def fill(self, align: Align, role_column: str | None) -> None:
        copies, m = self._into != self._collection, self._q.models
        if role_column is not None and not copies and not self._keeps_roles():
            warn_no_roles(self.where, self.pending()[0])
            self._note(self.record() or {})
        whole = copies or (self._at.local and role_column is not None)
        read = {
            "with_payload": True if whole else selected(role_column, role_beside(self.target)),
            "with_vectors": True if whole or not self.column else [self.column],
        }
        some = self._at.count(self._into, self._name) > 0
        lost = self._map_again(align, role_column, read) if some else set()
        # Without a filter where nothing is done: in a local folder it takes as long as the rest.
        lacking = m.Filter(must_not=[self._at.has(self._name)]) if some and not copies else None
        for points in self._pages(scroll_filter=lacking, **read):
            points = [point for point in points if point.id not in lost]
            self._map(self._not_copied(points) if copies else points, align, role_column)

    def keeps_earlier(self) -> bool:
        return False

    def drop_old(self) -> str:
        with self._answering():
            if self._into != self._collection:
                warn(
                    f"{self.where}: stays; {self._into} has copies of its points, delete it when nothing reads it any more"
                )
                return ""
            if self.column:
                self._client.delete_vector_name(self._collection, self.column)
            else:
                everything = self._q.models.Filter()
                self._client.delete_vectors(self._collection, vectors=[""], points=everything)
        return self.column or "the vector without a name"

    def sample(self, n: int) -> np.ndarray:
        with self._answering():
            points, _ = self._client.scroll(self._into, limit=n, with_vectors=True)
        return np.array([row for one in points if (row := named(one.vector, self._name)) is not None], np.float32)

    def search(self, queries: np.ndarray, k: int, role_column: str | None) -> Found:
        m = self._q.models
        payload = selected(role_column)
        asked = [
            m.QueryRequest(query=query, using=self._name or None, limit=k, with_payload=payload)
            for query in queries.tolist()
        ]
        with self._answering():
            found = [answer.points for answer in self._client.query_batch_points(self._into, asked)]
        ids = as_objects([[point.id for point in points] for points in found], k)
        scores = as_scores([[point.score for point in points] for points in found], k)
        values = (
            [[value_of(point.payload, role_column) for point in points] for points in found] if role_column else None
        )
        return Found(ids, scores, None if values is None else as_objects(values, k))

    def close(self) -> None:
        self._client.close()

    def _look(self, options: StoreOptions, collections: list[str]) -> None:
        """What is read and what is written."""
        vectors, records = self._at.state(self._collection)
        self.column, self.target = source_and_target(self.where, "vector", options, list(vectors), records)
        self._into, self._name = self._collection, self.target
        copy = f"{self._collection}{_COPY}"
        if self.target not in vectors and copy in collections and self.target in self._at.state(copy)[1]:
            self._into, self._name = copy, self.column
        if self.target in vectors and self.target not in records:
            raise taken(self.where, "vector", repr(self.target))
        config = vectors.get(self.column) or vectors[self.target]
        if config.multivector_config is not None:
            raise InputError(f"{self.where}: vector {self.column!r} holds several rows a point, expected one")
        self.dim = config.size

    def _copied(self, record: Mapping[str, Any], dim: int) -> None:
        """A second collection like this one, for copies of the points."""
        m = self._q.models
        params = self._client.get_collection(self._collection).config.params
        aligned = m.VectorParams(size=dim, distance=m.Distance.COSINE)
        vectors = {**params.vectors, self.column: aligned} if isinstance(params.vectors, dict) else aligned
        self._into, self._name = f"{self._collection}{_COPY}", self.column
        self._client.create_collection(
            self._into,
            vectors_config=vectors,
            sparse_vectors_config=params.sparse_vectors,
            metadata={RECORD + self.target: dict(record)},
        )
        if self.target not in self._at.state(self._into)[1]:
            self._client.delete_collection(self._into)
            raise FastRealignError(
                f"{self.where}: this server keeps no metadata of collections; update it to 1.16 or later"
            )

    def _note(self, record: Mapping[str, Any]) -> None:
        """Store the record of the target, and whether payloads hold the role of each."""
        self._check_field(record)
        kept = dict(record)
        if record["role_column"] is not None:
            kept["roles"] = role_beside(self.target)
        with self._answering():
            self._client.update_collection(self._collection, metadata={RECORD + self.target: kept})

    def _check_field(self, record: Mapping[str, Any]) -> None:
        """InputError where the user has a payload field of the name that holds the roles."""
        roles = role_beside(self.target)
        if record["role_column"] is not None and roles in self._fields and not self._keeps_roles():
            raise taken(self.where, "payload field", roles)

    def _keeps_roles(self) -> bool:
        """Whether `index` made the payload field of roles."""
        return self._at.state(self._collection)[1].get(self.target, {}).get("roles") is not None

    def _pages(self, **options: Any) -> Iterator[list[Any]]:
        return self._at.pages(self._collection, self.dim, **options)

    def _vector(self, point: Any) -> Any:
        return named(point.vector, self.column)

    def _done(self, **read: Any) -> Iterator[list[tuple[Any, Any]]]:
        """The points that have an aligned vector, in pages, and with each what holds it: the point, or its copy."""
        if self._into == self._collection:
            which = self._q.models.Filter(must=[self._at.has(self._name)])
            yield from ([(one, one) for one in points] for points in self._pages(scroll_filter=which, **read))
            return
        for points in self._pages(**read):
            with self._answering():
                made = {one.id: one for one in self._client.retrieve(self._into, [one.id for one in points], **read)}
            yield [(point, made[point.id]) for point in points if point.id in made]

    def _other_role(self, point: Any, made: Any, by: str | None) -> bool:
        """Whether the aligned vector of a point was made with another role than the point has now."""
        field = role_beside(self.target) if point is made else by  # the payload of a copy has the role it was made with
        return by is not None and value_of(made.payload, field or "") != value_of(point.payload, by)

    def _map_again(self, align: Align, by: str | None, read: Mapping[str, Any]) -> set[Any]:
        """Map the points whose role, or vector, is another than the one that their aligned vector was made of; the ids of those
        that lost it."""
        lost: set[Any] = set()
        vectors = read["with_vectors"] if read["with_vectors"] is True else [self.column, self._name]
        for pairs in self._done(**{**read, "with_vectors": vectors}):
            total, pairs = len(pairs), [pair for pair in pairs if self._vector(pair[0]) is not None]
            align.bare += total - len(pairs)
            todo = np.array([self._other_role(*pair, by) for pair in pairs], bool)
            if same := [pair for pair, other in zip(pairs, todo, strict=True) if not other]:
                stored = np.array([named(made.vector, self._name) for _, made in same], np.float32)
                todo[~todo] = align.changed(self._batch([point for point, _ in same], by), stored)
            lost.update(self._map([point for (point, _), one in zip(pairs, todo, strict=True) if one], align, by))
        return lost

    def _batch(self, points: list[Any], by: str | None) -> Batch:
        rows = np.array([self._vector(point) for point in points], np.float32)
        roles = [value_of(point.payload, by) for point in points] if by else None
        return Batch(rows, [point.id for point in points], roles)

    def _not_copied(self, points: list[Any]) -> list[Any]:
        with self._answering():
            there = self._client.retrieve(self._into, [point.id for point in points], with_payload=False)
        done = {point.id for point in there}
        return [point for point in points if point.id not in done]

    def _map(self, points: list[Any], align: Align, by: str | None) -> list[Any]:
        """Map those of the points that have a vector, and write them; the ids of those without a direction, which lose what
        they had."""
        having = [point for point in points if self._vector(point) is not None]
        if not having:
            return []
        batch = self._batch(having, by)
        mapped, good = align(batch)
        made = [
            (point, row.tolist(), role)
            for point, row, role, keep in zip(having, mapped, batch.roles or [None] * len(having), good, strict=True)
            if keep
        ]
        bad = [point.id for point, keep in zip(having, good, strict=True) if not keep]
        if self._into != self._collection:
            self._at.put_copies(self._into, self.column, made, bad)
        else:
            self._at.put(self._collection, self.target, made, bad)
        return bad
