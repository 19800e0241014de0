"""Everything that holds embeddings, read as the same rows in the same order, and what is no source."""

from __future__ import annotations

import itertools
import pickle

import ml_dtypes
import numpy as np
import pytest

from fastrealign import formats
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.progress import Progress
from fastrealign.core.row_map import UNIT
from fastrealign.data import sources
from fastrealign.data.options import PassOptions
from fastrealign.data.pipeline import Pass
from fastrealign.data.reduction import reduce_source
from fastrealign.data.reservoir import Reservoir
from fastrealign.data.row_source import PIECE_BYTES
from fastrealign.data.sources import open_rows
from fastrealign.data.workers import Workers


class Again:
    """A re-iterable: counts how often it was begun."""

    def __init__(self, chunks):
        self.chunks = chunks
        self.begun = 0

    def __iter__(self):
        self.begun += 1
        yield from self.chunks


def read(source):
    """All rows as a pass sees them, and the number of the first row of each chunk over the whole source."""
    scratch = np.empty(PIECE_BYTES + source.d * 8, np.uint8)
    chunks, firsts = [], []
    for piece in source.pieces():
        for lo, rows in source.chunks(piece, scratch):
            firsts.append(piece.first - piece.lo + lo)
            chunks.append(rows.astype(np.float64))
    lengths = [len(chunk) for chunk in chunks]
    assert firsts == [0, *itertools.accumulate(lengths)][:-1]
    return np.concatenate(chunks)


def save_shards(folder, parts, write):
    folder.mkdir()
    for i, part in enumerate(parts):
        write(folder, i, part)
    return folder


def save_npy(folder, i, part):
    np.save(folder / f"shard_{i}.npy", part)


def save_pickle(folder, i, part):
    items = [{"id": f"{i}-{k}", "caption": "words", "embed": row} for k, row in enumerate(part)]
    (folder / f"text_embeds_{i}.pkl").write_bytes(pickle.dumps(items))


def save_parquet(folder, i, part):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    values = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1)), part.shape[1])
    pq.write_table(pa.table({"embedding": values}), folder / f"part_{i}.parquet")


def save_safetensors(folder, i, part):
    from safetensors.numpy import save_file

    save_file({"ids": np.arange(len(part)), "embeddings": part}, folder / f"part_{i}.safetensors")


def save_torch(folder, i, part):
    torch = pytest.importorskip("torch")
    torch.save({"ids": list(range(len(part))), "embeddings": torch.from_numpy(part)}, folder / f"part_{i}.pt")


def save_faiss(folder, i, part):
    faiss = pytest.importorskip("faiss")
    index = faiss.IndexFlatL2(part.shape[1])
    index.add(part)
    faiss.write_index(index, str(folder / f"part_{i}.index"))


SAVE = {
    "npy": save_npy,
    "pickle": save_pickle,
    "parquet": save_parquet,
    "safetensors": save_safetensors,
    "torch": save_torch,
    "faiss": save_faiss,
}


@pytest.fixture(params=["array", "tensor", "chunks", "re-iterable", *SAVE, "list of paths", "glob"])
def spec_of(request, tmp_path):
    """spec_of(rows): the float32 rows as one of the kinds of source."""

    def spec_of(rows):
        parts = np.split(rows, [len(rows) // 3, len(rows) // 2])
        match request.param:
            case "array":
                return rows
            case "tensor":
                return pytest.importorskip("torch").from_numpy(rows)
            case "chunks":
                return parts
            case "re-iterable":
                return Again(parts)
            case "list of paths":
                folder = save_shards(tmp_path / "list", parts, save_npy)
                return [str(folder / "shard_0.npy"), folder / "shard_1.npy", folder / "shard_2.npy"]
            case "glob":
                return str(save_shards(tmp_path / "glob", parts, save_npy) / "shard_*.npy")
            case name:
                return save_shards(tmp_path / name, parts, SAVE[name])

    return spec_of


def test_the_same_rows_from_every_kind_of_source(rows_of, spec_of):
    rows = rows_of(97, 12)
    source = open_rows(spec_of(rows), "source")
    assert source.d == 12
    assert source.rows in (97, None)
    for _ in range(2):
        np.testing.assert_array_equal(read(source), rows)
    assert source.rows == 97
    assert source.nbytes in (rows.nbytes, None)


def test_the_same_sums_from_every_kind_of_source(rows_of, map_of, spec_of):
    rows, row_map = rows_of(97, 12), map_of(12)
    expected, _ = reduce_source(open_rows(rows, "source"), row_map, "adding", PassOptions(workers=Workers.of(1)))
    source = open_rows(spec_of(rows), "source")
    for threads in (1, 3):
        sums, this = reduce_source(source, row_map, "adding", PassOptions(workers=Workers.of(threads)))
        assert sums == expected
        assert (this.good, this.bad) == (97, 0)


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_bad_row_is_named_in_every_kind_of_source(rows_of, spec_of, value):
    rows = rows_of(97, 12)
    rows[[55, 70, 90]] = value
    spec = spec_of(rows)
    source = open_rows(spec, "target")
    with pytest.raises(BadRowsError) as caught:
        reduce_source(source, UNIT, "adding", PassOptions(workers=Workers.of(3)))
    message = str(caught.value)
    # The shards have 32, 16 and 49 rows: row 55 is row 7 of the third.
    where = "_2." if isinstance(source, sources.FileSource) else "target: row 55 "
    assert where in message and ("row 7 " in message or "row 55 " in message)
    assert ("is all zeros" if value == 0 else "has a NaN or Inf") in message
    assert "\n" not in message
    sums, this = reduce_source(source, UNIT, "adding", PassOptions("skip"))
    assert (sums.count, this.good, this.bad) == (94, 94, 3)
    assert sums == reduce_source(open_rows(np.delete(rows, [55, 70, 90], 0), "source"), UNIT, "adding")[0]


def test_the_first_bad_row_is_named_whichever_thread_meets_one_first(rows_of, tmp_path):
    rows = rows_of(50_000, 64)
    bad = [20_011, 20_012, 41_000, 49_999]
    rows[bad] = 0
    np.save(tmp_path / "rows.npy", rows)
    source = open_rows(tmp_path / "rows.npy", "source")
    workers = Workers.of(4, None, 8 << 20)
    assert len(list(source.pieces(workers.piece_bytes))) > 4
    for _ in range(5):
        with pytest.raises(BadRowsError, match=r"rows\.npy: row 20011 is all zeros"):
            reduce_source(source, UNIT, "adding", PassOptions(workers=workers))


def test_large_files_and_arrays_come_in_pieces(rows_of, map_of, monkeypatch, tmp_path):
    rows, row_map = rows_of(30_000, 64), map_of(64)
    np.save(tmp_path / "rows.npy", rows)
    whole, _ = reduce_source(open_rows(rows, "source"), row_map, "adding")
    monkeypatch.setattr(sources, "rows_in", lambda nbytes, d, dtype: 777)
    for spec in (rows, tmp_path / "rows.npy"):
        source = open_rows(spec, "source")
        pieces = list(source.pieces())
        assert [piece.lo for piece in pieces] == list(range(0, 30_000, 777))
        assert reduce_source(source, row_map, "adding", PassOptions(workers=Workers.of(3)))[0] == whole


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_chunks_may_differ_in_element_type(rows_of, dtype):
    rows = rows_of(40, 6, dtype)
    source = open_rows([rows[:11], rows[11:].astype(np.float64)], "source")
    np.testing.assert_array_equal(read(source), rows.astype(np.float64))


def test_tensors_as_chunks(rows_of):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(rows_of(40, 6)).bfloat16()
    source = open_rows(list(tensor.split(9)), "source")
    np.testing.assert_array_equal(read(source), tensor.double().numpy())


def test_the_sample_sees_every_row_once_with_its_number(rows_of, spec_of):
    rows = rows_of(97, 12)
    sample = Reservoir(1000)
    reduce_source(
        open_rows(spec_of(rows), "source"), UNIT, "looking", PassOptions(workers=Workers.of(3)), sample=sample
    )
    np.testing.assert_array_equal(sample.rows(), rows)


def test_open_rows_takes_what_it_made(rows_of):
    source = open_rows(rows_of(3, 4), "source")
    assert open_rows(source, "target") is source


class Named:
    """A path of another library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_paths_of_any_kind_and_lists_of_them_name_files(rows_of, tmp_path):
    rows = rows_of(40, 3)
    for i, part in enumerate(np.split(rows, 2)):
        np.save(tmp_path / f"{i}.npy", part)
    paths = [tmp_path / "0.npy", tmp_path / "1.npy"]
    for spec in (paths, [str(paths[0]), paths[1]], tuple(map(Named, paths)), Named(tmp_path)):
        found = open_rows(spec, "source")
        assert isinstance(found, sources.FileSource) and found.rows == 40
    for spec in ([], [rows, str(paths[0])], rows):
        assert not sources.names_files(spec)


def test_open_rows_takes_opened_files(rows_of, tmp_path):
    np.save(tmp_path / "a.npy", rows_of(5, 4))
    source = open_rows(formats.open_source(tmp_path, side="source"), "source")
    assert isinstance(source, sources.FileSource)
    assert source.rows == 5


# --- what is no source -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [iter, lambda chunks: (chunk for chunk in chunks), lambda chunks: map(np.copy, chunks)]
)
def test_an_iterator_is_read_once_pilot_and_all(rows_of, make):
    rows = rows_of(50, 4)
    source = open_rows(make(np.split(rows, [3, 20, 21])), "source")
    assert not source.again and source.d == 4
    np.testing.assert_array_equal(source.pilot(10), rows[:10])
    sums, _ = reduce_source(source, UNIT, "adding")
    expected, _ = reduce_source(open_rows(rows, "source"), UNIT, "adding")
    assert sums == expected
    with pytest.raises(InputError) as caught:
        reduce_source(source, UNIT, "adding")
    message = str(caught.value)
    assert message.startswith(
        "source: an iterator can be read once, and this reads more than once; pass a list of chunks"
    )
    assert "an object whose __iter__ starts at the first chunk" in message


def test_an_iterator_may_use_its_memory_again(rows_of):
    rows = rows_of(90, 4)

    def chunks():
        memory = np.empty((30, 4), np.float32)
        for part in np.split(rows, 3):
            memory[:] = part
            yield memory

    source = open_rows(chunks(), "source")
    np.testing.assert_array_equal(source.pilot(70), rows[:70])
    sums, _ = reduce_source(source, UNIT, "adding")
    assert sums == reduce_source(open_rows(rows, "source"), UNIT, "adding")[0]


def test_the_pilot_of_files_comes_from_all_over_and_not_from_their_order(rows_of, tmp_path):
    parts = [rows_of(40, 3) for _ in range(40)]
    paths = [tmp_path / f"part_{i:02}.npy" for i in range(40)]
    for path, part in zip(paths, parts, strict=True):
        np.save(path, part)
    pilot = open_rows(paths, "source").pilot(100)
    assert len(pilot) >= 100 and len(np.unique(pilot, axis=0)) == len(pilot)
    everything = {tuple(row) for row in np.concatenate(parts).astype(np.float64)}
    assert all(tuple(row) in everything for row in pilot)
    from_shard = [sum(tuple(row) in {tuple(r) for r in part.astype(np.float64)} for row in pilot) for part in parts]
    assert sum(count > 0 for count in from_shard) >= 10
    np.testing.assert_array_equal(open_rows(paths[::-1], "source").pilot(100), pilot)


def test_chunks_that_change_between_passes_are_refused(rows_of):
    rows = rows_of(10, 4)
    changing = Again([rows])
    source = open_rows(changing, "source")
    reduce_source(source, UNIT, "adding")
    changing.chunks = [rows[:7]]
    with pytest.raises(InputError, match="source: 7 rows in this pass, 10 in the one before"):
        reduce_source(source, UNIT, "adding")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (5, "target: int, expected a path, a glob, a folder, an array, a tensor or an iterable of chunks"),
        (None, "target: NoneType, expected"),
        ([], r"target: yields no chunks, expected \(rows, width\) arrays$"),
        (iter([]), "target: yields no chunks, .*; an iterator that was read before is empty: pass a new one"),
        (b"embeddings.npy", "target: bytes, expected a path"),
        ("", "the target is '', expected a path$"),
        (["", ""], "the target is '', expected a path$"),
        (np.ones(3, np.float32), r"target: shape \(3,\), expected two dimensions"),
        (np.ones((3, 2), np.int32), "target: element type int32, expected .*convert"),
        ([np.ones((3, 1, 1))], r"target, chunk 0: shape \(3, 1, 1\), expected two dimensions"),
        ([["a"]], "target: row 0: a list that holds a str, expected rows of numbers"),
    ],
)
def test_what_is_no_source_is_refused(spec, says):
    with pytest.raises(InputError, match=says) as caught:
        open_rows(spec, "target")
    assert "\n" not in str(caught.value)


def test_chunks_of_another_width_or_type_are_named(rows_of):
    source = open_rows([rows_of(4, 6), rows_of(4, 6), rows_of(4, 5)], "source")
    with pytest.raises(InputError, match="source, chunk 2: rows are 5 wide, those before 6"):
        reduce_source(source, UNIT, "adding")
    source = open_rows([rows_of(4, 6), np.ones((4, 6), np.int64)], "source")
    with pytest.raises(InputError, match="source, chunk 1: element type int64"):
        reduce_source(source, UNIT, "adding")


def test_missing_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.npy"):
        open_rows(tmp_path / "nowhere.npy", "source")


# --- passes ----------------------------------------------------------------------------------------------------------


class Watching(Progress):
    """Keeps the calls."""

    def __init__(self):
        self.events = []

    def start(self, phase, rows, nbytes):
        self.events.append(("start", phase, rows, nbytes))

    def advance(self, rows, nbytes):
        self.events.append(("advance", rows, nbytes))

    def finish(self):
        self.events.append(("finish",))


def test_a_pass_reports_all_of_its_rows_and_bytes(rows_of, spec_of):
    rows = rows_of(97, 12)
    source = open_rows(spec_of(rows), "source")
    watching = Watching()
    reduce_source(source, UNIT, "adding up", PassOptions(workers=Workers.of(2), progress=watching))
    assert watching.events[0][:2] == ("start", "adding up")
    assert watching.events[-1] == ("finish",)
    advances = [events for events in watching.events if events[0] == "advance"]
    assert sum(rows for _, rows, _ in advances) == 97
    assert sum(nbytes for _, _, nbytes in advances) == rows.nbytes


@pytest.mark.parametrize("threads", [1, 3])
def test_what_work_raises_comes_out_and_ends_the_pass(rows_of, tmp_path, threads):
    np.save(tmp_path / "rows.npy", rows_of(60_000, 64))
    for spec in (rows_of(10, 64), tmp_path / "rows.npy"):
        watching = Watching()
        this = Pass(open_rows(spec, "source"), "failing", PassOptions(workers=Workers.of(threads), progress=watching))

        def work(piece, lo, rows, kernel_threads):
            raise ZeroDivisionError("no disk")

        with pytest.raises(ZeroDivisionError, match="no disk"):
            this.run(lambda place, work=work: work)
        assert watching.events[-1] == ("finish",)


def test_a_pass_refuses_other_ways_with_bad_rows(rows_of):
    with pytest.raises(InputError, match="bad_rows='drop': expected one of error, skip, keep"):
        Pass(open_rows(rows_of(3, 4), "source"), "adding", PassOptions("drop"))
