"""Reading embeddings from files and writing aligned ones back in the same container."""

from __future__ import annotations

from fastrealign.io.base import Shard, ShardWriter
from fastrealign.io.formats import FORMATS
from fastrealign.io.metadata import write_metadata
from fastrealign.io.source import Source, open_source
from fastrealign.storage.atomic import AtomicFile

__all__ = ["FORMATS", "AtomicFile", "Shard", "ShardWriter", "Source", "open_source", "write_metadata"]
