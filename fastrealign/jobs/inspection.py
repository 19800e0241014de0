"""What a path holds: embeddings, an alignment, moments, or the output of a run. For `fastrealign inspect`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fastrealign import formats
from fastrealign.core import ops
from fastrealign.core.errors import InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.row_map import GOOD, UNIT
from fastrealign.core.text import shown
from fastrealign.data.row_source import rows_in
from fastrealign.formats.choose_column import Wanted
from fastrealign.formats.manifest import MANIFEST, Manifest
from fastrealign.formats.metadata import SIDE_FOLDERS
from fastrealign.formats.safetensors_files import own_kind
from fastrealign.jobs.journal import Journal, rank_journals
from fastrealign.jobs.output_folder import JOURNAL
from fastrealign.jobs.summary import column_text, count, gap_lines, sampling_lines, size
from fastrealign.methods.baseline import Baseline
from fastrealign.methods.loading import load
from fastrealign.methods.method import Method
from fastrealign.methods.moments import Moments
from fastrealign.storage.paths import Place, place

_LISTED_SHARDS = 5
_SAMPLED_SHARDS = 16
_SAMPLE_BYTES = 32 << 20


def inspect(spec: str | os.PathLike | Sequence[str], column: str | None = None) -> tuple[dict[str, Any], str]:
    """Plain values for JSON, and text for people. Raises InputError if there is nothing that fastrealign knows."""
    if isinstance(spec, (str, os.PathLike)):
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
                _embeddings(formats.open_source(path, side=side, column=Wanted(column)))
                for side in ("source", "target")
            ]
            return {"kind": "embeddings", "sides": [value for value, _ in sides]}, "\n".join(text for _, text in sides)
    return _embeddings(formats.open_source(spec, side="source", column=Wanted(column)))


def describe(method: Method, name: str) -> tuple[dict[str, Any], str]:
    """The numbers of an alignment, or of another method."""
    if isinstance(method, Baseline):
        return _baseline(method, name)
    a = method
    value = {
        "kind": "alignment",
        "path": name,
        "dim": a.dim,
        "centroid": a.centroid,
        "s": a.s,
        "gap_before": a.gap_before,
        "gap_left": None if math.isnan(a.gap_left) else a.gap_left,
        "trace_source": a.trace_source,
        "trace_target": a.trace_target,
        "count_source": a.count_source,
        "count_target": a.count_target,
        "sampling": a.sampling and asdict(a.sampling),
        "encoder_source": a.encoder_source,
        "encoder_target": a.encoder_target,
        "column_source": a.column_source,
        "column_target": a.column_target,
        "fingerprint": a.fingerprint,
        "version": a.version,
    }
    lines = [
        f"{shown(name)}: an alignment of {a.dim} wide rows, {a.centroid} centroid, by fastrealign {shown(a.version)}",
        *gap_lines(a.gap_before, a.gap_left),
        f"  source         {count(a.count_source, 'row')}, trace {a.trace_source:.6g}"
        f"{_named(a.encoder_source, a.column_source)}",
        f"  target         {count(a.count_target, 'row')}, trace {a.trace_target:.6g}"
        f"{_named(a.encoder_target, a.column_target)}",
        f"  scale          s = {a.s:.6g}",
        *sampling_lines(a.sampling),
        f"  fingerprint    {a.fingerprint[:16]}",
    ]
    return value, "\n".join(lines)


def _baseline(b: Baseline, name: str) -> tuple[dict[str, Any], str]:
    value = {
        "kind": "baseline",
        "path": name,
        "method": b.name,
        "dim": b.dim,
        "gap_before": b.gap_before,
        "gap_left": None if math.isnan(b.gap_left) else b.gap_left,
        "s": b.s,
        "sigma": b.sigma,
        "seed": b.seed,
        "fingerprint": b.fingerprint,
    }
    lines = [f"{shown(name)}: the method {b.name} for {b.dim} wide rows", *gap_lines(b.gap_before, b.gap_left)]
    if b.s != 1.0:
        lines.append(f"  scale          s = {b.s:.6g}")
    if b.numbered:
        lines.append(f"  noise          sigma = {b.sigma:.6g}, seed {b.seed}")
    lines.append(f"  fingerprint    {b.fingerprint[:16]}")
    return value, "\n".join(lines)


def _named(encoder: str | None, column: str | None) -> str:
    return (f", {shown(encoder)}" if encoder else "") + (f", of {shown(repr(column))}" if column else "")


def _saved(path: Place) -> tuple[dict[str, Any], str]:
    try:
        return describe(load(path), str(path))
    except InputError as not_an_alignment:
        try:
            moments = Moments.load(path)
        except InputError:
            raise not_an_alignment from None
    value = {
        "kind": "moments",
        "path": str(path),
        "dim": moments.dim,
        "count": moments.count,
        "bad_rows": moments.bad_rows,
        "trace": moments.trace if moments.count else None,
        "norm_of_mean": float(np.linalg.norm(moments.mean)) if moments.count else None,
    }
    text = f"{shown(path)}: moments of {count(moments.count, 'row')}, {moments.dim} wide"
    if moments.bad_rows:
        text += f", {count(moments.bad_rows, 'bad row')} left out"
    if moments.count:
        text += f"\n  trace          {value['trace']:.6g}\n  norm of mean   {value['norm_of_mean']:.6g}"
    return value, text


def _manifest(folder: Place, path: Place | None = None) -> tuple[dict[str, Any], str]:
    manifest = Manifest.load(path or folder / MANIFEST)
    shards = manifest.shards
    changed = [shard.name for shard in shards if not shard.is_at(folder / shard.name)]
    rows_in, rows_out = sum(shard.rows_in for shard in shards), sum(shard.rows_out for shard in shards)
    bad, skipped = sum(shard.bad_rows for shard in shards), sum(shard.skipped for shard in shards)
    nbytes = sum(shard.bytes for shard in shards)
    value = {
        "kind": "output",
        "path": str(path or folder),
        "complete": True,
        "made_by": manifest.spec.kind,
        "options": manifest.spec.options,
        "alignment": manifest.alignment,
        "gap_before": manifest.gap_before,
        "gap_left": manifest.gap_left,
        "shards": len(shards),
        "rows_in": rows_in,
        "rows_out": rows_out,
        "skipped": skipped,
        "bad_rows": bad,
        "bytes": nbytes,
        "columns": manifest.columns,
        "left_out": manifest.left_out,
        "changed": changed,
        "version": manifest.version,
    }
    options = ", ".join(f"{name} {option}" for name, option in manifest.spec.options.items() if option is not None)
    left = float("nan") if manifest.gap_left is None else manifest.gap_left
    gaps = []
    if manifest.gap_before is not None:
        gaps = gap_lines(manifest.gap_before, left, "before" if manifest.spec.kind == "align" else "at the fit")
    lines = [
        f"{shown(path or folder)}: output of fastrealign {shown(manifest.spec.kind)} ({shown(options)}), "
        f"by fastrealign {shown(manifest.version)}",
        *gaps,
        f"  shards         {len(shards):,}, {count(rows_out, 'row')}, {size(nbytes)}",
    ]
    if manifest.columns:
        lines.append(f"  column         {column_text(manifest.columns)}")
    if skipped or bad:
        lines.append(f"  left aside     {count(skipped, 'item')} without an embedding, {count(bad, 'bad row')}")
    left_out = [name for side in manifest.left_out.values() for name in side]
    if left_out:
        lines.append(
            f"  left out       {count(len(left_out), 'shard')}, such as {shown(left_out[0])}: could not be read"
        )
    if changed:
        lines.append(
            f"  changed        {count(len(changed), 'shard')} gone or not as written, such as {shown(changed[0])}"
        )
    return value, "\n".join(lines)


def _unfinished(folder: Place) -> tuple[dict[str, Any], str]:
    noted = Journal.peek(folder / JOURNAL)
    of_ranks = sum(len(Journal.peek(path).shards) for path in rank_journals(folder / JOURNAL))
    done, all_shards = len(noted.shards) + of_ranks, len(noted.spec.source) if noted.spec else 0
    value = {"kind": "output", "path": str(folder), "complete": False, "shards": all_shards, "shards_complete": done}
    return (
        value,
        f"{shown(folder)}: an unfinished run, {done} of {count(all_shards, 'shard')} complete; go on with --resume",
    )


def _embeddings(files: formats.Source) -> tuple[dict[str, Any], str]:
    shards = files.shards
    dtypes: dict[str, int] = {}
    for shard in shards:
        dtypes[shard.dtype.name] = dtypes.get(shard.dtype.name, 0) + 1
    nbytes = sum(shard.nbytes for shard in shards)
    norms, bad, first_bad = _sample(files)
    value = {
        "kind": "embeddings",
        "path": files.name,
        "format": sorted({shard.format for shard in shards}),
        "shards": len(shards),
        "rows": files.rows,
        "dim": files.dim,
        "column": files.column,
        "dtypes": dtypes,
        "bytes": nbytes,
        "skipped": files.skipped,
        "notes": sorted({shard.note for shard in shards if shard.note}),
        "metadata": sum(shard.metadata is not None for shard in shards),
        "first_shards": [
            {"name": shard.name, "rows": shard.rows, "dtype": shard.dtype.name} for shard in shards[:_LISTED_SHARDS]
        ],
        "sample": {
            "rows": len(norms) + bad,
            "bad_rows": bad,
            "first_bad": first_bad,
            "norm_min": float(norms.min()) if len(norms) else None,
            "norm_mean": float(norms.mean()) if len(norms) else None,
            "norm_max": float(norms.max()) if len(norms) else None,
        },
    }
    kinds = ", ".join(name if number == len(shards) else f"{name} ({number} shards)" for name, number in dtypes.items())
    lines = [
        f"{shown(files.name)}: {count(files.rows, 'row')} of {files.dim}, {kinds}, {size(nbytes)} "
        f"in {count(len(shards), 'shard')} of {' and '.join(value['format'])}"
    ]
    lines += [f"  {shown(shard.name)}: {count(shard.rows, 'row')}" for shard in shards[:_LISTED_SHARDS]]
    if len(shards) > _LISTED_SHARDS:
        lines.append(f"  and {len(shards) - _LISTED_SHARDS:,} more")
    lines += [f"  note           {shown(note)}" for note in value["notes"]]
    if files.column is not None:
        lines.append(f"  column         {shown(repr(files.column))}")
    if value["metadata"]:
        lines.append(f"  metadata       {count(value['metadata'], 'file')}, carried along with the aligned shards")
    if files.skipped:
        lines.append(f"  skipped        {count(files.skipped, 'item')} without an embedding")
    if len(norms):
        lines.append(
            f"  norms          {norms.min():.4g} to {norms.max():.4g}, mean {norms.mean():.4g} "
            f"(in a sample of {count(value['sample']['rows'], 'row')})"
        )
    if bad:
        lines.append(f"  bad rows       {bad:,} of the sample; the first: {shown(first_bad)}")
    return value, "\n".join(lines)


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
