"""Who does the work: threads, memory, devices. The CPU as torch sees it stands for a GPU: same copies, no streams."""

from __future__ import annotations

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.cpu import default_threads
from fastrealign.core.dtypes import CODES
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.progress import Progress
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.data.options import PassOptions
from fastrealign.data.reduction import reduce_source
from fastrealign.data.row_source import PIECE_BYTES
from fastrealign.data.sources import open_rows
from fastrealign.data.workers import DEVICE_PIECE_BYTES, THREADS_A_DEVICE, Device, Host, Workers

MiB = 1 << 20


def test_threads_and_pieces():
    assert Workers.of() == Workers(default_threads(), (), PIECE_BYTES)
    assert Workers.of(3).threads == 3
    assert Workers.of(4, None, 8 * MiB) == Workers(4, (), MiB)
    assert Workers.of(4, None, 100 * MiB).piece_bytes == PIECE_BYTES
    tight = Workers.of(64, None, MiB)
    assert 2 * tight.threads * tight.piece_bytes <= MiB and tight.threads == 8
    assert isinstance(Workers.of(2).place(1), Host)
    with pytest.raises(InputError, match="max_memory=1000: expected a whole number of at least 131072, in bytes"):
        Workers.of(1, None, 1000)


def test_devices():
    pytest.importorskip("torch")
    workers = Workers.of(None, ["cpu", "cpu"])
    assert (workers.threads, workers.piece_bytes) == (2 * THREADS_A_DEVICE, DEVICE_PIECE_BYTES)
    assert isinstance(workers.place(3), Device)
    for name, says in (
        ("99", "device 99: cannot be used here: "),
        ("gpu", "device gpu: cannot be used here: "),
        ("", "a name is empty"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            Workers.of(None, [name])
        assert "\n" not in str(caught.value)


@pytest.fixture(params=CODES, ids=str)
def any_dtype(request):
    return request.param


def test_a_device_computes_what_the_cpu_does(rows_of, any_dtype):
    pytest.importorskip("torch")
    rows = rows_of(50, 9, any_dtype)
    rows[7] = 0
    maps = [UNIT, RowMap(0.9, np.linspace(-0.1, 0.1, 9), np.linspace(0.1, 0.0, 9))]
    sums = [[ExactSum(9) for _ in maps] for _ in range(2)]
    outs, flags = [], np.empty((2, 50), np.uint8)
    for i, place in enumerate((Host(), Device("cpu"))):
        counts = place.reduce(rows, maps, sums[i], 1)
        assert (counts.good, counts.bad, counts.first_bad) == (49, 1, 7)
        memory = place.memory(rows.nbytes)
        outs.append(memory.view(rows.dtype).reshape(rows.shape))
        counts = place.apply(rows, maps[1], outs[i], sums[i][1], flags[i], 1)
        assert (counts.bad, counts.why) == (1, "is all zeros")
    assert sums[0] == sums[1]
    np.testing.assert_array_equal(outs[0].view(np.uint8), outs[1].view(np.uint8))
    np.testing.assert_array_equal(flags[0], flags[1])
    read_only = rows.copy()
    read_only.setflags(write=False)
    Device("cpu").reduce(read_only, maps, sums[1], 1)


def test_progress_says_which_devices_compute(rows_of):
    pytest.importorskip("torch")
    phases = []

    class Shown(Progress):
        def start(self, phase, rows, nbytes):
            phases.append(phase)

    for devices in ((), ("cpu", "cpu")):
        workers = Workers(2, devices)
        options = PassOptions(workers=workers, progress=Shown())
        reduce_source(open_rows(rows_of(20, 4, np.dtype(np.float32)), "source"), UNIT, "reading", options)
    assert phases == ["reading", "reading on cpu (cpu kernels)"]


MAPS = [UNIT, RowMap(0.9, np.linspace(-0.1, 0.1, 9), np.linspace(0.1, 0.0, 9))]


def test_a_device_waits_for_the_stream_that_computes_its_rows(rows_of, monkeypatch):
    torch = pytest.importorskip("torch")
    from fake_gpu import FakeGpu

    gpu, values, rows = FakeGpu(monkeypatch), rows_of(50, 9, np.dtype(np.float32)), torch.ones(50, 9)
    gpu.current.enqueue(lambda: rows.copy_(torch.from_numpy(values)))
    found, expected = ([ExactSum(9) for _ in MAPS] for _ in range(2))
    counts = gpu.place().reduce(rows, MAPS, found, 1)
    assert counts == Host().reduce(values, MAPS, expected, 1) and found == expected


def test_a_piece_on_a_device_costs_one_wait_and_maps_are_packed_once(rows_of, monkeypatch):
    pytest.importorskip("torch")
    from fake_gpu import FakeGpu

    gpu, rows = FakeGpu(monkeypatch), rows_of(50, 9, np.dtype(np.float32))
    place, sums, out, flags = gpu.place(), [ExactSum(9) for _ in MAPS], np.empty_like(rows), np.empty(50, np.uint8)
    for pieces in (1, 2, 3):
        assert place.reduce(rows, MAPS, sums, 1).good == 50
        assert (gpu.waits, gpu.packed) == (pieces, len(MAPS))
    assert place.apply(rows, MAPS[1], out, ExactSum(9), flags, 1).good == 50
    assert (gpu.waits, gpu.packed) == (4, len(MAPS))


def test_threads_copy_arrays_to_the_buffers_from_which_a_device_copies(rows_of, monkeypatch, any_dtype):
    pytest.importorskip("torch")
    rows, buffers, used = rows_of(1000, 9, any_dtype), [], []
    memory, reduce = Device.memory, Device.reduce

    def recorded(place, nbytes):
        buffers.append(memory(place, nbytes))
        return buffers[-1]

    def seen(place, piece, *arguments):
        used.append(any(np.shares_memory(piece.view(np.uint8), buffer) for buffer in buffers))
        return reduce(place, piece, *arguments)

    monkeypatch.setattr(Device, "memory", recorded)
    monkeypatch.setattr(Device, "reduce", seen)
    options = PassOptions(workers=Workers(3, ("cpu",), 100 * rows[0].nbytes))
    sums, this = reduce_source(open_rows(rows, "source"), UNIT, "reading", options)
    expected, _ = reduce_source(open_rows(rows, "source"), UNIT, "reading")
    assert sums == expected and this.good == 1000
    assert len(buffers) == 3 and used == [True] * 10


@pytest.fixture(scope="module", params=["npy", "parquet"])
def alone(request, tmp_path_factory):
    """(text, image, parts, what one thread makes of them): shards of one format, the runs, and two fits."""
    folder = tmp_path_factory.mktemp("alone")
    parts = [corpus.rows(n, n, dim=130) for n in (3000, 1, 700)]
    if request.param == "npy":
        text = corpus.npy_folder(folder / "text", parts)
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        text = folder / "text"
        text.mkdir()
        for i, part in enumerate(parts):
            column = pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), 130)
            pq.write_table(pa.table({"embedding": column, "id": range(len(part))}), text / f"part_{i}.parquet")
    image = corpus.npy_folder(folder / "image", [corpus.rows(500, 2, dim=130)])
    made = {}
    for bad_rows in ("error", "skip"):
        fr.align(text, image, folder / bad_rows, centroid="exact", bad_rows=bad_rows, threads=1)
        made[bad_rows] = corpus.tree(folder / bad_rows)
    made["fit"] = fr.fit(text, image, threads=1).fingerprint
    made["chunks"] = fr.fit([parts[0], parts[2]], parts[0]).fingerprint
    return text, image, parts, made


@pytest.mark.parametrize(
    "how",
    [{"devices": ["cpu"]}, {"devices": ["cpu", "cpu"], "threads": 3}, {"max_memory": 2 * MiB}, {"max_memory": 200_000}],
    ids=str,
)
def test_the_same_bytes_for_every_kind_of_worker(tmp_path, alone, how):
    pytest.importorskip("torch")
    text, image, parts, made = alone
    for bad_rows in ("error", "skip"):
        fr.align(text, image, tmp_path / bad_rows, centroid="exact", bad_rows=bad_rows, **how)
        assert corpus.tree(tmp_path / bad_rows) == made[bad_rows]
    assert fr.fit(text, image, **how).fingerprint == made["fit"]
    assert fr.fit([parts[0], parts[2]], parts[0], **how).fingerprint == made["chunks"]


def test_on_the_command_line(tmp_path, capsys):
    pytest.importorskip("torch")
    text = corpus.npy_folder(tmp_path / "text", [corpus.rows(300, 1, dim=16)])
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(300, 2, dim=16)])
    words = ["align", str(text), "--target", str(image), "--quiet", "--out"]
    assert main([*words, str(tmp_path / "a"), "--devices", "cpu", "--max-memory", "4 MiB"]) == 0
    assert main([*words, str(tmp_path / "b")]) == 0
    assert corpus.tree(tmp_path / "a") == corpus.tree(tmp_path / "b")
    assert main([*words, str(tmp_path / "c"), "--devices", "0,77"]) == 2
    assert "cannot be used here" in capsys.readouterr().err
    for text_of_size, says in (("much", "'much' is not a size such as 200MB or 2GiB"), ("1kB", "of at least 131072")):
        assert main([*words, str(tmp_path / "c"), "--max-memory", text_of_size]) == 2
        assert says in capsys.readouterr().err
