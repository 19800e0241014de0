"""nn.ReAlign: the alignment as a module, its state, and following encoders that move."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastrealign as fr  # noqa: E402
import fastrealign.nn  # noqa: E402
from fastrealign.core import reference  # noqa: E402
from fastrealign.core.errors import InputError  # noqa: E402
from fastrealign.methods import baselines  # noqa: E402


@pytest.fixture
def sides(rng):
    text = rng.standard_normal((400, 24)) + 2 * rng.standard_normal(24)
    images = rng.standard_normal((300, 24)) * 0.7 + 2 * rng.standard_normal(24)
    return text, images


@pytest.fixture
def alignment(sides):
    return fr.fit(*sides)


def test_it_is_the_alignment(sides, alignment):
    layer = fr.nn.ReAlign(alignment)
    text = torch.from_numpy(sides[0]).float()
    torch.testing.assert_close(layer(text), alignment(text), rtol=0, atol=0)
    torch.testing.assert_close(layer(text.view(4, 10, 10, 24)), layer(text).view(4, 10, 10, 24), rtol=0, atol=0)
    assert layer(text.half()).dtype == torch.float16
    assert not list(layer.parameters())
    with pytest.raises(InputError, match="rows are 12 wide, the alignment was fitted on 24"):
        layer(text[:, :12])


def test_gradients_reach_what_comes_before(sides, alignment):
    layer = torch.nn.Sequential(torch.nn.Linear(24, 24), fr.nn.ReAlign(alignment))
    layer(torch.from_numpy(sides[0][:8]).float()).sum().backward()
    assert layer[0].weight.grad.abs().max() > 0


def test_state_dict(sides, alignment):
    saved = fr.nn.ReAlign(alignment).state_dict()
    layer = fr.nn.ReAlign(dim=24)
    text = torch.from_numpy(sides[0])
    np.testing.assert_allclose(layer(text).numpy(), reference.project(sides[0]), atol=1e-14)
    layer.load_state_dict(saved)
    np.testing.assert_array_equal(layer(text).numpy(), alignment(sides[0]))


def test_the_map_keeps_its_digits(sides, alignment):
    text = torch.from_numpy(sides[0])
    for change in (lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.float(), copy.deepcopy):
        layer = change(fr.nn.ReAlign(alignment))
        np.testing.assert_array_equal(layer(text).numpy(), alignment(sides[0]))
    assert fr.nn.ReAlign(alignment).to("meta").map.device.type == "meta"


def test_compiled_whole(sides, alignment):
    layer = fr.nn.ReAlign(alignment)
    text = torch.from_numpy(sides[0]).float()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(text), layer(text), rtol=0, atol=0)


def test_online_from_nothing_it_ends_where_fit_does(sides, alignment):
    layer = fr.nn.ReAlign.from_alignment(alignment, decay=1.0, every=4)
    # A text encoder that has moved: everything was elsewhere when the alignment was fitted.
    moved = torch.from_numpy(sides[0] + 1.5)
    expected = fr.fit(moved.numpy(), sides[1])
    before = np.linalg.norm(layer(moved).mean(0).numpy() - expected.mean_target)
    for _ in range(40):
        for batch in moved.split(100):
            layer.update(batch)
    after = np.linalg.norm(layer(moved).mean(0).numpy() - expected.mean_target)
    np.testing.assert_allclose(layer.map[0].item(), expected.s, rtol=1e-9)
    np.testing.assert_allclose(layer.map[8:32].numpy(), expected.b, atol=1e-9)
    assert after < before / 5 and after < 5 * expected.gap_left + 1e-2


def test_online_earlier_rows_are_forgotten(sides, alignment):
    layer = fr.nn.ReAlign(alignment, decay=0.5, every=1)
    text = torch.from_numpy(sides[0])
    for _ in range(60):
        layer.update(text + 5.0)
    for _ in range(60):
        layer.update(text)
    expected = fr.fit(sides[0], sides[1])
    np.testing.assert_allclose(layer.map[8:32].numpy(), expected.b, atol=1e-9)
    np.testing.assert_allclose(layer(text).numpy(), expected(sides[0]), atol=1e-7)


def test_online_solves_every_so_many_updates_and_skips_rows_without_a_direction(sides, alignment):
    layer = fr.nn.ReAlign(alignment, every=3)
    batch = torch.from_numpy(sides[0] + 1.0)
    batch[5] = 0
    before = layer.map.clone()
    layer.update(batch)
    layer.update(batch)
    assert torch.equal(layer.map, before)
    layer.update(batch)
    assert not torch.equal(layer.map, before) and torch.isfinite(layer.map).all()
    assert layer.weight.item() == pytest.approx(399 * (1 + 0.99 + 0.99**2))


def test_a_batch_without_any_direction_changes_nothing(alignment):
    layer = fr.nn.ReAlign(alignment, every=1)
    before = layer.map.clone()
    layer.update(torch.zeros(4, 24))
    assert torch.equal(layer.map, before)


@pytest.mark.parametrize("options", [{}, {"dim": 3}, {"decay": 0.0}, {"every": 0}])
def test_odd_options_are_named(alignment, options):
    given = options.get("dim") == 3 or options.get("decay") == 0.0 or options.get("every") == 0
    with pytest.raises(InputError):
        fr.nn.ReAlign(alignment if given else None, **options)


def test_sums_of_few_rows_keep_their_digits(rng):
    """A small negative total lies just below 2^64 in its low limb, where float64 has steps of 2^11."""
    rows = rng.standard_normal((3, 20))
    layer = fr.nn.ReAlign(dim=20)
    layer.update(torch.from_numpy(rows))
    expected = reference.project(rows).sum(axis=0)
    assert (expected < 0).any()
    np.testing.assert_allclose(layer.sum_unit.numpy(), expected, rtol=0, atol=3 * 2.0**-41 + 1e-15)


@pytest.mark.parametrize("name", ["none", "mean-shift", "bca", "anchor-trace"])
def test_any_method_as_a_module(sides, name, tmp_path):
    method = fr.fit(*sides, method=name)
    layer = fr.nn.as_module(method)
    text = torch.from_numpy(sides[0])
    assert not list(layer.parameters())
    torch.testing.assert_close(layer(text), method(text), rtol=0, atol=1e-9)
    single = text.float().view(4, 100, 24)
    torch.testing.assert_close(layer(single).view(400, 24), method(text.float()), rtol=0, atol=3e-6)
    assert layer(text.half()).dtype == torch.float16
    method.save(tmp_path / "m.safetensors")
    again = fr.nn.as_module(tmp_path / "m.safetensors").half()
    torch.testing.assert_close(again(text), layer(text), rtol=0, atol=0)
    spoiled = text.clone()
    spoiled[3], spoiled[5, 1] = 0, torch.nan
    kept = layer(spoiled)
    torch.testing.assert_close(kept[[3, 5]], spoiled[[3, 5]], equal_nan=True)
    torch.testing.assert_close(kept[6:], layer(text)[6:], rtol=0, atol=1e-12)
    with pytest.raises(InputError, match=f"rows are 12 wide, {name} was fitted on 24"):
        layer(text[:, :12])
    rows = text[:6].clone().requires_grad_()
    assert torch.autograd.gradcheck(layer, (rows,), atol=1e-6)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(text), layer(text), rtol=0, atol=1e-12)


def test_noise_of_a_module_is_new_at_every_call(sides):
    method = fr.fit(*sides, method="c3")
    layer, text = fr.nn.as_module(method), torch.from_numpy(sides[0])
    torch.manual_seed(7)
    one, other = layer(text), layer(text)
    assert not torch.isclose(one, other).all(-1).any()
    torch.manual_seed(7)
    torch.testing.assert_close(layer(text), one, rtol=0, atol=0)
    # One direction of the rows before they are projected: the noise across it has the spread that C3 gives it.
    clean = torch.from_numpy(sides[0] / np.linalg.norm(sides[0], axis=1, keepdims=True)) + torch.from_numpy(
        method.shift.copy()
    )
    across = torch.linalg.qr(torch.stack([clean[0], *torch.eye(24, dtype=torch.float64)[:23]]).T)[0][:, 1]
    drawn = torch.stack([layer(text[:1])[0] for _ in range(2000)])
    ahead = clean[0] / clean[0].norm()
    slope = (drawn @ across) / (drawn @ ahead) * clean[0].norm()  # sigma n / (1 + sigma n' / |clean|)
    assert slope.median().abs() < 0.2 * method.sigma
    assert 0.8 * method.sigma < 1.4826 * slope.abs().median() < 1.25 * method.sigma


def test_realign_as_a_module(sides, alignment):
    layer = fr.nn.as_module(alignment)
    assert isinstance(layer, fr.nn.ReAlign)
    text = torch.from_numpy(sides[0])
    torch.testing.assert_close(layer(text), alignment(text), rtol=0, atol=0)


def test_updates_of_what_cannot_be_solved_leave_the_map(sides, alignment):
    with pytest.raises(InputError, match="rows are 12 wide, the alignment was fitted on 24"):
        fr.nn.ReAlign(alignment).update(torch.randn(4, 12))
    one_way = torch.from_numpy(sides[0][:1]).repeat(64, 1) * torch.rand(64, 1)
    for layer in (fr.nn.ReAlign(alignment, every=1), fr.nn.ReAlign(dim=24, every=1)):
        before = layer.map.clone()
        layer.update(one_way)
        torch.testing.assert_close(layer.map, before, rtol=0, atol=0)
    layer.update(torch.from_numpy(sides[0]))  # there is spread, but no target
    torch.testing.assert_close(layer.map, before, rtol=0, atol=0)
    layer.load_state_dict(fr.nn.ReAlign(alignment, every=1).state_dict())
    layer.update(torch.from_numpy(sides[0]) + 1)
    assert not torch.equal(layer.map, fr.nn.ReAlign(alignment).map)


def test_an_update_before_the_gradient_comes_does_not_change_it(sides, alignment):
    text = torch.from_numpy(sides[0][:50]).requires_grad_()
    layer = fr.nn.ReAlign(alignment, every=1)
    weights = torch.randn(50, 24, dtype=torch.float64)
    expected = torch.autograd.grad((layer(text) * weights).sum(), text)[0]
    out = layer(text)
    layer.update(text + 1)
    assert not torch.equal(layer.map, fr.nn.ReAlign(alignment).map)
    torch.testing.assert_close(torch.autograd.grad((out * weights).sum(), text)[0], expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["realign", "c3", "bca", "mean-shift", "anchor"])
def test_derivatives_that_are_not_there_are_refused(sides, name):
    layer = fr.nn.as_module(baselines.fit_baseline(name, *sides))
    text = torch.from_numpy(sides[0][:5])
    with pytest.raises(InputError, match="has no forward-mode derivative"):
        torch.func.jvp(layer, (text,), (torch.ones_like(text),))
    for transform in (torch.func.vmap, torch.func.jacrev, lambda layer: torch.func.grad(lambda x: layer(x).sum())):
        with pytest.raises(InputError, match=r"takes no transform of torch\.func"):
            transform(layer)(text)
    text.requires_grad_()
    with pytest.raises(InputError, match="no gradient flows through a gradient"):
        torch.autograd.grad(layer(text).sum(), text, create_graph=True)


@pytest.mark.parametrize("name", ["realign", "none", "mean-shift", "c3", "bca"])
def test_rows_without_a_direction_have_no_gradient(sides, name):
    layer = fr.nn.as_module(baselines.fit_baseline(name, *sides))
    text = torch.from_numpy(sides[0][:4].copy())
    text[1], text[2, 3] = 0, torch.nan
    text.requires_grad_()
    layer(text).sum(-1)[[0, 1, 3]].sum().backward()
    assert text.grad[[0, 3]].abs().min() > 0 and not text.grad[1:3].any()


@pytest.mark.parametrize("name", ["realign", "bca"])
def test_made_without_memory_and_filled(sides, alignment, name):
    method = baselines.fit_baseline(name, *sides)
    made = fr.nn.as_module(method)
    with torch.device("meta"):
        empty = fr.nn.as_module(method)
    assert all(value.device.type == "meta" for value in empty.buffers())
    filled = empty.to_empty(device="cpu")
    filled.load_state_dict(made.state_dict())
    text = torch.from_numpy(sides[0])
    torch.testing.assert_close(filled(text), made(text), rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_no_rows(alignment):
    layer = fr.nn.ReAlign(alignment)
    with pytest.raises(InputError, match="rows are 0 wide"):
        layer(torch.tensor(1.0))
    with pytest.raises(InputError, match=r"layout torch.sparse_coo, expected a dense one"):
        layer(torch.eye(24).to_sparse())
    with pytest.raises(InputError, match=r"a nested tensor, expected a dense one"):
        layer(torch.nested.nested_tensor([torch.ones(1, 24), torch.ones(2, 24)]))
    for call in (layer, layer.update):
        with pytest.raises(InputError, match=r"a list, expected a torch tensor"):
            call([[1.0] * 24])


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", ["realign", "bca"])
def test_a_state_of_narrower_numbers(sides, name, assign):
    """The module computes in float64 with the values of the state, however they were rounded."""
    made = fr.nn.as_module(fr.fit(*sides, method=name))
    state = {
        name: value.bfloat16() if value.is_floating_point() else value for name, value in made.state_dict().items()
    }
    layer = copy.deepcopy(made)
    layer.load_state_dict(state, assign=assign)
    assert {value.dtype for value in layer.buffers()} <= {torch.float64, torch.int64}
    assert torch.equal(layer.map, state["map"].double())
    text = torch.from_numpy(sides[0])
    torch.testing.assert_close(layer(text), made(text), rtol=0, atol=0.05)


def test_a_module_on_meta_is_printed(alignment):
    assert repr(fr.nn.ReAlign(alignment).to("meta")) == "ReAlign(dim=24)"


def test_settings_other_than_the_defaults_are_printed(alignment, sides):
    assert repr(fr.nn.ReAlign(alignment, decay=0.99, every=100, noise=0.0, seed=3)) == repr(fr.nn.ReAlign(alignment))
    layer = fr.nn.ReAlign(alignment, decay=0.5, every=7, noise=0.25, seed=3)
    assert repr(layer).endswith(f"s={alignment.s:.4g}, decay=0.5, every=7, noise=0.25, seed=3)")
    c3 = fr.fit(*sides, method="c3")
    assert repr(fr.nn.as_module(c3)) == f"Steps(c3, dim={c3.dim}, sigma={c3.sigma:.4g})"
    assert repr(fr.nn.as_module(c3, noise=0.25)) == f"Steps(c3, dim={c3.dim}, noise=0.25, seed=0)"


def test_an_alignment_by_its_path_and_what_is_none(rng, tmp_path):
    y, x = rng.standard_normal((50, 8)) + 1, rng.standard_normal((50, 8)) - 1
    alignment = fr.fit(y, x)
    alignment.save(tmp_path / "a.safetensors")
    rows = torch.tensor(y)
    expected = fr.nn.ReAlign(alignment)(rows)
    assert torch.equal(fr.nn.ReAlign(tmp_path / "a.safetensors")(rows), expected)
    for wrong in (y, rows, 3):
        for call in (
            fr.nn.ReAlign,
            fr.nn.as_module,
            lambda given: fr.check(given, y),
            lambda given: fr.update(given, y),
        ):
            with pytest.raises(InputError, match=r"expected an Alignment or the path of a saved one"):
                call(wrong)


@pytest.mark.parametrize("name", baselines.METHODS)
def test_noise_by_row_numbers(sides, name):
    """Batches in order get what one call on all rows gives; numbers take a row's own noise back; eval() adds none."""
    method = fr.fit(*sides, method=name)
    text = torch.from_numpy(sides[0])
    layer = fr.nn.as_module(method, noise=0.7, seed=5)
    expected = method(text, noise=0.7, seed=5)
    torch.testing.assert_close(torch.cat([layer(text[:150]), layer(text[150:])]), expected, rtol=0, atol=1e-9)
    again = layer(text[:150])  # the next epoch: rows 400 to 549
    torch.testing.assert_close(again, method(text[:150], noise=0.7, seed=5, first=400), rtol=0, atol=1e-9)
    some = torch.tensor([300, 3, 77])
    torch.testing.assert_close(layer(text[some], first=some), expected[some], rtol=0, atol=1e-9)
    torch.testing.assert_close(
        layer(text[9:12].half().view(1, 3, 24), first=9)[0], expected[9:12].half(), rtol=0, atol=2e-3
    )
    assert layer.rows_seen == 550
    # Noise replaces c3's own, and eval() turns it off.
    quiet = replace(method, sigma=0.0) if name == "c3" else method
    torch.testing.assert_close(layer.eval()(text), quiet(text), rtol=0, atol=1e-9)
    spoiled = text[:4].clone()
    spoiled[1], spoiled[2, 3] = 0, torch.nan
    kept = layer.train()(spoiled, first=0)
    torch.testing.assert_close(kept[1:3], spoiled[1:3], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(kept[[0, 3]], expected[[0, 3]], rtol=0, atol=1e-9)


def test_noise_continues_from_a_state_and_leaves_gradients(sides, alignment):
    text = torch.from_numpy(sides[0])
    layer = fr.nn.ReAlign(alignment, noise=1.0, seed=2)
    layer(text[:100])
    resumed, plain = fr.nn.ReAlign(alignment, noise=1.0, seed=2), fr.nn.ReAlign(alignment)
    resumed.load_state_dict(layer.state_dict())
    torch.testing.assert_close(resumed(text[100:200]), layer(text[100:200]), rtol=0, atol=0)
    plain.load_state_dict(layer.state_dict())  # to run without noise what was trained with it
    torch.testing.assert_close(plain(text), alignment(text), rtol=0, atol=0)
    layer.load_state_dict(plain.state_dict())
    assert layer.rows_seen == 200 and "rows_seen" not in plain.state_dict()
    rows = text[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer(x, first=0), (rows,), atol=1e-6)
    torch._dynamo.reset()
    compiled = torch.compile(fr.nn.ReAlign(alignment, noise=1.0, seed=2), fullgraph=True, backend="aot_eager")
    for lo in (0, 100):
        torch.testing.assert_close(
            compiled(text[lo : lo + 100]), alignment(text[lo : lo + 100], noise=1.0, seed=2, first=lo)
        )


@pytest.mark.parametrize("name", ["realign", "c3"])
def test_noise_of_no_rows(sides, name):
    method = fr.fit(*sides, method=name)
    layer = fr.nn.as_module(method, noise=1.0)
    assert layer(torch.ones(0, 24)).shape == (0, 24) and layer.rows_seen == 0


def test_noise_by_row_numbers_compiled(sides, alignment):
    torch._dynamo.reset()
    layer = fr.nn.ReAlign(alignment, noise=1.0, seed=2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    text = torch.from_numpy(sides[0][:9])
    for first in (4, torch.tensor(4), torch.arange(4, 13)):
        torch.testing.assert_close(compiled(text, first=first), layer(text, first=4), rtol=0, atol=0)


@pytest.mark.parametrize("reentrant", [False, True])
def test_noise_when_forward_is_repeated_for_the_gradient(sides, alignment, reentrant):
    from torch.utils.checkpoint import checkpoint

    layer = fr.nn.ReAlign(alignment, noise=1.0)
    text, weights = torch.from_numpy(sides[0][:9]).requires_grad_(), torch.randn(9, 24, dtype=torch.float64)

    def gradient(forward):
        text.grad = None
        (forward(text) * weights).sum().backward()
        return text.grad

    with pytest.raises(InputError, match=r"forward runs again within the backward pass"):
        gradient(lambda x: checkpoint(layer, x, use_reentrant=reentrant))
    assert layer.rows_seen == 9  # the refused call counts no rows
    torch._dynamo.reset()
    compiled = torch.compile(fr.nn.ReAlign(alignment, noise=1.0), backend="aot_eager")
    with pytest.raises(InputError, match=r"forward runs again within the backward pass"):
        gradient(lambda x: checkpoint(compiled, x, use_reentrant=reentrant))
    numbered = gradient(lambda x: checkpoint(lambda x: layer(x, first=3), x, use_reentrant=reentrant))
    torch.testing.assert_close(numbered, gradient(lambda x: layer(x, first=3)), rtol=0, atol=0)


def test_noise_of_a_module_that_is_none(alignment):
    for value in (-1.0, float("nan"), "1"):
        with pytest.raises(InputError, match=r"^noise=.*: expected a number from 0"):
            fr.nn.ReAlign(alignment, noise=value)
    with pytest.raises(InputError, match="first has shape"):
        fr.nn.ReAlign(alignment, noise=1.0)(torch.ones(3, 24), first=torch.tensor([1, 2]))
    with pytest.raises(InputError, match="from 0 to"):
        fr.nn.ReAlign(alignment, noise=1.0)(torch.ones(3, 24), first=-1)
