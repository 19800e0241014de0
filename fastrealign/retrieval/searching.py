"""Search in a store whose rows are aligned: the query is aligned on its way."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import numpy as np

from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.rows import as_rows
from fastrealign.core.text import shown
from fastrealign.core.wording import option
from fastrealign.formats.table_objects import take
from fastrealign.methods.baseline import unit_rows
from fastrealign.methods.method import Method
from fastrealign.retrieval.array_arguments import ArrayLike
from fastrealign.retrieval.role_maps import RoleMaps, RolesLike
from fastrealign.retrieval.stores.base import Found, Store, StoreOptions, as_objects, check_unit
from fastrealign.retrieval.stores.opening import open_store
from fastrealign.storage.paths import is_path


def search_call(store: str, roles: RolesLike, maps: RoleMaps, options: StoreOptions) -> tuple[str, str]:
    """The call that searches what `index` wrote with these options, and a line on query_role.

    Its query_role is "query" where there is such a role, else the first; of one map for all rows its name.
    """
    role = "query" if "query" in maps.maps else next(iter(maps.maps))
    given = [repr(str(roles)) if is_path(roles) else "roles", f"query_role={role!r}"]
    given += [f"{name}={value!r}" for name, value in vars(options).items() if value is not None]
    call = f"fastrealign.retrieval.searcher({store!r}, {', '.join(given)}).search(queries, k=10)"
    return shown(call), _queries_of_one(maps.method) if maps.single else f"give their role: {', '.join(maps.maps)}"


def _queries_of_one(method: str) -> str:
    """Which query_role, where there is one map for all rows."""
    return (
        f"give query_role={method!r} for queries of the side that it maps (such as text), query_role=None for those of its "
        "target (such as images, or a new encoder)"
    )


class Searcher:
    """Maps queries and searches the aligned vectors of one store; made by `searcher`. A context manager.

    Attributes
    ----------
    store : str
        As the user named it.
    role : str or None
        The role of the queries; None: they are only made unit rows.
    """

    def __init__(self, store: Store, method: Method, role: str | None, record: dict[str, Any]) -> None:
        self.store, self.role = shown(store.where), role
        self._opened, self._method, self._record = store, method, record

    def search(self, queries: ArrayLike, k: int = 10) -> Found:
        """The k nearest rows of each query, by cosine similarity.

        Parameters
        ----------
        queries : array (n, dim), or one vector (dim,)
            As the encoder gives them, not aligned.
        k : int, default 10
            Rows a query.

        Returns
        -------
        Found
            `ids` and `scores` (n, k), best first; `roles` (n, k), the role of each row. Where fewer than k rows are found, the
            last ids are None, and their scores -inf.

        Raises
        ------
        InputError
            For queries of another width than the roles were fitted on.
        BadRowsError
            For a query without a direction.
        """
        if k < 1:
            raise InputError(f"k={k}: expected at least 1")
        taken = take(queries, "queries")
        rows = as_rows(taken.rows[None] if taken.rows.ndim == 1 else taken.rows, "queries")
        self._method.check_width(rows.shape[1], "queries")
        mapped = np.empty((len(rows), self._method.dim_out), np.float32)
        state = self._method.apply(rows, mapped)
        if state.bad:
            raise BadRowsError(
                f"queries: row {state.first_bad} {taken.why(state)}; leave out the queries without a direction"
            )
        found = self._opened.search(mapped, k, self._record["role_column"])
        if found.roles is None:
            named = [[None if one is None else self._record["role"] for one in row] for row in found.ids]
            return found._replace(roles=as_objects(named, k))
        return found

    def close(self) -> None:
        """Let go of the store."""
        self._opened.close()

    def __enter__(self) -> Searcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def searcher(
    store: str | os.PathLike[str],
    roles: RolesLike,
    query_role: str | None = "query",
    *,
    table: str | None = None,
    column: str | None = None,
    to: str | None = None,
    id_column: str | None = None,
) -> Searcher:
    """Search in a store that `index` has aligned.

    Parameters
    ----------
    store, table, column, to, id_column
        As `index` takes them; of FAISS, store may also be the new index. The ids of what is found are the values of id_column.
    roles : Roles, method or path
        What the store was indexed with.
    query_role : str or None, default "query"
        The role of the queries; where the store was indexed with one method, its name ("realign") maps them as the rows.
        None: they are only made unit rows, such as those of a new encoder in a store that a map from pairs brought to it.

    Returns
    -------
    Searcher

    Raises
    ------
    InputError
        For aligned vectors that are not there, not complete, or made with other roles; for an unknown role of the
        queries; and for a metric other than cosine on rows that are not of unit length.

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
    >>> _ = fr.retrieval.index("images.faiss", roles, role="image")
    >>> with fr.retrieval.searcher("images.faiss", roles) as search:
    ...     search.search(text[:2], k=1).ids.tolist()
    [[0], [13]]
    """
    maps = RoleMaps.of(roles)
    known = None if query_role is None else maps.known(query_role, _queries_of_one(maps.method))
    method = unit_rows(maps.dim_out) if known is None else maps.maps[known]
    opened = open_store(store, StoreOptions(table, column, to, id_column))
    try:
        record = opened.record()
        if record is None:
            raise InputError(
                f"{opened.where}: there is no {opened.target} as `fastrealign index` writes it; run that first, or name "
                f"what it wrote with {option('to')}"
            )
        if record["fingerprint"] != maps.fingerprint:
            raise InputError(
                f"{opened.where}: {opened.target} was made with other roles ({record['fingerprint'][:8]}, these are "
                f"{maps.fingerprint[:8]}); give those, or index again with {option('restart', True)}"
            )
        check_unit(opened)
    except BaseException:
        opened.close()
        raise
    return Searcher(opened, method, query_role, record)
