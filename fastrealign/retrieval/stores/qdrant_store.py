"""Qdrant collections, on a server or in a local folder; read and written with qdrant-client.

The aligned vector of a point is a named vector beside the one that is read; payloads and other vectors stay. The record is in
the metadata of the collection, which is written before the name is made. A server that cannot add a name to a collection
(before 1.18) gets a second collection, NAME_aligned, with the same points, payloads and other vectors.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, warn
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
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
)

_RECORD = "fastrealign:"
_COPY = "_aligned"
_KEY = "QDRANT_API_KEY"
# A server takes requests of up to 32 MB, and a number takes up to 12 bytes in one.
_REQUEST_NUMBERS = 2 << 20
_MOST_POINTS = 2000


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
        self._q = optional("qdrant_client", "qdrant", f"{location}: Qdrant")
        self.where = location
        self._client = self._connected(location)
        try:
            with self._answering():
                names = sorted(one.name for one in self._client.get_collections().collections)
                originals = [name for name in names if name.removesuffix(_COPY) not in {*names} - {name}]
                known = originals if options.table is None else names
                self._collection = chosen(location, "collection", options.table, known, "--table")
                self.where = f"{location}: {self._collection}"
                self._look(options, names)
        except BaseException:
            self.close()
            raise

    def record(self) -> dict[str, Any] | None:
        vectors, records = self._state(self._into)
        return records.get(self.target) if self._name in vectors else None

    def has_source(self) -> bool:
        """The configuration keeps the vector without a name when it is dropped, so the first that a point has is looked for."""
        if self.column not in self._state(self._collection)[0]:
            return False
        pages = self._points(with_payload=False, with_vectors=[self.column] if self.column else True)
        empty = True
        for page in pages:
            if any(self._vector(point) is not None for point in page):
                return True
            empty = False
        return empty

    def role_values(self, column: str) -> Counter[Any]:
        counts: Counter[Any] = Counter()
        fields: set[str] = set()
        for points in self._points(with_payload=True, with_vectors=False):
            fields.update(*(point.payload or {} for point in points))
            counts.update(_value(point.payload, column) for point in points)
        if counts and set(counts) == {None}:
            chosen(self.where, "payload field", column, sorted(fields), "--role-column")
        return counts

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        m = self._q.models
        with self._answering():
            self._client.update_collection(self._collection, metadata={_RECORD + self.target: dict(record)})
            vector = m.DenseVectorConfig(size=dim, distance=m.Distance.COSINE)
            try:
                self._client.create_vector_name(self._collection, self.target, m.DenseVectorNameConfig(dense=vector))
                return
            except Exception as error:
                if getattr(error, "status_code", None) not in (404, 405):
                    raise
            self._copied(record, dim)

    def restart(self) -> None:
        with self._answering():
            if self._into == self._collection:
                self._client.delete_vector_name(self._collection, self.target)
            else:
                self._client.delete_collection(self._into)
                self._into, self._name = self._collection, self.target

    def pending(self) -> tuple[int, int]:
        with self._answering():
            total = self._client.count(self._collection).count
            done = self._client.count(self._into, count_filter=self._q.models.Filter(must=[self._has()])).count
        return total - done, done

    def fill(self, align: Align, role_column: str | None) -> None:
        copies = self._into != self._collection
        names = True if copies or not self.column else [self.column]
        payload = True if copies else [role_column] if role_column else False
        # Without a filter where nothing is done: in a local folder it takes as long as the rest.
        which = self._q.models.Filter(must_not=[self._has()]) if self.pending()[1] and not copies else None
        for points in self._points(with_payload=payload, with_vectors=names, scroll_filter=which):
            having = [point for point in points if self._vector(point) is not None]
            if copies:
                having = self._not_copied(having)
            if not having:
                continue
            rows = np.array([self._vector(point) for point in having], np.float32)
            roles = [_value(point.payload, role_column) for point in having] if role_column else None
            mapped, good = align(Batch(rows, [point.id for point in having], roles))
            pairs = [(point, row.tolist()) for point, row, keep in zip(having, mapped, good, strict=True) if keep]
            if pairs:
                with self._answering():
                    self._put_copies(pairs) if copies else self._put(pairs)

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
        rows = [row for point in points if (row := _named(point.vector, self._name)) is not None]
        return np.array(rows, np.float32)

    def search(self, queries: np.ndarray, k: int, role_column: str | None) -> Found:
        m = self._q.models
        payload = [role_column] if role_column else False
        asked = [
            m.QueryRequest(query=query, using=self._name or None, limit=k, with_payload=payload)
            for query in queries.tolist()
        ]
        with self._answering():
            found = [answer.points for answer in self._client.query_batch_points(self._into, asked)]
        ids = as_objects([[point.id for point in points] for points in found], k)
        scores = as_scores([[point.score for point in points] for points in found], k)
        values = [[_value(point.payload, role_column) for point in points] for points in found] if role_column else None
        return Found(ids, scores, None if values is None else as_objects(values, k))

    def close(self) -> None:
        self._client.close()

    def _connected(self, location: str) -> Any:
        if "://" in location:
            key = os.environ.get(_KEY) or None
            return self._q.QdrantClient(url=location, api_key=key, check_compatibility=False, timeout=60)
        try:
            return self._q.QdrantClient(path=location)
        except RuntimeError as error:
            if "already accessed" not in str(error):
                raise
        raise FastRealignError(f"{location}: is locked: another Qdrant client has the folder open; close that first")

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Errors of the client as one line."""
        errors = self._q.http.exceptions
        with failing(self.where, "run again when Qdrant is ready"):
            try:
                yield
            except errors.ResponseHandlingException as error:
                said = one_line(error)
                raise FastRealignError(f"{self.where}: does not answer ({said}); is Qdrant running there?") from None
            except errors.UnexpectedResponse as error:
                advice = f"set {_KEY}" if error.status_code in (401, 403) else "run again when the server is ready"
                said = " ".join((error.content or b"").decode(errors="replace").split())[:200]
                raise FastRealignError(f"{self.where}: answers {error.status_code}: {said}; {advice}") from None

    def _look(self, options: StoreOptions, collections: list[str]) -> None:
        """What is read and what is written."""
        vectors, records = self._state(self._collection)
        self.column, self.target = source_and_target(self.where, "vector", options, list(vectors), records)
        self._into, self._name = self._collection, self.target
        copy = f"{self._collection}{_COPY}"
        if self.target not in vectors and copy in collections and self.target in self._state(copy)[1]:
            self._into, self._name = copy, self.column
        if self.target in vectors and self.target not in records:
            raise InputError(f"{self.where}: there is a vector {self.target!r} already; name another with --to")
        config = vectors.get(self.column) or vectors[self.target]
        if config.multivector_config is not None:
            raise InputError(f"{self.where}: vector {self.column!r} holds several rows a point, expected one")
        self.dim = config.size

    def _state(self, collection: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The vectors of a collection by name, and the records of those that are aligned."""
        with self._answering():
            config = self._client.get_collection(collection).config
        vectors = config.params.vectors
        vectors = vectors if isinstance(vectors, dict) else {"": vectors} if vectors is not None else {}
        metadata = config.metadata or {}
        records = {name[len(_RECORD) :]: value for name, value in metadata.items() if name.startswith(_RECORD)}
        return vectors, records

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
            metadata={_RECORD + self.target: dict(record)},
        )
        if self.target not in self._state(self._into)[1]:
            self._client.delete_collection(self._into)
            raise FastRealignError(
                f"{self.where}: this server keeps no metadata of collections; update it to 1.16 or later"
            )

    def _has(self) -> Any:
        return self._q.models.HasVectorCondition(has_vector=self._name)

    def _points(self, **options: Any) -> Iterator[list[Any]]:
        """Batches of points, in the order of their ids."""
        limit = max(1, min(_MOST_POINTS, batch_rows(self.dim), _REQUEST_NUMBERS // self.dim))
        offset = None
        while True:
            with self._answering():
                points, offset = self._client.scroll(self._collection, limit=limit, offset=offset, **options)
            if points:
                yield points
            if offset is None:
                return

    def _vector(self, point: Any) -> Any:
        return _named(point.vector, self.column)

    def _not_copied(self, points: list[Any]) -> list[Any]:
        with self._answering():
            there = self._client.retrieve(self._into, [point.id for point in points], with_payload=False)
        done = {point.id for point in there}
        return [point for point in points if point.id not in done]

    def _put(self, pairs: list[tuple[Any, list[float]]]) -> None:
        vectors = [self._q.models.PointVectors(id=point.id, vector={self.target: row}) for point, row in pairs]
        self._client.update_vectors(self._collection, vectors)

    def _put_copies(self, pairs: list[tuple[Any, list[float]]]) -> None:
        def vectors(point: Any, row: list[float]) -> Any:
            return {**point.vector, self.column: row} if isinstance(point.vector, dict) else row

        made = self._q.models.PointStruct
        self._client.upsert(
            self._into, [made(id=point.id, vector=vectors(point, row), payload=point.payload) for point, row in pairs]
        )


def _named(vector: Any, name: str) -> Any:
    """One vector of a point; None if the point lacks it."""
    if isinstance(vector, dict):
        return vector.get(name)
    return vector if not name else None


def _value(payload: Mapping[str, Any] | None, field: str) -> Any:
    """The value of a payload field, which may be a path (meta.modality)."""
    value: Any = payload or {}
    if field in value:
        return value[field]
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
