"""Open the shards that a user names (file, glob, folder, clip-retrieval root, list of these) as one Source."""

from __future__ import annotations

import bisect
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.text import redacted
from fastrealign.formats.base import Shard
from fastrealign.formats.choose_column import USUAL_NAMES, Unclear, Wanted
from fastrealign.formats.find_shards import common_folder, find_shards, is_saved_dataset, relative_name
from fastrealign.formats.hf_dataset import DatasetFolder
from fastrealign.formats.metadata import SIDE_FOLDERS, attach_metadata
from fastrealign.formats.pickles import PickleShard
from fastrealign.formats.registry import format_of
from fastrealign.formats.shard_sets import counted_twice, leaving_out, warn_of_links, warn_of_outsiders
from fastrealign.formats.tables import TableShard
from fastrealign.formats.unsupported import mistaken
from fastrealign.storage.paths import Place, at_home, each, paths_of, place

# Of a chunk of a source.
CHUNK_BYTES = 8 << 20
# So many shards on a disk are opened sooner than threads start.
_FEW = 8


@dataclass(frozen=True)
class Source:
    """Shards of one width, in order. Iterating yields their rows in chunks, any number of times.

    datasets   folders of Hugging Face datasets among them, whose description is written next to their shards
    """

    name: str
    shards: list[Shard]
    rows: int
    dim: int
    left_out: dict[str, str] = field(default_factory=dict)  # shards that could not be opened, by name, and why
    datasets: list[DatasetFolder] = field(default_factory=list)

    @property
    def column(self) -> str | None:
        """The name under which the files hold the embeddings ("emb, embed" if they differ); None if they have no names."""
        names = dict.fromkeys(shard.column for shard in self.shards if shard.column is not None)
        return ", ".join(names) or None

    @property
    def skipped(self) -> int:
        """Items without an embedding, over all shards."""
        return sum(shard.skipped for shard in self.shards)

    def __iter__(self) -> Iterator[np.ndarray]:
        for shard in self.shards:
            try:
                yield from shard.chunks(max(1, CHUNK_BYTES // (max(shard.dim, 1) * shard.dtype.itemsize)))
            finally:
                shard.close()

    def where(self, row: int) -> str:
        """The name in messages of the row with this number, counted over all shards."""
        starts = [0, *accumulate(shard.rows for shard in self.shards)]
        at = bisect.bisect_right(starts, row) - 1
        return self.shards[at].where(row - starts[at])


def open_source(
    spec: str | os.PathLike | Sequence[str | os.PathLike],
    *,
    side: str,
    column: str | Wanted | None = None,
    bad_shards: str = "error",
    pickles: type[PickleShard] = PickleShard,
) -> Source:
    """Find the shards that `spec` names, read every header and check that they fit together.

    Parameters
    ----------
    spec : str, path, or a list of these
        A file, a glob, a folder of shards, a Hugging Face dataset (save_to_disk), a clip-retrieval root (img_emb/, text_emb/,
        metadata/) or a folder of Hive partitions (a=1/), each a path or a URL. Files of folders and globs come in numeric
        order (2 before 10), those of datasets and lists in the given one. formats/shard_sets.py picks the files of a folder.
    side : {"source", "target"}
        The folder of a clip-retrieval root: text_emb/ or img_emb/. Only the source, which is written out, gets metadata.
    column : str or Wanted, optional
        The column, key or tensor with the embeddings, where it has another name than usual. Without it, the names of text and
        images in one file identify the sides ("text_emb", "image_emb").
    bad_shards : {"error", "skip"}
        The result for a shard that cannot be opened, or has another width than most: an error, or an entry of `left_out`.
    pickles : type
        The reader of pickles; AnyPickleShard where they need not be written back.

    Returns
    -------
    Source

    Raises
    ------
    InputError
        Something is missing, unreadable, damaged or of mixed width; one line with the name of the file.
    """
    if side not in SIDE_FOLDERS:
        raise ValueError(f"side must be 'source' or 'target', not {side!r}")
    specs = [at_home(os.fspath(one)) for one in paths_of(spec, f"the {side}")]
    name = redacted(str(specs[0]) if len(specs) == 1 else f"{specs[0]} and {len(specs) - 1} more")
    wanted = Wanted.on(side, column)
    files: list[Place] = []
    folders: dict[Path, slice] = {}
    sets: list[slice] = []  # slices of files that the user did not name one by one
    for one in specs:
        root, found = find_shards(one, side)
        which = slice(len(files), len(files) + len(found))
        if is_saved_dataset(Path(one)):
            folders[Path(one)] = which
        elif [str(path) for path in found] != [str(place(one))]:
            sets.append(which)
        files += found
    if len(specs) > 1:
        root = common_folder(files)
        if why := next(counted_twice(files), None):
            warn(why, UserWarning)
    left_out: dict[str, str] | None = {} if bad_shards == "skip" else None
    of_sets = {str(path): path for which in sets for path in files[which]}
    shards = _open_all(files, [relative_name(path, root) for path in files], wanted, left_out, pickles, of_sets)
    like = _keep_one_width(shards, left_out, of_sets)
    if like is None:
        raise InputError(f"{name}: holds no embeddings at all")
    for shard in shards:
        if isinstance(shard, TableShard):
            shard.adopt(like.dim, like.dtype)
    by_path = {shard.path: shard for shard in shards}
    for which in sets:
        warn_of_outsiders([by_path[str(path)] for path in files[which] if str(path) in by_path])
    warn_of_links(shards)
    if side == "source":
        attach_metadata(shards)
    if wanted.alone:
        check_has_names(name, shards, wanted)
    datasets = []
    for folder, which in folders.items():
        of_it = set(map(str, files[which]))
        datasets.append(DatasetFolder(folder, [shard for shard in shards if shard.path in of_it]))
    return Source(name, shards, sum(shard.rows for shard in shards), like.dim, left_out or {}, datasets)


def check_has_names(name: str, shards: Sequence[Shard], wanted: Wanted) -> None:
    """InputError where a name for the embeddings was given and none of the shards has names."""
    if wanted.column is not None and not any(isinstance(one, TableShard) or one.column is not None for one in shards):
        raise InputError(
            f"{name}: has no {wanted.column!r}: {shards[0].format} files such as this one hold one matrix, without columns; "
            f"leave out {wanted.option}"
        )


def _keep_one_width(shards: list[Shard], left_out: dict[str, str] | None, of_sets: dict[str, Place]) -> Shard | None:
    """One of the shards of the width to take; those of another one go into `left_out`, or are an error if that is None."""
    widths = [shard for shard in shards if shard.dim]
    if not widths:
        return None
    usual = widths[0].dim if left_out is None else Counter(shard.dim for shard in widths).most_common(1)[0][0]
    like = next(shard for shard in widths if shard.dim == usual)
    for shard in widths:
        if shard.dim != usual:
            why = (
                f"{shard.path}: rows have {shard.dim} values, those of {like.path} have {usual}; "
                "all shards must have one width"
            )
            if left_out is None:
                raise InputError(why + _leaving_out([shard.path, like.path], of_sets))
            left_out[shard.name] = why
            shards.remove(shard)
    return like


def _open_all(
    files: list[Place],
    names: list[str],
    wanted: Wanted,
    left_out: dict[str, str] | None,
    pickles: type[PickleShard],
    of_sets: dict[str, Place],
) -> list[Shard]:
    """Open the files, with several threads since a network file system answers slowly; the result is in order.

    left_out   gets those that cannot be opened, with the reason; None: the first one is an error
    of_sets    those that the user did not name one by one, by their paths
    """

    def open_one(i: int, column: Wanted = wanted) -> Shard | InputError:
        path = files[i]
        try:
            kind = format_of(path)
            return (pickles if kind is PickleShard else kind)(path, names[i], column)
        except InputError as first:
            really = mistaken(str(path)) if isinstance(path, Path) and os.path.isfile(path) else None
            error = first if really is None else InputError(f"{path}: {really}")
            if left_out is None and not isinstance(error, Unclear):
                if more := _leaving_out([str(path)], of_sets):
                    raise InputError(f"{error}{more}") from None
                raise error from first.__cause__
            return error

    def again(i: int, column: str) -> Shard | InputError:
        try:
            return open_one(i, replace(wanted, column=column))
        except InputError as error:
            return error

    few = len(files) <= _FEW and all(isinstance(path, Path) for path in files)
    in_turn = few or any(format_of(path).opens_whole for path in files)
    opened = list(each(open_one, range(len(files)), several=not in_turn))
    if wanted.column is None:
        opened = _of_one_name(opened, again, wanted.option)
    unclear = next((one for one in opened if isinstance(one, Unclear)), None)
    if left_out is None and unclear is not None:
        raise unclear
    failed = {name: one for name, one in zip(names, opened, strict=True) if isinstance(one, InputError)}
    if len(failed) == len(files):
        raise next(iter(failed.values()))
    if left_out is not None:
        left_out.update((name, str(error)) for name, error in failed.items())
    return [one for one in opened if not isinstance(one, InputError)]


def _of_one_name(
    opened: list[Shard | InputError], again: Callable[[int, str], Shard | InputError], option: str
) -> list[Shard | InputError]:
    """The shards, with one name for the embeddings in all of them, or usual names. InputError if some differ.

    The columns of a shard with only nulls do not show which one holds the embeddings; the other shards do.

    again   opens a shard again by its number, with this name for the embeddings
    option  how the user can give the name
    """
    with_rows = [one for one in opened if isinstance(one, Shard) and one.rows and one.column is not None]
    names = Counter(one.column for one in with_rows if one.column is not None)
    unclear = any(isinstance(one, Unclear) for one in opened)
    if not names or (not unclear and (len(names) == 1 or set(names) <= set(USUAL_NAMES))):
        return opened
    for name, _ in names.most_common():
        found = list(opened)
        for i, one in enumerate(opened):
            if isinstance(one, Unclear) or (one in with_rows and one.column != name):
                found[i] = again(i, name)
        if all(
            one is other or (isinstance(one, TableShard) and not one.dim)
            for one, other in zip(found, opened, strict=True)
        ):
            return found
    if unclear:
        return opened
    one, other = (next(shard for shard in with_rows if shard.column == name) for name in list(names)[:2])
    raise InputError(
        f"{other.path}: holds embeddings as {other.column!r}, {one.path} as {one.column!r}; name the one to take with "
        f"{option}, or give the files one by one"
    )


def _leaving_out(suspects: list[str], of_sets: dict[str, Place]) -> str:
    """The end of a message on files of which one may not be of its set: a pattern that leaves it out."""
    for path in suspects:
        if path in of_sets and (pattern := leaving_out(of_sets[path], list(of_sets.values()))):
            return f"; {pattern} leaves {of_sets[path].name} out"
    return ""
