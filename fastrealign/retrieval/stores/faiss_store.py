"""FAISS index files. The index is rebuilt with mapped rows and written to a second file beside it, whole or not at all.

ReAlign's map is not affine, so it acts where rows are added and where they are searched, not inside the index. Rows are
reconstructed; of compressed indexes (PQ, SQ, PCA) those are approximations. What such an index and inverted lists learn, they
learn from a sample of the mapped rows. Ids stay. faiss holds an index in memory: the new one takes as much as the old
one, which is read through a memory map.

Beside the new index lies its record, NAME.roles.safetensors, which knows the index by its size and ends.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastrealign.core.errors import FastRealignError, InputError, shortage, warn
from fastrealign.core.formatting import count
from fastrealign.core.optional import optional
from fastrealign.core.text import one_line
from fastrealign.core.wording import option
from fastrealign.formats.saved_tensors import OtherKind, load_tensors, save_tensors
from fastrealign.retrieval.stores.base import (
    Align,
    Batch,
    Found,
    StoreOptions,
    batch_rows,
    cosines,
    disk_trouble,
)
from fastrealign.retrieval.stores.faiss_parts import (
    FLAT,
    LEARNT_ROWS,
    ROWS_A_CENTROID,
    aligns,
    clusterings,
    filled,
    ids_of,
    inner,
    is_exact,
    learns,
    learnt,
    rows_of,
)
from fastrealign.retrieval.stores.faiss_roles import roles_of
from fastrealign.storage.atomic import AtomicFile
from fastrealign.storage.fingerprint import FileFingerprint

_KIND = "index record"
# What files of binary indexes begin with.
_BINARY = b"IB"
# What files of lattices (ZnLattice) begin with: faiss writes no rows to them, and does not read them.
_LATTICE = b"IxLa"
# Inner indexes that are built from all rows at once.
_AT_ONCE = ("IndexNSG", "IndexNNDescent")


class FaissStore:
    """One index file."""

    column = "the index"

    def __init__(self, location: str, options: StoreOptions) -> None:
        self._faiss = optional("faiss", "faiss", f"{location}: FAISS")
        self.where = location
        source = Path(location)
        given = {"table": options.table, "column": options.column, "id_column": options.id_column}
        if (name := next((name for name, value in given.items() if value is not None), None)) is not None:
            raise InputError(f"{location}: a FAISS index has none of what {option(name)} names; leave it out")
        self._made = _is_made(source)
        # What `index` wrote is its own target, so that a searcher opens it by its name.
        beside = location if self._made else str(source.with_name(f"{source.stem}.aligned{source.suffix}"))
        self.target = options.to or beside
        if Path(self.target).resolve() == source.resolve() and not self._made:
            raise InputError(f"{location}: {option('to')} names the index itself; name another file")
        self._new = Path(self.target)
        self._codes, self._names = np.zeros(0, np.uint8), list[str]()
        self._found_roles = self._codes, self._names
        if not source.exists() and not self._new.exists():
            raise InputError(f"{location}: no such file")
        self._begun: dict[str, Any] | None = None
        self._replaces = False
        self._index = self._read(source, self._faiss.IO_FLAG_MMAP_IFC) if source.exists() else None
        self._found = self._index if self._index is not None else self._new_index
        self.dim, self._total = self._found.d, self._found.ntotal
        if aligns(self._found):
            raise InputError(f"{location}: aligns rows where they are added (to_faiss); there is nothing left to do")
        metrics = {self._faiss.METRIC_INNER_PRODUCT: "dot", self._faiss.METRIC_L2: "l2"}
        if self._found.metric_type not in metrics:
            raise InputError(f"{location}: the metric is neither the inner product nor L2; use one of them")
        self.metric = metrics[self._found.metric_type]

    def record(self) -> dict[str, Any] | None:
        if self._begun is not None:
            return self._begun
        if not _is_made(self._new):
            return None
        tensors, meta = load_tensors(_beside(self._new), _KIND)
        self._found_roles = tensors.get("codes", self._codes), meta["names"]
        return meta["record"]

    def has_source(self) -> bool:
        if self._made:
            raise InputError(f"{self.where}: is what `fastrealign index` aligned; name the index that it was made from")
        return self._index is not None

    def role_values(self, column: str) -> Counter[Any]:
        self._codes, self._names = roles_of(column, ids_of(self._found), self.where)
        counts = np.bincount(self._codes, minlength=len(self._names)).tolist()
        return Counter({name: n for name, n in zip(self._names, counts, strict=True) if n})

    def begin(self, record: Mapping[str, Any], dim: int) -> None:
        if self._new.exists() and not self._replaces:
            raise InputError(
                f"{self.target}: is there already, and no record of `index` beside it; name another with {option('to')}"
            )
        _check_place(_beside(self._new))
        self._begun, self._dim_out = dict(record), dim

    def restart(self, record: Mapping[str, Any]) -> None:
        self._replaces = True  # at the end of the run

    def pending(self) -> tuple[int, int]:
        if self._index is None:
            return 0, self._found.ntotal
        made_of = self._begun is None and self.record() and load_tensors(_beside(self._new), _KIND)[1]["source"]
        return (0, self._index.ntotal) if made_of and made_of == self._source() else (self._index.ntotal, 0)

    def fill(self, align: Align, role_column: str | None) -> None:
        record = self.record()
        if record is None or (self.pending()[0] == 0 and self._begun is None):
            return
        if role_column is not None and not len(self._codes):
            self.role_values(role_column)
        dim = self._dim_out if self._begun is not None else self._new_index.d
        try:
            self._new.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise InputError(
                f"{self._new.parent}: is a file, expected a folder; name another with {option('to')}"
            ) from None
        with self._explained(self.target):
            kept = _Kept([], [])
            made = self._with_ids(self._built(self._mapped(align, kept), dim), kept)
        with AtomicFile(self._new) as file:
            with self._explained(self.target):
                self._faiss.write_index(made, str(file.temporary))
            meta = {"kind": _KIND, "record": record, "names": self._names, "source": self._source()}
            meta["index"] = FileFingerprint.of(file.temporary).to_json()
            save_tensors(
                _beside(self._new),
                {} if role_column is None else {"codes": np.concatenate([np.zeros(0, np.uint8), *kept.codes])},
                meta,
            )
            file.commit()
        self._begun, self._new_index = None, made
        self.record()

    def keeps_earlier(self) -> bool:
        return self._new.exists()

    def drop_old(self) -> str:
        Path(self.where).unlink(missing_ok=True)
        return self.where

    def sample(self, n: int) -> np.ndarray:
        index = self._new_index
        if not is_exact(index) or not index.ntotal:  # approximations are of any length
            return np.zeros((0, index.d), np.float32)
        return next(rows_of(index, min(n, index.ntotal), self.target))[1]

    def search(self, queries: np.ndarray, k: int, role_column: str | None) -> Found:
        index = self._new_index
        with self._explained(self.target):
            scores, numbers = index.search(np.ascontiguousarray(queries, np.float32), k)
        ids = numbers.astype(object)
        ids[numbers < 0] = None
        scores = np.where(numbers < 0, -np.inf, cosines(scores, self.metric)).astype(np.float32)
        if role_column is None:
            return Found(ids, scores, None)
        if not index.ntotal:
            return Found(ids, scores, ids.copy())
        held = ids_of(index)
        order = np.argsort(held, kind="stable")
        at = order[np.searchsorted(held[order], np.where(numbers < 0, held[0], numbers))]
        codes, known = self._found_roles
        roles = np.array([*known, None], object)[codes[at]]
        roles[numbers < 0] = None
        return Found(ids, scores, roles)

    def close(self) -> None:
        self._index = self._found = None

    def _source(self) -> dict[str, Any]:
        """What the new index is made of."""
        return {**FileFingerprint.of(self.where, modified=True).to_json(), "roles": zlib.crc32(self._codes.tobytes())}

    @cached_property
    def _new_index(self) -> Any:
        """The new index, in memory."""
        return self._read(self._new, 0)

    def _read(self, path: Path, flags: int) -> Any:
        try:
            path.open("rb").close()
            return self._faiss.read_index(str(path), flags)
        except (RuntimeError, MemoryError, OSError, AssertionError) as error:
            if short := shortage(error):
                raise FastRealignError(f"{path}: {short}") from None
            if isinstance(error, OSError):
                raise InputError(f"{path}: cannot be read: {error.strerror}") from None
            with path.open("rb") as file:
                begins = file.read(4)
            if begins == _LATTICE:
                raise InputError(
                    f"{path}: is an IndexLattice, which faiss does not read; index the embeddings that it was made of"
                ) from None
            if begins.startswith(_BINARY):
                raise InputError(
                    f"{path}: holds binary codes, which no map moves; index the embeddings that they were made of"
                ) from None
            raise InputError(
                f"{path}: is damaged, or not a FAISS index: expected a file that faiss.write_index wrote; for rows in "
                f".npy, .parquet and other files use `fastrealign apply`"
            ) from None

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        """Errors of faiss as one line, without the places in its sources."""
        try:
            yield
        except FastRealignError:
            raise
        except (RuntimeError, MemoryError, OSError, AssertionError) as error:
            if short := disk_trouble(error) or shortage(error):
                raise FastRealignError(f"{path}: {short}") from None
            said = re.sub(r"^Error in .*? at \S+:\d+: (Error: )?", "", " ".join(str(error).split()))
            raise InputError(f"{path}: faiss cannot use it: {one_line(RuntimeError(said))}") from None

    def _mapped(self, align: Align, kept: _Kept) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The mapped rows that have a direction, and their ids, in batches; `kept` gets ids and roles."""
        if not is_exact(self._index):
            warn(f"{self.where}: holds approximations of rows; an index of the embeddings themselves would be better")
        ids = ids_of(self._index)
        twice = len(ids) - len(np.unique(ids))
        if twice:
            warn(
                f"{self.where}: {count(twice, 'id', 'occur')} more than once; what is found by such an id is ambiguous"
            )
        for first, rows in rows_of(self._index, len(ids), self.where):
            at = slice(first, first + len(rows))
            codes = self._codes[at]
            roles = [self._names[code] for code in codes] if len(codes) else None
            mapped, good = align(Batch(rows, ids[at], roles))
            kept.ids.append(ids[at][good])
            kept.codes.append(codes[good] if len(codes) else codes)
            yield np.ascontiguousarray(mapped if good.all() else mapped[good], np.float32), kept.ids[-1]

    def _built(self, rows: Iterator[tuple[np.ndarray, np.ndarray]], dim: int) -> Any:
        """An index like the old one, of these rows. What learns from rows, or takes all at once, gets them from a file."""
        faiss = self._faiss
        old = faiss.downcast_index(self._index)
        if type(old).__name__ in FLAT:
            return filled(faiss.IndexFlat(dim, old.metric_type), rows, self._total)
        if dim != old.d:
            raise InputError(f"{self.where}: rows of another width need a flat index, this is an {type(old).__name__}")
        made = self._read(Path(self.where), 0)
        made.reset()
        kind = type(inner(made)).__name__
        takes_ids = inner(old) is not old or isinstance(old, faiss.IndexIVF)
        most, learnt_from = max((k for k, _ in clusterings(made)), default=0), min(self._total, LEARNT_ROWS)
        if learnt_from < ROWS_A_CENTROID * most:
            warn(
                f"{self.where}: learns {count(most, 'centroid')} again from {count(learnt_from, 'row')}; FAISS advises "
                f"{ROWS_A_CENTROID * most:,} rows or more, with fewer a search may find less"
            )
        with ExitStack() as held:
            if learns(made) or kind.startswith(_AT_ONCE):
                file = held.enter_context(tempfile.TemporaryFile(dir=self._new.parent))
                rows = learnt(file, rows, made, 1 << 62 if kind.startswith(_AT_ONCE) else batch_rows(dim))
            for part, ids in rows:
                made.add_with_ids(part, ids) if takes_ids else made.add(part)
        return made

    def _with_ids(self, made: Any, kept: _Kept) -> Any:
        """The index with the ids that rows had, where rows were left out of one that numbers them."""
        ids = np.concatenate([np.zeros(0, np.int64), *kept.ids])
        if inner(made) is not made or isinstance(made, self._faiss.IndexIVF) or len(ids) == self._total:
            return made
        outer = self._faiss.IndexIDMap2(self._faiss.IndexFlat(made.d, made.metric_type))  # it takes an empty one alone
        outer.referenced_objects.append(made)
        outer.index, outer.ntotal = made, made.ntotal
        self._faiss.copy_array_to_vector(ids, outer.id_map)
        outer.construct_rev_map()
        return outer


def _beside(index: Path) -> Path:
    """The record of an index that `index` made."""
    return index.with_name(f"{index.name}.roles.safetensors")


def _check_place(record: Path) -> None:
    """InputError where a file that `index` did not write has the name of its record; that of a killed run is replaced."""
    if not record.exists():
        return
    try:
        load_tensors(record, _KIND)
    except InputError:
        raise InputError(
            f"{record}: is there already, and no record of `index`, whose record would get this name; move it, or name another "
            f"index with {option('to')}"
        ) from None


def _is_made(index: Path) -> bool:
    """Whether `index` wrote this file: not where its record is of another index, or a run was killed between the two."""
    if not index.exists() or not _beside(index).exists():
        return False
    try:
        _, meta = load_tensors(_beside(index), _KIND)
    except OtherKind:  # roles that the user saved by this name
        return False
    return bool(meta["index"] == FileFingerprint.of(index).to_json())


class _Kept(NamedTuple):
    """Ids and roles of the rows that were mapped, a batch each."""

    ids: list[np.ndarray]
    codes: list[np.ndarray]
