"""Large tensors of results on the CPU are asked for in large pages."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastrealign as fr  # noqa: E402
from fastrealign import _core  # noqa: E402
from fastrealign.core import torch_ops  # noqa: E402
from fastrealign.core.row_map import RowMap  # noqa: E402

pytestmark = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(), reason="needs a Linux with transparent huge pages"
)


def advised(address: int) -> bool:
    """Whether large pages were asked for in the memory at this address."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if bounds := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("no memory at this address")


ROWS, D = 40_000, 256  # a result of 40 MB: larger than what malloc keeps


@pytest.fixture
def rows(rng):
    return torch.from_numpy(rng.standard_normal((ROWS, D), np.float32))


@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_call(rng, rows, dtype):
    alignment = fr.fit(rng.standard_normal((300, D)), rng.standard_normal((300, D)) + 0.1)
    out = alignment(rows.to(dtype))
    assert advised(out.data_ptr() + out.nbytes // 2)


def test_the_operators(rows):
    packed, terms = torch_ops.pack(RowMap(), D)
    out = torch.ops.fastrealign.apply(rows, packed, terms)
    assert advised(out.data_ptr() + out.nbytes // 2)
    gradient = torch.ops.fastrealign.vjp(rows, rows, packed, terms)
    assert advised(gradient.data_ptr() + gradient.nbytes // 2)


def test_small_results_are_left_to_torch(rows, monkeypatch):
    asked = []
    monkeypatch.setattr(_core, "advise_large_pages", lambda address, size: asked.append(size))
    for n in (1, 4095, 4096):  # 4 MiB are 4,096 rows
        torch.ops.fastrealign.apply(rows[:n], *torch_ops.pack(RowMap(), D))
    assert asked == [4 << 20]
