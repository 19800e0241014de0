"""Both sides of an alignment: each its own column, the same rows never on both, a warning where they look swapped."""

from __future__ import annotations

import os
import pickle
import warnings
from dataclasses import replace

import corpus
import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.main import main
from fastrealign.core import reference
from fastrealign.core.errors import FitWarning, InputError
from fastrealign.data import cluster_sampling
from fastrealign.formats.choose_column import role_of
from fastrealign.formats.manifest import JobSpec
from fastrealign.methods.baselines import METHODS

FORMATS = ["parquet", "arrow", "hf", "lance", "torch", "safetensors", "pickle"]


@pytest.fixture
def sides(rng):
    """Texts and images with a gap between them, as many of each."""
    return ((rng.standard_normal((60, 8)) + shift).astype(np.float32) for shift in (1.0, -0.7))


@pytest.fixture
def run(capfd):
    def run(*argv):
        code = main([str(word) for word in argv])
        printed = capfd.readouterr()
        return code, printed.out + printed.err

    return run


def write(folder, kind, **matrices):
    """One file, or a dataset, with all of these."""
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "torch":
        torch = pytest.importorskip("torch")
        path = folder / "both.pt"
        torch.save({name: torch.from_numpy(rows) for name, rows in matrices.items()}, path)
    elif kind == "safetensors":
        path = folder / "both.safetensors"
        pytest.importorskip("safetensors.numpy").save_file(matrices, path)
    elif kind == "pickle":
        items = [dict(zip(matrices, rows, strict=True)) for rows in zip(*matrices.values(), strict=True)]
        path = corpus.pickle_file(folder / "both.pkl", [{"id": i, **item} for i, item in enumerate(items)])
    else:
        pa = pytest.importorskip("pyarrow")
        lists = {name: pa.array(list(rows), pa.list_(pa.float32())) for name, rows in matrices.items()}
        table = pa.table({"id": [str(i) for i in range(len(next(iter(matrices.values()))))], **lists})
        if kind == "hf":
            path = folder / "set"
            pytest.importorskip("datasets").Dataset(table).save_to_disk(path)
        elif kind == "lance":
            path = folder / "both.lance"
            pytest.importorskip("lance").write_dataset(table, path)
        elif kind == "arrow":
            path = folder / "both.arrow"
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        else:
            path = folder / "both.parquet"
            pytest.importorskip("pyarrow.parquet").write_table(table, path)
    return path


def is_of(found, text, image):
    """Whether an alignment is of these sides."""
    means = [reference.moments(rows)[0] for rows in (text, image)]
    return np.allclose(found.mean_source, means[0], atol=1e-6) and np.allclose(found.mean_target, means[1], atol=1e-6)


# --- names that tell --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "role"),
    [
        ("text text_emb emb_text text_features clip_text_emb textEmbedding CLIPTextEmb txt_feat captions txt2", "text"),
        ("image images img_emb emb_img image_embeds visual_feat vision_embeds pixel_embeds imgemb ImageVec", "images"),
        ("context_vec texture pretext imagenet imagined visualize embedding textual_image image_text_emb", None),
    ],
)
def test_words_that_say_a_side(names, role):
    for name in names.split():
        assert role_of(name) == (None if name == "textual_image" else role), name


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "names", [("text_embedding", "image_embedding"), ("emb_txt", "clip_img_emb"), ("caption", "visual")]
)
def test_names_tell_the_sides_of_one_file(tmp_path, sides, kind, names):
    text, image = sides
    box = np.ones((60, 4), np.float32)
    path = write(tmp_path, kind, box=box, **dict(zip(names, (text, image), strict=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitWarning)
        found = fr.fit(path, path)
    assert is_of(found, text, image)
    assert (found.column_source, found.column_target) == names
    assert is_of(fr.align(path, path, tmp_path / "out").alignment, text, image)


def test_sets_of_items_in_one_pickle(tmp_path, sides):
    """Of pickles that convert alone reads, --side tells the set."""
    text, image = sides
    sets = {
        name: {i: {"embed": row} for i, row in enumerate(rows)}
        for name, rows in (("captions", text), ("images", image))
    }
    (tmp_path / "both.pkl").write_bytes(pickle.dumps(sets))
    for side, rows in (("text", text), ("image", image)):
        fr.convert(tmp_path / "both.pkl", tmp_path / f"{side}.npy", side=side)
        assert np.array_equal(np.load(tmp_path / f"{side}.npy"), rows)
    with pytest.raises(
        InputError, match=r"several sets of items, 'captions', 'images'; name the one to take with column="
    ):
        fr.convert(tmp_path / "both.pkl", tmp_path / "any.npy")


@pytest.mark.parametrize("kind", FORMATS)
def test_names_that_do_not_tell_name_the_option(tmp_path, sides, kind):
    text, image = sides
    path = write(tmp_path, kind, first=text, second=image)
    with pytest.raises(InputError, match=r"first.*second.*column=$"):
        fr.fit(path, path)
    with pytest.raises(InputError, match=r"first.*second.*target_column=$"):
        fr.fit(path, path, column="first")
    assert is_of(fr.fit(path, path, column="first", target_column="second"), text, image)
    assert is_of(fr.fit(path, path, column="second", target_column="first"), image, text)


@pytest.mark.parametrize(
    "names", [("text_emb", "caption_emb"), ("image_emb", "image_embeds"), ("text_emb", "image_box")]
)
def test_names_of_one_role_are_not_chosen_between(tmp_path, sides, names):
    """Nor is what is of the other side, or no embedding by its name, taken because it is the only one left."""
    path = write(tmp_path, "safetensors", **dict(zip(names, sides, strict=True)))
    with pytest.raises(InputError, match=r"name the one to take with (target_)?column="):
        fr.fit(path, path)


def test_inspect_and_convert_do_not_choose_a_side(tmp_path, sides, run):
    path = write(tmp_path, "safetensors", **dict(zip(("text_emb", "image_emb"), sides, strict=True)))
    for argv in (["inspect", path], ["convert", path, "--out", tmp_path / "out.npy"]):
        code, said = run(*argv)
        assert code == 2 and "image_emb, text_emb; name the one to take with --column" in said


# --- a column a side --------------------------------------------------------------------------------------------------


def test_the_column_of_the_source_is_that_of_another_target_of_the_layout(tmp_path, sides):
    text, image = sides
    some, others = (
        write(tmp_path / name, "safetensors", a=rows, b=rows[::-1] + 1.0)
        for name, rows in (("one", text), ("two", image))
    )
    assert is_of(fr.fit(some, others, column="a"), text, image)
    assert is_of(fr.fit(some, others, column="a", target_column="b"), text, image[::-1] + 1.0)
    assert is_of(fr.fit(some, write(tmp_path / "three", "safetensors", emb=image), column="a"), text, image)


def test_the_column_of_texts_is_not_taken_from_a_target_that_has_images(tmp_path, sides):
    text, image = sides
    some = write(tmp_path / "one", "safetensors", text_emb=text, image_emb=image + 5)
    others = write(tmp_path / "two", "safetensors", text_emb=text + 3, image_emb=image)
    assert is_of(fr.fit(some, others, column="text_emb"), text, image)
    assert is_of(fr.fit(some, others, column="text_emb", target_column="text_emb"), text, text + 3)


@pytest.mark.usefixtures("undrawn")
def test_a_column_a_side_in_every_command(tmp_path, sides, run):
    """Of a file whose names do not tell, and of another one of two such files."""
    pytest.importorskip("matplotlib")
    text, image = sides
    path = write(tmp_path, "parquet", first=text, second=image)
    columns = ["--column", "first", "--target-column", "second"]
    for argv in (
        ["align", path, "--target", path, "--out", tmp_path / "out.parquet"],
        ["fit", path, "--target", path, "--out", tmp_path / "fit.safetensors"],
        ["fit", path, "--target", path, "--from", tmp_path / "fit.safetensors", "--out", tmp_path / "more.safetensors"],
        ["check", tmp_path / "fit.safetensors", path, "--target", path],
        ["report", "--source", path, "--target", path, "--out", tmp_path / "page.html", "--methods", "realign"],
    ):
        code, said = run(*argv, *columns)
        assert code == 0, said
        assert "'first'" in said and "'second'" in said
    pairs = ["--pairs", path, path, "--domain", "d", path, path, "--overwrite"]
    assert run(*argv, *columns, *pairs)[0] == 0
    for name in ("fit", "more"):
        assert is_of(fr.load(tmp_path / f"{name}.safetensors"), text, image)
    kept = fr.load(tmp_path / "fit.safetensors")
    rows = np.array(pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "out.parquet")["first"].to_pylist())
    np.testing.assert_allclose(rows, reference.row_map(text, kept.s, kept.b, kept.c), rtol=0, atol=1e-6)
    assert fr.check(kept, path, path, column="first", target_column="second").gap_left < 0.05
    assert fr.report(path, path, column="first", target_column="second", methods=["none"]).gap_before == pytest.approx(
        kept.gap_before
    )
    baseline = fr.fit(path, path, method="anchor", column="first", target_column="second")
    np.testing.assert_allclose(baseline.mean_target, kept.mean_target, rtol=0, atol=1e-12)
    assert is_of(fr.update(kept, path, path, column="first", target_column="second"), text, image)


def test_a_target_column_without_a_target(tmp_path, sides, run):
    text, image = sides
    fr.fit(text, image).save(tmp_path / "a.safetensors")
    np.save(tmp_path / "t.npy", text)
    code, said = run("check", tmp_path / "a.safetensors", tmp_path / "t.npy", "--target-column", "x")
    assert code == 2 and "without a target" in said


def test_another_column_is_another_run(tmp_path, sides, run):
    text, image = sides
    path = write(tmp_path, "parquet", first=text, second=image, third=image + 1)
    out = tmp_path / "out.parquet"
    fr.align(path, path, out, column="first", target_column="second")
    for columns, says in (
        (("first", "third"), "target_column was second, now it is third"),
        (("third", "second"), "column"),
    ):
        with pytest.raises(InputError, match=says):
            fr.align(path, path, out, column=columns[0], target_column=columns[1], resume=True)
    assert fr.align(path, path, out, column="first", target_column="second", resume=True).nothing_to_do


# --- the same rows ----------------------------------------------------------------------------------------------------


def spellings(folder):
    """One folder of two shards, in other words."""
    (folder.parent / "link").symlink_to(folder)
    hard = folder.parent / "hard"
    hard.mkdir()
    for name in os.listdir(folder):
        os.link(folder / name, hard / name)
    paths = sorted(folder.iterdir())
    return [
        folder,
        f"{folder}/",
        f"{folder}/*.npy",
        folder.parent / "nothing" / ".." / folder.name,
        folder.parent / "link",
        hard,
        paths[::-1],
        f"file://{folder}",
        os.path.relpath(folder),
    ]


def test_the_same_files_however_they_are_spelled(tmp_path, rng):
    rows = rng.standard_normal((40, 4))
    (tmp_path / "nothing").mkdir()
    folder = corpus.npy_folder(tmp_path / "rows", np.split(rows, 2))
    for other in spellings(folder):
        with pytest.raises(InputError, match="source and target are the same rows"):
            fr.fit(folder, other)
        with pytest.raises(InputError, match="source and target are the same rows"):
            fr.align(folder, other, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_url_however_it_is_spelled(tmp_path, rng):
    fsspec = pytest.importorskip("fsspec")
    np.save(tmp_path / "x.npy", rng.standard_normal((40, 4)))
    memory = fsspec.filesystem("memory")
    try:
        memory.pipe("/sides/x.npy", (tmp_path / "x.npy").read_bytes())
        with pytest.raises(InputError, match="are the same rows"):
            fr.fit("memory://sides/x.npy", "memory:///sides/x.npy")
    finally:
        memory.rm("/sides", recursive=True)


def test_the_advice_about_the_same_column_works(tmp_path, sides):
    text, image = sides
    path = write(tmp_path, "parquet", embedding=text, other=image)
    with pytest.raises(InputError, match=r"are the same rows.*'embedding'.*column= and target_column="):
        fr.fit(path, path)
    assert is_of(fr.fit(path, path, target_column="other"), text, image)


def test_one_array_or_iterable_on_both_sides(rng):
    rows = rng.standard_normal((50, 6))
    chunks = [rows[:20], rows[20:]]
    numbered = iter(chunks)
    for source, target in ((rows, rows), (rows, rows[:]), (chunks, chunks), (numbered, numbered)):
        with pytest.raises(InputError, match="source and target are the same rows"):
            fr.fit(source, target)
    fr.fit(rows[:20], rows[20:])
    fr.fit(rows, rows[:, ::-1])


def test_one_tensor_on_both_sides(rng):
    torch = pytest.importorskip("torch")
    rows = torch.from_numpy(rng.standard_normal((50, 6)))
    with pytest.raises(InputError, match="source and target are the same rows"):
        fr.fit(rows, rows.view(50, 6))


@pytest.mark.parametrize("options", [{"method": name} for name in METHODS] + [{"one_pass": True}, {"tol": 0.1}])
def test_copies_are_found_out(rng, monkeypatch, options):
    monkeypatch.setattr(cluster_sampling, "BLOCK_BYTES", 512)
    rows = rng.standard_normal((3000, 6)) + 0.3
    with pytest.raises(InputError, match="source and target hold the same rows"):
        fr.fit(rows, rows.copy(), **options)


@pytest.mark.parametrize("seed", [None, 101, 113, 157])
def test_a_sample_of_copies_in_another_order_is_warned_of(rng, monkeypatch, seed):
    """With these seeds the samples differ by more than the bound of the fit, which may fail in one fit of twenty."""
    monkeypatch.setattr(cluster_sampling, "BLOCK_BYTES", 512)
    draw = rng if seed is None else np.random.default_rng([seed, 7])
    rows = draw.standard_normal((9000, 6)) + 0.3
    with pytest.warns(FitWarning, match=r"may be chance: samples of this size.*are source and target different rows\?"):
        fr.fit(rows, draw.permutation(rows), tol=0.2)


def test_copies_in_another_format_and_order(tmp_path, rng):
    rows = (rng.standard_normal((300, 6)) + 0.3).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    copy = corpus.parquet_file(tmp_path / "copy.parquet", rng.permutation(rows))
    with pytest.raises(InputError, match=r"hold the same rows: those of .*rows\.npy and of .*copy\.parquet"):
        fr.align(tmp_path / "rows.npy", copy, tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    other = fr.fit(rows, rng.standard_normal((300, 6)))
    for call in (fr.update, fr.check):
        with pytest.raises(InputError, match="hold the same rows"):
            call(other, tmp_path / "rows.npy", copy)
    with pytest.raises(InputError, match="hold the same rows"):
        fr.report(tmp_path / "rows.npy", copy, methods=["none"])
    with pytest.raises(InputError, match="are the same rows"):
        fr.report(rows, rng.standard_normal((300, 6)), methods=["none"], domains={"a": (copy, copy)})


def test_an_estimator_refuses_its_own_rows(rng):
    pytest.importorskip("sklearn")
    rows = rng.standard_normal((40, 6)) + 0.3
    with pytest.raises(InputError, match="the same rows"):
        fr.ReAlign(target=rows).fit(rows)
    assert fr.ReAlign().fit(rows).alignment_.gap_before == 0.0


def test_centred_sides_are_not_the_same_rows(rng):
    """Both means are exactly zero."""
    a, b = rng.standard_normal((2, 30, 5))
    with pytest.warns(FitWarning, match="the mean of the unit rows is zero"):
        fr.fit(np.concatenate([a, -a]), np.concatenate([b, -b]))


def test_some_files_on_both_sides_are_warned_of(tmp_path, rng):
    folder = corpus.npy_folder(tmp_path / "rows", np.split(rng.standard_normal((60, 4)), 3))
    with pytest.warns(FitWarning, match=r"part_0\.npy: 1 of 3 files is in the source and in the target"):
        fr.fit(folder, folder / "part_0.npy")


# --- sides that look swapped ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "target", "warned"),
    [
        ("img_emb/a.npy", "text_emb/a.npy", True),
        ("images.npy", "captions.npy", True),
        ("run/visual_feats/0.npy", "run/TextFeats/0.npy", True),
        ("text_emb/a.npy", "img_emb/a.npy", False),
        ("images/text_emb/a.npy", "images/img_emb/a.npy", False),
        ("images/a.npy", "images/text/b.npy", False),  # in a folder of both
        ("images/text_emb/a.npy", "captions/img_emb/a.npy", False),  # the nearest name decides
        ("text/img_emb/a.npy", "images/text_emb/a.npy", True),
        ("images/a.npy", "texture/b.npy", False),
        ("a.npy", "b.npy", False),
        ("images/a.npy", "pictures/b.npy", False),
        ("texts/a.npy", "captions/b.npy", False),
    ],
)
def test_sides_that_look_swapped(tmp_path, rng, run, source, target, warned):
    paths = []
    for name in (source, target):
        paths.append(tmp_path / "images" / name)  # what both have in common tells nothing
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        np.save(paths[-1], rng.standard_normal((40, 4)))
    code, said = run("fit", paths[0], "--target", paths[1], "--out", tmp_path / "a.safetensors")
    assert code == 0
    assert ("source and target look swapped" in said) == warned
    if warned:
        assert len([line for line in said.splitlines() if "warning" in line]) == 1


def test_columns_that_look_swapped(tmp_path, sides):
    path = write(tmp_path, "parquet", **dict(zip(("text_emb", "image_emb"), sides, strict=True)))
    columns = {"column": "image_emb", "target_column": "text_emb"}
    with pytest.warns(FitWarning, match=r"look swapped: by the column 'image_emb' .*, by the column 'text_emb'"):
        found = fr.fit(path, path, **columns)
    with pytest.warns(FitWarning, match="look swapped"):
        fr.align(path, path, tmp_path / "out", **columns)
    with pytest.warns(FitWarning, match="look swapped"):
        fr.check(found, path, path, **columns)
    with pytest.warns(FitWarning, match="look swapped"):
        fr.report(path, path, methods=["none"], **columns)


def test_what_embed_noted_that_looks_swapped(tmp_path, sides, monkeypatch):
    """It writes captions beside embeddings of text alone."""
    text, image = sides
    texts = corpus.parquet_file(tmp_path / "a" / "t.parquet", text, caption=["a cat"] * 60)
    images = corpus.parquet_file(tmp_path / "b" / "i.parquet", image)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitWarning)
        fr.fit(images, texts)
    made_by = JobSpec("embed", {"encoder": "open_clip ViT-B-32"}, {})
    monkeypatch.setattr("fastrealign.data.sources.spec_of", lambda paths: made_by)
    with pytest.warns(FitWarning, match="look swapped: by what `embed` noted"):
        fr.fit(images, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FitWarning)
        found = fr.fit(texts, images)
    # Each side has its own encoder: rows of the target's are not what the alignment moves.
    found = replace(found, encoder_source="words", encoder_target="open_clip ViT-B-32")
    with pytest.warns(FitWarning, match="whose rows the alignment moves others to"):
        fr.apply_files(found, images, tmp_path / "out.parquet")
