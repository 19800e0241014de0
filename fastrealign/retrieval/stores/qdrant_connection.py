"""A client of Qdrant: its errors in one line, points in pages, and what a point holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from fastrealign.core.errors import FastRealignError
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.retrieval.stores.base import batch_rows, failing, role_beside

_KEY = "QDRANT_API_KEY"
# What the metadata of a collection calls the record of an aligned vector, before its name.
RECORD = "fastrealign:"
# A server takes requests of up to 32 MB, and a number takes up to 12 bytes in one.
_REQUEST_NUMBERS = 2 << 20
_MOST_POINTS = 2000
# A path to a payload field; the names in it are not quoted.
_PATH = re.compile(r"[\w-]+(\.[\w-]+)*")

# A point, its aligned vector, and its role, if points have one each.
Aligned: TypeAlias = tuple[Any, list[float], Any]


class QdrantConnection:
    """A client of a server or of a local folder; `where` names the collection in messages."""

    def __init__(self, location: str) -> None:
        self.q = optional("qdrant_client", "qdrant", f"{location}: Qdrant")
        self.where = location
        self.local = "://" not in location
        if not self.local:
            key = os.environ.get(_KEY) or None
            self.client = self.q.QdrantClient(url=location, api_key=key, check_compatibility=False, timeout=60)
            return
        with failing(location, "is it a folder that qdrant-client wrote?"):
            try:
                self.client = self.q.QdrantClient(path=location)
            except RuntimeError as error:
                if "already accessed" not in str(error):
                    raise
                raise FastRealignError(
                    f"{location}: is locked: another Qdrant client has the folder open; close that first"
                ) from None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Errors of the client as one line."""
        errors = self.q.http.exceptions
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

    def pages(self, collection: str, dim: int, **options: Any) -> Iterator[list[Any]]:
        """Batches of the points of a collection, whose vectors are `dim` wide, in the order of their ids."""
        limit = max(1, min(_MOST_POINTS, batch_rows(dim), _REQUEST_NUMBERS // dim))
        offset = None
        while True:
            with self.answering():
                points, offset = self.client.scroll(collection, limit=limit, offset=offset, **options)
            if points:
                yield points
            if offset is None:
                return

    def count(self, collection: str, having: str | None = None) -> int:
        """How many points a collection has, or how many of them have a vector of this name."""
        with self.answering():
            which = None if having is None else self.q.models.Filter(must=[self.has(having)])
            return self.client.count(collection, count_filter=which).count

    def state(self, collection: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The vectors of a collection by name, and the records of those that are aligned."""
        with self.answering():
            config = self.client.get_collection(collection).config
        vectors = config.params.vectors
        vectors = vectors if isinstance(vectors, dict) else {"": vectors} if vectors is not None else {}
        metadata = config.metadata or {}
        records = {name[len(RECORD) :]: value for name, value in metadata.items() if name.startswith(RECORD)}
        return vectors, records

    def has(self, vector: str) -> Any:
        """The condition for points that have a vector of this name."""
        return self.q.models.HasVectorCondition(has_vector=vector)

    def put(self, collection: str, target: str, made: list[Aligned], bad: list[Any]) -> None:
        """Write aligned vectors and, after them, their roles; remove those of bad points."""
        m, field = self.q.models, role_beside(target)
        roles = {role for _, _, role in made} - {None}
        with self.answering():
            if roles and self.local:  # which stores a point whole, at each change of it
                points = [
                    (point, {**_by_name(point.vector), target: row}, {**(point.payload or {}), field: role})
                    for point, row, role in made
                ]
                self._upsert(collection, points)
            elif made:
                vectors = [m.PointVectors(id=point.id, vector={target: row}) for point, row, _ in made]
                steps = [m.UpdateVectorsOperation(update_vectors=m.UpdateVectors(points=vectors))]
                for role in sorted(roles):
                    ids = [point.id for point, _, one in made if one == role]
                    steps.append(m.SetPayloadOperation(set_payload=m.SetPayload(payload={field: role}, points=ids)))
                self.client.batch_update_points(collection, steps)
            if bad:
                self.client.delete_vectors(collection, [target], bad)

    def put_copies(self, collection: str, column: str, made: list[Aligned], bad: list[Any]) -> None:
        """Write copies of points, with the aligned vector in place of the one that was read; remove bad points."""

        def vectors(point: Any, row: list[float]) -> Any:
            return {**point.vector, column: row} if isinstance(point.vector, dict) else row

        with self.answering():
            if made:
                self._upsert(collection, [(point, vectors(point, row), point.payload) for point, row, _ in made])
            if bad:
                self.client.delete(collection, bad)

    def _upsert(self, collection: str, points: list[tuple[Any, Any, Any]]) -> None:
        made = self.q.models.PointStruct
        self.client.upsert(
            collection, [made(id=point.id, vector=vector, payload=payload) for point, vector, payload in points]
        )


def _by_name(vector: Any) -> dict[str, Any]:
    """The vectors of a point by their names."""
    return vector if isinstance(vector, dict) else {"": vector}


def named(vector: Any, name: str) -> Any:
    """One vector of a point; None if the point lacks it."""
    return _by_name(vector).get(name)


def value_of(payload: Mapping[str, Any] | None, field: str) -> Any:
    """The value of a payload field, which may be a path (meta.modality)."""
    value: Any = payload or {}
    if field in value:
        return value[field]
    for part in field.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def selected(*fields: str | None) -> Any:
    """What a request names to get these payload fields, each of which may be a path or the name of a field."""
    given = [field for field in fields if field is not None]
    if any('"' in field for field in given):
        return True
    return [field for field in given if _PATH.fullmatch(field)] + [path_to(field) for field in given] or False


def path_to(field: str) -> str:
    """The path of a payload field of this name."""
    return f'"{field}"'
