"""`method="auto"` and "balanced": what is measured, what is chosen and why, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.cli.demo import real_world
from fastrealign.core.errors import InputError
from fastrealign.methods import choosing
from fastrealign.methods.role_pairs import TOP, Found, Kind, Pairs, pairs_of, search
from fastrealign.methods.role_trials import error_of, trial_of

D = 24
METHODS = {"none", "centred", "anchor", "anchor-trace", "realign", "realign-exact", "balanced", "z-score", "bca"}


def pi(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def world(rng, gap, n=900):
    """Titles, captions and pictures of n things; half of a picture's columns say nothing of it. gap: length of the offset."""
    thing, at = rng.standard_normal((n, D)), gap * pi(rng.standard_normal(D)) * np.sqrt(D)
    thing[:, D // 2 :] *= 0.1
    rows = {role: thing + 0.4 * rng.standard_normal((n, D)) - at for role in ("query", "text")}
    return rows | {"image": thing + rng.standard_normal((n, D)) + at}


def parts(rows, n=450):
    """Rows to fit on; and held-out pairs, every other document a picture, the others captions."""
    fit, held = ({role: x[part] for role, x in rows.items()} for part in (slice(n), slice(n, None)))
    pairs = {("query", role): (held["query"][i::2], held[role][i::2]) for i, role in enumerate(("image", "text"))}
    return fit, pairs


def test_a_large_gap(rng, tmp_path):
    fit, pairs = parts(world(rng, 1.0))
    roles = fr.fit_roles(fit, anchor="image", method="auto", pairs=pairs)
    none, taken = roles.trials["none"], roles.trials[roles.method]
    assert set(roles.trials) == METHODS and roles.method != "none"
    assert none.kinds["query:image"].found < 0.05 < 0.3 < taken.kinds["query:image"].found
    assert taken.found > none.found + 3 * none.error
    assert (
        roles.reason.startswith(f"R@10 in one index: {roles.method} {taken.found:.3f} ±")
        and "gap is large" in roles.reason
    )
    roles.save(tmp_path / "roles.safetensors")
    for back in (fr.Roles.load(tmp_path / "roles.safetensors"), pickle.loads(pickle.dumps(roles))):
        assert (back.method, back.reason, dict(back.trials)) == (roles.method, roles.reason, dict(roles.trials))
        assert [back[role].fingerprint for role in back] == [roles[role].fingerprint for role in roles]


def test_no_gap_needs_no_map(rng):
    """Where all roles lie alike, none is the simplest; no kind of pairs is worse off with what is chosen."""
    thing = rng.standard_normal((900, D))
    fit, pairs = parts({role: thing + 0.8 * rng.standard_normal((900, D)) for role in ("query", "text", "image")})
    roles = fr.fit_roles(fit, anchor="image", method="auto", pairs=pairs)
    assert "gap is large" not in roles.reason
    for kind, one in roles.trials["none"].kinds.items():
        assert roles.trials[roles.method].kinds[kind].found >= one.found - 2 * one.error


def test_a_small_gap_lowers_nothing(rng):
    """No kind of pairs loses more than a standard error, in the index or alone, though another method may find more."""
    fit, pairs = parts(world(rng, 0.0))
    roles = fr.fit_roles(fit, anchor="image", method="auto", pairs=pairs)
    held = pairs_of({kind: tuple(pi(x).astype(np.float32) for x in sides) for kind, sides in pairs.items()})
    none = search(held, fr.fit_roles(fit, anchor="image", method="none"))
    taken = search(held, roles)
    for before, after in ((none.together, taken.together), (none.alone, taken.alone)):
        for kind, a, b in zip(held.kinds, before, after, strict=True):
            lost = a.astype(float) - b
            assert lost.mean() <= 1.01 * error_of(held, [kind], [lost])
    assert "gap is large" not in roles.reason


def chosen_among(n=400, **methods):
    """What `auto` takes where each of `methods` makes queries find or lose documents: of ("text", "image"), in the index.

    Without a map every caption is found, and half of the pictures; without other documents all are.
    """
    kinds = [Kind("query", role, np.arange(n), np.arange(n)) for role in ("text", "image")]
    pairs = Pairs({"query": np.eye(n)}, {role: np.eye(n) for role in ("text", "image")}, kinds)
    tried = choosing._Tried()
    for name, (text, image) in {"none": (0, 0), **methods}.items():
        together = [np.arange(n) < n + text, np.arange(n) < n // 2 + image]
        tried.maps[name], tried.found[name] = {}, Found(together, [np.ones(n, bool)] * 2, {})
    trials = {name: trial_of(pairs, found) for name, found in tried.found.items()}
    return choosing._choice(pairs, tried, trials)


@pytest.mark.parametrize(
    ("methods", "taken", "said"),
    [
        ({"centred": (0, 2)}, "none", "finds only 0.003 more than doing nothing"),
        ({"centred": (0, 40)}, "centred", "centred is the best."),
        ({"centred": (0, -5)}, "none", "centred is left out since it lowers query:image in the index by 0.013"),
        ({"centred": (-1, 40)}, "centred", "centred is the best."),  # one pair is one standard error
        ({"centred": (-2, 40)}, "none", "centred is left out since it lowers query:text in the index by 0.005"),
        (
            {"centred": (0, 40), "balanced": (0, 41)},
            "centred",
            "simplest within a standard error of the best, balanced",
        ),
        ({"centred": (0, 10), "balanced": (0, 60)}, "balanced", "balanced is the best."),
        ({"centred": (0, 40), "balanced": (-2, 60)}, "centred", "balanced is left out since it lowers query:text"),
        ({"centred": (0, 0)}, "none", "centred is left out since it finds no more than doing nothing"),
    ],
)
def test_the_rule(methods, taken, said):
    """Where the gap is small: a method has to find more than chance gives, and to lower nothing by more than chance does."""
    name, reason = chosen_among(**methods)
    assert name == taken and said in reason


def test_found_as_defined(rng):
    """Rows that are equal are one query or document, with all that belongs to it; the others of a query do not count."""
    n = 150
    query, text, image = (pi(rng.standard_normal((n, D))) for _ in range(3))
    query[20:40], text[100:104] = query[0], text[99]  # a query of 21 pairs, a document of 5
    read = {
        ("query", role): (query.astype(np.float32), x.astype(np.float32))
        for role, x in (("text", text), ("image", image))
    }
    pairs = pairs_of(read)
    assert [len(pairs.queries["query"]), len(pairs.documents["text"]), len(pairs.documents["image"])] == [130, 146, 150]
    maps = fr.fit_roles({"query": query, "text": text, "image": image}, anchor="image", method="none")
    found = search(pairs, maps)
    documents = {role: np.unique(read["query", role][1].astype(float), axis=0) for role in ("text", "image")}
    belongs = {
        (q.tobytes(), role, d.tobytes()) for (_, role), (qs, ds) in read.items() for q, d in zip(qs, ds, strict=True)
    }
    for kind, together, alone in zip(pairs.kinds, found.together, found.alone, strict=True):
        for q, d, one, other in zip(kind.of_query, kind.of_document, together, alone, strict=True):
            of, own = pairs.queries["query"][q], pairs.documents[kind.document][d]
            before = {
                role: sum(
                    (of.tobytes(), role, x.astype(np.float32).tobytes()) not in belongs
                    and x @ of > own @ of.astype(float)
                    for x in documents[role]
                )
                for role in documents
            }
            assert one == (sum(before.values()) < TOP) and other == (before[kind.document] < TOP)


def test_error(rng):
    """The standard error is that of a bootstrap over queries, where each query has a pair of each kind."""
    fit, _ = parts(world(rng, 0.3))
    read = {
        ("query", role): (fit["query"].astype(np.float32), fit[role].astype(np.float32)) for role in ("text", "image")
    }
    pairs = pairs_of(read)
    found = search(pairs, fr.fit_roles(fit, anchor="image", method="centred"))
    values = [np.empty(len(fit["query"])) for _ in pairs.kinds]
    for kind, together, value in zip(pairs.kinds, found.together, values, strict=True):
        value[kind.of_query] = together
    mean = np.mean(values, axis=0)
    drawn = mean[rng.integers(0, len(mean), (4000, len(mean)))].mean(axis=1)
    assert error_of(pairs, pairs.kinds, found.together) == pytest.approx(drawn.std(), rel=0.1)
    assert trial_of(pairs, found).found == pytest.approx(mean.mean())


def test_balanced(rng):
    """The best wrong documents of all roles have one cosine in the mean, and a search of one role finds what it found."""
    fit, pairs = parts(world(rng, 1.0))
    centred = fr.fit_roles(fit, anchor="image", method="centred")
    balanced = fr.fit_roles(fit, anchor="image", method="balanced", pairs=pairs)
    held = pairs_of({kind: tuple(pi(x).astype(np.float32) for x in sides) for kind, sides in pairs.items()})
    before, after = search(held, centred), search(held, balanced)
    apart = [abs(one.best_wrong["text"] / one.best_wrong["image"] - 1) for one in (before, after)]
    assert apart[1] < 0.25 * apart[0]
    assert balanced.method == "balanced" and not balanced.reason and set(balanced.trials) == {"balanced"}
    assert balanced["text"].row_map is not None and balanced["image"].fingerprint != centred["image"].fingerprint
    rows = fit["text"][:5]
    by_hand = pi(pi(pi(rows) + balanced["text"].b) + balanced["text"].c)
    np.testing.assert_allclose(balanced["text"](rows), by_hand, rtol=0, atol=1e-12)
    torch = pytest.importorskip("torch")
    module = fr.nn.as_module(balanced["text"])
    np.testing.assert_allclose(module(torch.tensor(rows)).numpy(), by_hand, rtol=0, atol=1e-12)


def test_rows_of_the_fit(rng, tmp_path):
    """Pairs of the rows that are fitted on are seen: half of them choose. Files give the bits of arrays."""
    rows = world(rng, 1.0, n=600)
    pairs = {("query", role): (rows["query"], rows[role]) for role in ("image", "text")}
    roles = fr.fit_roles(rows, anchor="image", method="auto", pairs=pairs)
    counts = [one.pairs for one in roles.trials["none"].kinds.values()]
    assert counts[0] == counts[1] and 240 < counts[0] < 360
    for role, x in rows.items():
        np.save(tmp_path / f"{role}.npy", x)
    paths = {role: tmp_path / f"{role}.npy" for role in rows}
    files = fr.fit_roles(
        paths, anchor="image", method="auto", pairs={kind: tuple(paths[role] for role in kind) for kind in pairs}
    )
    assert files.trials == roles.trials and [files[r].fingerprint for r in files] == [
        roles[r].fingerprint for r in roles
    ]


def test_real_world():
    """On the shipped head the choice finds pictures and captions at four fifths of what each finds alone, or more."""
    real = real_world.load()
    fit, test = real.part("fit"), real.part("test")
    rows = {"query": fit.title, "text": fit.long, "image": fit.image}
    pairs = {("query", role): (fit.title, rows[role]) for role in ("image", "text")}
    roles = fr.fit_roles(rows, anchor="image", method="auto", pairs=pairs)
    half = np.random.default_rng(0).permutation(len(test.ids)) % 2 == 0
    held = {
        ("query", "image"): (test.title[half].astype(np.float32), test.image[half].astype(np.float32)),
        ("query", "text"): (test.title[~half].astype(np.float32), test.long[~half].astype(np.float32)),
    }
    pairs = pairs_of(held)
    trial = trial_of(pairs, search(pairs, roles))
    assert trial.found > 0.6
    assert all(one.found > 0.8 * one.alone for one in trial.kinds.values())


@pytest.fixture(scope="module")
def given():
    return parts(world(np.random.default_rng(5), 1.0))


def _with(pairs, role, rows):
    return pairs | {("query", role): rows}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: None, r"auto needs rows that belong together: pairs=.*without pairs choose another method"),
        (lambda p: [1, 2], "pairs: expected a mapping"),
        (lambda p: {"query": p["query", "text"]}, "pairs: expected two roles"),
        (lambda p: {("query", "text"): 3}, "pairs: expected two kinds of rows"),
        (lambda p: {("query", "imgae"): p["query", "image"]}, r"no role 'imgae', did you mean 'image'\?"),
        (
            lambda p: _with(p, "text", (p["query", "text"][0], p["query", "text"][1][:-1])),
            "225 rows of query, 224 rows of text",
        ),
        (
            lambda p: _with(p, "text", tuple(x[:30] for x in p["query", "text"])),
            "30 pairs, expected at least 100: with",
        ),
        (lambda p: {("query", "text"): p["query", "text"]}, "documents are of the role text.*method='none' is safe"),
        (
            lambda p: _with(p, "text", tuple(x[:, :5] for x in p["query", "text"])),
            "query are 5 wide, those of the role 24",
        ),
        (lambda p: _with(p, "text", (p["query", "text"][0], np.ones((225, D)))), "1 distinct document of text"),
    ],
)
def test_refused(given, change, said):
    fit, pairs = given
    with pytest.raises(InputError, match=said) as caught:
        fr.fit_roles(fit, anchor="image", method="auto", pairs=change(pairs))
    assert "\n" not in str(caught.value)


def test_refused_too(given):
    fit, pairs = given
    with pytest.raises(InputError, match="pairs are for balanced and auto, centred takes none"):
        fr.fit_roles(fit, anchor="image", method="centred", pairs=pairs)
    both = {("text", "image"): pairs["query", "image"], ("query", "text"): pairs["query", "text"]}
    with pytest.raises(InputError, match="text is searched with, too"):
        fr.fit_roles(fit, anchor="image", method="balanced", pairs=both)
    auto = fr.fit_roles(fit, anchor="image", method="auto", pairs=both)
    assert set(auto.trials) == METHODS - {"balanced"}
    spoiled = pairs["query", "text"][0].copy()
    spoiled[7] = np.nan
    with pytest.raises(InputError, match=r"pairs query:text: role query: row 7 has a NaN"):
        fr.fit_roles(
            fit, anchor="image", method="auto", pairs=_with(pairs, "text", (spoiled, pairs["query", "text"][1]))
        )
    with pytest.raises(InputError, match=r"role query: an iterator can be read once, and auto reads more than once"):
        fr.fit_roles({role: iter([x]) for role, x in fit.items()}, anchor="image", method="auto", pairs=pairs)
    own = {kind: (fit["query"][:150], fit[kind[1]][:150]) for kind in pairs}
    short = {**fit, "query": own["query", "text"][0]}
    with pytest.raises(InputError, match=r"half of them choose, and each half needs 100 or more"):
        fr.fit_roles(
            short, anchor="image", method="auto", pairs={kind: (short["query"], x) for kind, (_, x) in own.items()}
        )
