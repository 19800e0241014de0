"""Text of others in what is printed and written: no control characters, no secrets of URLs."""

from __future__ import annotations

import io
import json
import os
import pickle
import unicodedata

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import FastRealignError, InputError, warn
from fastrealign.core.text import note_secrets, printable, redacted

USER, PASSWORD, SIGNATURE = "us3rname", "passw0rd%21x", "s1gnatur3/+AbC=="
SECRETS = (USER, PASSWORD, "passw0rd!x", "passw0rd", SIGNATURE, "s1gnatur3")
FORGED = "\x1b]0;title\x07\x1b[2K\rfastrealign: all fine\n\u202egnp.a\u2028\x9b31m\u200b"


def says_plainly(text, lines=None):
    """Nothing in it moves the cursor, turns the direction of text or cannot be seen; \\n alone parts lines."""
    for c in text:
        assert c == "\n" or (unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp", "Cf")), ascii(text)
    if lines is not None:
        assert text.count("\n") == lines, ascii(text)
    assert "\nfastrealign: all fine" not in text
    return True


def test_what_is_escaped():
    assert printable("a\x1b[31m\n\x7f\x9b\u202e\u2028\ufeff\udcff\ud800") == (
        r"a\x1b[31m\n\x7f\x9b\u202e\u2028\ufeff\xff\ud800"
    )
    plain = "Straße 漢字 🙂 👩\u200d🔬 α → ±"
    assert printable(plain) == plain and printable("a\nb", keep="\n") == "a\nb"


@pytest.mark.parametrize(
    "url, says",
    [
        ("https://u:p@h.org/a.npy: no such file", "https://***@h.org/a.npy: no such file"),
        ("'https://u@h.org:8080/a b.npy?sig=x&se=1'; check", "'https://***@h.org:8080/a b.npy?sig=x&se=1'; check"),
        ("https://h.org/a.npy?sig=x&se=1: is empty", "https://h.org/a.npy?***: is empty"),
        ("(see https://h.org/a.npy?x).", "(see https://h.org/a.npy?***)."),
        ("https://h.org/a.npy#token=1", "https://h.org/a.npy#***"),
        ("zip://a.npy::https://u:p@h.org/x.zip?sig=1", "zip://a.npy::https://***@h.org/x.zip?***"),
        ("https:/u:p@h.org/a.npy", "https:/***@h.org/a.npy"),
        ("s3://key:secret@bucket/a.npy?versionId=3", "s3://***@bucket/a.npy?***"),
        ("s3://bucket/part_?.npy", "s3://bucket/part_?.npy"),
        ("s3://bucket/me@home/a.npy", "s3://bucket/me@home/a.npy"),
        ("sftp://u@h/a.npy", "sftp://***@h/a.npy"),
        ("s3://KEY:abc/def+g@bucket/a.npy", "s3://***@bucket/a.npy"),
        ("https://u:p#s?w@h/a.npy: no", "https://***@h/a.npy: no"),
        ("https://h.org:8080/me@home/a.npy", "https://h.org:8080/me@home/a.npy"),
        ("https://h.org: see a@b.org", "https://h.org: see a@b.org"),
        ("a@b.org, C:/x@y", "a@b.org, C:/x@y"),
    ],
)
def test_what_is_hidden_of_a_url(url, says):
    assert redacted(url) == says


def test_errors_and_warnings_are_one_plain_line(recwarn):
    for kind in (FastRealignError, InputError):
        error = kind(f"{FORGED}: https://u:p@h.org/?sig=1: no")
        assert says_plainly(str(error), 0) and "https://***@h.org/?***: no" in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    warn(FORGED)
    assert says_plainly(str(recwarn.pop(fr.FitWarning).message), 0)


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    from faulty_server import FaultyServer

    monkeypatch.setenv("FASTREALIGN_REMOTE_TRIES", "1")
    monkeypatch.setenv("FASTREALIGN_DEBUG", "1")
    server = FaultyServer()
    yield server
    server.close()


def as_npy(rows):
    data = io.BytesIO()
    np.save(data, rows)
    return data.getvalue()


def no_secret_in(text):
    assert not [secret for secret in SECRETS if secret in text], text


def test_no_secret_of_a_url_is_printed_or_written(server, tmp_path, monkeypatch, capsys):
    """Every command, successful and not, with tracebacks: what it prints, and every byte that it leaves."""
    monkeypatch.chdir(tmp_path)
    y, x = corpus.rows(200, 1), corpus.rows(200, 2)
    y[3, 1] = np.nan
    np.save("x.npy", x)
    fr.fit(y, x, bad_rows="skip").save("saved.safetensors")
    server.files = {
        "t/a.npy": as_npy(y), "t/b.npy": as_npy(y[:50]), "i/a.npy": as_npy(x), "bad.npy": b"junk",
        "saved.safetensors": (tmp_path / "saved.safetensors").read_bytes(),
    }  # fmt: skip
    base = server.url.replace("http://", f"http://{USER}:{PASSWORD}@")

    def url(path, signature=SIGNATURE):
        return f"{base}/{path}?X-Amz-Signature={signature}&Expires=12"

    def run(code, *args):
        assert main([str(arg) for arg in args]) == code
        said = capsys.readouterr()
        no_secret_in(said.out + said.err)
        return said.out

    text, image, skip = url("t/a.npy"), url("i/a.npy"), ("--bad-rows", "skip")
    run(0, "align", text, "--target", image, "--out", "one", *skip)
    # A signature that was renewed makes no other run.
    again = run(0, "align", url("t/a.npy", "an0therOne"), "--target", image, "--out", "one", *skip, "--resume")
    assert "nothing to do" in again
    expected = json.loads(run(0, "align", text, url("t/b.npy"), "--target", image, "--out", "two", *skip, "--json"))
    assert expected["source"].endswith("/t/a.npy?*** and 1 more") and expected["rows_out"] == 248
    run(1, "align", text, url("bad.npy"), "--target", image, "--out", "three", *skip, "--bad-shards", "skip")
    run(2, "align", text, "--target", image, "--out", "four")
    run(2, "align", url("none.npy"), "--target", image, "--out", "four")
    run(2, "align", "x.npy", "--target", image, "--out", url("out"))
    run(0, "fit", text, "--target", image, "--out", "fitted.safetensors", *skip)
    run(0, "apply", url("saved.safetensors"), text, "--out", "five", *skip)
    run(2, "apply", text, url("saved.safetensors"), "--out", "six")
    run(0, "check", url("saved.safetensors"), text, *skip)
    run(0, "convert", text, "--out", "converted.npy")
    for path in (text, url("saved.safetensors"), url("t/")):
        run(0, "inspect", path)
        run(0, "inspect", path, "--json")
    run(2, "train", "stage1", url("config.yaml"))
    run(2, "inspect", f"s3://{USER}:{PASSWORD}@bucket/a.npy?X-Amz-Signature={SIGNATURE}")
    run(2, "inspect", f"simplecache::https://{USER}:{PASSWORD}@127.0.0.1:1/a.npy?sig={SIGNATURE}")
    for status in (401, 403, 404, 500):
        server.faults = {"t/a.npy": [status] * 9}
        run(1 if status == 500 else 2, "inspect", text)
    for path in tmp_path.rglob("*"):
        no_secret_in(str(path.relative_to(tmp_path)))
        if path.is_file():
            no_secret_in(path.read_bytes().decode("latin1"))


def test_no_secret_in_the_causes_of_an_error(server, tmp_path):
    """A program that logs the traceback: the libraries below quote whole URLs."""
    import traceback

    server.faults = {"a.npy": [403]}
    server.files = {"a.npy": as_npy(corpus.rows(5, 1))}
    url = f"{server.url}/a.npy?sig={SIGNATURE}".replace("http://", f"http://{USER}:{PASSWORD}@")
    with pytest.raises(InputError) as caught:
        fr.fit(url, corpus.rows(5, 2))
    no_secret_in("".join(traceback.format_exception(caught.value)))
    assert caught.value.__context__ is None  # which loggers of other kinds follow


def test_a_password_with_a_space_or_a_quote():
    for password in ("pa ss w0rd", "pa'ss\"w0rd", "pa/ss w0rd"):
        url = f"https://user:{password}@h.org/a.npy?sig=x y'z12"
        note_secrets(url)
        said = redacted(f"{url}: no such file; {password}")
        assert "w0rd" not in said and "z12" not in said and said.endswith("h.org/a.npy?***: no such file; ***"), said


def test_names_of_others_are_printed_plainly(tmp_path, monkeypatch, capsys):
    """Files, columns, options and encoders with names that forge lines and turn text."""
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    y, x = corpus.rows(60, 1), corpus.rows(60, 2)
    name = FORGED.replace("/", "")
    os.mkdir(name)
    np.save(f"{name}/{name}.npy", y)
    np.save("x.npy", x)
    corpus.parquet_file(tmp_path / "columns.parquet", y, name)
    corpus.parquet_file(tmp_path / "several.parquet", y, f"emb {name}", **{f"embed {name}": y.tolist()})
    fr.fit(y, x, encoder_source=name, encoder_target=name).save("saved.safetensors")
    (tmp_path / "global.pkl").write_bytes(b"cevil\x1b[31m\nname\x1b]0;x\x07\n.")
    with open(os.fsencode(str(tmp_path)) + b"/\xff\x1b.npy", "wb") as file:
        file.write(as_npy(y))
    raw = os.fsdecode(b"\xff\x1b.npy")

    def run(code, *args):
        assert main(list(args)) == code
        said = capsys.readouterr()
        assert says_plainly(said.err, 0 if code == 0 else 1)
        assert says_plainly(said.out)
        return said

    for source in (name, f"{name}/{name}.npy", raw, "columns.parquet"):
        run(0, "align", source, "--target", "x.npy", "--out", f"out {name} {len(os.listdir())}")
        run(0, "inspect", source)
        run(0, "convert", source, "--to", "npy", "--out", f"converted {name} {len(os.listdir())}")
    run(0, "inspect", "saved.safetensors")
    run(0, "fit", name, "--target", "x.npy", "--out", f"{name}.safetensors")
    run(2, "inspect", "several.parquet")
    run(2, "inspect", "global.pkl")
    run(2, "inspect", f"not {name}")
    run(2, "align", "x.npy", "--target", "x.npy", "--out", "o", f"--{name}")
    run(2, name)
    run(2, "align", name, "--target", "x.npy", "--method", name, "--out", "o")
    run(2, "align", "columns.parquet", "--target", "x.npy", "--column", f"no {name}", "--out", "o")
    run(2, "train", "stage1", f"{name}.yaml")


def test_json_holds_no_control_character(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "a\x7f\x9b\u202e.npy"
    np.save(name, corpus.rows(5, 1))
    assert main(["inspect", name, "--json"]) == 0
    out = capsys.readouterr().out
    assert says_plainly(out, 1) and json.loads(out)["path"] == name
