"""URLs as output: the same bytes as on disk, complete or not at all, one run at a time, and a run that resumes."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from functools import partial
from unittest.mock import Mock

import corpus
import numpy as np
import pytest
from stops import StopAfter

import fastrealign as fr
from fastrealign.cli import main as cli
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.core.progress import Progress
from fastrealign.formats import open_source
from fastrealign.formats.manifest import JOURNAL
from fastrealign.jobs.journal import Journal
from fastrealign.storage import retry
from fastrealign.storage.append_log import RemoteLog
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.remote_lock import Lease
from fastrealign.storage.retry import Denied
from fastrealign.storage.url import Url

fsspec = pytest.importorskip("fsspec")

pytestmark = pytest.mark.usefixtures("quick_lease", "spool")


@pytest.fixture
def spool(tmp_path, monkeypatch):
    """The folder of the spool files; nothing may be left in it."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setenv("FASTREALIGN_SPOOL", str(folder))
    yield folder
    assert not list(folder.iterdir())


stop_after = partial(StopAfter, error=FastRealignError("stopped"))


class Store:
    """A place on a server to write to, and what lies there."""

    def __init__(self, fs, url: str, path: str) -> None:
        self.fs, self.url, self.path = fs, url, path

    def __truediv__(self, name: str) -> Store:
        return Store(self.fs, f"{self.url}/{name}", f"{self.path}/{name}")

    def tree(self) -> dict[str, bytes]:
        self.fs.invalidate_cache()
        names = self.fs.find(self.path)
        return {name.removeprefix(f"{self.path}/"): self.fs.cat_file(name) for name in names}

    def put(self, folder) -> str:
        """Copies a local folder there; returns its URL."""
        for name, data in corpus.tree(folder).items():
            if self.fs.protocol == "folders":
                os.makedirs(os.path.dirname(f"{self.path}/{name}"), exist_ok=True)
            self.fs.pipe_file(f"{self.path}/{name}", data)
        return self.url


@pytest.fixture(scope="module")
def moto():
    """An S3 server of our own; returns its address."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto, monkeypatch):
    """A bucket."""
    for name, value in {
        "AWS_ENDPOINT_URL": moto,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    # fsspec keeps file systems, also one that an earlier test made without credentials.
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    fs = fsspec.filesystem("s3")
    bucket = f"bucket{time.monotonic_ns()}"
    fs.mkdir(bucket)
    return Store(fs, f"s3://{bucket}", bucket)


@pytest.fixture
def folders(tmp_path):
    """A protocol that has folders and writes in place, such as sftp."""
    from fsspec.implementations.local import LocalFileSystem

    class Folders(LocalFileSystem):
        protocol = "folders"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("folders://"))

    fsspec.register_implementation("folders", Folders, clobber=True)
    return Store(fsspec.filesystem("folders"), f"folders://{tmp_path}/server", f"{tmp_path}/server")


@pytest.fixture(params=["memory", "s3", "folders"])
def store(request):
    if request.param == "memory":
        return Store(request.getfixturevalue("memory"), "memory://data", "/data")
    return request.getfixturevalue(request.param)


@pytest.fixture
def sides(tmp_path):
    return corpus.two_sides(tmp_path, shards=5)


@pytest.fixture
def few(tmp_path):
    return corpus.two_sides(tmp_path / "few", shards=2)


def without_times(tree: dict[str, bytes]) -> dict:
    """A manifest notes when its inputs were changed, which a server tells in its own way."""
    tree = dict(tree)
    for name in [name for name in tree if name.endswith("manifest.json")]:
        value = json.loads(tree[name])
        del value["check"]
        for side in ("source", "target"):
            for mark in value["asked"][side].values():
                mark["modified"] = None
        tree[name] = value
    return tree


# The same bytes as on disk


def test_a_run_on_a_server_is_that_on_disk(tmp_path, few, store):
    fr.align(*few, tmp_path / "out")
    text, image = (store / "text").put(few[0]), (store / "image").put(few[1])
    report = fr.align(text, image, f"{store.url}/a/out")
    assert without_times((store / "a/out").tree()) == without_times(corpus.tree(tmp_path / "out"))
    assert report.shards == 2 and report.files["manifest"] == f"{store.url}/a/out/manifest.json"
    assert fr.align(text, image, f"{store.url}/a/out", resume=True).nothing_to_do
    fr.align(text, image, f"{store.url}/a/out", overwrite=True)
    assert without_times((store / "a/out").tree()) == without_times(corpus.tree(tmp_path / "out"))
    fr.align(text, image, tmp_path / "down")
    assert without_times(corpus.tree(tmp_path / "down")) == without_times(corpus.tree(tmp_path / "out"))


@pytest.mark.parametrize("bad_rows", ["keep", "skip"])
@pytest.mark.parametrize("kind", ["npy", "parquet", "pickle"])
def test_every_format_with_bad_rows(tmp_path, memory, server, kind, bad_rows):
    rows = corpus.rows(300, 1)
    rows[[7, 250]] = 0
    root = tmp_path / "root"
    text = root / "text_emb"
    for i, part in enumerate(np.split(rows, 3)):
        if kind == "npy":
            pytest.importorskip("pyarrow")
            corpus.npy_folder(text, [])
            np.save(text / f"part_{i}.npy", part)
            corpus.parquet_file(
                tmp_path / "metadata" / f"metadata_{i}.parquet", corpus.rows(100, i, 3), url=["u"] * 100
            )
        elif kind == "parquet":
            pytest.importorskip("pyarrow")
            corpus.parquet_file(
                text / f"part_{i}.parquet", part, id=list(range(100)), url=[f"u{j}" for j in range(100)]
            )
        else:
            corpus.pickle_file(text / f"part_{i}.pkl", [{"id": j, "embed": row} for j, row in enumerate(part)])
    image = corpus.npy_folder(root / "img_emb", [corpus.rows(80, 2)])
    server.files = corpus.tree(root)
    fr.align(root if kind == "npy" else text, image, tmp_path / "out", bad_rows=bad_rows)
    source = server.url if kind == "npy" else f"{server.url}/text_emb"
    report = fr.align(source, f"{server.url}/img_emb", "memory://out", bad_rows=bad_rows)
    there = Store(memory, "memory://out", "/out").tree()
    assert without_times(there) == without_times(corpus.tree(tmp_path / "out"))
    assert report.bad_rows == 2 and report.first_bad[0].startswith(f"{server.url}/text_emb/part_0.")


def test_the_output_of_an_unfinished_run_is_no_input(sides, store, monkeypatch):
    """Nor is a side of it, where it is a clip-retrieval folder."""
    out = store / "a/out"
    with pytest.raises(FastRealignError, match="2 of 5 shards are complete"):
        fr.align(*sides, out.url, threads=1, progress=stop_after(2 * 60))
    with pytest.raises(InputError, match=f"{out.url}: holds an unfinished run, so rows are missing"):
        open_source(out.url, side="source")
    shards = {name: data for name, data in out.tree().items() if name.endswith(".npy")}
    for name, data in shards.items():
        out.fs.makedirs(f"{out.path}/text_emb", exist_ok=True)
        out.fs.pipe_file(f"{out.path}/text_emb/{name}", data)
    with pytest.raises(InputError, match=f"{out.url}: holds an unfinished run, so rows are missing"):
        open_source(f"{out.url}/text_emb", side="source")
    with monkeypatch.context() as patch:  # the folder above is not for this user to look into
        patch.setattr(Url, "exists", Mock(side_effect=Denied("403")))
        assert len(open_source(f"{out.url}/text_emb", side="source").shards) == 2
    fr.align(*sides, out.url, resume=True)
    assert len(open_source(f"{out.url}/text_emb", side="source").shards) == len(shards) == 2


def test_one_file(tmp_path, sides, store):
    url = (store / "text").put(sides[0])
    fr.align(sides[0] / "part_1.npy", sides[1], tmp_path / "out.npy")
    fr.align(f"{url}/part_1.npy", sides[1], f"{store.url}/b/out.npy")
    names = ["out.npy", "out.npy.alignment.safetensors", "out.npy.manifest.json"]
    there = (store / "b").tree()
    assert sorted(there) == names
    assert there["out.npy"] == (tmp_path / "out.npy").read_bytes()
    with pytest.raises(fr.InputError, match="is the input itself"):
        fr.align(f"{url}/part_1.npy", sides[1], f"{url}/part_1.npy")
    with pytest.raises(fr.InputError, match="names one file, but"):
        fr.align(url, sides[1], f"{store.url}/c/out.npy")


def test_a_large_file_goes_up_in_parts(tmp_path, s3):
    """In parts of 8 MB, of which a few are in memory."""
    data = np.random.default_rng(0).bytes(30 << 20)
    with AtomicFile(f"{s3.url}/out.npy") as file:
        file.append(data)
        file.commit()
    assert s3.fs.cat_file(f"{s3.path}/out.npy") == data
    s3.fs.invalidate_cache()
    assert s3.fs.info(f"{s3.path}/out.npy")["ETag"].strip('"').endswith("-4")


def test_the_command_line(memory, sides, capsys):
    store = Store(memory, "memory://data", "/data")
    text, image = (store / "text").put(sides[0]), (store / "image").put(sides[1])
    assert cli.main(["fit", text, "--target", image, "--out", "memory://data/a.safetensors", "--quiet"]) == 0
    assert cli.main(["fit", text, "--target", image, "--out", "memory://data/a.safetensors"]) == 2
    assert "memory://data/a.safetensors: exists" in capsys.readouterr().err
    assert cli.main(["apply", "memory://data/a.safetensors", text, "--out", "memory://out", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_out"] == 300
    for path in ("memory://out", "memory://data/a.safetensors", text, "memory://out/manifest.json"):
        assert cli.main(["inspect", path]) == 0
        assert path.removesuffix("/manifest.json") in capsys.readouterr().out
    assert cli.main(["fit", text, "--target", image, "--out", "https://host/a.safetensors"]) == 2
    assert "https:// can only be read from" in capsys.readouterr().err


# What may be written to


@pytest.mark.parametrize("out", ["http://127.0.0.1:9/out", "https://host/out.npy"])
def test_http_is_refused_before_any_work(tmp_path, refused, out):
    refused(lambda: fr.align(tmp_path / "none.npy", tmp_path / "none.npy", out), f"{out}: ", "can only be read from")


def test_inside_and_around_an_input(memory, sides, refused):
    store = Store(memory, "memory://data", "/data")
    text, image = (store / "text").put(sides[0]), (store / "image").put(sides[1])
    refused(lambda: fr.align(text, image, "memory://data/text/out"), "lies inside the input memory://data/text")
    refused(lambda: fr.align(text, image, "memory:///data/text"), "lies inside the input")
    refused(lambda: fr.align(text, image, "memory://data"), "the input memory://data/text lies inside the output")
    refused(lambda: fr.align(text, image, "memory://data/text/part_1.npy/out"), "lies inside the input")
    fr.align(text, image, "memory://data/text2")


def test_what_is_somebody_elses(store, sides, refused):
    store.put(sides[0])
    for options in ({}, {"resume": True}, {"overwrite": True}):
        refused(lambda options=options: fr.align(*sides, store.url, **options), store.url, "part_0.npy")
    assert store.tree() == corpus.tree(sides[0])


def test_an_unfinished_run(tmp_path, sides, store):
    out = f"{store.url}/out"
    with pytest.raises(FastRealignError, match="stopped; 2 of 5 shards are complete"):
        fr.align(*sides, out, threads=1, progress=stop_after(120))
    names = set((store / "out").tree())
    assert f"{JOURNAL}/lease" not in names and {"part_0.npy", "part_1.npy", f"{JOURNAL}/00000001"} <= names
    with pytest.raises(fr.InputError, match=r"holds an unfinished run \(2 shards complete\)"):
        fr.align(*sides, out)
    from fastrealign.jobs.inspection import inspect

    assert "an unfinished run, 2 of 5 shards complete" in inspect(out)[1]
    with pytest.raises(fr.InputError, match="dtype was the default, now it is float16"):
        fr.align(*sides, out, resume=True, dtype="float16")
    Url(f"{out}/part_1.npy").write_bytes(b"damaged")
    report = fr.align(*sides, out, resume=True)
    fr.align(*sides, tmp_path / "whole")
    assert (store / "out").tree() == corpus.tree(tmp_path / "whole")
    assert report.shards == 5


def test_a_run_that_wrote_nothing_leaves_nothing(store, sides):
    with pytest.raises(FastRealignError, match="stopped"):
        fr.align(*sides, f"{store.url}/a/out", progress=stop_after(0))
    assert store.tree() == {}
    if store.url.startswith("folders"):
        assert not os.path.exists(f"{store.path}/a")


def test_a_journal_that_lost_a_line(memory, sides, tmp_path):
    with pytest.raises(FastRealignError):
        fr.align(*sides, "memory://out", threads=1, progress=stop_after(120))
    lines = sorted(name for name in memory.store if JOURNAL in name)
    assert len(lines) == 3  # the order, the alignment, two shards
    memory.rm_file(lines[1])
    assert fr.align(*sides, "memory://out", resume=True).shards_before == 0
    fr.align(*sides, tmp_path / "whole")
    assert Store(memory, "", "/out").tree() == corpus.tree(tmp_path / "whole")


def test_a_line_cut_off(memory, sides, tmp_path):
    with pytest.raises(FastRealignError):
        fr.align(*sides, "memory://out", threads=1, progress=stop_after(120))
    last = max(name for name in memory.store if JOURNAL in name)
    memory.pipe_file(last, memory.cat_file(last)[:-10])
    with pytest.warns(UserWarning, match="1 damaged line"):
        assert fr.align(*sides, "memory://out", resume=True).shards_before == 0
    fr.align(*sides, tmp_path / "whole")
    assert Store(memory, "", "/out").tree() == corpus.tree(tmp_path / "whole")


def test_a_run_killed_between_the_manifest_and_the_end_is_complete(memory, sides, monkeypatch):
    monkeypatch.setattr(Journal, "remove", lambda self: self.close())
    fr.align(*sides, "memory://out")
    monkeypatch.undo()
    assert any(JOURNAL in name for name in memory.store)
    assert fr.align(*sides, "memory://out", resume=True).nothing_to_do
    assert not any(JOURNAL in name for name in memory.store)


def test_lines_are_put_once(memory, monkeypatch):
    """An answer that got lost is not a line of another process; a line of another process is reported."""
    lines = RemoteLog(Url("memory://out/journal"))
    lines.append(b"one\n")
    real = type(memory).pipe_file

    def lose_the_answer(self, *args, **options):
        real(self, *args, **options)
        monkeypatch.setattr(type(memory), "pipe_file", real)
        raise ConnectionResetError

    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(type(memory), "pipe_file", lose_the_answer)
    lines.append(b"two\n")
    memory.pipe_file("/out/journal/00000003", b"theirs\n")
    with pytest.raises(FastRealignError, match="memory://out: another fastrealign is writing there, too"):
        lines.append(b"three\n")
    assert lines.text() == b"one\ntwo\ntheirs\n"
    lines.cut(4)
    assert lines.text() == b"one\n"
    lines.remove()
    assert memory.store == {}


@pytest.mark.parametrize("store", ["memory", "s3"], indirect=True)
def test_a_run_whose_lease_was_taken_stops_and_removes_nothing(store, sides, monkeypatch):
    held, acquire, out = [], Lease._acquire, store / "out"
    monkeypatch.setattr(Lease, "_acquire", lambda self: (held.append(self), acquire(self)))

    class TakeOver(StopAfter):
        def advance(self, rows, nbytes):
            if self.aligning and self.left > 0:
                self.left = 0
                store.fs.pipe_file(f"{out.path}/part_4.npy", b"theirs")
                while not held[0].lost:
                    Url(f"{out.url}/{JOURNAL}/lease").write_bytes(b'{"token": "theirs"}')
                    time.sleep(0.05)

    with pytest.raises(FastRealignError, match="another fastrealign took over there"):
        fr.align(*sides, out.url, threads=1, progress=TakeOver(1))
    there = out.tree()
    assert there[f"{JOURNAL}/lease"] == b'{"token": "theirs"}'
    assert f"{JOURNAL}/00000001" in there and "part_4.npy" in there and "manifest.json" not in there


# Uploads that fail


def test_an_upload_is_tried_again(memory, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    real, failures = type(memory).put_file, [ConnectionResetError(), TimeoutError(), OSError(errno.EBUSY, "slow down")]

    def put_file(self, *args, **options):
        if failures:
            raise failures.pop()
        return real(self, *args, **options)

    monkeypatch.setattr(type(memory), "put_file", put_file)
    with AtomicFile("memory://a/x") as file:
        file.append(b"1234")
        file.commit()
    assert memory.cat_file("/a/x") == b"1234" and not failures


@pytest.mark.parametrize(
    "error, message",
    [
        (PermissionError("Access Denied"), "PermissionError: Access Denied; check the credentials"),
        (NotImplementedError(), "this protocol cannot do that"),
        (ConnectionResetError("reset"), "ConnectionResetError: reset, at the last of 2 tries"),
    ],
)
def test_an_upload_that_fails_keeps_nothing(memory, sides, monkeypatch, error, message):
    monkeypatch.setenv("FASTREALIGN_REMOTE_TRIES", "2")
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)

    def put_file(self, *_, **__):
        raise error

    monkeypatch.setattr(type(memory), "put_file", put_file)
    with pytest.raises(
        FastRealignError, match=r"^memory://out/alignment\.safetensors: could not be written: "
    ) as caught:
        fr.align(*sides, "memory://out")
    assert message in str(caught.value)
    assert memory.store == {}


def test_a_temporary_on_the_server_goes_away(folders, sides, monkeypatch):
    def mv(self, *_, **__):
        raise PermissionError("not here")

    monkeypatch.setattr(type(folders.fs), "mv", mv)
    with pytest.raises(FastRealignError, match="could not be written: PermissionError: not here"):
        fr.align(*sides, folders.url)
    assert folders.tree() == {}


def test_temporaries_of_a_killed_run_go_away(folders, sides):
    with pytest.raises(FastRealignError):
        fr.align(*sides, folders.url, threads=1, progress=stop_after(120))
    folders.fs.pipe_file(f"{folders.path}/.part_3.npy.123.tmp", b"half")
    folders.fs.pipe_file(f"{folders.path}/.mine.123.tmp", b"mine")
    fr.align(*sides, folders.url, resume=True)
    assert [name for name in folders.tree() if name.startswith(".")] == [".mine.123.tmp"]


def test_a_spool_without_room(memory, disk_full, refused, spool):
    disk_full(100)
    file = AtomicFile("memory://a/x")
    message = refused(
        lambda: file.append(b"x" * 200), "memory://a/x: its spool file in", str(spool), error=FastRealignError
    )
    assert "set FASTREALIGN_SPOOL to a folder with room" in message
    assert memory.store == {}


def test_a_misspelt_spool_is_refused_before_anything_is_read(memory, monkeypatch, refused, tmp_path, sides):
    misspelt, file = tmp_path / "spol", tmp_path / "file"
    file.write_bytes(b"")

    class Unread(Progress):
        def start(self, phase, rows, nbytes):
            raise AssertionError(phase)

    for named in (misspelt, file, file / "below"):
        monkeypatch.setenv("FASTREALIGN_SPOOL", str(named))
        says = f"FASTREALIGN_SPOOL={named}: there is no such folder"
        refused(lambda: AtomicFile("memory://a/x"), says)
        refused(lambda: fr.align(*sides, "memory://a/out", progress=Unread()), says)
    assert not misspelt.exists() and memory.store == {}
    fr.align(*sides, tmp_path / "here")  # which needs none


# Processes


def start(*args) -> subprocess.Popen:
    command = [sys.executable, "-m", "fastrealign", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def many(tmp_path, s3):
    """A dozen shards in a bucket, and what an undisturbed run on disk makes of them."""
    text = corpus.npy_folder(tmp_path / "text", np.split(corpus.rows(12 * 40, 1), 12))
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(200, 2)])
    fr.align(text, image, tmp_path / "whole")
    (s3 / "text").put(text)
    (s3 / "image").put(image)
    return ["align", f"{s3.url}/text", "--target", f"{s3.url}/image", "--out", f"{s3.url}/out"], corpus.tree(
        tmp_path / "whole"
    )


def wait_for(s3, name: str, run: subprocess.Popen) -> None:
    while not s3.fs.exists(f"{s3.path}/out/{name}"):
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
        s3.fs.invalidate_cache()


def test_killed_in_the_middle_it_ends_in_the_same_bytes(s3, many, spool):
    command, whole = many
    run = start(*command)
    wait_for(s3, "part_1.npy", run)
    run.kill()
    run.communicate()
    assert not list(spool.iterdir())
    there = (s3 / "out").tree()
    assert "manifest.json" not in there and f"{JOURNAL}/lease" in there
    for name in there.keys() & whole.keys() - {"alignment.safetensors"}:
        assert there[name] == whole[name]
    again = start(*command, "--resume")
    message = again.communicate(timeout=900)[1]
    assert again.returncode == 0, message
    assert without_times((s3 / "out").tree()) == without_times(whole)


@pytest.mark.slow
def test_two_processes_on_one_output(s3, many):
    command, whole = many
    first = start(*command)
    wait_for(s3, f"{JOURNAL}/00000001", first)
    first.send_signal(signal.SIGSTOP)  # it lives, but does not get done meanwhile
    second = start(*command, "--resume")
    time.sleep(2.5)
    first.send_signal(signal.SIGCONT)
    message = second.communicate(timeout=900)[1]
    assert first.wait(timeout=900) == 0, first.communicate()
    assert second.returncode == 2
    assert "another fastrealign" in message
    assert without_times((s3 / "out").tree()) == without_times(whole)
