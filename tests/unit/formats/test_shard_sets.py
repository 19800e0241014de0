"""shard_sets.py: which files of a folder are shards of the set; find_shards.py: folders in folders, patterns and ~."""

from __future__ import annotations

import errno
import fnmatch
import os
import re
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core.errors import InputError
from fastrealign.formats import open_source
from fastrealign.formats.find_shards import _is_folder
from fastrealign.formats.shard_names import Name, pattern_of

DIM = 4


def save(path, rng, rows=3, dim=DIM):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = rng.standard_normal((rows, dim)).astype(np.float32)
    np.save(path, made)
    return made


def names(spec, side="source"):
    return [shard.name for shard in open_source(spec, side=side).shards]


def quietly(spec, side="source"):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return names(spec, side)


def pattern_in(message):
    """The pattern of the advice `PATTERN leaves it out` or `the pattern PATTERN`, which has no spaces here."""
    return re.search(r"(\S+) leaves (?:it|\S+) out|the pattern (\S+)$", message).group(1, 2)


@pytest.fixture
def rejected():
    def rejected(call):
        with pytest.raises(fr.InputError) as caught:
            call()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    return rejected


USUAL = {
    "LAION": ["img_emb_0000.npy", "img_emb_0001.npy", "img_emb_0010.npy"],
    "no zeros in front": [f"{i}.npy" for i in range(12)],
    "Hugging Face": [f"train-{i:05d}-of-00003.npy" for i in range(3)],
    "Hugging Face, hashes": [
        f"train-0000{i}-of-00003-{h}.npy" for i, h in enumerate(("0c1d2e3f4a5b6c7d", "9a8b7c6d5e4f3a2b"))
    ],
    "Spark": [f"part-{i:05d}-8a3f1c52-11e2-4d0a-9c58-0123456789ab-c000.snappy.npy" for i in range(4)],
    "Spark, two runs": [
        f"part-0000{i}-{u}-c000.npy"
        for i in range(3)
        for u in ("8a3f1c52-11e2-4d0a-9c58-0123456789ab", "0a3f1c52-99e2-4d0a-9c58-ba9876543210")
    ],
    "words": ["alpha.npy", "beta.npy", "gamma.npy"],
    "languages": [f"{language}_{i}.npy" for language in ("de", "en", "fr") for i in range(3)],
    "one split": ["train.npy"],
    "versions of one": [f"emb_{i}_v2.npy" for i in range(3)],
    "renamed by a file manager": [f"emb ({i}).npy" for i in range(1, 5)],
    "dates": [f"2024-0{i}-1{i}.npy" for i in range(1, 5)],
    "widths": [f"emb_{i}_768d.npy" for i in range(4)],
}


@pytest.mark.parametrize("usual", USUAL.values(), ids=USUAL)
def test_usual_sets_are_read_without_a_word(tmp_path, rng, usual):
    for name in usual:
        save(tmp_path / "x" / name, rng)
    for beside in ("_SUCCESS", ".0.npy.crc", "._0.npy", "x.npy~", "x.npy.bak", "notes.txt"):
        (tmp_path / "x" / beside).write_bytes(b"x")
    assert sorted(quietly(tmp_path / "x")) == sorted(usual)
    assert sorted(quietly(str(tmp_path / "x" / "*.npy"))) == sorted(usual)


COPIES = {
    "text_emb_1 (1)": "text_emb_1",
    "text_emb_1 (copy)": "text_emb_1",
    "text_emb_1 - Copy": "text_emb_1",
    "text_emb_1 - Copy (2)": "text_emb_1",
    "text_emb_1 copy 2": "text_emb_1",
    "Copy of text_emb_1": "text_emb_1",
    "text_emb_1_fp16": "text_emb_1",
    "text_emb_fp16_1": "text_emb_1",
    "text_emb_1_v2": "text_emb_1",
    "text_emb_1.bak": "text_emb_1",
    "text_emb_1_dedup": "text_emb_1",
    "text_emb_1_aligned": "text_emb_1",
    "text_emb_all": "text_emb_0",
    "text_emb_all_768d": "text_emb_0",
    "merged": "text_emb_0",
    "full": "text_emb_0",
}


@pytest.mark.parametrize(("odd", "of"), COPIES.items(), ids=COPIES)
@pytest.mark.parametrize("pattern", [False, True])
def test_rows_that_would_count_twice(tmp_path, rng, rejected, odd, of, pattern):
    for i in range(5):
        save(tmp_path / "x" / f"text_emb_{i}.npy", rng)
    save(tmp_path / "x" / f"{odd}.npy", rng)
    spec = str(tmp_path / "x" / "*.npy") if pattern else tmp_path / "x"
    for side in ("source", "target"):
        message = rejected(lambda side=side: names(spec, side))
        assert f"{odd}.npy: by its name" in message and f"{of}.npy" in message and "count twice" in message
    (tried, _) = pattern_in(message)
    assert quietly(tried) == [f"text_emb_{i}.npy" for i in range(5)]
    every = sorted(map(str, (tmp_path / "x").iterdir()))
    with pytest.warns(UserWarning, match="count twice"):  # who names each of them gets them
        assert len(names(every)) == 6


@pytest.mark.parametrize(
    ("one", "two"), [("x_{}_v1", "x_{}_v2"), ("x_{}_fp16", "x_{}_fp32"), ("v1_x_{}_v1", "v1_x_{}_v3")]
)
def test_versions_side_by_side(tmp_path, rng, rejected, one, two):
    for i in range(3):
        for name in (one, two):
            save(tmp_path / f"{name.format(i)}.npy", rng)
    message = rejected(lambda: names(tmp_path))
    (tried, _) = pattern_in(message)
    assert len(quietly(tried)) == 3 and len({name[-5] for name in quietly(tried)}) == 1


def test_all_rows_of_others_in_one_file_by_its_rows(tmp_path, rng, rejected):
    parts = [save(tmp_path / "x" / f"part_{i}.npy", rng, rows=3 + i) for i in range(4)]
    np.save(tmp_path / "x" / "texts.npy", np.concatenate(parts))
    message = rejected(lambda: names(tmp_path / "x"))
    assert "texts.npy: has the rows of 4 others" in message
    assert len(quietly(pattern_in(message)[0])) == 4
    np.save(tmp_path / "x" / "texts.npy", np.concatenate(parts)[::-1])  # as many rows, but others
    with pytest.warns(UserWarning, match=r"texts.npy: read as part of one set with the 4"):
        assert len(names(tmp_path / "x")) == 5


@pytest.mark.parametrize("odd", ["mean", "stats", "last", "centroid_0"])
def test_a_file_that_is_named_unlike_the_others(tmp_path, rng, odd):
    for i in range(5):
        save(tmp_path / f"text_emb_{i}.npy", rng)
    save(tmp_path / f"{odd}.npy", rng, rows=1)
    with pytest.warns(UserWarning) as said:
        assert len(names(tmp_path)) == 6
    (message,) = {str(one.message) for one in said}
    assert f"{odd}.npy: read as part of one set with the 5" in message
    assert quietly(pattern_in(message)[0]) == [f"text_emb_{i}.npy" for i in range(5)]


@pytest.mark.parametrize("shape", [(DIM,), (1, DIM + 1), (2, 2, 2)])
def test_a_file_that_cannot_be_of_the_set_is_reported_with_the_pattern(tmp_path, rng, rejected, shape):
    for i in range(3):
        save(tmp_path / f"text_emb_{i}.npy", rng)
    np.save(tmp_path / "mean.npy", np.ones(shape, np.float32))
    message = rejected(lambda: names(tmp_path))
    assert "mean.npy" in message and message.endswith("leaves mean.npy out")
    assert quietly(pattern_in(message)[0]) == [f"text_emb_{i}.npy" for i in range(3)]


@pytest.mark.parametrize("split", [("train", "test"), ("train", "validation"), ("training", "val"), ("dev", "test")])
def test_splits_in_one_folder(tmp_path, rng, split):
    for name in split:
        for i in range(3):
            save(tmp_path / f"{name}-{i:05d}-of-00003.npy", rng)
    with pytest.warns(UserWarning, match="holds the splits .* read as one set"):
        assert len(names(tmp_path)) == 6
    assert len(quietly(f"{tmp_path}/{split[0]}-*.npy")) == 3


def test_both_sides_in_one_folder(tmp_path, rng, rejected):
    for i in range(3):
        for side in ("text", "img"):
            save(tmp_path / "x" / f"{side}_emb_{i}.npy", rng)
    assert quietly(tmp_path / "x") == [f"text_emb_{i}.npy" for i in range(3)]
    assert quietly(tmp_path / "x", "target") == [f"img_emb_{i}.npy" for i in range(3)]
    save(tmp_path / "x" / "other.npy", rng)
    assert "of texts and some of images" in rejected(lambda: names(tmp_path / "x"))


@pytest.mark.parametrize(
    "of_one",
    [
        ["visual_genome", "conceptual_captions"],
        ["open_images_0", "open_images_1", "coco_captions_0"],
        ["open_images", "coco_captions", "sbu_captions"],
    ],
)
def test_words_of_both_sides_in_the_names_of_one(tmp_path, rng, rejected, of_one):
    every = [tmp_path / "x" / f"{name}.npy" for name in of_one]
    for path in every:
        save(path, rng)
    for side in ("source", "target"):
        message = rejected(lambda side=side: names(tmp_path / "x", side))
        assert f"name all those of the {side} one by one" in message
        assert quietly(every, side) == [path.name for path in every]


@pytest.mark.parametrize(
    ("text", "image"),
    [("texts", "images"), ("coco_captions_{}", "coco_img_{}"), ("Text{}", "Image{}"), ("{}-txt_fp16", "{}-img_fp16")],
)
def test_sides_that_are_named_alike_but_for_the_word(tmp_path, rng, text, image):
    for i in range(2):
        save(tmp_path / f"{text.format(i)}.npy", rng)
        save(tmp_path / f"{image.format(i)}.npy", rng)
    assert set(quietly(tmp_path)) == {f"{text.format(i)}.npy" for i in range(2)}
    assert set(quietly(tmp_path, "target")) == {f"{image.format(i)}.npy" for i in range(2)}


@pytest.mark.parametrize("link", [lambda new, old: new.symlink_to(old), lambda new, old: new.hardlink_to(old)])
@pytest.mark.parametrize("listed", [False, True])
def test_one_file_under_two_names(tmp_path, rng, link, listed):
    for i in range(3):
        save(tmp_path / "x" / f"emb_{i}.npy", rng, rows=3 * (i > 0))
    link(tmp_path / "x" / "emb_3.npy", tmp_path / "x" / "emb_2.npy")
    spec = sorted((tmp_path / "x").iterdir()) if listed else tmp_path / "x"
    for side in ("source", "target"):
        with pytest.warns(UserWarning, match=r"emb_3.npy: is the file .*emb_2.npy under another name.* count twice"):
            assert len(names(spec, side)) == 4
    (tmp_path / "x" / "emb_3.npy").unlink()
    link(tmp_path / "x" / "emb_3.npy", tmp_path / "x" / "emb_0.npy")  # without rows it does no harm
    assert len(quietly(tmp_path / "x")) == 4
    (tmp_path / "y").mkdir()
    for i in range(3):  # how a cache of Hugging Face's hub lies
        (tmp_path / "y" / f"emb_{i}.npy").symlink_to(tmp_path / "x" / f"emb_{i}.npy")
    assert len(quietly(tmp_path / "y")) == 3


def test_what_runs_wrote_beside_the_input(tmp_path, rng):
    save(tmp_path / "x" / "text.npy", rng, rows=9)
    fr.align(tmp_path / "x" / "text.npy", rng.standard_normal((9, DIM)), tmp_path / "aligned" / "new.npy")
    for path in (tmp_path / "aligned").iterdir():
        path.rename(tmp_path / "x" / path.name)
    with pytest.warns(UserWarning, match="new.npy: left out, written by a run"):
        assert names(tmp_path / "x") == ["text.npy"]
    (tmp_path / "x" / "text.npy").unlink()
    assert quietly(tmp_path / "x") == ["new.npy"]


@pytest.mark.parametrize("data", ["data-00000-of-00001", "name-train", "name-train-00000-of-00002"])
@pytest.mark.parametrize(
    "kept", ["cache-1a2b3c4d5e6f7a8b", "cache-1a2b3c4d5e6f7a8b_00000_of_00002", "tmpab1_x9k2", "indices", "x.indices"]
)
def test_what_datasets_keeps_beside_its_data(tmp_path, rng, rejected, data, kept):
    pa = pytest.importorskip("pyarrow")
    for name in (data, kept):
        rows = pa.array(rng.standard_normal((3, DIM)).tolist())
        with pa.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as file:
            table = pa.table({"embedding": rows})
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
    for spec in (tmp_path, f"{tmp_path}/*.arrow"):
        with pytest.warns(UserWarning, match=rf"{kept}.arrow: left out, kept by the package datasets"):
            assert names(spec) == [f"{data}.arrow"]
    assert quietly(tmp_path / f"{kept}.arrow") == [f"{kept}.arrow"]
    (tmp_path / f"{data}.arrow").rename(tmp_path / "cache-ffffffff00000000.arrow")
    if kept.startswith("cache"):
        assert "one of several results" in rejected(lambda: names(tmp_path))


def aligned(out):
    return {path.relative_to(out).as_posix(): np.load(path) for path in Path(out).rglob("*.npy")}


@pytest.mark.parametrize("levels", [("a={}",), ("year={}", "month=0{}"), ("a={}", "files")])
def test_partitions_are_one_set(tmp_path, rng, levels, capfd):
    made = {}
    for i in range(12):
        path = "/".join(level.format(i) for level in levels) + "/part-0.npy"
        made[path] = save(tmp_path / "hive" / path, rng, rows=5)
    for beside in ("_temporary/0/x.npy", ".ipynb_checkpoints/part-0.npy", "a=0/_temporary/y.npy", "a=0/.hidden/z.npy"):
        save(tmp_path / "hive" / beside, rng)
    target = save(tmp_path / "t.npy", rng, rows=20)
    assert (
        main(["align", str(tmp_path / "hive"), "--target", str(tmp_path / "t.npy"), "--out", str(tmp_path / "out")])
        == 0
    )
    assert "warning" not in "".join(capfd.readouterr())
    order = sorted(made, key=lambda path: int(re.search(r"\d+", path)[0]))
    assert quietly(tmp_path / "hive") == order
    alignment = fr.fit(np.concatenate([made[path] for path in order]), target)
    found = aligned(tmp_path / "out")
    assert sorted(found) == sorted(made)
    for path, rows in made.items():
        assert np.allclose(found[path], alignment(rows), atol=1e-6)


def test_partitions_beside_shards(tmp_path, rng):
    save(tmp_path / "0.npy", rng)
    save(tmp_path / "a=1" / "0.npy", rng)
    with pytest.warns(UserWarning, match="those in a=1/ are not read"):
        assert names(tmp_path) == ["0.npy"]


@pytest.mark.parametrize("name", ["_delta_log", ".hoodie"])
def test_tables_with_versions(tmp_path, rng, rejected, name):
    save(tmp_path / "0.npy", rng)
    (tmp_path / name).mkdir()
    assert "holds files of older ones" in rejected(lambda: names(tmp_path))
    assert quietly([tmp_path / "0.npy"]) == ["0.npy"]


@pytest.mark.parametrize("folder", ["x", "run[1]", "what?", "a*b"])
@pytest.mark.parametrize("below", ["train", "a/b", "chunk-{}"])
def test_shards_in_folders_below(tmp_path, rng, rejected, folder, below):
    for i in range(2):
        save(tmp_path / folder / below.format(i) / f"{i}.npy", rng)
    save(tmp_path / folder / ".trash" / "0.npy", rng)
    message = rejected(lambda: names(tmp_path / folder))
    assert "folders in it do" in message
    assert len(quietly(pattern_in(message)[1])) == 2


@pytest.mark.parametrize("side", ["source", "target"])
def test_clip_retrieval_roots_in_a_folder(tmp_path, rng, rejected, side):
    for root in ("one", "two"):
        for folder in ("img_emb", "text_emb"):
            save(tmp_path / root / folder / f"{folder}_0.npy", rng)
    message = rejected(lambda: names(tmp_path, side))
    folder = {"source": "text_emb", "target": "img_emb"}[side]
    assert quietly(pattern_in(message)[1], side) == [f"{root}/{folder}/{folder}_0.npy" for root in ("one", "two")]


def test_brackets_in_names_of_folders_and_files(tmp_path, rng, monkeypatch):
    for folder in ("run[1]", "run1", "a?b", "c*d"):
        save(tmp_path / folder / "deep" / "0.npy", rng)
    save(tmp_path / "run[1]" / "deep" / "x[0].npy", rng)
    assert quietly(f"{tmp_path}/run[1]/*/0.npy") == ["deep/0.npy"]
    assert open_source(f"{tmp_path}/run[1]/*/0.npy", side="source").shards[0].path == f"{tmp_path}/run[1]/deep/0.npy"
    assert open_source(f"{tmp_path}/run[12]/*/0.npy", side="source").shards[0].path == f"{tmp_path}/run1/deep/0.npy"
    assert quietly(f"{tmp_path}/a?b/**/*.npy") == quietly(f"{tmp_path}/c*d/**/*.npy") == ["deep/0.npy"]
    assert quietly(f"{tmp_path}/run[1]/deep/x[0].npy") == ["x[0].npy"]
    monkeypatch.chdir(tmp_path)
    assert quietly("run[1]/deep/*.npy") == ["0.npy", "x[0].npy"]
    assert quietly(f"file://{tmp_path}/run[1]/deep/*.npy") == ["0.npy", "x[0].npy"]
    (tmp_path / "empty[1]").mkdir()
    save(tmp_path / "empty1" / "0.npy", rng)  # what the pattern matches, where the folder of that name has nothing
    assert quietly("empty[1]/*.npy") == ["empty1/0.npy"]


def test_the_home_folder(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "emb" / "0.npy", rng)
    assert quietly("~/emb") == quietly("~/emb/*.npy") == quietly(Path("~/emb/0.npy")) == ["0.npy"]
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "~" / "emb" / "here.npy", rng)
    assert quietly("~/emb") == ["here.npy"]


def test_the_same_on_a_server(rng, rejected):
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    root = "/members"
    try:
        for path in (
            "hive/a=2/0.npy",
            "hive/a=10/0.npy",
            "hive/a=2/_temporary/1.npy",
            "run[1]/0.npy",
            "run1/1.npy",
            "deep/x[2]/3.npy",
        ):
            with fs.open(f"{root}/{path}", "wb") as file:
                np.save(file, rng.standard_normal((3, DIM)).astype(np.float32))
        url = f"memory:/{root}"
        assert quietly(f"{url}/hive") == ["a=2/0.npy", "a=10/0.npy"]
        assert quietly(f"{url}/run[1]/*.npy") == ["0.npy"]
        assert quietly(f"{url}/run[13]/*.npy") == ["run1/1.npy"]
        assert quietly(f"{url}/deep/x[2]/*.npy") == ["3.npy"]
        message = rejected(lambda: names(f"{url}/deep"))
        assert quietly(pattern_in(message)[1]) == ["x[2]/3.npy"]
    finally:
        fs.rm(root, recursive=True)


def test_patterns_match_what_they_are_made_of(rng):
    """On random names: all of one set, none of another."""
    for _ in range(200):
        words = ["".join(rng.choice(list("ab[]*? -_."), 3)) for _ in range(3)]
        made = [f"{words[0]}{i:0{rng.integers(1, 4)}d}{words[1]}.npy" for i in rng.integers(0, 200, 4)]
        others = [f"{words[2]}.npy", f"{words[0]}{words[1]}.npy"]
        pattern = pattern_of(made, others)
        if pattern is not None:
            regex = fnmatch.translate(pattern)
            assert all(re.match(regex, name) for name in made) and not any(re.match(regex, name) for name in others)
    assert Name.of("text_emb_007_fp16").tail == "7_fp16" and Name.of("text_emb_7_fp16").numbers == (7,)


def test_an_entry_that_cannot_be_looked_at_is_not_left_out(tmp_path):
    """A folder of shards on a disk that fails would be missing without a word."""

    def entry(number):
        def is_dir():
            raise OSError(number, os.strerror(number))

        return SimpleNamespace(path=str(tmp_path / "part"), is_dir=is_dir)

    assert not _is_folder(entry(errno.ELOOP))
    with pytest.raises(InputError, match=r"part: cannot be read: Input/output error$"):
        _is_folder(entry(errno.EIO))
