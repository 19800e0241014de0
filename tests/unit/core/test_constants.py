"""Numbers have one source, the C++ headers: every other copy is read from `_core`, and none has changed its value."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastrealign
import fastrealign._core as _core
from fastrealign.core import bad_rows, dtypes, exact_sum

PACKAGE = Path(fastrealign.__file__).parent
KERNELS = next(
    folder for folder in (PACKAGE / "kernels", Path(__file__).parents[3] / "kernels") if (folder / "rows.py").exists()
)


def test_numbers_that_outlive_a_process_are_what_they_were():
    """Saved moments hold totals in units of 2^-88; states of rows and element types pass through a compiled interface."""
    assert (_core.STEP_FRACTION_BITS, _core.SUM_FRACTION_BITS, _core.ROUNDING_OFFSET) == (40, 88, 1.5 * 2.0**12)
    assert [_core.GOOD, _core.ZERO, _core.NOT_FINITE, _core.COLLAPSED, _core.RECOMPUTE] == [0, 1, 2, 3, 4]
    assert [_core.TERMS_NONE, _core.TERMS_B, _core.TERMS_BC] == [0, 1, 2]
    assert [_core.FLOAT32, _core.FLOAT16, _core.BFLOAT16, _core.FLOAT64] == [0, 1, 2, 3]


def test_constants_agree_with_each_other():
    import struct

    (bits,) = struct.unpack("<Q", struct.pack("<d", _core.ROUNDING_OFFSET))
    assert bits == _core.ROUNDING_OFFSET_BITS
    assert 2 * exact_sum.ROWS << _core.STEP_FRACTION_BITS < 1 << 63
    assert _core.COLLAPSED < 1 << _core.STATE_BITS  # the final states fit beside a row number
    fields = [_core.MAP_S, _core.MAP_BB, _core.MAP_BC, _core.MAP_CC, _core.MAP_LARGEST_B, _core.MAP_LARGEST_C]
    assert sorted(set(fields)) == sorted(fields) and max(fields) < _core.MAP_HEADER


def test_python_reads_them_from_the_core():
    assert exact_sum.FRACTION_BITS == _core.SUM_FRACTION_BITS
    for name in ("GOOD", "ZERO", "NOT_FINITE", "COLLAPSED"):
        assert getattr(bad_rows, name) == getattr(_core, name)
    assert {dtype.name.upper(): code for dtype, code in dtypes.CODES.items()} == {
        name: getattr(_core, name) for name in ("FLOAT32", "FLOAT16", "BFLOAT16", "FLOAT64")
    }


def test_triton_reads_them_from_the_core():
    """Every constant of kernels/rows.py is made from an attribute of `_core`, and no number of these stands elsewhere."""
    text = (KERNELS / "rows.py").read_text()
    constants = re.findall(r"^([A-Z_]+) = tl\.constexpr\((.*)\)$", text, re.M)
    assert len(constants) > 20
    tuning = {"UNROLL"}
    assert all(re.fullmatch(r"_core\.[A-Z_]+", value) for name, value in constants if name not in tuning), constants
    assert not re.search(r"map_ptr \+ \d|2\.0\*\*|1 << \d|0x40B8|TERMS [=>]= ?=? ?\d", text)


@pytest.mark.skipif(find_spec("triton") is None or find_spec("torch") is None, reason="needs torch and triton")
def test_triton_has_the_values_of_the_core():
    from fastrealign.kernels import launch, rows

    renamed = {"HEADER": "MAP_HEADER"} | {
        name: f"MAP_{name}" for name in ("S", "BB", "BC", "CC", "LARGEST_B", "LARGEST_C")
    }
    for name, value in vars(rows).items():
        if name.isupper() and name != "UNROLL":
            assert value.value == getattr(_core, renamed.get(name, name)), name
    # A program sums beta and gamma in steps, at most 644 each on the fast path, in 64 bits.
    assert launch.ROWS_BEFORE_FLUSH * 644 << _core.STEP_FRACTION_BITS < 1 << 63


@pytest.mark.skipif(find_spec("fastrealign_cuda") is None, reason="pip install ./csrc/cuda")
def test_cuda_was_built_from_the_same_headers():
    import fastrealign_cuda

    assert {name: getattr(_core, name) for name in fastrealign_cuda.CONSTANTS} == fastrealign_cuda.CONSTANTS
