"""Small corpora on disk for the tests of whole runs, and what a folder holds afterwards."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

DIM = 16


def rows(count: int, seed: int, dim: int = DIM, shift: float = 0.4) -> np.ndarray:
    """float32 rows around a direction of the seed's own: two seeds have a gap between them."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dim)) + shift * rng.standard_normal(dim) * 3).astype(np.float32)


def npy_folder(folder: Path, parts: list[np.ndarray], stem: str = "part") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts):
        np.save(folder / f"{stem}_{i}.npy", part)
    return folder


def two_sides(root: Path, shards: int = 3, each: int = 60, dim: int = DIM) -> tuple[Path, Path]:
    """Folders of text and image shards."""
    text, image = rows(shards * each, 1, dim), rows(shards * each, 2, dim)
    return npy_folder(root / "text", np.split(text, shards)), npy_folder(root / "image", np.split(image, shards))


def pickle_file(path: Path, items: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(items))
    return path


def table(embeddings: np.ndarray | list, name: str = "embedding", **columns: list):
    """An Arrow table with lists of float32 of any length."""
    import pyarrow as pa

    values = list(embeddings) if isinstance(embeddings, np.ndarray) else embeddings
    return pa.table({**columns, name: pa.array(values, pa.list_(pa.float32()))})


def parquet_file(path: Path, embeddings: np.ndarray | list, name: str = "embedding", **columns: list) -> Path:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(embeddings, name, **columns), path)
    return path


def arrow_file(path: Path, embeddings: np.ndarray | list, name: str = "embedding", **columns: list) -> Path:
    """A stream of batches of 1,000 rows, as Hugging Face datasets write it."""
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    whole = table(embeddings, name, **columns)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=1000)
    return path


def lance_folder(path: Path, embeddings: np.ndarray | list, name: str = "embedding", **columns: list) -> Path:
    import lance

    path.parent.mkdir(parents=True, exist_ok=True)
    lance.write_dataset(table(embeddings, name, **columns), path, max_rows_per_file=1000)
    return path


def safetensors_file(path: Path, embeddings: np.ndarray, ids: np.ndarray) -> Path:
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"embeddings": embeddings, "ids": ids}, path, {"encoder": "a test's"})
    return path


def torch_file(path: Path, embeddings: np.ndarray, ids: np.ndarray) -> Path:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"embeddings": torch.from_numpy(embeddings), "ids": ids.tolist(), "encoder": "a test's"}, path)
    return path


def faiss_file(path: Path, embeddings: np.ndarray, ids: np.ndarray) -> Path:
    import faiss

    path.parent.mkdir(parents=True, exist_ok=True)
    index = faiss.IndexIDMap(faiss.IndexFlatIP(embeddings.shape[1]))
    index.add_with_ids(embeddings, ids)
    faiss.write_index(index, str(path))
    return path


def embeddings_and_ids(path: Path) -> tuple[np.ndarray, list[int]]:
    """What one of the three holds, as the library of its format reads it."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(path)
        return tensors["embeddings"], tensors["ids"].tolist()
    if path.suffix == ".pt":
        import torch

        value = torch.load(path, weights_only=True)
        assert value["encoder"] == "a test's"
        return value["embeddings"].numpy(), value["ids"]
    import faiss

    index = faiss.read_index(str(path))
    return faiss.downcast_index(index.index).reconstruct_n(0, index.ntotal), faiss.vector_to_array(
        index.id_map
    ).tolist()


# A file of embeddings and ids, by suffix; what they need besides fastrealign.
TENSOR_FILES = {".safetensors": safetensors_file, ".pt": torch_file, ".faiss": faiss_file}
NEEDED = {".safetensors": "safetensors", ".pt": "torch", ".faiss": "faiss"}


def loaded(folder: Path) -> np.ndarray:
    """All rows of a folder of .npy shards, in numeric order."""
    files = sorted(folder.glob("*.npy"), key=lambda path: int(path.stem.rpartition("_")[2]))
    return np.concatenate([np.load(path) for path in files])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones and temporaries included."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _npy(path, rows):
    np.save(path, rows)


def _pickle(path, rows):
    pickle_file(path, [{"id": i, "embed": row} for i, row in enumerate(rows)])


def _safetensors(path, rows):
    safetensors_file(path, rows, np.arange(len(rows)))


def _torch(path, rows):
    torch = pytest.importorskip("torch")

    torch.save(torch.from_numpy(rows), path)


# Writes one file of rows, by suffix.
FORMATS = {
    ".npy": _npy,
    ".pkl": _pickle,
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".parquet": parquet_file,
    ".arrow": arrow_file,
}
