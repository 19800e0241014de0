"""A lease: a lock on a server without locks, a small file that its holder keeps changing.

A process that finds a lease watches whether it changes, so that the clocks of the machines need not agree. A lease that does
not change is taken over: write it, wait, and check whose token it has. A holder that was suspended meanwhile finds the token of
another process and stops. On the same machine, a holder that has ended is recognised at once.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from typing import Any

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.storage.records import parsed
from fastrealign.storage.retry import Missing, filesystem, request
from fastrealign.storage.url import Url

# Seconds between two changes; how long a lease must stay unchanged to be taken over; and how long a write may take until others
# that wrote at the same time see it.
BEAT_SECONDS = 4.0
WATCH_SECONDS = 20.0
SETTLE_SECONDS = 1.0
_LOOK_SECONDS = 0.5
_RELEASE_SECONDS = 10.0


class Lease:
    """A lease, held from construction until `release`.

    url     of the file
    what    it protects, for messages
    Raises InputError if another process holds it. Acquiring takes a second, or more where a holder has to be watched.
    """

    def __init__(self, url: Url, what: str) -> None:
        self._url = url
        self._what = what
        self._token = uuid.uuid4().hex
        self._beats = 0
        self.lost = False  # whether another process has taken it over: this one must stop writing
        self._acquire()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="fastrealign-lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """FastRealignError if it is lost."""
        if self.lost:
            raise FastRealignError(
                f"{self._what}: another fastrealign took over there while this one was suspended; leave it to that one"
            )

    def release(self) -> None:
        self._stop.set()
        self._thread.join(_RELEASE_SECONDS)
        if not self.lost:
            fs, path = filesystem(str(self._url))
            # A failure here does no harm: the lease no longer changes, and is taken over.
            with suppress(Exception):
                request(fs, "rm_file", path, seconds=_RELEASE_SECONDS)

    def _acquire(self) -> None:
        there = self._read()
        if there is not None:
            self._wait_for_its_end(there)
        try:
            self._write(new=there is None)
        except FileExistsError:
            raise self._held(self._read()) from None
        time.sleep(SETTLE_SECONDS)
        there = self._read()
        if there is None or _parsed(there).get("token") != self._token:
            raise self._held(there)

    def _wait_for_its_end(self, there: bytes) -> None:
        """Returns when the lease may be taken over; InputError if its holder lives."""
        if _has_ended(_parsed(there)):
            return
        end = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(min(_LOOK_SECONDS, WATCH_SECONDS))
            now = self._read()
            if now is None:
                raise InputError(f"{self._what}: another fastrealign has just finished there; look at what it wrote")
            if now != there:
                raise self._held(now)

    def _held(self, there: bytes | None) -> InputError:
        holder = _parsed(there)
        who = f" (process {holder['pid']} on {holder['host']})" if {"pid", "host"} <= holder.keys() else ""
        return InputError(f"{self._what}: another fastrealign is writing there{who}; wait for it or stop it")

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            with suppress(FastRealignError):  # the next beat tries again
                there = self._read()
                if _parsed(there).get("token") != self._token:
                    self.lost = True
                    return
                self._beats += 1
                self._write(new=False)

    def _read(self) -> bytes | None:
        try:
            return self._url.read_bytes()
        except Missing:
            return None

    def _write(self, *, new: bool) -> None:
        value = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": _machine(),
            "token": self._token,
            "beat": self._beats,
        }
        self._url.write_bytes(json.dumps(value).encode(), new=new)


def _parsed(text: bytes | None) -> dict[str, Any]:
    """The values of a lease; none if it is gone, or half written by a server that writes in place."""
    try:
        value = parsed(text or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    machine = _machine()
    if machine is None or holder.get("machine") != machine or not isinstance(holder.get("pid"), int):
        return False
    try:
        os.kill(holder["pid"], 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False


def _machine() -> str | None:
    """Identifies this machine since its boot, and the process numbers of this container."""
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
