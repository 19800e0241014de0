"""Calling a fitted method on a user's rows: any kind of array in, the same kind out."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import Field
from math import prod
from typing import Any, ClassVar

import numpy as np

from fastrealign.core.arrays import given_back
from fastrealign.core.backend import choose
from fastrealign.core.bad_rows import GOOD
from fastrealign.core.dtypes import ElementType, as_dtype
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.libraries import torch
from fastrealign.core.row_argument import Rows
from fastrealign.core.rows import as_output, empty_rows, taken_rows
from fastrealign.core.tensors import as_tensor, checked_output, in_large_pages, is_tensor, on_device, view_of
from fastrealign.core.wording import either, option
from fastrealign.data.options import BAD_ROWS, NoiseOptions, check_choice, documented, noise_options
from fastrealign.formats.table_objects import take
from fastrealign.methods.fit_options import PAIRED_METHODS
from fastrealign.methods.input_checks import ENOUGH, BetweenMeans
from fastrealign.methods.method import Call, Method
from fastrealign.methods.noisy import with_noise
from fastrealign.methods.saving import Saved

# Results smaller than this are never stored past the cache (`empty_rows`).
_SMALL = 64 * 1024


class MapsRows(Saved):
    """What an Alignment and a Baseline, frozen dataclasses, have in common.

    Their arrays are copies that cannot be written to, so what is made of them once (the row map) holds for good. Two are equal
    if their values are.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if isinstance(value := getattr(self, name), np.ndarray):
                value = np.array(value)
                value.setflags(write=False)
                object.__setattr__(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}  # without what was made of them

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.__post_init__()  # what copy and pickle make of a read-only array can be written to

    def __eq__(self, other: object) -> bool:
        """Whether all values are equal, whichever version of fastrealign made them."""
        if type(other) is not type(self):
            return NotImplemented
        return all(
            _equal_values(getattr(self, name), getattr(other, name))
            for name in self.__dataclass_fields__
            if name != "version"
        )

    def __hash__(self: Method) -> int:
        return hash((self.name, self.dim, self.s))

    @property
    def dim_out(self: Method) -> int:
        """Width of the rows it gives."""
        return self.dim

    @documented(NoiseOptions)
    def __call__(
        self: Method,
        x: object,
        *,
        dtype: ElementType | None = None,
        out: Rows | None = None,
        bad_rows: str = "error",
        threads: int | None = None,
        backend: str | None = None,
        first: int | np.ndarray = 0,
        noise: float = 0.0,
        seed: int = 0,
    ) -> Any:
        """Map rows: of an Alignment to unit rows, where the target lies.

        An Alignment warns (FitWarning) of rows that lie at the target already, such as images: in every call with 65,536 rows
        or more, and in its first hundred calls with 64 or more. Rows that it does not fit for other reasons: `check`.

        Parameters
        ----------
        x : array (n, dim), or one vector (dim,)
            NumPy array, torch tensor on any device, CuPy, JAX or array API array, pandas or polars Series or DataFrame, list
            or tuple of rows; of float16, bfloat16, float32 or float64. Missing rows (None, null) have no direction.
        dtype : str or dtype, optional
            Another element type for the result: "float32", "float16", "bfloat16", "float64", or a NumPy or torch dtype.
        out : array or tensor, optional
            Where to write the result; may be `x` itself.
        bad_rows : str, default "error"
            Rows with NaN, Inf or only zeros: "error" raises BadRowsError and names the first, "skip" leaves them out of the
            result, "keep" passes them on unchanged.
        threads : int, optional
            CPU threads; by default one per core.
        backend : str, optional
            "cuda", "triton", "cpu" or "reference"; by default the best that can run (core/backend.py).
        first : int or array (n,), default 0
            Number of the first row of `x`, or of each, where `x` is part of more rows: noise depends on it. Baselines in
            steps (mean-shift, c3, bca) map rows in memory; `nn.as_module` maps tensors on a device.
        {NoiseOptions}

        Returns
        -------
        array (n, dim_out), or one vector (dim_out,)
            In the caller's kind of array and element type. An index is kept; a list or tuple comes back as one; Arrow lists,
            Hugging Face columns and what has `__array__` come back as NumPy arrays, what only supports DLPack or
            `__cuda_array_interface__` as torch tensors.

        Raises
        ------
        InputError
            For another width than `dim`, an element type other than the four, a mask that masks something, and what holds no
            rows in memory of its own (sparse, nested, distributed tensors).
        BadRowsError
            For a row without a direction, where bad_rows is "error".
        """
        check_choice("bad_rows", bad_rows, BAD_ROWS)
        applied = with_noise(self, noise_options(noise, seed))
        given = x
        if is_tensor(x) and x.requires_grad:
            raise InputError("this call does not record gradients; use fastrealign.nn.as_module, or pass x.detach()")
        taken = take(x)
        x = taken.rows
        tensor, single = is_tensor(x), x.ndim == 1
        rows = taken_rows(x[None] if single else x, given=given)
        if is_tensor(rows):  # on a device
            choose(rows.device.type, rows.device.index or 0, backend)  # before torch allocates there, or noise is drawn
        self.check_width(rows.shape[1])
        if single and bad_rows == "skip":
            raise InputError(
                "bad_rows='skip' leaves out rows, of one vector nothing would be left; choose 'error' or 'keep'"
            )
        check_rows_kept(self, bad_rows)
        if not single and self.dim_out != self.dim and out is None and hasattr(given, "columns"):
            raise InputError(
                f"{self.name} gives rows {self.dim_out} wide, for which a {type(given).__name__} of {self.dim} columns has no "
                "names; pass its .to_numpy()"
            )
        if len(rows) >= ENOUGH and isinstance(between := getattr(self, "between_means", None), BetweenMeans):
            between.check_call(rows)
        if out is None:
            result, view = _made(given, x, rows, self.dim_out, dtype)
        else:
            if bad_rows == "skip":
                raise InputError("bad_rows='skip' changes the number of rows, which out= fixes")
            view = _given_out(out, rows, single, dtype)
        flags = np.empty(len(rows), dtype=np.uint8) if bad_rows == "skip" else None
        found = applied.apply(rows, view, Call(None, flags, first, threads, backend))
        if found.bad and bad_rows == "error":
            raise BadRowsError(f"row {found.first_bad} {taken.why(found)}; fix it, or pass bad_rows='skip' or 'keep'")
        if out is not None:
            return out
        left = flags == GOOD if found.bad and flags is not None else None
        if left is not None:
            result = result[as_tensor(left).to(result.device)] if tensor else result[left]
        result = result[0] if single else result
        return result if taken.back is None else given_back(taken.back, result, left, given)

    def check_width(self: Method, d: int, name: str = "") -> None:
        """InputError, which begins with `name`, if rows of another width than `dim` are to be mapped."""
        if d != self.dim:
            method = "the alignment" if self.name.startswith("realign") else self.name
            paired = self.name in PAIRED_METHODS
            fit = either("fastrealign map" if paired else "fastrealign fit", "fit_map" if paired else "fit")
            why = (
                "as wide as what it gives: they may be mapped already, or of the new encoder and need no map"
                if d == self.dim_out
                else f"they may be of another encoder: give rows {self.dim} wide, or fit for theirs with {fit}"
            )
            raise InputError(f"{name and f'{name}: '}rows are {d} wide, {method} was fitted on {self.dim}; {why}")


def _equal_values(one: Any, other: Any) -> bool:
    """Whether two values of a method are equal; NaN, of what was not measured, is equal to itself."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other or (one != one and other != other))


def check_rows_kept(method: Method, bad_rows: str) -> None:
    """InputError where bad rows are to be passed on unchanged by a map to another width."""
    if bad_rows == "keep" and method.dim_out != method.dim:
        raise InputError(
            f"{option('bad_rows', 'keep')} passes rows on unchanged, but {method.name} maps from a width of {method.dim} to "
            f"{method.dim_out}; choose 'error' or 'skip'"
        )


def _given_out(out: Any, rows: Rows, single: bool, dtype: ElementType | None) -> Rows:
    """How `apply` writes to the array or tensor that the caller gave."""
    if single and hasattr(out, "ndim") and out.ndim == 1:
        out = out[None]
    if dtype is not None and as_dtype(dtype) != as_dtype(out.dtype):
        raise InputError(f"dtype={dtype} and an out of type {out.dtype} contradict each other")
    return checked_output(out) if is_tensor(rows) and is_tensor(out) else as_output(out)


def _made(given: Any, x: Any, rows: Rows, width: int, dtype: ElementType | None) -> tuple[Any, Rows]:
    """An array or tensor for the result, of the class of the given one where that can be made, and how `apply` writes to it."""
    shape = len(rows), width
    if not is_tensor(x):
        wanted = rows.dtype if dtype is None else as_dtype(dtype)
        made = np.empty(shape, wanted) if prod(shape) * wanted.itemsize < _SMALL else empty_rows(*shape, wanted)
        return made, made
    kind = x.dtype if dtype is None else getattr(torch, as_dtype(dtype).name)
    if type(given) is not type(x) and is_tensor(given):
        # A subclass decides itself what an operation on it gives.
        with suppress(Exception):
            made = given.new_empty(shape, dtype=kind)
            if is_tensor(made) and made.shape == shape and made.dtype == kind:
                return made, checked_output(made) if on_device(x) else as_output(made)
    # `empty_like` takes half of the time of `new_empty`.
    alike = kind == x.dtype and x.shape == shape
    made = torch.empty_like(x, memory_format=torch.contiguous_format) if alike else x.new_empty(shape, dtype=kind)
    return made, view_of(in_large_pages(made), "out") if made.is_cpu else made
