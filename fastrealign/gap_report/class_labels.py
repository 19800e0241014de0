"""Labels of the rows of both sides: from an array or list, a file, or a column of the sides' own tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import Progress
from fastrealign.core.text import brief, described, shown
from fastrealign.data.row_ids import IdsOf, file_and_column
from fastrealign.data.row_source import RowSource
from fastrealign.data.sources import FileSource
from fastrealign.diagnostics.unit_rows import count_rows
from fastrealign.storage.paths import AnyPath, is_path, place
from fastrealign.storage.text_values import as_text

# A value for each row: an array or list, a file, or the name of a column.
ValuesLike: TypeAlias = AnyPath | np.ndarray | Iterable[Any]

LABEL_NAMES = ("label", "labels", "class", "category", "target", "y")
# A side with more different labels than this has ids, or numbers that were measured.
MOST_CLASSES = 1000
_FILE = re.compile(r"\.(npy|txt|json|csv|parquet)$", re.IGNORECASE)


def label_text(value: object) -> str:
    """A label as text: 7, 7.0 and "7" are one class; "" for a missing one. InputError for a fraction, a list."""
    if _is_missing(value):
        return ""
    try:
        value = as_text(value)
    except InputError as error:
        raise InputError(f"has a label that {error}") from None
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value))
    if isinstance(value, str):
        return value
    if isinstance(value, Integral) or (isinstance(value, Real) and float(value).is_integer()):
        return str(int(float(value)) if not isinstance(value, Integral) else int(value))
    raise InputError(f"has the label {brief(value)}, expected a class: text or a whole number")


def _is_missing(value: object) -> bool:
    """Whether a row has no label: None, NaN, pandas' NA and NaT, NumPy's masked."""
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, Real) and bool(value != value)


class LabelsOf(IdsOf):
    """The labels of all rows of one side, as text."""

    what = "labels"
    usual = LABEL_NAMES
    may_lack = True
    text_of = staticmethod(label_text)


def both_labels(given: Any, target: RowSource, source: RowSource) -> tuple[LabelsOf, LabelsOf]:
    """The labels of target and source, opened.

    given   one for both, whose rows match, or two, (source, target), of: an array or list; a path, for a table with its
            column ("labels.parquet:category", "labels.csv:category"); the name of a column of the sides' tables
    """
    if isinstance(given, Iterator):
        given = list(given)
    # Two labels are never those of the rows of a side.
    apart = isinstance(given, (tuple, list)) and len(given) == 2
    of_source, of_target = given if apart else (given, given)
    named = isinstance(given, str) and _place_of(given, source) is None  # a column, which each side's own tables have
    if not apart and not named and count_rows(target) != count_rows(source):
        raise InputError(
            f"one list of labels for both sides needs rows that match: {target.name} has {target.rows} rows, {source.name} "
            f"{source.rows}; give labels of the source and of the target"
        )
    return _opened(of_target, target), _opened(of_source, source)


def _place_of(given: str | os.PathLike, side: RowSource) -> tuple[str, str | None] | None:
    """(path, column of its table); None for the name of a column of the side's own tables."""
    path = os.fspath(given)
    file, named = file_and_column(path, LabelsOf.what)
    if named is not None:
        return os.fspath(file), named
    head, colon, column = path.rpartition(":")
    if colon and column and place(head).is_file() and not place(path).exists():
        return head, column  # a file of another kind, which `LabelsOf` refuses
    if _FILE.search(path) or not isinstance(side, FileSource) or os.sep in path or place(path).exists():
        return path, None
    return None


def _opened(given: Any, side: RowSource) -> LabelsOf:
    if is_path(given):
        found = _place_of(given, side)
        if found is None:
            assert isinstance(side, FileSource)
            return LabelsOf(side.files.shards, None, os.fspath(given))
        return LabelsOf([], *found, rows=count_rows(side))
    if isinstance(given, np.ma.MaskedArray):
        given = given.tolist()  # None for a masked one
    if isinstance(given, Iterator):
        given = list(given)
    values = np.asarray(given) if not isinstance(given, (list, tuple)) else given
    if isinstance(values, np.ndarray) and values.ndim == 0:
        raise InputError(
            f"labels of {side.name}: {described(given)}, expected a list of a class for each row, a file or a column"
        )
    if isinstance(values, np.ndarray) and values.ndim != 1:
        raise InputError(f"labels of {side.name}: of shape {values.shape}, expected one for each row, ({side.rows},)")
    return LabelsOf([], values, None, rows=count_rows(side))


@dataclass(frozen=True)
class SideLabels:
    """Labels of the rows drawn from a side, as an object array of text, "" for a row without one; and what all its rows have.

    classes   the different labels of all rows: MOST_CLASSES + 1 of them where there are more
    labelled  rows that have a label
    """

    drawn: np.ndarray
    classes: set[str]
    labelled: int


def side_labels(of: LabelsOf, numbers: np.ndarray, progress: Progress) -> SideLabels:
    """The labels of a side, of which the rows with these ascending numbers are drawn."""
    found: list[str] = []
    classes: set[str] = set()
    first = labelled = 0
    for batch in of.batches(progress):
        lo, hi = np.searchsorted(numbers, [first, first + len(batch)])
        found += ["" if batch[at].isspace() else shown(batch[at]) for at in numbers[lo:hi] - first]
        for label in batch:
            if label and not label.isspace():
                labelled += 1
                if len(classes) <= MOST_CLASSES:
                    classes.add(shown(label))
        first += len(batch)
    return SideLabels(np.array(found, object), classes, labelled)


def _check_classes(target: SideLabels, source: SideLabels) -> None:
    """InputError for ids in place of classes."""
    for name, side in (("target", target), ("source", source)):
        if len(side.classes) > MOST_CLASSES:
            raise InputError(
                f"labels of the {name}: {side.labelled:,} rows have more than {MOST_CLASSES:,} different labels, expected "
                f"at most {MOST_CLASSES:,} classes; are these ids?"
            )
    # A source may have one row of each class, such as a prompt, if the target has several or knows most of the classes.
    ids = "labels: {}, expected classes, which several rows share; are these ids?"
    if source.classes and all(len(side.classes) == side.labelled for side in (source, target)):
        raise InputError(
            ids.format(f"each of {source.labelled:,} source and {target.labelled:,} target rows has its own")
        )
    common = len(source.classes & target.classes)
    if len(source.classes) > max(source.labelled // 2, 2) and 2 * common < len(source.classes):
        found = f"the source has {len(source.classes):,} different labels in {source.labelled:,} rows"
        raise InputError(ids.format(f"{found}, and the target has {common:,} of them"))


def coded(target: SideLabels, source: SideLabels) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """The classes that both sides have, and each side's labels as their numbers; -1 for other classes, and for none.

    InputError for ids, and where the rows drawn have fewer than two classes in common.
    """
    _check_classes(target, source)
    sides = [target.drawn, source.drawn]
    classes = [set(side) - {""} for side in sides]
    common = sorted(classes[0] & classes[1])
    if len(common) < 2:
        of_target, of_source = (", ".join(repr(name) for name in sorted(of)[:3]) or "none" for of in classes)
        raise InputError(
            f"labels: source and target have {count(len(common), 'class')} in common, expected "
            f"at least 2 (source: {of_source}; target: {of_target})"
        )
    number = {name: at for at, name in enumerate(common)}
    return tuple(common), [np.array([number.get(label, -1) for label in side]) for side in sides]


def left_out(name: str, labels: np.ndarray, codes: np.ndarray) -> list[str]:
    """Notes about the rows of a side that the classifier leaves out. labels: those drawn; codes: of `coded`."""
    missing = int((labels == "").sum())
    notes = []
    if missing:
        notes.append(f"{name}: {missing:,} of its {len(codes):,} rows {does(missing, 'have')} no label")
    if out := int((codes < 0).sum()) - missing:
        notes.append(
            f"{name}: {out:,} of its {len(codes):,} rows {does(out, 'are')} of classes that the other side does not have"
        )
    return [f"{note}; the classifier leaves them out" for note in notes]
