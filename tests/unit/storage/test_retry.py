"""retry.py: which failures are transient, by the errors that the libraries under fsspec really raise."""

from __future__ import annotations

import asyncio
import errno

import pytest

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.storage import retry
from fastrealign.storage.remote_session import RemoteSession
from fastrealign.storage.retry import Denied, Missing, with_retries


class HttpError(Exception):
    """As gcsfs has it: the status is its code."""

    def __init__(self, code):
        super().__init__(f"it says {code}")
        self.code = code


class HubError(OSError):
    """As huggingface_hub and requests have it: the status is that of its response."""

    def __init__(self, status):
        super().__init__("it says no")
        self.response = type("Response", (), {"status_code": status})()


def s3_error(code: str, status: int) -> OSError:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate_boto_error(ClientError(answer, "GetObject"))


@pytest.fixture
def tried(monkeypatch):
    """tried(error, doing): the error raised, and how often it was tried."""
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    monkeypatch.setattr(retry, "SESSION", RemoteSession())

    def tried(error: BaseException, doing: str = "read"):
        retry.SESSION.clear()
        calls = []

        def call(seconds):
            calls.append(1)
            raise error

        with pytest.raises(FastRealignError) as caught:
            with_retries("s3://b/x", doing, call)
        assert "\n" not in str(caught.value) and str(caught.value).startswith("s3://b/x: ")
        return caught.value, len(calls)

    return tried


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        asyncio.TimeoutError(),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        BrokenPipeError(errno.EPIPE, "pipe"),
        OSError(errno.EBUSY, "Please reduce your request rate."),
        OSError(errno.EREMOTEIO, "internal"),
        HttpError(429),
        HttpError("503"),
        HubError(502),
    ],
    ids=repr,
)
def test_what_passes(tried, error):
    raised, tries = tried(error)
    assert tries == 6 and not isinstance(raised, InputError)


@pytest.mark.parametrize(
    "error, kind",
    [
        (FileNotFoundError("x"), Missing),
        (HttpError(404), Missing),
        (PermissionError("x"), Denied),
        (HttpError(403), Denied),
        (HubError(401), Denied),
        (HttpError(400), InputError),
        (HttpError(501), InputError),
        (NotImplementedError(), InputError),
        (ValueError("x"), InputError),
        (IsADirectoryError("x"), InputError),
        (OSError(errno.EINVAL, "x"), InputError),
    ],
    ids=repr,
)
def test_what_does_not_pass(tried, error, kind):
    raised, tries = tried(error)
    assert tries == 1 and type(raised) is kind
    # What cannot be written is no fault of the input.
    raised, tries = tried(error, "written")
    assert tries == 1 and type(raised) is FastRealignError


@pytest.mark.parametrize(
    "code, status, tries, message",
    [
        ("SlowDown", 503, 6, "HTTP 503 (Service Unavailable)"),
        ("InternalError", 500, 6, "HTTP 500 (Internal Server Error)"),
        ("OperationAborted", 409, 6, "HTTP 409 (Conflict)"),
        ("AccessDenied", 403, 1, "HTTP 403 (Forbidden); check the credentials"),
        ("InvalidRange", 416, 1, "HTTP 416"),
        ("NoSuchKey", 404, 1, "no such file"),
    ],
)
def test_what_s3_says(tried, code, status, tries, message):
    pytest.importorskip("s3fs")
    error, count = tried(s3_error(code, status))
    assert count == tries and message in str(error)


def test_missing_credentials_are_not_waited_for(tried):
    exceptions = pytest.importorskip("botocore.exceptions")
    error, count = tried(exceptions.NoCredentialsError())
    assert count == 1 and "Unable to locate credentials; check the credentials" in str(error)
    error, count = tried(exceptions.EndpointConnectionError(endpoint_url="http://x"))
    assert count == 6


def test_a_server_that_was_given_up_is_asked_once(monkeypatch):
    monkeypatch.setattr(retry.time, "sleep", lambda _: None)
    monkeypatch.setattr(retry, "SESSION", RemoteSession())
    calls = []

    def fail(seconds):
        calls.append(1)
        raise ConnectionResetError("reset")

    for url, tries in [("s3://b/x", 6), ("s3://b/y", 1), ("s3://c/x", 6)]:
        calls.clear()
        with pytest.raises(FastRealignError):
            with_retries(url, "read", fail)
        assert len(calls) == tries
    assert with_retries("s3://b/x", "read", lambda seconds: seconds) == 60.0
    calls.clear()
    with pytest.raises(FastRealignError):
        with_retries("s3://b/x", "read", fail)
    assert len(calls) == 6


def test_an_interrupt_is_not_an_error(monkeypatch):
    def call(seconds):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with_retries("s3://b/x", "read", call)
