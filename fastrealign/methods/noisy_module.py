"""The torch module that adds noise: what the public modules of nn.py have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastrealign.core.exact_module import ExactModule
from fastrealign.data.options import NoiseOptions
from fastrealign.methods.noise import noise, row_numbers


@torch.library.custom_op("fastrealign::noise", mutates_args=())
def _drawn(numbers: torch.Tensor, seed: int, d: int) -> torch.Tensor:
    """Standard normal float64 (n, d), on the device of the row numbers: drawn on the CPU, so alike on every device.

    Torch's whole numbers are signed: a seed from 2^63 on comes less 2^64.
    """
    return torch.from_numpy(noise(seed % 2**64, numbers.cpu().numpy(), d)).to(numbers.device)


@_drawn.register_fake
def _(numbers: torch.Tensor, seed: int, d: int) -> torch.Tensor:
    return numbers.new_empty((len(numbers), d), dtype=torch.float64)


class NoisyModule(ExactModule):
    """A module that adds noise to the rows it maps in training mode, drawn for the row's number (methods/noisy.py).

    `rows_seen`, a buffer only where there is noise, numbers the rows of one call after those of the calls before it.
    """

    noise: NoiseOptions
    rows_seen: torch.Tensor

    def _add_noise_of(self, options: NoiseOptions) -> None:
        self.noise = options
        # An attribute of its own: torch.compile of torch 2.6 cannot call `__bool__` of a dataclass.
        self.adds_noise = bool(options)
        if self.adds_noise:
            self.register_buffer("rows_seen", torch.zeros((), dtype=torch.int64))

    def _numbers(self, rows: torch.Tensor, first: int | torch.Tensor | np.ndarray | None) -> torch.Tensor:
        if first is None:
            numbers = self.rows_seen + torch.arange(len(rows), device=self.rows_seen.device)
            self.rows_seen += len(rows)
            return numbers.to(rows.device)
        if isinstance(first, torch.Tensor):
            first = first.reshape(-1).cpu().numpy()
        return torch.from_numpy(row_numbers(first, len(rows))).to(rows.device)

    def _noise(self, rows: torch.Tensor, first: int | torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """Noise for rows (n, d), float64."""
        numbers, seed = self._numbers(rows, first), self.noise.seed
        signed = seed - 2**64 if seed >= 2**63 else seed
        return self.noise.sigma(self.dim) * torch.ops.fastrealign.noise(numbers, signed, self.dim)

    def _noisy(self, rows: torch.Tensor, mapped: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Mapped rows, float64, with noise, projected again, in the type of `rows`; rows without a direction unchanged."""
        unit = torch.zeros_like(self._value("map"))
        unit[0] = 1.0
        out = torch.ops.fastrealign.apply(mapped + noise, unit, 0, rows.dtype)
        return torch.where(has_direction(mapped), out, rows.detach())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """A state that was saved with noise loads without, and the other way round."""
        if self.adds_noise:
            state_dict.setdefault(f"{prefix}rows_seen", self.rows_seen)
        else:
            state_dict.pop(f"{prefix}rows_seen", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def has_direction(mapped: torch.Tensor) -> torch.Tensor:
    """bool (n, 1). Asked of unit rows: whether torch takes subnormal numbers for zeros depends on the CPU's state."""
    return (mapped.isfinite().all(-1) & mapped.any(-1))[:, None]
