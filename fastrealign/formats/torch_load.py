"""Loading a file of torch.save without running code, mapped where its format allows it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Any

from fastrealign.core.errors import FastRealignError, InputError, shortage
from fastrealign.core.libraries import torch
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.storage.files import reading

# Files older than torch 1.6 cannot be mapped and are loaded whole, up to this size.
WHOLE_BYTES = 512 << 20
_SAVE_AGAIN = "load it with torch and save it again with torch.save"


def is_archive(path: str, size: int) -> bool:
    """Whether the file is a zip archive that can be mapped; InputError for one that torch would misread."""
    import zipfile

    with reading(path), open(path, "rb", opener=os.open) as file:
        if file.read(4) != b"PK\x03\x04":
            if size > WHOLE_BYTES:
                raise InputError(
                    f"{path}: is not in the format of torch 1.6 and later, and too large to be loaded whole; {_SAVE_AGAIN}"
                )
            return False
        try:
            with zipfile.ZipFile(file) as archive:
                entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
                order = archive.read(entries["byteorder"]).decode() if "byteorder" in entries else "little"
        except OSError:
            raise
        except Exception as error:  # zipfile raises errors of many classes for a damaged archive
            if shortage(error) is not None:
                raise
            raise InputError(f"{path}: is truncated or damaged ({one_line(error)}); copy or make it again") from error
    if "constants.pkl" in entries:
        raise InputError(f"{path}: is a TorchScript program, expected tensors; save those with torch.save")
    if order != "little" or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
        raise InputError(f"{path}: is compressed or of the other byte order; {_SAVE_AGAIN}")
    return True


def load(path: str, mapped: bool) -> Any:
    """torch.load, without running code. InputError if it refuses, or the file is damaged."""
    optional("torch", "torch", f"{path}: a .pt file")
    with reading(path):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except OSError:
            raise
        except Exception as error:  # a damaged file can raise almost anything
            if "mmap" in str(error) and "Cannot allocate memory" in str(error):
                raise FastRealignError(
                    f"{path}: not enough memory to map it, which takes as much as it has bytes; split it, or save it as "
                    ".npy or .safetensors"
                ) from error
            if shortage(error) is not None:
                raise
            raise InputError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The gist of an error of torch.load, whose text also explains how to run code from the file."""
    text = str(error)
    asked = re.search(r"GLOBAL (\S+)", text)
    if asked:
        arrays = ", NumPy arrays as tensors: torch.from_numpy(x)" if asked[1].startswith("numpy") else ""
        return f"refused to load: it asks for {asked[1]}; keep tensors, text, numbers, lists and dicts only{arrays}"
    reason = text.rpartition("WeightsUnpickler error: ")[2].partition("Check the documentation")[0]
    return f"is not a readable torch file ({one_line(ValueError(reason))}); make it again"


def offset_in_map(tensor: torch.Tensor) -> int | None:
    """The offset of a tensor in the mapped file; None where the system does not show it, or without values."""
    address = tensor.data_ptr()
    with suppress(OSError), open("/proc/self/maps") as maps:
        for line in maps:
            span, _, offset, _, inode = line.split()[:5]
            first, end = (int(text, 16) for text in span.split("-"))
            if first <= address < end and inode != "0":
                return address - first + int(offset, 16)
    return None
