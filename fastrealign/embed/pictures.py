"""Pictures: where each lies, what tells that it was changed, and its decoding, in a form that threads share."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from fastrealign.embed.captions import Caption, text_of
from fastrealign.errors import InputError
from fastrealign.io.files import one_line, reading

if TYPE_CHECKING:
    from PIL import Image

PICTURE_FILES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture in a file of its own, or at `offset` of a tar.

    where   how messages name it
    """

    id: str
    path: str
    offset: int = 0
    size: int | None = None  # None: the whole file
    problem: None = None

    @property
    def where(self) -> str:
        return self.path if self.size is None else f"{self.path}: {self.id}"

    def state(self) -> tuple[int, list]:
        """(bytes, what is another once it was changed). Raises InputError if the file cannot be looked at."""
        with reading(self.path):
            status = os.stat(self.path)
        size = status.st_size if self.size is None else self.size
        return size, [self.id, self.offset, size, status.st_mtime_ns]

    def load(self) -> Image.Image:
        """Decoded, upright (its EXIF orientation applied), RGB. Raises InputError that names it."""
        from PIL import Image, ImageOps

        with reading(self.path), open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(-1 if self.size is None else self.size)
        if not data:
            raise InputError(f"{self.where}: is empty (0 bytes); write it again or remove it")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                return ImageOps.exif_transpose(picture).convert("RGB")
        except (
            Exception
        ) as error:  # Pillow's own, OSError, SyntaxError, struct.error, ... whatever a damaged file meets
            why = "is no image that Pillow can read" if isinstance(error, Image.UnidentifiedImageError) else None
            raise InputError(
                f"{self.where}: {why or f'cannot be decoded ({one_line(error)})'}; mend or remove it"
            ) from None


def members_of(path: str, side: str) -> Iterator[Picture | Caption]:
    """The pictures of a tar, or its captions (.txt members, each one caption), in the order of the tar."""
    try:
        with reading(path), tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                suffix = name.suffix.lower()
                key = str(name.with_suffix(""))
                if not member.isfile() or name.name.startswith("."):
                    continue
                if side == "images" and suffix in PICTURE_FILES:
                    yield Picture(key, path, member.offset_data, member.size)
                elif side == "text" and suffix == ".txt":
                    text, problem = text_of(tar.extractfile(member).read())
                    yield Caption(key, f"{path}: {member.name}", text, problem)
            # What is cut between two members looks like an end to tarfile, but for the block of zeros that marks one.
            if tar.offset + tarfile.BLOCKSIZE > os.path.getsize(path):
                raise InputError(f"{path}: was cut short, it lacks the end of a tar; copy or make it again")
    except tarfile.TarError as error:
        raise InputError(f"{path}: is not a readable tar ({one_line(error)}); copy or make it again") from None
