"""Reading embeddings from files and writing aligned ones back in the same container."""

from __future__ import annotations

from fastrealign.formats.base import Shard, ShardWriter
from fastrealign.formats.metadata import write_metadata
from fastrealign.formats.open import Source, open_source
from fastrealign.formats.registry import FORMATS

__all__ = ["FORMATS", "Shard", "ShardWriter", "Source", "open_source", "write_metadata"]
