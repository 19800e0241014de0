"""torch.ops.fastrealign: numbers, gradients, what torch itself checks of an operator, compilation, odd inputs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastrealign as fr  # noqa: E402
from fastrealign.core import device_ops, ops, packed_map, reference, torch_ops  # noqa: E402
from fastrealign.core.bad_rows import ZERO  # noqa: E402
from fastrealign.core.errors import InputError  # noqa: E402
from fastrealign.core.exact_sum import ExactSum  # noqa: E402
from fastrealign.core.row_map import UNIT  # noqa: E402
from fastrealign.core.rows import as_rows  # noqa: E402

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
APPLY = torch.ops.fastrealign.apply
REDUCE = torch.ops.fastrealign.reduce


@pytest.fixture
def tensors(rng, map_of):
    """tensors(n, d, dtype, terms): rows, packed map, terms, and the row map."""

    def tensors(n, d, dtype=torch.float32, terms="bc"):
        row_map = map_of(d, terms)
        rows = torch.from_numpy(rng.standard_normal((n, d))).to(dtype)
        return rows, *torch_ops.pack(row_map, d), row_map

    return tensors


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("terms", ["unit", "s", "b", "bc"])
def test_apply_is_ops_apply(tensors, dtype, terms):
    rows, packed, number, row_map = tensors(37, 20, dtype, terms)
    out = APPLY(rows, packed, number)
    view = as_rows(rows)
    expected = np.empty_like(view)
    ops.apply(view, row_map, expected)
    assert out.dtype == dtype
    np.testing.assert_array_equal(as_rows(out), expected)
    assert APPLY(rows, packed, number, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("dtype", DTYPES)
def test_reduce_is_ops_reduce(tensors, dtype):
    rows, packed, number, row_map = tensors(300, 20, dtype)
    rows[7] = 0
    rows[9, 3] = float("nan")
    low, high, bad = REDUCE(rows, packed, number)
    expected = ExactSum(20)
    counts = ops.reduce(as_rows(rows), row_map, expected)
    found = ExactSum.over(low.numpy(), high.numpy())
    found.count = counts.good
    assert found == expected
    assert bad.tolist() == [2, 7, ZERO]
    assert REDUCE(rows[:7], packed, number)[2].tolist() == [0, -1, 0]


@pytest.mark.parametrize("terms", ["unit", "s", "b", "bc"])
def test_gradients(tensors, terms):
    rows, packed, number, _ = tensors(5, 7, torch.float64, terms)
    rows.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: APPLY(x, packed, number), rows)
    # An output of another type: the gradient comes back in the rows' own.
    half = rows.detach().half().requires_grad_()
    APPLY(half, packed, number, torch.float32).sum().backward()
    assert half.grad.dtype == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_torch_checks_of_an_operator(tensors, dtype):
    rows, packed, number, _ = tensors(6, 9, dtype)
    for x in (rows, rows.clone().requires_grad_()):
        torch.library.opcheck(APPLY.default, (x, packed, number))
    torch.library.opcheck(APPLY.default, (rows, packed, number, torch.float32))
    torch.library.opcheck(REDUCE.default, (rows, packed, number))
    torch.library.opcheck(torch.ops.fastrealign.vjp.default, (rows, rows, packed, number))


def test_compiled_without_a_graph_break(tensors):
    rows, packed, number, _ = tensors(6, 9)

    def step(x):
        return APPLY(x * 2.0, packed, number) + REDUCE(x, packed, number)[0].sum()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(rows), step(rows), rtol=0, atol=0)
    torch.testing.assert_close(compiled(rows[:3]), step(rows[:3]), rtol=0, atol=0)


def test_autocast_leaves_it_alone(tensors):
    rows, packed, number, _ = tensors(6, 9)
    with torch.autocast("cpu", torch.bfloat16):
        out = APPLY(rows, packed, number)
    torch.testing.assert_close(out, APPLY(rows, packed, number), rtol=0, atol=0)


def test_layouts(tensors):
    rows, packed, number, _ = tensors(8, 9)
    expected = APPLY(rows, packed, number)
    views = [rows.T.contiguous().T, torch.cat([rows, rows], 1)[:, :9], rows[:1].expand(8, 9), rows.flip(0)]
    for view in views:
        torch.testing.assert_close(
            APPLY(view, packed, number), APPLY(view.contiguous(), packed, number), rtol=0, atol=0
        )
    assert APPLY(rows[:0], packed, number).shape == (0, 9)
    torch.testing.assert_close(APPLY(views[0], packed, number), expected, rtol=0, atol=0)


def test_odd_inputs_are_named(tensors):
    rows, packed, number, _ = tensors(6, 9)
    for arguments, message in [
        ((rows[:, :8], packed, number), "rows are 8 wide, the map is for rows 9 wide"),
        ((rows.int(), packed, number), "element type torch.int32, expected float16"),
        ((rows, packed, number, torch.int8), "element type torch.int8, expected float16"),
        ((rows[None], packed, number), "expected \\(rows, width\\)"),
        ((rows, packed.to("meta"), number), "the map on meta"),
        ((rows, packed.float(), number), "the map is torch.float32, expected float64"),
        ((rows, packed, 3), "terms=3: expected 0"),
        ((rows, packed, -1), "terms=-1: expected 0"),
    ]:
        with pytest.raises(InputError, match=message):
            APPLY(*arguments)
    with pytest.raises(InputError, match=r"no gradient flows; pass rows\.detach"):
        REDUCE(rows.clone().requires_grad_(), packed, number)
    with pytest.raises(InputError, match="no gradient flows to it"):
        APPLY(rows, packed.clone().requires_grad_(), number)


def test_a_map_that_was_written_to_is_another_map(tensors):
    """However it was written to: the maps of earlier calls are kept."""
    rows, packed, number, _ = tensors(7, 20)
    others = [tensors(7, 20)[1] for _ in range(6)]
    expected = {id(m): APPLY(rows, m.clone(), number) for m in others}
    for written in (packed.copy_, packed.data.copy_, lambda m: packed.numpy().__setitem__(slice(None), m.numpy())):
        for other in others:
            written(other)
            assert torch.equal(APPLY(rows, packed, number), expected[id(other)])
            assert torch.equal(APPLY(rows, packed, 1), APPLY(rows, other.clone(), 1))
    assert len(packed_map._known) <= 4


def test_the_reference_backend(tensors, monkeypatch):
    rows, packed, number, row_map = tensors(40, 9, torch.float64)
    rows[3] = 0
    fast = APPLY(rows, packed, number), *REDUCE(rows, packed, number)
    monkeypatch.setenv("FASTREALIGN_BACKEND", "reference")
    slow = APPLY(rows, packed, number), *REDUCE(rows, packed, number)
    torch.testing.assert_close(slow[0], fast[0], rtol=0, atol=1e-14)
    high = slow[2] - fast[2]  # in units of 2^-24: at most two steps of 2^-40 a row, and a carry
    assert high.abs().max() <= 1 and slow[3].tolist() == fast[3].tolist()
    good = [i for i in range(40) if i != 3]
    exact = reference.row_map(rows[good].numpy(), row_map.s, row_map.b, row_map.c)
    np.testing.assert_array_equal(slow[0][good].numpy(), exact)


def test_operators_are_there_where_torch_is_imported_first():
    """Here it is imported after fastrealign."""
    program = "import torch, fastrealign; torch.ops.fastrealign.apply"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_importing_fastrealign_does_not_import_torch():
    program = "import sys, fastrealign; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_alignment_takes_what_speaks_dlpack(rng):
    class Foreign:
        """An array of a library that fastrealign does not know."""

        def __init__(self, x):
            self.x = x

        def __dlpack__(self, **options):
            return self.x.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.x.__dlpack_device__()

    text, images = rng.standard_normal((60, 8)), rng.standard_normal((60, 8)) + 1
    alignment = fr.fit(text, images)
    out = alignment(Foreign(text))
    assert isinstance(out, torch.Tensor)
    np.testing.assert_array_equal(out.numpy(), alignment(text))


def test_an_out_for_a_device_is_checked_before_anything_is_written(rng):
    """Where addresses go to a kernel unseen; tensors in memory stand for those on a device."""
    rows = torch.from_numpy(rng.standard_normal((9, 6)))
    memory = torch.zeros(20, 6, dtype=torch.float64)
    for out, says in (
        (torch.zeros(8, 6), r"shape \(8, 6\)"),
        (torch.zeros(9, 6, dtype=torch.int32), "float type"),
        (torch.zeros(6, 9).T, "rows together"),
        (torch.zeros(1, 6).expand(9, 6), "rows of out overlap"),
        (torch.zeros(9, 6, device="meta"), "out on meta"),
        (np.zeros((9, 6)), "out on the CPU"),
    ):
        with pytest.raises(InputError, match=says):
            device_ops.apply_rows(rows, UNIT, out)
    memory[:9] = rows
    with pytest.raises(InputError, match="overlap in memory"):
        device_ops.apply_rows(memory[:9], UNIT, memory[3:12])
    assert torch.equal(memory[:9], rows) and not memory[9:].any()
    device_ops.apply_rows(memory[:9], UNIT, memory[:9])
    device_ops.apply_rows(rows, UNIT, memory[9:18])
    assert torch.equal(memory[:9], memory[9:18])
