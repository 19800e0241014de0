"""Roles of one index: the forms of fit, and apply, check and inspect of what it saves."""

from __future__ import annotations

import json

import corpus
import numpy as np
import pytest

import fastrealign as fr


def test_fit_of_roles(tmp_path, sides, run):
    """What the command fits is what Python fits; each role of the file maps its files."""
    rows = {"text": corpus.loaded(sides[0]), "image": corpus.loaded(sides[1])}
    file, given = tmp_path / "roles.safetensors", ("--role", f"text={sides[0]}", "--role", f"image={sides[1]}")
    code, out, err = run("fit", *given, "--anchor", "image", "--method", "Centred", "-o", file)
    assert (code, err) == (0, "") and "method centred, anchor image" in out
    roles = fr.fit_roles(rows, anchor="image", method="centred")
    for role, side in zip(roles, sides, strict=True):
        assert run("apply", file, side, "--role", role, "--out", tmp_path / f"to_{role}", "--quiet") == (0, "", "")
        assert np.array_equal(corpus.loaded(tmp_path / f"to_{role}"), roles[role](rows[role]))
        # The anchor moves too, so no gap is left to where it was.
        assert json.loads((tmp_path / f"to_{role}" / "manifest.json").read_text())["gap_left"] is None
    assert run("fit", *given, "--anchor", "image", "--out", file)[0] == 2
    held = tmp_path / "held.npy"
    np.save(held, rows["text"])
    auto = [word for document in ("image", "text") for word in ("--pairs", f"text:{document}={held},{held}")]
    assert run("fit", *given, "--anchor", "image", "--method", "auto", *auto, "--out", file, "--overwrite")[0] == 0
    assert "chosen" in run("inspect", file)[1] and "none" in json.loads(run("inspect", file, "--json")[1])["trials"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("s --role a=s --anchor a", "fit takes either SOURCE and --target or roles"),
        ("--role a=s --role b=s --anchor a --target s --tol 0.1", "--target, --tol goes with SOURCE, not with --role"),
        ("--role a=s --role b=s", "roles need an anchor"),
        ("--role a=s --anchor a", "roles: expected at least two, such as --role text=text_emb/ --role image=img_emb/"),
        ("--role a=s --role a=s --anchor a", "--role a=s: a was given already"),
        ("--role a --anchor a", "--role a: expected NAME=PATH"),
        ("--role text=s --role image=s --anchor imgae", "no role 'imgae', did you mean 'image'?"),
        ("--role a=s --role b=s --anchor a --method auto --pairs a:b=s", "--pairs a:b=s: expected NAME:NAME=PATH,PATH"),
        ("--role a=s --role b=none.npy --anchor a", "role b: none.npy: no such file"),
        ("s --target s --anchor a", "--anchor is of the roles of one index"),
        ("", "fit needs a SOURCE and its --target, or roles"),
    ],
)
def test_forms_of_fit_that_do_not_go_together(tmp_path, sides, run, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    sides[0].rename("s")
    code, out, err = run("fit", *words.split(), "--out", "roles.safetensors")
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err
    assert not (tmp_path / "roles.safetensors").exists()


def test_check_takes_one_role_and_says_which(tmp_path, sides, run):
    rows = {"text": corpus.loaded(sides[0]), "image": corpus.loaded(sides[1])}
    file, centred = tmp_path / "roles.safetensors", tmp_path / "centred.safetensors"
    fr.fit_roles(rows, anchor="image").save(file)
    fr.fit_roles(rows, anchor="image", method="centred").save(centred)
    code, _, err = run("check", file, sides[0])
    assert code == 2 and err.count("\n") == 1
    assert "holds roles of one index, method realign, and check takes one alignment: pass --role text" in err
    assert run("check", file, sides[0], "--role", "text")[0] == 0
    code, _, err = run("check", file, sides[0], "--role", "image")
    assert code == 2 and "role image is none, not an alignment to check; those of text are" in err
    code, _, err = run("check", centred, sides[0])
    assert code == 2 and "which none of them is" in err and "fastrealign fit TEXT --target IMAGES" in err
    code, _, err = run("fit", sides[0], "--from", file, "--out", tmp_path / "new.safetensors")
    assert code == 2 and "an update takes one alignment: pass what fastrealign.Roles.load(path)['text'].save" in err


def test_apply_and_inspect_roles(tmp_path, sides, run):
    rows = {"text": corpus.loaded(sides[0]), "image": corpus.loaded(sides[1])}
    roles = fr.fit_roles(rows, anchor="image", method="centred")
    file = tmp_path / "roles.safetensors"
    roles.save(file)
    assert run("apply", file, sides[1], "--role", "image", "--out", tmp_path / "out")[0] == 0
    assert np.array_equal(corpus.loaded(tmp_path / "out"), roles["image"](rows["image"]))
    code, _, err = run("apply", file, sides[1], "--role", "imge", "--out", tmp_path / "other")
    assert code == 2 and "no role 'imge'" in err and "'image'" in err
    code, _, err = run("apply", file, sides[1], "--out", tmp_path / "other")
    assert code == 2 and "holds roles" in err and "--role" in err
    code, out, _ = run("inspect", file)
    assert code == 0 and "anchor image" in out and roles["text"].fingerprint[:16] in out
    value = json.loads(run("inspect", file, "--json")[1])
    assert value["roles"]["text"]["fingerprint"] == roles["text"].fingerprint
    roles["text"].save(tmp_path / "one.safetensors")
    code, _, err = run("apply", tmp_path / "one.safetensors", sides[0], "--role", "text", "--out", tmp_path / "other")
    assert code == 2 and "one.safetensors: holds one map for all rows, not a file of roles; leave --role out" in err
    code, _, err = run("check", tmp_path / "one.safetensors", sides[0], "--role", "text")
    assert code == 2 and "not a file of roles; leave --role out" in err
    assert run("apply", tmp_path / "one.safetensors", sides[0], "--out", tmp_path / "other")[0] == 0
    code, _, err = run("align", file, "--target", sides[1], "--out", tmp_path / "other")
    assert code == 2 and "saved roles, not embeddings" in err
