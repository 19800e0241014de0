"""Bad input through the command line: one line that names the file, exit code 2, and nothing written."""

from __future__ import annotations

import gc
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main


@pytest.fixture
def refuses(tmp_path, capfd):
    """Runs `align TEXT --target IMAGE`, expects exit code 2, one line that holds the pieces, and no output."""

    def refuses(text, image, *pieces, options=(), code=2):
        out = tmp_path / "refused_output"
        assert main(["align", str(text), "--target", str(image), "--out", str(out), *options]) == code
        printed = capfd.readouterr()
        assert printed.out == ""
        lines = [line for line in printed.err.splitlines() if not line.startswith("fastrealign: warning: ")]
        assert len(lines) == 1 and lines[0].startswith("fastrealign: error: "), printed.err
        for piece in pieces:
            assert str(piece) in lines[0], lines[0]
        assert not out.exists()
        return lines[0]

    return refuses


@pytest.fixture
def sides(tmp_path):
    return corpus.two_sides(tmp_path)


@pytest.mark.parametrize(
    "value, why", [(np.nan, "has a NaN or Inf"), (-np.inf, "has a NaN or Inf"), (0, "is all zeros")]
)
@pytest.mark.parametrize("side", [0, 1])
def test_a_row_without_a_direction(sides, refuses, side, value, why):
    path = sides[side] / "part_1.npy"
    rows = np.load(path)
    rows[17] = value
    np.save(path, rows)
    refuses(*sides, f"{path}: row 17 {why}", "--bad-rows")


@pytest.mark.parametrize("bad_rows, kept", [("skip", 179), ("keep", 180)])
def test_a_row_without_a_direction_left_out_or_kept(tmp_path, sides, capfd, bad_rows, kept):
    rows = np.load(sides[0] / "part_1.npy")
    rows[17] = np.nan
    np.save(sides[0] / "part_1.npy", rows)
    out = tmp_path / "out"
    assert main(["align", *map(str, (sides[0], "--target", sides[1], "--out", out)), "--bad-rows", bad_rows]) == 0
    assert "part_1.npy: row 17 has a NaN or Inf" in capfd.readouterr().out
    assert len(corpus.loaded(out)) == kept


def test_a_row_that_the_map_sends_to_zero(tmp_path, capfd):
    # s = 1, b = -e0: the row e0 becomes 0. Only apply can meet it without the fit having met it before.
    import fastrealign as fr

    e0 = np.eye(corpus.DIM)[0]
    alignment = fr.Alignment(1.0, -e0, 0 * e0, e0, 0 * e0, 0.5, 0.5, 9, 9, 1.0)
    alignment.save(tmp_path / "a.safetensors")
    rows = corpus.rows(40, 1)
    rows[33] = 5 * e0
    np.save(tmp_path / "t.npy", rows)
    assert main(["apply", *map(str, (tmp_path / "a.safetensors", tmp_path / "t.npy", "--out", tmp_path / "out"))]) == 2
    assert "t.npy: row 33 is sent to zero by the map" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_truncated_npy(sides, refuses):
    path = sides[0] / "part_1.npy"
    os.truncate(path, path.stat().st_size - 4)
    refuses(*sides, path, "truncated")


def test_an_npy_of_objects(sides, refuses):
    path = sides[0] / "part_1.npy"
    np.save(path, np.array([[{}]], dtype=object), allow_pickle=True)
    refuses(*sides, path, "object", "expected float16, bfloat16, float32 or float64")


def test_an_npy_of_integers(sides, refuses):
    path = sides[1] / "part_1.npy"
    np.save(path, np.ones((9, corpus.DIM), np.int8))
    refuses(*sides, path, "int8", "convert")


def test_a_file_of_no_bytes(sides, refuses):
    path = sides[0] / "part_1.npy"
    path.write_bytes(b"")
    refuses(*sides, path, "empty")


def test_a_header_without_data(sides, refuses):
    path = sides[0] / "part_1.npy"
    os.truncate(path, 128)
    refuses(*sides, path, "truncated")


def test_a_file_that_is_no_npy(sides, refuses):
    path = sides[0] / "part_1.npy"
    path.write_bytes(b"something else, of some length")
    refuses(*sides, path, "not a .npy file")


def test_a_folder_without_shards(tmp_path, sides, refuses):
    (tmp_path / "empty").mkdir()
    refuses(tmp_path / "empty", sides[1], tmp_path / "empty", "no shards")
    refuses(sides[0], tmp_path / "empty", tmp_path / "empty", "no shards")


def test_a_path_that_is_not_there(tmp_path, sides, refuses):
    refuses(tmp_path / "nowhere.npy", sides[1], "nowhere.npy: no such file")
    refuses(tmp_path / "nowhere", sides[1], "nowhere")
    refuses(f"{tmp_path}/*.npy", sides[1], "matches no shard")


def test_shards_of_different_width(sides, refuses):
    path = sides[0] / "part_2.npy"
    np.save(path, corpus.rows(20, 1, dim=8))
    refuses(*sides, path, "8", "16", "one width")


def test_text_and_image_of_different_width(tmp_path, sides, refuses):
    other = corpus.npy_folder(tmp_path / "other", [corpus.rows(20, 1, dim=8)])
    refuses(sides[0], other, sides[0], other, "16 wide", "8", "same encoder pair")


def test_too_few_rows(tmp_path, sides, refuses):
    one = corpus.npy_folder(tmp_path / "one", [corpus.rows(1, 1)])
    refuses(one, sides[1], one, "1 row, expected at least 2")


def test_all_rows_alike(tmp_path, sides, refuses):
    same = corpus.npy_folder(tmp_path / "same", [np.ones((50, corpus.DIM), np.float32)])
    refuses(same, sides[1], same, "point the same way")


class TestTables:
    @pytest.fixture(params=["parquet", "arrow", "lance"])
    def write(self, request):
        """write(folder, embeddings, ...): a shard with columns in each of the formats that have them."""
        pytest.importorskip("pyarrow")
        if request.param == "lance":
            pytest.importorskip("lance")
        make = {"parquet": corpus.parquet_file, "arrow": corpus.arrow_file, "lance": corpus.lance_folder}[request.param]
        return lambda folder, *args, **columns: make(folder / f"a.{request.param}", *args, **columns)

    def test_without_the_column(self, tmp_path, sides, refuses, write):
        path = write(tmp_path / "p", corpus.rows(20, 1), name="vector", id=list(range(20)))
        refuses(path.parent, sides[1], path, "no column 'embedding'", "id, vector", options=["--column", "embedding"])

    def test_ragged(self, tmp_path, sides, refuses, write):
        lists = [list(row) for row in corpus.rows(20, 1)]
        lists[13] = lists[13][:-1]
        path = write(tmp_path / "p", lists)
        refuses(path.parent, sides[1], path, "row 13 has 15 values, others have 16")

    @pytest.mark.parametrize("of", ["row", "value"])
    def test_null(self, tmp_path, sides, refuses, of, write):
        lists = [list(row) for row in corpus.rows(20, 1)]
        if of == "row":
            lists[13] = None
        else:
            lists[13][4] = None
        path = write(tmp_path / "p", lists)
        refuses(path.parent, sides[1], path, "row 13", "null")

    @pytest.mark.parametrize("value, why", [(np.nan, "has a NaN or Inf"), (0, "is all zeros")])
    def test_a_row_without_a_direction(self, tmp_path, sides, refuses, write, value, why):
        rows = corpus.rows(20, 1)
        rows[17] = value
        path = write(tmp_path / "p", rows)
        refuses(path.parent, sides[1], f"{path}: row 17 {why}", "--bad-rows")

    def test_of_another_width(self, tmp_path, sides, refuses, write):
        path = write(tmp_path / "p", corpus.rows(20, 1, dim=8))
        refuses(path.parent, sides[1], path.parent, sides[1], "8 wide", "16")

    def test_cut_off(self, tmp_path, sides, refuses, write):
        path = write(tmp_path / "p", corpus.rows(20, 1))
        file = next((path / "data").iterdir()) if path.is_dir() else path
        os.truncate(file, file.stat().st_size // 2)
        refuses(path.parent, sides[1], path, "make it again")

    def test_of_no_bytes(self, tmp_path, sides, refuses, write):
        path = write(tmp_path / "p", corpus.rows(20, 1))
        file = next((path / "_versions").glob("*.manifest")) if path.is_dir() else path
        file.write_bytes(b"")
        refuses(path.parent, sides[1], path)

    def test_cannot_hold_bfloat16(self, tmp_path, sides, refuses, write):
        path = write(tmp_path / "p", corpus.rows(20, 1))
        refuses(path.parent, sides[1], f"{path.suffix[1:]} has no bfloat16", options=["--dtype", "bfloat16"])


@pytest.mark.parametrize("suffix", corpus.TENSOR_FILES)
class TestTensorFiles:
    @pytest.fixture
    def path(self, tmp_path, suffix):
        """The second of three shards."""
        pytest.importorskip(corpus.NEEDED[suffix])
        for i in range(3):
            corpus.TENSOR_FILES[suffix](tmp_path / "p" / f"part_{i}{suffix}", corpus.rows(20, i), np.arange(20))
        return tmp_path / "p" / f"part_1{suffix}"

    @pytest.mark.parametrize("share", [0.05, 0.5, 0.999])
    def test_cut_off(self, path, sides, refuses, share):
        os.truncate(path, int(path.stat().st_size * share))
        message = refuses(path.parent, sides[1], path)
        assert any(word in message for word in ("truncated", "cut short", "not a FAISS index", "not a readable"))

    def test_no_bytes(self, path, sides, refuses):
        path.write_bytes(b"")
        refuses(path.parent, sides[1], path, "empty (0 bytes)")

    def test_something_else(self, path, sides, refuses):
        path.write_bytes(b"\x93NUMPY" + bytes(200))
        refuses(path.parent, sides[1], path)

    def test_other_width(self, path, suffix, sides, refuses):
        corpus.TENSOR_FILES[suffix](path, corpus.rows(20, 1, dim=8), np.arange(20))
        refuses(path.parent, sides[1], path, "8", "16", "one width")

    @pytest.mark.parametrize("value, why", [(np.nan, "has a NaN or Inf"), (0, "is all zeros")])
    def test_a_row_without_a_direction(self, path, suffix, sides, refuses, value, why):
        rows = corpus.rows(20, 1)
        rows[17] = value
        corpus.TENSOR_FILES[suffix](path, rows, np.arange(20))
        refuses(path.parent, sides[1], f"{path}: row 17 {why}", "--bad-rows")


def test_a_faiss_index_cannot_hold_float16(tmp_path, sides, refuses):
    pytest.importorskip("faiss")
    path = corpus.faiss_file(tmp_path / "p" / "a.faiss", corpus.rows(20, 1), np.arange(20))
    refuses(path, sides[1], "a flat FAISS index holds float32, not float16", options=["--dtype", "float16"])


def test_a_shard_that_has_the_name_of_the_alignment(tmp_path, sides, refuses):
    path = corpus.safetensors_file(tmp_path / "p" / "alignment.safetensors", corpus.rows(20, 1), np.arange(20))
    refuses(path.parent, sides[1], path, "the run's own alignment.safetensors", "rename it")


class _Runs:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def test_a_pickle_that_would_run_code(tmp_path, sides, refuses):
    path = corpus.pickle_file(tmp_path / "p" / "a.pkl", [{"id": 0, "embed": _Runs(tmp_path / "ran")}])
    refuses(path.parent, sides[1], path, "posix.system", "refused")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "items, named",
    [
        ({"id": 1}, "expected a list"),
        ([1, 2], "item 0"),
        ([{"id": 0, "embed": "text"}], "item 0"),
        ([{"id": 0, "embed": np.ones((2, 16), np.float32)}], "shape (2, 16)"),
        ([{"id": 0, "vector": np.ones(16, np.float32)}], "no item has the key 'embed'"),
        ([{"id": i, "embed": np.ones(16 - i // 3, np.float32)} for i in range(4)], "item 3 has 15 values"),
        ([{"id": 0, "embed": None}], "no embeddings"),
    ],
)
def test_a_pickle_of_the_wrong_shape(tmp_path, sides, refuses, items, named):
    path = corpus.pickle_file(tmp_path / "p" / "a.pkl", items)
    refuses(path.parent, sides[1], path.parent, named)


def test_a_damaged_pickle(tmp_path, sides, refuses):
    path = corpus.pickle_file(tmp_path / "p" / "a.pkl", [{"id": 0, "embed": np.ones(16, np.float32)}])
    os.truncate(path, path.stat().st_size - 5)
    refuses(path.parent, sides[1], path, "not a readable pickle")


@pytest.mark.parametrize("policy", ["error", "keep"])
@pytest.mark.parametrize("name", ["b", "c", "mean_target"])
def test_a_damaged_alignment(tmp_path, sides, capfd, name, policy):
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    fr.fit(*sides).save(path)
    with safe_open(path, framework="numpy") as file:
        tensors, record = {one: file.get_tensor(one) for one in file.keys()}, file.metadata()  # noqa: SIM118 (not a dict)
    tensors[name][0] = np.nan
    save_file(tensors, path, record)
    assert main(["apply", str(path), str(sides[0]), "--out", str(tmp_path / "out"), "--bad-rows", policy]) == 2
    assert f"{path}: a damaged alignment: {name} holds a NaN or an Inf" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_formats_in_one_folder(sides, refuses):
    corpus.pickle_file(sides[0] / "a.pkl", [])
    refuses(*sides, sides[0], "two formats")


def test_a_file_that_may_not_be_read(refuses, capfd):
    if os.geteuid() != 0:
        pytest.skip("becoming another user, whom file permissions bind, takes root")
    # pytest's own folders are closed to other users.
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o777)
        text, image = corpus.two_sides(root)
        (text / "part_1.npy").chmod(0)
        os.seteuid(65534)
        try:
            code = main(["align", str(text), "--target", str(image), "--out", str(root / "out")])
        finally:
            os.seteuid(0)
        assert code == 2
        assert f"{text}/part_1.npy: cannot be read: permission denied" in capfd.readouterr().err
        assert not (root / "out").exists()
    finally:
        shutil.rmtree(root)


def test_an_output_folder_that_may_not_be_written(capfd):
    if os.geteuid() != 0:
        pytest.skip("becoming another user, whom file permissions bind, takes root")
    root = Path(tempfile.mkdtemp())
    try:
        root.chmod(0o755)
        text, image = corpus.two_sides(root)
        os.seteuid(65534)
        try:
            code = main(["align", str(text), "--target", str(image), "--out", str(root / "out")])
        finally:
            os.seteuid(0)
        assert code == 1
        printed = capfd.readouterr().err
        assert f"{root}/out" in printed and "Permission denied" in printed and printed.count("\n") == 1
    finally:
        shutil.rmtree(root)


def test_a_folder_with_the_name_of_a_shard(sides, refuses):
    (sides[0] / "part_1.npy").unlink()
    (sides[0] / "part_1.npy").mkdir()
    refuses(*sides, "part_1.npy: is a folder")


def test_an_output_that_is_not_empty(tmp_path, sides, capfd):
    out = tmp_path / "out"
    command = ["align", *map(str, (sides[0], "--target", sides[1], "--out", out))]
    assert main(command) == 0
    before = corpus.tree(out)
    capfd.readouterr()
    assert main(command) == 2
    message = capfd.readouterr().err
    assert message.startswith(f"fastrealign: error: {out}: is not empty")
    assert "--resume" in message and "--overwrite" in message and message.count("\n") == 1
    assert corpus.tree(out) == before
    assert main([*command, "--resume"]) == 0
    assert "nothing to do" in capfd.readouterr().out
    assert main([*command, "--overwrite"]) == 0
    assert corpus.tree(out) == before


def test_an_output_inside_the_input(sides, capfd):
    before = corpus.tree(sides[0])
    assert main(["align", *map(str, (sides[0], "--target", sides[1], "--out", sides[0] / "aligned"))]) == 2
    assert "lies inside the input" in capfd.readouterr().err
    assert corpus.tree(sides[0]) == before


@pytest.fixture
def small_disk(little_to_collect):
    """A file system of 4 MB."""
    folder = Path(tempfile.mkdtemp())
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode != 0:
        folder.rmdir()
        pytest.skip("mounting a small tmpfs takes root")
    yield folder
    gc.collect()  # a traceback may still hold an open file
    subprocess.run(["umount", folder], check=True)
    folder.rmdir()


def test_a_full_disk_in_the_first_shard(tmp_path, small_disk, capfd):
    np.save(tmp_path / "text.npy", corpus.rows(80_000, 1))
    np.save(tmp_path / "image.npy", corpus.rows(100, 2))
    out = small_disk / "out"
    assert main(["align", *map(str, (tmp_path / "text.npy", "--target", tmp_path / "image.npy", "--out", out))]) == 1
    printed = capfd.readouterr().err
    assert printed.startswith(f"fastrealign: error: {out}/text.npy: could not be written: No space left on device;")
    assert printed.count("\n") == 1
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("kind", ["arrow", "lance"])
def test_a_full_disk_in_a_table(tmp_path, small_disk, capfd, kind):
    pytest.importorskip("pyarrow" if kind == "arrow" else "lance")
    make = {"arrow": corpus.arrow_file, "lance": corpus.lance_folder}[kind]
    text = make(tmp_path / f"text.{kind}", corpus.rows(80_000, 1))
    np.save(tmp_path / "image.npy", corpus.rows(100, 2))
    out = small_disk / "out"
    assert main(["align", *map(str, (text, "--target", tmp_path / "image.npy", "--out", out))]) == 1
    printed = capfd.readouterr().err
    assert printed.startswith(f"fastrealign: error: {out}/text.{kind}: could not be written:"), printed
    assert "No space left on device" in printed and "free some space" in printed and printed.count("\n") == 1
    assert list(small_disk.iterdir()) == []


def test_a_full_disk_in_a_later_shard_and_more_room(tmp_path, small_disk, capfd):
    text, image = corpus.two_sides(tmp_path, shards=6, each=16_000)
    out = small_disk / "out"
    command = ["align", *map(str, (text, "--target", image, "--out", out)), "--threads", "1"]
    assert main(command) == 1
    printed = capfd.readouterr().err
    assert "No space left on device" in printed
    assert re.search(r"\d of 6 shards (is|are) complete, resume with --resume", printed), printed
    assert not [name for name in corpus.tree(out) if name.endswith(".tmp")]
    subprocess.run(["mount", "-o", "remount,size=40m", small_disk], check=True)
    assert main([*command, "--resume"]) == 0
    assert main(["align", *map(str, (text, "--target", image, "--out", tmp_path / "whole"))]) == 0
    assert corpus.tree(out) == corpus.tree(tmp_path / "whole")


def test_the_errors_of_a_real_process(sides):
    path = sides[0] / "part_1.npy"
    os.truncate(path, 200)
    command = [
        sys.executable,
        "-m",
        "fastrealign",
        "align",
        sides[0],
        "--target",
        sides[1],
        "--out",
        sides[0].parent / "out",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastrealign: error: {path}: truncated") and done.stderr.count("\n") == 1
    reported = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "FASTREALIGN_DEBUG": "1"}
    )
    assert reported.returncode == 2 and "Traceback" in reported.stderr


def test_a_pickle_like_any_other_is_read_back_by_pickle(tmp_path, sides):
    path = corpus.pickle_file(
        tmp_path / "p" / "a.pkl", [{"id": i, "embed": row[None]} for i, row in enumerate(corpus.rows(40, 1))]
    )
    assert main(["align", *map(str, (path, "--target", sides[1], "--out", tmp_path / "out"))]) == 0
    assert pickle.loads((tmp_path / "out" / "a.pkl").read_bytes())[3]["embed"].shape == (1, 16)
