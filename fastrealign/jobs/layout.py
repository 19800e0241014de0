"""The names of the files that a run writes: in a folder, local or remote, or one file and those beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fastrealign import formats
from fastrealign.core.errors import InputError
from fastrealign.formats.manifest import JOURNAL, MANIFEST
from fastrealign.jobs.folders import A_FOLDER, check_local, inside, is_there, names_other_format, walk
from fastrealign.jobs.protected_inputs import Inputs, check_outside, files_of
from fastrealign.storage.file_identity import real
from fastrealign.storage.paths import AnyPath, Place, check_length, folder_of, is_folder, place, places_of

ALIGNMENT = "alignment.safetensors"
METADATA = "metadata.parquet"


class Layout:
    """The names that a run over `files` writes to. Nothing on disk is touched.

    out      a folder or its URL; for a source of one shard also a file of the same format, which the small files lie beside
    root     the folder of all files
    names    of the output shards, in the order of the source, relative to root
    alignment  path of the run's alignment; None for a run that has none
    metadata names of their metadata files, None for a shard that has none
    beside   names of the files that describe shards together (Hugging Face datasets)
    """

    def __init__(self, out: str | os.PathLike, files: formats.Source) -> None:
        self.out = os.fspath(out)
        path = place(out)
        kind = formats.FORMATS.get(path.suffix.lower())
        self.single = kind is not None and (kind.folder or not path.is_dir())
        if kind is not None and self.single:
            if len(files.shards) != 1:
                raise InputError(
                    f"{out}: names one file, but {files.name} has {len(files.shards)} shards; name a folder"
                )
            if not isinstance(files.shards[0], kind):
                raise InputError(
                    f"{out}: the output keeps the format of the input, {files.shards[0].format}; "
                    f"name a {place(files.shards[0].path).suffix} file or a folder"
                )
        elif names_other_format(out):
            raise InputError(
                f"{out}: {path.suffix} is not written, the output keeps the format of the input; "
                f"name {f'a {place(files.shards[0].path).suffix} file or ' if len(files.shards) == 1 else ''}{A_FOLDER}"
            )
        if any(shard.folder for shard in files.shards):
            check_local(path, out)
        self.root = path.parent if self.single else path
        prefix = f"{path.name}." if self.single else ""
        self.names = [path.name] if self.single else [shard.name for shard in files.shards]
        if not self.single and ALIGNMENT in self.names:
            named = files.shards[self.names.index(ALIGNMENT)].path
            raise InputError(f"{named}: its output shard would have the name of the run's own {ALIGNMENT}; rename it")
        self.metadata: list[str | None] = [None] * len(files.shards)
        for at, shard in enumerate(files.shards):
            if shard.metadata is not None:
                self.metadata[at] = f"{prefix}{METADATA}" if self.single else shard.metadata_name
        taken = dict(zip(self.names, files.shards, strict=True))
        for shard, name in zip(files.shards, self.metadata, strict=True):
            if name is not None and (other := taken.setdefault(name, shard)) is not shard:
                raise InputError(
                    f"{shard.path}: its metadata would be written to {name}, which {other.path} takes too; "
                    "rename one of the two, or run them apart"
                )
        self.beside = [] if self.single else [name for dataset in files.datasets for name in dataset.names]
        self.manifest = self.root / f"{prefix}{MANIFEST}"
        self.alignment: Place | None = self.root / f"{prefix}{ALIGNMENT}"
        self.journal = self.root / (f".{path.name}{JOURNAL}" if self.single else JOURNAL)
        check_length(self.journal, out)

    @classmethod
    def of_new_shards(cls, out: str | os.PathLike) -> Layout:
        """A folder for shards that do not follow those of a source, without an alignment (embed); `names` is set later."""
        layout = cls.__new__(cls)
        layout.out = os.fspath(out)
        layout.root = place(out)
        if names_other_format(out):
            raise InputError(f"{out}: {layout.root.suffix} is not written; shards go to a folder; name {A_FOLDER}")
        if layout.root.suffix.lower() in formats.FORMATS and not layout.root.is_dir():
            raise InputError(f"{out}: names one file, and shards go to a folder; name one")
        layout.single = False
        layout.names, layout.metadata, layout.beside = [], [], []
        layout.manifest, layout.alignment, layout.journal = layout.root / MANIFEST, None, layout.root / JOURNAL
        return layout

    @property
    def elsewhere(self) -> str:
        """What to do where other files have the names of the run."""
        return "choose another name" if self.single else "choose an empty folder"

    @property
    def small(self) -> list[Place]:
        """The run's own files beside the shards, without the journals."""
        return [self.manifest] if self.alignment is None else [self.manifest, self.alignment]

    def journal_of(self, rank: int) -> Place:
        """The journal of one of several ranks that write here; that of rank 0 is the journal of the run."""
        return self.journal.with_name(f"{self.journal.stem}.{rank}{self.journal.suffix}") if rank else self.journal

    def check_apart(self, specs: Sequence[AnyPath], sources: Sequence[formats.Source]) -> None:
        """InputError if the output lies inside an input, or an input inside the output, under any name or link."""
        check_outside(self.out, self.root, specs, sources)
        root = real(self.root)
        read = [spec for spec in specs if not is_folder(spec)]
        read += [path for source in sources for path in files_of(source)]
        if self.single:
            inputs = Inputs(read)
            for name in [*self._shards, *map(self.here, self.small)]:
                inputs.check(self.root / name)
            return
        # The folder of each file, and where the file itself lies if it is a link.
        read = [at for path in read for at in places_of(str(path))]
        places = dict.fromkeys(path if os.path.islink(path) else folder_of(path) or "." for path in read)
        for at in places:
            if inside(real(at), root):
                raise InputError(f"{self.out}: the input {at} lies inside the output; choose a folder apart from it")

    def files(self) -> list[str]:
        """Files that lie where the run would write, relative to root: all in a folder, the few names beside a file."""
        if self.single:
            small = [self.here(path) for path in (*self.small, self.journal)]
            return [name for name in [*self._shards, *small] if is_there(self.root / name)]
        # On a server the journal is a folder.
        journal = self.here(self.journal)
        return sorted({journal if name.startswith(f"{journal}/") else name for name in walk(self.root)})

    def here(self, path: Place) -> str:
        """The name of a file of the run, relative to root."""
        return path.relative_to(self.root).as_posix()  # type: ignore[arg-type]  # both lie here, or both on a server

    @property
    def _shards(self) -> list[str]:
        return [*self.names, *(name for name in self.metadata if name is not None)]
