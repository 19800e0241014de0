"""nn.ReAlign under DDP and FSDP: two processes on the loopback, gloo."""

from __future__ import annotations

import copy
import itertools
import os

import numpy as np
import pytest
from processes import run_on_processes

torch = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

import torch.distributed as dist  # noqa: E402
from torch import nn  # noqa: E402

import fastrealign as fr  # noqa: E402

D, BATCH, WORLD = 12, 8, 2


def sides():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((200, D)) + rng.standard_normal(D) for _ in range(2)]


def model():
    torch.manual_seed(1)
    layers = nn.Linear(D, D), fr.nn.ReAlign(fr.fit(*sides()), every=2), nn.Linear(D, 3)
    return nn.Sequential(*layers)


def batch():
    return torch.randn(WORLD * BATCH, D, generator=torch.Generator().manual_seed(2))


def loss_of(net, x):
    return net(x).square().mean()


def plain_step():
    """One process, the whole batch: gradients of the linear layers after a backward pass."""
    net = model()
    loss_of(net, batch()).backward()
    return {name: p.grad for name, p in net.named_parameters()}


def mine(rank):
    return batch()[rank * BATCH : (rank + 1) * BATCH]


def under_ddp(rank):
    net = nn.parallel.DistributedDataParallel(model())
    before = net.module[1].map.clone()
    for _ in range(2):
        net.zero_grad()
        loss_of(net, mine(rank)).backward()
    expected = plain_step()
    for name, p in net.module.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-5, atol=1e-7)
    assert torch.equal(net.module[1].map, before) and before.dtype == torch.float64
    assert set(net.state_dict()) == {f"module.{name}" for name in model().state_dict()}


def under_fsdp(rank):
    from torch.distributed.fsdp import fully_shard

    net = model()
    before = net[1].map.clone()
    mesh = dist.device_mesh.init_device_mesh("cpu", (WORLD,))
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(net, mesh=mesh)
    loss_of(net, mine(rank)).backward()
    expected = plain_step()
    for name, p in net.named_parameters():
        torch.testing.assert_close(p.grad.full_tensor(), expected[name], rtol=1e-5, atol=1e-7)
    assert torch.equal(net[1].map, before) and net[1].map.dtype == torch.float64
    assert torch.equal(net.state_dict()["1.map"], before)


def online(rank):
    together, alone = (fr.nn.ReAlign(fr.fit(*sides()), every=2) for _ in range(2))
    texts = torch.from_numpy(sides()[0]).reshape(4, 50, D)
    for i in range(2):
        together.update(texts[2 * i + rank], group=dist.group.WORLD)
        alone.update(texts[2 * i : 2 * i + 2])  # both ranks' rows in one process
    torch.testing.assert_close(together.map, alone.map, rtol=0, atol=1e-12)
    assert together.weight == alone.weight


def under_fsdp_with_narrow_buffers(rank):
    """FSDP casts buffers in place, at the first pass, and back for evaluation; accelerate asks for it."""
    from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

    os.environ["FSDP_USE_FULL_PREC_IN_EVAL"] = "1"
    half = torch.bfloat16
    narrow = MixedPrecision(param_dtype=half, reduce_dtype=half, buffer_dtype=half)
    inputs = torch.from_numpy(sides()[0]).float()
    parts = (
        lambda: fr.nn.ReAlign(fr.fit(*sides()), every=2),
        lambda: fr.nn.as_module(fr.fit(*sides(), method="bca")),
        lambda: fr.nn.as_module(fr.fit(*sides(), method="anchor-trace")),
    )
    for part, evaluated_first in itertools.product(parts, (False, True)):
        net = nn.Sequential(part(), nn.Linear(D, 3))
        saved = net.state_dict()
        seen = []
        net[0].register_forward_hook(lambda module, args, out, seen=seen: seen.append(out.clone()))
        net = FullyShardedDataParallel(net, device_id=torch.device("cpu"), mixed_precision=narrow)
        expected = part()(inputs.to(half))
        for training in (False, True, False) if evaluated_first else (True, False, True):
            net.train(training)
            net(inputs).sum().backward()
        for out in seen:
            assert torch.equal(out, expected if out.dtype == half else part()(inputs))
        assert {out.dtype for out in seen} == {half, torch.float32}
        state = {name: value for name, value in net.state_dict().items() if name.startswith("0.")}
        assert all(
            torch.equal(value, saved[name]) and value.dtype == saved[name].dtype for name, value in state.items()
        )
        net(inputs)
        twin = copy.deepcopy(net.module[0])
        assert all(torch.equal(twin.state_dict()[name.removeprefix("0.")], saved[name]) for name in state)


def under_fsdp_a_map_that_was_replaced(rank):
    """What was cast is not what was kept: nothing says which digits were there, so it is refused."""
    layer = fr.nn.ReAlign(fr.fit(*sides()))
    layer.map.data = (layer.map + 1.0).bfloat16()
    with pytest.raises(fr.InputError, match="buffer_dtype=None"):
        layer(batch())


SHARDS_ON_CPU = hasattr(torch.cpu.Stream, "record_event")  # since torch 2.7


def checks(rank, size, folder):
    of_shards = [under_fsdp] if SHARDS_ON_CPU else []
    for check in (under_ddp, *of_shards, under_fsdp_with_narrow_buffers, under_fsdp_a_map_that_was_replaced, online):
        check(rank)
        dist.barrier()


def test_ddp_fsdp_and_online_updates_of_all_ranks(tmp_path):
    run_on_processes(checks, WORLD, tmp_path)
    if not SHARDS_ON_CPU:
        pytest.skip("fully_shard of this torch needs a GPU, such as 2.6; the other checks passed")
