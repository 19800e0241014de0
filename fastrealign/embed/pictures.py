"""Pictures in files and tars: where each is, its state (to detect changes), and its decoding, from any thread."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.libraries import Image, ImageOps
from fastrealign.core.text import one_line, shown
from fastrealign.embed.captions import Caption, name_problem, text_of
from fastrealign.storage.files import file_size, reading
from fastrealign.storage.text_lines import LINE_BYTES

PICTURE_FILES = {".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
# The formats that Pillow may detect. Others would be mistakes, and some execute programs (EPS).
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO")
# Bytes of a picture's file, and of a tar's record about the next member. Larger ones are meant to exhaust memory.
_LARGEST = 1 << 30
_LARGEST_RECORD = 1 << 20
# Formats whose 16-bit grey Pillow reads as mode I (32 bits), 0 to 65535; PNG in older versions.
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
    fault: str | None = None  # why it cannot be read

    @property
    def where(self) -> str:
        """How messages name it."""
        return shown(self.path if self.size is None else f"{self.path}: {self.member}")

    @property
    def problem(self) -> str | None:
        """Why it cannot be used, as far as that is known without reading it."""
        return self.fault or name_problem(self.id)

    def state(self) -> tuple[int, list[str | int]]:
        """(bytes, values that change with it). InputError if the file cannot be accessed."""
        status = self._status()
        size = status.st_size if self.size is None else self.size
        return size, [self.id, self.offset, size, status.st_mtime_ns]

    def load(self) -> Image.Image:
        """The decoded picture, RGB, with its EXIF orientation applied. InputError that names it."""
        status = self._status()
        size = status.st_size if self.size is None else self.size
        if size > _LARGEST:
            raise InputError(f"{self.where}: is larger than {_LARGEST >> 30} GB, which no picture is; remove it")
        with reading(self.where), open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(size)
        if not data:
            raise InputError(f"{self.where}: is empty (0 bytes); write it again or remove it")
        try:
            Image.init()
            with Image.open(io.BytesIO(data), formats=[name for name in _FORMATS if name in Image.OPEN]) as picture:
                most, (width, height) = Image.MAX_IMAGE_PIXELS, picture.size
                if most is not None and width * height > most:
                    raise InputError(
                        f"has {width:,} x {height:,} pixels, more than {most:,}; make it smaller or remove it"
                    )
                return upright_rgb(picture)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        except Exception as error:  # Pillow's own, OSError, SyntaxError, struct.error, ...: from a damaged file
            if (short := shortage(error)) is not None:
                raise FastRealignError(f"{self.where}: {short}") from error
            why = "is no image that Pillow can read" if isinstance(error, Image.UnidentifiedImageError) else None
            raise InputError(
                f"{self.where}: {why or f'cannot be decoded ({one_line(error)})'}; replace or remove it"
            ) from None

    def _status(self) -> os.stat_result:
        with reading(self.where):
            status = os.stat(self.path)
        if not stat.S_ISREG(status.st_mode):
            # Opening a pipe waits for a writer, and some devices never end.
            raise InputError(f"{self.where}: is not a regular file; copy its contents to one, or remove it")
        return status


def upright_rgb(picture: Image.Image) -> Image.Image:
    """The picture in RGB with its EXIF orientation applied. InputError for numbers of unknown range."""
    # Pillow turns a TIFF when it loads it; exif_transpose of Pillow 9 and 10 would turn it again.
    upright = picture if picture.format == "TIFF" else ImageOps.exif_transpose(picture)
    upright.load()
    if upright.mode.startswith("I;16") or (upright.mode == "I" and picture.format in _SIXTEEN_BITS):
        # Pillow would clip these at 255, to white.
        upright = Image.fromarray(((np.asarray(upright, np.uint32) + 128) // 257).astype(np.uint8))
    elif upright.mode in ("I", "F"):
        raise InputError(
            f"has pixels of unknown range (Pillow's mode {upright.mode}), expected colours or grey of 8 or 16 bits; "
            "save it as such"
        )
    return upright.convert("RGB")


class _Member(tarfile.TarInfo):
    """A member of a tar whose header is checked: tarfile trusts its size, and seeks backwards if it is negative."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        kinds = (
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
        )
        if self.size < 0 or (self.type in kinds and self.size > _LARGEST_RECORD):
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return super()._proc_member(tar)  # type: ignore[misc]  # not in the stubs


def members_of(path: str, side: str) -> Iterator[Picture | Caption]:
    """The pictures of a tar, or its captions (.txt members, one caption each), in the order of the tar.

    Links, whose data are elsewhere, and sparse files come with a problem.
    """
    whole = file_size(path)
    with reading(path), open(path, "rb") as file:
        if file.read(2) == b"\x1f\x8b":
            raise InputError(
                f"{path}: is compressed (gzip), so members cannot be read at their position; gunzip it first"
            )
    try:
        with reading(path), tarfile.open(path, "r:", tarinfo=_Member) as tar:
            for member in tar:
                if member.size < 0:
                    raise tarfile.ReadError(f"a member of {member.size:,} bytes")
                if member.isfile() and not member.issparse() and member.offset_data + member.size > whole:
                    raise InputError(
                        f"{path}: was cut short, it lacks the end of {shown(member.name)}; copy or make it again"
                    )
                name = PurePosixPath(member.name)
                suffix = name.suffix.lower()
                if suffix not in (PICTURE_FILES if side == "images" else {".txt"}) or name.name.startswith("."):
                    continue
                if not (member.isfile() or member.issym() or member.islnk()):
                    continue
                key = str(name.with_suffix(""))
                fault = None
                if member.issparse():
                    fault = "is a sparse file; write the tar again without sparse files"
                elif not member.isfile():
                    fault = f"is a link to {shown(member.linkname)}; put the file itself into the tar"
                if side == "images":
                    yield Picture(key, path, member.offset_data, member.size, member.name, fault)
                    continue
                if fault is None and member.size > LINE_BYTES:
                    fault = f"is longer than {LINE_BYTES >> 20} MB, which no caption is"
                file_of = None if fault else tar.extractfile(member)
                text, problem = ("", fault) if file_of is None else text_of(file_of.read())
                yield Caption(key, shown(f"{path}: {member.name}"), text, problem or name_problem(key))
            # To tarfile, a cut between two members looks like the end, except for the missing block of zeros.
            if tar.offset + tarfile.BLOCKSIZE > whole:
                raise InputError(f"{path}: was cut short, it lacks the end of a tar; copy or make it again")
    except FastRealignError:
        raise
    except Exception as error:  # tarfile's errors, and anything that damaged numbers, names and nested headers cause
        if (short := shortage(error)) is not None:
            raise FastRealignError(f"{path}: {short}") from error
        raise InputError(f"{path}: is not a readable tar ({one_line(error)}); copy or make it again") from None
