"""bench.paper.world: what the paper's figures need of the rendered world beyond the demo's commands."""

from __future__ import annotations

import itertools
import json

import benchmarks
import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("open_clip")
torch = pytest.importorskip("torch")

from fastrealign import InputError  # noqa: E402
from fastrealign.cli.demo import backbone, encoder, samples, train  # noqa: E402
from fastrealign.cli.demo.scenes import COLOURS, render  # noqa: E402
from fastrealign.revision.data import available, open_embeddings, read_examples  # noqa: E402

encoder_training, language, losses, models, recipes, sets, shipped = (
    benchmarks.module(f"paper.world.{name}")
    for name in ("encoder_training", "language", "losses", "models", "recipes", "sets", "shipped")
)
SIZES = sets.Sizes(24, 40, 12, 12, 6, encoder_steps=1, sibling_steps=1, backbone_steps=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = sets.World(tmp_path_factory.mktemp("worlds") / "0", SIZES)
    sets.make(world, log=lambda text: None)
    return world


def test_every_set_has_its_embeddings_and_one_is_paired(world):
    images = open_embeddings(str(world.path("pretrain_images.parquet")))
    for length in sets.LENGTHS:
        examples = read_examples(str(world.path(f"pretrain_{length}.json")))
        rows = open_embeddings(str(world.path(f"pretrain_{length}.parquet")))
        assert len(available(examples, rows)) == len(available(examples, images)) == len(examples) == 24


def test_a_world_of_another_family_shares_encoder_and_language_model(world, tmp_path):
    other = sets.World(tmp_path / "garden", SIZES, 1, "garden", parts=world.folder)
    sets.make(other, log=lambda text: None)
    assert other.done and not (other.folder / "backbone").exists()
    said = []
    sets.make(other, log=said.append)
    assert said == [f"{other.folder}: exists already"]


@pytest.mark.parametrize(
    "recipe",
    [
        recipes.Recipe("realign", "text"),
        pytest.param(recipes.Recipe("c3", "image", captions=0.5), marks=pytest.mark.slow),
        pytest.param(recipes.Recipe("none", None), marks=pytest.mark.slow),
        pytest.param(recipes.Recipe(recipes.PAIRED, "image", conversations=0.5), marks=pytest.mark.slow),
    ],
)
def test_a_recipe_from_captions_to_scores(world, tmp_path, monkeypatch, recipe):
    for stage in (train.STAGE_1, train.STAGE_2):
        monkeypatch.setitem(stage, "epochs", 1.0)
    found = recipes.train_recipe(world, recipe, tmp_path)
    scores = found["scores"]
    assert {"caption", "blind/caption"} <= set(scores) and all(0 <= v <= 1 for v in scores.values())
    assert ("vqa" in scores) == (recipe.tuning is not None)
    assert json.loads(json.dumps(found))["recipe"]["method"] == recipe.method
    again = recipes.train_recipe(world, recipe, tmp_path)
    assert again["scores"] == scores and again["seconds"]["stage1"] < found["seconds"]["stage1"]


def test_recipes_that_cannot_be():
    with pytest.raises(InputError, match="did you mean 'realign'"):
        recipes.Recipe("relign")
    with pytest.raises(InputError, match="tuning='sound'"):
        recipes.Recipe(tuning="sound")


def test_siblings_differ_in_their_nouns_alone():
    group = [sets.siblings(s) for s in range(400, 404)]
    assert len({tuple(o.noun for o in s.objects) for s in group}) > 1
    assert len({tuple((o.colour, o.size, o.x, o.y) for o in s.objects) for s in group}) == 1
    assert len({(s.family, s.background) for s in group}) == 1
    assert sets.siblings(404).objects != group[0].objects


def test_the_corpus_is_learned_where_the_caption_decides():
    """Its parts that are to be learned follow from the caption, and a row holds whole texts."""
    scenes = [sets.both_families(s) for s in range(300)]
    texts = list(language.texts(scenes, 0))
    assert len(texts) > 280
    kinds = {(" ".join(text for text, learned in parts if not learned))[:5] == "USER:" for parts in texts}
    assert kinds == {True, False}
    for parts in texts:
        (first, learned), *rest = parts
        assert not learned
        colours, nouns = set(COLOURS) & set(first.split()), first.split()
        for (words, _), (answer, wanted) in itertools.pairwise(rest):
            if wanted and words.startswith(("the ", "USER: what colour")):
                assert answer.split()[0] in colours, (first, words, answer)
            if wanted and words.startswith(("a ", "an ")) and answer == "yes":
                assert words.split()[1] in colours and words.split()[2] in nouns, (first, words)
    words = backbone.tokenizer()
    rows, labels = next(language._batches(words, iter(texts)))
    assert rows.shape == labels.shape == (language.ROWS, language.LENGTH)
    learned = labels != -100
    assert 0.1 < learned.float().mean() < 0.6
    assert (labels[learned] == rows[learned]).all(), "the model is taught what the text says"
    assert (rows[:, 0] == words.bos_token_id).all(), "a text is not cut where a row ends"


def test_siglips_loss_is_its_formula_with_a_bias_that_learns(rng):
    scenes = [samples.sample_scene(s) for s in range(16)]
    batch = (
        encoder.pixels([render(s) for s in scenes]),
        encoder.tokenize([samples.sample_caption(s).text for s in scenes]),
    )
    model = losses.build(0, "siglip")
    assert model.logit_scale.exp().item() == pytest.approx(10) and model.logit_bias.item() == -10
    assert losses.build(0, "infonce").logit_bias is None
    image, text = (rng.standard_normal((6, 4)) for _ in range(2))
    with torch.no_grad():
        model.logit_scale.fill_(np.log(3.0))
        model.logit_bias.fill_(-2.0)
        found = losses.siglip(model, torch.tensor(image), torch.tensor(text)).item()
    logits = 3 * image @ text.T - 2
    agrees = 2 * np.eye(6) - 1
    assert found == pytest.approx(np.log1p(np.exp(-agrees * logits)).sum() / 6, rel=1e-6)
    before = model.logit_bias.item()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    steps = [encoder_training.step(model.train(), optimizer, *batch, losses.siglip) for _ in range(3)]
    assert steps[2] < steps[0] and model.logit_bias.item() != before


def test_figure_1_is_watched_from_the_first_step(monkeypatch):
    figure1 = benchmarks.module("paper.figure1")
    monkeypatch.setattr(encoder_training, "BATCH", 4)
    monkeypatch.setattr(figure1, "PROBE", range(300_000, 300_300))
    monkeypatch.setattr(figure1, "EVERY", 2)
    run = figure1.watched("siglip", 4, None, lambda line: None)
    assert [entry["step"] for entry in run["training"]] == [0, 2, 4]
    assert run["training"][0]["logit_bias"] == -10 and set(run["frames"]) == set(figure1.FRAMES)


def test_few_steps_of_figure_1_are_not_for_the_page(capsys):
    with pytest.raises(SystemExit) as stop:
        benchmarks.module("paper.figure1").main(["--quick", "--docs", "docs/paper"])
    assert stop.value.code == 2 and "leave --docs and --runs out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_remakes_the_shipped_files(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    few = {name: seeds[:40] for name, seeds in samples.SEEDS.items()}
    monkeypatch.setattr(samples, "SEEDS", few)
    for folder in ("one", "two"):
        assert shipped.main(["--out", str(tmp_path / folder), "--steps", "2"]) == 0
    for name in few:
        one, two = (np.load(tmp_path / folder / f"{name}.npy") for folder in ("one", "two"))
        assert one.shape == (40, encoder.DIM) and one.dtype == np.float16
        np.testing.assert_array_equal(one, two)
    report = json.loads((tmp_path / "one" / "training.json").read_text())
    assert (report["steps"], report["loss"]) == (2, "infonce")
    assert set(report["by length"]) == {"short", "long", "complete"}
    encoder.build(1).load_state_dict(load_file(tmp_path / "one" / "encoder.safetensors"))
