"""Requests to a server: each has a time limit; transient failures are retried, others end in one line.

Retried, after a wait that doubles: time-outs, lost connections, answers cut short, HTTP 408, 409, 425, 429 and 5xx. Not
retried: 403, 404, a missing package.
"""

from __future__ import annotations

import errno
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line, without_secrets
from fastrealign.storage.remote_session import SESSION

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

# Seconds before the first retry; each further wait is twice as long, up to the longest.
FIRST_WAIT = 0.5
LONGEST_WAIT = 20.0
_TRIES = 6
# Of tries and of seconds: clocks and timers overflow far above it.
_MOST = 1_000_000
_SECONDS = 60.0

# 409: a store that is writing the same name already.
_TRANSIENT_STATUS = {408, 409, 425, 429}
# EBUSY and EREMOTEIO are what s3fs makes of 503 and 500.
_TRANSIENT_ERRNO = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH,
    errno.EIO, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.EPIPE, errno.ETIMEDOUT,
    getattr(errno, "EREMOTEIO", errno.EIO),  # of Linux
}  # fmt: skip
_PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
# Errors of the connection itself, by class and package; their other errors are about how they were called.
_TRANSIENT_CLASSES = {
    "TimeoutError": "asyncio",  # another class than the built-in one before Python 3.11
    "ClientError": "aiohttp",
    "ConnectionError": "botocore",
    "HTTPClientError": "botocore",
    "ResponseParserError": "botocore",
    "ResponseStreamingError": "botocore",
    "TransportError": "httpx",
    "HTTPError": "urllib3",
    "SSHException": "paramiko",
}
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "DefaultCredentialsError")


class Missing(InputError):
    """There is no such file."""


class Denied(InputError):
    """The server denies access."""


class ShortAnswer(Exception):
    """Fewer bytes came than were asked for."""


def filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """fsspec's file system for a URL, and the name of the file there. InputError says which package is missing."""
    core, scheme = optional("fsspec.core", "remote", f"{url}: a URL"), url.partition("://")[0]
    try:
        return core.url_to_fs(url)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or getattr(error, "name", None)
        step = f"pip install {package.partition('.')[0]}" if package else one_line(error)
        raise InputError(f"{url}: {scheme}:// needs a package that is not installed: {step}") from None
    except ValueError as error:
        if "Protocol not known" in str(error):
            raise InputError(f"{url}: {scheme}:// is not a protocol that fsspec knows") from None
        raise InputError(f"{url}: cannot be opened: {one_line(error)}") from without_secrets(error)
    except Exception as error:  # whatever a file system asks for when it is made: credentials, hosts, settings
        raise InputError(f"{url}: cannot be opened: {_reason(error, 0.0)}; {_advice(error)}") from without_secrets(
            error
        )


def request_seconds() -> float:
    """How long one request may take."""
    return _number("FASTREALIGN_REMOTE_TIMEOUT", _SECONDS)


def request(fs: AbstractFileSystem, method: str, *args: Any, seconds: float, **options: Any) -> Any:
    """One call of a method of a file system, which may take so many seconds; TimeoutError after that."""
    coroutine = getattr(fs, f"_{method}", None)
    if fs.async_impl and inspect.iscoroutinefunction(coroutine):
        return run_coroutine(fs, coroutine, *args, seconds=seconds, **options)
    return _in_time(lambda: getattr(fs, method)(*args, **options), seconds)


def run_coroutine(
    fs: AbstractFileSystem, coroutine: Callable[..., Any], *args: Any, seconds: float, **options: Any
) -> Any:
    """The coroutine's result, on the file system's loop."""
    return optional("fsspec.asyn", "remote", "a URL").sync(fs.loop, coroutine, *args, timeout=seconds, **options)


def with_retries(url: str, doing: str, call: Callable[[float], T], seconds: float | None = None) -> T:
    """What `call` returns, called again while its failures are transient.

    doing    "read", "listed", "written" or "removed", for the message
    seconds  time limit of a request, passed to `call`; by default `request_seconds()`

    Raises Missing, Denied or InputError where reading fails for good; FastRealignError after the last try, and for all
    failures of a write.
    """
    tries = max(1, int(_number("FASTREALIGN_REMOTE_TRIES", _TRIES)))
    seconds = seconds or request_seconds()
    begun, wait = time.monotonic(), FIRST_WAIT
    server = "/".join(url.split("/", 3)[:3])
    if SESSION.failed_lately(server):
        tries = 1
    for done in range(1, tries + 1):
        try:
            result = call(seconds)
            SESSION.note_answer(server)
            return result
        except FastRealignError:
            raise
        except Exception as caught:  # file systems raise what their libraries do
            error = _cause(caught)
        # Raised out here: what is raised in an except block keeps the error, with its secrets, as __context__.
        reason = _reason(error, seconds)
        if not _is_transient(error):
            raise _failure(error, url, doing, reason) from without_secrets(error)
        if done == tries:
            SESSION.note_failure(server)
            tried = f", at the last of {tries} tries in {time.monotonic() - begun:.0f} s" if tries > 1 else ""
            raise FastRealignError(
                f"{url}: could not be {doing}: {reason}{tried}; run again when the server and the network respond"
            ) from without_secrets(error)
        import random

        time.sleep(wait * random.uniform(0.5, 1.0))
        wait = min(2.0 * wait, LONGEST_WAIT)
    raise AssertionError("unreachable")


def _failure(error: BaseException, url: str, doing: str, reason: str) -> FastRealignError:
    if doing != "written" and doing != "removed":
        if isinstance(error, FileNotFoundError) or status_of(error) in (404, 410):
            return Missing(f"{url}: no such file")
        kind = Denied if isinstance(error, PermissionError) or status_of(error) in (401, 403) else InputError
        return kind(f"{url}: cannot be {doing}: {reason}; {_advice(error)}")
    return FastRealignError(f"{url}: could not be {doing}: {reason}; {_advice(error)}")


def _advice(error: BaseException) -> str:
    if isinstance(error, PermissionError) or status_of(error) in (401, 403) or type(error).__name__ in _CREDENTIALS:
        return "check the credentials and what they allow"
    if isinstance(error, NotImplementedError):
        return "this protocol cannot do that, choose another place"
    return "check the URL"


def _cause(error: BaseException) -> BaseException:
    """The error that names the cause: fsspec's HTTP raises FileNotFoundError for every failure."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, (OSError, KeyError)):
        return cause if status_of(cause) not in (404, 410) else error
    return error


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, (*_PERMANENT, NotImplementedError)):
        return False
    status = status_of(error)
    if status is not None:
        return status in _TRANSIENT_STATUS or (status >= 500 and status != 501)
    if isinstance(error, (TimeoutError, ConnectionError, ShortAnswer)):
        return True
    if isinstance(error, ValueError):
        return False
    for kind in type(error).__mro__:
        if _TRANSIENT_CLASSES.get(kind.__name__) == kind.__module__.partition(".")[0]:
            return True
    return isinstance(error, OSError) and (
        error.errno in _TRANSIENT_ERRNO or type(error).__module__.startswith("requests.")
    )


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an error of aiohttp, requests, httpx, gcsfs or botocore carries."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        if isinstance(response, dict):
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            response = getattr(response, "status_code", None)
        for value in (getattr(one, "status", None) or getattr(one, "code", None), response):
            if isinstance(value, (int, str)) and str(value).isdecimal() and 400 <= int(value) < 600:
                return int(value)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the causes that it wraps: s3fs raises an OSError from botocore's. Other causes do not count."""
    while error is not None:
        yield error
        error = error.__cause__ if isinstance(error, OSError) else None


def _reason(error: BaseException, seconds: float) -> str:
    status = status_of(error)
    if status is not None:
        from http import HTTPStatus

        name = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "an error"
        return f"HTTP {status} ({name})"
    if any(kind.__name__ == "TimeoutError" for kind in type(error).__mro__) and not str(error):
        return f"no answer within {seconds:g} s"
    if isinstance(error, ShortAnswer):
        return str(error)
    return f"{type(error).__name__}: {one_line(error)}" if str(error) else type(error).__name__


def _in_time(call: Callable[[], T], seconds: float) -> T:
    """For file systems that block: call in a thread, which is abandoned when the time is over."""
    from concurrent.futures import Future

    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    thread = threading.Thread(target=work, name="fastrealign-request", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer.done():
        raise TimeoutError
    return answer.result()


def _number(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        value = float(text) if text else default
    except ValueError:
        value = 0.0
    if not 0 < value <= _MOST:
        raise InputError(f"{name}={text}: expected a number above 0 and at most {_MOST:,}")
    return value
