"""Search and the classifier, against direct computations; labels as people give them."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import InputError
from fastrealign.gap_report.class_labels import label_text
from fastrealign.gap_report.tasks import RECALLS, hits


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_hits_by_sorting(rng):
    x = unit(rng.standard_normal((300, 12)))
    y = unit(x + 0.4 * rng.standard_normal((300, 12)))
    numbers = np.arange(0, 300, 2)
    alone, both = hits(y[numbers], numbers, numbers, x, y)
    for k, scores in zip(RECALLS, alone, strict=True):
        assert scores.tolist() == [float(i in np.argsort(-y[i] @ x.T)[:k]) for i in numbers]
    index = np.concatenate([x, y])
    for score, i in zip(both, numbers, strict=True):
        order = [j for j in np.argsort(-y[i] @ index.T) if j != 300 + i]
        assert score == float(i in order[:10])


def test_rows_at_one_place_find_nothing(rng):
    x = unit(rng.standard_normal((100, 5)))
    same = np.repeat(x[:1], 100, 0)
    alone, both = hits(same, np.arange(100), np.arange(100), same, x)
    assert np.allclose(alone[0], 0.01) and np.allclose(alone[2], 0.1) and both.max() <= 0.1


def test_the_classifier_is_trained_on_the_source_and_tested_on_other_things(few):
    """By hand: logistic regression on mapped rows of one half of the pairs, tested on images of the other."""
    linear = pytest.importorskip("sklearn.linear_model")
    y, x = few(200, 4)
    labels = (x[:, 1] + y[:, 1] > 0).astype(int)
    report = fr.report(y, x, labels=labels, methods=("realign",))
    train, test = (np.sort(half) for half in _halves(200))
    fitted = fr.fit(y, x)
    for name, rows in (("none", unit(y.astype(np.float64))), ("realign", fitted(y.astype(np.float64)))):
        trained = linear.LogisticRegression(max_iter=1000).fit(rows[train], labels[train])
        accuracy = trained.score(unit(x.astype(np.float64))[test], labels[test])
        assert report.outcomes["accuracy"].methods[name].value == pytest.approx(accuracy, abs=0.011)
    assert (report.classes.train, report.classes.test) == (100, 100)


def _halves(n):
    order = np.random.default_rng([0, 1]).permutation(n)
    return order[::2], order[1::2]


def test_labels_need_scikit_learn(labelled, monkeypatch):
    y, x, labels = labelled
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(InputError, match=r"a classifier of labels needs .*pip install 'fastrealign\[sklearn\]'"):
        fr.report(y, x, labels=labels)


def test_a_class_with_too_few_rows(few):
    y, x = few(60, 4)
    rare = np.array(["a"] * 59 + ["b"])
    with pytest.raises(InputError, match=r": (0|1) class(es)?, expected at least 2; label more rows"):
        fr.report(y, x, labels=(["a", "b"] * 30, rare))


@pytest.fixture
def labelled(few):
    """(source, target, labels): 60 pairs in three classes."""
    y, x = few(60, 4)
    return y, x, np.arange(60) % 3


def test_labels_in_every_form(tmp_path, labelled, monkeypatch):
    y, x, labels = labelled
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    np.save(tmp_path / "l.npy", labels)
    (tmp_path / "l.txt").write_text("\n".join(map(str, labels)))
    (tmp_path / "l.json").write_text(json.dumps(labels.tolist()))
    pq.write_table(pa.table({"id": labels + 7, "kind": labels}), tmp_path / "l.parquet")
    for name, rows in (("text", y), ("image", x)):
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 4)
        pq.write_table(pa.table({"embedding": vectors, "kind": labels}), tmp_path / f"{name}.parquet")
    kinds = [*map(str, labels)]
    (tmp_path / "l.csv").write_text("kind\n" + "\n".join(kinds))
    (tmp_path / "of ids.csv").write_text(
        "\ufeffid;label\r\n\r\n" + "".join(f'"a ""{i}""\n;";{i}\r\n' for i in kinds) + "\r\n"
    )
    (tmp_path / "spaces.csv").write_text("id, label, note\n" + "".join(f'{i}, "{i}", "a, b"\n' for i in kinds))
    (tmp_path / "tabs.csv").write_text("kind\tid\n" + "".join(f"{i}\tx,y\n" for i in kinds))
    expected = fr.report(y, x, labels=labels, methods=("realign",)).outcomes["accuracy"].methods
    forms = [
        labels.tolist(), labels.astype(np.float32), (labels, labels.astype(str)), tmp_path / "l.npy", str(tmp_path / "l.txt"),
        tmp_path / "l.json", f"{tmp_path / 'l.parquet'}:kind",
        tmp_path / "l.csv", tmp_path / "of ids.csv", tmp_path / "spaces.csv", f"{tmp_path / 'tabs.csv'}:kind",
    ]  # fmt: skip
    for given in forms:
        found = fr.report(y, x, labels=given, methods=("realign",))
        assert found.outcomes["accuracy"].methods == expected and found.classes.names == ("0", "1", "2")
    monkeypatch.chdir(tmp_path)
    tables = fr.report("text.parquet", "image.parquet", labels="kind", methods=("realign",))
    assert tables.outcomes["accuracy"].methods["none"].value == expected["none"].value
    with pytest.raises(InputError, match=r"image\.parquet: has no labels 'kindd'"):
        fr.report("text.parquet", "image.parquet", labels="kindd")


@pytest.mark.parametrize(
    "given, words",
    [
        (np.arange(59) % 3, "has 59 labels, expected one for each of 60 rows"),
        (np.arange(61) % 3, "has more than 60 labels, expected one for each of 60 rows"),
        (np.linspace(0, 1, 60), r"number 1 has the label .*0\.0169.*, expected a class"),
        ([None] * 60, r"0 classes in common, expected at least 2 \(source: none; target: none\)"),
        (["a", ["b"] * 300] * 30, r"number 1 has the label .{100}\.\.\., expected a class"),
        ({"a": 1}, "labels of target: a dict, expected a list of a class for each row, a file or a column"),
        ((["a", "b"] * 30, None), "labels of target: None, expected a list"),
        (
            np.arange(60),
            "labels: each of 60 source and 60 target rows has its own, expected classes, .*; are these ids",
        ),
        (
            ([f"t{i}" for i in range(60)], ["t1", "t2"] * 30),
            "the source has 60 different labels in 60 rows, and the target has 2 of them, expected classes",
        ),
        ("labels.npy:kind", r"only \.csv and \.parquet files have columns of labels; leave out ':kind'"),
        (np.zeros((60, 2)), r"of shape \(60, 2\), expected one for each row"),
        (np.zeros(60, int), "have 1 class in common, expected at least 2"),
        ((["a", "b"] * 30, ["c", "d"] * 30), r"0 classes in common.*source: 'a', 'b'; target: 'c', 'd'"),
        ("nowhere.npy", "nowhere.npy"),
        ("labels.xlsx", r"labels are not read from '\.xlsx' files; expected \.txt, \.json, \.npy, \.csv, \.parquet"),
    ],
)
def test_labels_that_are_wrong_are_one_line(labelled, given, words):
    y, x, _ = labelled
    with pytest.raises(InputError, match=f"(?s)^(?!.*\n).*{words}"):
        fr.report(y, x, labels=given)


def test_rows_without_a_label_are_left_out(tmp_path, labelled):
    """As each form writes one that is missing; a class of rows without one would be found where nobody looked."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pd = pytest.importorskip("pandas")
    y, x, labels = labelled
    texts = [None if at % 10 == 0 else str(label) for at, label in enumerate(labels)]
    (tmp_path / "l.txt").write_text("\n".join(text or " " * (at % 3) for at, text in enumerate(texts)))
    (tmp_path / "l.json").write_text(json.dumps(texts))
    pq.write_table(pa.table({"kind": texts}), tmp_path / "l.parquet")
    pd.Series(texts, name="kind").to_csv(tmp_path / "l.csv", index=False)
    (tmp_path / "lines.csv").write_text("kind\n" + "\n".join(text or "" for text in texts) + "\n\n")
    gaps = np.where(np.arange(60) % 10 == 0, np.nan, labels)
    np.save(tmp_path / "l.npy", gaps)
    forms = [
        texts, iter(texts), pd.Series(texts), pd.array(texts, "string"), gaps, tmp_path / "l.txt", tmp_path / "l.json",
        tmp_path / "l.csv", tmp_path / "lines.csv",
        tmp_path / "l.npy", f"{tmp_path / 'l.parquet'}:kind", [text or "" for text in texts],
        np.ma.masked_array(labels, np.isnan(gaps)), [texts, texts],
    ]  # fmt: skip
    found = [fr.report(y, x, labels=given, methods=("none",)) for given in forms]
    for report in found:
        assert report.classes == found[0].classes and report.classes.names == ("0", "1", "2")
        assert report.classes.train + report.classes.test == 54
        notes = [note for note in report.notes if "label" in note]
        said = "6 of its 60 rows have no label; the classifier leaves them out"
        assert notes == [f"target: {said}", f"source: {said}"]


@pytest.mark.parametrize("blank", [0, 1, 3])
@pytest.mark.parametrize("after", ["", "\n", "\n\n"])
@pytest.mark.parametrize("name", ["l.csv", "l.txt"])
def test_rows_without_a_label_at_the_end_of_a_file(tmp_path, labelled, blank, after, name):
    """They are empty lines (of .csv where it has one column): other empty lines at the end are no rows."""
    y, x, labels = labelled
    lines = ["label"] if name == "l.csv" else []
    lines += [*map(str, labels[: 60 - blank]), *[""] * blank]
    (tmp_path / name).write_text("".join(f"{line}\n" for line in lines) + after)
    classes = fr.report(y, x, labels=tmp_path / name, methods=("none",)).classes
    assert classes.train + classes.test == 60 - blank


def test_files_of_labels_that_hold_no_list_say_what_to_do(tmp_path, labelled):
    y, x, labels = labelled
    path = tmp_path / "l.npy"
    for values, words in (
        (labels[:, None], r"l\.npy: holds an array of shape \(60, 1\), expected a list of labels"),
        (
            labels.astype(object),
            r"l\.npy: holds Python objects; save labels as text, np\.save\(path, values\.astype\(str\)\)",
        ),
    ):
        np.save(path, values, allow_pickle=True)
        with pytest.raises(InputError, match=words):
            fr.report(y, x, labels=path)
    (tmp_path / "l.json").write_text('{"0": "a"}')
    with pytest.raises(InputError, match=r"l\.json: holds a dict, expected a list of labels"):
        fr.report(y, x, labels=tmp_path / "l.json")
    for text, given, words in (
        ("kind,id\n" + "a,1\n" * 60, "l.csv:kin", r"l\.csv: has no column 'kin', did you mean 'kind'\?"),
        (
            "kinds,id\n" + "a,1\n" * 60,
            "l.csv",
            r"has no column 'label'; its columns are kinds, id; name one of them, such as \S+l\.csv:kinds$",
        ),
        ("kind,id\na,1\nb\n", "l.csv:kind", r"l\.csv: line 3: 1 value, but the first line names 2"),
        (
            "a\nb\n" * 30,
            "l.csv",
            r"l\.csv: has 59 labels, .*; its first line, 'a', was taken as the name of its column$",
        ),
        ("a\nb\n" * 30 + "\n", "l.csv", r"l\.csv: has 59 labels, .*; its first line, 'a', was taken"),
        ("label\n" + "a\n" * 59, "l.csv", r"l\.csv: has 59 labels, expected one for each of 60 rows, in their order$"),
        ("", "l.csv", r"l\.csv: the first line is empty, expected the names of the columns$"),
        ("\nlabel\na\n", "l.csv", r"l\.csv: the first line is empty, expected the names of the columns$"),
        ("label,id,label\na,1,b\n", "l.csv", r"l\.csv: 2 columns have the name 'label'; rename all but one$"),
        ("kind\nb\xff\n", "l.csv", r"l\.csv: is not readable as \.csv \('utf-8' codec.*\); save it as UTF-8$"),
        ("kind\n" + "x" * 200_000, "l.csv", r"l\.csv: is not readable as \.csv \(field larger than"),
    ):
        (tmp_path / "l.csv").write_bytes(text.encode("latin-1"))
        with pytest.raises(InputError, match=words):
            fr.report(y, x, labels=f"{tmp_path}/{given}")


@pytest.mark.filterwarnings("error:The number of unique classes")
def test_a_target_of_few_rows_of_each_class_is_no_regression(few):
    y, x = few(300, 4)
    labels = np.arange(300) % 40
    report = fr.report(
        y, x[:50], labels=(labels, labels[:50]), methods=("none",)
    )  # the warning of scikit-learn would be an error
    assert report.classes.test == 25 and len(report.classes.names) == 40


def test_one_list_for_sides_that_do_not_match(labelled):
    y, x, labels = labelled
    with pytest.raises(InputError, match="needs rows that match: target has 50 rows, source 60"):
        fr.report(y, x[:50], labels=labels)
    report = fr.report(y, x[:50], labels=(labels, labels[:50]), methods=("none",))
    assert report.classes.train == 60 and report.classes.test == 25


def test_ids_are_no_classes(few):
    y, x = few(1100, 4)
    # All rows count, not those drawn.
    with pytest.raises(
        InputError, match="target: 1,100 rows have more than 1,000 different labels, expected at most 1,000"
    ):
        fr.report(y, x, labels=np.arange(1100), methods=("none",), rows=100)


def test_a_source_of_one_prompt_of_each_class(few):
    """As for zero-shot classification: each class once in the source, many times in the target."""
    y, x = few(400, 4)
    report = fr.report(y[:80], x, labels=(np.arange(80), np.arange(400) % 80), methods=("none",))
    assert (report.classes.train, len(report.classes.names)) == (80, 80)
    assert not any("cannot find the others" in note for note in report.notes)
    wide = np.tile(y, 4)[:80]  # 16 columns: half of the prompts are fitted on
    report = fr.report(wide, np.tile(x, 4), labels=(np.arange(80), np.arange(400) % 80), methods=("none",))
    assert any("have 40 of 80 classes; the classifier cannot find the others" in note for note in report.notes)


def test_label_text():
    values = [
        7,
        7.0,
        np.int8(7),
        "7",
        True,
        np.False_,
        b"caf\xc3\xa9",
        None,
        float("nan"),
        np.float32("nan"),
        np.ma.masked,
    ]
    assert [label_text(value) for value in values] == ["7", "7", "7", "7", "True", "False", "café", "", "", "", ""]
    for value in (0.5, [1], b"\xff"):
        with pytest.raises(InputError, match="label"):
            label_text(value)


def test_a_drawn_side_keeps_its_labels(few):
    """Labels of rows that were not drawn are not used: a class there is no class."""
    y, x = few(200, 4)
    labels = np.array(["a", "b"] * 100)
    from fastrealign.diagnostics.unit_rows import draw

    drawn = draw(200, 100, 0)
    labels[np.setdiff1d(np.arange(200), drawn)] = "c"
    assert fr.report(y, x, labels=labels, rows=100, methods=("none",)).classes.names == ("a", "b")
