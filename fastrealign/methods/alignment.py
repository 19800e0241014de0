"""Alignment: what `fit` found, a value that can be called, saved and loaded."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core import ops
from fastrealign.core.arrays import unmasked
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import Counts, RowMap
from fastrealign.core.version import __version__
from fastrealign.formats.saved_tensors import check_record, check_saved_name, check_tensors, load_tensors, save_tensors
from fastrealign.methods.calling import call
from fastrealign.storage.rules import COUNT, MAPPING, NOT_NEGATIVE, NUMBER, TEXT, one_of, or_none

if TYPE_CHECKING:
    from fastrealign.methods.method import Method
    from fastrealign.storage.paths import AnyPath

_VECTORS = ("b", "c", "mean_source", "mean_target")
# What the record of a saved one must hold, and that of its sampling.
_RECORD = {
    "s": NUMBER,
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
_SAMPLING = {
    "how": TEXT,
    "rows_source": COUNT,
    "rows_target": COUNT,
    "of_source": or_none(COUNT),
    "of_target": or_none(COUNT),
    "error": or_none(NOT_NEGATIVE),
    "bound": or_none(NOT_NEGATIVE),
    "confidence": or_none(NOT_NEGATIVE),
    "seed": or_none(NOT_NEGATIVE),
}


@dataclass(frozen=True)
class Sampling:
    """How the statistics of an alignment were estimated, where they are not those of every row.

    how           "one pass": the centroid correction is corrected by a sample; "certified": all is of a sample of blocks;
                  "updated": the old statistics and those of new rows, merged
    rows_source, rows_target   rows that were read, of of_source and of_target (None: not known)
    error         standard error of the centroid of the aligned rows (Euclidean norm); None: not known
    bound         with probability `confidence`, the gap that is left is at most gap_left + bound
    seed          that the blocks were drawn from
    """

    how: str
    rows_source: int
    rows_target: int
    of_source: int | None
    of_target: int | None
    error: float | None
    bound: float | None = None
    confidence: float | None = None
    seed: int | None = None


@dataclass(frozen=True, eq=False)
class Alignment:
    """The row map f(y; s, b, c) = pi(pi(s pi(y) + b) + c) and the statistics that it was fitted from.

    s               sqrt(trace_target / trace_source)
    b, c            float64 (d,): mean_target - s mean_source, and the centroid correction
    mean_source, mean_target     float64 (d,): means of the unit rows
    trace_source, trace_target   E|unit row - mean|^2
    count_source, count_target   rows that the statistics are of
    gap_before      |mean_source - mean_target|
    gap_left        |mean of the aligned source - mean_target|; NaN if it was not measured
    centroid        "paper" or "exact"
    encoder_source, encoder_target   names of the encoders, if they were given
    column_source, column_target     names under which files held the rows (column, key, tensor), if they had some
    sampling        how far the statistics are estimates; None: they are of every row
    version         the fastrealign that made it
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

    def __post_init__(self) -> None:
        for name in _VECTORS:
            value = np.array(unmasked(getattr(self, name), name), dtype=np.float64)
            value.setflags(write=False)
            object.__setattr__(self, name, value)
        shapes = {name: getattr(self, name).shape for name in _VECTORS}
        if any(len(shape) != 1 for shape in shapes.values()) or len(set(shapes.values())) != 1:
            raise InputError(f"vectors of an alignment must have one width, got {shapes}")

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()  # what copy and pickle make of a read-only array can be written to

    @property
    def dim(self) -> int:
        """Width of the rows it maps."""
        return len(self.b)

    @property
    def name(self) -> str:
        """What the method is called among those of baselines.METHODS."""
        return "realign" if self.centroid == "paper" else "realign-exact"

    @property
    def row_map(self) -> RowMap:
        return RowMap(self.s, self.b, self.c)

    @property
    def numbered(self) -> bool:
        """Whether what becomes of a row depends on its number: never."""
        return False

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of s, b and c: what decides the output."""
        digest = hashlib.sha256(np.float64(self.s).tobytes())
        for v in (self.b, self.c):
            digest.update(v.tobytes())
        return digest.hexdigest()

    def __call__(
        self,
        x: Any,
        *,
        dtype: Any = None,
        out: Any = None,
        bad_rows: str = "error",
        threads: int | None = None,
        backend: str | None = None,
        first: int | np.ndarray = 0,
    ) -> Any:
        """Align rows: (n, d) in, (n, d) unit rows out, in the caller's kind of array and element type. One vector: (d,).

        x         NumPy array, torch tensor on any device, CuPy, JAX or array API array, pandas or polars Series or DataFrame
                  (an index is kept), list or tuple of rows (which comes back as a list or tuple of rows of their kind). A NumPy
                  array comes back for Arrow lists, Hugging Face columns and what has `__array__`, a torch tensor for what only
                  speaks DLPack or `__cuda_array_interface__`. Rows that are missing (None, null) have no direction
        dtype     another element type for the result: "float32", "float16", "bfloat16", "float64", or a NumPy/torch dtype
        out       an array or tensor of the right shape to write to (may be x itself)
        bad_rows  "error" raises BadRowsError naming the first row that has no direction (NaN, Inf, zero), "skip" leaves
                  such rows out of the result, "keep" passes them on as they came
        backend   "cuda", "triton", "cpu" or "reference"; the best that can run by default (backend.py)
        first     the number of the first row, as for a Baseline; an alignment maps equal rows alike, whatever their numbers
        Raises InputError for a width other than `dim`, an element type other than the four, a mask that masks something, and
        what holds no rows in memory of its own (sparse, nested, distributed tensors).
        """

        def kernel(rows: Any, view: Any, flags: np.ndarray | None) -> Counts:
            return self.apply(rows, view, flags=flags, threads=threads, backend=backend)

        return call(x, self.dim, kernel, dtype=dtype, out=out, bad_rows=bad_rows)

    def apply(
        self,
        rows: Any,
        out: Any,
        *,
        into: ExactSum | None = None,
        flags: np.ndarray | None = None,
        first: int | np.ndarray = 0,
        threads: int | None = None,
        backend: str | None = None,
    ) -> Counts:
        """Store f(rows) in `out`, and add up what was stored in `into` (`ops.apply`)."""
        return ops.apply(rows, self.row_map, out, into=into, flags=flags, threads=threads, backend=backend)

    def save(self, path: AnyPath) -> None:
        """Write to a safetensors file, a path or a URL, with the scalars as JSON metadata; replaced in one step.

        Raises InputError for a name that is another kind of file's (x.pkl), FastRealignError when writing fails.
        """
        check_saved_name(path, "alignment")
        scalars = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _VECTORS}
        if np.isnan(self.gap_left):
            scalars["gap_left"] = None
        scalars["sampling"] = self.sampling and asdict(self.sampling)
        save_tensors(path, {name: getattr(self, name) for name in _VECTORS}, {"kind": "alignment", **scalars})

    @classmethod
    def load(cls, path: AnyPath) -> Alignment:
        """Read what `save` wrote. Raises InputError naming the file if it is missing, damaged or something else."""
        tensors, meta = load_tensors(path, "alignment", _VECTORS)
        check_tensors(path, "alignment", tensors, dict.fromkeys(_VECTORS, 1))
        check_record(path, "alignment", meta, _RECORD)
        if meta.get("sampling") is not None:
            check_record(path, "alignment", meta["sampling"], _SAMPLING)
        known = {f.name for f in fields(cls)}
        values: dict[str, Any] = tensors | {name: value for name, value in meta.items() if name in known}
        if values.get("gap_left") is None:
            values["gap_left"] = float("nan")
        try:
            if values.get("sampling") is not None:
                values["sampling"] = Sampling(**values["sampling"])
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{path}: a damaged alignment: {error}") from None

    @classmethod
    def of(cls, given: Method | AnyPath) -> Alignment:
        """An alignment as it is; the path or URL of a saved one, loaded."""
        if isinstance(given, Alignment):
            return given
        if not isinstance(given, (str, os.PathLike)):
            raise InputError(
                f"the alignment is a {type(given).__name__}, expected an Alignment or the path of a saved one"
            )
        return cls.load(given)

    def named(
        self,
        encoder_source: str | None,
        encoder_target: str | None,
        column_source: str | None,
        column_target: str | None,
    ) -> Alignment:
        """The same, with the names of what its rows came from."""
        return replace(
            self,
            encoder_source=encoder_source,
            encoder_target=encoder_target,
            column_source=column_source,
            column_target=column_target,
        )

    def check_width(self, d: int, name: str) -> None:
        """InputError, which begins with `name`, if rows of another width than `dim` are to be mapped."""
        if d != self.dim:
            raise InputError(f"{name}: rows are {d} wide, the alignment was fitted on {self.dim}")

    def to_faiss(self, index: Any = None) -> Any:
        """A FAISS index that takes source rows (text) as they come: an IndexPreTransform that aligns them in front of `index`.

        Text queries against an index of images: its vectors are stored already, only what is searched passes the chain.

        >>> images = faiss.IndexFlatIP(768)
        >>> images.add(image_rows)                   # unit rows
        >>> index = alignment.to_faiss(images)
        >>> scores, found = index.search(text_rows, 10)
        >>> faiss.write_index(index, "text2image.faiss")

        index   an index of the alignment's width, wrapped and not copied; None for a new, empty IndexFlatIP. Rows given to
                `add` and `search` both pass the chain, so add only text to what is returned; images go to `images.add`.

        In float32 throughout: some 1e-7 from this alignment, more for a row that a translation all but cancels. Rows without
        a direction are not found out. Needs the extra [faiss]; raises InputError without it, for an index of another
        width, and for s <= 0.
        """
        from fastrealign.methods.faiss_export import to_faiss

        return to_faiss(self, index)

    def __repr__(self) -> str:
        left = "not measured" if math.isnan(self.gap_left) else f"{self.gap_left:.4g}"
        return (
            f"Alignment(dim={self.dim}, s={self.s:.6g}, centroid={self.centroid!r}, "
            f"gap {self.gap_before:.4g} -> {left}, rows {self.count_source:,} -> {self.count_target:,})"
        )
