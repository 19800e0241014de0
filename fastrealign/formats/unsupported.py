"""Advice for files of formats that are not read: a line of code, or a command, that works.

Where it depends on the contents (numbers or captions, one array or several), the beginning of the file is read.
"""

from __future__ import annotations

import json
import os
import re
from itertools import chain
from pathlib import Path

# Read from a text file to see what it holds: more than one embedding.
_PEEKED = 1 << 20
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_IMAGES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".heic", ".avif")
_RAW = (".bin", ".dat", ".raw", ".ckpt")
# By suffix, where the contents do not matter.
_STEPS = {
    (".feather",): "make it parquet: pandas.read_feather({here}).to_parquet({table})",
    (".orc",): "make it parquet: pandas.read_orc({here}).to_parquet({table})",
    (".avro",): "make it parquet: polars.read_avro({here}).write_parquet({table})",
    (".h5", ".hdf5"): "take one array out of it: numpy.save({to}, h5py.File({here})[NAME][:])",
    (".mat",): "take one array out of it: numpy.save({to}, scipy.io.loadmat({here})[NAME])",
    (".msgpack",): "make it .npy: numpy.save({to}, numpy.array(msgpack.unpackb(open({here}, 'rb').read()), 'float32'))",
    (".tfrecord",): "read it with tensorflow, and save the rows as an array (rows, width): numpy.save({to}, ROWS)",
    _ARCHIVES: "unpack it and name what was in it; if that is images or captions, {embed_folder}",
    _IMAGES: "it is an image; {embed}",
    _RAW: "make it .npy: numpy.save({to}, numpy.fromfile({here}, 'float32').reshape(-1, WIDTH))",
}
# Suffixes of other formats: a file that is written has none of these.
OTHER_SUFFIXES = frozenset((".npz", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".txt", ".xlsx", *chain(*_STEPS)))
# Those that people expect a file of, not a folder. Folders of runs are named run.dat or run.ckpt, too.
FILE_SUFFIXES = OTHER_SUFFIXES.difference(_RAW)
# Beginnings of files: those without data, and those of other formats than their suffix.
_POINTER = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_PACKED = {b"\x1f\x8b": "gzip", b"(\xb5/\xfd": "zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_CONTENTS = {b"\x93NUMPY": ".npy", b"PAR1": ".parquet", b"ARROW1": ".arrow", b"\x89HDF": ".h5"}


def next_step(path: str) -> str | None:
    """How to convert the file to a format that is read; None where that is not known.

    Placeholders in the line of code are in capitals.
    """
    stem, suffix = os.path.splitext(path)
    suffix, here, to = suffix.lower(), repr(path), repr(f"{stem}.npy")
    table = repr(f"{stem}.parquet")
    if suffix == ".npz":
        names = _arrays(path)
        if len(names) == 1:
            return f"take the array out of it: numpy.save({to}, numpy.load({here})[{names[0]!r}])"
        of = f", NAME being one of {', '.join(map(repr, names[:10]))}" if names else ""
        return f"take one array out of it: numpy.save({to}, numpy.load({here})[NAME]){of}"
    if suffix in (".csv", ".tsv"):
        return _of_table(path, suffix, here, to, table)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _of_json(path, suffix, here, to, table)
    if suffix == ".txt":
        lines = _lines(path)
        if not lines:
            return None
        if _numeric(re.split(r"[\s,]+", lines[0].strip())):
            delimiter = ", delimiter=','" if "," in lines[0] else ""
            return f"make it .npy: numpy.save({to}, numpy.loadtxt({here}{delimiter}, dtype='float32', ndmin=2))"
        return f"it holds text; {embed(path)}"
    if suffix in _RAW and _beginning(path).startswith(b"PK"):
        return f"if torch.save wrote it, rename it to {stem + '.pt'!r}"
    for suffixes, step in _STEPS.items():
        if suffix in suffixes:
            return step.format(here=here, to=to, table=table, embed=embed(path), embed_folder=embed("FOLDER"))
    return None


def mistaken(path: str) -> str | None:
    """What a local file is if its suffix is wrong, and what to do with it; None where that is not known."""
    stem, suffix = os.path.splitext(path)
    if _beginning(path).startswith(_POINTER):
        return "is a pointer that Git LFS left in place of the file; fetch it: git lfs pull"
    text = _beginning(path).lstrip()
    if text.lower().startswith(_PAGES):
        return "is a web page or a server's error, not the file; download it again, from the address of the file itself"
    for begin, kind in _PACKED.items():
        if text.startswith(begin):
            return f"is compressed with {kind}; unpack it first"
    really = next((one for begin, one in _CONTENTS.items() if text.startswith(begin)), None)
    if really is None and text.startswith(b"PK\x03\x04"):
        really = ".npz" if _arrays(path) else ".pt"
    if really is None or really == {".pth": ".pt"}.get(suffix.lower(), suffix.lower()):
        return None
    return f"is a {really} file by its content; rename it to {stem + really!r}"


def embed(path: str) -> str:
    """The command that makes embeddings of it."""
    return f"make embeddings of it first: fastrealign embed {path} --clip NAME --pretrained WEIGHTS --out OUT"


def _of_table(path: str, suffix: str, here: str, to: str, table: str) -> str:
    tab = suffix == ".tsv"
    lines = _lines(path)
    comma = "\t" if tab else ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    sep = "" if comma == "," else f", sep={comma!r}"
    read = f"pandas.read_csv({here}{sep})"
    if len(lines) < 2 and not (lines and _numeric(lines[0].split(comma))):
        return f"make it parquet: {read}.to_parquet({table})"
    if _numeric(lines[0].split(comma)):
        return f"make it .npy: numpy.save({to}, numpy.loadtxt({here}, delimiter={comma!r}, dtype='float32', ndmin=2))"
    if re.search(r"\[\s*-?[\d.]", lines[1]):
        return (
            f"make it .npy: numpy.save({to}, numpy.array([json.loads(text) for text in {read}[COLUMN]], 'float32')), "
            "COLUMN being the name of the one that holds the embeddings"
        )
    if sum(map(_number, lines[1].split(comma))) > 1:
        return (
            f"make it .npy: numpy.save({to}, {read}[COLUMNS].to_numpy('float32')), COLUMNS being the list of the names of "
            "those that hold the embedding"
        )
    return f"it holds text; make it parquet, {read}.to_parquet({table}), then {embed(table[1:-1])}"


def _of_json(path: str, suffix: str, here: str, to: str, table: str) -> str:
    lines = _lines(path)
    text = "".join(lines[:20]).lstrip()
    by_line = suffix != ".json"
    if by_line and text.startswith("["):
        return f"make it .npy: numpy.save({to}, numpy.array([json.loads(line) for line in open({here})], 'float32'))"
    if not by_line and re.match(r"\[\s*\[", text):
        return f"make it .npy: numpy.save({to}, numpy.array(json.load(open({here})), 'float32'))"
    if not by_line and (key := re.match(r'\{\s*("(?:[^"\\]|\\.)*")\s*:\s*\[\s*\[', text)):
        name = json.loads(key[1])
        return f"make it .npy: numpy.save({to}, numpy.array(json.load(open({here}))[{name!r}], 'float32'))"
    if not by_line and re.match(r'\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\[\s*-?\d', text):
        return f"make it .npy: numpy.save({to}, numpy.array(list(json.load(open({here})).values()), 'float32'))"
    if re.search(r'"\s*:\s*\[\s*-?[\d.]', text):
        lines_too = ", lines=True" if by_line else ""
        return f"make it parquet: pandas.read_json({here}{lines_too}).to_parquet({table})"
    if by_line:
        return f"it holds text; {embed(path)}"
    return (
        f"it holds text; make it parquet, pandas.read_json({here}).to_parquet({table}), then {embed(table[1:-1])}, or name it "
        "in the configuration of fastrealign train"
    )


def _arrays(path: str) -> list[str]:
    """The names of the arrays in a .npz."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as file:
            return [name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy")]
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []


def _lines(path: str) -> list[str]:
    """The first lines of a text file; none where it cannot be read."""
    text = _beginning(path, _PEEKED).decode("utf-8-sig", errors="replace")
    return [line for line in text.splitlines() if line.strip()]


def _beginning(path: str, count: int = 64) -> bytes:
    """The first bytes of a file; none where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(count)
    except (OSError, ValueError):
        return b""


def _numeric(fields: list[str]) -> bool:
    return len(fields) > 1 and all(map(_number, fields))


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
