"""Captions and ids of others: `embed`, `train` and look-ups by id read the same text, ids and numbers out of the same file."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
pytest.importorskip("torch")

from fastrealign import InputError  # noqa: E402
from fastrealign.data.lookup import open_embeddings  # noqa: E402
from fastrealign.data.usual_names import ID_NAMES  # noqa: E402
from fastrealign.embed.inputs import open_input  # noqa: E402
from fastrealign.revision.examples import read_examples  # noqa: E402
from fastrealign.storage import text_lines, text_values  # noqa: E402

CAPTIONS = ["a cat", "une étoile", "猫\u2028猫", "last"]


def embedded(path, **options):
    items = list(open_input(path, **options))
    assert all(item.problem is None for item in items), [item.problem for item in items]
    return [(item.id, item.text) for item in items]


def trained(path):
    return [(example.id, example.turns[0][1]) for example in read_examples(path)]


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n\n\n\n", "\r\n", "\r\n\r\n", "\n \t\n", "\n\n  "])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_what_is_blank_at_the_end_of_captions_is_no_caption(tmp_path, mark, end):
    newline = "\r\n" if "\r" in end else "\n"
    path = tmp_path / "a.txt"
    path.write_bytes((mark + newline.join(CAPTIONS) + end).encode())
    wanted = [(str(i), text) for i, text in enumerate(CAPTIONS)]
    assert embedded(path) == trained(path) == wanted


def test_a_blank_line_between_captions_keeps_its_number_and_is_named(tmp_path):
    """So that line n still goes with row n of what was made elsewhere."""
    path = tmp_path / "a.txt"
    path.write_text("one\n\n \nfour\n\n")
    one, two, three, four = open_input(path)
    assert [item.id for item in (one, two, three, four)] == ["0", "1", "2", "3"] and four.text == "four"
    assert [item.problem for item in (one, two, three, four)] == [None, *["the caption is empty"] * 2, None]
    assert two.where == f"{path}: line 2"
    with pytest.raises(InputError, match=r"a\.txt: line 2: is empty, expected a caption per line"):
        read_examples(path)


def test_a_file_of_blank_lines_takes_no_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "a.txt"
    path.write_bytes(b"\n" * 300_000)
    tracemalloc.start()
    assert list(text_lines.rows_in_lines(path)) == []
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n\r\n"])
def test_what_is_blank_at_the_end_of_ids_is_no_id(tmp_path, rng, end):
    rows = rng.standard_normal((3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    (tmp_path / "ids.txt").write_bytes(("\ufeff" + ("\r\n" if "\r" in end else "\n").join("abc") + end).encode())
    assert open_embeddings(tmp_path / "x.npy", ids=tmp_path / "ids.txt").find(list("cab")).tolist() == [2, 0, 1]


def test_a_line_without_end_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(text_lines, "LINE_BYTES", 1 << 20)
    for name, call in (("a.jsonl", read_examples), ("b.txt", read_examples), ("c.jsonl", embedded)):
        (tmp_path / name).write_bytes(b'{"id": 1, "caption": "a"}\n' + b"x" * (1 << 20) + b"y")
        with pytest.raises(InputError, match=rf"{name}: line 2: is longer than 1 MB; is this a file of lines\?"):
            call(tmp_path / name)


TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


def column(values, kind):
    return pa.array([v.encode() for v in values] if "binary" in kind else values, TYPES[kind])


@pytest.mark.parametrize(
    ("ids", "texts"), [*zip(TYPES, TYPES, strict=True), ("binary", "string"), ("string", "binary")]
)
def test_bytes_that_hold_text_are_text_everywhere(tmp_path, rng, ids, texts):
    names = ["é1", "b", "c", "d"]
    table = pa.table({"uid": column(names, ids), "caption": column(CAPTIONS, texts)})
    pq.write_table(table, tmp_path / "a.parquet")
    wanted = list(zip(names, CAPTIONS, strict=True))
    assert embedded(tmp_path / "a.parquet") == trained(tmp_path / "a.parquet") == wanted
    flat = pa.array(rng.standard_normal(12).astype(np.float32))
    pq.write_table(table.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, 3)), tmp_path / "e.parquet")
    np.save(tmp_path / "x.npy", np.ones((4, 3), np.float32))
    for found in (
        open_embeddings(tmp_path / "e.parquet"),
        open_embeddings(tmp_path / "x.npy", ids=tmp_path / "a.parquet"),
    ):
        assert found.find(names).tolist() == [0, 1, 2, 3]
    assert open_embeddings(tmp_path / "x.npy", ids=[n.encode() for n in names]).find(names).tolist() == [0, 1, 2, 3]


def test_conversations_of_bytes_are_conversations(tmp_path):
    messages = [{"from": b"human", "value": b"<image>\nwhat?"}, {"from": b"gpt", "value": "été".encode()}]
    pq.write_table(pa.table({"id": [b"a"], "conversations": [messages]}), tmp_path / "a.parquet")
    assert [example.turns for example in read_examples(tmp_path / "a.parquet")] == [(("<image>\nwhat?", "été"),)]


@pytest.mark.parametrize("kind", ["binary", "string"])
@pytest.mark.parametrize("of", ["id", "caption"])
def test_bytes_that_hold_no_text_are_named_by_row(tmp_path, kind, of):
    bad = pa.array([b"x", b"\xff", b"z"], pa.binary())
    bad = pa.StringArray.from_buffers(3, bad.buffers()[1], bad.buffers()[2]) if kind == "string" else bad
    good = pa.array(["r", "s", "t"])
    names = {"id": good, "caption": good, of: bad}
    pq.write_table(pa.table(names), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=rf"a\.parquet: row 1: '{of}' is not UTF-8"):
        read_examples(tmp_path / "a.parquet")
    one, two, three = open_input(tmp_path / "a.parquet")
    assert "is not UTF-8" in two.problem and two.where.endswith("row 1") and one.problem is three.problem is None
    np.save(tmp_path / "x.npy", np.ones((3, 3), np.float32))
    with pytest.raises(InputError, match=r"a\.parquet: number 1 has an id that is not UTF-8"):
        open_embeddings(tmp_path / "x.npy", ids=tmp_path / "a.parquet", id_column=of)


def written(path, records):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("name", ID_NAMES)
def test_every_name_of_ids_is_one_for_every_command(tmp_path, name, suffix):
    records = [{name: f"i{k}", "caption": text} for k, text in enumerate(CAPTIONS)]
    path = written(tmp_path / f"a{suffix}", records)
    wanted = [(f"i{k}", text) for k, text in enumerate(CAPTIONS)]
    assert embedded(path) == trained(path) == wanted
    rows = {name: [id for id, _ in wanted], "embedding": [[1.0, float(k)] for k in range(4)]}
    pq.write_table(pa.table(rows), tmp_path / "e.parquet")
    assert open_embeddings(tmp_path / "e.parquet").find(["i3", "i0"]).tolist() == [3, 0]


def test_of_several_names_all_commands_take_the_same(tmp_path, rng):
    for one, two in itertools.combinations(ID_NAMES, 2):
        keys = [one, two] if rng.random() < 0.5 else [two, one]
        records = [{**{key: f"{key}{k}" for key in keys}, "caption": text} for k, text in enumerate(CAPTIONS[:2])]
        for path in (tmp_path / "a.jsonl", tmp_path / "a.parquet"):
            written(path, records)
            assert [id for id, _ in embedded(path)] == [id for id, _ in trained(path)] == [f"{one}0", f"{one}1"]
        np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
        assert open_embeddings(tmp_path / "x.npy", ids=tmp_path / "a.parquet").find([f"{one}1"]).tolist() == [1]


@pytest.mark.parametrize(("value", "text"), [(7, "7"), ("007", "007"), (b"x", "x"), (np.int64(5), "5"), ("7", "7")])
def test_ids_are_compared_as_text(value, text):
    assert text_values.id_text(value) == text


@pytest.mark.parametrize("value", [None, 1.5, True, [1], float("nan"), {"a": 1}])
def test_what_is_no_id(value):
    with pytest.raises(InputError, match=r"has the id .*, expected text or a whole number"):
        text_values.id_text(value)


def test_a_misspelt_name_of_ids_gets_the_nearest(tmp_path, rng):
    records = [{"image_name": "i", "caption": "c"}]
    for path in (tmp_path / "a.jsonl", tmp_path / "a.parquet"):
        written(path, records)
        with pytest.raises(InputError, match="did you mean 'image_name'") as caught:
            problems = [item.problem for item in open_input(path, ids="imge_name")]
            raise InputError(problems[0])
        assert "\n" not in str(caught.value)
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    with pytest.raises(InputError, match=r"has no column 'imge_name', did you mean 'image_name'\?"):
        open_embeddings(tmp_path / "x.npy", ids=tmp_path / "a.parquet", id_column="imge_name")


@pytest.mark.parametrize(
    "deep", ['{"id": "a", "caption": ' + "[" * 100_000, '{"id": "a", "caption": 1' + "0" * 10_000 + "}"]
)
def test_json_that_python_cannot_read_is_reported_in_one_line(tmp_path, deep):
    (tmp_path / "a.jsonl").write_text(deep + "\n")
    with pytest.raises(InputError, match=r"a\.jsonl: line 1: is not JSON") as caught:
        read_examples(tmp_path / "a.jsonl")
    (item,) = open_input(tmp_path / "a.jsonl")
    assert item.problem.startswith("is not JSON") and len(item.problem) < 300 and len(str(caught.value)) < 400
    (tmp_path / "ids.json").write_text("[" * 100_000)
    np.save(tmp_path / "x.npy", np.ones((1, 3), np.float32))
    with pytest.raises(InputError, match=r"ids\.json: is not readable as ids"):
        open_embeddings(tmp_path / "x.npy", ids=tmp_path / "ids.json")
