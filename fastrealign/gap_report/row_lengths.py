"""The length of each row's caption, for `by_length`: words of a text column or of a file of captions, or numbers."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.progress import Progress
from fastrealign.core.text import one_line, shown
from fastrealign.core.wording import either, option
from fastrealign.data.row_ids import IdsOf
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import FileSource
from fastrealign.diagnostics.unit_rows import count_rows
from fastrealign.gap_report.class_labels import ValuesLike
from fastrealign.storage.files import open_binary, reading
from fastrealign.storage.paths import is_path, suffix_of


def _length_text(value: Any) -> str:
    """A caption, or a number as text."""
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"is {shown(str(value))}, expected a caption or a number")


class _LengthsOf(IdsOf):
    """The captions or lengths of all rows of the source, as text."""

    what = "column of lengths"
    usual = ()
    text_of = staticmethod(_length_text)


EXPECTED = "a text column of the source, a .txt file with a caption a line, or a .npy file of numbers"


def row_lengths(given: ValuesLike, source: RowSource, progress: Progress) -> np.ndarray:
    """float64 (rows,): numbers as they are, also as text; captions by their words (separated by white space).

    given   an array or list of numbers or of captions; a path that ends in .npy or .txt; or the name of a column of the files
            of the source. InputError for anything else, another number of them than rows, numbers below zero or not finite.
    """
    if not is_path(given):
        return _checked(either("--by-length", "by_length"), given, source)
    path = os.fspath(given)
    suffix = suffix_of(path)
    if suffix == ".npy":
        return _checked(path, _npy(path), source)
    if suffix == ".txt":
        return _checked(path, _lines(path), source)
    if not isinstance(source, FileSource) or os.path.exists(path):
        raise InputError(f"{option('by_length', shown(path))}: expected {EXPECTED}")
    captions = [text for batch in _LengthsOf(source.files.shards, None, path).batches(progress) for text in batch]
    return _checked(f"column {shown(path)!r} of {source.name}", captions, source)


def _npy(path: str) -> np.ndarray:
    try:
        with reading(path), open_binary(path) as file:
            return np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        if str(error).startswith("Object arrays"):
            raise InputError(
                f"{path}: holds Python objects; save captions as text, np.save(path, values.astype(str))"
            ) from None
        raise InputError(f"{path}: is not readable as .npy ({one_line(error)})") from None


def _lines(path: str) -> list[str]:
    try:
        with reading(path), open_binary(path) as file:
            text = file.read().decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({one_line(error)})") from None
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _checked(name: str, given: Any, source: RowSource) -> np.ndarray:
    try:
        values = np.asarray(given)
    except ValueError:
        raise InputError(
            f"{name}: expected one number or one caption for each row, got lists of unequal length"
        ) from None
    if isinstance(given, (list, tuple)) and 0 < sum(isinstance(value, str) for value in given) < len(given):
        raise InputError(f"{name}: holds both captions and numbers; give one or the other")
    if values.ndim != 1 or values.dtype.kind not in "iufUO" or (values.dtype.kind == "O" and not _texts(values)):
        raise InputError(
            f"{name}: expected one number or one caption for each row, got an array {values.shape} of {values.dtype}"
        )
    if values.dtype.kind in "UO":
        try:
            values = values.astype(np.float64)
        except ValueError:
            values = np.array([len(str(text).split()) for text in values])
    if len(values) != count_rows(source):
        raise InputError(
            f"{name}: has {count(len(values), 'length')}, expected one for each of {count(count_rows(source), 'row')} "
            f"of {source.name}"
        )
    lengths = values.astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(lengths) & (lengths >= 0)))
    if len(wrong):
        raise InputError(f"{name}: number {wrong[0]} is {lengths[wrong[0]]:g}, expected a length of 0 or more")
    return lengths


def _texts(values: np.ndarray) -> bool:
    return all(isinstance(value, str) for value in values)
