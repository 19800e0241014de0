"""Where files lie: a local path or a URL ("scheme://..."). What a user names is turned into one of the two here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias, TypeVar

from fastrealign.core.errors import InputError
from fastrealign.storage.retry import filesystem
from fastrealign.storage.url import Url

Place: TypeAlias = Path | Url
# How callers name a place: text, or an object that has one.
AnyPath: TypeAlias = str | os.PathLike[str]

T = TypeVar("T")
R = TypeVar("R")

# Asked of a server at a time.
_REQUESTS = 8
# At least two letters, so that the drive of a Windows path is none. "simplecache::s3://" is one, too.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")
_LOCAL = ("file://", "local://")
_READ_ONLY = ("http://", "https://")


def is_url(path: AnyPath) -> bool:
    """Whether the path is a URL, which fsspec has to open. A pathlib.Path never is."""
    if isinstance(path, Path):
        return False
    text = os.fspath(path)
    return isinstance(text, str) and "://" in text and _URL.match(text) is not None and not text.startswith(_LOCAL)


def place(path: AnyPath) -> Place:
    """The path as an object with pathlib's methods: a Path, or a Url for what fsspec has to open."""
    if isinstance(path, (Path, Url)):
        return path
    if is_url(path):
        return Url(os.fspath(path))
    if isinstance(path, str) and path.startswith(_LOCAL):
        return Path(path.partition("://")[2])
    return Path(path)


def places_of(path: AnyPath) -> list[str]:
    """Where the bytes of a path lie: itself; of a chain of fsspec ("zip://a.npy::file:///x.zip") each of its places."""
    *through, last = os.fspath(path).split("::") if is_url(path) else [os.fspath(path)]
    return [str(place(part)) if part.startswith(_LOCAL) else part for part in (*filter(is_url, through), last)]


def folder_of(path: AnyPath) -> str:
    """The folder that a path or a URL lies in."""
    return str(place(path).parent) if is_url(path) else os.path.dirname(path)


def check_output(path: AnyPath) -> None:
    """InputError if nothing can be written there whatever the server says, or the package for it is missing."""
    if is_url(path):
        url = os.fspath(path)
        if url.startswith(_READ_ONLY):
            scheme = url.partition("://")[0]
            raise InputError(
                f"{url}: {scheme}:// can only be read from; name a folder here or in a store such as s3://"
            )
        filesystem(url)


def each(call: Callable[[T], R], of: Iterable[T], *, remote: bool) -> Iterator[R]:
    """What `call` returns for each, in order; where a server is asked, several at a time."""
    if not remote:
        yield from map(call, of)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_REQUESTS) as pool:
        yield from pool.map(call, of)
