"""Which files a path, glob or folder names: the shards of a set in numeric order, and the root that their names start from."""

from __future__ import annotations

import errno
import glob
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path, PurePath

from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import count
from fastrealign.core.wording import option
from fastrealign.formats.faiss_index import FaissShard
from fastrealign.formats.hf_dataset import is_dataset, shards_of
from fastrealign.formats.manifest import JOURNAL
from fastrealign.formats.metadata import METADATA_FILE, SIDE_FOLDERS
from fastrealign.formats.registry import FORMATS, accepted, format_of
from fastrealign.formats.safetensors_files import own_kind
from fastrealign.formats.shard_sets import members
from fastrealign.formats.unsupported import next_step
from fastrealign.storage.files import reading
from fastrealign.storage.paths import AnyPath, Place, each, place, suffix_of
from fastrealign.storage.remote_session import SESSION
from fastrealign.storage.retry import Denied, Missing
from fastrealign.storage.url import Url

# Folders that are searched for a shard to name as an example.
_LOOKS = 64
# Of Hive, Spark, DuckDB, ...: the value of a column.
_PARTITION = re.compile("[^=]+=.*")
# Of Delta and Hudi.
_VERSIONED = ("_delta_log", ".hoodie")


def numeric_order(path: AnyPath) -> tuple[object, ...]:
    """A sort key: shard_2 before shard_10, folder by folder."""
    parts = PurePath(path).parts
    return tuple(
        tuple(int(piece) if at % 2 else piece for at, piece in enumerate(re.split("([0-9]+)", part))) for part in parts
    ), parts


def find_shards(spec: str, side: str) -> tuple[Place, Sequence[Place]]:
    """The shards of one path, glob or folder: (root that their names are relative to, files in order)."""
    path = place(spec)
    if not isinstance(path, Path):
        return _resolve_url(path, spec, side)
    if os.path.isdir(path) and not _is_one_shard(path):
        return path, shards_of(path) if is_saved_dataset(path) else _folder(path, side)
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
    """(folder before the first wildcard, pattern): first with existing folders taken literally, then without."""
    parts = pattern.parts
    there = next((at for at in range(len(parts) - 1, 0, -1) if os.path.lexists(Path(*parts[:at]))), 0)
    for known in dict.fromkeys((there, 0)):
        folder = Path(*parts[:known])
        root = folder.joinpath(*takewhile(lambda part: not glob.has_magic(part), parts[known:]))
        yield root, os.path.join(glob.escape(str(folder)) if known else "", *parts[known:])


def _resolve_url(url: Url, spec: str, side: str) -> tuple[Url, Sequence[Place]]:
    """`find_shards` for a URL. A name with the suffix of a format is taken for a file, which spares a request."""
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


def _is_one_shard(folder: Place) -> bool:
    kind = FORMATS.get(folder.suffix.lower())
    return kind is not None and kind.folder


def is_saved_dataset(path: Path) -> bool:
    return os.path.isdir(path) and not _is_one_shard(path) and is_dataset(path)


def _folder(folder: Place, side: str) -> list[Place]:
    """The shards of the set in a folder."""
    wanted = folder / SIDE_FOLDERS[side]
    entries, folders = _entries(folder)
    _check_finished(folder, entries)
    for name in _VERSIONED:
        if folder / name in folders:
            raise InputError(
                f"{folder}: is a table with versions ({name}/), and holds files of older ones too; name the files of one"
            )
    files = _shards_of(entries, entries, folder, side)
    partitions = [one for one in folders if _PARTITION.fullmatch(one.name)]
    if wanted in folders:
        # clip-retrieval keeps an index, image.index, beside the folders of embeddings, and a run its alignment.
        if any(format_of(path) is not FaissShard and not _is_own(path) for path in files):
            raise InputError(f"{folder}: holds shards and a folder {wanted.name}/; name the files or {wanted}")
        folder = wanted
        entries, folders = _entries(folder)
        files = _shards_of(entries, entries, folder, side)
    elif files and partitions:
        warn(f"{folder}: holds shards itself, so that those in {partitions[0].name}/ are not read", UserWarning)
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
            f"{folder}: holds no shards itself, but folders in it do, such as {below}; name one of these folders, or "
            f"all of them with the pattern {glob.escape(str(folder))}/**/{inside}*{below.suffix}"
        )
    if not files:
        raise InputError(f"{folder}: holds no {_instead(entries, folders, 'shards')}")
    return files


def _check_finished(folder: Place, entries: Sequence[Place]) -> None:
    """InputError for the output of a run that is not finished: rows are missing in it."""
    of_run = folder.parent if folder.name in SIDE_FOLDERS.values() and _has_journal(folder.parent) else folder
    if of_run is folder and folder / JOURNAL not in entries:
        return
    again = f"repeat its command with {option('resume', True)} (convert: with {option('overwrite', True)})"
    there = min((path for path in entries if _is_shard(path) and not _is_own(path)), key=numeric_order, default=None)
    pattern = f", or read what is there with {glob.escape(str(folder))}/*{there.suffix}" if there else ""
    raise InputError(f"{of_run}: holds an unfinished run, so rows are missing; {again}{pattern}")


def _has_journal(folder: Place) -> bool:
    with suppress(Denied):  # a server may show a folder and not the one that it lies in
        return (folder / JOURNAL).exists()
    return False


def _in_folders(folders: list[Place]) -> Iterator[Place]:
    """Everything in folders and in those within them."""
    for entries, inner in each(_entries, folders, several=not isinstance(folders[0], Path)):
        yield from entries
        if inner := [one for one in inner if _is_searched(one)]:
            yield from _in_folders(inner)


def _below(folders: list[Place], side: str) -> Place | None:
    """A shard in one of the folders or not far below them; in a clip-retrieval layout, one of this side."""
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
    """Whether shards may lie in it: not in hidden folders, those of Spark (_temporary), and what is itself a shard."""
    return not folder.name.startswith((".", "_")) and not _is_one_shard(folder)


def _instead(found: Sequence[Place], folders: Collection[Place], wanted: str) -> str:
    """The end of a message after "no": what was found instead of shards, and how to convert it."""
    others = Counter(suffix_of(str(path)) for path in found if not path.name.startswith(".") and path not in folders)
    for suffix, number in others.most_common():
        example = min((path for path in found if suffix_of(str(path)) == suffix), key=numeric_order)
        step = next_step(str(example))
        if step is not None:
            files = count(number, f"{suffix} file")
            return f"{wanted} ({accepted()} files), but {files}; of {example.name}: {step}"
    return f"{wanted}; expected {accepted()} files, or the folders img_emb/ and text_emb/"


def _check_there(path: Path) -> None:
    """InputError if nothing has that name; it names one that is nearly the same."""
    try:
        with reading(path):
            os.lstat(path)
    except InputError as error:
        near = []
        with suppress(OSError):
            import difflib

            near = difflib.get_close_matches(path.name, os.listdir(path.parent), 1, 0.7)
        raise InputError(f"{error}{f'; did you mean {path.parent / near[0]}?' if near else ''}") from None


def _entries(folder: Place) -> tuple[list[Place], list[Place]]:
    """The entries of a folder, and those of them that are folders."""
    found: dict[Place, bool] = {}
    try:
        if isinstance(folder, Path):
            with reading(folder):
                found = {folder / entry.name: _is_folder(entry) for entry in os.scandir(folder)}
        else:
            for name, facts in folder.entries():
                found[folder / name] = facts.kind == "directory"
                SESSION.note_listed(str(folder / name), facts)
    except Missing:
        raise InputError(f"{folder}: no such file or folder") from None
    return list(found), [path for path in found if found[path]]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with reading(entry.path):
        try:
            return entry.is_dir()
        except OSError as error:
            if error.errno != errno.ELOOP:  # a link to itself is no folder; if it is read, the error names it
                raise
            return False


def _is_shard(path: Place) -> bool:
    """By its name."""
    return path.suffix.lower() in FORMATS and not path.name.startswith(".")


def _shards_of(paths: Sequence[Place], listed: Sequence[Place], where: str | Place, side: str) -> list[Place]:
    """The shards of the set, in order, without metadata files, saved alignments and hidden files.

    listed   everything in their folder, where that is known
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
    """Whether fastrealign saved it: an alignment or the like."""
    return path.suffix.lower() == ".safetensors" and own_kind(path) is not None


def common_folder(files: list[Place]) -> Place:
    """The deepest folder with all files of a list, none of which may be named twice."""
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
        raise InputError(
            f"{urls[0]}: is on another server or disk than others of the list; name files of one at a time"
        )
    parents = [str(url.parent).partition("://")[2].split("/") for url in urls]
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*parents, strict=False))
    return place(f"{urls[0].scheme}://{'/'.join(parts[0] for parts in same)}")


def relative_name(path: Place, root: Place) -> str:
    if isinstance(path, Path) or isinstance(root, Path):
        return Path(os.path.relpath(path, root)).as_posix()
    return path.relative_to(root).as_posix()
