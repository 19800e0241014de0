"""npy.py: every header that numpy.load reads as 2-D floats is read the same; every damaged one is named."""

from __future__ import annotations

import io
import os

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format
from shards import rewrite, rewrite_at_random

from fastrealign.core.errors import FastRealignError, InputError
from fastrealign.formats import npy
from fastrealign.formats.npy import NpyShard, NpyWriter

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def matrix(rows=23, dim=5, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(dtype)


def opened(path):
    return NpyShard(path, path.name)


def bits(x):
    return np.ascontiguousarray(x).view(np.uint8)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_round_trip(tmp_path, rows_in, dtype, order, version):
    x = np.array(matrix(dtype=dtype), order=order)
    with open(tmp_path / "in.npy", "wb") as file:
        npy_format.write_array(file, x, version=version)
    shard = opened(tmp_path / "in.npy")
    assert (shard.rows, shard.dim, shard.dtype, shard.skipped, shard.random_access) == (23, 5, dtype, 0, True)
    assert np.array_equal(bits(rows_in(shard)), bits(x))
    scratch = np.empty(6 * 5 * 8, np.uint8)
    for lo, hi in [(0, 6), (5, 11), (22, 23), (23, 23), (0, 0)]:
        assert np.array_equal(bits(shard.read(lo, hi, scratch)), bits(x[lo:hi]))
    with shard.writer(tmp_path / "out.npy", dtype, shard.rows) as writer:
        for part in shard.chunks(4):
            writer.write(part)
        writer.commit()
        writer.commit()
        writer.abort()
    again = io.BytesIO()
    np.save(again, np.ascontiguousarray(x))
    assert (tmp_path / "out.npy").read_bytes() == again.getvalue()


def test_every_dtype_out(tmp_path, rows_in, dtype):
    x = matrix()
    with NpyWriter(tmp_path / "out.npy", dtype, 5, 23) as writer:
        writer.write(x)
        writer.commit()
    shard = opened(tmp_path / "out.npy")
    assert shard.dtype == dtype
    assert np.array_equal(bits(rows_in(shard)), bits(x.astype(dtype)))


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_big_endian(tmp_path, rows_in, dtype, order):
    x = np.array(matrix(dtype=dtype), order=order)
    np.save(tmp_path / "x.npy", x)
    shard = opened(tmp_path / "x.npy")
    assert shard.dtype.isnative
    assert np.array_equal(rows_in(shard), x)


def test_bfloat16_in_either_byte_order(tmp_path, rows_in):
    x = matrix(dtype=BFLOAT16)
    np.save(tmp_path / "little.npy", x)
    assert b"'<V2'" in (tmp_path / "little.npy").read_bytes()[:128]
    head = (tmp_path / "little.npy").read_bytes()[:128]
    (tmp_path / "bare.npy").write_bytes(head.replace(b"<V2", b"|V2") + x.tobytes())
    (tmp_path / "big.npy").write_bytes(head.replace(b"<V2", b">V2") + x.view("u2").byteswap().tobytes())
    for name in ("little", "bare", "big"):
        shard = opened(tmp_path / f"{name}.npy")
        assert shard.dtype == BFLOAT16
        assert np.array_equal(bits(rows_in(shard)), bits(x))


def test_wide_fortran_file_is_gathered_block_by_block(tmp_path, rows_in):
    x = np.asfortranarray(matrix(9, 200))
    np.save(tmp_path / "x.npy", x)
    assert np.array_equal(rows_in(opened(tmp_path / "x.npy"), chunk=4), x)


def test_empty_shard(tmp_path, rows_in):
    np.save(tmp_path / "x.npy", np.zeros((0, 7), np.float16))
    shard = opened(tmp_path / "x.npy")
    assert (shard.rows, shard.dim) == (0, 7)
    assert rows_in(shard).shape == (0, 7)
    with shard.writer(tmp_path / "y.npy", shard.dtype, 0) as writer:
        writer.commit()
    assert (tmp_path / "y.npy").read_bytes() == (tmp_path / "x.npy").read_bytes()


descriptions = st.tuples(
    st.sampled_from(["<f2", "<f4", "<f8", ">f2", ">f4", ">f8", "=f4"]),
    st.integers(0, 40),
    st.integers(1, 70),
    st.booleans(),
    st.sampled_from([(1, 0), (2, 0), (3, 0)]),
    st.integers(0, 300),
    st.integers(1, 50),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(descriptions)
def test_headers_agree_with_numpy_load(tmp_path, rows_in, description):
    descr, rows, dim, fortran, version, padding, chunk = description
    x = matrix(rows, dim, np.dtype(descr), seed=rows * 71 + dim)
    text = f"{{'shape': ({rows}, {dim}), 'descr': '{descr}', 'fortran_order': {fortran}}}" + " " * padding + "\n"
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    head = npy_format.magic(*version) + length + text.encode()
    path = tmp_path / "x.npy"
    path.write_bytes(head + x.tobytes(order="F" if fortran else "C"))
    assert np.array_equal(rows_in(opened(path), chunk), np.load(path))


numbers = st.sampled_from(["0", "7", "07", "-1", "1_0", "123456789012345678", "9" * 5000, "", "2.0"])
near_the_usual = st.tuples(
    st.sampled_from(["<f4", ">f8", "<V2", ">V2", "<f16", "|f4", "<i4", "<f4'", "<U2"]),
    st.sampled_from(["True", "False", "None", "true"]),
    st.tuples(numbers, numbers),
    st.sampled_from([", }", "}", ", 'x': 1}", ", }}"]),
    st.sampled_from(["\n", "   \n", "", "x\n", "\n\n"]),
    st.sampled_from([0, 0, 0, -1, 1]),
)


@settings(deadline=None, max_examples=300)
@given(near_the_usual)
def test_headers_near_the_usual_one_are_read_as_numpy_reads_them(description):
    descr, fortran, (rows, dim), end, space, off = description
    text = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': ({rows}, {dim}){end}{space}".encode()
    head = npy_format.magic(1, 0) + (len(text) + off).to_bytes(2, "little") + text
    file = io.BytesIO(head)
    npy_format.read_magic(file)
    try:
        expected = (*npy_format.read_array_header_1_0(file), file.tell())
    except Exception:
        with pytest.raises(InputError, match=r"x\.npy: has a damaged"):
            npy._parse_header(head, "x.npy")
    else:
        assert npy._parse_header(head, "x.npy") == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 300))
def test_damaged_headers_raise_nothing_but_input_errors(tmp_path, damage, size):
    np.save(tmp_path / "x.npy", matrix(8, 5))
    data = bytearray((tmp_path / "x.npy").read_bytes())
    for at, value in damage:
        data[at] = value
    (tmp_path / "x.npy").write_bytes(data[:size])
    try:
        for _ in opened(tmp_path / "x.npy").chunks(3):
            pass
    except InputError as error:
        assert "x.npy" in str(error)


@pytest.mark.parametrize(
    ("array", "pieces"),
    [
        (np.zeros(5, np.float32), ["shape (5,)", "(rows, width)"]),
        (np.zeros((2, 3, 4), np.float32), ["shape (2, 3, 4)"]),
        (np.zeros((), np.float32), ["shape ()"]),
        (np.zeros((4, 0), np.float32), ["shape (4, 0)"]),
        (np.zeros((2, 3), np.int8), ["int8", "float32", "convert"]),
        (np.zeros((2, 3), np.complex64), ["complex64"]),
        (np.zeros((2, 3), np.longdouble), [np.dtype(np.longdouble).name]),
        (np.zeros((2, 3), bool), ["bool"]),
        (np.zeros((2, 3), "U4"), ["<U4"]),
        (np.zeros((2, 3), "V2, f4"), ["f1", "save the field"]),
        (np.zeros((2, 3), "V3"), ["V3"]),
        (np.full((2, 3), None, object), ["object"]),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")) + str(getattr(value, "shape", "")),
)
def test_wrong_kind_of_array(tmp_path, refused, array, pieces):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    refused(lambda: opened(tmp_path / "x.npy"), tmp_path / "x.npy", *pieces)


def test_object_array_is_never_unpickled(tmp_path, refused):
    class Bomb:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/ran",))

    np.save(tmp_path / "x.npy", np.array([[Bomb()]], object), allow_pickle=True)
    refused(lambda: opened(tmp_path / "x.npy"), "x.npy", "object")
    assert not (tmp_path / "ran").exists()


def rewritten(path, change):
    np.save(path, matrix())
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.mark.parametrize(
    ("change", "pieces"),
    [
        (lambda data: b"", ["empty (0 bytes)"]),
        (lambda data: data[:4], ["not a .npy file"]),
        (lambda data: b"PAR1" + data[4:], ["not a .npy file"]),
        (lambda data: data[:7], ["damaged"]),
        (lambda data: data[:60], ["damaged"]),
        (lambda data: data[:6] + b"\x04" + data[7:], ["damaged", "version (4, 0) is unknown"]),
        (lambda data: data.replace(b"<f4", b"<q9"), ["damaged"]),
        (lambda data: data.replace(b"'descr'", b"'deskr'"), ["damaged"]),
        (lambda data: data.replace(b"(23, 5)", b"(-3, 5)"), ["shape (-3, 5)"]),
        (lambda data: data.replace(b"'<f4'", b"[1,2]"), ["damaged"]),
        (lambda data: data[:128], ["truncated", "23 x 5", "588 bytes", "has 128"]),
        (lambda data: data[:-1], ["truncated", "588 bytes", "has 587"]),
        (lambda data: data + data, ["588 bytes", "has 1176", "several arrays"]),
    ],
)
def test_damaged_file(tmp_path, refused, change, pieces):
    path = rewritten(tmp_path / "x.npy", change)
    refused(lambda: opened(path), path, *pieces)


def test_header_beyond_numpys_limit(tmp_path, refused):
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1)}" + b" " * 20_000 + b"\n"
    head = npy_format.magic(1, 0) + len(text).to_bytes(2, "little") + text
    (tmp_path / "x.npy").write_bytes(head + b"\0\0\0\0")
    refused(lambda: opened(tmp_path / "x.npy"), "x.npy", "damaged")


def test_parser_that_python_fails_now_and_then(tmp_path, refused, monkeypatch):
    with open(tmp_path / "x.npy", "wb") as file:
        npy_format.write_array(file, matrix(), version=(2, 0))
    fails = [0]
    real = npy._PARSERS[2, 0]

    def parse(text):
        shape = real(text)
        fails[0] -= 1
        if fails[0] >= 0:
            raise SystemError("AST constructor recursion depth mismatch")
        return shape

    monkeypatch.setitem(npy._PARSERS, (2, 0), parse)
    for fails[0] in range(5):
        assert opened(tmp_path / "x.npy").rows == 23
    fails[0] = 99
    refused(lambda: opened(tmp_path / "x.npy"), "x.npy", "recursion depth mismatch")


def test_file_cut_after_it_was_opened(tmp_path, refused):
    np.save(tmp_path / "x.npy", matrix())
    shard = opened(tmp_path / "x.npy")
    os.truncate(tmp_path / "x.npy", 400)
    refused(lambda: list(shard.chunks(23)), "x.npy", "ended at byte 400", "188 bytes more")


def test_file_gone_after_it_was_opened(tmp_path, refused):
    np.save(tmp_path / "x.npy", matrix())
    shard = opened(tmp_path / "x.npy")
    (tmp_path / "x.npy").unlink()
    refused(lambda: list(shard.chunks(23)), "x.npy", "no such file")


def test_short_reads_are_continued(tmp_path, rows_in, monkeypatch):
    x = matrix()
    np.save(tmp_path / "x.npy", x)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:13]], at))
    assert np.array_equal(rows_in(opened(tmp_path / "x.npy")), x)


def test_read_checks_its_arguments(tmp_path):
    np.save(tmp_path / "x.npy", matrix())
    shard = opened(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="rows 20 to 24 of 23"):
        shard.read(20, 24, np.empty(999, np.uint8))
    with pytest.raises(ValueError, match="scratch has 19 bytes"):
        shard.read(0, 1, np.empty(19, np.uint8))


def test_descriptors_are_opened_late_and_given_back(tmp_path, rows_in):
    def held():
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return [os.readlink(link) for link in links if os.path.lexists(link)].count(str(tmp_path / "x.npy"))

    np.save(tmp_path / "x.npy", matrix())
    shards = [opened(tmp_path / "x.npy") for _ in range(50)]
    assert held() == 0
    rows_in(shards[0])
    assert held() == 1
    shards[0].close()
    assert held() == 0
    assert len(rows_in(shards[0])) == 23


@pytest.mark.parametrize("order", "CF")
def test_threads_read_and_write_at_random(tmp_path, order):
    x = np.array(matrix(4000, 16), order=order)
    np.save(tmp_path / "x.npy", x)
    shard = opened(tmp_path / "x.npy")
    rewrite_at_random(shard, tmp_path / "y.npy", np.float64, closing=True)
    assert np.array_equal(np.load(tmp_path / "y.npy"), x.astype(np.float64))


def test_dropped_rows_shorten_the_file(tmp_path, tree):
    x = matrix()
    keep = np.arange(23) % 3 > 0
    for rows in (23, None):
        with NpyWriter(tmp_path / "y.npy", np.dtype(np.float32), 5, rows) as writer:
            for lo in range(0, 23, 10):
                part = keep[lo : lo + 10]
                writer.write(x[lo : lo + 10][part], keep=part)
            writer.commit()
        assert np.array_equal(np.load(tmp_path / "y.npy"), x[keep])
    assert tree(tmp_path) == ["y.npy"]


def test_missing_rows_are_noticed(tmp_path, tree, refused):
    writer = NpyWriter(tmp_path / "y.npy", np.dtype(np.float32), 5, 23)
    writer.write_at(13, matrix()[13:])
    refused(writer.commit, "y.npy", "10 of 23 rows", error=FastRealignError)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda w: w.write(np.zeros((3, 4), np.float32)), r"shape \(n, 5\), got \(3, 4\)"),
        (lambda w: w.write(np.zeros(5, np.float32)), r"got \(5,\)"),
        (lambda w: w.write(np.zeros((2, 5), np.float32), keep=np.array([True, False])), "2 true entries"),
        (lambda w: w.write(np.zeros((9, 5), np.float32)), "9 rows for a shard of 8"),
        (lambda w: w.write_at(6, np.zeros((3, 5), np.float32)), "rows 6 to 9 of 8"),
    ],
)
def test_writer_checks_its_arguments(tmp_path, tree, call, match):
    with NpyWriter(tmp_path / "y.npy", np.dtype(np.float32), 5, 8) as writer, pytest.raises(ValueError, match=match):
        call(writer)
    assert tree(tmp_path) == []


def test_writer_refuses_an_element_type_it_does_not_know(tmp_path, tree, refused):
    refused(lambda: NpyWriter(tmp_path / "y.npy", np.dtype(np.int32), 5), "y.npy", "int32")
    assert tree(tmp_path) == []


@pytest.mark.parametrize("room", [0, 100, 300, 128 + 23 * 20 - 1])
def test_disk_full(tmp_path, tree, refused, disk_full, room):
    writer = NpyWriter(tmp_path / "out" / "y.npy", np.dtype(np.float32), 5, 23)
    disk_full(room)

    def run():
        for lo in (0, 10, 20):
            writer.write(matrix()[lo : lo + 10])
        writer.commit()

    refused(run, tmp_path / "out" / "y.npy", "No space left on device", "free some space", error=FastRealignError)
    assert tree(tmp_path) == []
    refused(lambda: writer.write_at(0, matrix()[:1]), "y.npy", "No space left on device", error=FastRealignError)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(400, 1, 5), (400, 1, 1, 5)])
def test_one_vector_a_row_in_more_dimensions(tmp_path, rows_in, order, shape):
    x = np.random.default_rng(3).standard_normal((400, 5)).astype(np.float32)
    np.save(tmp_path / "x.npy", np.array(x.reshape(shape), order=order))
    shard = NpyShard(tmp_path / "x.npy", "x.npy")
    assert (shard.rows, shard.dim) == (400, 5) and np.array_equal(rows_in(shard), x)
    keep = np.arange(400) % 4 != 1
    rewrite(shard, tmp_path / "y.npy", keep=keep)
    assert np.array_equal(np.load(tmp_path / "y.npy"), x.reshape(shape)[keep])
    rewrite_at_random(shard, tmp_path / "z.npy")
    assert np.array_equal(np.load(tmp_path / "z.npy"), x.reshape(shape))


@pytest.mark.parametrize("shape", [(23, 2, 5), (23, 5, 1), (1, 23, 5), (23, 0, 5)])
def test_several_vectors_a_row_are_refused(tmp_path, refused, shape):
    np.save(tmp_path / "x.npy", np.ones(shape, np.float32))
    refused(
        lambda: NpyShard(tmp_path / "x.npy", "x.npy"),
        "x.npy: has shape",
        f"{shape[1]} vectors a row",
        "x[:, 0]",
        "reshape",
    )
