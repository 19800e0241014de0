"""The formats by file suffix. To add one, write a Shard in its own file and name it here."""

from __future__ import annotations

from fastrealign.core.errors import InputError
from fastrealign.formats.arrow import ArrowShard
from fastrealign.formats.base import Shard
from fastrealign.formats.faiss_index import FaissShard
from fastrealign.formats.lance import LanceShard
from fastrealign.formats.npy import NpyShard
from fastrealign.formats.parquet import ParquetShard
from fastrealign.formats.pickles import PickleShard
from fastrealign.formats.safetensors_files import SafetensorsShard
from fastrealign.formats.torch_files import TorchShard
from fastrealign.formats.unsupported import next_step
from fastrealign.storage.paths import AnyPath, suffix_of

FORMATS: dict[str, type[Shard]] = {
    ".arrow": ArrowShard,
    ".faiss": FaissShard,
    ".index": FaissShard,
    ".lance": LanceShard,
    ".npy": NpyShard,
    ".parquet": ParquetShard,
    ".pickle": PickleShard,
    ".pkl": PickleShard,
    ".pt": TorchShard,
    ".pth": TorchShard,
    ".safetensors": SafetensorsShard,
}


def accepted() -> str:
    """The suffixes for a message: ".npy, .parquet, .pickle or .pkl"."""
    *most, last = sorted(FORMATS)
    return f"{', '.join(most)} or {last}"


def format_of(path: AnyPath) -> type[Shard]:
    """The Shard class for a file by its suffix, in any case; InputError if there is none."""
    suffix = suffix_of(path)
    if suffix not in FORMATS:
        step = next_step(str(path)) or f"expected {accepted()}"
        raise InputError(f"{path}: the suffix {suffix!r} is not of a known format; {step}")
    return FORMATS[suffix]
