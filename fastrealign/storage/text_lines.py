"""Lines of a text file, the same for every command: no byte order mark, bounded length, blank lines at the end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from fastrealign.core.errors import InputError
from fastrealign.storage.files import open_binary, reading
from fastrealign.storage.paths import AnyPath

# Limit of a line, which is held in memory.
LINE_BYTES = 64 << 20
_MARK = b"\xef\xbb\xbf"  # a byte order mark


def lines_of(path: AnyPath) -> Iterator[tuple[int, int, bytes]]:
    """(number from 1, offset, bytes) of each line, without a byte order mark in the first.

    Raises InputError for a line longer than LINE_BYTES.
    """
    at = 0
    with reading(path), open_binary(path) as file:
        for number in itertools.count(1):
            line = file.readline(LINE_BYTES + 1)
            if not line:
                return
            if len(line) > LINE_BYTES:
                raise InputError(
                    f"{path}: line {number}: is longer than {LINE_BYTES >> 20} MB; is this a file of lines?"
                )
            start, at = at, at + len(line)
            if number == 1 and line.startswith(_MARK):
                start, line = start + len(_MARK), line[len(_MARK) :]
            yield number, start, line


def rows_in_lines(path: AnyPath, space: bytes | None = None, expected: int = 0) -> Iterator[tuple[int, int, bytes]]:
    """`lines_of` a file with a row per line; blank lines at the end are rows only up to the number that is expected.

    Blank lines are b"": they keep their numbers, which may pair them with the rows of another file.

    space   the characters of a blank line; None: white space
    """
    number = start = blank = 0
    for number, start, line in lines_of(path):
        if not line.strip(space):
            blank += 1
            continue
        for gap in range(number - blank, number):
            yield gap, start, b""
        blank = 0
        yield number, start, line
    for gap in range(number - blank + 1, min(number, expected) + 1):
        yield gap, start, b""
