"""What is a store, and which extra a missing library comes with."""

from __future__ import annotations

import subprocess
import sys

import postgres
import pytest

from fastrealign.cli.main import main
from fastrealign.core.errors import InputError
from fastrealign.retrieval import index


@pytest.mark.parametrize(
    "name, library, said",
    [
        ("a.faiss", "faiss", r"pip install 'fastrealign\[faiss\]'"),
        ("db/docs.lance", "lance", r"needs pylance: pip install 'fastrealign\[lancedb\]'"),
        ("qdrant", "qdrant_client", r"needs qdrant-client: pip install 'fastrealign\[qdrant\]'"),
        ("postgresql://me:tellnobody@localhost/db", "psycopg", r"pip install 'fastrealign\[pgvector\]'"),
    ],
)
def test_a_library_that_is_missing(name, library, said, roles, tmp_path, monkeypatch):
    (tmp_path / "a.faiss").write_bytes(b"IxFI")
    (tmp_path / "db" / "docs.lance").mkdir(parents=True)
    (tmp_path / "qdrant").mkdir()
    (tmp_path / "qdrant" / "meta.json").write_text("{}")
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said) as error:
        index(name, roles, role="image")
    assert "tellnobody" not in str(error.value)


def test_the_command_in_one_line(roles, tmp_path, capsys):
    roles.save(tmp_path / "roles.safetensors")
    words = ["--roles", str(tmp_path / "roles.safetensors"), "--role", "image"]
    assert main(["index", str(tmp_path / "none"), *words]) == 2
    assert "no such file or folder; a store is a FAISS index file" in capsys.readouterr().err
    pytest.importorskip("psycopg")
    assert main(["index", "postgresql://me:tellnobody@127.0.0.1:1/db", *words]) == 1
    (printed,) = capsys.readouterr().err.splitlines()
    assert "is PostgreSQL running there?" in printed
    assert "tellnobody" not in printed


def test_an_interrupt_that_a_library_wraps(tmp_path, roles, documents, monkeypatch, capsys):
    """It stays an interrupt, and the message says what is written."""
    pa, lance = pytest.importorskip("pyarrow"), pytest.importorskip("lance")
    from fastrealign.retrieval.role_maps import Mapper

    rows, _ = documents(20)
    vectors = pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
    lance.write_dataset(pa.table({"vector": vectors}), str(tmp_path / "docs.lance"), max_rows_per_file=10)
    real, calls = Mapper.__call__, []

    def call(self, batch):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("External error: KeyboardInterrupt:")
        return real(self, batch)

    monkeypatch.setattr(Mapper, "__call__", call)
    roles.save(tmp_path / "roles.safetensors")
    words = ["index", str(tmp_path / "docs.lance"), "--roles", str(tmp_path / "roles.safetensors"), "--role", "image"]
    assert main(words) == 130
    assert "interrupted; 10 of 20 rows of" in (said := capsys.readouterr().err)
    assert "docs.lance have an aligned vector; run the same command again to resume" in said
    assert main(words) == 0


def test_a_postgresql_that_never_answers(tmp_path, monkeypatch):
    """The server of these tests: an error says so, and its process is ended."""
    ended = []

    class Process:
        def __init__(self, *_, **__): ...

        def send_signal(self, _):
            ended.append("signal")

        def wait(self, seconds=None):
            ended.append(f"wait {seconds}")
            if seconds:
                raise subprocess.TimeoutExpired("postgres", seconds)

        def kill(self):
            ended.append("kill")

    monkeypatch.setattr(postgres, "programs", lambda: tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(postgres.time, "sleep", lambda _: None)
    with pytest.raises(RuntimeError, match="PostgreSQL did not start within a minute"), postgres.server():
        pass
    assert ended == ["signal", "wait 60", "kill", "wait None"]
