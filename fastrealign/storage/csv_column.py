"""One column of a .csv file, in the order of its rows."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterator

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.text import one_line
from fastrealign.storage.files import open_binary, reading
from fastrealign.storage.paths import AnyPath

# What the values may lie between; the first that the header has counts.
_DELIMITERS = ",;\t"


def csv_column(path: AnyPath, choose: Callable[[list[str]], str]) -> Iterator[str]:
    """The values of the column that `choose` takes of the names in the first line.

    An empty line is an empty value where there is one column, and no row where there are more; none at the end of the file.
    InputError for what is no UTF-8 text, and for a row of another number of values than names.
    """
    with reading(path), io.TextIOWrapper(open_binary(path), "utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            delimiter = next((one for one in _DELIMITERS if one in header), ",")
            rows = csv.reader(itertools.chain([header], file), delimiter=delimiter)
            names = [name.strip() for name in next(rows, [])]
            at, empty = names.index(choose(names)), 0
            for row in rows:
                if not row:
                    empty += 1
                    continue
                if len(row) != len(names):
                    found = count(len(row), "value")
                    raise InputError(f"{path}: line {rows.line_num}: {found}, but the first line names {len(names)}")
                if len(names) == 1:
                    yield from itertools.repeat("", empty)
                empty = 0
                yield row[at]
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path}: is not readable as .csv ({one_line(error)})") from None
