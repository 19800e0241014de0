"""What the kernels accept and refuse, and that the instruction set asked for is the one that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from fastrealign import _core
from fastrealign.core import ops
from fastrealign.core.cpu import instruction_sets
from fastrealign.core.dtypes import as_dtype
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.core.rows import as_output, as_rows, empty_rows


class OnlyInterface:
    """Not an array, but memory that says how to read it."""

    def __init__(self, array):
        self.__array_interface__ = array.__array_interface__
        self._held = array


# --- rows ------------------------------------------------------------------------------------------------------------


def test_as_rows_does_not_copy(rows_of, in_dtype):
    rows = rows_of(6, 4, in_dtype)
    for view in (rows, rows[::2], rows[::-1], rows[:, 1:3], rows[2:2]):
        found = as_rows(view)
        assert found.ctypes.data == view.ctypes.data
        assert (found.shape, found.strides, found.dtype) == (view.shape, view.strides, view.dtype)


def test_as_rows_copies_rows_that_do_not_lie_together(rows_of, in_dtype):
    rows = rows_of(6, 4, in_dtype)
    for view in (np.asfortranarray(rows), rows[:, ::2], rows[:, ::-1]):
        found = as_rows(view)
        assert found.strides[1] == found.itemsize
        np.testing.assert_array_equal(found, view)


def test_as_rows_reads_the_array_interface(rows_of):
    rows = rows_of(3, 4)
    found = as_rows(OnlyInterface(rows))
    assert found.ctypes.data == rows.ctypes.data
    np.testing.assert_array_equal(found, rows)


def test_as_rows_of_tensors(rows_of):
    torch = pytest.importorskip("torch")
    rows = rows_of(5, 8)
    for dtype, name in ((torch.float32, "float32"), (torch.float16, "float16"), (torch.bfloat16, "bfloat16")):
        tensor = torch.from_numpy(rows).to(dtype)
        for view in (tensor, tensor[1:4], tensor[:, 2:5], tensor.requires_grad_()):
            found = as_rows(view)
            assert found.dtype.name == name
            assert found.ctypes.data == view.data_ptr()
            np.testing.assert_array_equal(found.astype(np.float64), view.detach().double().numpy())


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (
            np.zeros((2, 3), np.int64),
            r"here: element type int64, expected .*float32.*; convert with .astype\('float32'\)",
        ),
        (np.zeros((2, 3), bool), "element type bool"),
        (np.zeros((2, 3), complex), "element type complex128"),
        (np.array([[None]]), "element type object"),
        (np.array([["a"]]), "element type <U1"),
        (np.zeros(3, np.float32), r"shape \(3,\), expected two dimensions .*x\[None, :\]"),
        (np.float32(1), r"shape \(\), expected two dimensions"),
        (np.zeros((1, 2, 3), np.float32), r"shape \(1, 2, 3\), expected two dimensions"),
        (np.zeros((4, 0), np.float32), "width of at least 1"),
    ],
)
def test_as_rows_refuses(x, says):
    with pytest.raises(InputError, match=says) as caught:
        as_rows(x, "here")
    assert "\n" not in str(caught.value)


def test_as_rows_refuses_tensors_elsewhere():
    torch = pytest.importorskip("torch")
    with pytest.raises(InputError, match="here: a tensor on meta, expected one on the CPU"):
        as_rows(torch.zeros(2, 3, device="meta"), "here")
    with pytest.raises(InputError, match="element type int64"):
        as_rows(torch.zeros(2, 3, dtype=torch.int64))


# --- element types ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("float32", "float32"),
        ("fp32", "float32"),
        ("bf16", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("fp16", "float16"),
        ("fp64", "float64"),
        ("f4", "float32"),
        (np.float16, "float16"),
        (np.dtype(np.float64), "float64"),
        (ml_dtypes.bfloat16, "bfloat16"),
    ],
)
def test_as_dtype(asked, name):
    assert as_dtype(asked).name == name


def test_as_dtype_of_torch():
    torch = pytest.importorskip("torch")
    for name in ("float16", "bfloat16", "float32", "float64"):
        assert as_dtype(getattr(torch, name)).name == name
    with pytest.raises(InputError, match=r"element type torch\.int8: expected"):
        as_dtype(torch.int8)


@pytest.mark.parametrize("asked", ["int32", "float8", "complex64", "", np.int8, object, 3])
def test_as_dtype_refuses(asked):
    with pytest.raises(InputError, match="expected float16, bfloat16, float32 or float64"):
        as_dtype(asked)


# --- what the kernels refuse -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", ["b", "c"])
def test_a_map_of_another_width_is_refused(rows_of, label):
    row_map = RowMap(1.0, **{label: np.zeros(5)})
    with pytest.raises(InputError, match=rf"rows are 4 wide, but the map's {label} has shape \(5,\)"):
        ops.reduce(rows_of(3, 4), row_map, ExactSum(4))
    with pytest.raises(InputError, match=rf"rows are 4 wide, but the map's {label} has shape \(5,\)"):
        ops.apply(rows_of(3, 4), row_map, np.empty((3, 4), np.float32))


def test_sums_of_another_width_are_refused(rows_of):
    with pytest.raises(InputError, match="rows are 4 wide, the sums 5"):
        ops.reduce(rows_of(3, 4), UNIT, ExactSum(5))
    with pytest.raises(InputError, match="rows are 4 wide, the sums 3"):
        ops.apply(rows_of(3, 4), UNIT, np.empty((3, 4), np.float32), into=ExactSum(3))


@pytest.mark.parametrize(
    ("out", "says"),
    [
        (np.empty((3, 5), np.float32), r"out has shape \(3, 5\)"),
        (np.empty((2, 4), np.float32), r"out has shape \(2, 4\)"),
        (np.empty((3, 4), np.int32), "int32"),
        (np.empty((4, 3), np.float32).T, "together"),
        (np.broadcast_to(np.float32(0), (3, 4)), "together"),
    ],
)
def test_out_of_the_wrong_kind_is_refused(rows_of, out, says):
    with pytest.raises(InputError, match=says):
        ops.apply(rows_of(3, 4), UNIT, out)


def test_an_out_whose_rows_overlap_is_refused(rows_of):
    x = rows_of(4, 6)
    step = np.empty(40, np.float32)
    for rows, stride in ((x, 0), (x, 4), (x, 20), (x[:, :1], 0)):
        out = np.lib.stride_tricks.as_strided(step, rows.shape, (stride, 4))
        with pytest.raises(InputError, match="the rows of out overlap"):
            ops.apply(rows, UNIT, out)
    for out in (np.empty((4, 6), np.float32)[::-1], np.empty((4, 9), np.float32)[:, 1:7]):
        ops.apply(x, UNIT, out)
        np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, atol=1e-6)
    one = np.lib.stride_tricks.as_strided(step, (1, 6), (0, 4))
    ops.apply(x[:1], UNIT, one)


def test_masks_are_not_ignored(rows_of):
    x = rows_of(4, 6)
    mask = np.zeros(x.shape, bool)
    np.testing.assert_array_equal(as_rows(np.ma.masked_array(x, mask)), x)
    mask[1] = True
    with pytest.raises(InputError, match="text: 6 numbers are masked, and masks are not supported"):
        as_rows(np.ma.masked_array(x, mask), "text")


def test_tensors_of_other_kinds(rows_of):
    torch = pytest.importorskip("torch")
    t = torch.from_numpy(rows_of(4, 6))
    negated = torch.conj(torch.complex(t, -t)).imag
    assert negated.is_neg()
    np.testing.assert_array_equal(as_rows(negated), t.numpy())
    with pytest.raises(InputError, match="out is a negated view"):
        as_output(negated)
    for odd, says in (
        (t.to_sparse(), "a tensor of layout torch.sparse_coo, expected a dense one"),
        (t.to(torch.float8_e4m3fn), "element type torch.float8_e4m3fn, expected float16"),
    ):
        with pytest.raises(InputError, match=f"text: {says}"):
            as_rows(odd, "text")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", 10**20, True])
def test_threads_that_are_no_number_are_refused(rows_of, threads):
    x = rows_of(4, 6)
    with pytest.raises(InputError, match=r"threads=.*: expected a whole number from 1 to 2\^31 - 1"):
        ops.apply(x, UNIT, np.empty_like(x), threads=threads)


def test_a_read_only_out_is_refused(rows_of):
    out = np.empty((3, 4), np.float32)
    out.setflags(write=False)
    with pytest.raises(InputError, match="read-only"):
        ops.apply(rows_of(3, 4), UNIT, out)


def test_an_out_that_lies_across_its_input_is_refused(rows_of):
    memory = rows_of(5, 4)
    with pytest.raises(InputError, match="overlap"):
        ops.apply(memory[:4], UNIT, memory[1:])
    # The same memory in another element type: a row would be overwritten before it is read.
    with pytest.raises(InputError, match="overlap"):
        ops.apply(memory, UNIT, memory.view(np.float16)[:, :4])
    # Columns beside each other share no byte.
    wide = rows_of(5, 8)
    alone = np.empty((5, 4), np.float32)
    ops.apply(wide[:, :4].copy(), UNIT, alone)
    ops.apply(wide[:, :4], UNIT, wide[:, 4:])
    np.testing.assert_array_equal(wide[:, 4:], alone)


def test_empty_rows_start_on_a_line(in_dtype):
    assert empty_rows(0, 3, in_dtype).shape == (0, 3)
    for rows, d in ((1, 1), (7, 5), (1000, 33)):
        x = empty_rows(rows, d, in_dtype)
        assert x.shape == (rows, d)
        assert x.dtype == in_dtype
        assert x.flags.c_contiguous and x.flags.writeable
        assert x.ctypes.data % 64 == 0


# --- instruction sets ------------------------------------------------------------------------------------------------


def test_the_plain_code_is_always_there():
    assert instruction_sets()[-1] == "baseline"


def _machine_has(*flags: str) -> bool:
    with open("/proc/cpuinfo") as file:
        found = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
    return found is not None and set(flags) <= set(found.group(1).split())


@pytest.mark.skipif(not os.path.exists("/proc/cpuinfo"), reason="asks Linux what the CPU has")
def test_what_the_processor_has_is_offered():
    avx2 = _machine_has("avx2", "fma", "f16c")
    avx512 = avx2 and _machine_has("avx512f", "avx512vl", "avx512dq", "avx512bw")
    assert ("avx2" in instruction_sets()) == avx2
    assert ("avx512" in instruction_sets()) == ("avx512vl" in instruction_sets()) == avx512


def _bits_that_tell(rows_of) -> tuple[np.ndarray, RowMap]:
    return rows_of(64, 96), RowMap(0.9, np.linspace(-0.1, 0.1, 96), np.linspace(0.05, -0.02, 96))


def test_the_environment_chooses_the_instruction_set(rows_of, monkeypatch):
    """All sets give the same bits, so one that cannot run shows which choice counts."""
    rows, out = rows_of(3, 8), np.empty((3, 8), np.float32)
    for isa in instruction_sets():
        monkeypatch.setenv("FASTREALIGN_ISA", isa)
        assert ops.apply(rows, UNIT, out).good == 3
    monkeypatch.setenv("FASTREALIGN_ISA", "sse9")
    with pytest.raises(InputError, match="'sse9' cannot run here"):
        ops.apply(rows, UNIT, out)
    assert ops.apply(rows, UNIT, out, isa=instruction_sets()[0]).good == 3  # explicit before environment


def test_an_instruction_set_that_cannot_run_is_refused(rows_of, monkeypatch):
    says = "instruction set 'sse9' cannot run here; this machine has .*baseline"
    with pytest.raises(InputError, match=says):
        ops.reduce(rows_of(3, 4), UNIT, ExactSum(4), isa="sse9")
    monkeypatch.setenv("FASTREALIGN_ISA", "sse9")
    with pytest.raises(InputError, match=says):
        ops.apply(rows_of(3, 4), UNIT, np.empty((3, 4), np.float32))


@pytest.mark.skipif(shutil.which("objdump") is None, reason="install binutils for objdump")
@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86-64 code")
def test_the_vector_code_is_vector_code():
    """Whole vectors are multiplied and added in float32 and float64, for AVX2 (ymm) and AVX-512 (zmm)."""
    code = subprocess.run(["objdump", "-d", _core.__file__], capture_output=True, text=True, check=True).stdout
    fused = re.findall(r"\tvfn?madd\d+(ps|pd|ss|sd) .*%([xyz])mm\d+$", code, re.MULTILINE)
    counts = {kind: fused.count(kind) for kind in set(fused)}
    # 16 apply and 12 reduce kernels, each with several.
    assert counts[("pd", "z")] > 100
    assert counts[("ps", "y")] > 100
    assert counts[("pd", "y")] > 100
    # Single float32 elements are not fused by us, and nobody else may (-ffp-contract=off).
    assert counts.get(("ss", "x"), 0) == 0
