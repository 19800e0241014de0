"""Saving and loading one fitted method: what an Alignment, a Baseline and a PairedMap have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastrealign.formats.saved_tensors import check_saved_name, load_tensors, save_tensors
from fastrealign.methods.publishing import OnHub
from fastrealign.storage.paths import AnyPath

if TYPE_CHECKING:
    from typing_extensions import Self

# What errors call them, where that is not their kind.
_NAMES = {"baseline": "method", "map from pairs": "map"}


class Saved(OnHub):
    """A value that is saved as tensors and a record, of the kind that the file names."""

    kind: ClassVar[str]

    def to_saved(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The tensors and the record that `save` writes."""
        raise NotImplementedError

    @classmethod
    def from_saved(cls, path: AnyPath, tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> Self:
        """What `to_saved` gave, read from `path` and checked."""
        raise NotImplementedError

    def save(self, path: AnyPath, fsync: bool = True) -> None:
        """Write to a safetensors file, replaced in one step.

        Parameters
        ----------
        path : str or path
            A file name or a URL.
        fsync : bool, default True
            Wait until the disk has it.

        Raises
        ------
        InputError
            For a name of another kind of file (x.pkl).
        FastRealignError
            When writing fails.

        Examples
        --------
        >>> import fastrealign as fr, numpy as np, tempfile
        >>> rng = np.random.default_rng(0)
        >>> alignment = fr.fit(rng.standard_normal((50, 8)) + 1.0, rng.standard_normal((50, 8)) - 1.0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     alignment.save(f"{folder}/text2image.safetensors")
        ...     fr.load(f"{folder}/text2image.safetensors").fingerprint == alignment.fingerprint
        True
        """
        check_saved_name(path, _NAMES.get(self.kind, self.kind))
        save_tensors(path, *self.to_saved(), fsync)

    @classmethod
    def load(cls, path: AnyPath) -> Self:
        """Read what `save` wrote; InputError, which names the file, if it is missing, damaged or something else."""
        return cls.from_saved(path, *load_tensors(path, cls.kind))
