"""The items to embed, in a fixed order: pictures in folders, files and tars; captions in .txt, .jsonl and .parquet, streamed.

Each item has an id, which its embedding keeps:

pictures   the path within the named folder, or the file's name; in a tar, the member's name without its suffix, which pairs
           pictures with captions (WebDataset)
captions   the record's own id, if it has one, else the number of the line or row, from 0; of several files, "FILE:NUMBER"
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fastrealign.core.errors import InputError
from fastrealign.core.formatting import count
from fastrealign.core.text import shown
from fastrealign.core.wording import either, option
from fastrealign.embed.captions import CAPTION_FILES, Caption, captions_in
from fastrealign.embed.pictures import PICTURE_FILES, Picture, members_of
from fastrealign.formats.find_shards import numeric_order
from fastrealign.formats.registry import FORMATS
from fastrealign.storage.files import reading
from fastrealign.storage.paths import at_home, paths_of

SIDES = ("images", "text")
Item = Picture | Caption

_TAR = ".tar"
_KINDS = {"images": "images (.jpg, .png, .webp, ...)", "text": "captions (.txt, .jsonl, .parquet)"}
_EXPECTED = f"expected {_KINDS['images']}, {_KINDS['text']} or .tar files of one of them"
_HELD = ", but embeddings, the output of embed; pass them to fastrealign align, or name the images or captions to embed"
_LINKS = "linked folders (not followed)"


@dataclass(frozen=True)
class Input:
    """Pictures or captions in a fixed order; can be iterated over again.

    name      as the user named it
    side      "images" or "text"
    files     (path, name relative to the root) of every file, in numeric order
    ignored   number of files of a folder that are neither, by suffix, and of links to folders (not followed)
    column, ids   of .jsonl and .parquet captions: the columns of the captions and of their ids, where they were named
    taken     the columns that hold the captions, known after the first iteration
    """

    name: str
    side: str
    files: list[tuple[str, str]]
    ignored: Counter[str]
    column: str | None = None
    ids: str | None = None
    taken: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Item]:
        several = len(self.files) > 1
        for path, name in self.files:
            suffix = Path(path).suffix.lower()
            if suffix == _TAR:
                yield from members_of(path, self.side)
            elif self.side == "images":
                yield Picture(name, path)
            else:
                yield from captions_in(path, f"{name}:" if several else "", self.column, self.ids, self.taken)


def open_input(
    spec: str | os.PathLike | Sequence[str | os.PathLike],
    side: str | None = None,
    *,
    column: str | None = None,
    ids: str | None = None,
) -> Input:
    """Find the pictures or captions that `spec` names: a folder (with its subfolders), a file, or a list of these.

    side   "images" or "text", where there are both
    Raises InputError if there are none, or both and `side` does not say which to take.
    """
    if side is not None and side not in SIDES:
        raise InputError(f"side={side!r}: expected images or text")
    specs = [Path(at_home(os.fspath(one))) for one in paths_of(spec, "the input")]
    name = shown(str(specs[0])) + (f" and {len(specs) - 1} more" if len(specs) > 1 else "")
    by_side: dict[str, list[tuple[str, str]]] = {one: [] for one in SIDES}
    ignored: Counter[str] = Counter()
    for path, relative, named in _found(specs, ignored):
        suffix = os.path.splitext(path)[1].lower()
        sides = _sides_of(path, suffix)
        if not sides and named:
            held = _HELD if suffix in FORMATS else f": {_EXPECTED}"
            raise InputError(f"{path}: neither an image nor captions{held}")
        for one in sides:
            by_side[one].append((path, relative))
        if not sides:
            ignored[shown(suffix) or "no suffix"] += 1
    if not any(by_side.values()):
        seen = ", ".join(f"{number:,} {suffix}" for suffix, number in ignored.most_common(3))
        if ignored and all(suffix in FORMATS for suffix in ignored):
            raise InputError(f"{name}: holds no images and no captions{_HELD}")
        raise InputError(f"{name}: holds no images and no captions{seen and f'; it holds {seen}'}; {_EXPECTED}")
    if side is None:
        if all(by_side.values()):
            counts = " and ".join(f"{count(len(by_side[one]), 'file')} with {_KINDS[one]}" for one in SIDES)
            raise InputError(f"{name}: holds {counts}; choose with {_of_side('images')} or {_of_side('text')}")
        side = next(one for one in SIDES if by_side[one])
    if not by_side[side]:
        raise InputError(f"{name}: holds no {_KINDS[side]}; leave out {_of_side(side)}")
    if side == "images" and (column or ids):
        options = f"{option('column')} and {option('ids')}"
        raise InputError(f"{name}: holds images; {options} are for captions in .jsonl and .parquet files")
    return Input(name, side, by_side[side], ignored, column, ids)


def _of_side(side: str) -> str:
    return either(f"--{side}", f"side={side!r}")


def _found(specs: list[Path], ignored: Counter[str]) -> Iterator[tuple[str, str, bool]]:
    """(path, name relative to the root, whether the user named the file itself) in order, without hidden files."""
    several = len(specs) > 1
    for spec in specs:
        if spec.is_dir():
            names = []
            with reading(spec):
                for at, folders, files in os.walk(spec, onerror=_raise):
                    folders[:] = [folder for folder in folders if not folder.startswith(".")]
                    # Links may form a cycle: os.walk does not follow them, and the report says so.
                    ignored.update(_LINKS for folder in folders if os.path.islink(os.path.join(at, folder)))
                    names += [os.path.relpath(os.path.join(at, file), spec) for file in files if file[0] != "."]
            for name in sorted(names, key=numeric_order):
                relative = PurePosixPath(spec.name, name) if several else PurePosixPath(name)
                yield os.path.join(spec, name), str(relative), False
        else:
            with reading(spec):
                os.stat(spec)
            yield str(spec), spec.name, True


def _raise(error: OSError) -> None:
    raise error


def _sides_of(path: str, suffix: str) -> set[str]:
    if suffix in PICTURE_FILES:
        return {"images"}
    if suffix in CAPTION_FILES:
        return {"text"}
    if suffix == _TAR:
        return {side for side in SIDES if next(iter(members_of(path, side)), None) is not None}
    return set()
