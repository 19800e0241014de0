"""A place on a server: a minimal pathlib-like wrapper for the URLs of fsspec.

Object stores have no folders, only names with slashes: there, mkdir does nothing, and a folder exists as long as it holds
a file.
"""

from __future__ import annotations

import errno
import glob
import inspect
import os
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.storage import ranged_http
from fastrealign.storage.pure_url import PureUrl
from fastrealign.storage.remote_facts import Facts
from fastrealign.storage.retry import (
    Denied,
    Missing,
    ShortAnswer,
    filesystem,
    request,
    request_seconds,
    status_of,
    with_retries,
)

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


_USUAL_PORTS = {"http": ":80", "https": ":443", "ftp": ":21", "sftp": ":22", "ssh": ":22", "smb": ":445"}
# Factor on the time limit of listings: large folders take many requests.
_LISTING = 10
# More than any file that is read whole.
_SMALL_BYTES = 1 << 30
# Bytes per second, at least, that the time limit of an upload expects.
_UPLOAD_RATE = 1 << 18
# Parts of an upload that s3fs holds in memory; by default it holds ten of 50 MB.
_S3_UPLOAD = {"chunksize": 8 << 20, "max_concurrency": 4}
_PRECONDITION_FAILED = 412


class Url(PureUrl):
    """scheme://a/b/c, and what is there. Every request goes to the server: nothing is cached."""

    __slots__ = ()

    @property
    def canonical(self) -> str:
        """One spelling for all URLs of a place: they may differ in gs:// and gcs://, //, .., case of the host, port, user."""
        scheme, (host, slash, path) = self.scheme, self.rest.partition("/")
        with suppress(InputError):  # one link of a chain, such as zip://a.npy
            protocol = filesystem(str(self))[0].protocol
            scheme = self.scheme if isinstance(protocol, str) else protocol[0]
        if not self.is_object_store:
            host = host.rpartition("@")[2].lower().removesuffix(_USUAL_PORTS.get(scheme, ":"))
            path = unquote(path) if self.is_http else path
        at = posixpath.normpath(f"/{host}{slash}{path}").lstrip("/")
        return f"{scheme}://{at}"

    def facts(self) -> Facts:
        """Kind, size and tag, from the server. Raises Missing if it does not exist."""
        fs, path = filesystem(str(self))
        if self.is_http:
            return with_retries(str(self), "read", lambda seconds: ranged_http.look(fs, path, seconds))

        def info(seconds: float) -> Facts:
            fs.invalidate_cache(path)
            return Facts.of(request(fs, "info", path, seconds=seconds))

        return with_retries(str(self), "read", info)

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """For HTTP: whether there is a page with links to names below it."""
        if not self.is_http:
            return self._kind() == "directory"
        try:
            return any(True for _ in self.entries())
        except (Missing, Denied):
            return False

    def _kind(self) -> str | None:
        """ "file" or "directory"; None if it does not exist."""
        try:
            return self.facts().kind
        except Missing:
            return None
        except Denied:
            # Stores behind HTTP answer this for missing names if listing is denied; elsewhere the name may exist.
            if self.is_http:
                return None
            raise

    def entries(self) -> Iterator[tuple[str, Facts]]:
        """Names and facts of the entries of a folder. Raises Missing if it does not exist."""
        found = self._list("ls", detail=True)
        return ((name, facts) for name, facts in found if "/" not in name)

    def walk(self, deep: bool = True) -> Iterator[str]:
        """The names of all files below a folder, or directly in it, relative to it; none if it does not exist."""
        try:
            return (name for name, facts in self._list("find" if deep else "ls", detail=True) if facts.kind == "file")
        except Missing:
            return iter(())

    def glob(self) -> tuple[Url, list[Url]]:
        """This URL as a pattern: the folder before its first wildcard, and the matching files, unordered.

        Existing folders with wildcards in their names are taken literally.
        """
        plain = self
        while plain.has_magic:
            plain = plain.parent
        *folders, last = self.rest[len(plain.rest) :].strip("/").split("/")
        root, below = plain, [*folders, last]
        while len(below) > 1 and (root / below[0]).exists():
            root /= below.pop(0)
        found = self._matches(root, below)
        if not found and root != plain:
            root, found = plain, self._matches(plain, [*folders, last])
        return root, found

    def _matches(self, root: Url, below: list[str]) -> list[Url]:
        """The files that match these patterns, one per level below `root`."""
        fs, path = filesystem(
            str(self.at("/".join([glob.escape(root.rest), *below]) if root.rest else "/".join(below)))
        )
        above = filesystem(str(root))[1]

        def matches(seconds: float) -> list[str]:
            fs.invalidate_cache(above)
            return request(fs, "glob", path, seconds=seconds)

        try:
            found = with_retries(str(self), "listed", matches, _LISTING * request_seconds())
        except Missing:
            found = []
        return [root / name[len(above) :] for name in found if not name.endswith("/")]

    def read_bytes(self) -> bytes:
        """A small file in one request, so that it is consistent even if others write to it."""
        fs, path = filesystem(str(self))

        def get(seconds: float) -> bytes:
            if not self.is_http:
                return request(fs, "cat_file", path, start=0, end=_SMALL_BYTES, seconds=seconds)
            data, facts = ranged_http.get(fs, path, 0, _SMALL_BYTES, seconds)
            if facts.size is not None and len(data) != facts.size:
                raise ShortAnswer(f"the answer has {len(data)} bytes of {facts.size}")
            return data

        return with_retries(str(self), "read", get)

    def write_bytes(self, data: bytes, *, new: bool = False) -> None:
        """Write a small file, replacing another. new: raise FileExistsError if it exists already.

        Where the store cannot create conditionally (If-None-Match), `new` asks first.
        """
        fs, path = filesystem(str(self))
        conditional = new and _can_create(fs)
        if new and not conditional and self.exists():
            raise FileExistsError(str(self))
        if not self.is_object_store:
            self.parent.mkdir()
        if not conditional:
            self._write("pipe_file", path, data)
            return

        def put(seconds: float) -> bool:
            try:
                request(fs, "pipe_file", path, data, mode="create", seconds=seconds)
            except Exception as error:
                if isinstance(error, FileExistsError) or status_of(error) == _PRECONDITION_FAILED:
                    return False
                raise
            return True

        # If the answer was lost after the server had stored the file, the file there is this one.
        if not with_retries(str(self), "written", put) and self.read_bytes() != data:
            raise FileExistsError(str(self))

    def upload(self, local: str, size: int) -> None:
        """Upload a local file. Readers see the previous file or all of the new one."""
        fs, path = filesystem(str(self))
        seconds = request_seconds() + size / _UPLOAD_RATE
        if self.is_object_store:
            self._write("put_file", local, path, seconds=seconds, **(_S3_UPLOAD if "s3" in fs.protocol else {}))
            return
        hidden = self.with_name(f".{self.name}.{os.getpid()}.tmp")
        hidden_path = filesystem(str(hidden))[1]
        self.parent.mkdir()
        try:
            self._write("put_file", local, hidden_path, seconds=seconds)
            self._write("mv", hidden_path, path, seconds=seconds)
        except BaseException:
            with suppress(FastRealignError):
                hidden.unlink(missing_ok=True)
            raise

    def unlink(self, missing_ok: bool = False) -> None:
        fs, path = filesystem(str(self))

        def remove(seconds: float) -> None:
            try:
                request(fs, "rm_file", path, seconds=seconds)
            except FileNotFoundError:
                if not missing_ok:
                    raise

        with_retries(str(self), "removed", remove)

    def mkdir(self, exist_ok: bool = True) -> None:
        """Make the folder and its parents."""
        if not self.is_object_store:
            self._write("makedirs", filesystem(str(self))[1], exist_ok=exist_ok)

    def rmdir(self) -> None:
        """Remove an empty folder; OSError if it is not empty."""
        if not self.is_object_store:
            fs, path = filesystem(str(self))
            try:
                request(fs, "rmdir", path, seconds=request_seconds())
            except Exception as error:  # file systems raise what their libraries do
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self)) from error

    def _write(self, method: str, *args: Any, seconds: float | None = None, **options: Any) -> None:
        fs, _ = filesystem(str(self))
        with_retries(str(self), "written", lambda limit: request(fs, method, *args, seconds=limit, **options), seconds)

    def _list(self, method: str, **options: Any) -> list[tuple[str, Facts]]:
        fs, path = filesystem(f"{self}/" if self.is_http else str(self))

        def listing(seconds: float) -> Any:
            fs.invalidate_cache(path)
            return request(fs, method, path, seconds=seconds, **options)

        found = with_retries(str(self), "listed", listing, _LISTING * request_seconds())
        infos = found.values() if isinstance(found, dict) else found
        below = f"{path.rstrip('/')}/"
        named = ((info["name"].rstrip("/"), info) for info in infos)
        return [(name[len(below) :], Facts.of(info)) for name, info in named if name.startswith(below)]


def _can_create(fs: AbstractFileSystem) -> bool:
    """Whether the file system can create a file on the condition that it does not exist."""
    coroutine = getattr(fs, "_pipe_file", None) if fs.async_impl else None
    return "mode" in inspect.signature(coroutine or fs.pipe_file).parameters
