"""Sentences of docs/paper.md that state figures: they are those of the committed results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from doc_figures import error, results, shares, signed, span, unsaid

from fastrealign.cli.demo.run import NOTHING_GAINED, run


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
    yield f"which it was fitted on ({blockwise:.1f} % in A, without it {raw:.1f} %)"
    raw, blockwise = (100 * shares("A", method, "mixing").mean() for method in ("none", "bca"))
    yield f"it mixes worse than doing nothing ({blockwise:.1f} %, {raw:.1f} %)"


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
    yield f"after ReAlign {aligned:.0f} % of the titles whose picture is there find it"
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


def of_held_scale() -> Iterator[str]:
    found = results("held_scale")
    held, learned = (found["scales"][name]["seeds"] for name in ("60", "learned"))
    assert len(held) == len(learned) == 2

    def values(of, figure, method="none", digits=1, factor=100.0):
        return " and ".join(f"{factor * seed['methods'][method][figure]:.{digits}f}" for seed in of)

    def gains(of, figure, method="realign", less="none", sign=100.0):
        return [sign * (seed["methods"][method][figure] - seed["methods"][less][figure]) for seed in of]

    def shown(gained):
        return " and ".join(f"{of:.1f}" for of in gained)

    yield f"for {found['steps']} steps, half of the training of the shipped encoder, and with two seeds each"
    large, small = (values(of, "gap", digits=2, factor=1) for of in (held, learned))
    yield f"The held scale leaves the larger gap, {large} against {small}"
    most = 100 * max(seed["methods"]["none"]["mixing"] for seed in held)
    yield f"of a row's 20 nearest at most {most:.1f} % are of the other side"
    yield f"ReAlign gains {shown(gains(held, 'one index'))} points in one index"
    yield f"in one index (without it {values(held, 'images in one index')} %"
    yield f"in a top ten), {shown(gains(held, 'accuracy'))} in the classifier and {shown(gains(held, 'R@1'))} in R@1"
    yield f"it loses {shown(gains(learned, 'one index', sign=-100))} in one index"
    yield f"in one index and gains {shown(gains(learned, 'accuracy'))} in"
    yield f"in the classifier and {shown(gains(learned, 'R@1'))} in R@1. So"
    ranks = {f"{np.mean([seed['ranks'][0] for seed in of]):.1f}" for of in (held, learned)}
    yield f"the effective rank does not ({ranks.pop()} of the images at both scales)"
    assert not ranks
    lost = [of for scale in (held, learned) for of in gains(scale, "accuracy", "realign+noise", "realign", -100)]
    yield f"aligned text costs {min(lost):.1f} to {max(lost):.1f} points in the classifier"


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


def of_demo() -> Iterator[str]:
    found = run()
    before, after = found.before, found.after
    yield f"the gap of held-out pairs from {before.gap:.3f} to {after.gap:.3f} and mixing from 0 to {100 * after.mixing:.1f} %"
    pictures = found.search["ReAlign on all text"].pictures_found
    yield f"{100 * pictures.value:.1f} % ± {100 * pictures.error:.1f} % of the titles whose picture is there find it"
    yield f"R@10 falls from {before.recall[10]:.3f} to {after.recall[10]:.3f}".replace(" 0.", " .")
    raw, aligned, noisy, images = (100 * of.value for of in found.classifier.values())
    yield f"{raw:.1f} % ± {100 * found.classifier['raw titles'].error:.1f} % of the images from raw titles, "
    yield f"from raw titles, {aligned:.1f} % from aligned ones, {noisy:.1f} % with noise of length 0.5 on eight copies, "
    yield f"with noise of length 0.5 on eight copies, and {images:.1f} % if trained on images"


@pytest.mark.parametrize(
    "of", [of_gap, of_rows, of_kept, of_orderings, of_real_world, of_uses, of_held_scale, of_titles, of_demo]
)
def test_sentences_state_the_results(of):
    assert not unsaid("docs/paper.md", of())


def test_the_shipped_encoder_is_the_one_of_five_that_gains_nothing():
    """What the demo, the README and the FAQ say, beside means of five in which aligning gains."""
    found = results("noise")["worlds"]["real, MLP, scale 60"]
    raw, aligned, noisy = (
        100 * np.array(found["curves"][method][length])
        for method, length in (("none", "0"), ("realign", "0"), ("realign", "0.5"))
    )
    gains = aligned - raw
    least, most = gains[1:].min(), gains[1:].max()
    assert len(gains) == 5 and gains[0] == 0.0 and least > 0.0
    means = [f"{each.mean():.1f} %" for each in (raw, aligned, noisy)]
    assert f"from {raw.mean():.0f} to {aligned.mean():.0f} %" in "\n".join(NOTHING_GAINED)
    penalised = 100 * np.mean(found["strengths"]["none 0 1"])
    said = [
        f"{means[0]} on raw text, {means[1]} aligned, {means[2]} aligned with noise of length 0.5",
        f"In the one that ships, which `fastrealign demo` shows, aligning gains nothing; in the other four, {least:.0f} "
        f"to {most:.0f} points",
        f"With a stronger penalty raw text reaches {penalised:.0f} %, too",
    ]
    assert not unsaid("docs/faq.md", said)
    assert not unsaid("docs/train-on-text.md", [f"gains nothing by aligning alone ({raw[0]:.1f} %, raw and aligned)"])
