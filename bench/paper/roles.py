"""One index of pictures and long captions, searched with titles: the methods of `fastrealign.fit_roles` on the real head.

    python -m bench.paper.roles

Roles are fitted on the part "fit" (query: titles, text: long captions, image: the anchor). Of the held-out part, half is in
the index as pictures and half as captions, in SPLITS random ways. Found: the query's own document is among the ten best.
"""

from __future__ import annotations

import numpy as np

import fastrealign as fr
from fastrealign.cli.demo import real_world
from fastrealign.methods.roles import ROLE_METHODS, Roles

SPLITS = 5
TOP = 10
COLUMNS = ("found", "pictures", "captions", "pictures alone", "captions alone", "pictures in top 10")


def rows_of(part: real_world.RealWorld) -> dict[str, np.ndarray]:
    """The rows of each role."""
    return {"query": part.title, "text": part.long, "image": part.image}


def split(roles: Roles, test: real_world.RealWorld, seed: int) -> list[float]:
    """The shares of COLUMNS for one division of the index."""
    query, text, image = (roles[role](rows).astype(np.float64) for role, rows in rows_of(test).items())
    n = len(query)
    picture = np.random.default_rng(seed).permutation(n) < n // 2
    scores = query @ np.where(picture[:, None], image, text).T
    rank = ranks(scores)
    best = np.argsort(-scores, axis=1)[:, :TOP]
    alone = [ranks(scores[np.ix_(kind, kind)]) < TOP for kind in (picture, ~picture)]
    found = rank < TOP
    shares = (found, found[picture], found[~picture], *alone, picture[best])
    return [float(share.mean()) for share in shares]


def ranks(scores: np.ndarray) -> np.ndarray:
    """How many documents are before each query's own, that of its number."""
    return (scores > np.diag(scores)[:, None]).sum(axis=1)


def main() -> None:
    """Print the table, mean and standard deviation over the splits."""
    world = real_world.load()
    fit, test = world.part("fit"), world.part("test")
    print(f"{len(fit.ids)} pictures to fit on, {len(test.ids)} held out, {SPLITS} splits of the index")
    print(f"| method | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
    for method in ("none", *(name for name in ROLE_METHODS if name != "none")):
        roles = fr.fit_roles(rows_of(fit), anchor="image", method=method)
        shares = np.array([split(roles, test, seed) for seed in range(SPLITS)])
        cells = (f"{m:.3f} ± {s:.3f}" for m, s in zip(shares.mean(0), shares.std(0, ddof=1), strict=True))
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
