"""A check of a pickle's opcodes before any is executed: no length beyond the file, no memory out of proportion to it.

Python's unpickler trusts lengths and memo places: five bytes make it allocate 64 GB. It is also the only reader that is fast
enough for millions of items, so it reads what passes this check. Runs of opcodes of fixed length, which are most, are one match
of a regular expression.
"""

from __future__ import annotations

import pickletools
import re
from typing import BinaryIO

# Not in the pickles read here: they duplicate nothing on the stack and use no registries or external buffers.
_REFUSED = {"DUP", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
# Checked one by one, like those whose length is in the file.
_APART = _REFUSED | {"STOP", "FRAME", "LONG_BINPUT"}
_LENGTHS = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
_CODES = {ord(code.code): code for code in pickletools.opcodes}
_MAKE_CONTAINERS = bytes(
    number
    for number, code in _CODES.items()
    if code.name in ("MARK", "REDUCE", "BUILD", "OBJ", "NEWOBJ", "FROZENSET")
    or code.name.removeprefix("EMPTY_").rstrip("123") in ("TUPLE", "LIST", "DICT", "SET")
)
# Items with arrays have one container in ten bytes, lists of pairs one in four.
_BYTES_A_CONTAINER = 3
_FREE_CONTAINERS = 4096
# A match over more takes noticeable memory.
_WINDOW = 1 << 16


def _of_fixed_length() -> dict[int, bytes]:
    """Patterns of the opcodes by the number of bytes of their argument."""
    codes: dict[int, bytes] = {}
    for number, code in _CODES.items():
        length = 0 if code.arg is None else code.arg.n
        if length >= 0 and code.name not in _APART:
            codes[length] = codes.get(length, b"") + re.escape(bytes([number]))
    return {length: b"[%b].{%d}" % (some, length) for length, some in codes.items()}


_PATTERNS = _of_fixed_length()
_WITH_ARGUMENT = re.compile(b"|".join([b"r.{4}", *(some for n, some in _PATTERNS.items() if n)]), re.DOTALL)


def check_opcodes(file: BinaryIO, size: int) -> None:
    """Check the pickle at the position of `file`. ValueError for what is not a pickle, or out of proportion.

    size   of the whole file in bytes
    """
    _Walk(file, size).run()


class _Walk:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._window, self._at = b"", 0
        # A place in the memo is at most the number of objects, so that its high bytes follow from the size of the file.
        known = min(4, (size.bit_length() - 1) // 8)
        put = b"r.{%d}\0{%d}" % (known, 4 - known)
        self._fixed = re.compile(b"(?:%b)*" % b"|".join([*_PATTERNS.values(), put]), re.DOTALL)
        self._containers = 0

    def run(self) -> None:
        while True:
            self._skip_fixed()
            code = _CODES.get(self._take(1)[0])
            if code is None or code.name in _REFUSED:
                raise ValueError(f"it has {'an unknown opcode' if code is None else code.name}")
            if code.name == "STOP":
                return
            kind = 0 if code.arg is None else code.arg.n
            if kind == pickletools.UP_TO_NEWLINE:
                line = self._line()
                if code.name in ("GLOBAL", "INST"):
                    self._line()
                elif code.name == "PUT":
                    self._check_place(int(line) if line.isdigit() and len(line) < 20 else self._size + 1)
            elif code.name == "LONG_BINPUT":
                self._check_place(self._number(4))
            elif code.name == "FRAME":
                if self._number(8) > self._size - self._file.tell() + len(self._window) - self._at:
                    raise ValueError("pickle data was truncated")
            elif kind < 0:
                self._skip(self._number(_LENGTHS[kind]))
            else:
                self._take(kind)

    def _skip_fixed(self) -> None:
        """All opcodes of fixed length that follow in the window."""
        if len(self._window) - self._at < _WINDOW // 2:
            self._read(_WINDOW)
        found = self._fixed.match(self._window, self._at)
        end = self._at if found is None else found.end()
        bare = _WITH_ARGUMENT.sub(b"", self._window[self._at : end])
        self._at = end
        self._containers += len(bare) - len(bare.translate(None, _MAKE_CONTAINERS))
        if self._containers > _FREE_CONTAINERS + self._size // _BYTES_A_CONTAINER:
            raise ValueError("it is all containers in containers, without values")

    def _check_place(self, place: int) -> None:
        if place > self._size:
            raise ValueError(f"it has a memo of {place} objects in {self._size} bytes")

    def _number(self, length: int) -> int:
        return int.from_bytes(self._take(length), "little")

    def _take(self, count: int) -> bytes:
        if len(self._window) - self._at < count:
            self._read(count)
        taken = self._window[self._at : self._at + count]
        if len(taken) < count:
            raise ValueError("pickle data was truncated")
        self._at += count
        return taken

    def _skip(self, count: int) -> None:
        here = len(self._window) - self._at
        if count > here:
            start = self._file.tell()
            if start + count - here > self._size:
                raise ValueError("pickle data was truncated")
            self._file.seek(start + count - here)
            self._window, self._at = b"", 0
        else:
            self._at += count

    def _line(self) -> bytes:
        while (end := self._window.find(b"\n", self._at)) < 0:
            before = len(self._window) - self._at
            self._read(_WINDOW)
            if len(self._window) == before:
                raise ValueError("pickle data was truncated")
        line = self._window[self._at : end]
        self._at = end + 1
        return line

    def _read(self, count: int) -> None:
        self._window, self._at = self._window[self._at :] + self._file.read(count), 0
