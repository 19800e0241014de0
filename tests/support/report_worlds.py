"""Sides whose truth is known, one for each kind of verdict a report can come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class World:
    """source, target, and the other arguments of a report. truth: what a true verdict says of them."""

    source: Any
    target: Any
    truth: str
    options: dict[str, Any] = field(default_factory=dict)


WIDTH = 16
SPREAD = np.arange(1, WIDTH + 1) ** -0.6


def _turn(seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((WIDTH, WIDTH)))[0]


def _things(n: int, seed: int, *, apart: float = 0.0, own: float = 0.3, spread: np.ndarray = SPREAD) -> tuple:
    """(source, target, class) of n things: each side sees a thing with noise `own` of its own, and the means are `apart`."""
    rng = np.random.default_rng(seed)
    things = rng.standard_normal((n, WIDTH)) * spread
    y, x = (things + own * rng.standard_normal((n, WIDTH)) * spread for _ in range(2))
    centre, gap = np.eye(WIDTH)[0] * 1.5, np.eye(WIDTH)[-1] * apart / 2
    turned = _turn(0)
    return (y + centre - gap) @ turned, (x + centre + gap) @ turned, (things[:, 1] > 0) + 2 * (things[:, 2] > 0)


def nothing_helps() -> World:
    """A gap that is there, and far smaller than what the rows of a side differ by: they are mixed as it is."""
    y, x, classes = _things(500, 1, apart=0.2, own=0.4)
    return World(y, x, "a gap, and nothing to gain by closing it", {"pairs": True, "labels": classes})


def circles() -> World:
    """Two sides on circles in planes of their own: neighbours stay on their circle wherever the means are."""
    rng = np.random.default_rng(1)
    rows = np.zeros((2, 400, WIDTH))
    for side, angle in enumerate(rng.uniform(0, 2 * np.pi, (2, 400))):
        rows[side, :, 2 + 2 * side], rows[side, :, 3 + 2 * side] = np.cos(angle), np.sin(angle)
    rows[:, :, 0], rows[1, :, 1] = 1.0, 0.3
    rows += 0.002 * rng.standard_normal(rows.shape)
    truth = "ReAlign closes the gap and mixes nothing"
    return World(rows[0], rows[1], truth, {"methods": ("realign", "realign-exact", "anchor")})


def blockwise_wins() -> World:
    """The sides see the same things, with each column of one stretched: only a covariance can undo that."""
    y, x, _ = _things(400, 2, apart=0.6)
    turned = _turn(0)
    stretch = np.where(np.arange(WIDTH) % 2, 2.5, 0.4)
    y = ((y @ turned.T - 1.5 * np.eye(WIDTH)[0]) * stretch + 1.5 * np.eye(WIDTH)[0]) @ turned
    return World(y, x, "blockwise alignment finds more and mixes more than the others", {"pairs": True})


def no_gap() -> World:
    """Two samples of one distribution."""
    (y, _, _), (_, x, _) = _things(450, 3), _things(400, 4)
    return World(y, x, "no gap, already mixed: nothing to do")


def swapped(folder: Any) -> World:
    """Files whose names say that images are the source."""
    y, x, _ = _things(400, 5, apart=0.8)
    for name, rows in (("image_emb", x), ("text_emb", y)):
        np.save(folder / f"{name}.npy", rows)
    return World(
        folder / "image_emb.npy", folder / "text_emb.npy", "the sides are swapped, and the advice begins there"
    )


def clip_like() -> World:
    """A large gap: the sides do not mix at all until it is closed."""
    y, x, _ = _things(400, 6, apart=2.5)
    return World(y, x, "a large gap, no mixing before; all that close it mix the sides")


def small_gap_other_spectra() -> World:
    """Almost no gap, but one side is spread along few directions and the other along many."""
    rng = np.random.default_rng(7)
    turned, centre = _turn(0), 2.0 * np.eye(WIDTH)[0]
    y = (rng.standard_normal((400, WIDTH)) * np.arange(1, WIDTH + 1) ** -1.2 + centre) @ turned
    x = (rng.standard_normal((400, WIDTH)) * 0.3 + centre + 0.05 * np.eye(WIDTH)[1]) @ turned
    return World(
        y, x, "what keeps the sides apart are the spectra: blockwise alignment mixes them, ReAlign hardly does"
    )


def unequal_sides() -> World:
    """Three times as many rows on one side; noise sends those to the other, and more of them than a full mixture has."""
    rng = np.random.default_rng(16)
    y, x = (rng.standard_normal((n, 128)) * np.arange(1, 129) ** -0.8 + 0.05 for n in (900, 300))
    return World(y, x, "no gap, fully mixed as it is: more than that is no better, and no chance")


def few_rows() -> World:
    """Sixty rows of one distribution, in twice as many columns: fitted closely, means and covariances of this sample."""
    rng = np.random.default_rng(8)
    y, x = rng.standard_normal((2, 60, 128)) + 0.5
    return World(y, x, "no gap that these rows show; nothing is better")


def anisotropic() -> World:
    """All rows in a narrow cone: the gap is a few hundredths, and still many times what the rows differ by."""
    y, x, _ = _things(400, 9, apart=0.8, spread=0.1 * SPREAD)
    centre = 8.0 * _turn(0)[0]
    return World(y + centre, x + centre, "a small gap beside a smaller spread: no mixing before, much after")


def identical() -> World:
    """The same embeddings on both sides, in another order and rounded to half precision on one."""
    y, _, _ = _things(300, 10)
    return World(y, y[::-1].astype(np.float16), "the sides are the same: nothing to do")


def pairs_with_labels() -> World:
    """Pairs with classes, and a gap that lies across the border between classes: closing it corrects a classifier."""
    y, x, classes = _things(600, 11, own=0.2)
    rotated = _turn(0)
    return World(
        y - 1.2 * rotated[1],
        x,
        "closing the gap raises a classifier and search by far, and costs some neighbours",
        {"pairs": True, "labels": classes},
    )


def captions_of_pictures() -> World:
    """Pictures with five captions each: the same row five times in the target, and search has to find one picture of sixty."""
    y, x, classes = _things(60, 12, apart=1.0)
    rng = np.random.default_rng(12)
    captions = np.repeat(y, 5, 0) + 0.1 * rng.standard_normal((300, WIDTH)) * SPREAD
    rows = {"pairs": True, "labels": np.repeat(classes, 5)}
    return World(
        captions, np.repeat(x, 5, 0), "sixty pictures, not three hundred; search is good, and better mapped", rows
    )


def heavy_tails() -> World:
    """Coordinates of Student's t with 1.3 degrees of freedom, so that a few rows point far away; and a gap."""
    rng = np.random.default_rng(13)
    things, *own = rng.standard_t(1.3, (3, 600, WIDTH)) * SPREAD
    y, x = (
        things + 0.3 * of + 3 * np.eye(WIDTH)[0] + sign * np.eye(WIDTH)[-1]
        for of, sign in zip(own, (-1, 1), strict=True)
    )
    return World(y, x, "closing the gap helps search; outliers are rows like others on the sphere", {"pairs": True})


def classes_in_other_shares() -> World:
    """No gap between captions and pictures of a class, and other classes in most rows: the means differ by these alone."""
    y, x, classes = _things(2400, 14, own=0.2)
    upper = classes >= 2
    of_y = np.concatenate([np.flatnonzero(~upper)[:350], np.flatnonzero(upper)[:50]])
    of_x = np.concatenate([np.flatnonzero(upper)[-350:], np.flatnonzero(~upper)[-50:]])
    options = {"labels": (classes[of_y], classes[of_x])}
    return World(y[of_y], x[of_x], "closing the gap moves one class onto the other, and harms a classifier", options)


def wide_with_a_gap() -> World:
    """A large gap, seen through a hundred rows eight times as wide as they are many."""
    rng = np.random.default_rng(15)
    spread, centre, gap = np.arange(1, 769) ** -0.6, 2 * np.eye(768)[0], 1.5 * np.eye(768)[3]
    things, *own = rng.standard_normal((3, 100, 768)) * spread
    y, x = things + 0.4 * own[0] + centre - gap, things + 0.4 * own[1] + centre + gap
    return World(y, x, "closing the gap is everything; a covariance of fifty rows follows them alone", {"pairs": True})


def clusters_apart() -> World:
    """Six clusters, each with a gap in a direction of its own: equal means, and sides that do not mix."""
    rng = np.random.default_rng(17)
    centres, gaps = rng.standard_normal((2, 6, 40))
    classes = np.tile(np.arange(6), 60)
    y, x = (
        centres[classes] + sign * (gaps - gaps.mean(0))[classes] / 2 + 0.2 * rng.standard_normal((360, 40))
        for sign in (-1, 1)
    )
    return World(y, x, "no gap of the means, and sides that are apart: ReAlign does nothing")


WORLDS = (
    nothing_helps, circles, blockwise_wins, no_gap, swapped, clip_like, small_gap_other_spectra, unequal_sides, few_rows,
    anisotropic, identical, pairs_with_labels, captions_of_pictures, heavy_tails, classes_in_other_shares,
    wide_with_a_gap, clusters_apart,
)  # fmt: skip
