"""The compiled kernels on another processor, emulated: the same bits as here.

Needs Debian's g++-aarch64-linux-gnu and qemu-user-static, or their like.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fastrealign.core.cpu import CODES, apply, reduce, vjp
from fastrealign.core.dtypes import BFLOAT16
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import RowMap

ROOT = Path(__file__).resolve().parents[3]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (shutil.which(COMPILER) and EMULATOR), reason="no cross-compiler and emulator of aarch64"),
]
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BFLOAT16, np.dtype(np.float64)]
WIDTHS = (5, 64, 777)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aarch64")
    sources = [ROOT / f"csrc/cpu/{name}.cpp" for name in ("apply", "reduce", "vjp", "dispatch")]
    flags = [
        "-std=gnu++17",
        "-O2",
        "-static",
        "-pthread",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-psabi",
        "-ffp-contract=off",
    ]
    include = [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/cpu'}", "-DFR_ISA=baseline"]
    main = ROOT / "tests/support/other_machine.cpp"
    subprocess.run([COMPILER, *flags, *include, *sources, main, "-o", folder / "kernels"], check=True)
    return folder / "kernels"


@pytest.mark.parametrize("terms", ["unit", "b", "bc"])
def test_bits_on_aarch64(program, rng, rows_of, map_of, terms):
    cases, expected = [], []
    for d in WIDTHS:
        row_map = map_of(d, terms)
        for type_in in DTYPES:
            for type_out in DTYPES:
                rows, gradient = rows_of(37, d, type_in), rng.standard_normal((37, d)).astype(type_in)
                rows[3], rows[11, 1] = 0, np.nan
                rows[20] = np.zeros(d)
                rows[20, 0] = 3.0  # as long as its one entry, whatever precision loses of the rest
                cases.append(_case(rows, gradient, row_map, type_out))
                expected.append(_here(rows, gradient, row_map, type_out))
    done = subprocess.run([EMULATOR, program], input=b"".join(cases), capture_output=True, check=True, timeout=300)
    assert len(done.stdout) == sum(map(len, expected))
    assert done.stdout == b"".join(expected)


def _case(rows, gradient, row_map: RowMap, type_out) -> bytes:
    d = rows.shape[1]
    b, c = (np.zeros(d) if v is None else np.asarray(v, np.float64) for v in (row_map.b, row_map.c))
    head = struct.pack(
        "<8qd",
        CODES[rows.dtype],
        CODES[type_out],
        rows.itemsize,
        type_out.itemsize,
        *rows.shape,
        row_map.b is not None,
        row_map.c is not None,
        row_map.s,
    )
    return b"".join([head, b.tobytes(), c.tobytes(), rows.tobytes(), gradient.tobytes()])


def _here(rows, gradient, row_map: RowMap, type_out) -> bytes:
    out, back, flags = np.empty(rows.shape, type_out), np.empty_like(rows), np.zeros(len(rows), np.uint8)
    stored, summed = ExactSum(rows.shape[1]), ExactSum(rows.shape[1])
    apply(rows, row_map, out, into=stored, flags=flags)
    reduce(rows, row_map, summed)
    vjp(rows, gradient, row_map, back)
    parts = [out, flags, stored.low, stored.high, summed.low, summed.high, back]
    return b"".join(part.tobytes() for part in parts)
