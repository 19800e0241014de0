"""Commits of new data files to a Lance table that other programs write to at the same time."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any

from fastrealign.core.errors import FastRealignError
from fastrealign.core.optional import optional
from fastrealign.retrieval.stores.base import failing
from fastrealign.retrieval.stores.lance_parts import Made

ADVICE = "if another program writes to the table, run again when it is done"
_TRIES = 5


def files_with(fragment: Any, fields: Collection[int]) -> list[str]:
    """The data files of a fragment (its metadata) that hold values of these fields."""
    return [file.path for file in fragment.files if {*fields} & {*file.fields}]


def commit(folder: str, made: Mapping[int, Made], fields: Mapping[str, int]) -> Any:
    """Make these data files, by fragment, part of the latest version of a table; the version that has them.

    Again where another program was faster. Fragments that another run has written since are as good and stay.

    Raises
    ------
    FastRealignError
        If a column was removed during the run; if fragments were, when the others are committed; if others keep being faster.
    """
    lance = optional("lance", "lancedb", f"{folder}: LanceDB")
    for left in reversed(range(_TRIES)):
        with failing(folder, ADVICE):
            data = lance.dataset(os.path.abspath(folder))
        there = {field.id() for field in data.lance_schema.fields()}
        if gone := [name for name, number in fields.items() if number not in there]:
            raise FastRealignError(f"{folder}: {gone[0]} was removed during the run; run the same command again")
        fragments = {one.id: one for one in (fragment.metadata for fragment in data.get_fragments())}
        numbers = [*fields.values()]
        updated = [
            one.put_into(fragments[number], numbers)
            for number, one in made.items()
            if number in fragments and files_with(fragments[number], numbers) == one.instead_of
        ]
        step = lance.LanceOperation.Update(updated_fragments=updated, fields_modified=numbers)
        try:
            with failing(folder, ADVICE):
                data = lance.LanceDataset.commit(data, step, read_version=data.version) if updated else data
            break
        except FastRealignError:
            if not left:
                raise
    if not made.keys() <= fragments.keys():
        said = (
            "was compacted, or rows were deleted, during the run; run the same command again; what is committed stays"
        )
        raise FastRealignError(f"{folder}: {said}")
    return data
