"""Judgements: their layouts, what they may not hold, and how their ids become rows."""

from __future__ import annotations

import json

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.retrieval.documents import judged_by_ids, judged_pairs, named_in_order, open_role, sampled
from fastrealign.retrieval.judgements import read_judgements

EXPECTED = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": 1}}


@pytest.mark.parametrize(
    "name, text",
    [
        ("qrels.txt", "q1 0 d1 2\nq1 0 d2 0\n\nq2 Q0 d1 1\n"),
        ("trec.tsv", "q1\t0\td1\t2\nq1\t0\td2\t0\nq2\t0\td1\t1\n"),
        ("qrels.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\r\nq2\td1\t1.0\n"),
        ("judged.csv", '\ufeffrelevance,doc_id,query_id\n2,d1,q1\n0,"d2",q1\n1,d1,q2\n1,d1,q2\n'),
        ("excel.csv", "\ufeffquery;doc;rel\r\nq1;d1;2\r\nq1;d2;0\r\nq2;d1;1\r\n"),
        ("tabs.csv", "query\tdoc\trel\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n"),
        ("commas.tsv", "\n\nquery,doc,rel\nq1,d1,2\n\nq1,d2,0\nq2,d1,1\n"),
        ("beir/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t1\n"),
    ],
)
def test_layouts(tmp_path, name, text):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, newline="")
    found = read_judgements(tmp_path / "beir" if name.startswith("beir") else path)
    assert found.grades == EXPECTED


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.txt", "q1 0 d1 1\nq1 0 d2 -1\n", r"a.txt: line 2: grade '-1'; expected a whole number from 0"),
        ("a.txt", "q1 0 d1 yes\n", r"a.txt: line 1: grade 'yes' is no number"),
        ("a.txt", "q1 0 d1 0.5\n", r"line 1: grade '0.5'"),
        ("a.txt", "q1 0 d1 nan\n", r"line 1: grade 'nan' is no number"),
        ("a.txt", "q1 0 d1 1\nq1 d1 1\n", r"line 2: 3 columns"),
        ("a.txt", "q1 0 d1 1\nq1 0 d1 2\n", r"line 2: judges document 'd1' for query 'q1' again: 2, before 1"),
        ("a.csv", "q,d\na,b\n", r"line 1: no header that names a query"),
        ("a.csv", "query,doc,rel\nq1,d1\n", r"line 2: 2 columns, the header has 3"),
        ("a.csv", "query,doc\n,d1\n", r"line 2: has no query"),
        ("a.csv", "query,doc\n", r"holds no judgement"),
        ("a.txt", "", r"a.txt: holds no judgement; expected lines with a query, a document and a grade"),
        ("a.csv", "\n \n", r"holds no judgement"),
        ("a.csv", "q1,d1\nquery,doc\n", r"line 1: no header that names a query"),
        ("a.tsv", "q1 d1\n", r"line 1: no header that names a query"),
        ("a.csv", 'query,doc\n"q1,d1\n', r"line 2: 1 column, the header has 2"),
        (
            "a.csv",
            "query,doc\rq1,d1\r",
            r"line 1: has carriage returns inside; save the file with .n or .r.n after each line$",
        ),
        ("beir/qrels/dev.tsv", "", r"no qrels/test.tsv.*name one of dev.tsv itself"),
    ],
)
def test_what_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(fr.InputError, match=message) as error:
        read_judgements(tmp_path / "beir" if name.startswith("beir") else path)
    assert "\n" not in str(error.value)


def side(role, ids, n=None):
    rows = np.eye(len(ids) if n is None else n, 8) + 1
    return open_role(role, rows, None, ids)


@pytest.mark.parametrize(
    "content, message",
    [
        ("query,doc\nq1,d1\n".encode("utf-16"), "line 1: is not UTF-8 but UTF-16; save the file as UTF-8"),
        (b"query,doc\nq\xe9,d1\n", r"line 2: is not UTF-8 \(byte 0xe9 at 1\)"),
    ],
)
def test_other_encodings_are_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(fr.InputError, match=f"a.csv: {message}$"):
        read_judgements(tmp_path / "a.csv")


def test_ids_become_rows_and_what_is_missing_is_counted_and_named(tmp_path):
    path = tmp_path / "qrels"
    path.write_text("q2 0 t1 2\nq0 0 i0 1\nq0 0 t0 0\nq1 0 gone 1\nq9 0 t1 1\nq0 0 lost 3\nq2 0 both 1\n")
    documents = {"text": side("text", ["t0", "t1", "both"]), "image": side("image", ["i0", "both"])}
    judged = judged_by_ids(read_judgements(path), side("query", ["q0", "q1", "q2"]), documents)
    assert judged.queries.tolist() == [0, 2]
    text, image = judged.relevant["text"], judged.relevant["image"]
    assert [*zip(text.query, text.document, text.grade, strict=True)] == [(1, 1, 2), (1, 2, 1)]
    assert [*zip(image.query, image.document, image.grade, strict=True)] == [(0, 0, 1), (1, 1, 1)]
    notes = " | ".join(judged.notes)
    assert "1 judged query has no embedding, the first is 'q9'" in notes
    assert "2 judged documents have no embedding, the first is 'lost'" in notes
    assert "1 judged id is of a text and of an image" in notes and "1 judged query has no relevant document" in notes


def test_no_judged_query_left(tmp_path):
    (tmp_path / "qrels").write_text("a 0 b 1\n")
    with pytest.raises(fr.InputError, match=r"no judged query is left.*the first is 'a'"):
        judged_by_ids(read_judgements(tmp_path / "qrels"), side("query", ["q"]), {"text": side("text", ["t"])})


def test_ids_that_occur_twice_and_of_another_number():
    with pytest.raises(fr.InputError, match=r"text: row 2: has the same id as text: row 0"):
        side("text", ["a", "b", "a"])
    with pytest.raises(fr.InputError, match="has 2 ids, expected one for each of 3 rows"):
        side("text", ["a", "b"], 3)


def test_a_beir_folder_names_rows_without_ids(tmp_path):
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tc\t1\n")
    for name, ids in (("queries", ["q0", "q1"]), ("corpus", ["a", "b", "c"])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"_id": id, "text": ""}) + "\n" for id in ids))
    read = read_judgements(folder)
    queries = named_in_order(side("query", None, 2), read.queries, "queries.jsonl")
    text = named_in_order(side("text", None, 3), read.documents, "corpus.jsonl")
    judged = judged_by_ids(read, queries, {"text": text})
    assert judged.queries.tolist() == [1] and judged.relevant["text"].document.tolist() == [2]
    with pytest.raises(fr.InputError, match=r"4 rows where corpus.jsonl has 3 lines"):
        named_in_order(side("text", None, 4), read.documents, "corpus.jsonl")


def test_pairs_and_samples_of_them():
    judged = judged_pairs(side("query", None, 50), {"image": side("image", None, 50)})
    few = sampled(judged, 20, 3)
    assert len(few.queries) == 20 and "20 of 50 judged queries" in few.notes[0]
    np.testing.assert_array_equal(few.queries[few.relevant["image"].query], few.relevant["image"].document)
    with pytest.raises(fr.InputError, match="images: 49 rows, queries 50"):
        judged_pairs(side("query", None, 50), {"image": side("image", None, 49)})
