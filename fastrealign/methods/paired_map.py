"""PairedMap: a fitted map from the rows of one encoder to those of another (`pair_fits.fit_map`)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastrealign.core import checks, ops
from fastrealign.core.bad_rows import GOOD, Counts
from fastrealign.core.errors import InputError
from fastrealign.core.float_state import computes
from fastrealign.core.optional import Lazy
from fastrealign.core.progress import SILENT
from fastrealign.core.row_argument import Rows
from fastrealign.core.row_map import UNIT, RowMap
from fastrealign.core.tensors import on_device
from fastrealign.core.version import __version__
from fastrealign.data.row_source import RowsLike
from fastrealign.formats.saved_tensors import check_present, check_record, check_tensors, damaged
from fastrealign.methods.calling import MapsRows
from fastrealign.methods.exact_product import ExactProduct
from fastrealign.methods.fit_options import PAIRED_METHODS
from fastrealign.methods.method import CALL, Call
from fastrealign.methods.steps import apply_steps
from fastrealign.storage.paths import AnyPath
from fastrealign.storage.record_rules import COUNT, NOT_NEGATIVE, TEXT, one_of, or_none

if TYPE_CHECKING:
    from fastrealign.methods import pair_moments, pair_sources, recall_kept
    from fastrealign.methods.recall_kept import Kept
else:  # for measuring a map: a run that loads a method does without
    pair_moments = Lazy("fastrealign.methods.pair_moments")
    pair_sources = Lazy("fastrealign.methods.pair_sources")
    recall_kept = Lazy("fastrealign.methods.recall_kept")

# The kind of a saved map.
PAIRED = "map from pairs"
_RECORD = {
    "name": one_of(*PAIRED_METHODS),
    "pairs": COUNT,
    "matched": TEXT,
    "strength": or_none(NOT_NEGATIVE),
    "encoder_source": or_none(TEXT),
    "encoder_target": or_none(TEXT),
    "version": TEXT,
}


@dataclass(frozen=True, eq=False)
class PairedMap(MapsRows):
    """A map from the rows of one encoder to those of another: f(y) = pi(M pi(y) + shift), unit rows; pi(v) = v/|v|.

    Attributes
    ----------
    name : str
        "procrustes" or "ridge".
    matrix : float64 array (dim_out, dim)
        M.
    shift, mean_target : float64 array (dim_out,)
        The translation, and the mean of the new encoder's unit rows.
    pairs : int
        Pairs that it was fitted on.
    matched : str
        "rows" or "ids": how these were matched.
    strength : float or None
        Of a ridge.
    kept : Kept or None
        Recall kept on held-out pairs; None if it was not measured.
    encoder_source, encoder_target : str or None
        Names of the old and the new encoder, where they are known.
    version : str
        Version of fastrealign that made it.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> old, turn = rng.standard_normal((400, 8)), np.linalg.qr(rng.standard_normal((8, 8)))[0]
    >>> found = fr.fit_map(old, old @ turn)  # the new encoder only turns the old one
    >>> found.name, np.allclose(found(old) @ turn.T, old / np.linalg.norm(old, axis=1, keepdims=True))
    ('procrustes', True)
    """

    name: str
    matrix: np.ndarray
    shift: np.ndarray
    mean_target: np.ndarray
    pairs: int
    matched: str = "rows"
    strength: float | None = None
    kept: Kept | None = None
    encoder_source: str | None = None
    encoder_target: str | None = None
    version: str = __version__

    # A map has no gap: rows of two encoders have no place in common.
    kind: ClassVar[str] = PAIRED
    s: ClassVar[float] = 1.0
    gap_before: ClassVar[float] = float("nan")
    gap_left: ClassVar[float] = float("nan")
    row_map: ClassVar[RowMap | None] = None
    numbered: ClassVar[bool] = False

    @property
    def dim(self) -> int:
        """Width of the rows it maps."""
        return self.matrix.shape[1]

    @property
    def dim_out(self) -> int:
        """Width of the rows it gives."""
        return len(self.matrix)

    @cached_property
    def _products(self) -> tuple[ExactProduct, ExactProduct]:
        """Products with M, for float64 and for narrower rows."""
        return ExactProduct(self.matrix, False), ExactProduct(self.matrix, True)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what decides the output."""
        import hashlib

        digest = hashlib.sha256(repr((PAIRED, self.matrix.shape)).encode())
        for value in (self.matrix, self.shift):
            digest.update(np.ascontiguousarray(value).tobytes())
        return digest.hexdigest()

    @computes
    def apply(self, rows: Rows, out: Rows, call: Call = CALL) -> Counts:
        """Store f(rows) in `out`, (n, dim_out), and add up what was stored in `call.into`; any split gives the same bits."""
        if on_device(rows):
            raise InputError(f"a map from pairs maps rows in memory, these are on {rows.device}; move them with .cpu()")
        product = self._products[np.float64 not in (rows.dtype, out.dtype)]

        def steps(part: np.ndarray, state: np.ndarray, numbers: np.ndarray) -> np.ndarray:
            e = np.empty(part.shape)
            ops.apply(part, UNIT, e, flags=state, threads=call.threads, backend=call.backend)
            e[state != GOOD] = 0.0
            return product(e) + self.shift

        return apply_steps(rows, out, steps, UNIT, call, self.dim_out)

    @computes
    def measure(self, old: RowsLike, new: RowsLike, queries: RowsLike | None = None, *, seed: int = 0) -> Kept:
        """The recall kept on other pairs than those that it was fitted on.

        Parameters
        ----------
        old, new : array (n, dim) and (n, dim_out)
            Rows of the same items by both encoders, at least 20. All are held in memory, and searched.
        queries : array (n, dim_out), optional
            Queries of the new encoder; the document of query i is row i.
        seed : int
            Of the bootstrap.

        Returns
        -------
        Kept

        Examples
        --------
        >>> import fastrealign as fr, numpy as np
        >>> old = np.random.default_rng(0).standard_normal((300, 8))
        >>> new = old[:, ::-1]  # another encoder of the same items
        >>> fr.fit_map(old[:200], new[:200], held_out=0).measure(old[200:], new[200:]).kept
        1.0
        """
        seed = checks.seed(seed)
        sides = pair_sources.open_pairs(self(old, dtype="float64"), new, queries, "rows", (None, None), SILENT).sides
        blocks = [rows for _, rows in pair_moments.pair_blocks(sides, False, SILENT)]
        mapped, there, *asked = (np.concatenate(side) for side in zip(*blocks, strict=True))
        return recall_kept.recall_kept(mapped, there, asked[0] if asked else None, seed)

    def to_saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors and the record that `save` writes."""
        scalars = {name: getattr(self, name) for name in _RECORD}
        tensors = {name: getattr(self, name) for name in ("shift", "mean_target", "matrix")}
        return tensors, {"kind": PAIRED, **scalars, "kept": self.kept and asdict(self.kept)}

    @classmethod
    def from_saved(cls, path: AnyPath, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> PairedMap:
        """What `to_saved` gave, read from `path` and checked."""
        check_present(path, tensors, ("shift", "mean_target", "matrix"))
        check_tensors(path, PAIRED, tensors, {"shift": 1, "mean_target": 1})
        matrix, width = tensors["matrix"], len(tensors["shift"])
        if matrix.ndim != 2 or len(matrix) != width or matrix.dtype != np.float64:
            raise damaged(
                path, PAIRED, f"matrix has shape {matrix.shape} and type {matrix.dtype}, expected {width} rows"
            )
        check_record(path, PAIRED, meta, _RECORD)
        kept = meta.get("kept")
        if kept is not None:
            check_record(path, PAIRED, kept, recall_kept.RECORD)
            kept = recall_kept.Kept(**{name: kept[name] for name in recall_kept.RECORD})
        values: dict[str, Any] = tensors | {name: meta[name] for name in _RECORD}
        return cls(**values, kept=kept)

    def __repr__(self) -> str:
        kept = "not measured" if self.kept is None else f"{self.kept.kept:.3f}"
        return f"PairedMap({self.name!r}, {self.dim} -> {self.dim_out}, {self.pairs:,} pairs, recall kept {kept})"
