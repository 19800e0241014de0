"""A training run's YAML: defaults of the paper, types, overrides, and every mistake reported with the file and the key."""

from __future__ import annotations

import pytest

pytest.importorskip("yaml")

from fastrealign import InputError
from fastrealign.revision.config import Lora, TrainConfig
from fastrealign.revision.config_file import read_config

NEEDED = "model: lm\ndata: captions.json\nembeddings: text_emb\nout: run\n"


@pytest.fixture
def written(tmp_path):
    def written(text):
        (tmp_path / "run.yaml").write_text(text)
        return tmp_path / "run.yaml"

    return written


def test_defaults_are_the_papers(written):
    one = read_config(written(NEEDED), "stage1")
    assert one == TrainConfig("lm", "captions.json", "text_emb", "run", "stage1")
    assert (one.learning_rate, one.epochs, one.tokens, one.missing) == (5e-4, 1.0, 1, "error")
    two = read_config(written(NEEDED + "adapter: stage1\n"), "stage2")
    assert (two.stage, two.learning_rate, two.adapter) == ("stage2", 1e-5, "stage1")


def test_values_keep_their_meaning(written):
    text = NEEDED + "learning_rate: 2e-4\nepochs: 3\nadapter: null\nreport_to: [tensorboard, wandb]\n"
    config = read_config(written(text + "lora: {r: 8, targets: [q_proj]}\n"), "stage2")
    assert config.learning_rate == 2e-4 and config.epochs == 3.0
    assert config.adapter is None and config.report_to == ["tensorboard", "wandb"]
    assert config.lora == Lora(r=8, alpha=32.0, targets=["q_proj"])


def test_overrides(written):
    path = written(NEEDED + "adapter: a\nlora: {r: 8}\n")
    config = read_config(
        path, "stage2", ["learning_rate=1e-3", "lora.alpha=4", "data=[a.json, b.json]", "adapter=null"]
    )
    assert config.learning_rate == 1e-3 and config.lora == Lora(8, 4.0) and config.data == ["a.json", "b.json"]
    assert config.adapter is None
    assert read_config(path, "stage2", ["lora=null"]).lora is None


def test_a_run_tells_what_makes_it_another_one(written):
    one = read_config(written(NEEDED), "stage1")
    again = read_config(written(NEEDED), "stage1", ["save_steps=3", "report_to=wandb", "device=cpu"])
    other = read_config(written(NEEDED), "stage1", ["seed=3", "tokens=2"])
    assert one.differing(again.to_json()) == [] and one.differing(other.to_json()) == ["tokens", "seed"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NEEDED + "lr: 1\n", r"run.yaml: unknown key 'lr', did you mean 'learning_rate'\?"),
        (NEEDED + "learning_rte: 1\n", r"run.yaml: unknown key 'learning_rte', did you mean 'learning_rate'\?"),
        (NEEDED + "lora: {rank: 4}\n", r"run.yaml: lora: unknown key 'rank' .known: r, alpha, targets"),
        ("model: lm\nout: run\n", "run.yaml: data, embeddings are missing"),
        (NEEDED.replace("lm", "null"), "run.yaml: model is missing"),
        (NEEDED + "stage: stage2\n", "stage is set by the command"),
        (NEEDED + "batch_size: big\n", "run.yaml: batch_size='big': expected a whole number"),
        (NEEDED + "batch_size: 0\n", "run.yaml: batch_size=0: expected a whole number from 1 to 2.31 - 1"),
        (NEEDED + "batch_size: true\n", "run.yaml: batch_size=True: expected a whole number"),
        (NEEDED + "batch_size: 1.5\n", "run.yaml: batch_size=1.5: expected a whole number"),
        (NEEDED + "learning_rate: fast\n", "run.yaml: learning_rate='fast': expected a number"),
        (NEEDED + "learning_rate: -1\n", "run.yaml: learning_rate=-1.0: expected a number above 0, at most 1e37"),
        (NEEDED + "learning_rate: 1e39\n", r"run.yaml: learning_rate=1e\+39: expected a number above 0, at most 1e37"),
        (NEEDED + "noise: -1\n", "run.yaml: noise=-1.0: expected a number from 0"),
        (NEEDED + "noise: .nan\n", "run.yaml: noise=nan: expected a number from 0"),
        (NEEDED + "noise: loud\n", "run.yaml: noise='loud': expected a number"),
        (NEEDED + "epochs: .nan\n", "run.yaml: epochs=nan: expected a number above 0"),
        (
            NEEDED + "max_length: 2\n",
            "run.yaml: max_length=2: expected a whole number from 3 to 2.31 - 1, room for 1 visual",
        ),
        (NEEDED + "precision: fp8\n", "run.yaml: precision='fp8': expected one of auto, fp32, bf16, fp16"),
        (NEEDED + "missing: ignore\n", "run.yaml: missing='ignore': expected one of error, skip"),
        (NEEDED + "device: tpu\n", "run.yaml: device='tpu': expected one of auto, cpu, cuda"),
        (NEEDED + "lora: {r: 4}\n", "run.yaml: lora: stage 1 trains the adapter alone"),
        (NEEDED + "lora: {r: 0}\n", "run.yaml: lora: r=0: expected a whole number from 1 to"),
        (NEEDED + "lora: 8\n", "run.yaml: lora=8: expected keys and values or null"),
        (NEEDED.replace("captions.json", "[]"), "data=.*expected text or a list of text"),
        (NEEDED + "seed: -1\n", "run.yaml: seed=-1: expected a whole number from 0 to 2.31 - 1"),
        (NEEDED + "batch_size: 100000000000000000000\n", "run.yaml: batch_size=1.*: expected .* to 2.31 - 1"),
        (NEEDED + "lora: {alpha: .inf}\n", "run.yaml: lora: alpha=inf: expected a number above 0"),
        (NEEDED + "form: vicuna\n", "run.yaml: form='vicuna': expected one of null, llava, chat"),
        (NEEDED + "seed: 1\nlora:\n  r: 4\n  r: 8\n", "run.yaml: line 8: the key r comes twice"),
        (NEEDED + "seed: 1\nseed: 2\n", "run.yaml: line 6: the key seed comes twice"),
        ("- a\n", "run.yaml: holds list, expected keys and values"),
        ("", "run.yaml: is empty, expected keys and values"),
        ("# nothing\n---\n", "run.yaml: is empty, expected keys and values"),
        ("model: lm\n\tdata: x\n", r"run.yaml: line \d: not YAML"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nmodel: *b\n", r"run.yaml: line 2: \*a: write the value out"),
        ("a: &a {x: 1}\nlora: {<<: *a}\n", r"run.yaml: line 2: \*a: write the value out"),
        (
            "model: !!python/object/apply:os.system [true]\n",
            "run.yaml: line 1: not YAML: could not determine a constructor",
        ),
        ("? [a]\n: b\n", "run.yaml: line 1: not YAML: found unhashable key"),
        ("[" * 3_000, "run.yaml: is nested too deeply"),
        ("a: {" * 3_000, "run.yaml: (is nested too deeply|line 1: not YAML)"),
        (NEEDED + "seed: 0x" + "f" * 50_000 + "\n", "run.yaml: seed=a number of too many digits: expected"),
        (NEEDED + "max_length: 0x" + "f" * 50_000 + "\n", "run.yaml: max_length=a number of too many digits: expected"),
        (NEEDED + "learning_rate: 0x" + "f" * 50_000 + "\n", "run.yaml: learning_rate=a number of too many digits"),
        (NEEDED + "seed: " + "9" * 50_000 + "\n", "run.yaml: not YAML: Exceeds the limit"),
        (NEEDED + "tokens: 010\n", "run.yaml: line 5: 010: write a number with decimal digits"),
        (NEEDED + "learning_rate: 1:30\n", "run.yaml: line 5: 1:30: write a number .* or a colon; put text in quotes"),
        (NEEDED.replace("run", "''"), "run.yaml: out='': expected a path"),
        (NEEDED.replace("text_emb", "[text_emb, '']"), "run.yaml: embeddings='': expected a path"),
        (NEEDED + "seed: 2024-13-41\n", "run.yaml: not YAML: month must be in"),
        (NEEDED + "batch_size: '32'\n", "run.yaml: batch_size='32': expected a whole number"),
        (NEEDED + "? " + "x" * 50_000 + "\n: 1\n", r"run.yaml: unknown key 'x+\.\.\. .known: model"),
        (NEEDED + "1: 1\n", "run.yaml: unknown key 1 .known: model"),
        (NEEDED + "hub: 1\n", "run.yaml: hub=1: expected true or false"),
        ("\0", "run.yaml: not YAML"),
        ("model: lm # " + "x" * (1 << 20), "run.yaml: is larger than 1 MB"),
        ("model: [\n", r"run.yaml: line 2: not YAML"),
    ],
)
def test_mistakes_are_reported(written, text, said):
    with pytest.raises(InputError, match=said) as caught:
        read_config(written(text), "stage1")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700


def test_stage_2_says_what_it_begins_with(written):
    with pytest.raises(InputError, match=r"run.yaml: adapter is missing: stage 2 begins with the output of stage 1"):
        read_config(written(NEEDED), "stage2")


def test_files_and_overrides_that_are_none(tmp_path, written):
    with pytest.raises(InputError, match=r"nothing.yaml: no such file"):
        read_config(tmp_path / "nothing.yaml", "stage1")
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe4\n")
    with pytest.raises(InputError, match=r"latin.yaml: is not UTF-8; save it as UTF-8"):
        read_config(tmp_path / "latin.yaml", "stage1")
    with pytest.raises(InputError, match="--set seed: expected key=value"):
        read_config(written(NEEDED), "stage1", ["seed"])
    with pytest.raises(InputError, match="unknown key 'sed', did you mean 'seed'"):
        read_config(written(NEEDED), "stage1", ["sed=1"])


def test_a_mark_in_front_and_files_that_are_none(tmp_path, written):
    assert read_config(written("\ufeff" + NEEDED), "stage1").model == "lm"
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"folder: is a folder, expected a YAML file"):
        read_config(tmp_path / "folder", "stage1")


@pytest.mark.parametrize("value", ["[" * 3_000, "*a", "!!python/name:os.system", "9" * 50_000, "2024-13-41"])
def test_an_override_that_is_no_yaml_is_text(written, value):
    with pytest.raises(InputError, match=r"run.yaml: seed=.*: expected a whole number") as caught:
        read_config(written(NEEDED), "stage1", [f"seed={value}"])
    assert len(str(caught.value)) < 500
