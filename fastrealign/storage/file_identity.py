"""Whether two names refer to one file: links, other spellings of a URL, relative paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from pathlib import Path

from fastrealign.storage.paths import AnyPath, place, places_of


def real(path: AnyPath) -> str:
    """One spelling for all names of a place: links are resolved, a URL is in its canonical form."""
    at = place(path)
    return os.path.realpath(at) if isinstance(at, Path) else at.canonical


def identities(path: AnyPath, folders: Callable[[str], str] = os.path.realpath) -> list[Hashable]:
    """Keys of a file that do not depend on its name; two names that share a key are one file.

    The last key is the most exact: (device, inode) of an existing local file, or a URL with its query, which may be a signature
    or select the file. A chained URL ("zip://a.npy::s3://x.zip") has the keys of each place.

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
