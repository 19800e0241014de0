"""The torch module that adds noise: what the public modules of nn.py have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastrealign.core.errors import InputError
from fastrealign.data.options import NoiseOptions
from fastrealign.methods.checked_module import CheckedModule
from fastrealign.methods.noise import noise, row_numbers


@torch.library.custom_op("fastrealign::noise", mutates_args=())
def _drawn(first: torch.Tensor, seed: int, n: int, d: int, counted: bool) -> torch.Tensor:
    """Standard normal float64 (n, d), on the device of `first`: drawn on the CPU, so alike on every device.

    first     the number of the first row, or of each
    seed      torch's whole numbers are signed: a seed from 2^63 on comes less 2^64
    counted   whether the module counted the rows. Checkpointing calls forward again for the gradient, compiled or not, with the
              rows of the first call, which would get other numbers
    """
    # Nothing public says whether a backward pass runs on this thread; torch.utils.module_tracker asks this, in 2.6 as in 2.14.
    if counted and torch._C._current_graph_task_id() != -1:
        raise InputError(
            "forward runs again within the backward pass, as in gradient checkpointing, where rows would get other noise; "
            "pass it the numbers of the rows, first="
        )
    return torch.from_numpy(noise(seed % 2**64, row_numbers(first.cpu().numpy(), n), d)).to(first.device)


@_drawn.register_fake
def _(first: torch.Tensor, seed: int, n: int, d: int, counted: bool) -> torch.Tensor:
    return first.new_empty((n, d), dtype=torch.float64)


class NoisyModule(CheckedModule):
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

    def _noise_shown(self) -> str:
        """The noise, for `extra_repr`."""
        return f", noise={self.noise.noise:.4g}, seed={self.noise.seed}" if self.adds_noise else ""

    def _first_number(self, rows: torch.Tensor, first: int | torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """The number of the first row, or of each, which the operator checks. Without `first` the rows seen come before."""
        if first is None:
            return self.rows_seen.clone()
        if isinstance(first, torch.Tensor):
            return first.reshape(-1) if first.ndim else first
        if isinstance(first, int) and torch.compiler.is_compiling():
            return torch.full((), first, dtype=torch.int64)
        return torch.from_numpy(row_numbers(first, len(rows)))

    def _noise(self, rows: torch.Tensor, first: int | torch.Tensor | np.ndarray | None) -> torch.Tensor:
        """Noise for rows (n, d), float64."""
        number, seed = self._first_number(rows, first), self.noise.seed
        signed = seed - 2**64 if seed >= 2**63 else seed
        drawn = torch.ops.fastrealign.noise(number, signed, len(rows), self.dim, first is None)
        if first is None:
            self.rows_seen += len(rows)  # now that the operator has accepted the call
        return self.noise.sigma(self.dim) * drawn.to(rows.device)

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
