"""The kernels on a GPU: numbers against the float64 reference, the same bits again, graphs, streams. Needs a GPU."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("no GPU", allow_module_level=True)

import fastrealign as fr  # noqa: E402
import fastrealign.nn  # noqa: E402
from fastrealign.core import device_ops, ops, reference, torch_ops  # noqa: E402
from fastrealign.core.backend import choose  # noqa: E402
from fastrealign.core.bad_rows import ZERO, Counts  # noqa: E402
from fastrealign.core.errors import InputError  # noqa: E402
from fastrealign.core.exact_sum import ExactSum  # noqa: E402
from fastrealign.core.rows import as_rows  # noqa: E402

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
WIDTHS = [1, 3, 17, 96, 257, 512, 768, 1024, 1280, 2048, 4096, 4097, 16384]
ROWS = [1, 15, 17, 129, 1000]


@pytest.fixture(params=["cuda", "triton"])
def backend(request, monkeypatch):
    try:
        choose("cuda", 0, request.param)
    except InputError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("FASTREALIGN_BACKEND", request.param)
    return request.param


@pytest.fixture
def rows_on(rng):
    return lambda n, d, dtype: torch.from_numpy(rng.standard_normal((n, d)) + 0.1).to(dtype).cuda()


def mapped(rows, row_map):
    return reference.row_map(rows.double().cpu().numpy(), row_map.s, row_map.b, row_map.c)


def assert_close(out, exact):
    error = np.abs(out.double().cpu().numpy() - exact).max()
    if out.dtype == torch.float64:
        assert error <= 2e-13
    elif out.dtype == torch.float32:
        assert error <= 3e-7
    else:
        assert error <= 2 * np.abs(torch.from_numpy(exact).to(out.dtype).double().numpy() - exact).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", WIDTHS)
def test_apply_and_reduce(backend, rows_on, map_of, dtype, d):
    for i, n in enumerate(ROWS):
        rows, row_map = rows_on(n, d, dtype), map_of(d, ["unit", "s", "b", "bc"][(i + d) % 4])
        out = torch.full_like(rows, float("nan"))
        stored, sums, cpu = ExactSum(d), ExactSum(d), ExactSum(d)
        assert device_ops.apply_rows(rows, row_map, out, into=stored) == Counts(n)
        exact = mapped(rows, row_map)
        assert_close(out, exact)
        # In steps of 2^-40, half-way cases away from zero; totals have 48 more bits.
        scaled = np.ldexp(out.double().cpu().numpy(), 40)
        size, whole = np.abs(scaled), np.floor(np.abs(scaled))
        steps = np.copysign(whole + (np.ldexp(size, -52) >= 0.5 - (size - whole)), scaled).astype(np.int64).sum(0)
        assert [(int(h) << 64) + int(low) for h, low in zip(stored.high, stored.low, strict=True)] == [
            int(s) << 48 for s in steps
        ]
        device_ops.reduce_rows(rows, row_map, sums)
        ops.reduce(as_rows(rows.cpu()), row_map, cpu, backend="cpu")
        assert np.abs(sums.mean - cpu.mean).max() <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_million_rows_again_and_again(backend, map_of, dtype):
    rows, row_map = torch.randn(1_000_003, 96, device="cuda").to(dtype), map_of(96)
    rows[777_777] = 0
    first = None
    for _ in range(3):
        out, stored, sums = torch.empty_like(rows), ExactSum(96), ExactSum(96)
        counts = device_ops.apply_rows(rows, row_map, out, into=stored)
        assert counts == device_ops.reduce_rows(rows, row_map, sums) == Counts(1_000_002, 1, 777_777, ZERO)
        if first is None:
            first = out, stored, sums
        assert torch.equal(out, first[0]) and stored == first[1] and sums == first[2]
    assert_close(out[-500:], mapped(rows[-500:], row_map))


def test_offsets_beyond_32_bits(backend, map_of):
    rows, row_map = torch.empty(2**31 // 1024 + 5000, 1024, device="cuda", dtype=torch.bfloat16), map_of(1024)
    rows.normal_()
    out = torch.empty_like(rows)
    device_ops.apply_rows(rows, row_map, out)
    assert_close(out[-300:], mapped(rows[-300:], row_map))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [17, 96, 768, 4097])
def test_vjp(backend, rng, rows_on, map_of, dtype, d):
    rows, g, row_map = rows_on(40, d, dtype), rows_on(40, d, dtype), map_of(d)
    out = torch.ops.fastrealign.vjp(rows, g, *torch_ops.pack(row_map, d, "cuda"))
    exact = reference.vjp(rows.double().cpu().numpy(), g.double().cpu().numpy(), row_map.s, row_map.b, row_map.c)
    error = np.abs(out.double().cpu().numpy() - exact).max()
    rounding = np.abs(torch.from_numpy(exact).to(dtype).double().numpy() - exact).max()
    assert error <= 4 * rounding + 1e-12 * np.abs(exact).max()


def test_the_module_in_a_graph_on_a_stream_and_compiled(backend, rng):
    text, images = rng.standard_normal((300, 64)), rng.standard_normal((200, 64)) + 1
    alignment = fr.fit(torch.from_numpy(text).cuda(), torch.from_numpy(images).cuda())
    layer = fr.nn.ReAlign(alignment).cuda()
    x = torch.from_numpy(text).float().cuda()
    expected = layer(x)
    assert_close(expected, mapped(x, alignment.row_map))
    torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), expected, rtol=0, atol=0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        on_stream = layer(x)
    stream.synchronize()
    torch.testing.assert_close(on_stream, expected, rtol=0, atol=0)
    still = x.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layer(still)
    still.copy_(x.flip(0))
    graph.replay()
    torch.testing.assert_close(captured, expected.flip(0), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["realign", "none", "anchor"])
def test_noise_is_that_of_the_cpu(backend, rng, name):
    text, images = rng.standard_normal((300, 64)), rng.standard_normal((200, 64)) + 1
    method = fr.fit(text, images, method=name)
    text[7] = 0
    expected = method(text, noise=1.0, seed=3, first=40, bad_rows="keep")
    there = torch.from_numpy(text).cuda()
    out = method(there, noise=1.0, seed=3, first=40, bad_rows="keep")
    np.testing.assert_allclose(out.cpu().numpy(), expected, atol=1e-12)
    with pytest.raises(fr.BadRowsError, match="row 7"):
        method(there, noise=1.0)
    layer = fr.nn.as_module(method, noise=1.0, seed=3).cuda()
    np.testing.assert_allclose(layer(there, first=40).cpu().numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(
        layer(there)[8:].cpu().numpy(), method(text, noise=1.0, seed=3, bad_rows="keep")[8:], atol=1e-12
    )


def test_callers_kind_of_array(backend, rng):
    text, images = rng.standard_normal((300, 64)), rng.standard_normal((200, 64)) + 1
    alignment = fr.fit(*(torch.from_numpy(rows).cuda() for rows in (text, images)))
    out = alignment(torch.from_numpy(text).cuda())
    assert out.is_cuda
    np.testing.assert_allclose(out.cpu().numpy(), alignment(text, backend="cpu"), atol=1e-12)
    cupy = pytest.importorskip("cupy")
    assert isinstance(alignment(cupy.asarray(text)), cupy.ndarray)
