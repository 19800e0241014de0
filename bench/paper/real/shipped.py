"""What ships with the package of the real world: head C0 on every picture, and small pictures of the held-out ones."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from fastrealign.cli.demo import real_world
from fastrealign.core.errors import InputError
from fastrealign.storage.atomic import save_bytes

HEAD, QUALITY = "C0", 70


def ship(out: Path, say: Callable[[str], None], into: Path = real_world.DATA) -> None:
    """Write the files that fastrealign.cli.demo.real_world reads: fp16 rows, words, and thumbnails in one WebP."""
    for side in real_world.SIDES:
        data = io.BytesIO()
        np.save(data, np.load(out / "heads" / f"{HEAD}_{side}.npy").astype(np.float16))
        save_bytes(into / f"real_{side}.npy", data.getvalue())
    columns = [np.load(out / f"{name}.npy") for name in ("ids", "categories", "split", "titles", "longs")]
    lines = ["\t".join(real_world.COLUMNS), *("\t".join(map(str, row)) for row in zip(*columns, strict=True))]
    save_bytes(into / real_world.WORDS, gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
    save_bytes(into / real_world.SHEET, _sheet(np.load(out / "thumbs.npy")[columns[2] == "test"]))
    total = sum(path.stat().st_size for path in into.glob("real_*"))
    say(f"shipped: {len(columns[0]):,} pictures, {total / 1e6:.1f} MB in {into}")


def _sheet(thumbs: np.ndarray) -> bytes:
    try:
        image = import_module("PIL.Image")
    except ImportError:
        raise InputError("--ship needs pillow: pip install pillow") from None
    side, wide = real_world.THUMB, real_world.WIDE
    sheet = image.new("RGB", (side * wide, side * -(-len(thumbs) // wide)), "white")
    for i, thumb in enumerate(thumbs):
        small = image.fromarray(thumb).resize((side, side), image.Resampling.LANCZOS)
        sheet.paste(small, (i % wide * side, i // wide * side))
    data = io.BytesIO()
    sheet.save(data, "WEBP", quality=QUALITY, method=6)
    return data.getvalue()
