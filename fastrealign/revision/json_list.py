"""A JSON list as a stream of its elements and their bytes. Memory is that of the longest element, not of the file.

ijson streams too, but does not give the bytes of an element, by which it is found again later, nor the line of a fault.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from fastrealign.core.errors import InputError
from fastrealign.core.text import one_line
from fastrealign.storage.files import open_binary, reading

_BLOCK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
# No token but a string is longer: a fault farther from the end of the block than this is no cut.
_TOKEN = 32


def records_of(path: str) -> Iterator[tuple[int, int, Any]]:
    """(first byte, end, value) of each element. Raises InputError, with the line, if the file is not JSON list."""
    with reading(path), open_binary(path) as file:
        text = _Text(file, path)
        if text.next() != "[":
            raise text.fault("expected a list of records, '['; name a file with a record per line .jsonl")
        text.skip(1)
        if text.next() != "]":
            while True:
                text.next()
                start = text.byte
                value = text.value()
                yield start, text.byte, value
                after = text.next()
                if after == "]":
                    break
                if after != ",":
                    raise text.fault("expected ',' or ']' after a record")
                text.skip(1)
        text.skip(1)
        if text.next():
            raise text.fault("something follows the end of the list")


class _Text:
    """The part of a file that is read and not yet parsed; position `_at` in it is byte `byte` of the file."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._raw = json.JSONDecoder().raw_decode
        self._text, self._at, self._line, self._ended = "", 0, 1, False
        self.byte = 0
        self._more()
        if self._text.startswith("\ufeff"):
            self.skip(1)

    def next(self) -> str:
        """Skip white space; the next character, "" at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self.skip(len(space[0]) if space else 0)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self, characters: int) -> None:
        passed = self._text[self._at : self._at + characters]
        self._line += passed.count("\n")
        self.byte += len(passed.encode())
        self._at += characters

    def value(self) -> Any:
        """Parse a JSON value."""
        while True:
            try:
                value, end = self._raw(self._text, self._at)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated string") or error.pos + _TOKEN > len(self._text)
                if cut_off and self._more():
                    continue
                line = self._line + self._text.count("\n", self._at, error.pos)
                raise InputError(f"{self._path}: line {line}: is not JSON ({error.msg}); fix or cut it there") from None
            except ValueError:  # integers of thousands of digits
                raise self.fault("has a number that is too long; fix or cut it there") from None
            except RecursionError:
                raise self.fault("is nested too deeply") from None
            if end == len(self._text) and self._more():  # a number may continue
                continue
            self.skip(end - self._at)
            return value

    def fault(self, what: str) -> InputError:
        return InputError(f"{self._path}: line {self._line}: {what}")

    def _more(self) -> bool:
        """Read a block, at least as long as what is unparsed; False at the end."""
        if self._ended:
            return False
        kept = self._text[self._at :]
        block = self._file.read(max(_BLOCK, len(kept)))
        self._ended = not block
        try:
            self._text, self._at = kept + self._decoder.decode(block, self._ended), 0
        except UnicodeDecodeError as error:
            raise InputError(f"{self._path}: from line {self._line} on: is not UTF-8 ({one_line(error)})") from None
        return not self._ended
