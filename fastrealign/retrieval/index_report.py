"""What a run of `fastrealign index` did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrealign.core.formatting import count, listing, short


@dataclass(frozen=True)
class IndexReport:
    """What `index` did.

    Attributes
    ----------
    store, target : str
        The store, and the column, named vector or file that holds the aligned vectors.
    rows, before : int
        Rows that this run wrote, and those that an earlier run had written and that stay as they are.
    changed : int
        Rows that had an aligned vector made from an older vector: this run wrote theirs, or emptied it where the vector has no
        direction now.
    skipped : int
        Rows without a direction, whose aligned vector stays empty.
    roles : dict of str to int
        Rows that this run wrote, by role.
    fingerprint : str
        SHA-256 (hex) of the maps, stored with the aligned vectors.
    seconds : float
        Time that the run took.
    dropped : str
        The vectors, or the file, that `drop_old` removed; "" for none.
    search, queries : str
        The Python call that searches what was written, and what to give as its query_role.
    """

    store: str
    target: str
    rows: int
    before: int
    skipped: int
    roles: dict[str, int]
    fingerprint: str
    seconds: float
    dropped: str = ""
    changed: int = 0
    search: str = ""
    queries: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return dict(vars(self))

    def __str__(self) -> str:
        by_role = ", ".join(f"{role} {n:,}" for role, n in self.roles.items())
        rate = "" if self.before else f", {short(self.rows / max(self.seconds, 1e-9))} rows/s"
        speed = f"{self.seconds:.1f} s{rate}"
        why = "all is done" if self.before or self.skipped else "there are no rows"
        nothing = "nothing" if self.changed else f"nothing: {why}"
        lines = listing(
            (
                "written",
                f"{count(self.rows, 'row')} to {self.target} ({speed})" if self.rows else nothing,
            ),
            ("roles", by_role),
            (
                "changed",
                f"{count(self.changed, 'row')} had an aligned vector made from an older vector"
                if self.changed
                else None,
            ),
            ("before", f"{count(self.before, 'row', 'were')} written already" if self.before else None),
            ("skipped", f"{count(self.skipped, 'row')} without a direction" if self.skipped else None),
            ("dropped", self.dropped or None),
            ("search", self.search or None),
            ("queries", self.queries or None),
        )
        return "\n".join([f"{self.store}: {self.target}", *lines])
