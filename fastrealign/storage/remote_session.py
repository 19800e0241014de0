"""The state of servers and their files in this process: the only state of storage/ that outlives an opened file.

It belongs to the process and not to an opened source. A shard is opened by its path again and again, by several threads, by the
reader of a table and by fingerprints: all of them compare the file with its facts when its header was first read. In the same
way all files of a server share its failures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastrealign.storage.remote_facts import Facts

# For so long after a request has failed for good, requests to that server are not retried, so that a failing run ends soon.
_GRACE_SECONDS = 60.0
# `Seen.at` of facts from a listing, which serve to open the file once.
_LISTED = float("-inf")


@dataclass
class Seen:
    """A file as it was when its header was read, and when it was last compared with that (time.monotonic())."""

    facts: Facts
    at: float

    @property
    def listed(self) -> bool:
        """Whether all that is known comes from a listing of its folder."""
        return self.at == _LISTED


class RemoteSession:
    """The files that were read, by URL, and the servers that failed, by scheme and host."""

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}
        self._failed: dict[str, float] = {}

    def seen(self, url: str) -> Seen | None:
        return self._seen.get(url)

    def note_seen(self, url: str, facts: Facts) -> Seen:
        """From here on, the file must not change."""
        seen = self._seen[url] = Seen(facts, time.monotonic())
        return seen

    def note_listed(self, url: str, facts: Facts) -> None:
        """Spares a request when the file is opened, where a listing is as good as asking for the file."""
        if facts.certain and facts.size:
            self._seen[url] = Seen(facts, _LISTED)

    def forget(self, url: str) -> None:
        """The file may have been replaced."""
        self._seen.pop(url, None)

    def note_failure(self, server: str) -> None:
        self._failed[server] = time.monotonic()

    def note_answer(self, server: str) -> None:
        self._failed.pop(server, None)

    def failed_lately(self, server: str) -> bool:
        return time.monotonic() - self._failed.get(server, float("-inf")) < _GRACE_SECONDS

    def clear(self) -> None:
        """For tests: as in a new process."""
        self._seen.clear()
        self._failed.clear()


SESSION = RemoteSession()
