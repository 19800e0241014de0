"""Pictures: where each lies, what tells that it was changed, and its decoding, in a form that threads share."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.embed.captions import Caption, name_problem, text_of
from fastrealign.errors import FastRealignError, InputError, shortage
from fastrealign.io.files import file_size, one_line, reading
from fastrealign.text import shown

if TYPE_CHECKING:
    from PIL import Image

PICTURE_FILES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
# Files whose 16-bit grey Pillow reads as mode I (32 bits), of 0 to 65535; PNG in older versions of it.
_SIXTEEN_BITS = ("PNG", "PPM")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a file of its own, or at `offset` of a tar.

    where   how messages name it
    """

    id: str
    path: str
    offset: int = 0
    size: int | None = None  # None: the whole file
    member: str = ""  # its name in the tar

    @property
    def where(self) -> str:
        return shown(self.path if self.size is None else f"{self.path}: {self.member}")

    @property
    def problem(self) -> str | None:
        return name_problem(self.id)

    def state(self) -> tuple[int, list]:
        """(bytes, what is another once it was changed). Raises InputError if the file cannot be looked at."""
        status = self._status()
        size = status.st_size if self.size is None else self.size
        return size, [self.id, self.offset, size, status.st_mtime_ns]

    def load(self) -> Image.Image:
        """Decoded, upright (its EXIF orientation applied), RGB. Raises InputError that names it."""
        from PIL import Image

        self._status()
        with reading(self.where), open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(-1 if self.size is None else self.size)
        if not data:
            raise InputError(f"{self.where}: is empty (0 bytes); write it again or remove it")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return upright_rgb(picture)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        except (
            Exception
        ) as error:  # Pillow's own, OSError, SyntaxError, struct.error, ... whatever a damaged file meets
            if (short := shortage(error)) is not None:
                raise FastRealignError(f"{self.where}: {short}") from error
            why = "is no image that Pillow can read" if isinstance(error, Image.UnidentifiedImageError) else None
            raise InputError(
                f"{self.where}: {why or f'cannot be decoded ({one_line(error)})'}; mend or remove it"
            ) from None

    def _status(self) -> os.stat_result:
        with reading(self.where):
            status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            # To open a pipe waits for whoever writes to it, and some devices never end.
            raise InputError(f"{self.where}: is not a regular file; copy its contents to one, or remove it")
        return status


def upright_rgb(picture: Image.Image) -> Image.Image:
    """Upright (its EXIF orientation applied), RGB. Raises InputError for numbers whose range is not known."""
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format in _SIXTEEN_BITS):
        # Pillow would cut these off at 255, where they are white.
        upright = Image.fromarray(((np.asarray(upright, np.uint32) + 128) // 257).astype(np.uint8))
    elif upright.mode in ("I", "F"):
        raise InputError(
            f"holds numbers of no known range (Pillow's mode {upright.mode}), expected colours or grey of 8 or 16 bits; "
            "save it as such"
        )
    return upright.convert("RGB")


def members_of(path: str, side: str) -> Iterator[Picture | Caption]:
    """The pictures of a tar, or its captions (.txt members, each one caption), in the order of the tar."""
    file_size(path)
    try:
        with reading(path), tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                suffix = name.suffix.lower()
                key = str(name.with_suffix(""))
                if not member.isfile() or name.name.startswith("."):
                    continue
                if side == "images" and suffix in PICTURE_FILES:
                    yield Picture(key, path, member.offset_data, member.size, member.name)
                elif side == "text" and suffix == ".txt":
                    text, problem = text_of(tar.extractfile(member).read())
                    yield Caption(key, shown(f"{path}: {member.name}"), text, problem or name_problem(key))
            # What is cut between two members looks like an end to tarfile, but for the block of zeros that marks one.
            if tar.offset + tarfile.BLOCKSIZE > os.path.getsize(path):
                raise InputError(f"{path}: was cut short, it lacks the end of a tar; copy or make it again")
    except tarfile.TarError as error:
        raise InputError(f"{path}: is not a readable tar ({one_line(error)}); copy or make it again") from None
