"""The role of each row of a FAISS index, from a file: a .npy file with a role a row, or a .json file of ranges of ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.text import brief, one_line

# Roles are numbered in a byte; the last number stands for no role.
_MOST = 255


def roles_of(file: str, ids: np.ndarray, where: str) -> tuple[np.ndarray, list[str]]:
    """The role of each row as a number (uint8) in a list of names. `where` names the index, whose rows have these ids."""
    said = f"{file}: expected a .npy file with the role of each of {count(len(ids), 'row')}, or a .json file of ranges of ids"
    path = Path(file)
    try:
        if path.suffix == ".json":
            ranges = _ranges(json.loads(path.read_text()))
        else:
            values = np.load(path)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; {said.partition(': ')[2]}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {one_line(error)}") from None
    except ValueError as error:
        raise InputError(f"{said} ({{'text': [0, 5000], ...}}): {one_line(error)}") from None
    if path.suffix == ".json":
        return _in_ranges(file, ranges, ids, where), list(ranges)
    if values.shape != ids.shape or values.dtype.kind not in "US":
        raise InputError(f"{said}; it holds {values.shape} of {values.dtype}")
    names, codes = np.unique(values.astype(str), return_inverse=True)
    if len(names) > _MOST:
        raise InputError(f"{said}; it holds {len(names):,} different values")
    return codes.astype(np.uint8), names.tolist()


def _ranges(found: Any) -> dict[str, tuple[int, int]]:
    """The range of ids of each role; ValueError where that is not what a file holds."""
    if not isinstance(found, dict):
        raise ValueError(f"it holds {brief(found)}")
    for name, range_ in found.items():
        ends = range_ if isinstance(range_, list) else []
        if len(ends) != 2 or not all(type(end) is int for end in ends) or ends[0] > ends[1]:
            raise ValueError(f"the range of {name} is {brief(range_)}")
    return {name: (first, end) for name, (first, end) in found.items()}


def _in_ranges(file: str, ranges: dict[str, tuple[int, int]], ids: np.ndarray, where: str) -> np.ndarray:
    """The number of the range that holds each id; InputError where none or two do."""
    if len(ranges) > _MOST:
        raise InputError(f"{file}: has {len(ranges):,} roles, expected at most {_MOST}")
    names, codes = list(ranges), np.full(len(ids), _MOST, np.uint8)
    for at, (first, end) in enumerate(ranges.values()):
        within = (ids >= first) & (ids < end)
        twice = within & (codes != _MOST)
        if twice.any():
            row = int(np.argmax(twice))
            raise InputError(
                f"{file}: id {ids[row]} is in the ranges of both {names[codes[row]]} and {names[at]}; correct one of them"
            )
        codes[within] = at
    without = codes == _MOST
    if without.any():
        raise InputError(
            f"{file}: {count(int(without.sum()), 'row')} of {where} in no range, the first has id "
            f"{ids[int(np.argmax(without))]}; add a range that holds it"
        )
    return codes
