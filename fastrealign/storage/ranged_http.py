"""Parts of a file over HTTP, with facts about the whole file from the headers. fsspec keeps the connection and its settings.

fsspec's own method to read a part returns neither whether the server sent a part (a server without range requests sends the
whole file) nor the ETag, which shows a changed file without a second request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastrealign.core.errors import InputError
from fastrealign.storage.remote_facts import Facts
from fastrealign.storage.retry import run_coroutine

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


def look(fs: AbstractFileSystem, url: str, seconds: float) -> Facts:
    """The facts about a file. Raises what aiohttp does, FileNotFoundError for 404."""
    return run_coroutine(fs, _get, fs, url, 0, 1, seconds=seconds)[1]


def get(fs: AbstractFileSystem, url: str, start: int, end: int, seconds: float) -> tuple[bytes, Facts]:
    """Bytes start to end, or fewer where the file ends. Raises InputError if the server sends whole files only."""
    data, facts = run_coroutine(fs, _get, fs, url, start, end, seconds=seconds)
    if data is None:
        raise InputError(
            f"{url}: the server sends whole files only (it does not know range requests); download it first"
        )
    return data, facts


async def _get(fs: Any, url: str, start: int, end: int) -> tuple[bytes | None, Facts]:
    """The bytes, None where the server sends whole files only, and the facts. `fs` is fsspec's HTTPFileSystem."""
    session = await fs.set_session()
    options = dict(fs.kwargs)
    headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    async with session.get(fs.encode_url(url), headers=headers, **options) as response:
        size = _size(response.headers.get("Content-Range", ""))
        tags = {name: response.headers[name] for name in ("ETag", "Last-Modified") if name in response.headers}

        def facts(size: int | None) -> Facts:
            return Facts.of({**tags, "size": size, "type": "file"})

        if response.status == 416:  # nothing there: the file ends before
            return b"", facts(size if size is not None else 0 if start == 0 else None)
        if response.status == 404:
            raise FileNotFoundError(url)
        response.raise_for_status()
        if response.status == 200:
            whole = response.headers.get("Content-Length", "")
            size = int(whole) if whole.isdecimal() else None
            if start or size is None or size > end:
                return None, facts(size)
        return await response.read(), facts(size)


def _size(content_range: str) -> int | None:
    """Of "bytes 0-9/1234" the 1234."""
    total = content_range.rpartition("/")[2]
    return int(total) if total.isdecimal() else None
