"""The errors that users see. Each message is one line: which file, which row, what was expected, what to do."""

from __future__ import annotations

import errno
import os
import re
import sys
import warnings
from types import FrameType

from fastrealign.core.text import shown
from fastrealign.core.wording import option


class FastRealignError(Exception):
    """Something failed that the caller's input did not cause (exit code 1).

    The message is one line, without control characters and without the users, passwords and queries of URLs.

    reported_elsewhere: another rank of the process group met the error and reports it
    """

    reported_elsewhere = False

    def __init__(self, message: object = "") -> None:
        super().__init__(shown(message))


class InputError(FastRealignError, ValueError):
    """The input or an option is wrong (exit code 2)."""


class ChangedError(InputError):
    """An input was written to while it was being read, so the parts read so far may not match the file."""


def changed(path: object, when: str = "during the run") -> ChangedError:
    return ChangedError(f"{path}: changed {when}: do not write to the input, run again")


class BadShardError(InputError):
    """A shard that cannot be read: its place in the source, and the source's name."""

    def __init__(self, message: str, shard: int = -1, source: str = "") -> None:
        super().__init__(message)
        self.shard, self.source = shard, source


class BadRowsError(InputError):
    """A row that has no direction: NaN, Inf or zero, or one that the map sends to zero.

    row   which row cannot be used and why, without advice; "" if the error does not come from a pass
    """

    row = ""


_MEMORY = "not enough memory; lower {max_memory} or {threads}, or end other programs"
_FILES = "too many open files; raise the limit (ulimit -n) or lower {threads}"
_ROOM = "no room left for a temporary file; free some space, or set TMPDIR to a folder that has some"
_AWAY = "the file system does not answer ({}); run again when it does"
_OF_NETWORKS = (
    "AGAIN BUSY CONNABORTED CONNREFUSED CONNRESET HOSTDOWN HOSTUNREACH NETDOWN NETRESET NETUNREACH NOTCONN REMOTEIO SHUTDOWN "
    "STALE TIMEDOUT"
)
_NUMBERS = {
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    **dict.fromkeys((getattr(errno, f"E{name}", errno.ETIMEDOUT) for name in _OF_NETWORKS.split()), _AWAY),
}
# The same in the messages of libraries in other languages, which raise errors of any class.
_TEXTS = [
    (
        re.compile(
            "bad_alloc|out of memory|can(not|'t| not) allocate memory|can't start new thread|alloc of size", re.I
        ),
        _MEMORY,
    ),
    (re.compile(os.strerror(errno.EMFILE), re.I), _FILES),
    (re.compile(os.strerror(errno.ENOSPC), re.I), _ROOM),
    (re.compile(os.strerror(errno.ESTALE), re.I), _AWAY),
]
# More memory than any machine has: the file that asks for it is damaged.
_BEYOND = re.compile("[PE]iB|size [0-9]{15}")


def shortage(error: BaseException) -> str | None:
    """What to report for an error of the machine rather than of the input: no memory, open files or disk space left, a file
    system that does not answer. None for all other errors."""
    if isinstance(error, FastRealignError):
        return None
    text = str(error)
    said = _MEMORY if isinstance(error, MemoryError) else None
    if isinstance(error, OSError) and error.errno is not None:
        said = _NUMBERS.get(error.errno)
    elif said is None:
        said = next((what for pattern, what in _TEXTS if pattern.search(text)), None)
    if said is None or (said == _MEMORY and _BEYOND.search(text)):
        return None
    why = getattr(error, "strerror", None) or os.strerror(errno.ESTALE)
    return said.format(why, max_memory=option("max_memory"), threads=option("threads"))


class Terminated(KeyboardInterrupt):
    """SIGTERM: work in progress may be finished, nothing new is begun."""


class FitWarning(UserWarning):
    """The fit is valid, but its statistics are weak."""


# Parts of the paths of frames between a caller and a module of torch or an estimator of scikit-learn.
_CALLING = (os.path.join("torch", "nn", "modules", ""), os.path.join("", "sklearn", ""))


def warn(message: str, kind: type[Warning] = FitWarning) -> None:
    """A warning of one line, like the errors; it points at the line that called the package, a module or an estimator of it."""
    here, level = os.path.join(os.path.dirname(os.path.dirname(__file__)), ""), 2
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _between(frame.f_code.co_filename, here):
        frame, level = frame.f_back, level + 1
    warnings.warn(shown(message), kind, stacklevel=level)


def _between(path: str, here: str) -> bool:
    """Whether the code of a frame belongs to the package in the folder `here`, or to what calls it for the user."""
    return path.startswith(here) or any(part in path for part in _CALLING)
