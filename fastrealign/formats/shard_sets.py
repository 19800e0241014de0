"""Which files of a folder are the shards of one set, by their names.

Files known not to be shards are left out with a warning. Files that would count rows twice (copies, all shards in one file) are
an error. Files unlike the others (mean.npy, a second split) are read with a warning. Files that the user names one by one are
read as they are.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np

from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import count
from fastrealign.formats.base import Shard
from fastrealign.formats.choose_column import SPLITS
from fastrealign.formats.manifest import MANIFEST
from fastrealign.formats.shard_names import Name, copied_from, pattern_of
from fastrealign.storage.file_identity import identities
from fastrealign.storage.paths import Place, folder_of, place

# Caches that the package datasets keeps next to the data.
_KEPT = "kept by the package datasets for rows that lie in other files of its folder"
_CACHED = re.compile(r"cache-.+\.arrow|tmp\w{8}\.arrow|(?:.+[-_.])?indices\.arrow")
_MERGED = {"all", "combined", "concat", "concatenated", "full", "merged"}
_SIDE_WORDS = {
    "source": {"caption", "captions", "text", "texts", "txt"},
    "target": {"image", "images", "img", "imgs", "vision", "visual"},
}
_SIDE_WORD = re.compile(rf"(?<![a-z])(?:{'|'.join(word for words in _SIDE_WORDS.values() for word in words)})(?![a-z])")
_LISTED = 3


def members(files: list[Place], listed: Sequence[Place], side: str) -> list[Place]:
    """The files that belong to the set, of those with the suffix of a shard.

    listed  everything in their folder, where that is known
    Raises InputError where rows would count twice.
    """
    names = {path.name for path in listed}
    files = _without(files, _KEPT, lambda path: _CACHED.fullmatch(path.name))
    files = _without(
        files, "written by a run that has its manifest beside it", lambda path: f"{path.name}.{MANIFEST}" in names
    )
    if len({_fingerprint(path) for path in files if _CACHED.fullmatch(path.name)}) > 1:
        raise InputError(f"{files[0]}: is one of several results that the package datasets kept; name the one to take")
    files = _of_side(files, side)
    if why := next(counted_twice(files), None):
        raise InputError(why)
    return files


def counted_twice(files: Sequence[Place]) -> Iterator[str]:
    """A message for each file that by its name repeats rows of others of its folder."""
    for of_it in _by_folder(files, str):
        cached = [path for path in of_it if _CACHED.fullmatch(path.name)]
        if 0 < len(cached) < len(of_it):
            yield f"{cached[0]}: {_KEPT}; the rows would count twice"
        stems = {path.stem: path for path in of_it}
        made = {stem: found for stem in stems if (found := copied_from(stem)) is not None}
        versions: dict[str, str] = {}
        for stem, (base, version) in made.items():
            other = base if base in stems else versions.setdefault(base, stem) if version else stem
            if other != stem:
                yield (
                    f"{stems[stem]}: by its name a copy or another version of {stems[other].name}, whose rows would count "
                    f"twice; {_instead(stems[stem], _alike(of_it)[Name.of(other).template], of_it)}"
                )
        most = max(_alike(of_it).values(), key=len)
        for path in of_it if len(most) > 1 and Name.of(most[0].stem).numbers else ():
            if _words(path.name) & _MERGED and Name.of(path.stem).template != Name.of(most[0].stem).template:
                yield (
                    f"{path}: by its name holds the rows of others of its folder, such as {most[0].name}, which would "
                    f"count twice; {_instead(path, most, of_it)}"
                )


def warn_of_outsiders(shards: Sequence[Shard]) -> None:
    """Warn of shards that look like those of another set; InputError for one that holds all rows of the others."""
    for of_it in _by_folder(shards, lambda shard: shard.path):
        splits = {split: shard for shard in reversed(of_it) for split in _splits(shard.name)}
        if len(splits) > 1:
            examples = ", ".join(place(shard.path).name for shard in splits.values())
            warn(
                f"{folder_of(of_it[0].path)}: holds the splits {', '.join(sorted(splits))} ({examples}), which are read as "
                "one set; name one with a pattern if that is not meant",
                UserWarning,
            )
            continue
        by_path = {place(shard.path): shard for shard in of_it}
        alike = _alike(by_path)
        most = max(alike.values(), key=len)
        others = [path for one in alike.values() if one is not most and len(one) == 1 for path in one]
        if len(most) < 2 or not 0 < len(others) < len(most):
            continue
        rows = sum(by_path[path].rows for path in most)
        first = _first_row(by_path[most[0]]) if any(by_path[path].rows == rows for path in others) else None
        for path in others:
            if first is not None and by_path[path].rows == rows and _first_row(by_path[path]) == first:
                raise InputError(
                    f"{path}: has the rows of {count(len(most), 'other')} of its folder, such as {most[0].name}, "
                    "which would count "
                    f"twice; {_instead(path, most, list(by_path))}"
                )
        if len(most) > 2:
            names = ", ".join(path.name for path in others[:_LISTED])
            more = f" and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
            warn(
                f"{folder_of(str(others[0]))}: {names}{more}: read as part of one set with the {len(most)} named like "
                f"{most[0].name}; if that is not meant, {_instead(others[0], most, list(by_path))}",
                UserWarning,
            )


def warn_of_links(shards: Sequence[Shard]) -> None:
    """Warn of one file under two names (latest.npy, a link to shard_7.npy)."""
    first: dict[Hashable, Shard] = {}
    twice: list[tuple[Shard, Shard]] = []
    for shard in shards:
        if shard.rows and isinstance(place(shard.path), Path):
            one = first.setdefault(identities(shard.path)[-1], shard)
            if one is not shard:
                twice.append((shard, one))
    if twice:
        (shard, one), more = twice[0], f" (and {len(twice) - 1:,} more)" if len(twice) > 1 else ""
        warn(
            f"{shard.path}{more}: is the file {one.path} under another name, so that its rows count twice; leave one out if "
            "that is not meant",
            UserWarning,
        )


def leaving_out(path: Place, files: Sequence[Place]) -> str | None:
    """A pattern for the files of a folder that share a template, without this one; None if it has the same template."""
    of_it = [one for one in files if folder_of(str(one)) == folder_of(str(path))]
    most = max(_alike(of_it).values(), key=len)
    return None if len(most) < 2 or path in most else _pattern(most, [path])


def _without(files: list[Place], kind: str, is_one: Callable[[Place], object]) -> list[Place]:
    """The files without those of this kind, with a warning; all of them where there are no others."""
    out = [path for path in files if is_one(path)]
    if not 0 < len(out) < len(files):
        return files
    more = f" and {len(out) - 1:,} more" if len(out) > 1 else ""
    warn(f"{out[0]}{more}: left out, {kind}; name it to have it read", UserWarning)
    return [path for path in files if path not in set(out)]


def _of_side(files: list[Place], side: str) -> list[Place]:
    """The files of one side, where a folder has both and their names differ in the word for the side alone ("text", "img").

    Where names differ in more (visual_genome, conceptual_captions), both may be of one side: an error, not a guess.
    """
    kept = set()
    for of_it in _by_folder(files, str):
        sides = [{one for one, words in _SIDE_WORDS.items() if _words(path.name) & words} for path in of_it]
        found = {one: [path for path, of in zip(of_it, sides, strict=True) if of == {one}] for one in _SIDE_WORDS}
        if all(found.values()):
            texts, images = (
                {_SIDE_WORD.sub("", Name.of(path.stem.lower()).template) for path in of} for of in found.values()
            )
            if sum(map(len, found.values())) < len(of_it) or not (texts <= images or images <= texts):
                text, image = (one[0].name for one in found.values())
                raise InputError(
                    f"{of_it[0].parent}: by their names some files may be of texts and some of images ({text}, {image}); "
                    f"name all those of the {side} one by one, or with a pattern that matches no others"
                )
        kept.update(found[side] if all(found.values()) else of_it)
    return [path for path in files if path in kept]


def _alike(files: Iterable[Place]) -> dict[str, list[Place]]:
    """The files by the template of their names."""
    found: dict[str, list[Place]] = {}
    for path in files:
        found.setdefault(Name.of(path.stem).template, []).append(path)
    return found


def _instead(path: Place, others: Sequence[Place], of_it: Sequence[Place]) -> str:
    """How the user can have `others`, files of the same folder, read without `path`."""
    pattern = _pattern(others, [one for one in of_it if one not in others])
    return f"{pattern} leaves it out" if pattern else "move it elsewhere, or name the files one by one"


def _pattern(files: Sequence[Place], others: Sequence[Place]) -> str | None:
    pattern = pattern_of([path.name for path in files], [path.name for path in others])
    return pattern and os.path.join(glob.escape(folder_of(str(files[0]))), pattern)


def _by_folder(of: Sequence, path: Callable) -> Iterator[list]:
    of = sorted(of, key=lambda one: folder_of(path(one)))  # a stable sort: the order within a folder stays
    yield from (list(of_it) for _, of_it in groupby(of, key=lambda one: folder_of(path(one))))


def _words(name: str) -> set[str]:
    return set(re.split("[^a-z]+", PurePosixPath(name).stem.lower()))


def _splits(name: str) -> set[str]:
    """The split that a name has; none if it has words for several."""
    found = {SPLITS[word] for word in _words(PurePosixPath(name).name) if word in SPLITS}
    return found if len(found) == 1 else set()


def _fingerprint(path: Place) -> str:
    """The fingerprint in the name of a cached result, shared by the parts that several processes made."""
    return re.sub(r"_\d+_of_\d+$", "", path.stem)


def _first_row(shard: Shard) -> bytes | None:
    try:
        return next((np.array(rows[:1]).astype(np.float64).tobytes() for rows in shard.chunks(1)), None)
    except InputError:  # reported when it is read
        return None
    finally:
        shard.close()
