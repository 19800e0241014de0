"""Whether two names stand for one file: links, other spellings of a URL, relative paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path

from fastrealign.storage.paths import AnyPath, place, places_of


def real(path: AnyPath) -> str:
    """One spelling for all names of a place: links are followed, a URL is in its canonical form."""
    at = place(path)
    return os.path.realpath(at) if isinstance(at, Path) else at.canonical


def identities(path: AnyPath, folders: Callable[[str], str] = os.path.realpath) -> list[Hashable]:
    """What a file is known by, whatever its name; two names that share one of these are one file.

    The last one tells most: (device, inode) of a local file that exists, and of a URL its query too, which may be a signature
    or say which file is meant. Of a chained URL ("zip://a.npy::s3://x.zip") each place counts.

    folders   follows the links of a folder's path; cached where there are many files
    """
    found: list[Hashable] = []
    for one in places_of(path):
        at = place(one)
        if not isinstance(at, Path):
            found += [at.canonical, *([(at.canonical, at.query)] if at.query else [])]
            continue
        folder, name = os.path.split(os.path.abspath(at))
        found.append(os.path.realpath(at) if os.path.islink(at) else os.path.join(folders(folder), name))
        try:
            status = os.stat(at)
        except OSError:
            continue
        if status.st_ino:  # some file systems have none
            found.append((status.st_dev, status.st_ino))
    return found
