"""Roles of an index against their definitions, saved and loaded, and what is refused."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import fastrealign as fr
from fastrealign.core import ops
from fastrealign.core.errors import BadRowsError, InputError
from fastrealign.core.exact_sum import ExactSum
from fastrealign.core.progress import Progress
from fastrealign.methods.fit_options import TWO_SIDED
from fastrealign.methods.method import Call
from fastrealign.methods.role_fits import ROLE_METHODS

D = 12


def pi(v):
    return v / np.linalg.norm(v, axis=1, keepdims=True)


@pytest.fixture
def rows(rng):
    """Rows of three roles with different means, spectra and lengths, float64."""
    spectrum = np.arange(1, D + 1) ** -0.5
    return {
        role: (rng.standard_normal((n, D)) * spectrum + 1.5 * rng.standard_normal(D)) * rng.uniform(0.5, 2, (n, 1))
        for role, n in (("query", 500), ("text", 700), ("image", 600))
    }


@pytest.mark.parametrize("method", [name for name in ROLE_METHODS if name not in TWO_SIDED])
def test_one_sided(rows, method):
    """Each role is moved as `fit` moves it, and the anchor stays."""
    roles = fr.fit_roles(rows, anchor="image", method=method)
    assert list(roles) == list(rows)
    for role in ("query", "text"):
        expected = fr.fit(rows[role], rows["image"], method=method)
        assert np.array_equal(roles[role](rows[role]), expected(rows[role]))
    np.testing.assert_allclose(roles["image"](rows["image"]), pi(rows["image"]), rtol=0, atol=1e-15)


def test_centred(rows):
    roles = fr.fit_roles(rows, anchor="text", method="centred")
    for role, y in rows.items():
        np.testing.assert_allclose(roles[role](y), pi(pi(y) - pi(y).mean(0)), rtol=0, atol=1e-11)
        distance = np.linalg.norm(pi(y).mean(0) - pi(rows["text"]).mean(0))
        assert roles[role].gap_before == pytest.approx(distance, abs=1e-12)
        assert roles[role].row_map is not None  # one pass of the kernels


def test_z_score(rows, tmp_path, monkeypatch):
    """Its own deviation of each column: d numbers, one path for arrays, modules and tensors on a device, bad rows left out."""
    rows["text"][:, 3] = 0.0  # no spread
    roles = fr.fit_roles(rows, anchor="image", method="z-score")
    for role, y in rows.items():
        deviation = pi(y).std(axis=0)
        deviation[deviation == 0] = 1.0
        expected = pi((pi(y) - pi(y).mean(0)) / deviation)
        np.testing.assert_allclose(roles[role](y), expected, rtol=0, atol=1e-11)
        assert roles[role].matrix is None and roles[role].scale.shape == (D,)
    many = {role: np.concatenate([y] * 4) for role, y in rows.items()}
    whole = fr.fit_roles(many, anchor="image", method="z-score")
    parts = fr.fit_roles({role: np.array_split(y, 7) for role, y in many.items()}, anchor="image", method="z-score")
    assert [parts[role].fingerprint for role in parts] == [whole[role].fingerprint for role in whole]
    with_bad = np.insert(rows["text"], 100, np.nan, axis=0)
    skipped = fr.fit_roles(rows | {"text": with_bad}, anchor="image", method="z-score", bad_rows="skip")
    assert skipped["text"].fingerprint == roles["text"].fingerprint

    torch = pytest.importorskip("torch")
    from fastrealign.methods import baseline

    y = rows["text"].astype(np.float32)
    y[5] = 0.0
    expected, sums, there = np.empty_like(y), ExactSum(D), ExactSum(D)
    found = roles["text"].apply(y, expected, Call(sums))
    np.testing.assert_array_equal(fr.nn.as_module(roles["text"])(torch.from_numpy(y)).numpy(), expected)
    for module in (baseline, ops):  # CPU tensors that are taken for a device's
        monkeypatch.setattr(module, "on_device", lambda x: isinstance(x, torch.Tensor))
    given = torch.from_numpy(y.copy())
    assert roles["text"].apply(given, given, Call(there)) == found and found.bad == 1
    np.testing.assert_array_equal(given.numpy(), expected)
    assert there.count == sums.count and np.array_equal(there.low, sums.low)
    with pytest.raises(InputError, match="z-score is computed on the CPU; leave out devices"):
        fr.apply_files(roles["text"], tmp_path, tmp_path / "out", devices=["cpu"])


@pytest.mark.parametrize("method", ROLE_METHODS)
def test_saved(rows, method, tmp_path):
    roles = fr.fit_roles(rows, anchor="image", method=method)
    roles.save(tmp_path / "roles.safetensors")
    for back in (fr.Roles.load(tmp_path / "roles.safetensors"), pickle.loads(pickle.dumps(roles))):
        assert list(back) == list(rows)
        assert back == roles and hash(back) == hash(roles)
        assert (back.anchor, back.method, back.dim, repr(back)) == ("image", method, D, repr(roles))
        for role, y in rows.items():
            assert back[role].fingerprint == roles[role].fingerprint
            assert np.array_equal(back[role](y), roles[role](y))


def test_files(rows, tmp_path):
    """Paths give the bits of the arrays."""
    for role, y in rows.items():
        np.save(tmp_path / f"{role}.npy", y)
    roles = fr.fit_roles({role: tmp_path / f"{role}.npy" for role in rows}, anchor="image", method="centred")
    arrays = fr.fit_roles(rows, anchor="image", method="centred")
    assert [roles[role].fingerprint for role in rows] == [arrays[role].fingerprint for role in rows]


@pytest.mark.parametrize("method", ["centred", "realign"])
def test_refused(rows, method):
    def refused(said, given=rows, **options):
        with pytest.raises(InputError, match=said):
            fr.fit_roles(given, **{"anchor": "image", "method": method, **options})

    refused("at least two", {"image": rows["image"]})
    refused("at least two", [rows["text"], rows["image"]])
    refused("role 'a/b': expected a name", rows | {"a/b": rows["text"]})
    refused(r"no role 'imgae'.*'image'.*query, text, image", anchor="imgae")
    refused(r"no method 'centered' for roles.*'centred'", method="centered")
    refused("role text: .*11", rows | {"text": rows["text"][:, :11]})
    refused("role query: ", rows | {"query": np.ones((50, D))})
    refused(r"column='a': expected a mapping of role to column", column="a")
    refused(r"no role 'txt', did you mean 'text'\?", column={"txt": "a"})
    refused("role text: column 'a' is of files, and these rows are in memory", column={"text": "a"})
    bad = rows["query"].copy()
    bad[7] = np.nan
    with pytest.raises(BadRowsError, match=r"role query: .*row 7"):
        fr.fit_roles(rows | {"query": bad}, anchor="image", method=method)
    skipped = fr.fit_roles(rows | {"query": bad}, anchor="image", method=method, bad_rows="skip")
    kept = fr.fit_roles(rows | {"query": np.delete(rows["query"], 7, 0)}, anchor="image", method=method)
    assert skipped["query"].fingerprint == kept["query"].fingerprint


def test_the_anchor_is_read_once_and_warnings_name_the_role(rows):
    class Passes(Progress):
        def __init__(self):
            self.phases = []

        def start(self, phase, rows, nbytes):
            self.phases.append(phase)

    passes = Passes()
    with pytest.warns(fr.FitWarning, match=r"role query: 5 rows for a width of 12"):
        fr.fit_roles(rows | {"query": rows["query"][:5]}, anchor="image", method="anchor", progress=passes)
    assert passes.phases == ["reading image", "reading the source", "reading the source"]


def test_folders_and_columns(rows, tmp_path):
    """Names of roles choose between the folders of a clip-retrieval root and the columns of a table; others must be named."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    root, table = tmp_path / "root", tmp_path / "all.parquet"
    root.mkdir()
    given = {"query": rows["text"], "image": rows["image"][:600]}
    for folder, role in (("text_emb", "query"), ("img_emb", "image")):
        (root / folder).mkdir()
        np.save(root / folder / "0.npy", given[role])
    pq.write_table(pa.table({"a": list(rows["text"][:600]), "b": list(rows["image"])}), table)
    arrays = fr.fit_roles(given, anchor="image", method="centred")
    files = fr.fit_roles({"query": root, "image": str(root)}, anchor="image", method="centred")
    assert [files[role].fingerprint for role in files] == [arrays[role].fingerprint for role in arrays]
    columns = fr.fit_roles(
        dict.fromkeys(("left", "right"), table), anchor="right", method="centred", column={"left": "a", "right": "b"}
    )
    assert columns["right"].fingerprint == arrays["image"].fingerprint
    with pytest.raises(InputError, match=r"role audio: .*root: holds text and images; name .*text_emb or .*img_emb"):
        fr.fit_roles({"audio": root, "image": root}, anchor="image", method="centred")
    with pytest.raises(InputError, match=r"role text: .*several columns.*, a, b; name the one to take with column="):
        fr.fit_roles({"text": table, "image": root}, anchor="image", method="centred")
    with pytest.raises(InputError, match=r"role text: .*has no column 'c'.*a, b"):
        fr.fit_roles({"text": table, "image": root}, anchor="image", method="centred", column={"text": "c"})
    with pytest.raises(InputError, match=r"role image: the same rows as those of the anchor query"):
        fr.fit_roles({"query": root / "img_emb", "image": root}, anchor="query")


def test_another_width(rows):
    """A role of another encoder is refused, and the advice works: a map from pairs, then the mapped rows."""
    narrow = pi(rows["text"])[:, :8]
    wanted = r"role text: rows are 8 wide, those of the anchor image 12; map them first.*fr\.fit_map.*fastrealign map"
    with pytest.raises(InputError, match=wanted):
        fr.fit_roles(rows | {"text": narrow}, anchor="image")
    mapped = fr.fit_map(narrow, rows["text"], method="ridge")(narrow)
    roles = fr.fit_roles(rows | {"text": mapped}, anchor="image")
    assert roles["text"](mapped).shape == rows["text"].shape


def test_unknown_role(rows):
    roles = fr.fit_roles(rows, anchor="image")
    assert "image" in roles and "audio" not in roles and len(roles) == 3
    with pytest.raises(InputError, match=r"no role 'imge'.*'image'.*The roles are query, text, image"):
        roles["imge"]


def _changed(path, change, drop=()):
    """The file with another record or without tensors; as old files, without checksums, so that only the values are tested."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys() if name not in drop}  # noqa: SIM118
        (key,) = file.metadata()
        record = json.loads(file.metadata()[key])
    record = {name: value for name, value in record.items() if name not in ("tensors", "sha256", "checksum")} | {
        "format": 1
    }
    change(record)
    save_file(tensors, path, {key: json.dumps(record)})


@pytest.mark.parametrize(
    ("change", "drop", "said"),
    [
        (lambda r: r.update(anchor="audio"), (), "no map of the anchor audio"),
        (lambda r: r.update(roles=[]), (), "'roles' is"),
        (lambda r: r["roles"].update(text=3), (), "text is neither"),
        (lambda r: r["roles"]["text"].update(s="x"), (), "'s' is 'x'"),
        (lambda r: None, ("text/b",), "lacks b"),
    ],
)
def test_damaged(rows, tmp_path, change, drop, said):
    path = tmp_path / "roles.safetensors"
    fr.fit_roles(rows, anchor="image").save(path)
    _changed(path, change, drop)
    with pytest.raises(InputError, match=said) as caught:
        fr.Roles.load(path)
    assert str(path) in str(caught.value)


def test_other_files(rows, tmp_path):
    path = tmp_path / "one.safetensors"
    fr.fit(rows["text"], rows["image"]).save(path)
    with pytest.raises(InputError, match="holds alignment, expected roles"):
        fr.Roles.load(path)
    fr.fit_roles(rows, anchor="image").save(path)
    with pytest.raises(InputError, match=r"holds roles.*choose one"):
        fr.load(path)
