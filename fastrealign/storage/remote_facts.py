"""Facts that a server reports about a file: kind, size, and a tag that changes with the content."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastrealign.core.errors import InputError

# Tags that identify the content. The times may differ between a listing and a request for the file.
_CONTENT_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "generation", "blob_id")
_TIME_TAGS = ("LastModified", "Last-Modified", "last_modified", "mtime", "modified", "updated", "created")


@dataclass(frozen=True)
class Facts:
    """Facts about a name on a server: its kind is "file" or "directory"; size and tag are None where it does not say.

    tag   (which of its fields, the value): an ETag or the like, else when the file was changed
    """

    kind: str
    size: int | None
    tag: tuple[str, str] | None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Facts:
        """From a dict of fsspec, or HTTP headers with a "type" and a "size"."""
        tag = next(((name, str(info[name])) for name in (*_CONTENT_TAGS, *_TIME_TAGS) if info.get(name)), None)
        return cls(info["type"], info.get("size"), tag)

    @property
    def certain(self) -> bool:
        """Whether the tag identifies the content, and is not just a time."""
        return self.tag is not None and self.tag[0] in _CONTENT_TAGS

    def same(self, other: Facts) -> bool:
        """Whether both can describe the same content."""
        comparable = self.tag is not None and other.tag is not None and self.tag[0] == other.tag[0]
        return self.size == other.size and (self.tag == other.tag or not comparable)

    def file_size(self, url: str) -> int:
        """The size; InputError for a folder, or where the server does not report it."""
        if self.kind == "directory":
            raise InputError(f"{url}: is a folder, expected a file")
        if self.size is None:
            raise InputError(f"{url}: the server does not report the size of the file; download it first")
        return self.size
