"""The run: what it writes, that it resumes to the same bytes wherever it was stopped, and what stops it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import tarfile

import corpus
import numpy as np
import pytest
import steps
from embed_output import Fake, in_order, rows_of, unit

import fastrealign as fr

torch = pytest.importorskip("torch")

from fastrealign.cli.main import main  # noqa: E402
from fastrealign.core.progress import Progress  # noqa: E402
from fastrealign.embed import OpenClip, embed_files  # noqa: E402
from fastrealign.formats import open_source  # noqa: E402

SMALL = ("--batch-size", 2, "--shard-rows", 4)


@pytest.fixture
def clip(open_clip_folder):
    return ("--clip", open_clip_folder)


def small(source, out, **options):
    return embed_files(source, out, Fake(), **{"batch_size": 2, "shard_rows": 4, "fsync": False, **options})


@pytest.mark.filterwarnings("ignore::fastrealign.FitWarning")
def test_images_and_captions_to_folders_that_align_reads(tmp_path, run, photos, jsonl, captions, clip):
    code, out, err = run(photos, "--out", tmp_path / "img", *clip, *SMALL)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"embedded 11 images of {photos}"
    assert "1 .csv: neither images nor captions" in out and "3 shards, 11 rows of float16" in out
    assert run(jsonl, "--out", tmp_path / "txt", *clip, "--quiet") == (0, "", "")
    assert rows_of(tmp_path / "img", "id") == in_order(photos)
    assert rows_of(tmp_path / "txt", "caption") == captions
    assert rows_of(tmp_path / "txt", "id") == [f"c{i}" for i in range(len(captions))]
    rows = rows_of(tmp_path / "img")
    assert rows.shape == (11, 24) and np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 2e-3

    report = fr.align(tmp_path / "txt", tmp_path / "img", tmp_path / "aligned")
    assert report.rows_out == 23
    assert rows_of(tmp_path / "aligned", "id") == [f"c{i}" for i in range(len(captions))]
    alignment = fr.load(tmp_path / "aligned" / "alignment.safetensors")
    assert alignment.encoder_source == alignment.encoder_target == "open_clip tiny_open_clip"
    assert fr.fit(tmp_path / "txt", tmp_path / "img").encoder_target == "open_clip tiny_open_clip"


def test_inspect_tells_of_the_run(tmp_path, captions, capsys):
    (tmp_path / "a.txt").write_text("\n".join(captions))
    small(tmp_path / "a.txt", tmp_path / "out")
    assert main(["inspect", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "output of fastrealign embed (encoder fake" in said and "6, 23 rows" in said and "gap" not in said


@pytest.mark.parametrize("by_length", [False, True])
@pytest.mark.parametrize(("batch_size", "shard_rows", "threads"), [(1, 3, 1), (5, 7, 3), (64, 100, 2)])
def test_rows_keep_their_places_for_any_batch_and_shard(
    tmp_path, jsonl, captions, batch_size, shard_rows, threads, by_length
):
    options = {"batch_size": batch_size, "shard_rows": shard_rows, "threads": threads, "dtype": "float32"}
    encoder = Fake(by_length=by_length)
    done = embed_files(jsonl, tmp_path / "out", encoder, fsync=False, **options)
    assert done.shards == -(-23 // shard_rows) and max(encoder.batches) == min(batch_size, shard_rows, 23)
    prepare = Fake().load("text").prepare
    np.testing.assert_allclose(rows_of(tmp_path / "out"), unit([prepare(text) for text in captions]), rtol=1e-6)


def test_a_batch_of_another_size_changes_rounding_alone(tmp_path, run, photos, clip):
    for size in (1, 5):
        out = tmp_path / f"by{size}"
        assert run(photos, "--out", out, *clip, "--batch-size", size, "--dtype", "float32", "--quiet")[0] == 0
    np.testing.assert_allclose(rows_of(tmp_path / "by1"), rows_of(tmp_path / "by5"), atol=2e-6)


@pytest.mark.parametrize("side", ["photos", "jsonl"])
def test_killed_at_any_step_and_resumed_it_ends_in_the_same_bytes(tmp_path, rng, request, open_clip_folder, side):
    """SIGKILL at every seventh step that changes the disk, in a child that has the encoder loaded already."""
    source, loaded = request.getfixturevalue(side), {}
    for name in ("images", "text"):
        loaded[name] = OpenClip(str(open_clip_folder), device="cpu").load(name)

    class Loaded(Fake):
        def load(self, side):
            return loaded[side]

    def embed(out):
        embed_files(source, out, Loaded(), batch_size=2, shard_rows=8, threads=1, resume=True)

    embed(tmp_path / "whole")
    whole = corpus.tree(tmp_path / "whole")
    for step in itertools.count(int(rng.integers(1, 8)), 7):
        out = tmp_path / "new" / "out"
        killed = steps.killed_at(step, lambda out=out: embed(out))
        steps.check(step, out, whole)
        assert not steps.killed_at(0, lambda out=out: embed(out))
        assert corpus.tree(out) == whole, f"step {step}"
        shutil.rmtree(out.parent)
        if not killed:
            break
    assert step > 20  # the folder, the journal, two or three shards, the manifest


class Stop(Progress):
    """Raises once so many items are embedded."""

    def __init__(self, rows, error):
        self.left, self.error, self.embedding = rows, error, False

    def start(self, phase, rows, nbytes):
        self.embedding = phase == "embedding"

    def advance(self, rows, nbytes):
        self.left -= rows if self.embedding else 0
        if self.left < 0:
            raise self.error


def test_an_interrupt_keeps_complete_shards_and_says_how_to_resume(tmp_path, jsonl):
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; 2 of 6 shards are complete, resume with resume=True"):
        small(jsonl, tmp_path / "out", progress=Stop(9, KeyboardInterrupt()))
    small(jsonl, tmp_path / "whole")
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".") == [
        "embeddings_00000.parquet",
        "embeddings_00001.parquet",
    ]
    with pytest.raises(
        fr.InputError, match=r"holds an unfinished run \(2 shards complete\); continue it with resume=True"
    ):
        small(jsonl, tmp_path / "out")
    done = small(jsonl, tmp_path / "out", resume=True)
    assert (done.shards_before, done.rows_now, done.rows) == (2, 15, 23)
    assert corpus.tree(tmp_path / "out") == corpus.tree(tmp_path / "whole")
    again = small(jsonl, tmp_path / "out", resume=True)
    assert again.nothing_to_do and str(again).startswith("nothing to do: ")
    with pytest.raises(KeyboardInterrupt, match="interrupted; nothing was written"):
        small(jsonl, tmp_path / "other", progress=Stop(3, KeyboardInterrupt()))
    assert not (tmp_path / "other").exists()


def test_what_has_changed_since_is_named(tmp_path, jsonl):
    with pytest.raises(fr.FastRealignError, match="full; 2 of 6 shards are complete"):
        small(jsonl, tmp_path / "out", progress=Stop(9, fr.FastRealignError("full")))

    def refused(what, source=jsonl, encoder=None, **options):
        how = {"batch_size": 2, "shard_rows": 4, "resume": True, **options}
        with pytest.raises(fr.InputError, match=f"out: the run there cannot be resumed: {what}; restart"):
            embed_files(source, tmp_path / "out", encoder or Fake(), **how)

    refused("dtype was float16, now it is float32", dtype="float32")
    refused("shard_rows was 4, now it is 5", shard_rows=5)
    refused("weights was w, now it is other", encoder=Fake(weights="other"))
    lines = jsonl.read_text().splitlines()
    jsonl.write_text(
        "\n".join([lines[0].replace("caption", "text"), *lines[1:]]).replace("text", "caption", 1) + "\n\n"
    )
    assert small(jsonl, tmp_path / "out", resume=True).shards_before == 2  # the same captions
    jsonl.write_text("\n".join([*lines[:5], '{"id": "c5", "caption": "another"}', *lines[6:]]))
    with pytest.raises(
        fr.InputError, match=r"run there is another one: the input of embeddings_00001.parquet was changed"
    ):
        small(jsonl, tmp_path / "out", resume=True)
    assert small(jsonl, tmp_path / "out", overwrite=True).rows == 23


def test_captions_that_are_added_to_an_unfinished_run_are_embedded_too(tmp_path, jsonl):
    with pytest.raises(KeyboardInterrupt):
        small(jsonl, tmp_path / "out", progress=Stop(9, KeyboardInterrupt()))
    jsonl.write_text(jsonl.read_text() + '{"id": "new", "caption": "one more"}\n')
    assert small(jsonl, tmp_path / "out", resume=True).rows == 24
    assert rows_of(tmp_path / "out", "id")[-1] == "new"


def test_an_input_that_changes_under_the_run(tmp_path, photos):
    class Touch(Progress):
        def start(self, phase, rows, nbytes):
            if phase == "embedding":
                (photos / "1.jpg").write_bytes((photos / "5.jpg").read_bytes())

    with pytest.raises(fr.InputError, match="photos: changed while it was read"):
        small(photos, tmp_path / "out", progress=Touch())
    assert not (tmp_path / "out").exists()


def test_bad_items_stop_the_run_or_are_left_out_and_listed(tmp_path, run, photos, clip):
    (photos / "7.jpg").write_bytes(b"no picture")
    (photos / "more" / "3.png").unlink()
    (photos / "more" / "3.png").symlink_to("nowhere")
    code, out, err = run(photos, "--out", tmp_path / "out", *clip, *SMALL)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(r"error: .*3\.png: no such file", err)
    (photos / "more" / "3.png").unlink()
    code, out, err = run(photos, "--out", tmp_path / "out", *clip, *SMALL)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert (
        f"{photos / '7.jpg'}: is no image that Pillow can read; replace or remove it; or leave such items out with --bad-items"
        in err
    )
    assert "1 of 3 shards is complete" in err
    code, out, err = run(photos, "--out", tmp_path / "out", *clip, *SMALL, "--resume", "--bad-items", "skip")
    assert (code, err) == (1, "")
    assert "left out   1 image, all in the manifest" in out
    wanted = [name for name in in_order(photos) if name != "7.jpg"]
    assert rows_of(tmp_path / "out", "id") == wanted
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    (record,) = [shard for shard in manifest["shards"] if shard["bad_rows"]]
    (((row, why),),) = [record["first_bad"]]
    assert (manifest["rows_in"], manifest["rows_out"], manifest["bad_rows"]) == (10, 9, 1)
    assert in_order(photos)[4 * manifest["shards"].index(record) + row] == "7.jpg" and "7.jpg: is no image" in why


def test_a_shard_of_nothing_but_bad_items(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n\n\nred\n")
    done = small(tmp_path / "a.txt", tmp_path / "out", bad_items="skip")
    assert (done.rows, done.shards, len(done.left_out)) == (1, 2, 4)
    assert rows_of(tmp_path / "out", "id") == ["4"]
    assert open_source(tmp_path / "out", side="source").rows == 1


def test_what_cannot_be_an_id_is_left_out_and_listed(tmp_path, run, photos, clip):
    os.rename(photos / "1.jpg", os.fsencode(photos) + b"/\xff.jpg")
    code, out, err = run(photos, "--out", tmp_path / "out", *clip, *SMALL)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert rf"{photos}/\xff.jpg: the name is not UTF-8, as an id must be; fix it, or leave such items out" in err
    code, out, err = run(photos, "--out", tmp_path / "out", *clip, *SMALL, "--bad-items", "skip")
    assert (code, err) == (1, "") and rf"{photos}/\xff.jpg: the name is not UTF-8" in out
    assert len(rows_of(tmp_path / "out", "id")) == 10
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "caption": "red"}\n{"id": "\\ud800", "caption": "blue"}\n')
    code, out, _ = run(path, "--out", tmp_path / "text", *clip, "--bad-items", "skip")
    assert code == 1 and f'{path}: line 2: the id "\\ud800" holds half of a surrogate pair' in out
    assert rows_of(tmp_path / "text", "id") == ["a"]


@pytest.mark.parametrize("bad_items", ["error", "skip"])
def test_an_id_that_comes_twice(tmp_path, jsonl, photos, bad_items):
    def warned(what, source):
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        with pytest.warns(UserWarning, match=f"{what}; `train` looks rows up by id") as caught:
            small(source, out, bad_items=bad_items)
        assert "\n" not in str(caught[0].message) and len(set(rows_of(out, "id"))) < len(rows_of(out, "id"))

    path = tmp_path / "twice.jsonl"
    lines = jsonl.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2], lines[20]]))  # in another shard
    warned(r"twice\.jsonl: line 24: the id 'c2' is that of .*twice\.jsonl: line 3, too", path)
    path.write_text(lines[5])
    warned(r"twice\.jsonl: line 1: the id 'c5' is that of .*captions\.jsonl: line 6, too", [jsonl, path])
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(photos / "1.jpg", "0.jpg")
        file.add(photos / "more" / "0.png", "0.png")
    warned(r"a\.tar: 0\.png: the id '0' is that of .*a\.tar: 0\.jpg, too", tmp_path / "a.tar")
    (tmp_path / "more").mkdir()
    shutil.copy(photos / "1.jpg", tmp_path / "more")
    warned(r"photos/1\.jpg: the id '1\.jpg' is that of .*more/1\.jpg, too", [tmp_path / "more/1.jpg", photos / "1.jpg"])


def test_a_caption_that_is_left_out_takes_no_id_away(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": "a", "caption": ""}\n{"id": 0, "caption": "red"}\n')
    small(tmp_path / "a.jsonl", tmp_path / "out", bad_items="skip")
    assert rows_of(tmp_path / "out", "id") == ["0"]


def test_an_encoder_that_gives_zeros(tmp_path, jsonl):
    class Broken(Fake):
        def load(self, side):
            made = super().load(side)
            whole = made.encode
            object.__setattr__(made, "encode", lambda items: whole(items) * (np.arange(len(items)) != 1)[:, None])
            return made

    with pytest.raises(fr.FastRealignError, match=r"jsonl: line 2: fake gives only zeros for it, .*; check that"):
        embed_files(jsonl, tmp_path / "out", Broken(), batch_size=2, fsync=False)


def test_an_encoder_that_gives_nan(tmp_path, jsonl, monkeypatch):
    class Broken(Fake):
        def load(self, side):
            made = super().load(side)
            rows = itertools.count()
            whole = made.encode
            object.__setattr__(made, "encode", lambda items: whole(items) * (np.nan if next(rows) == 1 else 1))
            return made

    with pytest.raises(fr.FastRealignError, match=r"jsonl: line 3: fake gives NaN or Inf for it in fp32; choose"):
        embed_files(jsonl, tmp_path / "out", Broken(), batch_size=2, fsync=False)


def test_outputs_that_cannot_be_used(tmp_path, photos, jsonl):
    def refused(what, out, **options):
        with pytest.raises(fr.FastRealignError, match=what) as caught:
            small(photos, out, **options)
        assert "\n" not in str(caught.value)

    refused("lies inside the input", photos / "emb")
    refused("names one file", tmp_path / "emb.parquet")
    (tmp_path / "file").touch()
    refused("is a file, expected a folder", tmp_path / "file")
    refused("cannot be made|could not be written", tmp_path / "file" / "emb")
    refused("is not empty, it holds captions.jsonl", tmp_path)
    refused("choose one", tmp_path / "x", resume=True, overwrite=True)
    small(photos, tmp_path / "own")
    shutil.copy(jsonl, tmp_path / "own")
    refused("holds captions.jsonl, which fastrealign did not write", tmp_path / "own", overwrite=True)


def test_models_that_are_not_there_or_lack_a_tower(
    tmp_path, run, photos, jsonl, open_clip_folder, clip_folder, llama_folder
):
    def refused(what, source, *words):
        code, out, err = run(source, "--out", tmp_path / "out", *words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert re.search(what, err), err
        assert not (tmp_path / "out").exists()

    weights = open_clip_folder / "open_clip_model.safetensors"
    refused(r"--clip ViT-B-33: no such file or folder.*did you mean 'ViT-B-32'", photos, "--clip", "ViT-B-33")
    refused(r"--clip ViT-B-32 is without weights: name a file or a tag .*openai", photos, "--clip", "ViT-B-32")
    refused("--pretrained nope: no such file", photos, "--clip", "ViT-B-32", "--pretrained", "nope")
    refused(
        "--pretrained laion2b_s34b_b79k: a tag of open_clip.*pass --hub to",
        photos,
        "--clip",
        "ViT-B-32",
        "--pretrained",
        "laion2b_s34b_b79k",
    )
    refused("brings its own weights", photos, "--clip", open_clip_folder, "--pretrained", weights)
    refused(r"has no open_clip_config.json; .*--model", photos, "--clip", clip_folder)
    refused(r"nothing.json: no such file", photos, "--clip", "nothing.json")
    refused("--model /no/such/folder: no such file or folder$", photos, "--model", "/no/such/folder")
    refused(
        "openai/clip: no such file or folder, and .* name it hf://openai/clip, or pass --hub",
        photos,
        "--model",
        "openai/clip",
    )
    refused(f"{clip_folder}_: no such .*, did you mean '{clip_folder.name}'", photos, "--model", f"{clip_folder}_")
    for words in (["--model", "hf://openai/clip"], ["--model", "openai/clip", "--hub"]):  # the tests are offline
        refused("not on this machine, and the download failed", photos, *words)
    refused(r"has no config.json; .*--clip", photos, "--model", open_clip_folder)
    refused("LlamaModel has no image tower", photos, "--model", llama_folder)
    refused(
        "LlamaModel has no what takes|has no .*get_text_features",
        jsonl,
        "--model",
        llama_folder,
        "--text-model",
        llama_folder,
    )
    refused("expected one {}", jsonl, "--model", llama_folder, "--template", "no place")
    refused("goes with --model", jsonl, "--clip", open_clip_folder, "--trust-remote-code")
    refused("goes with --clip", jsonl, "--model", clip_folder, "--pretrained", weights)
    if not torch.cuda.is_available():
        refused("--device cuda:1: no such GPU, PyTorch sees none", jsonl, "--model", clip_folder, "--device", "cuda:1")
    refused("--device tpux: expected auto", jsonl, "--model", clip_folder, "--device", "tpux")


def test_weights_that_do_not_fit_or_are_damaged(tmp_path, run, jsonl, open_clip_folder, clip_folder):
    broken = tmp_path / "broken"
    shutil.copytree(clip_folder, broken)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[:-5])
    code, _, err = run(jsonl, "--out", tmp_path / "out", "--model", broken)
    assert (code, err.count("\n")) == (2, 1) and f"--model {broken}: cannot be loaded" in err
    (broken / "model.safetensors").unlink()
    code, _, err = run(jsonl, "--out", tmp_path / "out", "--model", broken)
    assert (code, err.count("\n")) == (2, 1) and f"--model {broken}" in err
    config = json.loads((open_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "other.json").write_text(json.dumps(config))
    words = ["--clip", tmp_path / "other.json", "--pretrained", clip_folder / "model.safetensors"]
    code, _, err = run(jsonl, "--out", tmp_path / "out", *words)
    assert (code, err.count("\n")) == (2, 1) and "cannot be loaded: RuntimeError: Error(s) in loading state_dict" in err
    assert "check that these are files of one model" in err
