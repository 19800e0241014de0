"""Figures in the pages are those of the committed results: the blocks that commands write, and sentences beside them."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import benchmarks
import numpy as np
import pytest

from fastrealign.cli.demo.run import run

common, pictures, figure1 = (benchmarks.module(name) for name in ("paper.common", "pictures", "paper.figure1"))
NAMES = (*pictures.MODULES, *pictures.OTHERS)


@cache
def results(name):
    return json.loads((common.ROOT / common.RESULTS.format(name)).read_text())


@cache
def page(name):
    """Its text with single spaces."""
    return " ".join((common.ROOT / name).read_text().split())


@pytest.mark.parametrize("name", NAMES)
def test_a_block_is_what_its_results_tell(name):
    of = importlib.import_module(f"bench.paper.{name}").REPRODUCTION
    told = " ".join(of.tell(results(name)).split())
    block = re.search(f"<!-- results:{name} -->(.*?)<!-- /results:{name} -->", page(of.page))[1]
    assert block.strip().startswith(told), f"run python -m bench.paper.{name} --redraw"


def test_the_numbers_of_figure_1_are_those_of_its_results():
    kept = json.loads((common.ROOT / "bench/results/figure1.json").read_text())
    assert " ".join(figure1.render_numbers(kept).split()) in page("docs/paper/figure1.md")


# --- sentences --------------------------------------------------------------------------------------------------------


def signed(value):
    """+1.5, with the sign that the pages use for numbers below zero."""
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def span(values):
    return f"{signed(min(values))} to {signed(max(values))}"


def error(values):
    return np.std(values, ddof=1) / np.sqrt(len(values))


def of_gap() -> Iterator[str]:
    gaps = {name: of["all rows"] for name, of in results("gap")["methods"].items()}
    yield f"ReAlign leaves {gaps['realign'] / gaps['none'] / (2.6e-4 / 0.392):.0f} times as much of the raw gap"
    yield f"C3 leaves {100 * gaps['c3'] / gaps['none']:.0f} % instead of 0.6 %"


def of_rows() -> Iterator[str]:
    found = results("sample_size")
    (left,) = [size["left"] for size in found["by_size"][1]["sizes"] if size["n"] == 50_000]
    yield f"near enough at 50,000 rows ({1e3 * np.median(left['paper']['all rows']):.1f}e-3)"
    of = found["real"]["A"]
    fifty = np.mean(of["left"]["50"]["paper, held out"])
    yield f"fewer rows open the gap: {np.mean(of['before']):.2f} becomes {fifty:.2f} with 50"


def of_kept() -> Iterator[str]:
    yield f"(to the letter of the paper's eq. 18: {100 * results('blockwise')['methods']['letter']['kept']:.0f} %)"


def of_orderings() -> Iterator[str]:
    seeds = results("orderings")["heads"]["A"].values()
    raw, blockwise = (100 * np.mean([seed[method]["mixing"] for seed in seeds]) for method in ("none", "bca"))
    yield f"which it was fitted on ({blockwise:.1f} % in A, none {raw:.1f} %)"
    raw, blockwise = (100 * shares("A", method, "mixing").mean() for method in ("none", "bca"))
    yield f"it mixes worse than none ({blockwise:.1f} %, none {raw:.1f} %)"


def shares(kind, method, figure, seeds=None):
    """Of bench.paper.uses, by seed."""
    return np.array([of["methods"][method][figure] for of in results("uses")["heads"][kind]["seeds"][:seeds]])


def of_real_world() -> Iterator[str]:
    """The table of heads is of the seeds 0 to 2."""
    for kind in "AB":
        gap, mixing, first = (shares(kind, "none", of, 3) for of in ("gap", "mixing", "R@1"))
        yield f"{gap.min():.3f} to {gap.max():.3f} | {100 * mixing.min():.1f} % to {100 * mixing.max():.1f} % |"
        yield f"| {first.min():.3f} to {first.max():.3f} |".replace(" 0.", " .")
    gap = shares("C", "none", "gap", 3)
    yield f"| C | 60 | {gap.min():.3f} to {gap.max():.3f} |"
    assert shares("C", "none", "mixing", 3).max() < 5e-5


def of_uses() -> Iterator[str]:
    def gain(kind, method="realign", figure="accuracy", less="none"):
        return 100 * (shares(kind, method, figure) - shares(kind, less, figure))

    def mean(kind, method, figure):
        return 100 * shares(kind, method, figure).mean()

    assert not shares("C", "none", "images in one index").any()
    aligned, blurred = (mean("C", method, "images in one index") for method in ("realign", "c3"))
    yield f"after ReAlign {aligned:.0f} % of the titles find their picture there, after C3, whose noise blurs captions too, "
    yield f"blurs captions too, {blurred:.0f} %."
    first = {kind: [mean(kind, method, "R@1") for method in ("none", "realign", "two-sided")] for kind in "ABC"}
    below = sum(gain("C", figure="R@1") < 0)
    assert below == 5
    yield f"from {first['C'][0]:.1f} % to {first['C'][1]:.1f} % (C, in five of five seeds)"
    lost = -gain("B", figure="R@1")
    yield f"{first['B'][0]:.1f} % to {first['B'][1]:.1f} % (B, by {lost.mean():.1f} ± {error(lost):.1f})"
    yield f"keeps it in C ({first['C'][2]:.1f} %), in B {first['B'][2]:.1f} % are left"
    c, b, a = (gain(kind) for kind in "CBA")
    yield (
        f"ReAlign gains {c.mean():.1f} ± {error(c):.1f} points in C ({c.min():.1f} to {c.max():.1f} by seed), "
        f"{b.mean():.1f} ± {error(b):.1f} in B ({signed(b.min())} to {b.max():.1f}) and {a.mean():.1f} ± {error(a):.1f} in A"
    )
    raw = [signed(gain(kind, "none+noise").mean()) for kind in "ABC"]
    noisy = [signed(gain(kind, "realign+noise", less="realign").mean()) for kind in "ABC"]
    yield f"changes raw rows by {raw[0]} (A), {raw[1]} (B) and {raw[2]} (C), "
    yield f"and {raw[2]} (C), aligned ones by {noisy[0]}, {noisy[1]} and {noisy[2]}"
    refined = [gain("C", "aniso", figure, "realign-exact") for figure in ("accuracy", "one index")]
    yield " and ".join(
        f"{of.mean():.1f} ± {error(of):.1f} {where}"
        for of, where in zip(refined, ("points in the classifier (C)", "in one index"), strict=True)
    )
    scaled = {scale: f"S{scale}-" for scale in (10, 40, 100)}
    small, large, largest = (shares(kind, "none", "gap").mean() for kind in scaled.values())
    yield f"{small:.2f} is left at 10, {large:.2f} at 40, {largest:.1f} at 100"


def of_titles() -> Iterator[str]:
    arms = results("real_revision")["arms"]

    def scores(head, arm, figure="category"):
        return 100 * np.array([of[f"caption/{figure}/f1"] for of in arms[head][arm]])

    def gain(head, arm="ReAlign", figure="category"):
        return scores(head, arm, figure) - scores(head, "raw text", figure)

    assert {len(of) for head in arms.values() for of in head.values()} == {3}
    c, b, a, noisy = gain("C"), gain("B"), gain("A"), gain("B", "ReAlign + noise")
    aligned, raw = (scores("C", arm).mean() for arm in ("ReAlign", "raw text"))
    yield f"category named {aligned:.1f} % against {raw:.1f} % ({signed(c.mean())} in the mean, {span(c)} by seed), title"
    aligned, raw = (scores("C", arm, "words").mean() for arm in ("ReAlign", "raw text"))
    yield f"title words {aligned:.1f} against {raw:.1f} (F1); smaller gaps: {signed(b.mean())} ({span(b)})"
    yield f"smaller gaps: {signed(b.mean())} ({span(b)}) and {signed(a.mean())} |"
    yield f"with B ReAlign gains {b.mean():.1f} in the mean ({span(b)}, above raw text in two of three), "
    yield f"in two of three), with noise {noisy.mean():.1f} ({span(noisy)})"
    a, b = (gain(head, figure="words") for head in "AB")
    yield f"ReAlign is above raw text by {a.mean():.1f} and {b.mean():.1f} points, in three of three seeds"
    assert min(a.min(), b.min()) > 0


def of_titles_with_noise() -> Iterator[str]:
    arms = results("real_revision")["arms"]

    def gain(head, arm):
        noisy, plain = (arms[head][name] for name in (f"{arm} + noise", arm))
        return 100 * np.array(
            [one["caption/category/f1"] - other["caption/category/f1"] for one, other in zip(noisy, plain, strict=True)]
        )

    raw, aligned = (gain("B", arm) for arm in ("raw text", "ReAlign"))
    yield f"noise gains {raw.mean():.1f} points on raw text ({span(raw)}) and "
    yield f"and {aligned.mean():.1f} on aligned text ({span(aligned)})"
    raw, aligned = (gain("A", arm).mean() for arm in ("raw text", "ReAlign"))
    yield f"it changes raw text by {raw:.1f} and costs aligned text {-aligned:.1f}"
    assert max(gain("C", "ReAlign")) < 0


def of_captions() -> Iterator[str]:
    found = results("captioning")["methods"]
    scores = {
        m: {at: 100 * np.array([one["caption"] for one in of]) for at, of in by.items()} for m, by in found.items()
    }
    aligned, raw = scores["realign"], scores["none"]
    gain, short = aligned["0"] - raw["0"], raw["0.25"] - raw["0"]
    assert min(gain) > 0 and max(np.mean(of) for at, of in aligned.items() if at != "0") < np.mean(aligned["0"])
    yield f"aligned text is above raw text by {gain.mean():.1f} points of attribute F1, in both seeds"
    yield f"On raw text a length of 0.25 gains {short.mean():.1f} ± {error(short):.1f} points"
    (long,) = {f"{-np.mean(of['2'] - of['0']):.1f}" for of in scores.values()}
    yield f"a length of 2 costs {long} points on both"


def of_noise() -> Iterator[str]:
    found = results("noise")["worlds"]
    names = ("real, MLP, learned scale", "real, linear, learned scale", "real, MLP, scale 60", "rendered")
    worlds = [found[name] for name in names]

    def curve(method, length):
        return [100 * np.array(of["curves"][method][length]) for of in worlds]

    rows = {
        "raw text": curve("none", "0"),
        "raw text, noise 1 (as CapDec, but shorter)": curve("none", "1"),
        "ReAlign": curve("realign", "0"),
        "ReAlign, noise 0.5": curve("realign", "0.5"),
        "ReAlign, noise 1": curve("realign", "1"),
        "images": [100 * np.array(of["upper"]) for of in worlds],
    }
    for title, of in rows.items():
        yield f"| {title} | {' | '.join(f'{values.mean():.1f}' for values in of)} |"
    _, linear, clip, rendered = map(np.subtract, rows["ReAlign"], rows["raw text"])
    yield f"aligning gains {linear.mean():.1f} ± {error(linear):.1f} and {clip.mean():.1f} ± {error(clip):.1f} points on"
    yield f"gains nothing in the latter) and {rendered.mean():.0f} in the rendered world"
    noise = [np.mean(one - other) for one, other in zip(curve("none", "1"), rows["raw text"], strict=True)]
    penalty = []
    for of, raw in zip(worlds, rows["raw text"], strict=True):
        accuracies = [100 * np.mean(values) for key, values in of["strengths"].items() if key.startswith("none 0 ")]
        penalty.append(max(accuracies) - raw.mean())
    listed = [f"{of[0]:.1f}, {of[1]:.1f} and {of[2]:.1f}" for of in (penalty, noise)]
    yield f"alone gains {listed[0]} points, noise {listed[1]}; in the rendered world"
    yield f"the penalty gains more, {penalty[3]:.0f} points against {noise[3]:.0f}"


def of_revision() -> Iterator[str]:
    runs = results("revision")["runs"]

    def answers(comparison, label):
        return np.array([run["scores"]["vqa"] for run in runs[comparison][label].values()])

    for title, comparison in (("text alone", "text"), ("text, then stage 2 on real images", "image")):
        raw, aligned = (100 * answers(comparison, label) for label in ("none", "ReAlign"))
        yield f"| {title} | {raw.mean():.1f} ± {raw.std(ddof=1):.1f} % | {aligned.mean():.1f} ± {aligned.std(ddof=1):.1f} % |"
    alone, tuned = (100 * (answers(name, "ReAlign") - answers(name, "none")) for name in ("text", "image"))
    assert sum(alone > 0) == 4
    yield f"ReAlign is above raw text by {alone.mean():.1f} ± {error(alone):.1f} points (standard error), in four of five seeds"
    yield f"the difference of {tuned.mean():.1f} ± {error(tuned):.1f} points is within the noise"


def of_search_in_uses() -> Iterator[str]:
    raw, aligned = (100 * shares("C", method, "R@1").mean() for method in ("none", "realign"))
    yield f"on real heads with a large gap R@1 falls from {raw:.1f} to {aligned:.1f} %"
    of = results("sample_size")["real"]["A"]
    yield f"from {np.mean(of['before']):.2f} to {np.mean(of['left']['50']['paper, held out']):.2f} with 50 rows a side"
    yield f"ReAlign keeps {100 * results('blockwise')['methods']['realign']['kept']:.0f} % of a caption's nearest captions"


def of_roles() -> Iterator[str]:
    searches = results("roles")["searches"]

    def of(heads, query, method, part="test"):
        found = [one for one in searches if one["head"] in heads and (one["query"], one["part"]) == (query, part)]
        assert len(found) == len(heads)
        return [one["methods"][method] for one in found]

    def cells(*which):
        share, pictures, captions, *alone = np.mean([one["splits"] for one in of(*which)], axis=(0, 1))
        kinds = (f"{of:.3f} ({of / other:.0%})" for of, other in zip((pictures, captions), alone, strict=True))
        return " | ".join((f"{share:.3f}", *kinds)).replace("%", " %").replace(" 0.", " .").removeprefix("0")

    def taken(heads, query):
        return Counter(one["taken"] for one in of(heads, query, "auto"))

    shipped, linear, mlp = ("shipped",), ("B0", "B1", "B2"), ("A0", "A1", "A2")
    for query in ("title", "long"):
        for method in ("none", "centred", "balanced"):
            yield f"| {cells(shipped, query, method)} |"
            yield f"| {cells(linear, query, method)} |"
        for method in ("none", "balanced"):
            yield f"| {cells(mlp, query, method)} |"
    for method in ("realign", "bca"):
        yield f"| {cells(shipped, 'title', method)} |"
    for method in ("none", "centred", "balanced"):
        yield f"| {cells(('C0',), 'title', method, 'near')} |"
    assert taken(linear, "title") == {"balanced": 3} and taken(linear, "long") == {"centred": 1, "balanced": 2}
    assert all(taken(mlp, query) == {"none": 2, "balanced": 1} for query in ("title", "long"))


def of_gaps_in_readme() -> Iterator[str]:
    worlds = results("noise")["worlds"]
    rendered, real = (np.mean(worlds[name]["gap"]) for name in ("rendered", "real, MLP, scale 60"))
    yield f"rendered scenes (gap {rendered:.2f})"
    yield f"a gap like CLIP's ({real:.2f}, mean of three seeds)"


def of_demo() -> Iterator[str]:
    found = run()
    before, after = found.before, found.after
    yield f"the gap of held-out pairs from {before.gap:.3f} to {after.gap:.3f} and mixing from 0 to {100 * after.mixing:.1f} %"
    pictures = found.search["ReAlign on all text"].pictures_found
    yield f"{100 * pictures.value:.1f} % ± {100 * pictures.error:.1f} % of the titles find their picture among the first ten"
    yield f"R@10 falls from {before.recall[10]:.3f} to {after.recall[10]:.3f}".replace(" 0.", " .")
    raw, aligned, noisy, images = (100 * of.value for of in found.classifier.values())
    yield f"{raw:.1f} % ± {100 * found.classifier['raw titles'].error:.1f} % of the images from raw titles, "
    yield f"from raw titles, {aligned:.1f} % from aligned ones, {noisy:.1f} % with noise of length 1 added, "
    yield f"with noise of length 1 added, and {images:.1f} % if trained on images"


CLAIMS = {
    "README.md": (of_gaps_in_readme,),
    "docs/uses.md": (of_revision, of_search_in_uses, of_roles),
    "docs/train-on-text.md": (of_noise, of_titles_with_noise, of_captions),
    "docs/paper.md": (of_gap, of_rows, of_kept, of_orderings, of_real_world, of_uses, of_titles, of_demo),
}


@pytest.mark.parametrize(("name", "of"), [(name, of) for name, all_of in CLAIMS.items() for of in all_of])
def test_sentences_state_the_results(name, of):
    missing = [sentence for sentence in of() if sentence not in page(name)]
    assert not missing, f"{name} should say: {missing}"
