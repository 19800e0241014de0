"""Options that are numbers: every public function refuses what is none, with one line that names the option."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from fractions import Fraction

import numpy as np
import pytest

import fastrealign as fr
from fastrealign import diagnostics as D
from fastrealign.core.checks import number, whole
from fastrealign.core.errors import InputError
from fastrealign.core.wording import on_command_line
from fastrealign.methods.baselines import fit_baseline
from fastrealign.revision.config import Lora

ROWS = np.random.default_rng(0).normal(size=(2, 60, 4))
NO_NUMBERS = ("3", 3.5, True, np.True_, [3], np.array([3, 4]), 1j, math.nan, -1)


def test_whole_numbers():
    for three in (3, np.int8(3), np.uint64(3)):
        assert type(whole("k", three, 3, 3)) is int and whole("k", three, 0) == 3
    for value in (*NO_NUMBERS, 3.0, None):
        with pytest.raises(InputError, match=r"^k=.*: expected a whole number of at least 0, rows$"):
            whole("k", value, 0, why="rows")
    for most, says in ((2, "from 1 to 2"), (2**31 - 1, r"from 1 to 2\^31 - 1"), (2**20, "from 1 to 1048576")):
        with pytest.raises(InputError, match=f"^k={most + 1}: expected a whole number {says}$"):
            whole("k", most + 1, 1, most)
    with pytest.raises(InputError, match=r"^k=a number of too many digits: "):
        whole("k", 10**5000, 0, 9)


def test_numbers():
    for half in (0.5, np.float32(0.5), Fraction(1, 2)):
        assert type(number("tol", half, lambda x: x > 0, "above 0")) is float
    for value in ("0.5", True, np.False_, None, 1j, math.nan, math.inf, 10**400, -1, [1.0]):
        with pytest.raises(InputError, match=r"^tol=.*: expected a number above 0$"):
            number("tol", value, lambda x: x > 0, "above 0")


def test_options_on_the_command_line():
    """Are named as there; the keys of a configuration that a command reads are not."""
    for check in (
        lambda: whole("held_out", 3, 4),
        lambda: number("held_out", 3, lambda x: False, "above 9"),
    ):
        with on_command_line():
            with pytest.raises(InputError, match=r"^--held-out 3: expected a "):
                check()
            with on_command_line(False), pytest.raises(InputError, match=r"^held_out=3: expected a "):
                check()
            with pytest.raises(InputError, match=r"^r=0: expected a whole number"):
                Lora(r=0)


def _metrics(name, value):
    x, y = ROWS
    spectrum = np.arange(9.0, 0.0, -1.0)
    of_rows = {"rows": value} if name == "rows" else {"seed": value}
    return {
        "k": [lambda: D.mixing(x, y, k=value), lambda: D.overlap(x, y, k=value), lambda: D.nearest(x, x, value)],
        "q": [lambda: D.subspace_overlap(D.covariance(x), D.covariance(y), value)],
        "first": [lambda: D.power_law(spectrum, first=value)],
        "last": [lambda: D.power_law(spectrum, last=value)],
        "batch": [
            lambda: D.embedding_gradients(x, y, lambda a, b: (a * b).sum(), batch=value),
            lambda: D.GapMonitor(batch=value),
        ],
        "every": [lambda: D.GapMonitor(every=value), lambda: fr.nn.ReAlign(dim=4, every=value)],
        "dim": [lambda: fr.Moments(value), lambda: fr.nn.ReAlign(dim=value)],
    }.get(name) or [
        lambda: D.mixing(x, y, **of_rows),
        lambda: D.overlap(x, y, **of_rows),
        lambda: D.angular_topology(x, y, **of_rows),
        lambda: D.pairwise_correlation(x, y, **of_rows),
        lambda: fr.report(x, y, methods=["none"], **of_rows),
    ]


@pytest.mark.parametrize("name", ["k", "q", "first", "last", "batch", "every", "dim", "rows", "seed"])
def test_counts_of_public_functions(name):
    if name in ("batch", "every", "dim"):
        pytest.importorskip("torch")
    for value in NO_NUMBERS:
        for call in _metrics(name, value):
            with pytest.raises(InputError, match=f"^{name}=.*: expected a whole number") as caught:
                call()
            assert "\n" not in str(caught.value)


def test_numpys_numbers_are_written_as_json():
    of = {"rows": np.int64(30), "seed": np.uint8(3)}
    for metric in (D.mixing, D.angular_topology, D.overlap, D.pairwise_correlation):
        assert json.loads(json.dumps(asdict(metric(*ROWS, **of)), default=np.ndarray.tolist))
    assert json.dumps(fr.report(*ROWS, methods=["none"], **of).to_json())


def test_seeds_that_nothing_uses_are_looked_at(tmp_path):
    text, image = ROWS
    method = fr.fit(text, image)
    np.save(tmp_path / "text.npy", text)
    for seed in ("3", 30.5, -1, True, 2**64):
        for call in (
            lambda seed=seed: fr.fit(text, image, seed=seed),
            lambda seed=seed: fr.fit(text, image, method="none", seed=seed),
            lambda seed=seed: method(text, seed=seed),
            lambda seed=seed: fr.align(tmp_path / "text.npy", image, tmp_path / "out", seed=seed),
            lambda seed=seed: fr.apply_files(method, tmp_path / "text.npy", tmp_path / "out", seed=seed),
            lambda seed=seed: fit_baseline("c3", text, image, seed=seed),
        ):
            with pytest.raises(InputError, match=r"^seed=.*: expected a whole number from 0 to 2\^64 - 1$"):
                call()
    assert not (tmp_path / "out").exists()


def test_numbers_of_methods():
    text, image = ROWS
    for name, option, values in (
        ("c3", "sigma", ("1", True, -1.0, math.nan, math.inf)),
        ("bca", "floor", ("1", True, 0.0, 2)),
        ("bca", "energy", ("1", True, 0.0, 1.0)),
    ):
        for value in values:
            with pytest.raises(InputError, match=f"^{option}=.*: expected a number "):
                fit_baseline(name, text, image, **{option: value})


def test_seeds_of_64_bits_are_alike_everywhere():
    torch = pytest.importorskip("torch")
    text, image = ROWS
    method, seed = fr.fit(text, image), 2**64 - 1
    layer = fr.nn.as_module(method, noise=1.0, seed=seed)
    np.testing.assert_allclose(
        layer(torch.from_numpy(text)).numpy(), method(text, noise=1.0, seed=seed), rtol=0, atol=1e-12
    )
