"""unpickler.py: arrays and plain values come out, everything else is refused by name and never runs."""

from __future__ import annotations

import datetime
import errno
import functools
import os
import pathlib
import pickle
import re
import struct
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastrealign.core.errors import InputError
from fastrealign.formats import unpickler
from fastrealign.formats.unpickler import load


def saved(path, data):
    path.write_bytes(data if isinstance(data, bytes) else pickle.dumps(data))
    return str(path)


class Call:
    """Pickles as a call of `function`, followed by the given state."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(plain, st.integers(2, 5))
def test_plain_values(tmp_path, value, protocol):
    assert load(saved(tmp_path / "x.pkl", pickle.dumps(value, protocol))) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
        np.arange(3, dtype=">f4"),
        np.array([True, False]),
        np.array(["é", "abc"]),
        np.array([b"a", b"bcd"]),
        np.array([1j, 2]),
        np.array([1.5, 2.5], ml_dtypes.bfloat16),
        np.array(2.5),
        np.zeros((0, 3)),
        np.float32(1.5),
        np.int64(-3),
        np.array([ml_dtypes.bfloat16(1.5)])[0],
        np.dtype(">f4"),
        np.dtype("U7"),
    ],
    ids=repr,
)
def test_arrays_and_scalars(tmp_path, array, protocol):
    value = load(saved(tmp_path / "x.pkl", pickle.dumps({"a": array, "same": array}, protocol)))
    for key in value:
        again = pickle.loads(pickle.dumps(value[key], protocol))  # what a user who loads the output gets
        expected = pickle.loads(pickle.dumps(array, protocol))
        assert type(again) is type(expected) and repr(again) == repr(expected)


class Subclass(np.ndarray):
    pass


BUILTINS = r"(builtins|__builtin__)\."
REFUSED = [
    (Call(os.system, "touch RAN"), r"posix\.system"),
    (Call(eval, "open('RAN', 'w')"), BUILTINS + "eval"),
    (Call(exec, "open('RAN', 'w')"), BUILTINS + "exec"),
    (Call(open, "RAN", "w"), r"_?io\.open"),
    (Call(functools.partial(os.system, "touch RAN")), r"functools\.partial"),
    (Call(pathlib.Path.touch, pathlib.Path("RAN")), rf"(pathlib\.\S*Path\.touch|{BUILTINS}getattr)"),
    (Call(np.load, "RAN"), r"numpy\.load"),
    (Call(np.save, "RAN", 1), r"numpy\.save"),
    (Call(pickle.loads, b""), r"_?pickle\.loads"),
    (Call(__import__, "os"), BUILTINS + "__import__"),
    (Call(bytearray, 1 << 40), BUILTINS + "bytearray"),
    (datetime.datetime(2020, 1, 1), r"datetime\.datetime"),
    (pathlib.PurePosixPath("a"), r"pathlib\.\S*PurePosixPath"),
    (np.ones(2).view(Subclass), r"test_unpickler\.Subclass"),
    (np.array([None]), "an array of dtype object"),
    (np.array([{"a": 1}, [2]], dtype=object), "an array of dtype object"),
    (np.zeros(2, "f4, i4"), "an array of dtype 'V8'"),
    (np.zeros(2, "M8[s]"), "an array of dtype 'M8'"),
    (np.random.default_rng(0), r"numpy\.random\S+"),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("value", "name"), REFUSED, ids=[name for _, name in REFUSED])
def test_everything_else_is_refused_by_name(tmp_path, refused, monkeypatch, value, name, protocol):
    monkeypatch.chdir(tmp_path)
    for nested in (value, [{"id": 1, "embed": value}], {"a": [({"b": value},)]}):
        path = saved(tmp_path / "x.pkl", pickle.dumps(nested, protocol))
        message = refused(lambda path=path: load(path), path)
        assert re.search(f"refused to load: the pickle asks for {name}[,;]", message), message
    assert not (tmp_path / "RAN").exists()


def test_refused_before_anything_is_imported(tmp_path, refused, monkeypatch):
    (tmp_path / "sideeffect.py").write_text("open('RAN', 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    refused(lambda: load(saved(tmp_path / "x.pkl", b"csideeffect\nanything\n.")), "x.pkl", "sideeffect.anything")
    assert not (tmp_path / "RAN").exists()


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


F4 = b"cnumpy\ndtype\n(" + text("f4") + b"\x89\x88tR"
ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n"
EMPTY = ARRAY + b"(cnumpy\nndarray\n(K\x00tC\x01btR"


@pytest.mark.parametrize(
    ("data", "piece"),
    [
        (b"cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "call of numpy.ndarray"),
        (b"\x80\x02cnumpy\nndarray\n(tN\x81.", "NEWOBJ"),
        (b"\x80\x02cnumpy\nndarray\n(t\x81.", "NEWOBJ"),
        (b"\x80\x04cnumpy\nndarray\n(t}\x92.", "NEWOBJ_EX"),
        (b"(cnumpy\nndarray\nK\x05o.", "call of numpy.ndarray"),
        (b"(K\x05inumpy\nndarray\n.", "call of numpy.ndarray"),
        (b"cnumpy\nndarray\n}b.", "change to one of NumPy's own names"),
        (ARRAY + b"N}" + text("__defaults__") + b"(K\x01ts\x86b.", "change to one of NumPy's own names"),
        (b"cml_dtypes\nbfloat16\n(K\x01tR.", "call of numpy.ndarray or ml_dtypes.bfloat16"),
        (b"cnumpy\ndtype\n(" + text("f4,f4") + b"tR.", "dtype 'f4,f4'"),
        (b"cnumpy\ndtype\n(" + text("O") + b"tR.", "dtype object"),
        (b"cnumpy\ndtype\n(" + text("U9999999999") + b"tR.", "dtype 'U9999999999'"),
        (b"cnumpy\ndtype\n(}" + text("names") + b"]stR.", "dtype {'names': []}"),
        (F4 + b"(K\x03" + text("<") + b"N(" + text("a") + b"t}J\xff\xff\xff\xffK\x00K\x00tb.", "structured dtype"),
        (ARRAY + b"(cml_dtypes\nbfloat16\n(K\x00tC\x01btR.", "subclass of ndarray"),
        (ARRAY + b"(cnumpy\nndarray\n(J\xff\xff\xff\x7ftC\x01btR.", "subclass of ndarray"),
        (EMPTY + b"(K\x01(K\x02t" + F4 + b"\x89](NNetb.", "not bytes of numbers"),
        (EMPTY + b"(K\x01(K\x02tN\x89C\x08aaaaaaaatb.", "not bytes of numbers"),
        (EMPTY + b"(K\x01(K\x03t" + F4 + b"\x89C\x08aaaaaaaatb.", "has 8 bytes"),
        (EMPTY + b"(K\x01(J\xfe\xff\xff\xfft" + F4 + b"\x89C\x08aaaaaaaatb.", "invalid shape"),
        (EMPTY + b"(K\x01(G?\xf0\x00\x00\x00\x00\x00\x00t" + F4 + b"\x89C\x04aaaatb.", "invalid shape"),
        (EMPTY + b"Nb.", "not a readable pickle"),
        (b"cnumpy._core.multiarray\nscalar\n(" + F4 + b"NtR.", "scalar whose value"),
        (b"cnumpy._core.multiarray\nscalar\n(NC\x04aaaatR.", "scalar whose value"),
        (b"cnumpy._core.multiarray\nscalar\n(" + F4 + b"C\x02aatR.", "not a readable pickle"),
        (b"cnumpy._core.numeric\n_frombuffer\n(C\x04aaaaN(K\x01t" + text("C") + b"tR.", "without a dtype"),
        (b"c_codecs\nencode\n(" + text("a") + text("zlib_codec") + b"tR.", "encoding 'zlib_codec'"),
        (b"c_codecs\nencode\n(" + text("a") + b"tR.", "encoding ''"),
        (b"c_codecs\ndecode\n(C\x01a" + text("zlib_codec") + b"tR.", "_codecs.decode"),
        (b"cnumpy\nndarray.tobytes\n.", "numpy.ndarray.tobytes"),
        (b"\x80\x04" + text("numpy") + text("ndarray.tobytes") + b"\x93.", "numpy.ndarray.tobytes"),
        (b"Panything\n.", "persistent"),
        (b"c__builtin__\nbytes\n(J\xff\xff\xff\x7ftR.", "bytes with arguments"),
        (b"\x82\x01.", "not a readable pickle"),
        (b"N", "not a readable pickle"),
        (b"\x80\x09N.", "unsupported pickle protocol: 9"),
        (b"PK\x03\x04zip, as torch.save writes", "not a readable pickle"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fa.", "not a readable pickle"),
        (b"N.N.", "more than one pickle"),
        (pickle.dumps([1], 4) * 2, "more than one pickle"),
    ],
)
def test_crafted_pickles(tmp_path, refused, data, piece):
    refused(lambda: load(saved(tmp_path / "x.pkl", data)), tmp_path / "x.pkl", piece)


def test_numpys_own_dtypes_cannot_be_changed(tmp_path):
    # The byte order of the dtype object that all float32 arrays of the process share, swapped.
    data = b"cnumpy\ndtype\n(" + text("f4") + b"\x89\x89tR(K\x03" + text(">") + b"NNNK\x04K\x04K\x00tb."
    assert repr(pickle.loads(pickle.dumps(load(saved(tmp_path / "x.pkl", data))))) == "dtype('>f4')"
    assert np.dtype("f4").isnative and np.zeros(1, "f4").dtype.isnative


def test_bytes_that_python_shares_cannot_be_changed(tmp_path, refused):
    u1 = F4.replace(b"\x02\x00\x00\x00f4", b"\x02\x00\x00\x00u1")
    data = EMPTY + b"(K\x01(K\x01t" + u1 + b"\x89C\x01ZtbK\x00K\x07s."
    refused(lambda: load(saved(tmp_path / "x.pkl", data)), "x.pkl", "read-only")
    assert bytes([90]) == b"Z" and b"Z"[0] == 90


def test_dtype_classes_may_be_called(tmp_path):
    for name, code in [("Float16DType", "f2"), ("Float32DType", "f4"), ("Float64DType", "f8")]:
        data = f"cnumpy.dtypes\n{name}\n(tR.".encode()
        assert pickle.loads(pickle.dumps(load(saved(tmp_path / "x.pkl", data)))) == np.dtype(code)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(b"ctR(b.NK]}a\x81\x93\x94\xff")), min_size=1, max_size=3),
)
def test_damage_raises_nothing_but_input_errors(tmp_path, protocol, damage):
    data = bytearray(pickle.dumps([{"id": 1, "embed": np.ones(3, np.float32), "x": np.array(["a"])}], protocol))
    for at, value in damage:
        data[int(at * (len(data) - 1))] = value
    try:
        load(saved(tmp_path / "x.pkl", bytes(data)))
    except InputError as error:
        assert "x.pkl" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("error", "piece"),
    [
        (PermissionError(errno.EACCES, "no"), "permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output"),
    ],
)
def test_unreadable(tmp_path, refused, monkeypatch, error, piece):
    path = saved(tmp_path / "x.pkl", [1])

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        refused(lambda: load(path), path, piece)
    monkeypatch.setattr(unpickler._Unpickler, "load", fail)  # a fault that shows only while bytes come in
    refused(lambda: load(path), path, piece)


LAUGHS = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(40))
ENCODED = b"X\x40\x42\x0f\x00" + b"a" * 1_000_000 + b"q\x00"
ENCODED = b"](" + ENCODED + b"".join(b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" for _ in range(300)) + b"e."
SCALARS = b"](cnumpy\ndtype\n(X\x07\x00\x00\x00U900000tRq\x00B\x80\xee\x36\x00" + b"a\0\0\0" * 900_000 + b"q\x01"
SCALARS += b"cnumpy.core.multiarray\nscalar\n(h\x00h\x01tR" * 300 + b"e."
# What five bytes or some megabytes would make of memory and time, were they carried out as they come.
BOMBS = {
    "a far place in the memo": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "a far place in the memo, in a larger file": b"\x80\x02B\0\0\x10\0" + bytes(1 << 20) + b"r\xff\xff\xff\x0f.",
    "a far place, as text": b"Np99999999999\n.",
    "a far place, as a long text": b"Np" + b"9" * 5_000 + b"\n.",
    "nested tuples": b")" + b"\x85" * 10_000_000 + b".",
    "nested tuples in the memo": b"\x80\x04)" + b"\x85\x94" * 5_000_000 + b".",
    "marks": b"(" * 10_000_000 + b".",
    "marks and tuples": b"(" * 5_000_000 + b"t" * 5_000_000 + b".",
    "nested dicts": b"}" * 3_000_000 + b"K\x01" + b"s" * 3_000_000 + b".",
    "one object over and over": b"N" + b"2" * 10_000_000 + b".",
    "a long frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN",
    "long bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fN.",
    "longer bytes than there are": b"\x80\x04\x8e\0\0\0\0\x10\0\0\0N.",
    "a long bytearray": b"\x80\x05\x96\0\0\0\0\x10\0\0\0N.",
    "a long text": b"\x80\x04\x8d\0\0\0\0\x10\0\0\0N.",
    "a long number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a number of a negative length": b"\x80\x02\x8b\xff\xff\xff\xff.",
    "a number of many digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "a text without an end": b"V" + b"x" * 10_000_000,
    "lists that share lists": LAUGHS + b".",
    "a list that holds itself": b"]q\x00h\x00a.",
    "text encoded over and over": ENCODED,
    "long texts out of the same bytes": SCALARS,
    "an extension": b"\x80\x02\x82\x01.",
    "a buffer from elsewhere": b"\x80\x05\x97.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_pickles_that_would_take_all_memory_or_time(tmp_path, refused, name):
    path = saved(tmp_path / "x.pkl", BOMBS[name])
    tracemalloc.start()
    began = time.process_time()
    try:
        refused(lambda: load(path), path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Of the process alone, and tracing takes most of it.
    assert time.process_time() - began < 10
    assert peak < 10 * len(BOMBS[name]) + (8 << 20)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])  # the others have no opcodes of their own that these values use
def test_plain_values_of_every_shape_pass(tmp_path, protocol, rng):
    shared = [1, 2]
    values = [
        list(range(100_000)),
        [125] * 50_000,  # a byte that is an opcode, too
        [(1, 2)] * 20_000 + [(i, -i) for i in range(20_000)],
        [[None, None] for _ in range(20_000)],
        [shared] * 1000,
        {str(i): {"text": "é" * 300, "tags": [i], "none": None} for i in range(2000)},
        [2.5, 10**2000, -(10**2000), b"b" * 70_000, "t" * 70_000, True],
        [{"embed": rng.standard_normal((1, 3)).astype(np.float32)} for _ in range(500)],
        [np.float32(1), np.array(["a", "bc"]), rng.integers(0, 255, 70_000).astype(np.uint8)],
        [],
        None,
    ]
    for value in values:
        there = load(saved(tmp_path / "x.pkl", pickle.dumps(value, protocol)))
        expected = pickle.loads(pickle.dumps(value, protocol))
        assert pickle.dumps(there, 4) == pickle.dumps(expected, 4)
