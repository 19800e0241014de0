"""A map from pairs in words and as plain values: for `fastrealign map`, `inspect` and the summary of a run."""

from __future__ import annotations

from typing import Any

from fastrealign.core.formatting import listing
from fastrealign.core.text import shown
from fastrealign.methods.method import Method
from fastrealign.methods.paired_map import PairedMap

_WIDTH = 15
_VALUES = "dim dim_out pairs matched strength encoder_source encoder_target fingerprint version"


def kept_lines(method: Method) -> list[str]:
    """What a map from pairs keeps of the recall of re-embedding; nothing for other methods."""
    if not isinstance(method, PairedMap):
        return []
    if method.kept is None:
        return listing(("recall kept", "not measured"), width=_WIDTH)
    return listing(("recall kept", str(method.kept)), ("advice", method.kept.advice), width=_WIDTH)


def describe_map(found: PairedMap, name: str) -> tuple[dict[str, Any], str]:
    """The numbers of a map, for JSON and for people."""
    value = {"kind": "map", "path": name, "method": found.name, "kept": found.kept and found.kept.to_json()}
    value |= {key: getattr(found, key) for key in _VALUES.split()}
    encoders = (found.encoder_source, found.encoder_target)
    entries = listing(
        ("pairs", f"{found.pairs:,} fitted on, matched by {found.matched}"),
        ("encoders", " to ".join(one or "unknown" for one in encoders) if any(encoders) else None),
        ("strength", None if found.strength is None else f"{found.strength:.3g}"),
        ("fingerprint", found.fingerprint[:16]),
        width=_WIDTH,
    )
    head = f"{name}: a map from rows {found.dim} wide to {found.dim_out}, {found.name}, by fastrealign {found.version}"
    return value, "\n".join([shown(head), *kept_lines(found), *entries])
