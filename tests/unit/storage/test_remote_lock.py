"""remote_lock.py: one holder at a time; one that has died no longer changes the lock."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from fastrealign.core.errors import FastRealignError, InputError

pytest.importorskip("fsspec")
from fastrealign.storage import remote_lock as module
from fastrealign.storage.remote_lock import Lease
from fastrealign.storage.url import Url

URL = Url("memory://out/journal/lease")

pytestmark = pytest.mark.usefixtures("quick_lease")


def taken() -> Lease:
    return Lease(URL, "memory://out")


def content() -> dict:
    return json.loads(URL.read_bytes())


def put(**value) -> None:
    URL.write_bytes(
        json.dumps({"host": "elsewhere", "pid": 7, "machine": "m", "token": "t", "beat": 0, **value}).encode()
    )


def test_it_is_renewed_and_released(memory):
    lease = taken()
    first = content()
    time.sleep(0.35)
    assert content()["beat"] > first["beat"] and content()["token"] == first["token"]
    assert not lease.lost
    lease.check()
    lease.release()
    assert not URL.exists()
    taken().release()


def test_one_that_lives_is_left_alone(memory):
    lease = taken()
    with pytest.raises(
        InputError, match=r"memory://out: another fastrealign is writing there \(process [0-9]+ on .*\); wait"
    ):
        taken()
    lease.check()
    lease.release()


def test_one_that_stands_still_is_taken_over(memory):
    put()
    begun = time.monotonic()
    lease = taken()
    assert time.monotonic() - begun >= module.WATCH_SECONDS
    assert content()["host"] != "elsewhere"
    lease.release()


def test_a_process_of_this_machine_that_has_ended_is_known_at_once(memory, monkeypatch):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    monkeypatch.setattr(module, "WATCH_SECONDS", 30.0)
    put(machine=module._machine(), pid=ended.pid)
    begun = time.monotonic()
    taken().release()
    assert time.monotonic() - begun < 10


def test_one_that_ends_while_it_is_watched(memory, monkeypatch):
    put()
    monkeypatch.setattr(module, "WATCH_SECONDS", 5.0)
    timer = threading.Timer(0.2, URL.unlink)
    timer.start()
    with pytest.raises(InputError, match="another fastrealign has just finished there"):
        taken()
    timer.join()


def test_a_holder_that_was_put_to_sleep_finds_out_and_stops(memory):
    lease = taken()
    put(token="another")
    time.sleep(0.3)
    assert lease.lost
    with pytest.raises(FastRealignError, match="another fastrealign took over there"):
        lease.check()
    lease.release()
    assert content()["token"] == "another"


def test_half_a_lease_is_watched_like_any_other(memory):
    URL.write_bytes(b'{"host": "elsew')
    taken().release()


@pytest.mark.parametrize("conditional", [True, False])
def test_of_many_that_come_at_once_one_gets_it(memory, monkeypatch, conditional):
    """Also where the store puts without conditions, and the last of two writers wins."""
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.3)
    if not conditional:
        monkeypatch.setattr("fastrealign.storage.url._can_create", lambda fs: False)
        monkeypatch.setattr(Url, "exists", lambda self: False)
    got, refusals = [], []

    def come() -> None:
        try:
            got.append(taken())
        except InputError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refusals) == 5
    assert all("another fastrealign is writing there" in text for text in refusals)
    got[0].release()


def test_a_network_that_fails_for_a_while_does_not_end_it(memory, monkeypatch):
    lease = taken()
    real = Url.read_bytes
    failing = threading.Event()

    def read_bytes(self):
        if failing.is_set():
            raise FastRealignError("no network")
        return real(self)

    monkeypatch.setattr(Url, "read_bytes", read_bytes)
    failing.set()
    time.sleep(0.3)
    failing.clear()
    before = content()["beat"]
    time.sleep(0.3)
    assert not lease.lost and content()["beat"] > before
    lease.release()
