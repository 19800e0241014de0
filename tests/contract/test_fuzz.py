"""Damaged files of every format: whatever is done to the bytes, reading ends in rows or in one line that names the file.

`make fuzz` tries for about an hour what takes half a minute here.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import tempfile
import time
import warnings
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import corpus
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrealign.core.errors import InputError
from fastrealign.formats import open_source
from fastrealign.formats.manifest import Manifest

EXAMPLES = int(os.environ.get("FASTREALIGN_FUZZ_EXAMPLES", "40"))
# The CPU time that an example may take, and by how many bytes it may raise the peak: a page of a parquet file may say
# that it has 2 GB, and Arrow makes room for them.
SECONDS, BYTES = 10, 5 << 29
ROWS, IDS = corpus.rows(40, 1, dim=6), np.arange(40)


def npy(path):
    np.save(path, ROWS)


def bfloat16_npy(path):
    import ml_dtypes

    np.save(path, ROWS.astype(ml_dtypes.bfloat16))


def fortran_npy(path):
    np.save(path, np.asfortranarray(ROWS))


def parquet(path):
    corpus.parquet_file(path, ROWS, id=IDS.tolist(), text=[f"caption {i}" for i in IDS])


def arrow(path):
    corpus.arrow_file(path, ROWS, id=IDS.tolist())


def pickled(path):
    corpus.pickle_file(path, [{"id": int(i), "caption": "a", "embed": row} for i, row in zip(IDS, ROWS, strict=True)])


def safetensors(path):
    corpus.safetensors_file(path, ROWS, IDS)


def torch_file(path):
    pytest.importorskip("torch")
    corpus.torch_file(path, ROWS, IDS)


def faiss_file(path):
    pytest.importorskip("faiss")
    corpus.faiss_file(path, ROWS, IDS)


def faiss_index(kind):
    def write(path):
        faiss = pytest.importorskip("faiss")
        index = faiss.index_factory(6, kind)
        index.train(ROWS)
        index.add_with_ids(ROWS, IDS + 3) if "IDMap" in kind or "IVF30" in kind else index.add(ROWS)
        faiss.write_index(index, str(path))

    return write


def three_dimensions(save):
    def write(path):
        save(path, np.ascontiguousarray(ROWS[:, None, :]))

    return write


def columns(kind):
    """Tables whose embeddings have a type of their own, some of them null."""

    def write(path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        values = [None if i in (3, 17) else row.tolist() for i, row in enumerate(ROWS)]
        if kind == "tensor":
            storage = pa.array(values, pa.list_(pa.float32(), 6))
            column = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [6]), storage)
        elif kind == "nested":
            column = pa.array([value and [value] for value in values], pa.list_(pa.list_(pa.float32())))
        elif kind == "views":
            column = pa.array(values, pa.list_view(pa.float32()))
        elif kind == "lists":
            column = pa.array(values, pa.list_(pa.float32()))
        elif kind == "ray":
            column = ray_tensors(pa, values)
        else:
            column = pa.array([None] * len(ROWS), pa.null())
        boxes = pa.array([[0.0, 1.0, 2.0, 3.0]] * len(ROWS), pa.list_(pa.float32()))
        table = pa.table({"id": IDS, "embedding": column, "box": boxes})
        if path.suffix == ".arrow":
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table, max_chunksize=16)
        else:
            pq.write_table(table, path, row_group_size=16)

    return write


def ray_tensors(pa, values):
    """As Ray stores tensors of one shape, without Ray."""

    class Tensor(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.list_(pa.float32()), "ray.data.arrow_tensor")

        def __arrow_ext_serialize__(self):
            return b"[6]"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            return cls()

    return pa.ExtensionArray.from_storage(Tensor(), pa.array(values, pa.list_(pa.float32())))


def rivals(path):
    torch = pytest.importorskip("torch")
    torch.save(
        {"text_features": torch.from_numpy(ROWS[:, None]), "boxes": torch.zeros(40, 4), "names": ["a"] * 40}, path
    )


def pickled_dict(items):
    def write(path):
        path.write_bytes(pickle.dumps(items))

    return write


def save_tensors(path, rows):
    from safetensors.numpy import save_file

    save_file({"embeddings": rows, "ids": IDS}, path)


WHOLE = {
    "a.npy": npy,
    "b.npy": bfloat16_npy,
    "c.npy": fortran_npy,
    "d.parquet": parquet,
    "e.arrow": arrow,
    "f.pkl": pickled,
    "g.safetensors": safetensors,
    "h.pt": torch_file,
    "i.faiss": faiss_file,
    "j.faiss": faiss_index("IVF3,Flat"),
    "k.faiss": faiss_index("IVF30,Flat"),
    "l.faiss": faiss_index("HNSW4"),
    "m.index": faiss_index("IDMap2,IVF3,Flat"),
    "n.faiss": faiss_index("IVF3,Flat,RFlat"),
    "o.npy": three_dimensions(np.save),
    "p.safetensors": three_dimensions(save_tensors),
    "q.pt": rivals,
    "r.parquet": columns("tensor"),
    "s.arrow": columns("tensor"),
    "t.parquet": columns("nested"),
    "u.arrow": columns("views"),
    "v.parquet": columns("lists"),
    "w.parquet": columns("ray"),
    "x.parquet": columns("null"),
    "y.arrow": columns("null"),
    "z.index": faiss_index("IDMap2,HNSW4"),
}
TABLES = [name for name in WHOLE if name.endswith((".parquet", ".arrow"))]
TEXTS = [f"caption {i}" for i in IDS]
# What `convert` reads beside what every command does.
PICKLES = {
    "by id": pickled_dict({int(i): {"caption": "a", "embed": row} for i, row in zip(IDS, ROWS, strict=True)}),
    "sides": pickled_dict(
        {side: {int(i): {"embed": row} for i, row in zip(IDS, ROWS, strict=True)} for side in ("images", "captions")}
    ),
    "lists": pickled_dict({"ids": IDS.tolist(), "captions": TEXTS, "embeddings": ROWS, "boxes": ROWS[:, :4]}),
    "arrays": pickled_dict({f"{i}.jpg": row for i, row in enumerate(ROWS)}),
}

# Where (as a share of the file, so that what is found can be made smaller), what is done there, and with what.
PLACE = st.floats(0, 1, exclude_max=True) | st.floats(0, 0.05) | st.floats(0.9, 1, exclude_max=True)
DAMAGE = st.lists(
    st.tuples(
        st.sampled_from(["flip", "set", "cut", "drop", "insert", "copy", "number"]),
        PLACE,
        st.binary(min_size=1, max_size=16),
    ),
    min_size=1,
    max_size=4,
)
# Numbers that a header may hold: sizes, counts and offsets beyond reason.
NUMBERS = [0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1]


def damaged(data: bytes, damage) -> bytes:
    out = bytearray(data)
    for what, share, value in damage:
        at = int(share * len(out))
        if not out:
            break
        if what == "flip":
            out[at] ^= 1 << (value[0] % 8)
        elif what == "set":
            out[at : at + len(value)] = value[: len(out) - at]
        elif what == "cut":
            del out[at:]
        elif what == "drop":
            del out[at : at + value[0]]
        elif what == "insert":
            out[at:at] = value
        elif what == "copy":
            out[at:at] = out[at : at + 8 * value[0]]
        else:
            number = NUMBERS[value[0] % len(NUMBERS)].to_bytes(8, "little")[: 4 if value[-1] % 2 else 8]
            out[at : at + len(number)] = number[: len(out) - at]
    return bytes(out)


@contextmanager
def within_bounds(path: Path):
    """What may come of damage: an end within seconds and little memory, with one line that names the file if it is refused."""
    started, peak = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError as error:
        assert path.name in str(error), error
        assert "\n" not in str(error), error
    assert time.process_time() - started < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < BYTES >> 10


def read(path: Path) -> None:
    """As a run would read it: rows of the right shape, or an InputError."""
    with within_bounds(path):
        source = open_source(path, side="source")
        for chunk in source:
            assert chunk.ndim == 2 and chunk.shape[1] == source.dim


def whole_file(folder, name):
    """The bytes of a file of that name, written to the folder."""
    try:
        WHOLE[name](folder / name)
    except NotImplementedError:
        if int(version("pyarrow").partition(".")[0]) > 18:
            raise
        pytest.skip("pyarrow 18 writes no such nulls to Parquet")
    return (folder / name).read_bytes()


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_file_is_read_or_reported(tmp_path, name):
    if name.endswith((".parquet", ".arrow")):
        pytest.importorskip("pyarrow")
    whole = whole_file(tmp_path, name)
    path = tmp_path / f"damaged_{name}"

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(DAMAGE)
    def try_it(damage):
        path.write_bytes(damaged(whole, damage))
        read(path)

    try_it()


@pytest.mark.parametrize("name", WHOLE)
def test_a_damaged_file_is_aligned_or_reported(tmp_path, name):
    """A whole run writes as many rows as it says, of finite numbers, or leaves nothing."""
    import fastrealign as fr

    if name in TABLES:
        pytest.importorskip("pyarrow")
    whole = whole_file(tmp_path, name)
    path, out = tmp_path / f"damaged_{name}", tmp_path / "out"
    target = ROWS[::-1] + np.float32(1)

    @settings(max_examples=EXAMPLES // 8, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(DAMAGE)
    def try_it(damage):
        path.write_bytes(damaged(whole, damage))
        shutil.rmtree(out, ignore_errors=True)
        done = None
        with within_bounds(path):
            done = fr.align(path, target, out, bad_rows="skip", fsync=False, threads=1)
        if done is None:
            assert not list(out.rglob("*.*")) or not out.exists(), list(out.rglob("*"))
        else:
            written = open_source(out, side="source")
            assert written.rows == done.rows_out
            assert all(np.isfinite(chunk.astype(np.float64)).all() for chunk in written)

    try_it()


@pytest.mark.parametrize("layout", PICKLES)
def test_a_damaged_pickle_is_converted_or_reported(tmp_path, layout):
    pytest.importorskip("pyarrow")
    import fastrealign as fr

    PICKLES[layout](tmp_path / "whole.pkl")
    whole = (tmp_path / "whole.pkl").read_bytes()
    path, out = tmp_path / "damaged.pkl", tmp_path / "out.parquet"

    @settings(max_examples=EXAMPLES // 2, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(DAMAGE)
    def try_it(damage):
        path.write_bytes(damaged(whole, damage))
        out.unlink(missing_ok=True)
        done = None
        with within_bounds(path):
            done = fr.convert(path, out, column="captions" if layout == "sides" else None, fsync=False)
        assert out.exists() == (done is not None)
        assert done is None or open_source(out, side="source").rows == done.rows

    try_it()


def saved_alignment(path):
    import fastrealign as fr

    fr.fit(ROWS, ROWS + np.float32(1)).save(path)


def saved_baseline(path):
    import fastrealign as fr

    fr.fit(ROWS, ROWS + np.float32(1), method="c3").save(path)


def saved_moments(path):
    import fastrealign as fr

    statistics = fr.Moments(6)
    statistics.update(ROWS)
    statistics.save(path)


def load_moments(path):
    import fastrealign as fr

    return fr.Moments.load(path)


def saved_manifest(path):
    import fastrealign as fr

    fr.apply_files(
        fr.fit(ROWS, ROWS + np.float32(1)), corpus.npy_folder(path.parent / "rows", [ROWS]), path.parent / "out"
    )
    shutil.copy(path.parent / "out" / "manifest.json", path)


@pytest.mark.parametrize("save", [saved_alignment, saved_baseline, saved_moments, saved_manifest])
def test_what_was_saved_and_damaged_is_refused(tmp_path, save):
    """Never read as something else: it carries a checksum."""
    import fastrealign as fr

    save(tmp_path / "whole.safetensors")
    load = {saved_moments: load_moments, saved_manifest: Manifest.load}.get(save, fr.load)
    whole = (tmp_path / "whole.safetensors").read_bytes()
    path = tmp_path / "damaged.safetensors"

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(DAMAGE)
    def try_it(damage):
        data = damaged(whole, damage)
        path.write_bytes(data)
        try:
            load(path)
        except InputError as error:
            assert path.name in str(error) and "\n" not in str(error), error
        else:
            assert data == whole

    try_it()


def test_a_damaged_metadata_file_is_carried_or_reported(tmp_path):
    """clip-retrieval's parquet beside a shard, damaged: the run ends in all of its rows, or in one line."""
    pytest.importorskip("pyarrow")
    import fastrealign as fr

    for name in ("text_emb", "metadata"):
        (tmp_path / "root" / name).mkdir(parents=True)
    np.save(tmp_path / "root" / "text_emb" / "text_emb_0.npy", ROWS)
    path = tmp_path / "root" / "metadata" / "metadata_0.parquet"
    corpus.parquet_file(path, ROWS, "vector", id=IDS.tolist(), caption=[f"caption {i}" for i in IDS])
    whole = path.read_bytes()

    @settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(DAMAGE)
    def try_it(damage):
        path.write_bytes(damaged(whole, damage))
        out = tmp_path / "out"
        shutil.rmtree(out, ignore_errors=True)
        try:
            done = fr.convert(tmp_path / "root", out, to="parquet", side="text")
        except InputError as error:
            assert "\n" not in str(error) and not out.exists(), error
        else:
            assert done.rows == len(ROWS)

    try_it()


def test_a_damaged_dataset_of_lance_is_read_or_reported(tmp_path):
    pytest.importorskip("lance")
    corpus.lance_folder(tmp_path / "whole.lance", ROWS, id=IDS.tolist())
    files = sorted(path.relative_to(tmp_path / "whole.lance") for path in (tmp_path / "whole.lance").rglob("*.*"))
    files = [name for name in files if (tmp_path / "whole.lance" / name).is_file()]

    @settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(files), DAMAGE)
    def try_it(name, damage):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            path = Path(shutil.copytree(tmp_path / "whole.lance", Path(folder, "damaged.lance")))
            (path / name).write_bytes(damaged((path / name).read_bytes(), damage))
            read(path)

    try_it()


def test_a_damaged_dataset_of_hugging_face_is_read_or_reported(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "whole").mkdir()
    corpus.arrow_file(tmp_path / "whole" / "data-00000-of-00001.arrow", ROWS, id=IDS.tolist())
    state = {
        "_data_files": [{"filename": "data-00000-of-00001.arrow"}],
        "_fingerprint": "0123456789abcdef",
        "_split": None,
    }
    (tmp_path / "whole" / "state.json").write_text(json.dumps(state))
    (tmp_path / "whole" / "dataset_info.json").write_text("{}")

    @settings(max_examples=EXAMPLES // 3, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(["state.json", "dataset_info.json", "data-00000-of-00001.arrow"]), DAMAGE)
    def try_it(name, damage):
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            path = Path(shutil.copytree(tmp_path / "whole", Path(folder, "damaged")))
            (path / name).write_bytes(damaged((path / name).read_bytes(), damage))
            read(path)

    try_it()
