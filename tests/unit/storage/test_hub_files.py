"""push_to_hub and hf://, against a small stand-in for the hub's API (HF_ENDPOINT)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.storage import hub_files

pytest.importorskip("huggingface_hub")

TOKEN = "hf_averysecrettoken"


class Hub(BaseHTTPRequestHandler):
    """repositories: files by revision and name; commits replace "main"."""

    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, dict[str, bytes]]]
    tokens: list[str | None]
    endpoint: str

    def _answer(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value, code=200):
        self._answer(code, json.dumps(value).encode(), Content_Type="application/json")

    def do_POST(self):
        given = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.tokens.append(self.headers.get("Authorization"))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._json({"error": "no"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(given)
            name = f"{asked['organization']}/{asked['name']}"
            if asked["organization"] == "closed":
                return self._json({"error": "no"}, 403)
            if name in self.repositories:
                return self._json({"error": "exists", "url": f"{self.endpoint}/{name}"}, 409)
            self.repositories[name] = {"main": {}}
            return self._json({"url": f"{self.endpoint}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        name = re.match(r"/api/models/([^/]+/[^/]+)/", self.path)[1]
        if "/preupload/" in self.path:
            files = json.loads(given)["files"]
            return self._json({"files": [{**f, "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        for line in filter(None, map(json.loads, given.splitlines())):
            if line["key"] == "file":
                value = line["value"]
                self.repositories[name]["main"][value["path"]] = base64.b64decode(value["content"])
        return self._json({"commitUrl": f"{self.endpoint}/{name}/commit/1", "commitOid": "1" * 40, "success": True})

    def do_GET(self):
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)", self.path)
        if found is None:
            # huggingface_hub before 1.0 asks for a revision of a repository, too.
            name = "/".join(self.path.removeprefix("/api/models/").partition("?")[0].split("/")[:2])
            if name not in self.repositories:
                return self._answer(404, X_Error_Code="RepoNotFound")
            return self._json({"id": name, "siblings": [], "sha": "1" * 40})
        name, revision, file = found.groups()
        revisions = self.repositories.get(name)
        for missing, code in (
            (revisions is None, "RepoNotFound"),
            (revisions is not None and revision not in revisions, "RevisionNotFound"),
            (file not in (revisions or {}).get(revision, {}), "EntryNotFound"),
        ):
            if missing:
                return self._answer(404, X_Error_Code=code)
        body = revisions[revision][file]
        tag = hashlib.sha256(body).hexdigest()
        return self._answer(200, body, ETag=f'"{tag}"', X_Repo_Commit=tag[:40])

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def answered_by(endpoint, monkeypatch):
    """Sets what the library makes of HF_ENDPOINT when it is imported; before 1.0 one of its modules holds a copy."""
    from huggingface_hub import constants, file_download

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    for module in (constants, file_download):
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The stand-in; its `repositories` start empty, and so does the cache."""
    from huggingface_hub import constants

    handler = type("Mine", (Hub,), {"repositories": {}, "tokens": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    handler.endpoint = f"http://127.0.0.1:{server.server_port}"
    answered_by(handler.endpoint, monkeypatch)
    monkeypatch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}), raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    with suppress(OSError):
        server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def alignment():
    rng = np.random.default_rng(0)
    text, image = (rng.standard_normal((60, 8)) + shift for shift in (1.0, -1.0))
    return fr.fit(text, image).named(("clip|text", "clip/image"), (None, None))


def test_pushed_and_loaded_again(hub, alignment, tmp_path):
    assert alignment.push_to_hub("org/text2image").endswith("org/text2image")
    assert fr.load("hf://org/text2image").fingerprint == alignment.fingerprint
    files = hub.repositories["org/text2image"]
    assert set(files["main"]) == {"fastrealign.safetensors", "README.md"}
    files["v1"] = {"other.safetensors": files["main"]["fastrealign.safetensors"]}
    assert fr.load("hf://org/text2image@v1/other.safetensors").fingerprint == alignment.fingerprint
    alignment.push_to_hub("org/text2image")  # again: the repository is there
    np.save(tmp_path / "text.npy", np.eye(8))
    words = ["apply", "hf://org/text2image", str(tmp_path / "text.npy"), "--out", str(tmp_path / "out.npy"), "--quiet"]
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_CACHE": str(tmp_path / "other")}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-m", "fastrealign", *words], env=environment, check=True, capture_output=True
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert np.array_equal(np.load(tmp_path / "out.npy"), alignment(np.eye(8)))


def test_the_card_is_of_the_record(hub, alignment):
    alignment.push_to_hub("org/a", private=True)
    card = hub.repositories["org/a"]["main"]["README.md"].decode()
    assert card.startswith("---\nlibrary_name: fastrealign\n")
    for row in (
        "| method | realign |",
        "| width of rows | 8 |",
        "| encoder of the source | clip\\|text |",
        "| source rows it was fitted on | 60 |",
        f"| gap before | {alignment.gap_before:.4g} |",
        f"| gap left | {alignment.gap_left:.4g} |",
    ):
        assert row in card.splitlines()
    assert 'fr.load("hf://org/a")' in card and TOKEN not in card


def test_other_methods_and_roles(hub):
    rng = np.random.default_rng(1)
    sides = {role: rng.standard_normal((60, 8)) + at for role, at in (("query", 1.0), ("image", -1.0))}
    roles = fr.fit_roles(sides, anchor="image", method="centred")
    roles.push_to_hub("org/roles")
    loaded = fr.Roles.load("hf://org/roles")
    assert np.array_equal(loaded["query"](np.eye(8)), roles["query"](np.eye(8)))
    card = hub.repositories["org/roles"]["main"]["README.md"].decode()
    assert 'fr.Roles.load("hf://org/roles")' in card and 'roles["query"](rows)' in card and "| query | " in card
    with pytest.raises(fr.InputError, match=r"hf://org/roles: holds roles, expected one alignment"):
        fr.load("hf://org/roles")
    baseline = fr.fit(*sides.values(), method="anchor")
    baseline.push_to_hub("org/z")
    assert fr.load("hf://org/z").fingerprint == baseline.fingerprint
    pairs = fr.fit_map(rng.standard_normal((200, 8)), rng.standard_normal((200, 4)))
    pairs.push_to_hub("org/pairs")
    assert fr.load("hf://org/pairs").fingerprint == pairs.fingerprint
    card = hub.repositories["org/pairs"]["main"]["README.md"].decode()
    assert "| width of the result | 4 |" in card and "| pairs it was fitted on | " in card and "nan" not in card


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hf://org/none", "no such repository, or no access"),
        ("hf://org/a@v9", "no such revision"),
        ("hf://org/a/none.safetensors", "no such file; without a name, fastrealign.safetensors is read"),
        ("hf://org", "expected hf://ORG/NAME"),
        ("hf://org/a@", "expected hf://ORG/NAME"),
        ("hf://../a", "expected hf://ORG/NAME"),
        ("hf://org/a/README.md", "cannot be read as a saved alignment"),
    ],
)
def test_what_cannot_be_loaded(hub, url, message):
    hub.repositories["org/a"] = {"main": {"README.md": b"text"}}
    with pytest.raises(fr.InputError, match=f"{re.escape(url)}: .*{message}") as caught:
        fr.load(url)
    assert "\n" not in str(caught.value) and TOKEN not in str(caught.value)


def test_a_token_is_never_shown(hub, alignment, monkeypatch):
    for token, name, message in (
        ("hf_wrongtoken12", "org/a", r"refuses it to this token \(HTTP 401\)|no access to it with this token"),
        (TOKEN, "closed/a", r"refuses it to this token \(HTTP 403\)"),
        ("hf_with a\nline", "org/a", "the token holds a character that no token has"),
        (TOKEN, "a/b/c", "expected 'ORG/NAME'"),
    ):
        with pytest.raises(fr.FastRealignError, match=message) as caught:
            alignment.push_to_hub(name, token=token)
        text = str(caught.value)
        assert "\n" not in text and "hf_" not in text and "line" not in text, text
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(fr.InputError, match="no token to write with; run hf auth login, or set HF_TOKEN"):
        alignment.push_to_hub("org/a")
    assert hub.repositories == {}


def test_a_hub_that_does_not_answer(hub, alignment, monkeypatch, capfd):
    answered_by("http://127.0.0.1:9", monkeypatch)
    clock = SimpleNamespace(sleep=lambda seconds: None, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr("huggingface_hub.utils._http.time", clock)  # between tries
    with pytest.raises(fr.FastRealignError, match=r"^hf://org/a: the hub cannot be reached"):
        fr.load("hf://org/a")
    with pytest.raises(
        fr.FastRealignError, match=r"^hf://org/a: the request to the hub failed \(Connect(ion)?Error"
    ) as caught:
        alignment.push_to_hub("org/a")
    assert TOKEN not in str(caught.value) and capfd.readouterr() == ("", "")


def test_without_the_library(alignment, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(fr.InputError, match=r"push_to_hub needs huggingface_hub.*pip install 'fastrealign\[hub\]'"):
        alignment.push_to_hub("org/a")
    assert not hub_files.is_on_hub("hf://datasets/org/a/x.npy")
