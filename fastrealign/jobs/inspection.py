"""What a path holds: embeddings, an alignment, moments, or the output of a run. For `fastrealign inspect`."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np

from fastrealign import formats
from fastrealign.core import ops
from fastrealign.core.bad_rows import GOOD
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.formatting import count, listing, size
from fastrealign.core.row_map import UNIT
from fastrealign.core.text import shown
from fastrealign.core.wording import option
from fastrealign.data.options import NoiseOptions
from fastrealign.data.row_source import rows_in
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.manifest import JOURNAL, MANIFEST, Manifest
from fastrealign.formats.metadata import SIDE_FOLDERS
from fastrealign.formats.safetensors_files import own_kind
from fastrealign.jobs.folders import walk
from fastrealign.jobs.journal import unrecorded, what_is_done
from fastrealign.jobs.map_text import describe_map
from fastrealign.jobs.summary import column_text, gap_lines, noise_text, sampling_lines
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.loading import load
from fastrealign.methods.method import Method
from fastrealign.methods.moments import Moments
from fastrealign.methods.noisy import own_noise
from fastrealign.methods.paired_map import PairedMap
from fastrealign.methods.roles import Roles
from fastrealign.methods.sampling import Sampling
from fastrealign.storage.paths import Place, is_path, place

_LISTED_SHARDS = 5
_SAMPLED_SHARDS = 16
_SAMPLE_BYTES = 32 << 20
_OF_ALIGNMENT = (
    "dim centroid s gap_before gap_left trace_source trace_target count_source count_target sampling encoder_source "
    "encoder_target column_source column_target fingerprint version"
)
_OF_BASELINE = "dim gap_before gap_left s sigma seed fingerprint"

# Plain values for JSON, and text for people.
Found: TypeAlias = tuple[dict[str, Any], str]


def inspect(spec: str | os.PathLike | Sequence[str], column: str | None = None) -> Found:
    """What the path holds. Raises InputError for anything unknown to fastrealign."""
    if is_path(spec):
        path = place(spec)
        if (path / MANIFEST).is_file():
            return _manifest(path)
        if (path / JOURNAL).exists():
            return _unfinished(path)
        if path.name.endswith(MANIFEST) and path.is_file():
            return _manifest(path.parent, path)
        if path.suffix.lower() not in formats.FORMATS.keys() - {".safetensors"} and own_kind(path):
            return _saved(path)
        if all((path / folder).is_dir() for folder in SIDE_FOLDERS.values()):
            sides = [
                _embeddings(formats.open_source(path, side=side, column=Wanted(column, alone=True)))
                for side in ("source", "target")
            ]
            return {"kind": "embeddings", "sides": [value for value, _ in sides]}, "\n".join(text for _, text in sides)
    return _embeddings(formats.open_source(spec, side="source", column=Wanted(column, alone=True)))


def describe(method: Method, name: str) -> Found:
    """The numbers of an alignment, or of another method."""
    gaps = gap_lines(method.gap_before, method.gap_left)
    fingerprint = ("fingerprint", method.fingerprint[:16])
    if isinstance(method, Alignment):
        value = {"kind": "alignment", "path": name, **_values(method, _OF_ALIGNMENT)}
        head = f"{name}: an alignment of {method.dim} wide rows, {method.centroid} centroid, by fastrealign {method.version}"
        source = _side_text(method.count_source, method.trace_source, method.encoder_source, method.column_source)
        target = _side_text(method.count_target, method.trace_target, method.encoder_target, method.column_target)
        scale = ("scale", f"s = {method.s:.6g}")
        sides = listing(("source", source), ("target", target), scale, width=15)
        return value, _text(head, [*gaps, *sides, *sampling_lines(method.sampling)], fingerprint)
    if isinstance(method, PairedMap):
        return describe_map(method, name)
    if not isinstance(method, Baseline):
        raise TypeError(f"{type(method).__name__}: expected an Alignment or a Baseline")
    value = {"kind": "baseline", "path": name, "method": method.name, **_values(method, _OF_BASELINE)}
    return value, _text(
        f"{name}: the method {method.name} for {method.dim} wide rows",
        gaps,
        ("scale", f"s = {method.s:.6g}" if method.s != 1.0 else None),
        ("noise", f"{own_noise(method)}, sigma = {method.sigma:.6g}" if method.numbered else None),
        fingerprint,
    )


def _text(head: str, lines: list[str], *entries: tuple[str, str | None]) -> str:
    return "\n".join([shown(head), *lines, *listing(*entries, width=15)])


def _values(method: Alignment | Baseline, names: str) -> dict[str, Any]:
    """These attributes, as JSON takes them."""
    values = {name: getattr(method, name) for name in names.split()}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Sampling):
        return asdict(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _side_text(rows: int, trace: float, encoder: str | None, column: str | None) -> str:
    named = (f", {encoder}" if encoder else "") + (f", of {column!r}" if column else "")
    return f"{count(rows, 'row')}, trace {trace:.6g}{named}"


def describe_roles(roles: Roles, name: str) -> Found:
    """The maps of each role, and of `auto` what was tried and why one was taken."""
    entries = (
        (role, f"{method.name}, gap before {method.gap_before:.4g}, fingerprint {method.fingerprint[:16]}")
        for role, method in roles.maps.items()
    )
    value = {"kind": "roles", "path": name, "method": roles.method, "anchor": roles.anchor, "dim": roles.dim}
    value["roles"] = {role: describe(method, name)[0] for role, method in roles.maps.items()}
    value |= {"reason": roles.reason, "trials": {tried: trial.to_json() for tried, trial in roles.trials.items()}}
    tried = [
        f"  {tried}: R@10 {trial.found:.3f} ± {trial.error:.3f}; "
        + ", ".join(f"{kind} {one.found:.3f} (alone {one.alone:.3f})" for kind, one in trial.kinds.items())
        for tried, trial in roles.trials.items()
    ]
    why = [("chosen", roles.reason or None)]
    head = f"{name}: roles of one index, {roles.dim} wide, method {roles.method}, anchor {roles.anchor}"
    return value, "\n".join(
        [_text(head, [], *entries, *why), *(["  tried on pairs, in one index:"] if tried else []), *tried]
    )


def _saved(path: Place) -> Found:
    if own_kind(path) == "saved roles":
        return describe_roles(Roles.load(path), str(path))
    try:
        return describe(load(path), str(path))
    except InputError as not_an_alignment:
        try:
            moments = Moments.load(path)
        except InputError:
            raise not_an_alignment from None
    trace = moments.trace if moments.count else None
    norm = float(np.linalg.norm(moments.mean)) if moments.count else None
    value = {"kind": "moments", "path": str(path), "dim": moments.dim, "count": moments.count}
    value |= {"bad_rows": moments.bad_rows, "trace": trace, "norm_of_mean": norm}
    left_out = f", {count(moments.bad_rows, 'bad row')} left out" if moments.bad_rows else ""
    return value, _text(
        f"{path}: moments of {count(moments.count, 'row')}, {moments.dim} wide{left_out}",
        [],
        ("trace", None if trace is None else f"{trace:.6g}"),
        ("norm of mean", None if norm is None else f"{norm:.6g}"),
    )


def _manifest(folder: Place, path: Place | None = None) -> Found:
    manifest = Manifest.load(path or folder / MANIFEST)
    spec, shards = manifest.spec, manifest.shards
    changed = [shard.name for shard in shards if not shard.is_at(folder / shard.name)]
    names = ("rows_in", "rows_out", "skipped", "bad_rows", "bytes")
    total = {name: sum(getattr(shard, name) for shard in shards) for name in names}
    value = {
        "kind": "output",
        "path": str(path or folder),
        "complete": True,
        "made_by": spec.kind,
        "options": spec.options,
        "alignment": manifest.alignment,
        "gap_before": manifest.gap_before,
        "gap_left": manifest.gap_left,
        "shards": len(shards),
        **total,
        "columns": manifest.columns,
        "left_out": manifest.left_out,
        "changed": changed,
        "version": manifest.version,
    }
    noise = NoiseOptions(spec.options.get("noise", 0.0), spec.options.get("seed", 0))
    options = ", ".join(
        f"{name} {option}" for name, option in spec.options.items() if option is not None and name != "noise"
    )
    gaps = []
    if manifest.gap_before is not None:
        left = math.nan if manifest.gap_left is None else manifest.gap_left
        gaps = gap_lines(manifest.gap_before, left, "before" if spec.kind == "align" else "at the fit")
    skipped, bad = count(total["skipped"], "item"), count(total["bad_rows"], "bad row")
    lost = [name for side in manifest.left_out.values() for name in side]
    return value, _text(
        f"{path or folder}: output of fastrealign {spec.kind} ({options}), by fastrealign {manifest.version}",
        gaps,
        ("noise", noise_text(noise)),
        ("shards", f"{len(shards):,}, {count(total['rows_out'], 'row')}, {size(total['bytes'])}"),
        ("column", column_text(manifest.columns)),
        ("not aligned", f"{skipped} without an embedding, {bad}" if total["skipped"] or total["bad_rows"] else None),
        ("left out", f"{count(len(lost), 'shard')}, such as {lost[0]}: could not be read" if lost else None),
        (
            "changed",
            f"{count(len(changed), 'shard')} gone or not as written, such as {changed[0]}" if changed else None,
        ),
    )


def _unfinished(folder: Place) -> Found:
    noted, done = what_is_done(folder / JOURNAL)
    all_shards = len(noted.spec.source) if noted.spec else 0
    value = {
        "kind": "output",
        "path": str(folder),
        "complete": False,
        "shards": all_shards,
        "shards_complete": len(done),
    }
    if noted.spec is None:  # of a conversion, or of a run that was stopped before it had a method
        state = f"nothing noted as complete; repeat its command with {option('overwrite', True)}"
    else:
        again = unrecorded(noted, done, walk(folder))
        state = f"{len(done)} of {count(all_shards, 'shard')} complete{again}; resume it with {option('resume', True)}"
    return value, shown(f"{folder}: an unfinished run, {state}")


def _embeddings(files: formats.Source) -> Found:
    shards = files.shards
    dtypes = dict(Counter(shard.dtype.name for shard in shards))
    nbytes = sum(shard.nbytes for shard in shards)
    kinds = sorted({shard.format for shard in shards})
    notes = sorted({shard.note for shard in shards if shard.note})
    metadata = sum(shard.metadata is not None for shard in shards)
    norms, bad, first_bad = _sample(files)
    sampled = len(norms) + bad
    value = {
        "kind": "embeddings",
        "path": files.name,
        "format": kinds,
        "shards": len(shards),
        "rows": files.rows,
        "dim": files.dim,
        "column": files.column,
        "dtypes": dtypes,
        "bytes": nbytes,
        "skipped": files.skipped,
        "notes": notes,
        "metadata": metadata,
        "first_shards": [
            {"name": shard.name, "rows": shard.rows, "dtype": shard.dtype.name} for shard in shards[:_LISTED_SHARDS]
        ],
        "sample": {
            "rows": sampled,
            "bad_rows": bad,
            "first_bad": first_bad,
            "norm_min": float(norms.min()) if len(norms) else None,
            "norm_mean": float(norms.mean()) if len(norms) else None,
            "norm_max": float(norms.max()) if len(norms) else None,
        },
    }
    types = ", ".join(name if number == len(shards) else f"{name} ({number} shards)" for name, number in dtypes.items())
    listed = [f"  {shown(shard.name)}: {count(shard.rows, 'row')}" for shard in shards[:_LISTED_SHARDS]]
    if len(shards) > _LISTED_SHARDS:
        listed.append(f"  and {len(shards) - _LISTED_SHARDS:,} more")
    of_norms = None
    if len(norms):
        of_norms = (
            f"{norms.min():.4g} to {norms.max():.4g}, mean {norms.mean():.4g} (in a sample of {count(sampled, 'row')})"
        )
    return value, _text(
        f"{files.name}: {count(files.rows, 'row')} of {files.dim}, {types}, {size(nbytes)} "
        f"in {count(len(shards), 'shard')} of {' and '.join(kinds)}",
        listed,
        *(("note", note) for note in notes),
        ("column", None if files.column is None else repr(files.column)),
        ("metadata", f"{count(metadata, 'file')}, carried along with the aligned shards" if metadata else None),
        ("skipped", f"{count(files.skipped, 'item')} without an embedding" if files.skipped else None),
        ("norms", of_norms),
        ("bad rows", f"{bad:,} of the sample; the first: {first_bad}" if bad else None),
    )


def _sample(files: formats.Source) -> tuple[np.ndarray, int, str | None]:
    """Of a sample from shards at even distances: the norms of good rows, the number of bad ones, the first of these."""
    with_rows = [shard for shard in files.shards if shard.rows]
    chosen = with_rows[:: max(1, -(-len(with_rows) // _SAMPLED_SHARDS))]
    norms, bad, first_bad = [np.empty(0)], 0, None
    for shard in chosen:
        rows = next(shard.chunks(rows_in(_SAMPLE_BYTES // len(chosen), files.dim, shard.dtype)))
        flags = np.empty(len(rows), dtype=np.uint8)
        found = ops.reduce(rows, UNIT, ExactSum(files.dim), flags=flags)
        norms.append(np.linalg.norm(rows[flags == GOOD].astype(np.float64), axis=1))
        bad += found.bad
        if found.bad and first_bad is None:
            first_bad = f"{shard.where(found.first_bad)} {found.why}"
        shard.close()
    return np.concatenate(norms), bad, first_bad
