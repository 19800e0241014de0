"""Local paths and URLs behind one type: `place` turns what a user names into a Path or a Url, which share most methods."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

from fastrealign.core.errors import InputError
from fastrealign.core.text import brief, described
from fastrealign.storage.retry import filesystem
from fastrealign.storage.url import Url

if TYPE_CHECKING:
    from typing_extensions import TypeIs

Place: TypeAlias = Path | Url
# How callers name a place.
AnyPath: TypeAlias = str | os.PathLike[str]

T = TypeVar("T")
R = TypeVar("R")

# Requests of one `each` at a time.
_REQUESTS = 8
# At least two letters: the drive of a Windows path is no scheme. "simplecache::s3://" matches, too.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.:-]+://")
_LOCAL = ("file://", "local://")


def _is_url(path: AnyPath) -> bool:
    """Whether fsspec has to open it; `place` makes a Url of it. Never true of a pathlib.Path."""
    if isinstance(path, Path):
        return False
    text = os.fspath(path)
    return isinstance(text, str) and "://" in text and _URL.match(text) is not None and not text.startswith(_LOCAL)


def is_path(given: object) -> TypeIs[AnyPath]:
    """Whether this names a place, rather than being rows or another object in memory."""
    return isinstance(given, (str, os.PathLike))


def paths_of(given: AnyPath | Iterable[AnyPath], what: str) -> list[AnyPath]:
    """One path or several, as a list. InputError for none, and as `check_given`."""
    one_thing = is_path(given) or isinstance(given, bytes) or not isinstance(given, Iterable)
    listed: list[Any] = [given] if one_thing else [*cast("Iterable[AnyPath]", given)]
    if not listed:
        raise InputError(f"{what} is an empty list of files")
    for one in listed:
        check_given(one, what)
    return listed


def named_paths(given: object) -> list[AnyPath]:
    """The paths among what a user gives, one thing or a list: none of rows in memory."""
    return [one for one in (given if isinstance(given, (list, tuple)) else [given]) if is_path(one)]


def at_home(path: str) -> str:
    """With ~ as the user's folder, as a shell expands it outside of quotes, where nothing has that name."""
    if not path.startswith("~") or os.path.lexists(path.partition("/")[0]):
        return path
    return os.path.expanduser(path)


def place(path: AnyPath) -> Place:
    """The path as an object with pathlib's methods: a Path, or a Url for what fsspec has to open. ~ is the user's folder."""
    if isinstance(path, Url):
        return path
    if _is_url(path):
        return Url(os.fspath(path))
    if isinstance(path, str) and path.startswith(_LOCAL):
        return Path(path.partition("://")[2])
    return Path(at_home(os.fspath(path)))


def places_of(path: AnyPath) -> list[str]:
    """The places of a chained URL of fsspec ("zip://a.npy::file:///x.zip"); of any other path, itself."""
    *through, last = os.fspath(path).split("::") if _is_url(path) else [os.fspath(path)]
    return [str(place(part)) if part.startswith(_LOCAL) else part for part in (*filter(_is_url, through), last)]


def folder_of(path: AnyPath) -> str:
    """The folder of a path ("" for a bare name) or a URL."""
    at = place(path)
    return os.path.dirname(path) if isinstance(at, Path) else str(at.parent)


def suffix_of(path: AnyPath) -> str:
    """The suffix with its dot, in lower case; "" where there is none."""
    return os.path.splitext(place(path).name)[1].lower()


def is_folder(path: AnyPath) -> bool:
    at = place(path)
    return os.path.isdir(at) if isinstance(at, Path) else at.is_dir()


def _is_name(given: object) -> bool:
    """Whether this can name a file: no empty path, which would be the current folder, and no zero byte in it."""
    if not is_path(given):
        return False
    text = os.fspath(given)
    return bool(text) and "\0" not in (text if isinstance(text, str) else os.fsdecode(text))


def check_given(path: object, what: str) -> None:
    """InputError for what is no path, and for an empty one: it would be the current folder."""
    if not _is_name(path):
        plain = isinstance(path, (str, bytes, int, type(None)))
        raise InputError(f"{what} is {brief(path) if plain else described(path)}, expected a path")


def check_length(at: Place, output: AnyPath) -> None:
    """InputError that names the output if the name of a file that is written for it is too long for the disk."""
    if isinstance(at, Path):
        try:
            os.lstat(at)
        except OSError as error:  # others are reported where they matter
            if error.errno == errno.ENAMETOOLONG:
                raise InputError(f"{os.fspath(output)}: the name is too long; shorten it") from None


def spool_folder() -> Path:
    """The folder for copies of remote files (spool.py): FASTREALIGN_SPOOL, or InputError where no folder has this name."""
    named = os.environ.get("FASTREALIGN_SPOOL")
    if not named:
        import tempfile  # most runs make no spool files

        return Path(tempfile.gettempdir())
    if not os.path.isdir(named):
        raise InputError(f"FASTREALIGN_SPOOL={named}: there is no such folder; make it, or correct the name")
    return Path(named)


def check_output(path: AnyPath) -> None:
    """InputError for what is no path, a URL that can only be read from, or whose package or spool folder is missing.

    No request is made.
    """
    check_given(path, "the output")
    at = place(path)
    if isinstance(at, Path):
        check_length(at, path)
        return
    if at.is_http:
        raise InputError(
            f"{path}: {at.scheme}:// can only be read from; name a folder here or in a store such as s3://"
        )
    filesystem(str(at))
    spool_folder()


def each(call: Callable[[T], R], of: Iterable[T], *, several: bool | None = None) -> Iterator[R]:
    """What `call` returns for each, in order.

    several   whether several calls run at a time, as where a server is asked. None: `of` are paths, and one of them is a URL
    """
    if several is None:
        of = list(of)
        several = any(is_path(one) and _is_url(one) for one in of)
    if not several:
        yield from map(call, of)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_REQUESTS) as pool:
        yield from pool.map(call, of)
