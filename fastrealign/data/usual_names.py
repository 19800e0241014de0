"""The usual names of ids and of captions, for every command: columns, keys of records, metadata. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Container, Sequence

# The first that is there counts.
ID_NAMES = ("id", "ids", "key", "__key__", "uid", "image_id", "sample_id", "image_path")
CAPTION_NAMES = ("caption", "text", "captions", "TEXT", "sentence")


def first_of(usual: Sequence[str], names: Container[str]) -> str | None:
    """The first of the usual names that is there.

    >>> first_of(ID_NAMES, ["caption", "uid", "key"])
    'key'
    """
    return next((name for name in usual if name in names), None)
