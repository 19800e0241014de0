"""Examples read from files: every form, checked when they are opened, read when they are asked for."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter

import numpy as np
import pytest

from fastrealign.core.errors import InputError
from fastrealign.revision import json_list
from fastrealign.revision.conversations import UNUSABLE
from fastrealign.revision.data import IMAGE, Example, read_examples

WORDS = ["猫", "naïve", "a", "[", "]", "{", "}", ",", '"', "\\", "b\u2028c", "é\x85x", "🙂", "end."]


@pytest.fixture
def said(rng):
    """said(n): some text, which may hold line breaks."""

    def said():
        words = [WORDS[i] for i in rng.integers(0, len(WORDS), rng.integers(1, 6))]
        return str(rng.choice([" ", "\n"])).join(words).strip()

    return said


@pytest.fixture
def dialogues(rng, said):
    """dialogues(n): records in the reference's form, and the examples that they are."""

    def dialogues(n):
        records, examples = [], []
        for i in range(n):
            turns = [(said(), said()) for _ in range(rng.integers(1, 4))]
            first = [f"{IMAGE}\n{turns[0][0]}", f"{turns[0][0]}\n{IMAGE}", f" {IMAGE}{turns[0][0]} "][rng.integers(3)]
            messages = []
            for k, (prompt, response) in enumerate(turns):
                messages.append({"from": "human", "value": first if k == 0 else prompt})
                messages.append({"from": "gpt", "value": f"{response}\n"})
            records.append({"id": i if i % 2 else f"id {i}", "image": "x.jpg", "conversations": messages})
            turns[0] = (f"{IMAGE}\n{turns[0][0]}", turns[0][1])
            examples.append(Example(str(records[-1]["id"]), tuple(turns)))
        return records, examples

    return dialogues


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_reference_json(dialogues, tmp_path, rng, monkeypatch, ascii, indent):
    monkeypatch.setattr(json_list, "_BLOCK", int(rng.integers(1, 200)))
    records, examples = dialogues(40)
    (tmp_path / "x.json").write_text("\ufeff" * ascii + json.dumps(records, ensure_ascii=ascii, indent=indent), "utf-8")
    found = read_examples(tmp_path / "x.json")
    assert list(found) == examples and len(found) == 40
    for i in rng.integers(-40, 40, 20):
        assert found[i] == examples[i]
    assert found[5:30:7] == examples[5:30:7]
    with pytest.raises(IndexError):
        found[40]


def test_a_record_a_line(dialogues, tmp_path):
    records, examples = dialogues(20)
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    lines.insert(7, "  ")  # blank lines have no meaning here
    lines.append(json.dumps({"id": "c", "caption": "a caption"}))
    lines.append(json.dumps({"key": "t", "text": " a text\n"}))
    (tmp_path / "x.jsonl").write_text("\r\n".join(lines), "utf-8", newline="")
    expected = [*examples, Example("c", ((IMAGE, "a caption"),)), Example("t", ((IMAGE, "a text"),))]
    found = read_examples(tmp_path / "x.jsonl")
    assert list(found) == expected
    assert list(pickle.loads(pickle.dumps(found))) == expected


def test_a_caption_a_line(tmp_path):
    captions = ["a cat", "une étoile", "猫\u2028猫", "last"]
    (tmp_path / "x.txt").write_text("\ufeff" + "\r\n".join(captions) + "\n\n", "utf-8", newline="")
    found = read_examples(tmp_path / "x.txt")
    assert list(found) == [Example(str(i), ((IMAGE, caption),)) for i, caption in enumerate(captions)]


@pytest.mark.parametrize("names", [("id", "caption"), ("key", "text")])
def test_parquet(tmp_path, said, rng, names, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    captions = [said() for _ in range(50)]
    table = pa.table({names[0]: list(range(50)), names[1]: captions, "other": [b"\xff"] * 50})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=7)
    found = read_examples(tmp_path / "x.parquet")
    expected = [Example(str(i), ((IMAGE, caption),)) for i, caption in enumerate(captions)]
    assert list(found) == expected and list(pickle.loads(pickle.dumps(found))) == expected
    del found
    assert not list((tmp_path / "temporary").iterdir())


def test_several_files(dialogues, tmp_path, rng):
    records, examples = dialogues(30)
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, lo in zip(paths, (0, 4, 25), strict=True):
        path.write_text(json.dumps(records[lo : {0: 4, 4: 25, 25: 30}[lo]]))
    found = read_examples(paths)
    assert list(found) == examples and found[3:6] == examples[3:6] and found[-1] == examples[-1]
    with pytest.raises(IndexError):
        found[30]
    paths[2].write_text(json.dumps(records[24:]))
    with pytest.raises(InputError, match=r"2\.json: record 0: the id 'id 24' is that of .*1\.json: record 20, too"):
        read_examples(paths)
    assert len(read_examples(paths, shared_ids=True)) == 31


def test_captions_of_several_files_have_the_ids_that_embed_gives_them(tmp_path):
    from fastrealign.embed.inputs import open_input

    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_text(f"one of {path.stem}\ntwo of {path.stem}\n")
    found = read_examples(paths)
    assert [one.id for one in found] == ["a.txt:0", "a.txt:1", "b.txt:0", "b.txt:1"]
    assert [one.id for one in found] == [item.id for item in open_input(paths)]
    assert [one.id for one in read_examples(paths[1])] == ["0", "1"]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.txt").write_text("three\n")
    with pytest.raises(InputError, match=r"two files have the name a\.txt, which is part of .* ids; rename one"):
        read_examples([*paths, tmp_path / "more" / "a.txt"], shared_ids=True)


def test_a_file_that_changes(dialogues, tmp_path):
    records, _ = dialogues(5)
    (tmp_path / "x.json").write_text(json.dumps(records))
    found = read_examples(tmp_path / "x.json")
    (tmp_path / "x.json").write_text(json.dumps(records[::-1], indent=3))
    with pytest.raises(InputError, match=r"x\.json: changed"):
        list(found)


GOOD = {"id": "a", "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a cat"}]}


def record(*messages, **other):
    said = [{"from": role, "value": text} for role, text in messages]
    return {**GOOD, **other, **({"conversations": said} if messages else {})}


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (record(("human", "what?"), ("gpt", "a cat")), "example 'a': is text only: its first prompt has no <image>"),
        (record(("human", "<image> <image>"), ("gpt", "a cat")), "<image> appears more than once"),
        (record(("human", "<image>"), ("gpt", "a <image>")), "<image> appears more than once"),
        (
            record(("human", "<image>"), ("gpt", "x"), ("human", "<image>"), ("gpt", "x")),
            "<image> appears more than once",
        ),
        (record(("gpt", "a cat"), ("gpt", "<image>")), "message 1 is from 'gpt', expected 'human'"),
        (record(("gpt", "a cat"), ("human", "<image>")), "ends with a prompt, message 1"),
        (record(("human", "<image>"), ("human", "x")), "message 1 is from 'human', expected 'gpt'"),
        (record(("human", "<image>"), ("gpt", "x"), ("human", "y")), "ends with a prompt, message 2"),
        (record(("human", "<image>"), ("gpt", " \n")), "response 0 is empty"),
        (record(("human", "<image>"), ("gpt", None)), "message 1 is not of the form"),
        (record(conversations=[]), "not a list of messages"),
        (record(conversations=["x"]), "message 0 is not of the form"),
        (record(id=None), "has no id .id, ids, key, .*; its keys are 'id', 'conversations'"),
        (record(id=[1]), r"has the id \[1\], expected text or a whole number"),
        (record(id=1.5), r"has the id 1\.5, expected"),
        ({"id": 1, "picture": 2}, "example '1': has neither conversations nor a caption; its keys are 'id', 'picture'"),
        ({"id": 1, "caption": 2}, "has a caption that is not text"),
        ({"id": 1, "caption": ""}, "response 0 is empty"),
        ({"id": 1, "caption": "\ud800"}, "example '1': holds half of a surrogate pair"),
        ({"id": "\ud800", "caption": "a"}, "half of a surrogate pair"),
        (["a"], "is a list, expected an object"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_bad_record_is_named(tmp_path, bad, expected, suffix):
    records = [record(id="x"), record(id="y"), bad, record(id="z")]
    path = tmp_path / f"x{suffix}"
    path.write_text(json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records)))
    number = "record 2" if suffix == ".json" else "line 3"
    with pytest.raises(InputError, match=rf"x{suffix}: {number}: .*{expected}") as caught:
        read_examples(path, unusable="error")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("x.json", b"", "is empty"),
        ("x.json", b"[]", "holds no examples"),
        ("x.json", b" \n", "line 2: expected a list"),
        ("x.json", b'{"id": 1}\n{"id": 2}', r"line 1: expected a list of records, '\['; .*jsonl"),
        ("x.json", b'[\n{"id": "a", "caption": "b"},\n{"id": "b" "caption"}\n]' + b" " * 99, "line 3: is not JSON"),
        ("x.json", b'[\n{"id": "a", "caption": "b"},\n\n{"id": "b', "line 4: is not JSON .Unterminated string"),
        ("x.json", b'[{"id": "a", "caption": "b"}\n', "line 2: expected ',' or ']'"),
        ("x.json", b'[{"id": "a", "caption": "b"},]', "line 1: is not JSON"),
        ("x.json", b'[{"id": "a", "caption": "b"}]\n[]', "line 2: something follows"),
        ("x.json", b'[{"id": "a",\n "caption": "\xff"}]', "is not UTF-8"),
        ("x.json", b"[" * 100_000, "line 1: is nested too deeply"),
        ("x.jsonl", b'{"id": "a", "caption": "b"}\n\n{"id": "b"\n', "line 3: is not JSON"),
        ("x.jsonl", b'{"id": "a", "caption": "b"}\n"\xff"', "line 2: is not UTF-8"),
        ("x.jsonl", b"\n\n", "holds no examples"),
        ("x.txt", b"one\n\nthree\n", "line 2: is empty"),
        ("x.txt", b"one\n\xe9\n", "line 2: is not UTF-8"),
        ("x.txt", b"one\nan <image> in it\n", "line 2: example '1': <image> appears more than once"),
        ("x.parquet", b"PAR1", "is not a readable parquet"),
        ("x", b"a,b", r"examples are not read from a folder or a file whose name has no ending; expected \.json"),
        ("x.csv", b"a,b", r"examples are not read from '\.csv' files; expected \.json"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, text, expected):
    (tmp_path / name).write_bytes(text)
    with pytest.raises(InputError, match=rf"{name}: .*{expected}") as caught:
        read_examples(tmp_path / name, unusable="error")
    assert "\n" not in str(caught.value)


def test_other_bad_input(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for table, expected in (
        (
            {"id": ["a"], "label": ["b"]},
            "expected a column of captions .caption, .* or conversations, and one of ids .id, .*; its columns are id, label",
        ),
        ({"id": ["b"]}, "expected a column of captions"),
        ({"id": ["a", None], "key": ["k", "l"], "caption": ["x", "y"]}, "row 1: has no id"),
        ({"id": ["a", None], "caption": ["x", "y"]}, "row 1: has no id"),
        ({"id": ["a", "b"], "caption": ["x", None]}, "row 1: example 'b': has neither"),
        ({"id": ["a", "a"], "caption": ["x", "y"]}, "row 1: the id 'a' is that of .*row 0"),
        ({"id": [b"\xff"], "caption": ["x"]}, "row 0: 'id' is not UTF-8"),
    ):
        pq.write_table(pa.table(table), tmp_path / "x.parquet")
        with pytest.raises(InputError, match=rf"x\.parquet: {expected}"):
            read_examples(tmp_path / "x.parquet")
    binary = pa.array([b"x", b"\xff"], pa.binary())
    said_text = pa.StringArray.from_buffers(2, binary.buffers()[1], binary.buffers()[2])
    pq.write_table(pa.table({"id": ["a", "b"], "caption": said_text}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: row 1: 'caption' is not UTF-8"):
        read_examples(tmp_path / "x.parquet")
    double = pa.table([pa.array(["a"]), pa.array(["x"]), pa.array(["y"])], names=["id", "caption", "caption"])
    pq.write_table(double, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: has two columns 'caption'; rename one"):
        read_examples(tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_examples(tmp_path / "none.json")
    with pytest.raises(InputError, match="is a folder"):
        (tmp_path / "folder.json").mkdir()
        read_examples(tmp_path / "folder.json")
    with pytest.raises(InputError, match="empty list"):
        read_examples([])
    with pytest.raises(InputError, match="has no turns"):
        Example("a", ())


# Records as LLaVA's files have them, and why each cannot be used; None: it can.
KINDS = [
    (record(), None),
    (record(image="a.jpg"), None),
    (record(image=["a.jpg"]), None),
    (record(image=None, images=[]), None),
    (record(("human", "Tell a joke."), ("gpt", "No.")), "text_only"),
    (record(("human", "Tell."), ("human", "a joke"), image=[]), "text_only"),
    (record(("gpt", "Hello")), "text_only"),
    (record(("human", "<image>\n<image>\nCompare."), ("gpt", "Same."), image=["a.jpg", "b.jpg"]), "several_images"),
    (record(("human", "<image>"), ("gpt", "x"), ("human", "<image>"), ("gpt", "x")), "several_images"),
    (record(image=["a.jpg", "b.jpg"]), "several_images"),
    (record(images=["a.jpg", "b.jpg"]), "several_images"),
    ({"id": "c", "caption": "a <image> of it"}, "several_images"),
    (record(("human", "what?"), ("gpt", "a cat"), image="a.jpg"), "image_not_placed"),
    (record(("gpt", "<image>"), ("human", "what?"), ("gpt", "a cat"), image="a.jpg"), "image_not_placed"),
    (record(("human", "hello"), ("gpt", "hi"), ("human", "<image>"), ("gpt", "x")), "image_not_first"),
    (record(("human", "what?"), ("gpt", "<image>")), "image_not_first"),
    (record(("human", "<image>"), ("human", "x"), ("gpt", "y")), "turns"),
    (record(("human", "<image>"), ("system", "x")), "turns"),
    (record(("system", "a"), ("gpt", "b"), ("human", "<image>"), ("gpt", "c")), "turns"),
    (record(("human", "<image>"), ("gpt", "x"), ("human", "y")), "no_answer"),
    (record(("human", "<image>"), ("gpt", " ")), "empty_answer"),
    ({"id": "c", "caption": " "}, "empty_answer"),
    (record(("gpt", "Hello"), ("human", "<image>\nWhat?"), ("gpt", "A dog.")), None),
    (record(("system", "Be brief."), ("human", "What? <image>"), ("gpt", "A dog.")), None),
]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_what_is_not_about_one_image_is_left_out_and_counted_by_reason(tmp_path, rng, suffix):
    chosen = [KINDS[i] for i in rng.permutation([*range(len(KINDS)), *rng.integers(0, len(KINDS), 300)])]
    records = [{**one, "id": str(i)} for i, (one, _) in enumerate(chosen)]
    path = tmp_path / f"x{suffix}"
    if suffix == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        records = [
            one if not isinstance(one.get("image"), str) else {**one, "image": [one["image"]]} for one in records
        ]
        pq.write_table(pa.Table.from_pylist(records, pa.schema(COLUMNS(pa))), path)
    else:
        path.write_text(json.dumps(records) if suffix == ".json" else "\n".join(map(json.dumps, records)))
    expected = Counter(reason for _, reason in chosen if reason)
    with pytest.warns(UserWarning) as seen:
        found = read_examples(path)
    assert [one.id for one in found] == [one["id"] for one, (_, why) in zip(records, chosen, strict=True) if not why]
    assert found.unusable == expected
    begins = [one["conversations"][0]["from"] for one, (_, why) in zip(records, chosen, strict=True) if not why]
    assert found.first_dropped == len(begins) - begins.count("human") > 0
    assert all(one.turns[0][0].startswith(IMAGE) and len(one.turns) == 1 for one in found)
    (text,) = (str(one.message) for one in seen)
    assert "\n" not in text and f"{sum(expected.values())} of {len(records)} examples are left out" in text
    for reason, number in expected.items():
        first = next(i for i, (_, why) in enumerate(chosen) if why == reason)
        where = {".json": "record", ".jsonl": "line", ".parquet": "row"}[suffix]
        assert f"{number} {UNUSABLE[reason]} (first: {where} {first + (suffix == '.jsonl')})" in text
    first = next(i for i, (_, why) in enumerate(chosen) if why) + (suffix == ".jsonl")
    with pytest.raises(InputError, match=rf'{where} {first}: .*; unusable "skip" leaves such examples out'):
        read_examples(path, unusable="error")


def COLUMNS(pa):
    texts = pa.list_(pa.string())
    turns = pa.list_(pa.struct([("from", pa.string()), ("value", pa.string())]))
    return [
        ("id", pa.string()),
        ("caption", pa.string()),
        ("image", texts),
        ("images", texts),
        ("conversations", turns),
    ]


def test_ids_of_captions_stay_the_numbers_of_their_lines(tmp_path):
    (tmp_path / "x.txt").write_text("one\nan <image> in it\nthree\n")
    with pytest.warns(UserWarning, match=r"1 of 3 examples is left out: .*\(first: line 2\)"):
        found = read_examples(tmp_path / "x.txt")
    assert [(one.id, one.turns[0][1]) for one in found] == [("0", "one"), ("2", "three")]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_captions_without_ids_have_the_numbers_that_embed_gives_them(tmp_path, suffix):
    from fastrealign.embed.inputs import open_input

    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, captions in (("a", ["one", "two", "three"]), ("b", ["four"])):
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".parquet":
            pq.write_table(pa.table({"text": captions}), path)
        else:  # a blank line has a number, and no caption
            path.write_text("\n\n".join(json.dumps({"text": one}) for one in captions) + "\n\n")
    one, several = [str(tmp_path / f"a{suffix}")], [str(tmp_path / f"{name}{suffix}") for name in "ab"]
    for paths in (one, several):
        embedded = [(item.id, item.text) for item in open_input(paths)]
        assert [(e.id, e.turns[0][1]) for e in read_examples(paths)] == embedded and len(embedded) in (3, 4)
    (tmp_path / "c").mkdir()
    shutil.copy(one[0], tmp_path / "c")
    with pytest.raises(InputError, match="two files have the name a"):
        read_examples([*one, tmp_path / "c" / f"a{suffix}"], shared_ids=True)


@pytest.mark.parametrize(("first", "then"), [("no", "has an id, and .* none"), ("an", "has no id, and .* one")])
def test_captions_have_ids_throughout_or_numbers_throughout(tmp_path, first, then):
    records = [{"text": "one"}, {"uid": "b", "text": "two"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, records if first == "no" else records[::-1])))
    with pytest.raises(InputError, match=f"x.jsonl: line 2: {then}; expected ids of all or of none"):
        read_examples(tmp_path / "x.jsonl")


def test_files_of_which_nothing_can_be_used(tmp_path):
    text_only = record(("human", "Tell a joke."), ("gpt", "No."))
    (tmp_path / "a.json").write_text(json.dumps([text_only] * 3))
    (tmp_path / "b.json").write_text(json.dumps([{**text_only, "id": "b"}, record(("human", "<image>"))]))
    (tmp_path / "c.json").write_text(json.dumps([record()]))
    paths = [str(tmp_path / name) for name in ("a.json", "b.json")]
    with pytest.raises(InputError, match=r"a\.json: no example can be used here: 3 text only .*record 0\)$"):
        read_examples(paths[0])
    with pytest.raises(
        InputError, match=r"2 files: no example .*: 4 text only \(first: .*a\.json: record 0\), 1 that end"
    ):
        read_examples(paths)
    with pytest.warns(UserWarning, match="3 files: 5 of 6 examples"):
        found = read_examples([*paths, tmp_path / "c.json"])
    assert [one.id for one in found] == ["a"] and found.unusable == {"text_only": 4, "no_answer": 1}
    with pytest.raises(InputError, match="unusable='no': expected one of skip, error"):
        read_examples(paths, unusable="no")


def test_memory_follows_the_longest_record(tmp_path, monkeypatch):
    """A JSON of 3 MB is gone through without being held: what Python allocates stays far below."""
    import tracemalloc

    one = json.dumps({"id": "%d", "caption": "x" * 10_000})
    with open(tmp_path / "x.json", "w") as file:
        file.write("[" + ",".join(one.replace("%d", str(i)) for i in range(300)) + "]")
    monkeypatch.setattr(json_list, "_BLOCK", 1 << 15)
    tracemalloc.start()
    try:
        found = read_examples(tmp_path / "x.json")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == 300 and peak < 1e6
    assert np.array_equal([len(found[i].turns[0][1]) for i in (0, 299)], [10_000, 10_000])
