"""From what a user names (file, glob, folder, clip-retrieval root, list of these) to shards in numeric order."""

from __future__ import annotations

import bisect
import difflib
import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import accumulate, takewhile
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.text import redacted
from fastrealign.formats.base import Shard
from fastrealign.formats.choose_column import USUAL_NAMES, Unclear, Wanted
from fastrealign.formats.faiss_index import FaissShard
from fastrealign.formats.hf_dataset import DatasetFolder, is_dataset, shards_of
from fastrealign.formats.metadata import METADATA_FILE, SIDE_FOLDERS, attach_metadata
from fastrealign.formats.pickles import PickleShard
from fastrealign.formats.registry import FORMATS, accepted, format_of, suffix_of
from fastrealign.formats.safetensors_files import own_kind
from fastrealign.formats.shard_sets import counted_twice, leaving_out, members, tell_of_links, tell_of_others
from fastrealign.formats.tables import TableShard
from fastrealign.formats.unsupported import mistaken, next_step
from fastrealign.storage.files import reading
from fastrealign.storage.paths import Place, each, place
from fastrealign.storage.retry import Missing
from fastrealign.storage.session import SESSION

if TYPE_CHECKING:
    from fastrealign.storage.url import Url

# What a chunk of a source takes when nobody says otherwise.
CHUNK_BYTES = 8 << 20
_OPENERS = 8
# Folders that are looked into for an example of where shards lie.
_LOOKS = 64
# Of Hive, Spark, DuckDB, ...: the value of a column.
_PARTITION = re.compile("[^=]+=.*")
# Of Delta and Hudi.
_VERSIONED = ("_delta_log", ".hoodie")


@dataclass(frozen=True)
class Source:
    """Shards of one width, in order. Iterating yields their rows in chunks, as often as asked.

    datasets   folders of Hugging Face datasets among them, whose description is written beside their shards
    """

    name: str
    shards: list[Shard]
    rows: int
    dim: int
    left_out: dict[str, str] = field(default_factory=dict)  # shards that could not be opened, by name, and why
    datasets: list[DatasetFolder] = field(default_factory=list)

    @property
    def column(self) -> str | None:
        """The name under which its files hold the embeddings (several, if they differ: "emb, embed"); None of files without."""
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
        """How to name in a message the row with this number, counted over all shards."""
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
    """Find the shards that `spec` names, open every header and check that they fit together.

    spec    a file, a glob, a folder of shards, a Hugging Face dataset (save_to_disk), a clip-retrieval root (img_emb/,
            text_emb/, metadata/), a folder of Hive partitions (a=1/), or a list of these, each a path or a URL. Folders
            and globs come in numeric order (2 before 10), datasets and lists in their own. Of folders and globs,
            members.py says which files are shards of the set.
    side    "source" or "target": which folder of a clip-retrieval root to take, text_emb/ or img_emb/. Metadata is
            looked for on the source side alone, the one that is written out.
    column  the parquet column or pickle key of the embeddings, where it is not the usual one. Without it, text and images in
            one file are told apart by their names: of "text_emb" and "image_emb" each side takes its own. A Wanted says
            more, or that names are not to tell
    bad_shards  "error": a shard that cannot be opened, or is of another width than most, is an error; "skip": it goes into
            `left_out`, if there are others.
    pickles what reads pickles: one that takes more layouts than can be written back, where that is not asked for

    Raises InputError, on one line with the file's name, for anything missing, unreadable, damaged or of mixed width.
    """
    if side not in SIDE_FOLDERS:
        raise ValueError(f"side must be 'source' or 'target', not {side!r}")
    specs = [_at_home(os.fspath(one)) for one in ([spec] if isinstance(spec, (str, os.PathLike)) else spec)]
    if not specs:
        raise InputError(f"the {side} is an empty list of files")
    name = redacted(str(specs[0]) if len(specs) == 1 else f"{specs[0]} and {len(specs) - 1} more")
    wanted = Wanted.on(side, column)
    files: list[Place] = []
    folders: dict[Path, slice] = {}
    sets: list[slice] = []  # of files that are of one set by their names, not because each is named
    for one in specs:
        root, found = _resolve(one, side)
        which = slice(len(files), len(files) + len(found))
        if _is_dataset(Path(one)):
            folders[Path(one)] = which
        elif [str(path) for path in found] != [str(place(one))]:
            sets.append(which)
        files += found
    if len(specs) > 1:
        root = _common_folder(files)
        if why := next(counted_twice(files), None):
            warn(why, UserWarning)
    left_out: dict[str, str] | None = {} if bad_shards == "skip" else None
    of_sets = {str(path): path for which in sets for path in files[which]}
    shards = _open_all(files, [_relative(path, root) for path in files], wanted, left_out, pickles, of_sets)
    widths = [shard for shard in shards if shard.dim]
    usual = Counter(shard.dim for shard in widths).most_common(1)[0][0] if widths and left_out is not None else None
    like = next((shard for shard in widths if shard.dim == usual), widths[0] if widths else None)
    for shard in widths:
        if shard.dim != like.dim:
            why = (
                f"{shard.path}: rows have {shard.dim} values, those of {like.path} have {like.dim}; "
                "all shards must have one width"
            )
            if left_out is None:
                raise InputError(why + _leaving_out([shard.path, like.path], of_sets))
            left_out[shard.name] = why
            shards.remove(shard)
    if not widths:
        raise InputError(f"{name}: holds no embeddings at all")
    for shard in shards:
        if isinstance(shard, TableShard):
            shard.adopt(like.dim, like.dtype)
    by_path = {shard.path: shard for shard in shards}
    for which in sets:
        tell_of_others([by_path[str(path)] for path in files[which] if str(path) in by_path])
    tell_of_links(shards)
    if side == "source":
        attach_metadata(shards)
    datasets = []
    for folder, which in folders.items():
        of_it = set(map(str, files[which]))
        datasets.append(DatasetFolder(folder, [shard for shard in shards if shard.path in of_it]))
    return Source(name, shards, sum(shard.rows for shard in shards), like.dim, left_out or {}, datasets)


def numeric_order(path: str | PurePath) -> tuple:
    """A sort key under which shard_2 comes before shard_10, folder by folder."""
    parts = PurePath(path).parts
    return tuple(
        tuple(int(piece) if at % 2 else piece for at, piece in enumerate(re.split("([0-9]+)", part))) for part in parts
    ), parts


def _resolve(spec: str, side: str) -> tuple[Place, list[Place]]:
    """(root that names are relative to, files in order) of one path, glob or folder."""
    path = place(spec)
    if not isinstance(path, Path):
        return _resolve_url(path, spec, side)
    if os.path.isdir(path) and not _is_one_shard(path):
        return path, shards_of(path) if _is_dataset(path) else _folder(path, side)
    if os.path.exists(path) or not glob.has_magic(spec):
        _check_there(path)
        format_of(path)
        return path.parent, [path]
    for root, pattern in _readings(path):
        matches = [Path(match) for match in glob.glob(pattern, recursive=True)]
        files = _shards_of(matches, [], spec, side)
        if files:
            return root, files
    _check_there(root)
    raise InputError(f"{spec}: the pattern matches no {_instead(matches, [], 'shard')}")


def _readings(pattern: Path) -> Iterator[tuple[Path, str]]:
    """(folder before the first wildcard, pattern): with folders that are there for what their names are, then without."""
    parts = pattern.parts
    there = next((at for at in range(len(parts) - 1, 0, -1) if os.path.lexists(Path(*parts[:at]))), 0)
    for known in dict.fromkeys((there, 0)):
        folder = Path(*parts[:known])
        root = folder.joinpath(*takewhile(lambda part: not glob.has_magic(part), parts[known:]))
        yield root, os.path.join(glob.escape(str(folder)) if known else "", *parts[known:])


def _resolve_url(url: Url, spec: str, side: str) -> tuple[Url, list[Place]]:
    """The same of a URL. What has the suffix of a format is a file, which spares a request."""
    if url.has_magic and not url.exists():
        root, matches = url.glob()
        files = _shards_of(matches, [], spec, side)
        if not files:
            raise InputError(f"{spec}: the pattern matches no {_instead(matches, [], 'shard')}")
        return root, files
    if url.suffix.lower() in FORMATS and not spec.endswith("/"):
        return url.parent, [url]
    if not url.is_http and url.is_file():
        format_of(url)
    return url, _folder(url, side)


def _is_one_shard(folder: Path) -> bool:
    kind = FORMATS.get(folder.suffix.lower())
    return kind is not None and kind.folder


def _is_dataset(path: Path) -> bool:
    return os.path.isdir(path) and not _is_one_shard(path) and is_dataset(path)


def _folder(folder: Place, side: str) -> list[Place]:
    wanted = folder / SIDE_FOLDERS[side]
    entries, folders = _entries(folder)
    for name in _VERSIONED:
        if folder / name in folders:
            raise InputError(
                f"{folder}: is a table with versions ({name}/), and holds files of older ones too; name the files of one"
            )
    files = _shards_of(entries, entries, folder, side)
    partitions = [one for one in folders if _PARTITION.fullmatch(one.name)]
    if wanted in folders:
        # clip-retrieval keeps an index of the embeddings, image.index, beside their folders, and a run its alignment.
        if any(format_of(path) is not FaissShard and not _is_own(path) for path in files):
            raise InputError(f"{folder}: holds shards of its own and {wanted.name}/; name the files or {wanted}")
        folder = wanted
        entries, folders = _entries(folder)
        files = _shards_of(entries, entries, folder, side)
    elif files and partitions:
        warn(f"{folder}: holds shards of its own, so that those in {partitions[0].name}/ are not read", UserWarning)
    elif partitions:
        files = _shards_of(list(_in_folders(partitions)), [], folder, side)
    elif not files:
        for other in SIDE_FOLDERS.values():
            if folder / other in folders:
                raise InputError(
                    f"{folder}: has {other}/ but no {wanted.name}/, which the {side} is taken from; "
                    f"give {folder / other} if that is the {side}"
                )
    if not files and (below := _below(folders, side)) is not None:
        inside = f"{below.parent.name}/" if below.parent.name in SIDE_FOLDERS.values() else ""
        raise InputError(
            f"{folder}: holds no shards of its own, but folders in it do, such as {below}; name one of these folders, or "
            f"all of them with the pattern {glob.escape(str(folder))}/**/{inside}*{below.suffix}"
        )
    if not files:
        raise InputError(f"{folder}: holds no {_instead(entries, folders, 'shards')}")
    return files


def _in_folders(folders: list[Place]) -> Iterator[Place]:
    """Everything in folders and in those within them."""
    for entries, inner in each(_entries, folders, remote=not isinstance(folders[0], Path)):
        yield from entries
        if inner := [one for one in inner if _is_searched(one)]:
            yield from _in_folders(inner)


def _below(folders: list[Place], side: str) -> Place | None:
    """A shard that lies in one of the folders or not far below; where it is of a side of clip-retrieval, of this one."""
    folders = [one for one in folders if _is_searched(one)]
    for _ in range(_LOOKS):
        if not folders:
            break
        folder = folders.pop(0)
        entries, inner = _entries(folder)
        if folder.name not in set(SIDE_FOLDERS.values()) - {SIDE_FOLDERS[side]}:
            found = [path for path in entries if _is_shard(path) and not METADATA_FILE.fullmatch(path.name)]
            if found := [path for path in found if path not in inner or _is_one_shard(path)]:
                return min(found, key=numeric_order)
        folders += [one for one in inner if _is_searched(one)]
    return None


def _is_searched(folder: Place) -> bool:
    """Whether shards may lie in it: not in hidden ones, those of Spark (_temporary), and what is itself a shard."""
    return not folder.name.startswith((".", "_")) and not _is_one_shard(folder)


def _instead(found: list[Place], folders: Collection[Place], wanted: str) -> str:
    """What to say after "no": what was found in place of shards, and what to do with that."""
    others = Counter(suffix_of(str(path)) for path in found if not path.name.startswith(".") and path not in folders)
    for suffix, number in others.most_common():
        example = min((path for path in found if suffix_of(str(path)) == suffix), key=numeric_order)
        step = next_step(str(example))
        if step is not None:
            files = f"{number:,} {suffix} file{'' if number == 1 else 's'}"
            return f"{wanted} ({accepted()} files), but {files}; of {example.name}: {step}"
    return f"{wanted}; expected {accepted()} files, or the folders img_emb/ and text_emb/"


def _check_there(path: Path) -> None:
    """InputError if nothing has that name, with one that is nearly the same."""
    try:
        with reading(path):
            os.lstat(path)
    except InputError as error:
        near = []
        with suppress(OSError):
            near = difflib.get_close_matches(path.name, os.listdir(path.parent), 1, 0.7)
        raise InputError(f"{error}{f'; did you mean {path.parent / near[0]}?' if near else ''}") from None


def _at_home(spec: str) -> str:
    """With ~ as the user's folder, as a shell has it outside of quotes, where there is nothing of that name."""
    return spec if os.path.lexists(spec.partition("/")[0]) else os.path.expanduser(spec)


def _entries(folder: Place) -> tuple[list[Place], list[Place]]:
    """What lies in a folder, and which of it are folders."""
    if isinstance(folder, Path):
        with reading(folder):
            found = [(folder / entry.name, entry.is_dir()) for entry in os.scandir(folder)]
    else:
        found = _listed(folder)
    return [path for path, _ in found], [path for path, is_folder in found if is_folder]


def _listed(folder: Url) -> list[tuple[Place, bool]]:
    entries = []
    try:
        for name, facts in folder.entries():
            entries.append((folder / name, facts.kind == "directory"))
            SESSION.note_listed(str(folder / name), facts)
    except Missing:
        raise InputError(f"{folder}: no such file or folder") from None
    return entries


def _is_shard(path: Place) -> bool:
    """By its name."""
    return path.suffix.lower() in FORMATS and not path.name.startswith(".")


def _shards_of(paths: list[Place], listed: list[Place], where: str | Place, side: str) -> list[Place]:
    """Those of `paths` that are shards of the set, in order; metadata files, saved alignments and hidden files are not.

    listed: all that lies in their folder, where that is known
    """
    files = [path for path in paths if _is_shard(path)]
    files = [path for path in files if not METADATA_FILE.fullmatch(path.name)] or files
    files = [path for path in files if not _is_own(path)] or files
    examples = sorted({format_of(path).format: path for path in files}.items())
    if len(examples) > 1:
        (one, a), (two, b) = examples[:2]
        raise InputError(
            f"{where}: holds two formats, {one} ({a.name}) and {two} ({b.name}); choose one with a pattern such as "
            f"{glob.escape(str(a.parent))}/*{a.suffix}"
        )
    return members(sorted(files, key=numeric_order), listed, side)


def _is_own(path: Place) -> bool:
    """Whether it is a saved alignment or the like."""
    return path.suffix.lower() == ".safetensors" and own_kind(path) is not None


def _common_folder(files: list[Place]) -> Place:
    """The deepest folder that holds all files of a list, none of which may be named twice."""
    paths = [os.path.abspath(path) if isinstance(path, Path) else str(path) for path in files]
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise InputError(f"{path}: is named twice; name each file once")
        seen.add(path)
    urls = [path for path in files if not isinstance(path, Path)]
    if not urls:
        return Path(os.path.commonpath([os.path.dirname(path) for path in paths]))
    schemes = {url.scheme for url in urls}
    if len(schemes) > 1 or len(urls) < len(files):
        raise InputError(f"{urls[0]}: lies in another place than others of the list; name files of one place at a time")
    parents = [str(url.parent).partition("://")[2].split("/") for url in urls]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
    return place(f"{urls[0].scheme}://{'/'.join(parts[0] for parts in same)}")


def _relative(path: Place, root: Place) -> str:
    if not isinstance(path, Path):
        return path.relative_to(root).as_posix()
    return Path(os.path.relpath(path, root)).as_posix()


def _open_all(
    files: list[Place],
    names: list[str],
    wanted: Wanted,
    left_out: dict[str, str] | None,
    pickles: type[PickleShard],
    of_sets: dict[str, Place],
) -> list[Shard]:
    """Open in order; headers of many files by several threads, since a network file system answers slowly.

    left_out: gets those that cannot be opened, with the reason; None: the first one is an error.
    of_sets: those that nobody named one by one, by their paths
    """

    def open_one(path: Place, name: str, column: Wanted = wanted) -> Shard | InputError:
        try:
            kind = format_of(path)
            return (pickles if kind is PickleShard else kind)(path, name, column)
        except InputError as told:
            really = mistaken(str(path)) if isinstance(path, Path) and os.path.isfile(path) else None
            error = told if really is None else InputError(f"{path}: {really}")
            if left_out is None and not isinstance(error, Unclear):
                if more := _leaving_out([str(path)], of_sets):
                    raise InputError(f"{error}{more}") from None
                raise error from told.__cause__
            return error

    def again(i: int, column: str) -> Shard | InputError:
        try:
            return open_one(files[i], names[i], replace(wanted, column=column))
        except InputError as error:
            return error

    if any(format_of(path).opens_whole for path in files):
        opened = [open_one(path, name) for path, name in zip(files, names, strict=True)]
    else:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(max_workers=min(_OPENERS, len(files))) as pool:
            opening = [pool.submit(open_one, path, name) for path, name in zip(files, names, strict=True)]
            try:
                opened = [future.result() for future in opening]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
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
    """Shards whose embeddings have one name in all, or usual ones. InputError for another name in some of them.

    A shard with nothing but nulls does not tell which of its columns the embeddings are; the others do.

    again   opens the shard with this number anew, its embeddings having this name
    option  how the user can name them
    """
    with_rows = [one for one in opened if isinstance(one, Shard) and one.rows and one.column is not None]
    names = Counter(one.column for one in with_rows)
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
    """What to add to a message on files of which one may not be of its set: a pattern that leaves it out."""
    for path in suspects:
        if path in of_sets and (pattern := leaving_out(of_sets[path], list(of_sets.values()))):
            return f"; {pattern} leaves {of_sets[path].name} out"
    return ""
