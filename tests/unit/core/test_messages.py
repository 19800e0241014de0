"""Messages that name an option: as Python writes it, and on the command line as a command does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
import sources

import fastrealign as fr
from fastrealign.core.errors import FastRealignError, shortage
from fastrealign.core.progress import SILENT
from fastrealign.core.wording import on_command_line
from fastrealign.embed.embed_job import _scan
from fastrealign.embed.encoders import device_of
from fastrealign.embed.inputs import open_input
from fastrealign.jobs.job import with_state
from fastrealign.retrieval import index, searcher

pytestmark = pytest.mark.filterwarnings("ignore")
RNG = np.random.default_rng(0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with rows, tables of several columns, an alignment, roles, an index and an output of an earlier run."""
    monkeypatch.chdir(tmp_path)
    rows = RNG.standard_normal((40, 8)).astype(np.float32)
    np.save("text.npy", rows)
    np.save("images.npy", -rows)
    np.save("zero.npy", np.zeros((5, 8), np.float32))
    fr.fit(rows, -rows).save("one.safetensors")
    sides = {"query": rows, "text": rows + 1, "image": -rows}
    fr.fit_roles(sides, anchor="image").save("roles.safetensors")
    fr.fit_roles(sides, anchor="text").save("others.safetensors")
    return tmp_path


def of_tables():
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = pa.FixedSizeListArray.from_arrays(RNG.standard_normal(80), 8)
    pq.write_table(pa.table({"a_emb": rows, "b_emb": rows}), "both.parquet")


def of_index(**how):
    faiss = pytest.importorskip("faiss")
    made = faiss.IndexFlatIP(8)
    made.add(np.load("text.npy"))
    faiss.write_index(made, "a.faiss")
    return index("a.faiss", how.pop("roles", "roles.safetensors"), **how)


def raised(call):
    with pytest.raises(FastRealignError) as error:
        call()
    return str(error.value)


def several_columns():
    of_tables()
    return raised(lambda: fr.fit("both.parquet", "images.npy"))


def several_columns_of_the_target():
    of_tables()
    return raised(lambda: fr.fit("text.npy", "both.parquet"))


def a_column_of_a_role():
    of_tables()
    return raised(lambda: fr.fit_roles({"text": "both.parquet", "image": "images.npy"}, anchor="image"))


def other_roles(call):
    of_index(role="image")
    return raised(call)


def an_output_that_is_there(**how):
    fr.align("text.npy", "images.npy", "out")
    return raised(lambda: fr.align("text.npy", "images.npy", "out", **how))


def a_file_that_is_there():
    fr.convert("text.npy", "new", to="parquet")
    return raised(lambda: fr.convert("text.npy", "new", to="parquet"))


def of_embed(call):
    """What a call of fastrealign.embed raises, here without its encoder where that is enough."""
    pytest.importorskip("torch")
    pytest.importorskip("PIL")
    return raised(call)


def of_a_record():
    """The first record of captions is bad, and bad items are errors."""
    Path("captions.jsonl").write_text('{"x": 1}\n')
    return of_embed(lambda: _scan(open_input("captions.jsonl"), 10, "error", SILENT))


def of_both_sides():
    Path("mixed").mkdir(exist_ok=True)
    for name in ("a.png", "b.txt"):
        (Path("mixed") / name).write_bytes(b"x")
    return of_embed(lambda: open_input("mixed"))


def of_a_text_file(**options):
    Path("a.txt").write_text("a cat")
    return of_embed(lambda: list(open_input("a.txt", **options)))


def of_open_clip(*given, **options):
    pytest.importorskip("open_clip")
    return of_embed(fr.embed.OpenClip(*given, device="cpu", **options).check)


def of_transformers(*given, **options):
    pytest.importorskip("transformers")
    return of_embed(fr.embed.Transformers(*given, **options).check)


@pytest.mark.parametrize(
    "say, python, command",
    [
        (lambda: str(with_state(KeyboardInterrupt(), 2, 5)), "resume=True", "--resume"),
        (lambda: shortage(MemoryError()), "max_memory= or threads=", "--max-memory or --threads"),
        (lambda: raised(lambda: fr.fit("zero.npy", "images.npy")), "bad_rows='skip'", "--bad-rows skip"),
        (
            lambda: raised(lambda: fr.check("one.safetensors", "text.npy", target_column="x")),
            "target_column='x'",
            "--target-column x",
        ),
        (several_columns, "column=", "--column"),
        (several_columns_of_the_target, "target_column=", "--target-column"),
        (a_column_of_a_role, "column=", "--role NAME=PATH:COLUMN"),
        (lambda: raised(lambda: fr.fit("text.npy", "text.npy")), "target_column=", "--target-column"),
        (lambda: raised(lambda: fr.fit("text.npy", "images.npy", column="x")), "column=", "--column"),
        (an_output_that_is_there, "resume=True", "--resume"),
        (lambda: an_output_that_is_there(resume=True, overwrite=True), "overwrite=True", "--overwrite"),
        (lambda: an_output_that_is_there(resume=True, dtype="float64"), "overwrite=True", "--overwrite"),
        (a_file_that_is_there, "overwrite=True", "--overwrite"),
        (
            lambda: raised(lambda: fr.apply_files("roles.safetensors", "text.npy", "out")),
            "fastrealign.Roles.load(path)[NAME]",
            "--role NAME",
        ),
        (lambda: raised(of_index), "role_column=", "--role-column"),
        (lambda: raised(lambda: of_index(role="image", role_column="x.npy")), "role_column=", "--role-column"),
        (lambda: raised(lambda: of_index(role="image", table="x")), "table=", "--table"),
        (lambda: raised(lambda: of_index(role="x", roles="one.safetensors")), "leave role= out", "leave --role out"),
        (
            lambda: other_roles(lambda: of_index(role="image", roles="others.safetensors")),
            "restart=True, or name another with to=",
            "--restart, or name another with --to",
        ),
        (lambda: other_roles(lambda: searcher("a.faiss", "others.safetensors")), "restart=True", "--restart"),
        (of_a_record, "take with column=; fix it", "take with --column; fix it"),
        (of_a_record, "out with bad_items='skip'", "out with --bad-items skip"),
        (of_both_sides, "side='images' or side='text'", "--images or --text"),
        (lambda: of_a_text_file(side="images"), "leave out side='images'", "leave out --images"),
        (lambda: of_a_text_file(column="x"), "column= and ids= are", "--column and --ids are"),
        (lambda: of_open_clip("ViT-B-33"), "OpenClip('ViT-B-33'): no such file", "--clip ViT-B-33: no such file"),
        (lambda: of_open_clip("ViT-B-32"), "with pretrained=", "with --pretrained"),
        (lambda: of_open_clip("ViT-B-32", "openai"), "pass hub=True to", "pass --hub to"),
        (
            lambda: of_open_clip("ViT-B-32", "nope"),
            "pretrained='nope': no such file",
            "--pretrained nope: no such file",
        ),
        (lambda: of_transformers("/no/model"), "Transformers('/no/model'): no", "--model /no/model: no"),
        (lambda: of_transformers("openai/no"), "or pass hub=True", "or pass --hub"),
        (lambda: of_transformers(".", text_model="/no/lm"), "text_model='/no/lm': no", "--text-model /no/lm: no"),
        (lambda: of_transformers(".", processor="/no/it"), "processor='/no/it': no", "--processor /no/it: no"),
        (lambda: of_transformers("."), "one of open_clip with OpenClip", "one of open_clip with --clip"),
        (lambda: of_transformers(".", template="x"), "template='x': expected", "--template x: expected"),
        (lambda: of_embed(lambda: device_of("tpux")), "device='tpux': expected", "--device tpux: expected"),
        (lambda: of_embed(lambda: device_of("cuda:99")), "or device='cpu'", "or --device cpu"),
    ],
)
def test_options_as_the_caller_writes_them(here, say, python, command):
    said = say()
    assert python in said and command not in said
    for path in [*Path("out").rglob("*"), *Path("new").rglob("*"), *Path().glob("a.*faiss*")]:
        path.unlink(missing_ok=True) if not path.is_dir() else None
    with on_command_line():
        said = say()
    assert command in said and python not in said


FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# CSS; commands, word by word; an option that Python has no keyword for.
OTHERS = {"gap_report/svg.py", "retrieval/apply_recipe.py", "revision/config_file.py"}


def is_worded(node: ast.AST) -> bool:
    """Whether `core.wording` is given this, or the parser of a command."""
    called = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("either", "option")
    return called or (isinstance(node, ast.keyword) and node.arg == "command")


def test_options_are_spelt_by_one_module():
    """`--name` stands in no message outside the command line; `fastrealign COMMAND ... --name` may: it is a command."""
    root = Path(fr.__file__).parent
    found = [
        f"{name}:{line}: {text}"
        for path in root.rglob("*.py")
        if (name := path.relative_to(root).as_posix()) not in OTHERS and not name.startswith("cli/")
        for line, text in sources.texts(path, passed_over=is_worded)
        if FLAG.search(text) and "fastrealign " not in text
    ]
    assert found == []


def test_no_message_spells_both():
    """`--name / name=` and `--name (name=)` are what `fastrealign.core.wording` replaces."""
    by_hand = re.compile(r"--[a-z-]+ (/|or) [a-z_]+=|\([a-z_]+=(, [a-z_]+=)*\)")
    root = Path(fr.__file__).parent
    found = [
        f"{path.relative_to(root)}: {line.strip()}"
        for path in root.rglob("*.py")
        for line in path.read_text().splitlines()
        if by_hand.search(line) and '"' in line.replace('"""', "")
    ]
    assert found == []
