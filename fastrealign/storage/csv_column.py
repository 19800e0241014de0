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


def csv_column(path: AnyPath, choose: Callable[[list[str]], tuple[str, int]]) -> Iterator[str]:
    """The values of one column, without the spaces before them.

    An empty line is an empty value where there is one column, and no row where there are more. Those at the end of the file
    count only up to the number of values that is expected. InputError for what is no UTF-8 text, for a first line that is
    empty or names the column twice, and for a row of another number of values than names.

    choose   takes the names in the first line; gives the name of the column and how many values are expected, 0 if unknown
    """
    with reading(path), io.TextIOWrapper(open_binary(path), "utf-8-sig", newline="") as file:
        try:
            header = file.readline()
            delimiter = next((one for one in _DELIMITERS if one in header), ",")
            rows = csv.reader(itertools.chain([header], file), delimiter=delimiter, skipinitialspace=True)
            names = [name.strip() for name in next(rows, [])]
            if not any(names):
                raise InputError(f"{path}: the first line is empty, expected the names of the columns")
            name, expected = choose(names)
            if names.count(name) > 1:
                raise InputError(f"{path}: {names.count(name)} columns have the name {name!r}; rename all but one")
            at, done, empty = names.index(name), 0, 0
            for row in rows:
                if not row:
                    empty += 1
                    continue
                if len(row) != len(names):
                    found = count(len(row), "value")
                    raise InputError(f"{path}: line {rows.line_num}: {found}, but the first line names {len(names)}")
                if len(names) == 1:
                    yield from itertools.repeat("", empty)
                    done += empty
                empty = 0
                yield row[at]
                done += 1
            if len(names) == 1:
                yield from itertools.repeat("", max(min(empty, expected - done), 0))
        except (csv.Error, UnicodeDecodeError) as error:
            advice = "; save it as UTF-8" if isinstance(error, UnicodeDecodeError) else ""
            raise InputError(f"{path}: is not readable as .csv ({one_line(error)}){advice}") from None
