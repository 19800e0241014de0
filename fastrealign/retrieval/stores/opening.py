"""From what the user names to a store, by its look."""

from __future__ import annotations

import os
from pathlib import Path

from fastrealign.core.errors import InputError
from fastrealign.core.text import note_secrets
from fastrealign.retrieval.stores.base import Store, StoreOptions
from fastrealign.retrieval.stores.faiss_store import FaissStore
from fastrealign.retrieval.stores.lance_store import LanceStore
from fastrealign.retrieval.stores.pgvector_store import PgvectorStore
from fastrealign.retrieval.stores.qdrant_store import QdrantStore

LOOKS = "FAISS index file, a LanceDB folder or table (x.lance), a Qdrant folder or URL (http://localhost:6333), or postgresql://..."
_FAISS = (".faiss", ".index")


def open_store(location: str | os.PathLike[str], options: StoreOptions) -> Store:
    """Open a store.

    Raises
    ------
    InputError
        If nothing is there, or it looks like no store; and as the stores do.
    """
    text = os.fspath(location)
    note_secrets(text)
    if text.startswith(("http://", "https://")):
        return QdrantStore(text, options)
    if text.startswith(("postgresql://", "postgres://")):
        return PgvectorStore(text, options)
    path = Path(text)
    if path.is_file() or (not path.exists() and path.suffix in _FAISS):
        return FaissStore(text, options)
    if not path.exists():
        raise InputError(f"{text}: no such file or folder; a store is a {LOOKS}")
    if path.is_dir() and (path / "meta.json").is_file():
        return QdrantStore(text, options)
    if path.is_dir() and (path.suffix == ".lance" or any(path.glob("*.lance"))):
        return LanceStore(text, options)
    raise InputError(f"{text}: looks like no store of vectors; a store is a {LOOKS}")
