"""The name of a place on a server, with the methods of pathlib.PurePath that are needed. It makes no requests."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from fastrealign.core.text import note_secrets, redacted

if TYPE_CHECKING:
    from typing_extensions import Self

# There an object appears only once it is complete, and there are no folders. (Within a process, this holds for memory://.)
_OBJECT_STORES = {
    "abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "memory", "oci", "ocilake", "oss", "r2", "s3", "s3a", "tos",
}  # fmt: skip


class PureUrl:
    """scheme://a/b/c; what follows a ? belongs to the name, except over HTTP, where it is the query."""

    __slots__ = ("query", "rest", "scheme")

    def __init__(self, url: str) -> None:
        note_secrets(url)
        self.scheme, _, rest = url.partition("://")
        self.query = ""
        if self.is_http:
            rest, mark, query = rest.partition("?")
            self.query = mark + query
        self.rest = rest.strip("/") if self.scheme == "memory" else rest.rstrip("/")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.rest}{self.query}"

    def __repr__(self) -> str:
        return f"Url({redacted(str(self))!r})"

    def __fspath__(self) -> str:
        return str(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PureUrl) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def is_http(self) -> bool:
        return self.scheme in ("http", "https")

    @property
    def is_object_store(self) -> bool:
        return self.scheme.rpartition(":")[2] in _OBJECT_STORES

    @property
    def has_magic(self) -> bool:
        return any(sign in self.rest for sign in "*?[")

    @property
    def name(self) -> str:
        return self.rest.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Self:
        return self.at(self.rest.rpartition("/")[0])

    def __truediv__(self, name: str) -> Self:
        at = self.rest
        for part in str(name).split("/"):
            if part == "..":
                at = at.rpartition("/")[0]
            elif part not in ("", "."):
                at = f"{at}/{part}" if at else part
        return self.at(at)

    def with_name(self, name: str) -> Self:
        return self.parent / name

    def relative_to(self, root: PureUrl) -> PurePosixPath:
        above = f"{root.rest}/" if root.rest else ""
        if self.scheme != root.scheme or not self.rest.startswith(above):
            raise ValueError(f"{self} does not lie within {root}")
        return PurePosixPath(self.rest[len(above) :])

    def at(self, rest: str) -> Self:
        """Another place of the same scheme."""
        return type(self)(f"{self.scheme}://{rest}")
