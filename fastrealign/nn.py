"""Fitted methods as torch modules for training loops: ReAlign, fixed or following encoders that move, and the baselines."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError

try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise InputError("fastrealign.nn needs torch: pip install 'fastrealign[torch]'") from None

from fastrealign.core import torch_ops
from fastrealign.core.checks import number, whole
from fastrealign.core.exact_sum import FRACTION_BITS
from fastrealign.core.packed_map import row_map_of
from fastrealign.core.row_map import RowMap
from fastrealign.data.options import NoiseOptions
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.input_checks import BetweenMeans
from fastrealign.methods.loading import as_method
from fastrealign.methods.method import Method
from fastrealign.methods.noisy_module import NoisyModule, has_direction
from fastrealign.methods.paired_map import PairedMap
from fastrealign.methods.statistics import SMALLEST_TRACE

# Of ReAlign.update.
_DECAY, _EVERY = 0.99, 100


class ReAlign(NoisyModule):
    """Aligns embeddings in their last dimension: (..., dim) in, unit vectors (..., dim) out, in the same element type.

    Its state is buffers alone: nothing is trained, DDP and FSDP leave it as it is, and `state_dict` holds all of it. Gradients
    flow to the rows (exactly, in closed form, by `backward` and torch.autograd.grad, once; torch.func's transforms and
    gradients of gradients are refused). The map stays float64 under `.half()` and `.to(dtype)`. Rows without a
    direction (NaN, Inf, zero) pass unchanged. torch.compile(fullgraph=True) and CUDA graphs take it. For encoders that
    move, see `update`.

    Only text passes this layer, in training; images go straight to the model. In eager mode FitWarnings say that the mean of
    the first 512 rows lies far from where the alignment moves it (images, or rows that are aligned already), or that some hold
    NaN or Inf. Later 64 rows at a time are checked for NaN and Inf, and whether they lie where images do: after each switch to
    eval mode, a hundred times at most, and in each mode once 16, 32, 64, ... more calls have passed. What lies between goes
    unnoticed, and so do fewer than 512 rows of a training, or 64 in eval mode.

    Parameters
    ----------
    alignment : Alignment or path, optional
        What `fastrealign.fit` found. Without it the rows are only made unit rows, until a state_dict is loaded.
    dim : int, optional
        Width of the rows, where there is no alignment.
    decay : float, default 0.99
        What each `update` leaves of the weight of earlier rows.
    every : int, default 100
        Updates between two solutions.
    noise : float, default 0.0
        Length of random noise that is added to the aligned rows in training mode, before they are projected again (1 is as long
        as a row); `.eval()` maps without it. Each row gets that of its number, as from files to files: see `forward`. It is
        drawn on the CPU, so CUDA graphs do not take it.
    seed : int, default 0
        Of the noise.

    Examples
    --------
    >>> import fastrealign as fr, torch
    >>> text, images = torch.randn(500, 8) + 1.0, torch.randn(500, 8) - 1.0
    >>> layer = fr.nn.ReAlign(fr.fit(text, images))
    >>> layer(text.view(10, 50, 8)).shape
    torch.Size([10, 50, 8])
    """

    def __init__(
        self,
        alignment: Alignment | str | os.PathLike | None = None,
        *,
        dim: int | None = None,
        decay: float = _DECAY,
        every: int = _EVERY,
        noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        alignment = None if alignment is None else Alignment.of(alignment)
        width = dim if alignment is None else alignment.dim
        if width is None:
            raise InputError("ReAlign needs an alignment or a dim")
        if alignment is not None and dim not in (None, alignment.dim):
            raise InputError(f"dim={dim}, but the alignment was fitted on {alignment.dim} wide rows")
        self.dim = whole("dim", width, 1)
        self.decay = number("decay", decay, lambda decay: 0.0 < decay <= 1.0, "above 0, at most 1")
        self.every = whole("every", every, 1)
        zeros = np.zeros(self.dim)
        row_map = RowMap(1.0, zeros, zeros) if alignment is None else alignment.row_map
        self.register_buffer("map", _packed(row_map, self.dim))
        # Without a target the trace is NaN: nothing can be solved for.
        mean, trace = (zeros, float("nan")) if alignment is None else (alignment.mean_target, alignment.trace_target)
        self.register_buffer("mean_target", torch.tensor(mean))
        self.register_buffer("trace_target", torch.tensor(trace, dtype=torch.float64))
        # Sums over the rows of `update`, earlier ones weighted down: of rows, of unit rows, of projected rows e'.
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        self.register_buffer("sum_unit", torch.zeros(self.dim, dtype=torch.float64))
        self.register_buffer("sum_projected", torch.zeros(self.dim, dtype=torch.float64))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self._add_noise_of(NoiseOptions(noise, seed))
        self._check_first(alignment)
        self._keep()

    @classmethod
    def from_alignment(cls, alignment: Alignment, **options: Any) -> ReAlign:
        return cls(alignment, **options)

    def forward(self, x: torch.Tensor, first: int | torch.Tensor | np.ndarray | None = None) -> torch.Tensor:
        """Align x (..., dim).

        Parameters
        ----------
        first : int or int64 (n,), optional
            For the noise: the number of the first row, or of each. By default the rows of a call are numbered after those of
            the calls before it (`rows_seen`, which `state_dict` keeps): in a new epoch a row gets other noise. Processes that
            train together count apart; give them numbers, or seeds of their own. Gradient checkpointing, which calls
            `forward` twice with the same rows, needs numbers too.
        """
        rows, noisy = self._rows(x), self.adds_noise and self.training
        aligned = torch.ops.fastrealign.apply(rows, self._value("map"), 2, torch.float64 if noisy else rows.dtype)
        if not torch.compiler.is_compiling():
            self._look(x, rows, aligned)
        if noisy:
            aligned = self._noisy(rows, aligned, self._noise(rows, first))
        return aligned if x.ndim == 2 else aligned.reshape(x.shape)

    def _between_means(self) -> BetweenMeans | None:
        """Those of the present map, also after `update` or with a loaded state: the source's is (mean_target - b)/s."""
        self._restore()
        mean_target, trace_target, packed = (
            self.get_buffer(name).cpu() for name in ("mean_target", "trace_target", "map")
        )
        row_map = row_map_of(packed, 2)
        if row_map.b is None or not row_map.s > 0.0 or trace_target.isnan():
            return None
        return BetweenMeans((mean_target.numpy() - row_map.b) / row_map.s, mean_target.numpy())

    @torch.no_grad()
    def update(self, text: torch.Tensor, group: torch.distributed.ProcessGroup | None = None) -> None:
        """Take in a batch of source rows, and solve for the alignment again every `every` updates, without a device sync.

        The target stays as it was fitted. Earlier rows count less, by `decay` an update. A new alignment is that of the
        weighted rows, as in `fit`, but for the centroid, whose mean of projected rows was taken with earlier
        maps: it lags by about one solution. Where the rows have no spread (all of one direction), or there is no target,
        the map stays as it is.

        Parameters
        ----------
        text : tensor (..., dim)
        group : torch.distributed.ProcessGroup, optional
            Ranks that call this together: the batches of all are added, so all find the same alignment. Without it a rank
            takes in its own batch (and DDP, which broadcasts the buffers of rank 0, only that of rank 0).
        """
        self._restore()
        self._forget()  # the encoder moves, and the map after it
        rows = self._rows(text).detach()
        unit = torch.zeros_like(self.map)
        unit[0] = 1.0
        sums, good = self._sums(rows, unit, 0)
        projected, _ = self._sums(rows, self.map, 1)
        if group is not None:
            together = torch.cat([sums, projected, good.double()[None]])
            torch.distributed.all_reduce(together, group=group)
            sums, projected, good = together[: self.dim], together[self.dim : -1], together[-1]
        for total, new in ((self.sum_unit, sums), (self.sum_projected, projected), (self.weight, good)):
            total.mul_(self.decay).add_(new)
        self.updates += 1
        self._solved_where(self.updates % self.every == 0)

    @staticmethod
    def _sums(rows: torch.Tensor, map: torch.Tensor, terms: int) -> tuple[torch.Tensor, torch.Tensor]:
        """float64 sums of f over the rows, and how many have a direction."""
        low, high, bad = torch.ops.fastrealign.reduce(rows, map, terms)
        # low is unsigned; as a signed number it is 2^64 less where its top bit is set, and small totals keep their digits.
        return ((high + (low < 0)).double() * 2.0**64 + low.double()) * 2.0**-FRACTION_BITS, len(rows) - bad[0]

    def _solved_where(self, now: torch.Tensor) -> None:
        mean, projected = self.sum_unit / self.weight, self.sum_projected / self.weight
        trace = 1.0 - mean @ mean
        s = torch.sqrt(self.trace_target / trace)
        b, c = self.mean_target - s * mean, self.mean_target - projected
        solved = torch_ops.packed(s, b, c)
        can = (trace > SMALLEST_TRACE) & torch.isfinite(solved).all()
        self.map.copy_(torch.where(now & can, solved, self.map))

    def extra_repr(self) -> str:
        self._restore("map")
        scale = "" if self.map.is_meta else f", s={self.map[0].item():.4g}"
        own = {
            name: getattr(self, name)
            for name, usual in (("decay", _DECAY), ("every", _EVERY))
            if getattr(self, name) != usual
        }
        return (
            f"dim={self.dim}{scale}{''.join(f', {name}={value}' for name, value in own.items())}{self._noise_shown()}"
        )


class Steps(NoisyModule):
    """A Baseline in the last dimension: (..., dim) in, (..., dim) out, in the same element type, on the rows' device.

    As for ReAlign: nothing is trained, gradients flow to the rows, the buffers stay float64, rows without a direction pass
    unchanged, and so is noise, which replaces C3's own. C3's own noise is drawn at every call, from torch's generator, as C3
    trains (arXiv 2401.08567); a Baseline itself gives each row its own noise by its number.
    """

    def __init__(self, baseline: Baseline, noise: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.name, self.dim = baseline.name, baseline.dim
        self.sigma, self.projected = baseline.sigma, baseline.projected
        one = baseline.row_map
        self._terms = 1 if one is None or one.c is None else 2
        self.register_buffer("map", _packed(one or RowMap(baseline.s, baseline.b), self.dim))
        self.register_buffer("last", _packed(RowMap(1.0, None, baseline.c), self.dim))
        for name in ("matrix", "scale", "shift"):
            value = getattr(baseline, name)
            self.register_buffer(name, None if value is None else torch.tensor(value))
        self._add_noise_of(NoiseOptions(noise, seed))
        self._check_first(baseline)
        self._keep()

    def forward(self, x: torch.Tensor, first: int | torch.Tensor | np.ndarray | None = None) -> torch.Tensor:
        """Map x (..., dim); `first` as for ReAlign."""
        rows = self._rows(x)
        if not torch.compiler.is_compiling():
            self._look(x, rows, rows)
        noise = self._noise(rows, first) if self.adds_noise and self.training else None
        if noise is None or self.name == "c3" or not self.projected:
            return self._mapped(rows, noise, rows.dtype).reshape(x.shape)
        return self._noisy(rows, self._mapped(rows, None, torch.float64), noise).reshape(x.shape)

    def _mapped(self, rows: torch.Tensor, noise: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
        """The rows in this type; noise is added before the last projection, in place of C3's own."""
        map, matrix, scale, shift = (self._value(name) for name in ("map", "matrix", "scale", "shift"))
        if matrix is None and scale is None and shift is None:
            return torch.ops.fastrealign.apply(rows, map, self._terms, dtype)
        e = torch.ops.fastrealign.apply(rows, map, 1, torch.float64)
        kept = has_direction(e)
        if matrix is not None:
            e = e @ matrix.T
        if scale is not None:
            e = e * scale
        if shift is not None:
            e = e + shift
        if noise is not None:
            e = e + noise
        elif self.sigma and not self.adds_noise:
            e = e + self.sigma * torch.randn_like(e)
        if self.projected:
            e = torch.ops.fastrealign.apply(e, self._value("last"), 2)
        return torch.where(kept, e.to(dtype), rows.detach().to(dtype))

    def _name(self) -> str:
        return self.name

    def extra_repr(self) -> str:
        own = f", sigma={self.sigma:.4g}" if self.sigma and not self.adds_noise else ""
        return f"{self.name}, dim={self.dim}{own}{self._noise_shown()}"


def _packed(row_map: RowMap, dim: int) -> torch.Tensor:
    """On the default device, where a module's buffers belong."""
    return torch_ops.pack(row_map, dim, torch.empty(0).device)[0]


def as_module(method: Method | str | os.PathLike, *, noise: float = 0.0, seed: int = 0) -> ReAlign | Steps:
    """The module of a fitted method, whichever it is.

    Parameters
    ----------
    method : Alignment, Baseline or path
        A method, or the path of a saved one.
    noise, seed
        As for ReAlign.

    Returns
    -------
    ReAlign or Steps

    Raises
    ------
    InputError
        For a map from pairs, and a file that holds no method.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np, torch
    >>> texts, images = np.random.default_rng(0).standard_normal((2, 300, 8)) + [[[1.0]], [[-1.0]]]
    >>> module = as_module(fr.fit(texts, images))
    >>> module(torch.ones(5, 8)).shape
    torch.Size([5, 8])
    """
    method = as_method(method)
    if isinstance(method, PairedMap):
        raise InputError("a map from pairs has no module; call it on rows in memory")
    if isinstance(method, Baseline):
        return Steps(method, noise, seed)
    return ReAlign(Alignment.of(method), noise=noise, seed=seed)
