"""URLs as input: what is read is what lies there, whatever the network does; and what cannot be read is reported in a line."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import corpus
import numpy as np
import pytest
from faulty_server import DROP, SHORT, STALL, FaultyServer

import fastrealign as fr
from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats import open_source
from fastrealign.storage import remote_file, retry
from fastrealign.storage.files import Descriptor, file_size, open_binary, read_into
from fastrealign.storage.fingerprint import FileFingerprint
from fastrealign.storage.paths import place
from fastrealign.storage.remote_session import RemoteSession
from fastrealign.storage.url import Url

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


def npy(rows: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


def rows_at(spec, side="source", chunk=None) -> np.ndarray:
    source = open_source(spec, side=side)
    return np.concatenate([part.copy() for part in source])


def names_at(spec, side="source") -> list[str]:
    return [shard.name for shard in open_source(spec, side=side).shards]


# What is a URL, and what is not


@pytest.mark.parametrize(
    "url", ["s3://b/x", "memory://x", "http://h/a.npy", "simplecache::s3://b/x", "abfs://c@a.net/x"]
)
def test_urls(url):
    assert isinstance(place(url), Url) and str(place(url)) == url


@pytest.mark.parametrize(
    "path", ["C://x", "c:\\x", "a/b.npy", "/a:b/c", "://x", Path("s3://b/x"), "a b://c", "file:///a"]
)
def test_paths(path):
    assert isinstance(place(path), Path)


def test_a_file_url_is_a_local_path(tmp_path):
    np.save(tmp_path / "a.npy", np.eye(4, dtype=np.float32))
    assert place(f"file://{tmp_path}/a.npy") == tmp_path / "a.npy"
    assert np.array_equal(rows_at(f"file://{tmp_path}/a.npy"), np.eye(4))


def test_url_ways():
    url = Url("s3://bucket/a/part_1.npy")
    assert (url.name, url.stem, url.suffix, str(url.parent)) == ("part_1.npy", "part_1", ".npy", "s3://bucket/a")
    assert url.parent / "part_1.npy" == url and str(url.parent / "../b/./c.npy") == "s3://bucket/b/c.npy"
    assert str(Url("s3://bucket/a//b") / "c") == "s3://bucket/a//b/c"  # an empty name is a name there
    assert url.relative_to(Url("s3://bucket")).as_posix() == "a/part_1.npy"
    assert Url("memory:///a/b") == Url("memory://a/b/") and Url("memory://a").parent == Url("memory://")
    with pytest.raises(ValueError, match="does not lie within"):
        url.relative_to(Url("s3://buck"))
    signed = Url("https://host/a/x.npy?key=1/2.parquet")
    assert (signed.name, signed.suffix, str(signed.parent)) == ("x.npy", ".npy", "https://host/a")


def test_local_files_need_no_fsspec(tmp_path):
    text, image = corpus.two_sides(tmp_path)
    code = f"""
import sys
sys.modules["fsspec"] = None
import fastrealign as fr
from fastrealign.jobs.inspection import inspect
fr.align({str(text)!r}, {str(image)!r}, {str(tmp_path / "out")!r})
fr.load({str(tmp_path / "out/alignment.safetensors")!r})
inspect({str(tmp_path / "out")!r})
try:
    fr.fit("s3://b/x.npy", {str(image)!r})
except fr.InputError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=900)
    assert ran.stdout == "s3://b/x.npy: a URL needs fsspec: pip install 'fastrealign[remote]'\n"


def test_a_missing_package_is_named(monkeypatch, refused):
    from fsspec.registry import known_implementations

    monkeypatch.setitem(known_implementations, "nowhere", {"class": "no_such_package.core.FS", "err": "Install it"})
    message = "nowhere://a/x.npy: nowhere:// needs a package that is not installed: pip install no_such_package"
    assert refused(lambda: fr.fit("nowhere://a/x.npy", np.eye(3))) == message
    refused(lambda: fr.fit("nothing://a/x.npy", np.eye(3)), "nothing:// is not a protocol that fsspec knows")
    refused(lambda: fr.align(np.eye(3), np.eye(3), "nowhere://out"), "pip install no_such_package")


# Files, folders and patterns


@pytest.fixture
def layout(tmp_path):
    """A clip-retrieval folder of 12 shards on disk."""
    pytest.importorskip("pyarrow")
    root = tmp_path / "root"
    for i in range(12):
        corpus.npy_folder(root / "text_emb", [])
        np.save(root / "text_emb" / f"text_emb_{i}.npy", corpus.rows(5 + i, i))
        corpus.parquet_file(
            root / "metadata" / f"metadata_{i}.parquet", corpus.rows(5 + i, 1, 2), caption=[str(i)] * (5 + i)
        )
    corpus.npy_folder(root / "img_emb", [corpus.rows(60, 99)], "img_emb")
    return root


@pytest.fixture(params=["memory", "http"])
def served(request, layout):
    """The same folder on disk and on a server: (path, URL)."""
    if request.param == "memory":
        memory = request.getfixturevalue("memory")
        for name, data in corpus.tree(layout).items():
            memory.pipe_file(f"/data/root/{name}", data)
        return layout, "memory://data/root"
    server = request.getfixturevalue("server")
    server.files.update({f"data/root/{name}": data for name, data in corpus.tree(layout).items()})
    return layout, f"{server.url}/data/root"


def test_a_clip_retrieval_folder(served):
    layout, url = served
    for side in ("source", "target"):
        here, there = open_source(layout, side=side), open_source(url, side=side)
        assert [(s.name, s.rows, s.metadata_name) for s in there.shards] == [
            (s.name, s.rows, s.metadata_name) for s in here.shards
        ]
        assert np.array_equal(np.concatenate([part.copy() for part in there]), rows_at(layout, side))
    assert there.shards[0].metadata is None
    assert str(open_source(url, side="source").shards[2].metadata) == f"{url}/metadata/metadata_2.parquet"


def test_files_folders_patterns_and_lists(served):
    _, url = served
    numbered = [f"text_emb_{i}.npy" for i in range(12)]
    assert names_at(f"{url}/text_emb/") == numbered
    assert names_at(f"{url}/text_emb/text_emb_3.npy") == ["text_emb_3.npy"]
    assert names_at(f"{url}/text_emb/*_1*.npy") == ["text_emb_1.npy", "text_emb_10.npy", "text_emb_11.npy"]
    assert names_at(f"{url}/*_emb/*_0.npy", "target") == ["img_emb/img_emb_0.npy", "text_emb/text_emb_0.npy"]
    listed = names_at([f"{url}/text_emb/text_emb_2.npy", f"{url}/img_emb"], "target")
    assert listed == ["text_emb/text_emb_2.npy", "img_emb/img_emb_0.npy"]


def test_what_is_not_there_or_does_not_fit(served, refused, tmp_path):
    _, url = served
    refused(lambda: names_at(f"{url}/none.npy"), f"{url}/none.npy: no such file")
    refused(lambda: names_at(f"{url}/none"), f"{url}/none: no such file or folder")
    refused(lambda: names_at(f"{url}/text_emb/*.pkl"), "the pattern matches no shard")
    refused(lambda: names_at([f"{url}/text_emb", f"{url}/text_emb/text_emb_0.npy"]), "is named twice")
    np.save(tmp_path / "a.npy", np.eye(4))
    refused(lambda: names_at([f"{url}/text_emb", str(tmp_path / "a.npy")]), "is on another server or disk")
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/elsewhere/a.npy", npy(np.eye(4)))
    if not url.startswith("memory"):
        refused(lambda: names_at([f"{url}/text_emb", "memory://elsewhere/a.npy"]), "is on another server or disk")


def test_a_signed_url_names_its_file(server):
    server.files["a.npy"] = npy(np.eye(5, dtype=np.float32))
    assert names_at(f"{server.url}/a.npy?signature=x/y.pkl&expires=1") == ["a.npy"]
    assert np.array_equal(rows_at(f"{server.url}/a.npy?signature=x/y.pkl"), np.eye(5))


@pytest.mark.parametrize("fortran", [False, True])
def test_rows_of_every_type_and_order(memory, dtype, rows_in, fortran):
    rows = np.asarray(corpus.rows(37, 3).astype(dtype), order="F" if fortran else "C")
    memory.pipe_file("/x.npy", npy(rows))
    source = open_source("memory://x.npy", side="target")
    assert np.array_equal(rows_in(source.shards[0]).view(np.uint8), np.ascontiguousarray(rows).view(np.uint8))


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("empty.npy", b"", "is empty (0 bytes)"),
        ("cut.npy", npy(np.eye(50))[:-9], "truncated"),
        ("damaged.npy", b"not a header", "is not a .npy file"),
        ("damaged.pkl", b"\x80\x04\x95", "is not a readable pickle"),
        ("damaged.parquet", b"PAR1" * 5, "is not a readable parquet file"),
        ("x.csv", b"1,2", "suffix '.csv' is not of a known format"),
    ],
)
def test_damaged_files(memory, refused, name, data, message):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    memory.pipe_file(f"/{name}", data)
    refused(lambda: names_at(f"memory://{name}"), f"memory://{name}: ", message)


def test_a_pickle_from_a_server_runs_no_code_either(server, refused):
    server.files["a.pkl"] = pickle.dumps([{"id": subprocess.Popen}])
    refused(lambda: names_at(f"{server.url}/a.pkl"), "refused to load", "subprocess.Popen")


def test_streams_read_and_seek_as_files_do(server):
    data = np.random.default_rng(0).bytes(200_000)
    server.files["f"] = data
    here = io.BytesIO(data)
    with open_binary(f"{server.url}/f") as there:
        for seek, read in [((0,), 10), ((-7, 2), 20), ((1000,), 70_000), ((5, 1), 1), ((199_999,), 5), ((0,), -1)]:
            assert here.seek(*seek) == there.seek(*seek)
            assert here.read(read) == there.read(read)
            assert here.tell() == there.tell()


def test_several_threads_read_one_file(server, monkeypatch):
    monkeypatch.setattr(remote_file, "REQUEST_BYTES", 1 << 14)
    data = np.random.default_rng(0).integers(0, 256, 400_000, dtype=np.uint8)
    server.files["f"] = data.tobytes()
    descriptor = Descriptor(f"{server.url}/f")
    out = np.zeros_like(data)

    def read(part: int) -> None:
        for lo in range(part * 1000, len(data), 8000):
            read_into(descriptor, out[lo : lo + 1000], lo, "f")

    threads = [threading.Thread(target=read, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(out, data)
    assert descriptor.pread(10, 399_995) == data[-5:].tobytes() and descriptor.pread(5, 500_000) == b""


# A network that fails


@pytest.fixture
def rows(server):
    rows = corpus.rows(400, 5)
    server.files["a.npy"] = npy(rows)
    return rows


@pytest.mark.parametrize(
    "faults",
    [[503], [429, 500, 502], [DROP, DROP], [SHORT, SHORT], [STALL], [408, DROP, SHORT, 504]],
    ids=lambda faults: "-".join(map(str, faults)),
)
@pytest.mark.parametrize("when", [0, 2])
def test_what_passes_is_asked_for_again(server, rows, monkeypatch, faults, when):
    monkeypatch.setenv("FASTREALIGN_REMOTE_TIMEOUT", "0.5")
    server.faults["a.npy"] = [None] * when + list(faults)
    assert np.array_equal(rows_at(f"{server.url}/a.npy"), rows)
    assert not server.faults["a.npy"]


@pytest.mark.parametrize(
    "fault, reason",
    [
        (503, "HTTP 503 (Service Unavailable)"),
        (429, "HTTP 429 (Too Many Requests)"),
        (STALL, "no answer within 0.2 s"),
        (DROP, "ClientPayloadError"),
        (SHORT, "bytes of"),
    ],
)
def test_what_does_not_pass_after_all_is_reported(server, rows, monkeypatch, refused, fault, reason):
    monkeypatch.setenv("FASTREALIGN_REMOTE_TIMEOUT", "0.2")
    monkeypatch.setenv("FASTREALIGN_REMOTE_TRIES", "3")
    server.faults["a.npy"] = [None] * 2 + [fault] * 9  # the size and the header are read, the rows are not
    message = refused(
        lambda: rows_at(f"{server.url}/a.npy"),
        f"{server.url}/a.npy: could not be read: ",
        reason,
        error=FastRealignError,
    )
    assert "at the last of 3 tries" in message and "run again when the server and the network respond" in message
    # After a short answer it looks whether the file has changed.
    assert server.asked.count("a.npy") == 2 + 3 * (2 if fault == SHORT else 1)


@pytest.mark.parametrize(
    "status, message",
    [
        (403, "cannot be read: HTTP 403 (Forbidden); check the credentials"),
        (401, "cannot be read: HTTP 401 (Unauthorized); check the credentials"),
        (404, "no such file"),
        (410, "no such file"),
        (400, "cannot be read: HTTP 400 (Bad Request); check the URL"),
    ],
)
def test_what_will_not_pass_is_not_asked_for_again(server, rows, refused, status, message):
    server.faults["a.npy"] = [status] * 9
    refused(lambda: rows_at(f"{server.url}/a.npy"), f"{server.url}/a.npy: {message}")
    assert server.asked.count("a.npy") == 1


@pytest.mark.parametrize("status", [403, 400, 404])
def test_a_store_that_lists_nothing_gives_its_files(server, rows, status):
    """What lies beside a file is looked for, and not needed."""
    from fastrealign.jobs.inspection import inspect

    server.files = {"data/a.npy": server.files["a.npy"]}
    for name in ("data/", "data/metadata/", "data/a.npy/manifest.json", "data/a.npy/.fastrealign-run.jsonl"):
        server.faults[name] = [403 if name.endswith(("json", "jsonl")) else status] * 9
    assert np.array_equal(rows_at(f"{server.url}/data/a.npy"), rows)
    assert inspect(f"{server.url}/data/a.npy")[0]["rows"] == len(rows)


def test_a_server_that_is_not_there(monkeypatch, refused):
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("FASTREALIGN_REMOTE_TRIES", "2")
    gone = FaultyServer()
    gone.close()
    refused(
        lambda: rows_at(f"{gone.url}/a.npy"), "ClientConnectorError", "at the last of 2 tries", error=FastRealignError
    )


@pytest.mark.parametrize("name", ["FASTREALIGN_REMOTE_TRIES", "FASTREALIGN_REMOTE_TIMEOUT"])
def test_settings_are_numbers(server, rows, monkeypatch, refused, name):
    for wrong in ("soon", "0", "nan", "inf", "1e12"):  # clocks overflow
        monkeypatch.setenv(name, wrong)
        refused(lambda: rows_at(f"{server.url}/a.npy"), f"{name}={wrong}: expected a number above 0")


def test_a_server_that_sends_whole_files_only(server, refused):
    server.ranges = False
    server.files["a.npy"] = npy(corpus.rows(400, 1))
    refused(lambda: rows_at(f"{server.url}/a.npy"), "the server sends whole files only", "download it first")


@pytest.mark.parametrize("tags", [True, False])
def test_a_file_that_changes_between_header_and_rows_is_named(server, rows, refused, tags):
    server.tags = tags
    source = open_source(f"{server.url}/a.npy", side="target")
    server.files["a.npy"] = npy(rows[:-1] if not tags else rows + 1)
    message = f"{server.url}/a.npy: changed during the run: do not write to the input, run again"
    assert refused(lambda: list(source)) == message
    open_source(f"{server.url}/a.npy", side="target")  # it may be another one in another run


def test_the_same_where_only_looking_again_tells(memory, rows, refused, monkeypatch):
    memory.pipe_file("/a.npy", npy(rows))
    source = open_source("memory://a.npy", side="target")
    memory.pipe_file("/a.npy", npy(rows + 1))
    monkeypatch.setattr(remote_file, "CHECK_SECONDS", 0.0)
    refused(lambda: list(source), "memory://a.npy: changed during the run")


def test_a_file_that_changes_while_it_is_read_is_named(memory, rows, refused, monkeypatch):
    memory.pipe_file("/a.npy", npy(rows))
    source = open_source("memory://a.npy", side="target")
    chunks = source.shards[0].chunks(100)
    next(chunks)
    memory.pipe_file("/a.npy", npy(rows[:200]))
    refused(lambda: list(chunks), "memory://a.npy: changed during the run")


def test_a_file_system_that_waits_by_itself_is_given_up(monkeypatch, refused, memory, rows):
    memory.pipe_file("/a.npy", npy(rows))
    forever = threading.Event()
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: forever.wait())
    monkeypatch.setattr(retry, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("FASTREALIGN_REMOTE_TIMEOUT", "0.1")
    monkeypatch.setenv("FASTREALIGN_REMOTE_TRIES", "2")
    refused(lambda: rows_at("memory://a.npy"), "no answer within 0.1 s, at the last of 2", error=FastRealignError)
    forever.set()


def test_waits_grow_and_are_not_all_alike(monkeypatch, refused):
    waits = []
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    monkeypatch.setattr(retry, "SESSION", RemoteSession())

    def call(seconds):
        raise ConnectionResetError("reset")

    refused(lambda: retry.with_retries("s3://b/x", "read", call), "ConnectionResetError: reset", error=FastRealignError)
    assert len(waits) == 5
    for wait, longest in zip(waits, (0.5, 1, 2, 4, 8), strict=True):
        assert longest / 2 <= wait <= longest
    assert len({wait / longest for wait, longest in zip(waits, (0.5, 1, 2, 4, 8), strict=True)}) > 1


# Marks, fits and alignments


def test_a_mark_of_a_url(server):
    data = np.random.default_rng(0).bytes(100_000)
    server.files["f"] = data
    url = f"{server.url}/f"
    mark, with_tag = FileFingerprint.of(url), FileFingerprint.of(url, modified=True)
    assert mark.bytes == 100_000 and mark.modified is None and isinstance(with_tag.modified, str)
    assert with_tag == FileFingerprint.of(url, modified=True)
    server.files["f"] = data[:-1] + b"\x00"
    with pytest.raises(InputError, match="changed during the run"):
        FileFingerprint.of(url, modified=True)
    assert FileFingerprint.of(url).bytes == 100_000 and FileFingerprint.of(url) != mark


def test_thousands_of_headers_cost_a_request_each(server):
    for i in range(30):
        server.files[f"many/part_{i}.npy"] = npy(corpus.rows(3, i))
    assert names_at(f"{server.url}/many", side="target") == [f"part_{i}.npy" for i in range(30)]
    asked = [path for path in server.asked if path.endswith(".npy")]
    assert len(asked) == 60  # size and header: a page of links tells no sizes


def test_fit_check_update_and_alignments_by_url(memory, tmp_path):
    text, image = corpus.two_sides(tmp_path)
    for side in (text, image):
        for name, data in corpus.tree(side).items():
            memory.pipe_file(f"/{side.name}/{name}", data)
    here, there = fr.fit(text, image), fr.fit("memory://text", "memory://image")
    assert here.fingerprint == there.fingerprint and here.gap_left == there.gap_left
    there.save("memory://a.safetensors")
    here.save(tmp_path / "a.safetensors")
    assert memory.cat_file("/a.safetensors") == (tmp_path / "a.safetensors").read_bytes()
    assert fr.load("memory://a.safetensors").fingerprint == here.fingerprint
    moments = fr.Moments(3).update(np.eye(3))
    moments.save("memory://m.safetensors")
    assert fr.Moments.load("memory://m.safetensors") == moments
    assert fr.check("memory://a.safetensors", "memory://text").gap_left == fr.check(here, text).gap_left
    assert fr.update("memory://a.safetensors", "memory://text").fingerprint == fr.update(here, text).fingerprint
    with pytest.raises(InputError, match=r"memory://none\.safetensors: no such file"):
        fr.load("memory://none.safetensors")
    memory.pipe_file("/other.safetensors", b"damaged")
    with pytest.raises(InputError, match=r"memory://other\.safetensors: cannot be read as a saved alignment"):
        fr.load("memory://other.safetensors")


def test_file_size_tells_folders(memory, refused):
    memory.pipe_file("/folder/x", b"1")
    refused(lambda: file_size("memory://folder"), "is a folder, expected a file")
    assert file_size("memory://folder/x") == 1
