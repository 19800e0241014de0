"""Alignment: what `fit` found, a value that can be called, saved and loaded."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from fastrealign.core import ops
from fastrealign.core.bad_rows import Counts
from fastrealign.core.digest import sha256
from fastrealign.core.errors import InputError
from fastrealign.core.row_argument import Rows, unmasked
from fastrealign.core.row_map import RowMap
from fastrealign.core.text import described
from fastrealign.core.version import __version__
from fastrealign.formats.saved_tensors import check_present, check_record, check_tensors
from fastrealign.methods.calling import MapsRows
from fastrealign.methods.faiss_export import to_faiss
from fastrealign.methods.input_checks import BetweenMeans
from fastrealign.methods.method import CALL, Call, Method
from fastrealign.methods.sampling import Sampling
from fastrealign.storage.paths import AnyPath, is_path
from fastrealign.storage.record_rules import COUNT, MAPPING, NOT_NEGATIVE, TEXT, one_of, or_none

_VECTORS = ("b", "c", "mean_source", "mean_target")
# Rules for the record of a saved alignment.
_RECORD = {
    "s": NOT_NEGATIVE,
    "trace_source": NOT_NEGATIVE,
    "trace_target": NOT_NEGATIVE,
    "count_source": COUNT,
    "count_target": COUNT,
    "gap_before": NOT_NEGATIVE,
    "gap_left": or_none(NOT_NEGATIVE),
    "centroid": one_of("paper", "exact"),
    "encoder_source": or_none(TEXT),
    "encoder_target": or_none(TEXT),
    "column_source": or_none(TEXT),
    "column_target": or_none(TEXT),
    "sampling": or_none(MAPPING),
    "version": TEXT,
}


@dataclass(frozen=True, eq=False)
class Alignment(MapsRows):
    """The row map f(y; s, b, c) = pi(pi(s pi(y) + b) + c), and the statistics that it was fitted from; pi(v) = v/|v|.

    `==` compares all values but the version, exactly: what was saved and loaded is equal. `fingerprint` is of s, b and c alone.

    Attributes
    ----------
    s : float
        sqrt(trace_target / trace_source).
    b, c : float64 array (dim,)
        mean_target - s mean_source, and the centroid correction.
    mean_source, mean_target : float64 array (dim,)
        Means of the unit rows.
    trace_source, trace_target : float
        E|unit row - mean|^2.
    count_source, count_target : int
        Rows that the statistics were computed from; after an `update` the sum of their weights, rounded.
    gap_before, gap_left : float
        |mean_source - mean_target|, and |mean of the aligned source - mean_target|; NaN if it was not measured.
    centroid : str
        "paper" or "exact".
    encoder_source, encoder_target, column_source, column_target : str or None
        Names of the encoders, and names under which files held the rows (column, key, tensor), where they are known.
    sampling : Sampling or None
        How the statistics were estimated; None: they are of every row.
    version : str
        Version of fastrealign that made it.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> text, images = rng.standard_normal((500, 8)) + 1.0, rng.standard_normal((400, 8)) - 1.0
    >>> alignment = fr.fit(text, images)
    >>> alignment
    Alignment(dim=8, s=1.00619, centroid='paper', gap 1.41 -> 0.01049, rows 500 -> 400)
    >>> alignment(text[:3]).shape
    (3, 8)
    """

    s: float
    b: np.ndarray
    c: np.ndarray
    mean_source: np.ndarray
    mean_target: np.ndarray
    trace_source: float
    trace_target: float
    count_source: int
    count_target: int
    gap_before: float
    gap_left: float = float("nan")
    centroid: str = "paper"
    encoder_source: str | None = None
    encoder_target: str | None = None
    column_source: str | None = None
    column_target: str | None = None
    sampling: Sampling | None = None
    version: str = __version__
    kind: ClassVar[str] = "alignment"

    def __post_init__(self) -> None:
        for name in _VECTORS:
            value = np.array(unmasked(getattr(self, name), name), dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        shapes = {name: getattr(self, name).shape for name in _VECTORS}
        if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
            raise InputError(f"vectors of an alignment must have one width, got {shapes}")

    @property
    def dim(self) -> int:
        """Width of the rows it maps."""
        return len(self.b)

    @property
    def name(self) -> str:
        """ "realign", or "realign-exact" where the centroid is exact."""
        return "realign" if self.centroid == "paper" else "realign-exact"

    @cached_property
    def row_map(self) -> RowMap:
        return RowMap(self.s, self.b, self.c)

    @cached_property
    def between_means(self) -> BetweenMeans:
        """Where rows lie between the two means, for the check of calls."""
        return BetweenMeans(self.mean_source, self.mean_target)

    @property
    def numbered(self) -> bool:
        """Whether the result for a row depends on its number: never."""
        return False

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of s, b and c: what decides the output."""
        digest = sha256(np.float64(self.s).tobytes())
        for v in (self.b, self.c):
            digest.update(v.tobytes())
        return digest.hexdigest()

    def apply(self, rows: Rows, out: Rows, call: Call = CALL) -> Counts:
        """Store f(rows) in `out`, and add up what was stored in `call.into` (`ops.apply`)."""
        return ops.apply(
            rows, self.row_map, out, into=call.into, flags=call.flags, threads=call.threads, backend=call.backend
        )

    def to_saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors and the record that `save` writes."""
        scalars = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _VECTORS}
        scalars["gap_left"] = None if np.isnan(self.gap_left) else self.gap_left
        scalars["sampling"] = self.sampling and asdict(self.sampling)
        return {name: getattr(self, name) for name in _VECTORS}, {"kind": self.kind, **scalars}

    @classmethod
    def from_saved(cls, path: AnyPath, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> Alignment:
        """What `to_saved` gave, read from `path` and checked."""
        check_present(path, tensors, _VECTORS)
        check_tensors(path, cls.kind, tensors, dict.fromkeys(_VECTORS, 1))
        check_record(path, cls.kind, meta, _RECORD)
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = tensors | {name: value for name, value in meta.items() if name in known}
        if values.get("gap_left") is None:
            values["gap_left"] = float("nan")
        try:
            if values.get("sampling") is not None:
                values["sampling"] = Sampling.read(path, values["sampling"])
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{path}: a damaged alignment: {error}") from None

    @classmethod
    def of(cls, given: Method | AnyPath) -> Alignment:
        """An alignment as it is; the path or URL of a saved one, loaded."""
        if isinstance(given, Alignment):
            return given
        if not is_path(given):
            raise InputError(f"the alignment is {described(given)}, expected an Alignment or the path of a saved one")
        return cls.load(given)

    def named(self, encoders: tuple[str | None, str | None], columns: tuple[str | None, str | None]) -> Alignment:
        """A copy with the names of the encoders and columns of source and target."""
        fields = ("encoder_source", "encoder_target", "column_source", "column_target")
        names: dict[str, Any] = dict(zip(fields, (*encoders, *columns), strict=True))
        return replace(self, **names)

    def to_faiss(self, index: Any = None) -> Any:
        """A FAISS index that aligns source rows (text) before it passes them to `index`: an IndexPreTransform.

        In float32 throughout: about 1e-7 from this alignment, more for a row that a translation all but cancels. Rows without
        a direction are not detected.

        Parameters
        ----------
        index : faiss.Index, optional
            An index of this width, wrapped and not copied; by default a new, empty IndexFlatIP. `add` and `search` of the
            result both align, so add only text to it; images go to `index.add`.

        Returns
        -------
        faiss.IndexPreTransform

        Raises
        ------
        InputError
            Without the extra [faiss], for an index of another width, and for s <= 0.

        Examples
        --------
        >>> import faiss, fastrealign as fr, numpy as np
        >>> rng = np.random.default_rng(0)
        >>> text, image = (rng.standard_normal((50, 8)).astype("float32") + shift for shift in (1.0, -1.0))
        >>> images = faiss.IndexFlatIP(8)
        >>> images.add(image)
        >>> scores, found = fr.fit(text, image).to_faiss(images).search(text, 10)
        >>> found.shape
        (50, 10)
        """
        return to_faiss(self.row_map, self.dim, index)

    def __repr__(self) -> str:
        left = "not measured" if math.isnan(self.gap_left) else f"{self.gap_left:.4g}"
        return (
            f"Alignment(dim={self.dim}, s={self.s:.6g}, centroid={self.centroid!r}, "
            f"gap {self.gap_before:.4g} -> {left}, rows {self.count_source:,} -> {self.count_target:,})"
        )
