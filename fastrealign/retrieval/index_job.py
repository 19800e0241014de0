"""Add an aligned vector to every row of a store of vectors, in batches; a killed run resumes where it was."""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import closing
from typing import Any

from fastrealign.core.errors import InputError, warn
from fastrealign.core.formatting import count, does
from fastrealign.core.progress import SILENT, Progress
from fastrealign.core.text import brief, meant, shown
from fastrealign.core.wording import option
from fastrealign.data.options import check_choice
from fastrealign.jobs.job import Interrupted
from fastrealign.retrieval.index_report import IndexReport
from fastrealign.retrieval.role_maps import Mapper, RoleMaps, RolesLike
from fastrealign.retrieval.searching import search_call
from fastrealign.retrieval.stores.base import Store, StoreOptions, check_unit
from fastrealign.retrieval.stores.opening import open_store

# "keep" would put rows of any length among unit rows.
_BAD_ROWS = ("error", "skip")
_NAMED = 5


def index(
    store: str | os.PathLike[str],
    roles: RolesLike,
    *,
    role: str | None = None,
    role_column: str | None = None,
    table: str | None = None,
    column: str | None = None,
    to: str | None = None,
    id_column: str | None = None,
    bad_rows: str = "error",
    restart: bool = False,
    drop_old: bool = False,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> IndexReport:
    """Add an aligned vector to every row of a store of vectors, beside the vector that is there.

    Rows are read, mapped and written in batches. A run that was interrupted or killed resumes where it was when it is started
    again; so does one after rows were added, or given another vector or role: rows that are written are mapped again and
    compared, and the role that each was mapped with is stored beside its aligned vector. What is written is never read as a
    source.

    Parameters
    ----------
    store : str or path
        A FAISS index file, a LanceDB folder or table, a Qdrant folder or URL, a postgresql:// URL.
    roles : Roles, method or path
        What `fit_roles` or `fit` made, or the file that it was saved to.
    role : str, optional
        The role of all rows, where there is no role_column.
    role_column : str, optional
        The column whose value names the role of each row; of FAISS, a .npy file with a role a row, or a .json file of roles and
        ranges of ids: {"text": [0, 5000], "image": [5000, 9000]}.
    table : str, optional
        The table or collection, where the store holds several.
    column : str, optional
        The vector to read, where rows have several.
    to : str, optional
        The name of the aligned vector, by default that of the vector with "_aligned"; of FAISS, the new file.
    id_column : str, optional
        The column that names rows in messages.
    bad_rows : {"error", "skip"}
        A row without a direction (NaN, Inf, zero): "error" stops and names it, "skip" leaves its aligned vector empty.
    restart : bool, default False
        Remake aligned vectors that were made with other roles.
    drop_old : bool, default False
        Remove the vectors that were read when all rows are written.
    threads : int, optional
        CPU threads; by default one per core.
    progress : Progress
        Called as rows are written; by default nothing is shown.

    Returns
    -------
    IndexReport

    Raises
    ------
    InputError
        For a store, table, column or role that is not there (the nearest is suggested), vectors that were dropped, rows of
        another width than the roles, values of the role column that are no roles (counted and named), and aligned vectors that
        were made with other roles.
    BadRowsError
        For a row without a direction, where bad_rows is "error".
    FastRealignError
        For a store that does not answer, is locked, or refuses a write.

    Examples
    --------
    >>> import faiss, numpy as np
    >>> import fastrealign as fr
    >>> things = np.random.default_rng(0).standard_normal((50, 8)).astype("float32")
    >>> text, images = things + 1, things - 1
    >>> roles = fr.fit_roles({"query": text, "image": images}, anchor="image")
    >>> store = faiss.IndexFlatIP(8)
    >>> store.add(images)
    >>> faiss.write_index(store, "images.faiss")
    >>> fr.retrieval.index("images.faiss", roles, role="image").rows
    50
    """
    check_choice("bad_rows", bad_rows, _BAD_ROWS)
    begun = time.monotonic()
    maps = RoleMaps.of(roles)
    role = _role(maps, role, role_column)
    options = StoreOptions(table, column, to, id_column)
    with closing(open_store(store, options)) as opened:
        readable = opened.has_source()
        if readable:
            _check_widths(opened, maps)
        elif restart or opened.record() is None:
            raise InputError(
                f"{opened.where}: {opened.column} is gone, so there is nothing to make {opened.target} from; add the vectors "
                f"again, or leave {option('restart')} and {option('to')} out"
            )
        if role_column is not None:
            _check_values(opened, role_column, maps)
        _begin(opened, maps, role, role_column, restart)
        mapper = Mapper(opened.where, maps, role, bad_rows, threads, progress)
        pending, before = opened.pending()
        try:
            if readable:
                with progress.running("indexing", pending + before):
                    opened.fill(mapper, role_column)
                    # Rows that a store leaves as they are, without a look at them.
                    mapper.advance(max(0, pending + before - mapper.advanced), 0)
        except KeyboardInterrupt:
            raise _interrupted(opened, before, restart) from None
        _warn_of_gone(opened, 0 if readable else pending, mapper.bare)
        check_unit(opened)
        dropped = _drop_old(opened, mapper.skipped) if drop_old and readable else ""
        return IndexReport(
            shown(opened.where),
            opened.target,
            sum(mapper.counts.values()),
            before - mapper.since,
            mapper.skipped,
            {name: n for name, n in mapper.counts.items() if n},
            maps.fingerprint,
            time.monotonic() - begun,
            dropped,
            mapper.since,
            *search_call(opened.where, roles, maps, options),
        )


def _warn_of_gone(store: Store, unmapped: int, bare: int) -> None:
    """Of rows whose vector is gone: those without an aligned one, as all vectors are gone, and those that keep theirs."""
    if unmapped:
        warn(
            f"{store.where}: {count(unmapped, 'row', 'have')} no aligned vector, or one of another role, and "
            f"{store.column} is gone; add the vectors again to have them mapped"
        )
    if bare:
        warn(
            f"{store.where}: {count(bare, 'row')} without a vector in {store.column}, which was emptied since: "
            f"the aligned vector stays, and searches find it; empty {store.target} where they should not"
        )


def _drop_old(store: Store, skipped: int) -> str:
    """Remove the vectors that were read, unless some are not mapped; what was removed."""
    if not skipped:
        return store.drop_old()
    warn(f"{store.where}: the old vectors stay, since {count(skipped, 'row')} could not be mapped")
    return ""


def _interrupted(store: Store, before: int, restart: bool) -> Interrupted:
    """What is in the store, and how to resume. `before`: rows that had an aligned vector when the run began."""
    left, done = store.pending()
    if not done and store.keeps_earlier():
        return Interrupted(
            f"interrupted; nothing new is written, the earlier aligned vectors in {store.target} stay; "
            "run the same command again"
        )
    if not done:
        return Interrupted(f"interrupted; no aligned vector of {store.where} is written; run the same command again")
    said = (
        f"interrupted; {done:,} of {count(done + left, 'row')} of {store.where} {does(done, 'have')} an aligned vector"
    )
    if before:
        said += " (where the vector was changed since, it is out of date until the next run makes it again)"
    again = f"again without {option('restart', True)}" if restart else "again"
    return Interrupted(f"{said}; run the same command {again} to resume")


def _role(maps: RoleMaps, role: str | None, role_column: str | None) -> str | None:
    if role is not None and role_column is not None:
        raise InputError(f"{option('role')} and {option('role_column')} contradict each other; give one of them")
    if role_column is not None:
        if maps.single:
            raise InputError(
                f"{role_column}: {maps.method} is one map for all rows, not a file of roles; leave "
                f"{option('role_column')} out"
            )
        return None
    if role is None:
        if len(maps.maps) > 1:
            raise InputError(
                f"the roles are {', '.join(maps.maps)}: name the column that holds them ({option('role_column')}), "
                f"or the one of all rows ({option('role')})"
            )
        return next(iter(maps.maps))
    return maps.known(role, f"leave {option('role')} out")


def _check_widths(store: Store, maps: RoleMaps) -> None:
    for role, method in maps.maps.items():
        if method.numbered:
            raise InputError(f"{role}: {method.name} adds noise by the number of a row, which a store does not keep")
        if method.dim != store.dim:
            raise InputError(
                f"{store.where}: the vectors of {store.column} are {store.dim} wide, the roles were fitted on {method.dim}; "
                "choose another column, or fit roles on vectors of this encoder"
            )


def _check_values(store: Store, role_column: str, maps: RoleMaps) -> None:
    values = store.role_values(role_column)
    unknown = Counter({value: n for value, n in values.items() if value not in maps.maps})
    if not unknown:
        return
    named = [
        f"{'empty' if value is None else brief(value)} ({n:,}{meant(str(value), maps.maps).rstrip('?')})"
        for value, n in unknown.most_common(_NAMED)
    ]
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    raise InputError(
        f"{store.where}: {role_column} of {count(sum(unknown.values()), 'row')} is no role: {', '.join(named)}{more}; the "
        f"roles are {', '.join(maps.maps)}; correct {role_column}, or fit roles of these names"
    )


def _asked(record: dict[str, Any], name: str) -> str:
    """What a record says of the width, the column or the roles of rows, in words."""
    if name == "dim":
        return f"a width of {record.get(name)}"
    if name == "column":
        return f"the vectors of {record.get(name)}"
    if record.get("role_column") is not None:
        return f"the roles in {record['role_column']}"
    return f"role {record.get('role')!r} for all rows"


def _begin(store: Store, maps: RoleMaps, role: str | None, role_column: str | None, restart: bool) -> None:
    """Make the target, or see that the one that is there was made with the same roles."""
    record: dict[str, Any] = {
        "fingerprint": maps.fingerprint,
        "method": maps.method,
        "dim": maps.dim_out,
        "column": store.column,
        "role": role,
        "role_column": role_column,
    }
    there = store.record()
    if there is not None and restart:
        store.restart(record)
    elif there is not None:
        other = next((name for name in record if there.get(name) != record[name]), None)
        if other is None:
            return
        if other in ("fingerprint", "method"):
            what = f"other roles ({there.get('method')}, {str(there.get('fingerprint'))[:8]}; now {record['fingerprint'][:8]})"
        else:
            what = f"{_asked(there, other)}, now {_asked(record, other)} is asked for"
        raise InputError(
            f"{store.where}: {store.target} was made with {what}; remake it with {option('restart', True)}, or name another "
            f"with {option('to')}"
        )
    store.begin(record, maps.dim_out)
