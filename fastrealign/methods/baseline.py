"""Baseline: a fitted method that ReAlign is compared with; baseline_fits.py fits them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np

from fastrealign.core import ops
from fastrealign.core.bad_rows import GOOD, Counts
from fastrealign.core.digest import sha256
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.libraries import torch
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import RowMap
from fastrealign.core.tensors import on_device
from fastrealign.formats.saved_tensors import check_present, check_record, check_tensors
from fastrealign.methods.calling import MapsRows
from fastrealign.methods.exact_product import ExactProduct
from fastrealign.methods.method import CALL, Call
from fastrealign.methods.noise import noise
from fastrealign.methods.steps import apply_steps, apply_steps_on_device
from fastrealign.storage.paths import AnyPath
from fastrealign.storage.record_rules import FLAG, NOT_NEGATIVE, SEED, TEXT, or_none

# Methods that are more than one row map, which the device kernels do not compute; those of them that have a shift.
WITH_SHIFT = ("mean-shift", "c3", "bca")
IN_STEPS = (*WITH_SHIFT, "z-score")
# Axes of the tensors that a saved one may hold, and what its record must hold.
_AXES = {"mean_target": 1, "b": 1, "shift": 1, "c": 1, "matrix": 2, "scale": 1}
_RECORD = {
    "name": TEXT,
    "gap_before": NOT_NEGATIVE,
    "s": NOT_NEGATIVE,
    "sigma": NOT_NEGATIVE,
    "seed": SEED,
    "projected": FLAG,
    "gap_left": or_none(NOT_NEGATIVE),
}


@dataclass(frozen=True, eq=False)
class Baseline(MapsRows):
    """A method that ReAlign is compared with: f(y) = pi(pi(M pi(s pi(y) + b) + shift + noise) + c); None leaves a step out.

    `scale` stands for M where that is diagonal: one factor a column. Without a shift and noise it maps tensors on devices, too.

    Attributes
    ----------
    name : str
        One of baselines.METHODS.
    mean_target : float64 array (dim,)
        Mean of the unit rows of the target.
    gap_before, gap_left : float
        |mean_target - mean_source|, and |mean of the rows written - mean_target|; NaN if it was not measured.
    s : float
        As in an Alignment; so are b and c.
    b, shift, c : float64 array (dim,) or None
        Translations.
    matrix : float64 array (dim, dim) or None
        M.
    scale : float64 array (dim,) or None
        The diagonal of M.
    sigma, seed : float, int
        Noise of N(0, sigma^2 I): each row gets that of its number (noise.py).
    projected : bool
        False: without the last two projections.
    """

    name: str
    mean_target: np.ndarray
    gap_before: float
    s: float = 1.0
    b: np.ndarray | None = None
    matrix: np.ndarray | None = None
    shift: np.ndarray | None = None
    sigma: float = 0.0
    seed: int = 0
    c: np.ndarray | None = None
    projected: bool = True
    gap_left: float = float("nan")
    scale: np.ndarray | None = None
    kind: ClassVar[str] = "baseline"
    encoder_source: ClassVar[str | None] = None
    encoder_target: ClassVar[str | None] = None

    @property
    def dim(self) -> int:
        """Width of the rows it maps."""
        return len(self.mean_target)

    @cached_property
    def row_map(self) -> RowMap | None:
        """The method as a single row map for the kernels; None if it takes several steps."""
        steps = (self.matrix, self.scale, self.shift)
        return RowMap(self.s, self.b, self.c) if all(step is None for step in steps) else None

    @cached_property
    def _ends(self) -> tuple[RowMap, RowMap]:
        """The first and the last of the steps."""
        return RowMap(self.s, self.b), RowMap(1.0, None, self.c)

    @property
    def numbered(self) -> bool:
        """Whether the result for a row depends on its number."""
        return self.sigma > 0.0

    @cached_property
    def _products(self) -> tuple[ExactProduct, ExactProduct] | None:
        """Products with M, for float64 and for narrower rows."""
        return None if self.matrix is None else (ExactProduct(self.matrix, False), ExactProduct(self.matrix, True))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the name and of all that decides the output."""
        digest = sha256(repr((self.name, self.s, self.sigma, self.seed, self.projected)).encode())
        for name in ("b", "matrix", "shift", "c", *(["scale"] if self.scale is not None else [])):
            value = getattr(self, name)
            digest.update(name.encode() + (b"" if value is None else np.ascontiguousarray(value).tobytes()))
        return digest.hexdigest()

    @computes
    def apply(self, rows: Rows, out: Rows, call: Call = CALL) -> Counts:
        """What `ops.apply` does for a row map: store f(rows) in `out`, and add up what was stored in `call.into`.

        The same bits for any split of the rows, as long as `call.first` numbers them alike, and for any number of threads.
        """
        apply = partial(ops.apply, threads=call.threads, backend=call.backend)
        if self.row_map is not None:
            return apply(rows, self.row_map, out, into=call.into, flags=call.flags)
        if on_device(rows):
            if self.matrix is None and self.shift is None and not self.sigma:
                return self._scaled_on_device(rows, out, call)
            raise InputError(
                f"{self.name} maps rows in memory, these are on {rows.device}; move them with .cpu(), or use "
                "fastrealign.nn.as_module"
            )
        product = self._products and self._products[np.float64 not in (rows.dtype, out.dtype)]

        def steps(part: np.ndarray, state: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            e = np.empty(part.shape)
            apply(part, self._ends[0], e, flags=state)
            e[state != GOOD] = 0.0
            if product is not None:
                e = product(e)
            if self.scale is not None:
                e *= self.scale
            if self.shift is not None:
                e += self.shift
            if self.sigma:
                e += self.sigma * noise(self.seed, numbers, self.dim)
            return e

        last = self._ends[1] if self.projected else None
        return apply_steps(rows, out, steps, last, call)

    def _scaled_on_device(self, rows: torch.Tensor, out: torch.Tensor, call: Call) -> Counts:
        def steps(e: torch.Tensor, state: np.ndarray, numbers: np.ndarray) -> Counts:
            found = ops.apply(rows, self._ends[0], e, flags=state, backend=call.backend)
            e *= torch.tensor(self.scale, device=rows.device)
            return found

        return apply_steps_on_device(rows, out, steps, self._ends[1], call)

    def to_saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors and the record that `save` writes."""
        tensors = {name: getattr(self, name) for name in _AXES if getattr(self, name) is not None}
        scalars = {name: getattr(self, name) for name in _RECORD}
        return tensors, {"kind": self.kind, **scalars, "gap_left": None if np.isnan(self.gap_left) else self.gap_left}

    @classmethod
    def from_saved(cls, path: AnyPath, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> Baseline:
        """What `to_saved` gave, read from `path` and checked."""
        check_present(path, tensors, ("mean_target",))
        check_tensors(path, cls.kind, tensors, _AXES)
        check_record(path, cls.kind, meta, _RECORD)
        if "shift" not in tensors and (meta["name"] in WITH_SHIFT or "matrix" in tensors):
            raise InputError(f"{path}: lacks shift, a step of {meta['name']}; the file is damaged")
        values: dict[str, Any] = tensors | {name: meta[name] for name in meta if name not in ("kind", "format")}
        if values.get("gap_left") is None:
            values["gap_left"] = float("nan")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{path}: a damaged baseline: {error}") from None


def unit_rows(dim: int) -> Baseline:
    """The method none, where nothing was fitted: for noise on unit rows."""
    return Baseline("none", np.zeros(dim), 0.0)
