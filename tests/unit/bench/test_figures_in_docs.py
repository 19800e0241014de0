"""Figures in the pages are those of the committed results: the blocks that commands write, and sentences beside them.

Sentences of docs/paper.md are in test_figures_in_paper.py.
"""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Iterator

import benchmarks
import numpy as np
import pytest
from doc_figures import common, error, page, results, shares, span, unsaid

import fastrealign as fr
from fastrealign.cli.demo import real_world
from fastrealign.methods.baselines import fit_baseline

pictures, figure1 = (benchmarks.module(name) for name in ("pictures", "paper.figure1"))
NAMES = (*pictures.MODULES, *pictures.OTHERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_block_is_what_its_results_tell(name):
    of = importlib.import_module(f"bench.paper.{name}").REPRODUCTION
    text = " ".join(of.tell(results(name)).split())
    block = re.search(f"<!-- results:{name} -->(.*?)<!-- /results:{name} -->", page(of.page))[1]
    assert block.strip().startswith(text), f"run python -m bench.paper.{name} --redraw"


def test_the_numbers_of_figure_1_are_those_of_its_results():
    kept = json.loads((common.ROOT / "bench/results/figure1.json").read_text())
    assert " ".join(figure1.render_numbers(kept).split()) in page("docs/paper/figure1.md")


def test_costs_of_index_are_those_of_its_results():
    """Medians of the runs, in seconds, and their ratios."""
    stores = json.loads((common.ROOT / "bench/results/index-stores.json").read_text())["stores"]
    table = re.findall(
        r"^\| (FAISS|LanceDB|PostgreSQL|Qdrant)[^|]*\| ([\d,]+) \|(.*)\|$",
        (common.ROOT / "docs/stores.md").read_text(),
        re.M,
    )
    assert {name.lower() for name, *_ in table} == stores.keys()
    for name, rows, cells in table:
        kept = stores[name.lower()]
        copied, mapped, own = (
            np.median([run["seconds"] for run in kept["runs"].get(way, [])] or np.nan)
            for way in ("copied", "mapped", "own")
        )
        figures = f"{copied:.1f} | {mapped:.1f} | {own:.1f} | {mapped / copied:.2f} | {mapped / own:.2f}".replace(
            "nan", ""
        )
        assert (int(rows.replace(",", "")), cells.split("|")) == (
            kept["rows"],
            [f" {figure.strip()} " if figure.strip() else "  " for figure in figures.split("|")],
        )


def test_costs_of_a_second_run_are_those_of_its_results():
    stores = json.loads((common.ROOT / "bench/results/index-again.json").read_text())["stores"]
    seconds = {name: [kept["runs"][way][0]["seconds"] for way in ("again", "mapped")] for name, kept in stores.items()}
    text = page("docs/stores.md")
    said = {"lancedb": "{:.1f} s in LanceDB (the first {:.1f})"}
    said |= {"postgresql": "PostgreSQL ({:.1f} s, the first {:.1f})", "qdrant": "Qdrant ({:.1f} s, the first {:.1f})"}
    for name, of in said.items():
        assert of.format(*seconds[name]) in text


# --- sentences --------------------------------------------------------------------------------------------------------


def of_gaps_in_readme() -> Iterator[str]:
    worlds = results("noise")["worlds"]
    rendered, real = (np.mean(worlds[name]["gap"]) for name in ("rendered", "real, MLP, scale 60"))
    yield f"| rendered scenes | one small encoder | {rendered:.2f} |"
    assert (len(worlds["real, MLP, scale 60"]["gap"]), len(results("real_revision")["arms"]["C"]["ReAlign"])) == (5, 3)
    gap = f"{real:.2f} (mean of five; the one that ships {worlds['real, MLP, scale 60']['gap'][0]:.2f}), like CLIP's"
    yield f"the seed that ships for search in one index, three seeds for ReVision, else five | {gap} |"


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


def of_losses_by_auto() -> Iterator[str]:
    """On held-out things, where the gap is small: in each search of each seed, four figures."""
    found = [one for one in results("roles")["searches"] if one["head"][0] in "AB" and one["part"] == "test"]
    assert len(found) == 20

    def gain(one, method, less):
        first, other = (np.mean(one["methods"][name]["splits"], axis=0)[0] for name in (method, less))
        return 100 * (first - other)

    careful = [gain(one, "balanced", "auto") for one in found if one["methods"]["auto"]["taken"] != "balanced"]
    assert min(gain(one, "balanced", "none") for one in found) > 0
    yield f"left `balanced` out in {len(careful)} of {len(found)} cases, since"
    yield f"costs {min(careful):.1f} to {max(careful):.1f} points, since `balanced` gained in all {len(found)}"
    lost = 100 * np.array(
        [one["methods"]["auto"]["lost"] for one in found if one["methods"]["auto"]["taken"] != "none"]
    )
    means, errors = lost[:, :, 0], lost[:, :, 1]
    said = benchmarks.module("paper.roles").fallen(found)
    counts = re.search(r"shares (\d+) fell .*?\(by chance ([\d.]+)\), (\d+) by one .*?\(by chance ([\d.]+)\)", said)
    assert counts is not None
    yield f"In {len(lost)} of the {len(found)} cases it took a map."
    yield f"Of their {means.size} figures {counts[3]} fell by more than one standard error of the figure itself on held-out"
    yield f"where chance alone gives {float(counts[4]):.0f}"
    yield f"Of the {means.size}, {counts[1]} fell by at least one standard error of the paired difference"
    yield f"where chance gives {float(counts[2]):.0f}"
    own = lost[:, :, 2]
    over = (means > own) & (means > 0)
    captions_over = over[:, results("roles")["columns"][1:].index("captions")]
    assert over.sum() == captions_over.sum() == int(counts[3])
    names = results("roles")["columns"][1:]
    _, figure = np.unravel_index(means.argmax(), means.shape)
    captions = means[:, names.index("captions")].argmax()
    yield f"Most fell {names[figure]}, by {means.max():.2f} ± {errors.flat[means.argmax()]:.2f} points, captions"
    worst = means[captions, 1], errors[captions, 1]
    yield f"captions by {worst[0]:.2f} ± {worst[1]:.2f} at most"


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


def of_titles_with_noise() -> Iterator[str]:
    arms = results("real_revision")["arms"]

    def gain(head, arm):
        noisy, plain = (arms[head][name] for name in (f"{arm} + noise", arm))
        return 100 * np.array(
            [one["caption/category/f1"] - other["caption/category/f1"] for one, other in zip(noisy, plain, strict=True)]
        )

    noisy, plain = (
        100 * np.mean([of["caption/category/f1"] for of in arms["C"][arm]]) for arm in ("raw text + noise", "raw text")
    )
    yield f"the category is named right in {noisy:.1f} % instead of {plain:.1f} % on"
    yield f"raw text ({span(gain('C', 'raw text'))} points by seed), and on aligned text less often"
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
    assert len(raw["0"]) == 3
    gain, short = aligned["0"] - raw["0"], raw["0.25"] - raw["0"]
    assert min(gain) > 0 and max(np.mean(of) for at, of in aligned.items() if at != "0") < np.mean(aligned["0"])
    yield f"aligned text is above raw text by {gain.mean():.1f} points of attribute F1, in all three seeds"
    yield f"On raw text a length of 0.25 gains {short.mean():.1f} ± {error(short):.1f} points"
    long, of_aligned = (-np.mean(of["2"] - of["0"]) for of in (raw, aligned))
    yield f"a length of 2 costs {long:.1f} points on raw text and {of_aligned:.1f} on aligned text"


def of_faq() -> Iterator[str]:
    found = next(one for one in results("roles")["searches"] if (one["head"], one["query"]) == ("shipped", "title"))
    raw, aligned, mapped = (
        100 * np.mean([split[1] for split in found["methods"][name]["splits"]]) for name in ("none", "realign", "auto")
    )
    assert raw == 0.0
    yield f"After ReAlign {aligned:.0f} % of the titles whose picture is there find it, after a map for each role"
    yield f"(queries, texts, pictures) {mapped:.0f} %"
    kept = [100 * results("blockwise")["methods"]["realign"]["kept"]]
    kept += [100 * shares("C", method, "kept").mean() for method in ("realign", "c3")]
    yield f"ReAlign keeps {kept[0]:.0f} % of a caption's nearest captions in the rendered world"
    yield f"{kept[1]:.0f} % on real heads with a large gap, where C3 keeps {kept[2]:.0f} %"
    of = results("gap")["methods"]
    left = {name: of[name]["all rows"] for name in ("none", "mean-shift", "anchor", "realign")}
    assert left["mean-shift"] > left["none"]
    yield f"leaves {left['anchor']:.3f} of {left['none']:.3f}, and ReAlign {left['realign']:.3f} ("
    fit = real_world.load().part("fit")
    moved = fit_baseline("mean-shift", fit.title, fit.image)(fit.title)  # not projected
    images = fit.image / np.linalg.norm(fit.image.astype(np.float64), axis=1, keepdims=True)
    yield f"leaves {left['mean-shift']:.3f} there, larger than without any method"
    yield (
        f"on the clip art that ships it takes {fr.diagnostics.gap(fit.image, fit.title):.3f} to "
        f"{np.linalg.norm(moved.mean(axis=0, dtype=np.float64) - images.mean(axis=0)):.3f}."
    )


CLAIMS = {
    "README.md": (of_gaps_in_readme,),
    "docs/faq.md": (of_faq,),
    "docs/uses.md": (of_revision, of_search_in_uses, of_roles, of_losses_by_auto),
    "docs/train-on-text.md": (of_noise, of_titles_with_noise, of_captions),
}


@pytest.mark.parametrize(("name", "of"), [(name, of) for name, all_of in CLAIMS.items() for of in all_of])
def test_sentences_state_the_results(name, of):
    assert not unsaid(name, of())
