"""Files that ship with the package. One that is damaged, as by an installation that was cut, is named, with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.text import one_line

DATA = Path(__file__).parent / "data"


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """While the file is read: InputError in place of what the libraries raise where its bytes are not those expected."""
    try:
        yield path
    except Exception as error:
        if isinstance(error, FastRealignError) or shortage(error) is not None:
            raise
        todo = "install fastrealign again, which brings it" if path.parent == DATA else "make it again"
        raise InputError(f"{path}: is missing or damaged ({one_line(error)}); {todo}") from None
