"""Pictures and tars that were damaged, misnamed or made to do harm: one line each, or the right picture; bounded."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import warnings
import zlib

import numpy as np
import pytest
from embed_output import read, refused

from fastrealign import FastRealignError, InputError
from fastrealign.embed import pictures
from fastrealign.embed.inputs import open_input

Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.usefixtures("one_thread_and_no_network")


def png(width, height, *, data=b"", before=b""):
    """A PNG of a size that is said, with the data that are given."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    )


BROKEN = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "zeros": (b"\0" * 5000, "is no image that Pillow can read"),
    "text": (b"<!DOCTYPE html><html>404</html>", "is no image"),
    "an SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>x</script></svg>', "is no image"),
    "a PostScript program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n%%EOF\n", "is no image"),
    "a JPEG's first bytes": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "cannot be decoded|is no image"),
    "a PNG cut short": (png(50, 50, data=b"\0" * 151 * 50)[:60], "cannot be decoded|is no image"),
    "a PNG without data": (png(50, 50), "cannot be decoded"),
    "a bomb": (png(50_000, 50_000), r"has 50,000 x 50,000 pixels|cannot be decoded \(.*decompression bomb"),
    "a bomb of twice the size": (
        png(11_000, 11_000),
        r"has 11,000 x 11,000 pixels, more than 89,478,485; make it smaller",
    ),
    "a text bomb": (
        png(5, 5, before=struct.pack(">I", 0) + b"zTXt" + struct.pack(">I", zlib.crc32(b"zTXt"))),
        "cannot be decoded|is no image",
    ),
    "sizes of zero": (png(0, 0), "cannot be decoded|is no image"),
    "a GIF's header": (b"GIF89a\xff\xff\xff\xff\xf7\0\0", "cannot be decoded|is no image|has 65,535"),
    "a TIFF that refers to itself": (
        b"II*\0\x08\0\0\0\x01\0\x00\x01\x04\0\x01\0\0\0\x10\0\0\0\x08\0\0\0",
        "cannot be|is no",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_picture_that_cannot_be_had_is_one_line(tmp_path, name):
    data, reason = BROKEN[name]
    (tmp_path / "a.jpg").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(f"a.jpg: ({reason})", tmp_path / "a.jpg")


def test_no_more_than_a_picture_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "_LARGEST", 1 << 20)
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(1 << 40)
    refused("a.jpg: is larger than 0 GB, which no picture is", tmp_path / "a.jpg")


def test_a_shortage_of_memory_says_nothing_of_the_picture(tmp_path, photos, monkeypatch):
    """With --bad-items skip, a good picture must not be left out."""

    def short(*_):
        raise MemoryError

    monkeypatch.setattr(pictures, "upright_rgb", short)
    with pytest.raises(FastRealignError, match=r"1\.jpg: .*memory") as caught:
        read(photos / "1.jpg")
    assert not isinstance(caught.value, InputError)


@pytest.mark.parametrize(
    ("kind", "mode", "save"),
    [
        ("jpg", "CMYK", {}),
        ("jpg", "L", {}),
        ("jpg", "RGB", {"icc_profile": b"no profile" * 50}),
        ("jpg", "RGB", {"exif": b"Exif\0\0no exif"}),
        ("png", "P", {}),
        ("png", "RGBA", {}),
        ("png", "LA", {}),
        ("png", "1", {}),
        ("png", "P", {"transparency": b"\0\1\2"}),
        ("gif", "P", {"save_all": True, "loop": 0}),
        ("webp", "RGBA", {}),
        ("tif", "CMYK", {}),
    ],
)
def test_odd_pictures_are_read_without_a_word(tmp_path, rng, kind, mode, save, run, clip_folder):
    pixels = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
    more = {"append_images": [pixels.convert("P").rotate(90, expand=True)]} if "save_all" in save else {}
    pixels.convert(mode).save(tmp_path / f"a.{kind}", **save, **more)
    ((_, found),) = read(tmp_path / f"a.{kind}")
    assert (found.mode, found.size) == ("RGB", (7, 9))
    assert run(tmp_path / f"a.{kind}", "--out", tmp_path / "out", "--model", clip_folder, "--quiet") == (0, "", "")


def test_names_in_messages_stay_on_one_line(tmp_path, run, clip_folder):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\n\x1b[31mb.jpg").write_bytes(b"none")
    code, _, err = run(tmp_path / "in", "--out", tmp_path / "out", "--model", clip_folder)
    assert (code, err.count("\n")) == (2, 1) and "\x1b" not in err and r"a\n\x1b[31mb.jpg: is no image" in err
    assert not (tmp_path / "out").exists()


def member(name, data=b"", **fields):
    one = tarfile.TarInfo(name)
    one.size = len(data)
    for field, value in fields.items():
        setattr(one, field, value)
    return one, io.BytesIO(data)


@pytest.fixture
def tar(tmp_path, rng):
    """tar(member, ...): a tar with a good picture and a caption of the same key, and these."""
    picture = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).save(picture, "png")

    def tar(*members, name="a.tar", mode="w", **options):
        with tarfile.open(tmp_path / name, mode, **options) as file:
            for one in (member("good.png", picture.getvalue()), member("good.txt", b"a caption"), *members):
                file.addfile(*one)
        return tmp_path / name

    return tar, picture.getvalue()


def test_names_of_members_are_ids_and_never_paths(tar, tmp_path):
    make, picture = tar
    names = ["/etc/x.png", "../../up.png", "./here.png", "a/../b.png"]
    path = make(*(member(name, picture) for name in names))
    before = sorted(os.listdir(tmp_path))
    assert [id for id, _ in read(path, "images")] == ["good", "/etc/x", "../../up", "here", "a/../b"]
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("side", ["images", "text"])
def test_links_in_a_tar_are_reported_and_not_followed(tar, kind, side):
    suffix = "png" if side == "images" else "txt"
    path = tar[0](member(f"link.{suffix}", type=kind, linkname="/etc/passwd"))
    good, link = open_input(path, side)
    assert (good.problem, link.id) == (None, "link")
    assert link.problem == "is a link to /etc/passwd; put the file itself into the tar"


def test_a_sparse_member_is_reported(tmp_path):
    header = tarfile.TarInfo("s.png")
    header.type = tarfile.GNUTYPE_SPARSE
    raw = bytearray(header.tobuf(tarfile.GNU_FORMAT))
    raw[386:398], raw[398:410], raw[483:495] = b"00000000000\0", b"00000000000\0", b"77777777777\0"
    raw[148:156] = b"        "
    raw[148:156] = f"{sum(raw):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(raw) + b"\0" * 1024)
    (item,) = open_input(tmp_path / "a.tar", "images")
    assert item.problem == "is a sparse file; write the tar again without sparse files"


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_packed_tar(tar, mode):
    reason = "is compressed .gzip., .*; gunzip it first" if mode == "w:gz" else "is not a readable tar"
    refused(f"a.tar: {reason}", tar[0](mode=mode), "images")


def header(size, kind=tarfile.REGTYPE, name="x.png"):
    """A header that says another size than there is; 8 bytes of base 256 hold negative ones."""
    raw = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    raw[156:157] = kind
    raw[124:136] = (b"\xff" if size < 0 else b"\x80") + (size & (1 << 88) - 1).to_bytes(11, "big")
    raw[148:156] = b"        "
    raw[148:156] = f"{sum(raw):06o}\0 ".encode()
    return bytes(raw)


@pytest.mark.parametrize("size", [-512, -1024, -1, 1 << 40, 1 << 62])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
@pytest.mark.parametrize("side", ["images", "text"])
def test_headers_that_lie_about_sizes(tar, size, kind, side):
    """Python's tarfile walks in circles where a size is negative, and reads as much as a header says."""
    path = tar[0]()
    whole = path.read_bytes().rstrip(b"\0")
    whole += b"\0" * (-len(whole) % 512)
    path.write_bytes(whole + header(size, kind, "x.png" if side == "images" else "x.txt") + b"\0" * 2048)
    refused("a.tar: (is not a readable tar|was cut short)", path, side)


def test_many_headers_in_front_of_one_another(tmp_path):
    one = header(512, tarfile.XHDTYPE) + b"9 a=bcd\n\n".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(one * 3000 + b"\0" * 1024)
    refused("a.tar: is not a readable tar", tmp_path / "a.tar", "images")


def test_a_caption_of_a_tar_is_not_read_without_end(tar, monkeypatch):
    monkeypatch.setattr(pictures, "LINE_BYTES", 1 << 20)
    good, bad = open_input(tar[0](member("long.txt", b"x" * ((1 << 20) + 1))), "text")
    assert good.problem is None and bad.problem == "is longer than 1 MB, which no caption is"


def test_a_tar_in_a_tar_and_other_members_are_not_pictures(tar):
    make, _ = tar
    inner = make(name="inner.tar").read_bytes()
    path = make(
        member("inner.tar", inner), member("f.png", type=tarfile.FIFOTYPE), member("d.png", type=tarfile.DIRTYPE)
    )
    assert [id for id, _ in read(path, "images")] == ["good"]
