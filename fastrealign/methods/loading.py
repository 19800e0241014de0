"""Fitted methods from files: `load`, and `as_method` for an argument that may be a path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastrealign.core.errors import InputError
from fastrealign.core.wording import either
from fastrealign.formats.safetensors_files import own_kind
from fastrealign.formats.saved_tensors import OtherKind
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.method import Method
from fastrealign.methods.paired_map import PAIRED, PairedMap
from fastrealign.storage.paths import AnyPath, is_path, named_paths


def load(path: AnyPath) -> Method:
    """Read a fitted method from a file.

    Parameters
    ----------
    path : str or path
        What `save` of an Alignment, a Baseline or a PairedMap wrote; a URL, too. hf://ORG/NAME, or
        hf://ORG/NAME@REVISION/FILE.safetensors, is a repository of the Hugging Face hub (`push_to_hub`; extra [hub]).

    Returns
    -------
    Alignment, Baseline or PairedMap

    Raises
    ------
    InputError
        Names the file if it is missing, damaged or something else.

    Examples
    --------
    >>> import fastrealign as fr, numpy as np
    >>> rng = np.random.default_rng(0)
    >>> texts, images = (rng.standard_normal((50, 8)) + shift for shift in (1.0, -1.0))
    >>> fr.fit(texts, images).save("text2image.safetensors")
    >>> fr.load("text2image.safetensors")(texts).shape
    (50, 8)
    """
    try:
        return Alignment.load(path)
    except OtherKind as error:
        if error.kind == "roles":
            raise InputError(
                f"{path}: holds roles, expected one alignment; choose one with "
                f"{either('--role NAME', 'fastrealign.Roles.load(path)[NAME]')}; fastrealign inspect lists them"
            ) from None
        if error.kind == "scores":
            raise InputError(
                f"{path}: holds scores, expected an alignment: fastrealign.retrieval.Scores.load(path)"
            ) from None
        if error.kind == PAIRED:
            return PairedMap.load(path)
        if error.kind != "baseline":
            raise
    return Baseline.load(path)


def as_method(given: Method | AnyPath) -> Method:
    """A fitted method as it is; the path or URL of a saved one, loaded."""
    if isinstance(given, (Baseline, PairedMap)):
        return given
    return load(given) if is_path(given) else Alignment.of(given)


@contextmanager
def explained_if_swapped(given: object, source: object) -> Iterator[None]:
    """Around loading the method that maps `source`: the InputError says so if the two arguments look swapped."""
    try:
        yield
    except InputError:
        for one in named_paths(source):
            if kind := own_kind(one):
                raise InputError(
                    f"{given}: is no saved alignment, but {one} holds {kind}: they look swapped; name the alignment first, "
                    "then the embeddings"
                ) from None
        raise
