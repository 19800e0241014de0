"""Maps from pairs of files: rows matched by number or by id, and what the command line advises."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pair_worlds import pairs

import fastrealign as fr
from fastrealign.cli.main import main

pytestmark = pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")


def table(path, rows, ids):
    pq.write_table(pa.table({"id": ids, "embedding": list(rows.astype(np.float32))}), path)
    return path


def test_files_equal_arrays_and_ids_find_their_pairs(rng, tmp_path):
    old, new = (rows.astype(np.float32) for rows in pairs(rng, 700, 8, 5))
    (tmp_path / "old").mkdir()
    for i, part in enumerate(np.split(old, [100, 400])):
        np.save(tmp_path / f"old/{i}.npy", part)
    np.save(tmp_path / "new.npy", new)
    arrays = fr.fit_map(old, new)
    files = fr.fit_map(tmp_path / "old", tmp_path / "new.npy")
    assert (files.fingerprint, files.kept, files.matched) == (arrays.fingerprint, arrays.kept, "rows")
    # A re-embedded sample in another order, with ten items that the old index never had.
    order = rng.permutation(700)[:500]
    names = np.array([f"item-{i}" for i in range(700)])
    there = table(tmp_path / "old.parquet", old, names)
    extra = rng.standard_normal((10, 5)).astype(np.float32)
    ids = [*names[order], *(f"later-{i}" for i in range(10))]
    sample = table(tmp_path / "sample.parquet", np.concatenate([new[order], extra]), ids)
    with pytest.warns(fr.FitWarning, match=r"10 of 510 ids are not in .*old\.parquet, the first is 'later-0'"):
        found = fr.fit_map(there, sample)
    expected = fr.fit_map(old[order], new[order])
    assert (found.fingerprint, found.kept, found.matched) == (expected.fingerprint, expected.kept, "ids")
    queries = np.concatenate([new[order] + 0.1, extra])
    asked = fr.fit_map(there, sample, queries=queries)
    assert asked.kept == fr.fit_map(old[order], new[order], queries=new[order] + np.float32(0.1)).kept
    twice = table(tmp_path / "twice.parquet", new[:300], ["a", *names[:298], "a"])
    with pytest.raises(fr.InputError, match=r"twice\.parquet: row 299: has the id 'a', as .* row 0 has"):
        fr.fit_map(there, twice)
    others = table(tmp_path / "others.parquet", new[:300], [f"x{i}" for i in range(300)])
    with pytest.raises(fr.InputError, match="none of its 300 ids is in"):
        fr.fit_map(there, others)
    bad = new.copy()
    bad[order[0]] = 0.0
    with pytest.raises(fr.BadRowsError, match=r"bad\.parquet: row 0 is all zeros"):
        fr.fit_map(there, table(tmp_path / "bad.parquet", bad[order], names[order]))


def test_the_command_line_is_advised_in_its_own_options(tmp_path, rng, capsys):
    old, new = rng.standard_normal((2, 60, 8))
    bad = old.copy()
    bad[3] = np.nan
    for name, rows in (("old", old), ("new", new), ("bad", bad)):
        np.save(tmp_path / f"{name}.npy", rows)
    o, n, b = (str(tmp_path / f"{name}.npy") for name in ("old", "new", "bad"))
    out = ["-o", str(tmp_path / "m.safetensors")]
    role = [
        "fit",
        "--role",
        f"query={o}",
        "--role",
        f"image={n}",
        "--anchor",
        "image",
        "--method",
        "auto",
        "--out",
        out[1],
    ]
    for arguments, advice in (
        (["map", b, n, *out], "leave such pairs out with --bad-rows skip"),
        (["map", o, o, *out], "by its column: --column and --target-column"),
        (["map", o, n, *out, "--pairs", "ids"], "in the same order: --pairs rows"),
        (["map", o, n, *out], "--held-out 0 for a map that is not measured"),
        (role, "--pairs query:image=PATH,PATH --pairs query:text=PATH,PATH"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        error = next(line for line in said.splitlines() if "error:" in line)
        assert advice in error and not re.search(r"\b(bad_rows|column|pairs|held_out|method)=", error)
