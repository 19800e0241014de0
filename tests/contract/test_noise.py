"""Noise on any method: the rows of its formula, whatever the shards, threads, stops and processes; recorded, never saved."""

from __future__ import annotations

import itertools
import json
import math
from functools import partial

import corpus
import numpy as np
import pytest
import steps
import stops

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import InputError
from fastrealign.formats.manifest import Manifest
from fastrealign.methods.baselines import METHODS, fit_baseline
from fastrealign.methods.method import Call
from fastrealign.methods.noise import noise

SIZES = (70, 1, 1300, 40)
UNPROJECTED = ("mean-shift",)


@pytest.fixture
def sides(tmp_path):
    """A folder of text shards, an image folder, and the text rows of all shards in the order of their names."""
    parts = [corpus.rows(n, i) for i, n in enumerate(SIZES)]
    text = corpus.npy_folder(tmp_path / "text", parts)
    image = corpus.npy_folder(tmp_path / "image", [corpus.rows(900, 50)])
    return text, image, np.concatenate(parts)


def by_formula(method, rows, length, seed, numbers):
    """pi(f(y) + length / sqrt(d) n) in float64; of c3 the noise comes before its own projection, in place of its own."""
    drawn = length / math.sqrt(rows.shape[1]) * noise(seed, numbers, rows.shape[1])
    noisy = drawn + (corpus.unit(rows) + method.shift if method.name == "c3" else method(rows.astype(np.float64)))
    return noisy if method.name in UNPROJECTED else noisy / np.linalg.norm(noisy, axis=1, keepdims=True)


@pytest.mark.parametrize("name", METHODS)
def test_rows_are_those_of_the_formula(sides, name):
    _, image, rows = sides
    method = fit_baseline(name, rows, corpus.loaded(image))
    wide = rows.astype(np.float64)
    for length, seed in ((0.1, 0), (1.0, 7), (30.0, 2**63 - 1)):
        found = method(wide, noise=length, seed=seed)
        np.testing.assert_allclose(found, by_formula(method, wide, length, seed, np.arange(len(rows))), atol=1e-12)
    for dtype, atol in (("float32", 1.2e-7), ("float16", 1e-3), ("bfloat16", 8e-3)):
        np.testing.assert_allclose(
            np.asarray(method(rows, noise=1.0, dtype=dtype), np.float64), method(wide, noise=1.0), atol=atol
        )
    for backend in ("cpu", "reference"):
        np.testing.assert_allclose(method(rows, noise=1.0, backend=backend), method(wide, noise=1.0), atol=1.2e-7)
    if name not in UNPROJECTED:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-12)


def test_its_length_is_the_root_mean_square_whatever_the_width():
    rng = np.random.default_rng(1)
    for d in (2, 16, 768):
        rows = rng.standard_normal((2000, d))
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        method = fit_baseline("mean-shift", rows, -rows)  # does not project, so what was added is the difference
        added = method(rows, noise=0.7, seed=3) - method(rows)
        assert np.sqrt((added**2).sum(1).mean()) == pytest.approx(0.7, rel=0.05)
    by_length = fit_baseline("c3", rows, -rows)(rows, noise=0.5, seed=0)
    np.testing.assert_array_equal(by_length, fit_baseline("c3", rows, -rows)(rows))  # C3's own default


@pytest.mark.parametrize("name", METHODS)
def test_the_noise_of_a_row_follows_its_number(sides, name):
    text, image, rows = sides
    method = fr.fit(text, image, method=name)
    whole = method(rows, noise=0.8, seed=5)
    cuts = [0, 1, 1030, 1031, len(rows)]
    parts = [method(rows[a:b], noise=0.8, seed=5, first=a) for a, b in itertools.pairwise(cuts)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    some = np.random.default_rng(0).permutation(len(rows))[:300]
    np.testing.assert_array_equal(method(rows[some], noise=0.8, seed=5, first=some, threads=3), whole[some])
    np.testing.assert_array_equal(method(rows[7], noise=0.8, seed=5, first=7), whole[7])
    out = rows.copy()
    assert method(out, noise=0.8, seed=5, out=out) is out and np.array_equal(out, whole)
    assert not np.isclose(method(rows, noise=0.8, seed=6), whole).all(1).any()
    np.testing.assert_array_equal(method(rows, noise=0.0, seed=5), method(rows))
    assert fr.fit(text, image, method=name).fingerprint == method.fingerprint  # a call leaves no trace


@pytest.mark.parametrize("name", METHODS)
def test_files_hold_what_one_call_gives_and_say_so(sides, tmp_path, name, capsys):
    text, image, rows = sides
    report = fr.align(text, image, tmp_path / "out", method=name, noise=0.8, seed=5)
    saved = fr.load(tmp_path / "out" / "alignment.safetensors")
    expected = fr.fit(text, image, method=name, **({"seed": 5} if name == "c3" else {}))
    assert saved.fingerprint == report.alignment.fingerprint == expected.fingerprint  # of the fit, without noise
    assert math.isnan(saved.gap_left)  # that of the noisy rows is not its own
    written = corpus.loaded(tmp_path / "out")
    np.testing.assert_array_equal(written, saved(rows, noise=0.8, seed=5))
    gap = np.linalg.norm(written.astype(np.float64).mean(0) - corpus.unit(corpus.loaded(image)).mean(0))
    assert report.gap_left == pytest.approx(gap, abs=1e-7)
    assert report.to_json()["noise"] == {"noise": 0.8, "seed": 5}
    assert "of length 0.8 (seed 5), added to every row" in str(report)
    fr.apply_files(saved, text, tmp_path / "applied", noise=0.8, seed=5)
    np.testing.assert_array_equal(corpus.loaded(tmp_path / "applied"), written)
    for out in ("out", "applied"):
        options = json.loads((tmp_path / out / "manifest.json").read_text())["asked"]["options"]
        assert (options["noise"], options["seed"]) == (0.8, 5)
        assert main(["inspect", str(tmp_path / out)]) == 0
        assert "noise          of length 0.8 (seed 5), added to every row" in capsys.readouterr().out
    assert fr.align(text, image, tmp_path / "out", method=name, noise=0.8, seed=5, resume=True).nothing_to_do
    for other, says in (
        ({"noise": 0.9, "seed": 5}, "noise was 0.8, now it is 0.9"),
        ({"noise": 0.8, "seed": 6}, "seed was 5, now it is 6"),
        ({"seed": 5} if name == "c3" else {}, "noise was 0.8, now it is the default"),
    ):
        with pytest.raises(InputError, match=rf"{says}; replace it with overwrite=True$") as refusal:
            fr.align(text, image, tmp_path / "out", method=name, resume=True, **other)
        assert str(refusal.value).count("\n") == 0
        if name != "c3" or other:
            with pytest.raises(InputError, match=says if "noise" in other else "now it is the default"):
                fr.apply_files(saved, text, tmp_path / "applied", resume=True, **other)


def test_runs_that_did_not_record_the_noise_of_c3_go_on(sides, tmp_path):
    """Whether the job specification notes it changes no byte of the output."""
    text, image, _ = sides
    fr.align(text, image, tmp_path / "out", method="c3", seed=5)
    saved = fr.load(tmp_path / "out" / "alignment.safetensors")
    fr.apply_files(saved, text, tmp_path / "applied")
    for out in ("out", "applied"):
        path = tmp_path / out / "manifest.json"
        manifest = Manifest.load(path)
        for name in ("noise", "seed") if out == "applied" else ("noise",):
            del manifest.spec.options[name]
        manifest.save(path)
    assert fr.align(text, image, tmp_path / "out", method="c3", seed=5, resume=True).nothing_to_do
    assert fr.apply_files(saved, text, tmp_path / "applied", resume=True).nothing_to_do
    with pytest.raises(InputError, match=r"noise was the default, now it is 0\.8"):
        fr.align(text, image, tmp_path / "out", method="c3", seed=5, noise=0.8, resume=True)


def test_without_noise_nothing_changes(sides, tmp_path):
    text, image, _ = sides
    fr.align(text, image, tmp_path / "plain")
    fr.align(text, image, tmp_path / "zero", noise=0)
    assert corpus.tree(tmp_path / "plain") == corpus.tree(tmp_path / "zero")
    assert "noise" not in json.loads((tmp_path / "zero" / "manifest.json").read_text())["asked"]["options"]
    method = fr.load(tmp_path / "zero" / "alignment.safetensors")
    fr.apply_files(method, text, tmp_path / "a", noise=0.0, seed=9)
    fr.apply_files(method, text, tmp_path / "b")
    assert corpus.tree(tmp_path / "a") == corpus.tree(tmp_path / "b")
    assert fr.apply_files(method, text, tmp_path / "b", resume=True).to_json()["noise"] is None


@pytest.mark.parametrize("name", ["realign", "none", "c3", "bca"])
def test_the_same_bytes_whatever_threads_memory_order_and_stops(sides, tmp_path, name):
    text, image, _ = sides
    how = {"noise": 1.0, "seed": 3, "dtype": "float16"}
    method = fr.fit(text, image, method=name)
    fr.apply_files(method, text, tmp_path / "whole", threads=1, **how)
    whole = corpus.tree(tmp_path / "whole")
    fr.apply_files(
        method, sorted(text.iterdir(), reverse=True), tmp_path / "back", threads=3, max_memory=400_000, **how
    )
    back = corpus.tree(tmp_path / "back")
    assert all(back[file] == data for file, data in whole.items() if file.endswith(".npy"))
    for rows in (100, 1390):
        out = tmp_path / f"stopped{rows}"
        with pytest.raises(fr.FastRealignError, match="disk is full"):
            fr.apply_files(method, text, out, threads=1, progress=stops.StopAfter(rows), **how)
        with pytest.raises(
            InputError, match=r"cannot be resumed: noise was 1.0, now it is 0.5; restart with overwrite=True"
        ):
            fr.apply_files(method, text, out, resume=True, **{**how, "noise": 0.5})
        report = fr.apply_files(method, text, out, resume=True, threads=2, **how)
        assert report.shards_before > 0 and corpus.tree(out) == whole
    np.save(text / "part_0b.npy", np.load(text / "part_3.npy")[:3])
    with (
        pytest.warns(UserWarning, match=r"part_0b\.npy: read as part of one set"),
        pytest.raises(InputError, match=r"was not there|other numbers"),
    ):
        fr.apply_files(method, text, tmp_path / "whole", resume=True, **how)


def test_killed_at_some_steps_and_resumed(sides, tmp_path):
    text, image, _ = sides

    def run(out):
        fr.align(text, image, out, noise=1.0, seed=2, resume=out.exists(), threads=1)

    run(tmp_path / "whole")
    whole = corpus.tree(tmp_path / "whole")
    for step in (9, 14):
        out = tmp_path / f"killed{step}"
        assert steps.killed_at(step, partial(run, out))
        run(out)
        assert corpus.tree(out) == whole


def test_other_formats_and_rows_without_a_direction(sides, tmp_path):
    text, image, _ = sides
    spoiled = np.load(text / "part_2.npy")
    spoiled[5], spoiled[1100] = np.nan, 0
    np.save(text / "part_2.npy", spoiled)
    rows = np.concatenate([np.load(text / f"part_{i}.npy") for i in range(4)])
    target = corpus.unit(corpus.loaded(image)).mean(0)
    for name in ("realign", "mean-shift"):
        method = fr.fit(text, image, method=name, bad_rows="skip")
        with pytest.raises(fr.BadRowsError, match=r"part_2\.npy: row 5 has a NaN or Inf"):
            fr.apply_files(method, text, tmp_path / f"{name}-error", noise=1.0)
        for bad_rows in ("skip", "keep"):
            out = tmp_path / f"{name}-{bad_rows}"
            report = fr.apply_files(method, text, out, bad_rows=bad_rows, noise=1.0)
            written = corpus.loaded(out)
            np.testing.assert_array_equal(written, method(rows, bad_rows=bad_rows, noise=1.0))
            good = np.delete(written, [76, 1171], 0) if bad_rows == "keep" else written
            assert report.bad_rows == 2
            assert report.gap_left == pytest.approx(np.linalg.norm(good.mean(0, dtype=np.float64) - target), abs=1e-7)
        kept = corpus.loaded(tmp_path / f"{name}-keep")
        assert np.isnan(kept[76]).all() and not kept[1171].any()


def test_a_table_gets_the_noise_of_its_row_numbers(tmp_path):
    pytest.importorskip("pyarrow")
    rows, image = corpus.rows(700, 3), corpus.rows(300, 4)
    corpus.parquet_file(tmp_path / "text.parquet", rows, id=[str(i) for i in range(700)])
    np.save(tmp_path / "image.npy", image)
    fr.align(tmp_path / "text.parquet", tmp_path / "image.npy", tmp_path / "out", noise=1.0)
    (written,) = (tmp_path / "out").glob("*.parquet")
    import pyarrow.parquet as pq

    found = np.stack(pq.read_table(written)["embedding"].to_numpy(zero_copy_only=False))
    np.testing.assert_array_equal(found, fr.fit(rows, image)(rows, noise=1.0))


@pytest.mark.parametrize("value", [-1, -1e-9, math.nan, math.inf, 1e7, "1", None, True, 1 + 2j, [1.0]])
def test_lengths_that_are_none(sides, tmp_path, value):
    text, image, rows = sides
    method = fr.fit(text, image)
    for call in (
        lambda: method(rows, noise=value),
        lambda: fr.align(text, image, tmp_path / "out", noise=value),
        lambda: fr.apply_files(method, text, tmp_path / "out", noise=value),
    ):
        with pytest.raises(InputError, match=r"^noise=.*: expected a number from 0 to 1e\+06, a length") as caught:
            call()
        assert "\n" not in str(caught.value)
    for seed in (-1, 2**64, 1.5, "0"):
        with pytest.raises(InputError, match=r"^seed=.*: expected a whole number"):
            method(rows, noise=1.0, seed=seed)
    assert not (tmp_path / "out").exists()


def test_on_devices_it_is_refused_where_files_are_written(sides, tmp_path):
    pytest.importorskip("torch")
    text, image, _ = sides
    for call in (
        lambda: fr.align(text, image, tmp_path / "out", noise=1.0, devices=["cpu"]),
        lambda: fr.apply_files(fr.fit(text, image), text, tmp_path / "out", noise=1.0, devices=["cpu"]),
    ):
        with pytest.raises(InputError, match="noise is computed on the CPU; leave out devices"):
            call()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", METHODS)
def test_it_needs_no_generator_of_the_device(sides, name):
    """Noise of a length is drawn on the CPU: a device on which torch draws nothing gives the rows of any other."""
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    class NoGenerator(TorchDispatchMode):
        def __torch_dispatch__(self, op, types, args=(), kwargs=None):
            if torch.Tag.nondeterministic_seeded in op.tags:
                raise NotImplementedError(f"Could not run '{op}'")
            return op(*args, **(kwargs or {}))

    text, image, rows = sides
    method = fr.fit(text, image, method=name)
    there, layer = torch.from_numpy(rows.astype(np.float64)), fr.nn.as_module(method, noise=0.7, seed=5)
    with NoGenerator():
        with pytest.raises(NotImplementedError):
            torch.randn_like(there)
        called, trained = method(there, noise=0.7, seed=5), layer(there)
    expected = method(rows.astype(np.float64), noise=0.7, seed=5)
    np.testing.assert_array_equal(called.numpy(), expected)
    np.testing.assert_allclose(trained.numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["realign", "mean-shift", "c3"])
def test_a_device_without_kernels_is_refused_before_anything_is_drawn(sides, name):
    torch = pytest.importorskip("torch")
    if not hasattr(torch._C, "_acc"):
        pytest.skip("this torch makes no tensors of a device that has no operators")
    text, image, _ = sides
    method = fr.fit(text, image, method=name)
    there = torch._C._acc.create_empty_tensor((5, method.dim), torch.float32)  # of a device that has no operators
    for call in (
        lambda: method(there, noise=1.0),
        lambda: fr.nn.as_module(method, noise=1.0)(there),
        lambda: fr.nn.as_module(method)(there),  # C3's own noise is drawn on the device
    ):
        with pytest.raises(
            InputError, match=r"^rows on privateuseone:0, expected the CPU or a GPU of NVIDIA or AMD; move"
        ):
            call()


def test_the_command(sides, tmp_path, capsys):
    text, image, rows = str(sides[0]), str(sides[1]), sides[2]
    words = ["align", text, "--target", image, "--method", "none", "--noise", "1", "--seed", "4"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "noise      of length 1 (seed 4), added to every row; the gap left includes it" in capsys.readouterr().out
    none = fr.fit(text, image, method="none")
    np.testing.assert_array_equal(corpus.loaded(tmp_path / "out"), none(rows, noise=1.0, seed=4))
    saved = str(tmp_path / "out" / "alignment.safetensors")
    assert main(["apply", saved, text, "--out", str(tmp_path / "o2"), "--noise", "1", "--seed", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["noise"] == {"noise": 1.0, "seed": 4}
    np.testing.assert_array_equal(corpus.loaded(tmp_path / "o2"), corpus.loaded(tmp_path / "out"))
    assert main(["apply", saved, text, "--out", str(tmp_path / "no"), "--seed", "4", "--quiet"]) == 2
    assert "--seed is of the noise that --noise adds; add --noise, or leave --seed out" in capsys.readouterr().err
    for given, says in (
        ("-1", "--noise -1.0: expected a number from 0"),
        ("nan", "--noise nan: expected a number from 0"),
    ):
        assert main(["apply", saved, text, "--out", str(tmp_path / "no"), f"--noise={given}", "--quiet"]) == 2
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1
    assert main([*words[:-4], "--noise", "2", "--out", str(tmp_path / "out"), "--resume", "--quiet"]) == 2
    assert "noise was 1.0, now it is 2.0" in capsys.readouterr().err


def test_a_misfit_is_not_read_off_noise(sides, tmp_path, recwarn):
    text, image, _ = sides
    fr.apply_files(fr.fit(text, image), text, tmp_path / "out", noise=2.0)
    assert not [one for one in recwarn if issubclass(one.category, fr.FitWarning)]


def test_noise_is_not_saved_with_a_method(sides, tmp_path):
    from fastrealign.data.options import NoiseOptions
    from fastrealign.methods.noisy import with_noise

    noisy = with_noise(fr.fit(*sides[:2]), NoiseOptions(1.0, 2))
    with pytest.raises(InputError, match="noise is not saved with a method"):
        noisy.save(tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
    np.testing.assert_array_equal(noisy(sides[2]), noisy.method(sides[2], noise=1.0, seed=2))
    assert with_noise(noisy.method, NoiseOptions(0.0)) is noisy.method


def test_tensors_on_a_device_get_the_noise_of_the_cpu(sides, monkeypatch):
    """CPU tensors that are taken for a device's: they go through the operators, as those of a GPU do."""
    torch = pytest.importorskip("torch")
    from fastrealign.core import ops
    from fastrealign.core.exact_sum import ExactSum
    from fastrealign.data.options import NoiseOptions
    from fastrealign.methods import noisy

    text, image, rows = sides
    rows[3], rows[1100, 2] = 0, np.nan
    for name in ("realign", "none", "anchor"):
        method = noisy.with_noise(fr.fit(text, image, method=name), NoiseOptions(1.0, 6))
        sums, expected = ExactSum(16), np.empty_like(rows)
        found = method.apply(rows, expected, Call(sums, first=50))
        with monkeypatch.context() as patched:
            for module in (noisy, ops):
                patched.setattr(module, "on_device", lambda x: isinstance(x, torch.Tensor))
            given, there, flags = torch.from_numpy(rows), ExactSum(16), np.empty(len(rows), np.uint8)
            out = torch.empty_like(given)
            assert method.apply(given, out, Call(there, flags, 50)) == found
            np.testing.assert_array_equal(out.numpy(), expected)
            assert there.count == sums.count and np.array_equal(there.low, sums.low)
            assert np.flatnonzero(flags).tolist() == [3, 1100]
            method.apply(given, given, Call(first=50))
            np.testing.assert_array_equal(given.numpy(), expected)
        rows = np.concatenate([corpus.rows(n, i) for i, n in enumerate(SIZES)])
        rows[3], rows[1100, 2] = 0, np.nan


def test_what_a_sample_certifies_is_not_said_of_noisy_rows(sides, tmp_path):
    text, image, _ = sides
    plain = fr.align(text, image, tmp_path / "plain", tol=0.9, seed=1)
    noisy = fr.align(text, image, tmp_path / "noisy", tol=0.9, seed=1, noise=1.0)
    assert "certified" in str(plain) and "certified" not in str(noisy)
    assert noisy.alignment.fingerprint == plain.alignment.fingerprint and noisy.alignment.sampling is not None
