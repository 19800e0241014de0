"""JSON from a disk: whatever lies there, one line that names the file; and records that carry a checksum of themselves."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.storage.records import checked, is_sealed, parsed, record_of, sealed, unsealed

DEEP = {
    "lists": "[" * 100_000 + "]" * 100_000,
    "objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "lists, never closed": "[" * 100_000,
    "within the text, 900 levels": '{"fastrealign": "0.1.0", "kind": ' + "[" * 900 + "]" * 900 + "}",
    "within the text, 120 levels": '{"conversations": ' + "[" * 120 + "]" * 120 + "}",
}
ODD = {
    "a number of a million digits": "1" * 1_000_000,
    "a number of a million digits within": '{"format": ' + "1" * 1_000_000 + "}",
    "a number": "3",
    "null": "null",
    "text": '"x"',
    "a list": "[]",
    "an empty object": "{}",
    "NaN": '{"format": NaN, "fastrealign": Infinity}',
    "a name twice": '{"fastrealign": 1, "fastrealign": 2}',
    "half a surrogate pair": '{"fastrealign": "\\ud800", "format": 2}',
    "other types": '{"fastrealign": [], "format": "2", "kind": true, "shards": -1, "asked": {}}',
    "other types within": '{"fastrealign": "1", "format": 1, "kind": "align", "shards": [[]], "asked": {"source": []}}',
    "no text": b"\xff\xfe\x00",
    "zeros": bytes(5000),
    "nothing": "",
}
TEXTS = {**DEEP, **ODD}


@pytest.mark.parametrize("name", DEEP)
def test_what_is_nested_too_deeply_is_a_value_error(name):
    for parse in (parsed, record_of):
        with pytest.raises(ValueError, match=r"nested more than 100 levels|Expecting"):
            parse(DEEP[name])
    assert parsed("[" * 99 + "]" * 99) == json.loads("[" * 99 + "]" * 99)
    assert parsed(b'{"a": [NaN, 1]}')["a"][1] == 1


def test_a_seal_shows_any_bit_that_was_flipped(rng):
    text = json.dumps({"a": 1, "b": {"c": [2.5, None, "é"]}}).encode()
    whole = sealed(text)
    assert is_sealed(whole) and unsealed(whole) == json.loads(text) == {
        k: v for k, v in json.loads(whole).items() if k != "check"
    }
    for at in range(len(whole)):
        spoiled = bytearray(whole)
        spoiled[at] ^= 1 << rng.integers(8)
        with pytest.raises(ValueError):
            unsealed(bytes(spoiled))
    assert checked(b'{"format": 1}', 2) == {"format": 1}
    for damaged in (b'{"format": 2}', whole[:-1], whole + b" "):
        with pytest.raises(ValueError):
            checked(damaged, 2)


def one_line(command: list, capsys, named: Path) -> None:
    """The command ends in exit 2 and one line that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = main([str(word) for word in command])
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.count("\n") == 1 and named.name in said and "Traceback" not in said and len(said) < 1000, said[:2000]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Text, images, an alignment, a complete run and one that is unfinished."""
    folder = tmp_path_factory.mktemp("made")
    text, image = corpus.two_sides(folder)
    fr.align(text, image, folder / "out")
    return folder


def put(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", TEXTS)
def test_manifests(made, tmp_path, capsys, name):
    shutil.copytree(made / "out", tmp_path / "out")
    path = put(tmp_path / "out" / "manifest.json", TEXTS[name])
    before = corpus.tree(tmp_path / "out")
    align = ["align", made / "text", "--target", made / "image", "--out", tmp_path / "out"]
    for command in (["inspect", tmp_path / "out"], [*align, "--resume"], [*align, "--overwrite"]):
        one_line(command, capsys, path)
        assert corpus.tree(tmp_path / "out") == before
    path.write_bytes(sealed(before["manifest.json"]))
    one_line([*align, "--overwrite"], capsys, path)


@pytest.mark.parametrize(
    "name", [name for name, text in TEXTS.items() if isinstance(text, str) and name != "half a surrogate pair"]
)
def test_records_of_alignments(made, tmp_path, capsys, name):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    text = TEXTS[name]
    path = tmp_path / "a.safetensors"
    vectors = {part: np.zeros(corpus.DIM) for part in ("b", "c", "mean_source", "mean_target")}
    for record in (text, sealed(text.encode()).decode()):
        save_file(vectors, path, {"fastrealign": record})
        for command in (["apply", path, made / "text", "--out", tmp_path / "new"], ["inspect", path]):
            one_line(command, capsys, path)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", TEXTS)
def test_headers_of_safetensors(made, tmp_path, capsys, name):
    data = TEXTS[name] if isinstance(TEXTS[name], bytes) else TEXTS[name].encode()
    path = put(tmp_path / "rows.safetensors", len(data).to_bytes(8, "little") + data)
    one_line(["fit", path, "--target", made / "image", "--out", tmp_path / "a.safetensors"], capsys, path)


@pytest.mark.parametrize("file", ["state.json", "dataset_info.json", "dataset_dict.json"])
@pytest.mark.parametrize("name", TEXTS)
def test_files_of_hugging_face_datasets(made, tmp_path, capsys, file, name):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = corpus.rows(30, 1).tolist()
    datasets.Dataset.from_dict({"embedding": rows}).save_to_disk(str(tmp_path / "data"))
    path = put(tmp_path / "data" / file, TEXTS[name])
    if file == "dataset_info.json" and name in (
        "an empty object",
        "NaN",
        "other types",
        "other types within",
        "a name twice",
    ):
        fr.align(tmp_path / "data", made / "image", tmp_path / "out")  # it tells nothing of the column
        return
    one_line(["align", tmp_path / "data", "--target", made / "image", "--out", tmp_path / "out"], capsys, path)


@pytest.mark.parametrize("name", TEXTS)
def test_what_arrow_notes_of_columns(made, tmp_path, name):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    text = TEXTS[name]
    table = corpus.table(corpus.rows(30, 1))
    noted = {b"huggingface": text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")}
    pq.write_table(table.replace_schema_metadata(noted), tmp_path / "a.parquet")
    fr.align(tmp_path / "a.parquet", made / "image", tmp_path / "out", dtype="float64")
    there = pq.read_table(tmp_path / "out" / "a.parquet")
    assert there.schema.field("embedding").type == pa.list_(pa.float64())


@pytest.mark.parametrize("name", TEXTS)
def test_logs_of_the_gap_monitor(tmp_path, name):
    from fastrealign.diagnostics import read_log

    text = TEXTS[name]
    path = put(tmp_path / "gap.jsonl", (text if isinstance(text, bytes) else text.encode()) + b"\n")
    if name == "nothing":
        path.write_bytes(b"\n")
    with pytest.raises(fr.InputError, match=r"gap\.jsonl, line 1"):
        read_log(path)
