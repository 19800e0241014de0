"""Parts of a file over HTTP, with what the answer says of the whole. fsspec keeps the session and its settings.

Its own way to read a part tells neither whether the server sent one (a server that does not know ranges sends the whole
file), nor the ETag, by which a file that was changed is found out without asking again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrealign.core.errors import InputError
from fastrealign.storage.retry import run


@dataclass(frozen=True)
class Answer:
    """data: the bytes, None where the server sends whole files only; size: of the whole file, None if it was not told;
    headers: those that tell contents apart."""

    data: bytes | None
    size: int | None
    headers: dict[str, str]


def look(fs: Any, url: str, seconds: float) -> Answer:
    """What the server says of a file. Raises what aiohttp does, FileNotFoundError for 404."""
    return run(fs, _get, fs, url, 0, 1, seconds=seconds)


def get(fs: Any, url: str, start: int, end: int, seconds: float) -> Answer:
    """Bytes start to end, or fewer where the file ends. Raises InputError if the server sends whole files only."""
    answer = run(fs, _get, fs, url, start, end, seconds=seconds)
    if answer.data is None:
        raise InputError(
            f"{url}: the server sends whole files only (it does not know range requests); download it first"
        )
    return answer


async def _get(fs: Any, url: str, start: int, end: int) -> Answer:
    session = await fs.set_session()
    options = dict(fs.kwargs)
    headers = {**options.pop("headers", {}), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    async with session.get(fs.encode_url(url), headers=headers, **options) as response:
        size = _size(response.headers.get("Content-Range", ""))
        tags = {name: response.headers[name] for name in ("ETag", "Last-Modified") if name in response.headers}
        if response.status == 416:  # nothing there: the file ends before
            return Answer(b"", size if size is not None else 0 if start == 0 else None, tags)
        if response.status == 404:
            raise FileNotFoundError(url)
        response.raise_for_status()
        if response.status == 200:
            whole = response.headers.get("Content-Length", "")
            size = int(whole) if whole.isdecimal() else None
            if start or size is None or size > end:
                return Answer(None, size, tags)
        return Answer(await response.read(), size, tags)


def _size(content_range: str) -> int | None:
    """Of "bytes 0-9/1234" the 1234."""
    total = content_range.rpartition("/")[2]
    return int(total) if total.isdecimal() else None
