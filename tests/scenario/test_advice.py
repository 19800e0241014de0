"""Every advice that a message gives works: the error is made with real input, the advice taken from its text and followed."""

from __future__ import annotations

import ast
import gzip
import importlib
import json
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import corpus
import numpy as np
import pytest
import sources

import fastrealign as fr
from fastrealign.cli import main as cli
from fastrealign.cli.parser import parser_of
from fastrealign.core.errors import InputError
from fastrealign.formats import open_source
from fastrealign.methods.baselines import fit_baseline

ROOT = Path(fr.__file__).parent
ROWS = 12


@pytest.fixture
def x(rng):
    return rng.standard_normal((ROWS, 6)).astype(np.float32)


def message_of(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def code_in(message: str) -> str:
    """The first call in a message that names a library, up to where its brackets close."""
    start = re.search(r"\b(numpy|pandas|polars)\.", message).start()
    for end in range(start, len(message)):
        if message[end] == ")":
            try:
                ast.parse(message[start : end + 1])
            except SyntaxError:
                continue
            if not message[end + 1 :].startswith((".", "[")):
                return message[start : end + 1]
    raise AssertionError(message)


def follow(message: str, **names) -> None:
    """Run the code of a message, with what it leaves open."""
    code = code_in(message)
    modules = {
        name: importlib.import_module(name) for name in re.findall(r"\b([a-z][a-z0-9]+)\.", code) if name in LIBRARIES
    }
    exec(code, {**modules, **names})


LIBRARIES = ("numpy", "pandas", "json", "scipy", "h5py", "msgpack", "polars")


def rows_of(path, column=None) -> np.ndarray:
    source = open_source(path, side="source", column=column)
    return np.concatenate([chunk.copy() for chunk in source])


def text_of(x, before="", after="", between=","):
    return "\n".join(before + between.join(map(repr, row)) + after for row in x.tolist())


def npz(path, x):
    np.savez(path, x)


def npz_named(path, x):
    np.savez(path, labels=np.arange(ROWS), image_emb=x)


def csv(path, x):
    path.write_text(text_of(x))


def csv_header(path, x):
    path.write_text(
        "id,"
        + ",".join(f"d{i}" for i in range(6))
        + "\n"
        + "\n".join(f"{7 * i},{line}" for i, line in enumerate(text_of(x).split("\n")))
    )


def csv_semicolons(path, x):
    path.write_text("text;" + ";".join(f"d{i}" for i in range(6)) + "\n" + text_of(x, "a word;", between=";"))


def csv_lists(path, x):
    pytest.importorskip("pandas")
    path.write_text("text,embedding\n" + text_of(x, '"one, two","[', ']"'))


def tsv(path, x):
    path.write_text(text_of(x, between="\t"))


def jsonl(path, x):
    path.write_text("\n".join(json.dumps({"text": "a", "vector": row}) for row in x.tolist()))


def jsonl_lists(path, x):
    path.write_text("\n".join(map(json.dumps, x.tolist())))


def json_records(path, x):
    path.write_text(json.dumps([{"id": i, "vector": row} for i, row in enumerate(x.tolist())], indent=1))


def json_lists(path, x):
    path.write_text(json.dumps(x.tolist()))


def json_by_id(path, x):
    path.write_text(json.dumps({f"image {i}": row for i, row in enumerate(x.tolist())}))


def json_named(path, x):
    path.write_text(json.dumps({"my rows": x.tolist(), "model": "clip"}))


def txt(path, x):
    np.savetxt(path, x, fmt="%.9g")


def txt_commas(path, x):
    np.savetxt(path, x, fmt="%.9g", delimiter=", ")


def raw(path, x):
    x.tofile(path)


def mat(path, x):
    pytest.importorskip("scipy.io").savemat(path, {"rows": x})


def feather(path, x):
    pytest.importorskip("pandas").DataFrame({"id": range(ROWS), "emb": list(x)}).to_feather(path)


def orc(path, x):
    pytest.importorskip("pyarrow.orc")
    pytest.importorskip("pandas").DataFrame({"id": range(ROWS), "emb": list(x)}).to_orc(path)


def h5(path, x):
    with pytest.importorskip("h5py").File(path, "w") as file:
        file["rows"] = x


def msgpack(path, x):
    path.write_bytes(pytest.importorskip("msgpack").packb(x.tolist()))


def avro(path, x):
    pytest.importorskip("polars").DataFrame({"id": range(ROWS), "emb": x.tolist()}).write_avro(path)


OTHERS = [
    ("a.npz", npz, {}),
    ("a.npz", npz_named, {"NAME": "image_emb"}),
    ("a.csv", csv, {}),
    ("a.CSV", csv, {}),
    ("a.csv", csv_header, {"COLUMNS": [f"d{i}" for i in range(6)]}),
    ("a.csv", csv_semicolons, {"COLUMNS": [f"d{i}" for i in range(6)]}),
    ("a.csv", csv_lists, {"COLUMN": "embedding"}),
    ("a.tsv", tsv, {}),
    ("a.jsonl", jsonl, {}),
    ("a.jsonl", jsonl_lists, {}),
    ("a.ndjson", jsonl, {}),
    ("a.json", json_records, {}),
    ("a.json", json_lists, {}),
    ("a.json", json_by_id, {}),
    ("a.json", json_named, {}),
    ("a.txt", txt, {}),
    ("a.txt", txt_commas, {}),
    ("a.bin", raw, {"WIDTH": 6}),
    ("a.mat", mat, {"NAME": "rows"}),
    ("a.feather", feather, {}),
    ("a.orc", orc, {}),
    ("a.h5", h5, {"NAME": "rows"}),
    ("a.hdf5", h5, {"NAME": "rows"}),
    ("a.msgpack", msgpack, {}),
    ("a.avro", avro, {}),
]


@pytest.mark.parametrize("folder", ["plain", "it's a\nfolder"])
@pytest.mark.parametrize("name, write, open_names", OTHERS, ids=lambda value: getattr(value, "__name__", None))
def test_other_formats_become_one_that_is_read(tmp_path, x, name, write, open_names, folder):
    pytest.importorskip("pandas")
    path = tmp_path / folder / name
    path.parent.mkdir()
    write(path, x)
    message = message_of(lambda: open_source(path.parent, side="source")) if folder == "plain" else None
    with pytest.raises(InputError) as caught:
        open_source(path, side="source")
    assert message is None or code_in(str(caught.value)) == code_in(message)
    follow(str(caught.value), **open_names)
    made = [other for other in path.parent.iterdir() if other != path]
    assert len(made) == 1 and made[0].stem == path.stem
    np.testing.assert_allclose(rows_of(made[0]), x, rtol=1e-6)


def test_a_file_of_torch_under_another_name(tmp_path, x):
    torch = pytest.importorskip("torch")
    torch.save(torch.from_numpy(x), tmp_path / "a.bin")
    to = re.search(r"rename it to '(.*)'$", message_of(lambda: open_source(tmp_path / "a.bin", side="source")))[1]
    (tmp_path / "a.bin").rename(to)
    assert np.array_equal(rows_of(to), x)


SUFFIXES = (".npy", ".parquet", ".arrow", ".pt", ".pth", ".pkl", ".safetensors", ".faiss")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_file_really_is(tmp_path, x, suffix):
    """A pointer of Git LFS, a web page and a packed file are not damaged, and a misnamed file not lost."""
    torch, pa = pytest.importorskip("torch"), pytest.importorskip("pyarrow")
    path = tmp_path / f"a{suffix}"
    for text, says in (
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>404</body></html>", "download it again"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "download it again"),
        (gzip.compress(x.tobytes()), "is compressed with gzip; unpack it first"),
    ):
        path.write_bytes(text)
        for spec in (path, tmp_path):
            assert says in message_of(lambda spec=spec: open_source(spec, side="source"))
        path.unlink()

    def torch_file(path):
        with path.open("wb") as file:
            torch.save(torch.from_numpy(x), file)

    def arrow_file(path):
        table = pa.table({"emb": list(x)})
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)

    def npy_file(path):
        with path.open("wb") as file:
            np.save(file, x)

    makers = {
        ".npy": npy_file,
        ".parquet": lambda path: corpus.parquet_file(path, x),
        ".arrow": arrow_file,
        ".pt": torch_file,
    }
    for real, make in makers.items():
        make(path)
        if real == suffix or (real, suffix) == (".pt", ".pth"):
            assert np.array_equal(rows_of(path), x)
            continue
        to = re.search(r"rename it to '(.*)'$", message_of(lambda: open_source(path, side="source")))[1]
        path.rename(to)
        assert np.array_equal(rows_of(to), x)
        Path(to).unlink()


def test_a_file_of_torch_that_is_refused_keeps_its_reason(tmp_path, x):
    torch = pytest.importorskip("torch")
    torch.save(x, tmp_path / "a.pth")
    assert "refused to load" in message_of(lambda: open_source(tmp_path / "a.pth", side="source"))


COMMAND = re.compile(r"fastrealign embed .*? --out OUT")


@pytest.mark.parametrize(
    "name", ["a.txt", "a.jsonl", "a.csv", "a.json", "a.parquet", "a.jpg", "a.zip", "folder", "pictures"]
)
def test_what_is_no_embedding_yet_names_embed(tmp_path, x, name):
    pytest.importorskip("pyarrow")
    captions = ["a red bird", "two cats, asleep"] * (ROWS // 2)
    path = tmp_path / name
    if name == "a.parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.table({"caption": captions, "n": range(ROWS)}), path)
    elif name == "pictures":
        path.mkdir()
        (path / "1.jpg").write_bytes(b"x"), (path / "2.jpg").write_bytes(b"x")
    elif name == "folder":
        path.mkdir()
        (path / "captions.txt").write_text("\n".join(captions))
    elif name == "a.csv":
        path.write_text("caption,n\n" + "\n".join(f'"{caption}",{i}' for i, caption in enumerate(captions)))
    elif name == "a.json":
        path.write_text(json.dumps([{"id": "1", "caption": caption} for caption in captions]))
    elif name == "a.jsonl":
        path.write_text("\n".join(json.dumps({"caption": caption}) for caption in captions))
    else:
        path.write_text("\n".join(captions))
    message = message_of(lambda: open_source(path, side="source"))
    argv = shlex.split(COMMAND.search(message)[0])
    args = parser_of(cli.COMMANDS).parse_args(argv[1:])
    if name in ("a.csv", "a.json"):
        pytest.importorskip("pandas")
        follow(message)
    if name not in ("a.jpg", "a.zip", "pictures"):
        from fastrealign.embed.inputs import open_input

        assert [item.text for item in open_input(args.input)] == captions
    for given in (path, tmp_path / "x.npy"):
        assert message_of(lambda given=given: fr.fit(given, x))


@pytest.mark.parametrize("what", ["file", "folder"])
def test_embeddings_given_to_embed(tmp_path, x, what):
    from fastrealign.embed.inputs import open_input

    np.save(tmp_path / "x.npy", x)
    message = message_of(lambda: open_input(tmp_path / "x.npy" if what == "file" else tmp_path))
    assert "but embeddings" in message and "pass them to fastrealign align" in message


def messages() -> list[tuple[str, str]]:
    """File and text of each string of the package that has a space, docstrings apart."""
    return [
        (path.relative_to(ROOT).as_posix(), text)
        for path in sorted(ROOT.rglob("*.py"))
        for _, text in sources.texts(path)
        if " " in text
    ]


def parsers() -> dict[str, set[str]]:
    """The options of every command."""
    found = {}
    waiting = [("", parser_of(cli.COMMANDS))]
    while waiting:
        name, parser = waiting.pop()
        found[name] = set(parser._option_string_actions)
        if parser._subparsers is not None:
            waiting += [
                (f"{name} {one}".strip(), sub) for one, sub in parser._subparsers._group_actions[0].choices.items()
            ]
    return found


def test_every_option_that_a_message_names_is_one():
    options = parsers()
    of_others = {"--nproc-per-node"}  # of torchrun
    every = set().union(*options.values()) | of_others
    named = [
        (where, option, text)
        for where, text in messages()
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)
    ]
    assert len(named) > 60
    for where, option, text in named:
        if where.startswith(("embed/", "cli/embed")):
            assert option in options["embed"] | options["align"] | of_others, (where, text)
        elif where.startswith("revision/"):
            trained = set().union(*(of for name, of in options.items() if name.startswith("train")))
            assert option in trained | options["convert"] | of_others, (where, text)
        else:
            assert option in every or where == "gap_report/svg.py", (where, text)
    for where, text in messages():  # an option after a command is one of that command
        for command, rest in re.findall(r"fastrealign ((?:train )?[a-z0-9]+)\b([^;`\n]*)", text):
            if command in options:
                assert set(re.findall(r"(?<![\w-])--[a-z-]+", rest)) <= options[command], (where, text)


def test_every_package_that_a_message_names_is_known():
    tomllib = pytest.importorskip("tomllib")

    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = {re.split(r"[\[<>=]", one)[0] for of in (project["dependencies"], *extras.values()) for one in of}
    found = 0
    for where, text in messages():
        for what in re.findall(r"pip install (?:-U |-e )?('[^']+'|[\w.-]+)", text):
            name, _, extra = what.strip("'").rstrip("]").partition("[")
            found += 1
            if name == "fastrealign":
                assert extra in extras or extra == "…", (where, text)
            else:
                assert name in packages | {".", "triton"}, (where, text)  # Triton comes with torch
    for path in (Path(fr.__file__).parent).rglob("*.py"):  # those that core/optional.py words
        for extra in re.findall(r'(?:optional|Lazy)\(\s*"[\w.]+",\s*"(\w+)"', path.read_text()):
            found += 1
            assert extra in extras, path
    assert found > 20


def test_every_function_that_a_message_names_is_there():
    found = 0
    for where, text in messages():
        for name in re.findall(r"\b(?:fastrealign|numpy|torch|torch_ops|faiss)\.[A-Za-z_][\w.]*\w", text):
            if re.search(r"\.(py|md|yaml|safetensors|jsonl|json|npy|faiss)$", name) or name.startswith(
                "fastrealign.org"
            ):
                continue
            module, *rest = name.split(".")
            try:
                value = importlib.import_module({"torch_ops": "fastrealign.core.torch_ops"}.get(module, module))
                for part in rest:
                    if not hasattr(value, part):
                        importlib.import_module(f"{value.__name__}.{part}")
                    value = getattr(value, part)
            except (ImportError, InputError) as error:
                assert any(one in str(error) for one in ("torch", "faiss", "Ray", "lmms-eval")), (where, name)
                continue
            found += 1
    assert found > 10


def test_advice_on_arrays_and_tensors(x, rng):
    torch = pytest.importorskip("torch")
    y = rng.standard_normal((ROWS, 6)).astype(np.float32)
    alignment = fr.fit(x, y)
    right = alignment(x)

    def followed(given, pattern):
        message = message_of(lambda: alignment(given))
        return eval(re.search(pattern, message)[0].replace("pass ", ""), {"x": given, "numpy": np, "torch": torch})

    whole = np.round(8 * x).astype(np.int64)
    message = message_of(lambda: alignment(whole))
    assert np.array_equal(
        alignment(eval("x" + re.search(r"\.astype\(.*?\)", message)[0], {"x": whole})), alignment(whole.astype("f4"))
    )
    message = message_of(lambda: alignment(torch.from_numpy(whole)))
    assert np.array_equal(
        alignment(eval("x" + re.search(r"\.float\(\)", message)[0], {"x": torch.from_numpy(whole)})).numpy(),
        alignment(whole.astype("f4")),
    )
    one = eval(re.search(r"x\[None, :\]", message_of(lambda: fr.Moments(6).update(x[3])))[0], {"x": x[3]})
    assert fr.Moments(6).update(one).count == 1
    masked = np.ma.masked_array(x, np.zeros_like(x, bool))
    masked[[2, 7], [1, 4]] = np.ma.masked
    assert np.array_equal(alignment(followed(masked, r"x\[~.*\)\]")), np.delete(right, [2, 7], axis=0))
    sparse = torch.from_numpy(x).to_sparse()
    assert np.array_equal(alignment(followed(sparse, r"x\.to_dense\(\)")).numpy(), right)
    with_gradient = torch.from_numpy(x).requires_grad_()
    assert np.array_equal(alignment(followed(with_gradient, r"x\.detach\(\)")).numpy(), right)
    for method in (alignment, fit_baseline("mean-shift", x, y)):
        message = message_of(lambda method=method: method(with_gradient))
        assert "use fastrealign.nn.as_module" in message
        module = importlib.import_module("fastrealign.nn").as_module(method)
        moved = module(with_gradient)
        assert moved.requires_grad and np.allclose(moved.detach().numpy(), method(x), atol=1e-6)
    bad = x.copy()
    bad[4] = np.nan
    message = message_of(lambda: alignment(bad))
    for how in re.findall("'(skip|keep)'", message):
        assert len(alignment(bad, bad_rows=how)) == (ROWS - 1 if how == "skip" else ROWS)
    moments = fr.Moments(6)
    assert "pass bad_rows='skip'" in message_of(lambda: moments.update(bad))
    moments.update(bad, bad_rows="skip")
    assert moments.count == ROWS - 1


def test_advice_on_files_of_other_element_types(tmp_path, x):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    whole = np.round(8 * x).astype(np.int32)
    np.save(tmp_path / "a.npy", whole)
    call = re.search(r"\.astype\(.*?\)", message_of(lambda: rows_of(tmp_path / "a.npy")))[0]
    np.save(tmp_path / "a.npy", eval("x" + call, {"x": np.load(tmp_path / "a.npy")}))
    torch.save(torch.from_numpy(whole), tmp_path / "a.pt")
    call = re.search(r"\.float\(\)", message_of(lambda: rows_of(tmp_path / "a.pt")))[0]
    torch.save(eval("x" + call, {"x": torch.load(tmp_path / "a.pt")}), tmp_path / "a.pt")
    save_file({"embedding": torch.from_numpy(whole).to(torch.float8_e4m3fn)}, tmp_path / "a.safetensors")
    assert ".float(), with safetensors.torch" in message_of(lambda: rows_of(tmp_path / "a.safetensors"))
    save_file({"embedding": load_file(tmp_path / "a.safetensors")["embedding"].float()}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.pt", "a.safetensors"):
        np.testing.assert_allclose(rows_of(tmp_path / name), whole, rtol=0.07)
    for value in (x, {"emb": x, "ids": list(range(ROWS))}):
        torch.save(value, tmp_path / "c.pt")
        call = re.search(r"torch\.from_numpy\(x\)", message_of(lambda: rows_of(tmp_path / "c.pt")))[0]
        torch.save(eval(call, {"torch": torch, "x": x}), tmp_path / "c.pt")
        assert np.array_equal(rows_of(tmp_path / "c.pt"), x)
    torch.save(torch.from_numpy(x).to_sparse(), tmp_path / "b.pt")
    assert "save tensor.to_dense()" in message_of(lambda: rows_of(tmp_path / "b.pt"))
    torch.save(torch.load(tmp_path / "b.pt").to_dense(), tmp_path / "b.pt")
    assert np.array_equal(rows_of(tmp_path / "b.pt"), x)


def test_advice_on_columns_of_encoded_embeddings(tmp_path, x):
    """Embeddings as text, as bytes or as whole numbers: the code of the message makes lists of floats of them."""
    pd = pytest.importorskip("pandas")
    whole = np.round(8 * x).astype(np.int32)
    file = tmp_path / "a.parquet"
    for rows, right in (
        ([json.dumps(row) for row in x.tolist()], x),
        ([row.astype("float32").tobytes() for row in x], x),
        ([row.tolist() for row in whole], whole),
    ):
        frame = pd.DataFrame({"id": range(len(x)), "my vector": rows})
        frame.to_parquet(file)
        said = message_of(lambda: rows_of(file, "my vector"))
        exec(re.search(r"frame\[.*", said)[0], {"frame": frame, "json": json, "numpy": np})
        frame.to_parquet(file)
        np.testing.assert_allclose(rows_of(file, "my vector"), right, rtol=1e-6)


def test_advice_on_files_that_hold_no_numbers_a_row(tmp_path, x):
    """Records, objects and complex numbers become no embeddings by a conversion, nor do labels."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    file, right = tmp_path / "a.npy", x
    np.save(file, np.rec.fromarrays([np.arange(ROWS), x], [("id", "i8"), ("vec", "f4", 6)]))
    call = re.search(r"numpy\.load\(FILE\)\[.*\]", message_of(lambda: rows_of(file)))[0]
    np.save(file, eval(call, {"numpy": np, "FILE": file}))
    assert np.array_equal(rows_of(file), right)
    rows = np.empty(ROWS, object)
    rows[:] = list(x)
    np.save(file, rows)
    call = re.search(r"numpy\.stack.*?\)\.astype\(.*?\)", message_of(lambda: rows_of(file)))[0]
    np.save(file, eval(call, {"numpy": np, "ROWS": list(np.load(file, allow_pickle=True))}))
    assert np.array_equal(rows_of(file), right)
    np.save(file, x + 0j)
    torch.save(torch.from_numpy(x) + 0j, tmp_path / "a.pt")
    names = ["a.npy", "a.pt"]
    if not version("safetensors").startswith("0.4."):  # which writes no complex numbers
        save_file({"embedding": torch.from_numpy(x) + 0j}, tmp_path / "a.safetensors")
        names.append("a.safetensors")
    for name in names:
        message = message_of(lambda name=name: rows_of(tmp_path / name))
        assert "save the real part, .real" in message and "convert" not in message
    labels = np.arange(ROWS)
    np.save(file, labels)
    torch.save(torch.from_numpy(labels), tmp_path / "a.pt")
    save_file({"embedding": torch.from_numpy(labels)}, tmp_path / "a.safetensors")
    for name in ("a.npy", "a.pt", "a.safetensors"):
        message = message_of(lambda name=name: rows_of(tmp_path / name))
        assert f"has shape ({ROWS},), expected (rows, width)" in message and "convert" not in message
    np.save(file, np.full((ROWS, 6), "0.5"))
    assert "these are no embeddings" in message_of(lambda: rows_of(file))


@pytest.mark.parametrize("folder", ["plain", "with [brackets] and *"])
def test_advice_on_two_formats_in_a_folder(tmp_path, x, folder):
    corpus.parquet_file(tmp_path / folder / "a.parquet", 2 * x)
    np.save(tmp_path / folder / "b.npy", x)
    message = message_of(lambda: rows_of(tmp_path / folder))
    pattern = re.search(r"choose one with a pattern such as (.*)$", message)[1]
    assert np.array_equal(rows_of(pattern), x)


def test_advice_on_pickles_of_another_layout(tmp_path, x):
    corpus.pickle_file(tmp_path / "a.pkl", {str(i): {"embed": row} for i, row in enumerate(x)})
    message = message_of(lambda: fr.align(tmp_path / "a.pkl", x, tmp_path / "out"))
    assert "`fastrealign convert`" in message
    assert cli.main(["convert", str(tmp_path / "a.pkl"), "--out", str(tmp_path / "a.parquet"), "--quiet"]) == 0
    assert np.array_equal(rows_of(tmp_path / "a.parquet"), x)
    for bare in (x, list(x)):
        corpus.pickle_file(tmp_path / "bare.pkl", bare)
        assert "ndarray" in message_of(lambda: fr.align(tmp_path / "bare.pkl", x, tmp_path / "out"))
        fr.convert(tmp_path / "bare.pkl", tmp_path / "bare.npy", overwrite=True)
        assert np.array_equal(np.load(tmp_path / "bare.npy"), x)
    corpus.pickle_file(tmp_path / "b.pkl", {"some": "thing"})
    message = message_of(lambda: fr.convert(tmp_path / "b.pkl", tmp_path / "b.parquet"))
    form = ast.literal_eval(re.search(r"\{.*\}", message)[0].replace("...", "None").replace("array", "None"))
    corpus.pickle_file(tmp_path / "b.pkl", [dict(zip(form, (i, row), strict=True)) for i, row in enumerate(x)])
    assert np.array_equal(rows_of(tmp_path / "b.pkl"), x)


def test_advice_on_element_types_that_a_format_has_not(tmp_path, x):
    y = np.roll(x, 1, axis=1)
    np.save(tmp_path / "y.npy", y)
    corpus.parquet_file(tmp_path / "x.parquet", x)
    text, image, out = (str(tmp_path / name) for name in ("x.parquet", "y.npy", "out"))
    message = message_of(lambda: fr.align(text, image, out, dtype="bfloat16"))
    for dtype in re.search(r"choose (\w+) or (\w+)", message).groups():
        assert fr.align(text, image, out, dtype=dtype, overwrite=Path(out).exists()).rows_out == ROWS
    assert "or give the input as .npy" in message
    fr.convert(text, tmp_path / "x.npy")
    assert fr.align(tmp_path / "x.npy", image, tmp_path / "out2", dtype="bfloat16").rows_out == ROWS


def test_advice_on_outputs(tmp_path, x, capsys):
    np.save(tmp_path / "x.npy", x), np.save(tmp_path / "y.npy", np.roll(x, 1, axis=1)), np.save(tmp_path / "z.npy", x)
    align = ["align", str(tmp_path / "x.npy"), "--target", str(tmp_path / "y.npy"), "--out", str(tmp_path / "out")]

    def advised(*argv):
        assert cli.main(list(argv)) == 2
        return capsys.readouterr().err

    assert cli.main(align) == 0
    (tmp_path / "out" / "x.npy").write_bytes(b"changed")
    message = advised(*align, "--resume")
    assert "move it away, and restart with --overwrite" in message
    assert "move it away" in advised(*align, "--overwrite")
    (tmp_path / "out" / "x.npy").rename(tmp_path / "away")
    assert "restart with --overwrite" in advised(*align, "--resume")
    assert cli.main([*align, "--overwrite"]) == 0
    message = advised(*align, "--dtype", "float16")
    assert cli.main([*align, "--dtype", "float16", re.search(r"--overwrite", message)[0]]) == 0
    fit = ["fit", *align[1:4], "--out", str(tmp_path / "a.safetensors")]
    assert cli.main(fit) == 0
    assert cli.main([*fit, re.search(r"--overwrite", advised(*fit))[0]]) == 0
    message = advised("fit", *align[1:4], "--out", str(tmp_path / "b.pkl"))
    name = re.search(r"name it (\S+);?$", message.strip())[1]
    assert cli.main(["fit", *align[1:4], "--out", name]) == 0 and fr.load(name).dim == 6
    message = advised(
        "align", str(tmp_path / "x.npy"), "--target", str(tmp_path / "y.npy"), "--out", str(tmp_path / "o.parquet")
    )
    suffix = re.search(r"name a (\.\w+) file or a folder", message)[1]
    assert (
        cli.main([*align[:-1], str(tmp_path / f"o{suffix}")]) == 0 and cli.main([*align[:-1], str(tmp_path / "o")]) == 0
    )
    bad = x.copy()
    bad[5] = 0
    np.save(tmp_path / "x.npy", bad)
    message = advised(*align[:-1], str(tmp_path / "bad"))
    option = re.search(r"--bad-rows", message)[0]
    for how in re.findall(r"--bad-rows (skip|keep)", message):
        assert cli.main([*align[:-1], str(tmp_path / how), option, how]) == 0
    capsys.readouterr()


def test_advice_on_what_is_read_once(x):
    y = np.roll(x, 1, axis=1)
    message = message_of(lambda: fr.fit(iter([x, x]), y, one_pass=False))
    assert "pass a list of chunks, or an object whose __iter__ starts" in message

    class Chunks:
        def __iter__(self):
            yield from (x, x)

    once = fr.fit(np.concatenate([x, x]), y)
    assert (
        fr.fit([x, x], y, one_pass=False).fingerprint
        == fr.fit(Chunks(), y, one_pass=False).fingerprint
        == once.fingerprint
    )


def test_advice_on_how_a_fit_is_asked_for(tmp_path, x, capsys):
    np.save(tmp_path / "x.npy", x), np.save(tmp_path / "y.npy", np.roll(x, 1, axis=1))
    source, target, old = (str(tmp_path / name) for name in ("x.npy", "y.npy", "old.safetensors"))
    fit = ["fit", source, "--target", target, "--out"]
    assert cli.main([*fit, old]) == 0
    capsys.readouterr()
    given = [*fit, str(tmp_path / "new.safetensors"), "--from", old]
    assert cli.main([*given, "--method", "realign", "--centroid", "paper", "--tol", "1e-2"]) == 2
    options = re.search(r"leave out (.*)$", capsys.readouterr().err)[1]
    assert {"--method", "--centroid", "--tol"} <= set(re.findall(r"--[a-z-]+", options)) and cli.main(given) == 0
    assert cli.main(["fit", source, "--out", str(tmp_path / "b.safetensors")]) == 2
    assert re.findall(r"--[a-z]+", capsys.readouterr().err) == ["--target", "--from"]
    message = message_of(lambda: fr.fit(x, np.roll(x, 1, axis=1), method="c3", encoder_source="a"))
    assert "leave out encoder_source" in message and fr.fit(x, np.roll(x, 1, axis=1), method="c3").name == "c3"
    message = message_of(lambda: fr.fit(x, x, method="realing"))
    assert fr.fit(x, np.roll(x, 1, axis=1), method=re.search("did you mean '(.*?)'", message)[1]).dim == 6


def test_names_of_columns_that_were_probably_meant(tmp_path, x):
    from fastrealign.data.lookup import open_embeddings
    from fastrealign.embed.inputs import open_input

    captions = [f"caption {i}" for i in range(ROWS)]
    path = corpus.parquet_file(tmp_path / "a.parquet", x, image_name=captions, caption=captions)
    message = message_of(lambda: open_source(path, side="source", column="embeding"))
    assert open_source(path, side="source", column=re.search(r"did you mean '(.*?)'", message)[1]).rows == ROWS
    message = message_of(lambda: list(open_input(path, ids="image_nam")))
    assert [item.id for item in open_input(path, ids=re.search(r"did you mean '(.*?)'", message)[1])] == captions
    message = message_of(lambda: open_embeddings(path, id_column="image_names"))
    assert len(open_embeddings(path, id_column=re.search(r"did you mean '(.*?)'", message)[1])) == ROWS
