"""python -m bench.paper.encoders --out DIR [--seeds 5]: encoders of both families of scenes, one per seed.

Some figures need rows that are not shipped: of another family of scenes, of captions of one length, of another encoder seed.
They are embedded on demand with DIR/SEED/encoder.safetensors and kept beside it. An encoder takes ten minutes on two cores.
Needs the extra `encoder`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.paper.common import keep_rows
from fastrealign.cli.demo.captions import caption
from fastrealign.cli.demo.samples import sample_caption
from fastrealign.cli.demo.scenes import render, scene
from fastrealign.core.errors import InputError

if TYPE_CHECKING:
    import open_clip

# Rows of a set that is embedded.
ROWS, QUICK_ROWS = 2000, 30
FILE, ABOUT = "encoder.safetensors", "about.json"


@dataclass(frozen=True)
class Rows:
    """side: "image" or "text"; scenes: their seeds; length: of captions, None as samples.LENGTH_SHARES says."""

    side: str
    family: str
    scenes: range
    length: str | None = None

    @property
    def file(self) -> str:
        words = (self.side, self.family, self.length or "mixed", self.scenes.start, self.scenes.stop)
        return "-".join(map(str, words)) + ".npy"


def seeds(folder: Path) -> list[int]:
    """Seeds of the encoders in a folder. Raises InputError if there is none."""
    found = sorted(int(path.parent.name) for path in folder.glob(f"*/{FILE}") if path.parent.name.isdigit())
    if not found:
        raise InputError(f"{folder}: no SEED/{FILE}; python -m bench.paper.encoders --out {folder}")
    return found


def about(folder: Path) -> str:
    """How many encoders, and how long they were trained: "5 encoder seeds, 1,000 steps each"."""
    found = seeds(folder)
    steps = sorted({json.loads((folder / str(seed) / ABOUT).read_text())["steps"] for seed in found})
    trained = f"{steps[0]:,}" + (f" to {steps[-1]:,} steps" if len(steps) > 1 else " steps each")
    return f"{len(found)} encoder seeds, {trained}" if len(found) > 1 else f"1 encoder seed, {steps[0]:,} steps"


def embedded(seed: int, wanted: Mapping[str, Rows], folder: Path) -> dict[str, np.ndarray]:
    """Embeddings of each set, float32 (n, d), from the encoder of this seed; kept in the folder."""
    kept = folder / str(seed) / "rows"
    missing = [rows for rows in wanted.values() if not (kept / rows.file).exists()]
    if missing:
        model = load(folder / str(seed) / FILE)
        for rows in missing:
            keep_rows(kept / rows.file, embed(model, rows))
    return {name: np.load(kept / rows.file) for name, rows in wanted.items()}


def load(path: Path) -> open_clip.CLIP:
    """The encoder in a file. Raises InputError if its layout is not that of demo.encoder."""
    from safetensors.torch import load_file

    from fastrealign.cli.demo import encoder

    model = encoder.build()
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise InputError(f"{path}: not an encoder of demo.encoder.CONFIG: {str(error).splitlines()[0]}") from None
    return model


def embed(model: open_clip.CLIP, rows: Rows) -> np.ndarray:
    from fastrealign.cli.demo import encoder

    scenes = [scene(s, rows.family) for s in rows.scenes]
    if rows.side == "image":
        return encoder.encode_images(model, [render(s) for s in scenes])
    captions = [sample_caption(s) if rows.length is None else caption(s, rows.length) for s in scenes]
    return encoder.encode_texts(model, [c.text for c in captions])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.paper.encoders", description="Train encoders, one a seed.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="DIR/SEED/encoder.safetensors")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N - 1 (default 5)")
    parser.add_argument("--steps", type=int, default=None, help="of training (default: those of the shipped encoder)")
    given = parser.parse_args(arguments)
    from safetensors.torch import save

    from bench.paper.world import encoder_training
    from bench.paper.world.sets import both_families
    from bench.paper.world.shipped import STEPS
    from fastrealign.cli.demo import encoder
    from fastrealign.storage.atomic import save_bytes

    for seed in range(given.seeds):
        path = given.out / str(seed) / FILE
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = given.steps or STEPS
        model = encoder.build(seed)
        encoder_training.train(model, steps, both_families)
        save_bytes(path.with_name(ABOUT), (json.dumps({"steps": steps, "seed": seed}) + "\n").encode())
        save_bytes(path, save({name: value.contiguous() for name, value in model.state_dict().items()}))
        print(f"wrote {path}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
