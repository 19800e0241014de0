"""LanceDB tables: what is added beside the vectors, what resumes, what is found, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastrealign.cli.main import main
from fastrealign.core.errors import BadRowsError, FastRealignError, InputError
from fastrealign.retrieval import index, searcher
from fastrealign.retrieval.role_maps import Mapper, RoleMaps
from fastrealign.retrieval.stores.base import StoreOptions
from fastrealign.retrieval.stores.lance_store import LanceStore

pa = pytest.importorskip("pyarrow")
lance = pytest.importorskip("lance")


@pytest.fixture
def lancedb():
    """Imported by the tests that use it: it takes seconds, and every process that shares the tests collects this file."""
    return pytest.importorskip("lancedb")


def table_of(rows, kinds, first=0):
    vectors = pa.FixedSizeListArray.from_arrays(rows.ravel(), rows.shape[1])
    return pa.table({"id": np.arange(first, first + len(rows)), "vector": vectors, "modality": kinds})


def read(folder):
    table = lance.dataset(str(folder)).to_table().sort_by("id")
    return {name: table[name].to_pylist() for name in table.column_names}


@pytest.fixture
def store(tmp_path, documents, lancedb):
    """A table of 100 rows in three fragments, some rows deleted: its database, and the table."""
    rows, kinds = documents(100)
    table = lancedb.connect(tmp_path / "db").create_table("docs", table_of(rows[:40], kinds[:40]))
    table.add(table_of(rows[40:70], kinds[40:70], 40))
    table.add(table_of(rows[70:], kinds[70:], 70))
    table.delete("id % 7 = 3")
    return tmp_path / "db", table


def check(folder, mapped):
    held = read(folder / "docs.lance")
    expected = mapped(np.array(held["vector"], np.float32), held["modality"])
    assert np.array_equal(np.array(held["vector_aligned"], np.float32), expected)
    return held


def test_a_column_beside(store, roles, mapped):
    folder, table = store
    before = read(folder / "docs.lance")
    report = index(folder, roles, role_column="modality")
    held = check(folder, mapped)
    assert {name: held[name] for name in before} == before
    assert (report.rows, report.before, sum(report.roles.values())) == (len(held["id"]), 0, len(held["id"]))
    again = index(folder, roles, role_column="modality")
    assert (again.rows, again.before) == (0, report.rows)
    table.checkout_latest()  # LanceDB reads and searches what pylance wrote
    query = np.array(held["vector_aligned"][5], np.float32)
    assert table.search(query, vector_column_name="vector_aligned").limit(1).to_list()[0]["id"] == held["id"][5]


def test_rows_that_are_added(store, roles, mapped, documents):
    """New fragments, and null rows among others after the table was compacted."""
    folder, table = store
    for _ in range(2):
        index(folder, roles, role_column="modality")
        table.checkout_latest()
        rows, kinds = documents(20)
        table.add(table_of(rows, kinds, 1000))
        report = index(folder, roles, role_column="modality")
        assert report.rows == 20
        check(folder, mapped)
        table.checkout_latest()
        table.add(table_of(rows, kinds, 2000))
        table.optimize()
    table.checkout_latest()


def test_a_row_that_changed(store, roles, mapped):
    """Mapped again where its aligned vector was emptied."""
    folder, table = store
    index(folder, roles, role_column="modality")
    table.checkout_latest()
    table.update(where="id = 4", values_sql={"modality": "'image'", "vector_aligned": "null"})
    table.update(where="id = 5", values_sql={"modality": "'text'", "vector_aligned": "null"})
    assert index(folder, roles, role_column="modality").rows == 2
    check(folder, mapped)


def test_what_is_compared(store, roles, mapped, monkeypatch):
    """Rows whose file of vectors is another than at the last run; a column that was dropped and added again is one."""
    compared, real = [], Mapper.changed
    monkeypatch.setattr(Mapper, "changed", lambda *given: compared.append(len(given[1].rows)) or real(*given))
    folder, table = store
    index(folder, roles, role_column="modality")
    assert (index(folder, roles, role_column="modality").rows, sum(compared)) == (0, 0)
    table.checkout_latest()
    table.optimize()  # which writes all rows to one file
    assert index(folder, roles, role_column="modality").before == sum(compared) > 80
    data = lance.dataset(str(folder / "docs.lance"))
    rows = data.to_table(["vector"])
    changed = np.array(rows["vector"].to_pylist(), np.float32)
    changed[7] = -np.roll(changed[7], 1)
    data.drop_columns(["vector"])
    lists = pa.FixedSizeListArray.from_arrays(changed.ravel(), changed.shape[1])
    lance.dataset(str(folder / "docs.lance")).add_columns(pa.table({"vector": lists}).to_reader())
    assert index(folder, roles, role_column="modality").changed == 1
    check(folder, mapped)
    compared.clear()
    assert (index(folder, roles, role_column="modality").rows, sum(compared)) == (0, 0)


def test_a_kill_at_any_batch(store, roles, mapped, small_batches, killed_at):
    folder, _ = store
    batches = 0
    for n in range(1, 10):
        killed_at(n)
        try:
            index(folder, roles, role_column="modality")
        except BaseException as error:
            assert type(error).__name__ == "Killed"
            batches += 1
            assert index_done(folder) <= 86
        else:
            break
    assert batches > 2
    killed_at(None)
    index(folder, roles, role_column="modality")
    check(folder, mapped)


def index_done(folder):
    data = lance.dataset(str(folder / "docs.lance"))
    return data.count_rows("vector_aligned is not null")


def test_complete_fragments_stay(store, roles, small_batches, killed_at):
    folder, _ = store
    killed_at(6)  # in the third fragment
    with pytest.raises(BaseException):  # noqa: B017
        index(folder, roles, role_column="modality")
    done = index_done(folder)
    calls = killed_at(None)
    report = index(folder, roles, role_column="modality")
    assert done == report.before > 40
    assert sum(calls) == report.rows == 86 - done


def test_bad_rows(tmp_path, roles, documents, mapped):
    rows, kinds = documents(30)
    rows[4], rows[9] = 0.0, np.nan
    table = table_of(rows, kinds)
    vectors = pa.array(
        [None if i == 7 else row for i, row in enumerate(table["vector"].to_pylist())], table["vector"].type
    )
    lance.write_dataset(table.set_column(1, "vector", vectors), str(tmp_path / "db" / "docs.lance"))
    with pytest.raises(BadRowsError, match=r"docs.lance: row 4 is all zeros; fix it, or .*bad_rows=.skip."):
        index(tmp_path / "db", roles, role_column="modality", id_column="id")
    report = index(tmp_path / "db", roles, role_column="modality", bad_rows="skip")
    assert (report.rows, report.skipped) == (27, 2)
    held = read(tmp_path / "db" / "docs.lance")
    assert [i for i, row in enumerate(held["vector_aligned"]) if row is None] == [4, 7, 9]
    with pytest.warns(UserWarning, match="the old vectors stay, since 2 rows could not be mapped"):
        index(tmp_path / "db", roles, role_column="modality", bad_rows="skip", drop_old=True)


def test_other_roles(store, roles, others, mapped):
    folder, _ = store
    index(folder, others, role_column="modality")
    with pytest.raises(InputError, match=r"vector_aligned was made with other roles \(realign, .*restart=True"):
        index(folder, roles, role_column="modality")
    with pytest.raises(InputError, match="made with the roles in modality, now role 'image' for all rows is asked for"):
        index(folder, others, role="image")
    with pytest.raises(InputError, match="made with other roles"):
        searcher(folder, roles)
    index(folder, roles, role_column="modality", restart=True)
    check(folder, mapped)
    index(folder, others, role_column="modality", to="second")
    assert "second" in read(folder / "docs.lance")


def test_the_old_vectors_go(store, roles, check_dropped):
    folder, _ = store
    report = index(folder, roles, role_column="modality", drop_old=True)
    assert report.dropped == "vector" and "dropped    vector" in str(report)
    assert "vector" not in read(folder / "docs.lance")
    check_dropped(folder, roles, "vector_aligned", report.rows, "vector", role_column="modality")
    with pytest.raises(InputError, match="vector_aligned holds what `fastrealign index` aligned"):
        index(folder, roles, role_column="modality", column="vector_aligned", to="twice")
    assert "twice" not in read(folder / "docs.lance")
    with searcher(folder, roles, id_column="id") as search:
        assert search.search(np.ones(8), 3).ids.shape == (1, 3)


@pytest.mark.parametrize("metric", [None, "cosine", "L2"])
def test_search(store, roles, metric):
    folder, _ = store
    index(folder, roles, role_column="modality")
    data = lance.dataset(str(folder / "docs.lance"))
    if metric:
        data.create_index("vector_aligned", "IVF_FLAT", metric=metric, num_partitions=1)
    held = read(folder / "docs.lance")
    queries = np.random.default_rng(0).standard_normal((3, 8))
    with searcher(folder, roles, id_column="id") as search:
        found = search.search(queries, 5)
    scores = roles["query"](queries) @ np.array(held["vector_aligned"]).T
    best = np.argsort(-scores, axis=1)[:, :5]
    assert np.array_equal(found.ids.astype(int), np.array(held["id"])[best])
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, best, 1), atol=1e-6)
    assert np.array_equal(found.roles, np.array(held["modality"], object)[best])


def test_an_index_that_covers_empty_rows(store, roles, mapped, documents):
    """Rows that were indexed while they had no aligned vector are found when they have one."""
    folder, table = store
    index(folder, roles, role_column="modality")
    lance.dataset(str(folder / "docs.lance")).create_index(
        "vector_aligned", "IVF_FLAT", metric="cosine", num_partitions=1
    )
    table.checkout_latest()
    rows, kinds = documents(20)
    table.add(table_of(rows, kinds, 1000))
    lance.dataset(str(folder / "docs.lance")).optimize.optimize_indices()
    index(folder, roles, role_column="modality")
    with searcher(folder, roles, id_column="id") as search:
        found = search._opened.search(mapped(rows, kinds), 1, None)
    assert found.ids[:, 0].tolist() == [*range(1000, 1020)]


def test_l2_on_rows_that_are_not_unit(store, roles):
    folder, table = store
    index(folder, roles, role_column="modality")
    table.checkout_latest()
    table.update(where="id = 0", values={"vector_aligned": [3.0] * 8})
    lance.dataset(str(folder / "docs.lance")).create_index("vector_aligned", "IVF_FLAT", metric="L2", num_partitions=1)
    with pytest.raises(InputError, match="metric is L2 and rows of vector_aligned are not of unit length"):
        searcher(folder, roles)


@pytest.mark.parametrize(
    "how, said",
    [
        ({"table": "dosc"}, "there is no table 'dosc', did you mean 'docs'"),
        ({"column": "vectr"}, "there is no vector column 'vectr', did you mean 'vector'"),
        ({"role_column": "modalty"}, "there is no column 'modalty', did you mean 'modality'"),
        ({"role_column": None, "role": "imgae"}, "there is no role 'imgae', did you mean 'image'"),
        ({"role_column": None}, "role_column="),
        ({"role": "image"}, "role= and role_column= contradict"),
        ({"to": "modality"}, "there is a column modality already"),
        ({"bad_rows": "keep"}, "expected one of error, skip"),
    ],
)
def test_refused(store, roles, how, said):
    folder, _ = store
    before = read(folder / "docs.lance")
    with pytest.raises(InputError, match=said):
        index(folder, roles, **{"role_column": "modality", **how})
    assert read(folder / "docs.lance") == before


def test_values_that_are_no_roles(store, roles):
    folder, table = store
    table.update(where="id in (1, 2)", values={"modality": "imgae"})
    table.update(where="id = 4", values_sql={"modality": "null"})
    with pytest.raises(
        InputError,
        match=r"modality of 3 rows is no role: 'imgae' \(2, did you mean 'image'\), empty \(1\); .*correct modality",
    ):
        index(folder, roles, role_column="modality")
    assert "vector_aligned" not in read(folder / "docs.lance")


@pytest.mark.parametrize("kind", ["list<float>", "fixed_size_list<uint8>"])
def test_columns_of_other_types(tmp_path, roles, documents, kind):
    rows, kinds = documents(5)
    of = pa.list_(pa.float32()) if kind == "list<float>" else pa.list_(pa.uint8(), 8)
    values = pa.array((rows if kind == "list<float>" else np.abs(rows).astype(np.uint8)).tolist(), of)
    path = str(tmp_path / "docs.lance")
    lance.write_dataset(pa.table({"vector": values, "modality": kinds}), path)
    for how in ({}, {"column": "vector"}):
        with pytest.raises(
            InputError, match=r"vector holds .*list<item: .*, expected vectors of one width, as LanceDB"
        ):
            index(path, roles, role_column="modality", **how)
    with pytest.raises(InputError, match="modality holds string, expected vectors of one width"):
        index(path, roles, role_column="modality", column="modality")


def test_vectors_in_a_struct(tmp_path, roles, documents):
    rows, kinds = documents(5)
    path = str(tmp_path / "docs.lance")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float32).ravel()), rows.shape[1])
    outer = pa.StructArray.from_arrays([pa.StructArray.from_arrays([vectors], ["emb"])], ["s"])
    lance.write_dataset(pa.table({"of": outer, "modality": kinds}), path)
    for how in ({}, {"column": "of.s.emb"}):
        with pytest.raises(
            InputError, match=r"of.s.emb holds .*\[8\] in a struct, expected .*; name another column, or"
        ):
            index(path, roles, role_column="modality", **how)


def test_the_first_format(tmp_path, roles, documents, mapped):
    """Refused with a command that helps."""
    old, new = str(tmp_path / "old.lance"), str(tmp_path / "new.lance")
    lance.write_dataset(table_of(*documents(20)), old, data_storage_version="legacy")
    with pytest.raises(InputError, match=r"is in the first format of Lance, .*rewrite it: ") as error:
        index(old, roles, role_column="modality")
    said = str(error.value).partition("rewrite it: ")[2]
    exec(said.replace("OLD", repr(old)).replace("NEW", repr(new)), {"lance": lance})
    assert index(new, roles, role_column="modality").rows == 20


def test_another_width(tmp_path, roles, lancedb):
    rows = np.ones((5, 6), np.float32)
    lancedb.connect(tmp_path / "db").create_table("docs", table_of(rows, ["image"] * 5))
    with pytest.raises(InputError, match="the vectors of vector are 6 wide, the roles were fitted on 8"):
        index(tmp_path / "db", roles, role="image")


def test_nothing_there(tmp_path, roles, lancedb):
    with pytest.raises(InputError, match="no such file or folder"):
        index(tmp_path / "none", roles, role="image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="looks like no store"):
        index(tmp_path / "empty", roles, role="image")
    with pytest.raises(InputError, match="there is no vector_aligned as `fastrealign index` writes it"):
        lancedb.connect(tmp_path / "db").create_table("docs", table_of(np.ones((5, 8), np.float32), ["image"] * 5))
        searcher(tmp_path / "db", roles)


def test_command(store, roles, mapped, tmp_path, capsys):
    folder, _ = store
    roles.save(tmp_path / "roles.safetensors")
    words = ["index", str(folder), "--roles", str(tmp_path / "roles.safetensors"), "--role-column", "modality"]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 86
    assert main(words) == 0
    assert "nothing: all is done" in capsys.readouterr().out
    check(folder, mapped)
    assert main([*words, "--table", "dosc"]) == 2
    assert "did you mean 'docs'" in capsys.readouterr().err


def test_two_runs_that_begin_at_once(store, roles, others):
    """The second finds the columns of the first; those of other roles are refused."""
    folder, _ = store
    stores = [LanceStore(str(folder / "docs.lance"), StoreOptions()) for _ in range(3)]
    records = [
        {"fingerprint": RoleMaps.of(one).fingerprint, "role_column": "modality"} for one in (roles, roles, others)
    ]
    stores[0].begin(records[0], 8)
    stores[1].begin(records[1], 8)
    assert stores[1].record() == records[0] and stores[1].pending() == stores[0].pending()
    with pytest.raises(FastRealignError, match=r"docs.lance: .*run again when it is done"):
        stores[2].begin(records[2], 8)


def test_two_runs_at_once(store, roles, mapped, monkeypatch):
    """A second run that is faster: each fragment gets one column of aligned vectors."""
    folder, _ = store
    real, begun = Mapper.__call__, []

    def call(self, batch):
        done = real(self, batch)
        if not begun:
            begun.append(True)
            index(folder, roles, role_column="modality")
        return done

    monkeypatch.setattr(Mapper, "__call__", call)
    index(folder, roles, role_column="modality")
    check(folder, mapped)
    data = lance.dataset(str(folder / "docs.lance"))
    assert {len(fragment.data_files()) for fragment in data.get_fragments()} == {2}
