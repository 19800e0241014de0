"""A corpus in every format, for runs that are killed: small, awkward, and the same for the same seed."""

from __future__ import annotations

import pickle
from pathlib import Path

import ml_dtypes
import numpy as np

from bench.common import CannotBenchmark
from fastrealign.data.row_source import PIECE_BYTES

WIDTH = 64
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)


def corpus(root: Path, seed: int, shards: int = 120) -> list[tuple[str, list[str], str]]:
    """Write it below `root`. Returns (name, words of a command, name of its output if that is one file) for each case.

    shards: number of plain .npy shards; the other folders hold a third as many
    """
    rng = np.random.default_rng(seed)
    text, image = rng.standard_normal((2, WIDTH)) * 0.5

    def rows(count: int, centre: np.ndarray, dtype: type = np.float32) -> np.ndarray:
        return (rng.standard_normal((count, WIDTH)) + centre).astype(dtype)

    def some(centre: np.ndarray, dtype: type = np.float32) -> np.ndarray:
        return rows(int(rng.integers(100, 1500)), centre, dtype)

    images = str(_npy(root / "images" / "images_0.npy", rows(5000, image)))
    # Several pieces, of which the last is shorter.
    long = rows(3 * PIECE_BYTES // (4 * WIDTH) + 77, text)
    for i in range(shards):
        _npy(root / "npy" / f"part_{i}.npy", some(text, DTYPES[i % len(DTYPES)]))
    _npy(root / "npy" / "part_1.npy", np.asfortranarray(some(text)))
    _npy(root / "npy" / "part_2.npy", rows(0, text))
    _npy(root / "npy" / "part_3.npy", long)
    npy = str(root / "npy")
    _npy(root / "one" / "long.npy", np.tile(long, (8, 1)))
    laion = _laion(root / "laion", [some(text) for _ in range(shards // 3)], rows(3000, image))
    _parquet(root / "parquet", [some(text) for _ in range(shards // 3)])
    _pickles(root / "pickles", [some(text, DTYPES[i % 2]) for i in range(shards // 3)])
    target = ["--target", images]
    return [
        ("npy", ["align", npy, *target], ""),
        ("parquet", ["align", str(root / "parquet"), *target, "--bad-rows", "skip"], ""),
        ("pickles", ["align", str(root / "pickles"), *target, "--dtype", "float64"], ""),
        ("npy in one pass", ["align", npy, *target, "--one-pass", "--dtype", "float16"], ""),
        ("clip-retrieval", ["align", laion, "--target", laion, "--bad-rows", "skip", "--centroid", "exact"], ""),
        ("npy on a sample", ["align", npy, *target, "--tol", "0.1", "--threads", "3"], ""),
        ("parquet, bad rows kept", ["align", str(root / "parquet"), *target, "--bad-rows", "keep"], ""),
        ("one file", ["align", str(root / "one" / "long.npy"), *target], "aligned.npy"),
        ("apply", ["apply", _alignment(root, text, image), npy, "--dtype", "bfloat16"], ""),
    ]


def _npy(path: Path, rows: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, rows)
    return path


def _laion(root: Path, parts: list[np.ndarray], images: np.ndarray) -> str:
    """text_emb/, img_emb/ and metadata/, with a bad row in every third shard."""
    _npy(root / "img_emb" / "img_emb_0.npy", images)
    for i, part in enumerate(parts):
        if i % 3 == 0:
            part[len(part) // 2, 3] = np.nan
        _npy(root / "text_emb" / f"text_emb_{i}.npy", part)
        _table(root / "metadata" / f"metadata_{i}.parquet", caption=[f"{i}.{j}" for j in range(len(part))])
    return str(root)


def _parquet(root: Path, parts: list[np.ndarray]) -> None:
    """Lists of fixed size in every other shard, several row groups, a bad row in every third."""
    pa, _ = _arrow()
    for i, part in enumerate(parts):
        if i % 3 == 0:
            part[len(part) // 3] = 0
        kind = pa.list_(pa.float32(), WIDTH) if i % 2 else pa.list_(pa.float32())
        ids = [f"id {i} {j}" for j in range(len(part))]
        _table(root / f"part_{i}.parquet", id=ids, embedding=pa.array(list(part), kind), row=list(range(len(part))))


def _table(path: Path, **columns: object) -> None:
    pa, pq = _arrow()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=400)


def _arrow() -> tuple:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise CannotBenchmark("the corpus needs pyarrow: pip install 'fastrealign[parquet]'") from None
    return pa, pq


def _pickles(root: Path, parts: list[np.ndarray]) -> None:
    """One item of each shard has no embedding."""
    root.mkdir(parents=True)
    for i, part in enumerate(parts):
        items = [{"id": j, "caption": f"{i}.{j}", "embed": row} for j, row in enumerate(part)]
        items.insert(len(items) // 2, {"id": -1, "caption": "none", "embed": None})
        (root / f"part_{i}.pkl").write_bytes(pickle.dumps(items))


def _alignment(root: Path, text: np.ndarray, image: np.ndarray) -> str:
    """An alignment fitted on other rows of the same two sides."""
    from fastrealign import fit

    path = root / "alignment.safetensors"
    spread = np.random.default_rng(1).standard_normal((2, 2000, WIDTH))
    fit(spread[0] + text, spread[1] + image).save(path)
    return str(path)
