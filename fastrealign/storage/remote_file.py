"""Files on a server, read by position or in order.

A file must not change while it is read. Its size, ETag and time are kept when its header is read (remote_session.py), and
compared later: with every answer over HTTP, elsewhere when the file is opened again and every CHECK_SECONDS while it is read.
"""

from __future__ import annotations

import io
import os
import time
from typing import TYPE_CHECKING

from fastrealign.core.errors import InputError, changed
from fastrealign.storage import ranged_http
from fastrealign.storage.remote_facts import Facts
from fastrealign.storage.remote_session import SESSION
from fastrealign.storage.retry import ShortAnswer, filesystem, request, with_retries
from fastrealign.storage.url import Url

if TYPE_CHECKING:
    from typing_extensions import Buffer

# A file that is being read is checked again after so many seconds.
CHECK_SECONDS = 2.0
# Of one request, at most.
REQUEST_BYTES = 8 << 20


def file_size(url: str) -> int:
    """The size in bytes of a non-empty file; InputError for anything else. From here on, it must not change."""
    seen = SESSION.seen(url)
    facts = seen.facts if seen is not None and seen.listed else Url(url).facts()
    size = SESSION.note_seen(url, facts).facts.file_size(url)
    if size == 0:
        raise InputError(f"{url}: is empty (0 bytes); write it again or remove it")
    return size


class RemoteFile:
    """A file that any number of threads read by position.

    size       in bytes
    modified   its ETag, or when it was changed; None where the server has neither
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._path = filesystem(url)
        self._http = Url(url).is_http
        self._seen = SESSION.seen(url) or SESSION.note_seen(url, Url(url).facts())
        self._check()
        self.size = self._seen.facts.file_size(url)

    @property
    def modified(self) -> str | None:
        return self._seen.facts.tag and self._seen.facts.tag[1]

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset` on, fewer only where the file ends."""
        end = min(offset + count, self.size)
        parts = []
        while offset < end:
            parts.append(self._part(offset, min(offset + REQUEST_BYTES, end)))
            offset += len(parts[-1])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def fill(self, view: memoryview, offset: int) -> int:
        """Read into `view`; returns the number of bytes, fewer where the file ends."""
        done, end = 0, min(len(view), self.size - offset)
        while done < end:
            part = self._part(offset + done, offset + min(done + REQUEST_BYTES, end))
            view[done : done + len(part)] = part
            done += len(part)
        return done

    def _part(self, start: int, end: int) -> bytes:
        def get(seconds: float) -> bytes:
            if self._http:
                data, facts = ranged_http.get(self._fs, self._path, start, end, seconds)
                if facts.size is not None:
                    self._compare(facts)
            else:
                data = request(self._fs, "cat_file", self._path, start=start, end=end, seconds=seconds)
            if len(data) != end - start:
                self._check(always=True)
                raise ShortAnswer(f"the answer has {len(data)} bytes of {end - start} from byte {start} on")
            return data

        data = with_retries(self.url, "read", get)
        self._check()
        return data

    def _check(self, always: bool = False) -> None:
        now = time.monotonic()
        if self._http and not always:
            return
        if always or now - self._seen.at > CHECK_SECONDS:
            before, self._seen.at = self._seen.at, now  # one thread is enough
            try:
                self._compare(Url(self.url).facts())
            except BaseException:
                self._seen.at = before
                raise

    def _compare(self, now: Facts) -> None:
        if not now.same(self._seen.facts):
            raise changed(self.url)


class RemoteStream(io.RawIOBase):
    """A remote file as a file object, for libraries that want one. Unbuffered: each read is a request of that size."""

    def __init__(self, url: str) -> None:
        self._file = RemoteFile(url)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Buffer) -> int:
        count = self._file.fill(memoryview(buffer).cast("B"), self._at)
        self._at += count
        return count
