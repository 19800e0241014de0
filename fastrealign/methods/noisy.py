"""Any method with noise on top: f(y) = pi(g(y) + n), n ~ N(0, (length^2/d) I), drawn for each row's number (noise.py).

Noise belongs to an application and not to a fit: it is not saved with a method. Writers and calls carry it as a method that
wraps the fitted one, so that nothing else has to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import numpy as np

from fastrealign.core.bad_rows import GOOD, Counts
from fastrealign.core.digest import sha256
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.libraries import torch
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import UNIT
from fastrealign.core.tensors import on_device
from fastrealign.data.options import NO_NOISE, NoiseOptions
from fastrealign.methods.fit_options import C3_NOISE, PAIRED_METHODS, FitOptions
from fastrealign.methods.method import CALL, Call, Method
from fastrealign.methods.noise import noise
from fastrealign.methods.steps import apply_steps, apply_steps_on_device
from fastrealign.storage.paths import AnyPath


def with_noise(method: Method, options: NoiseOptions) -> Method:
    """The method with this noise on its rows. C3, whose noise comes before its projection, gets it of this length instead."""
    if not options:
        return method
    if method.name in PAIRED_METHODS:
        raise InputError("noise is for rows that a model is trained on; a map from pairs takes none")
    if method.name == "c3":
        return replace(method, sigma=options.sigma(method.dim), seed=options.seed)  # type: ignore[type-var]  # a Baseline
    return Noisy(method, options)


def own_noise(method: Method) -> NoiseOptions:
    """The noise that a method adds by itself, as C3 does."""
    sigma = getattr(method, "sigma", 0.0)
    return NoiseOptions(sigma * sqrt(method.dim), method.seed) if sigma else NO_NOISE  # type: ignore[attr-defined]


def noise_of_fit(fit: FitOptions, d: int) -> dict[str, Any]:
    """What a job specification records of the noise that the method adds by itself, once it is fitted to rows of width d."""
    if fit.method != "c3":
        return {}
    sigma = fit.own.get("sigma")
    return {"noise": C3_NOISE if sigma is None else sigma * sqrt(d)}


@dataclass(frozen=True, eq=False)
class Noisy:
    """A method, and the noise that is added to the rows it maps. Rows that are not unit rows (mean-shift) are not projected."""

    method: Method
    options: NoiseOptions

    row_map = None
    numbered = True
    gap_left = float("nan")

    @property
    def name(self) -> str:
        return self.method.name

    @property
    def dim(self) -> int:
        return self.method.dim

    @property
    def dim_out(self) -> int:
        return self.method.dim_out

    @property
    def s(self) -> float:
        return self.method.s

    @property
    def mean_target(self) -> np.ndarray:
        return self.method.mean_target

    @property
    def gap_before(self) -> float:
        return self.method.gap_before

    @property
    def encoder_source(self) -> str | None:
        return self.method.encoder_source

    @property
    def encoder_target(self) -> str | None:
        return self.method.encoder_target

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the output."""
        return sha256(repr((self.method.fingerprint, self.options.to_json())).encode()).hexdigest()

    def __call__(self, x: object, **how: Any) -> Any:
        return self.method(x, noise=self.options.noise, seed=self.options.seed, **how)

    @computes
    def apply(self, rows: Rows, out: Rows, call: Call = CALL) -> Counts:
        """Store f(rows) in `out`, and add up what was stored in `call.into`. Noise for a device comes from the CPU."""
        if on_device(rows):
            return self._on_device(rows, out, call)
        projected = getattr(self.method, "projected", True)
        return apply_steps(rows, out, self._step(call), UNIT if projected else None, call)

    def _step(self, call: Call) -> Any:
        def step(part: np.ndarray, state: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            e = np.empty(part.shape)
            self.method.apply(part, e, call._replace(into=None, flags=state, first=numbers))
            e[state != GOOD] = 0.0
            e += self._noise(numbers)
            return e

        return step

    def _noise(self, numbers: np.ndarray) -> np.ndarray:
        return self.options.sigma(self.dim) * noise(self.options.seed, numbers, self.dim)

    def _on_device(self, rows: torch.Tensor, out: torch.Tensor, call: Call) -> Counts:
        """The same on a device, with the noise that the CPU would add."""

        def steps(e: torch.Tensor, state: np.ndarray, numbers: np.ndarray) -> Counts:
            found = self.method.apply(rows, e, call._replace(into=None, flags=state, first=numbers))
            e += torch.from_numpy(self._noise(numbers)).to(rows.device)
            return found

        return apply_steps_on_device(rows, out, steps, UNIT, call)

    def check_width(self, d: int, name: str = "") -> None:
        self.method.check_width(d, name)

    def save(self, path: AnyPath, fsync: bool = True) -> None:
        raise InputError(
            f"{path}: noise is not saved with a method; save the method, and give noise= where it is applied"
        )
