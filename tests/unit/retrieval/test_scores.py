"""Calibrated scores against their definitions, thresholds by counting pairs, saved and loaded, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import fastrealign as fr
from fastrealign.core.errors import BadRowsError, FitWarning, InputError
from fastrealign.retrieval.calibration import SCORE_METHODS
from fastrealign.retrieval.thresholds import Counting, candidates, clopper_pearson

fit_scores = fr.retrieval.fit_scores
IMAGE, TEXT = ("query", "image"), ("query", "text")
N = 120


def pi(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def world():
    """Rows of queries, images far from them and texts near; document i belongs to query i."""
    rng = np.random.default_rng(5)
    query = pi(rng.standard_normal((N, 15)))
    image, text = (pi(query + noise * rng.standard_normal((N, 15))) for noise in (0.15, 0.12))
    query, image, text = (pi(np.c_[rows, np.full(N, gap)]) for rows, gap in ((query, 0.1), (image, -1.0), (text, 0.3)))
    return {IMAGE: (query, image), TEXT: (query, text)}


own = np.stack([np.arange(N)] * 2, axis=1)
LABELS = {IMAGE: own, TEXT: own}


def all_scores(scores, world, pair):
    query, document = world[pair]
    return scores(*pair, query @ document.T)


def test_z_score_and_quantile_are_those_of_random_pairs(world):
    z, quantile = (fit_scores(world, method=method) for method in ("z-score", "quantile"))
    for pair in world:
        found = all_scores(z, world, pair)
        assert found.mean() == pytest.approx(0, abs=1e-9) and found.std() == pytest.approx(1, abs=1e-9)
        raw = np.sort((world[pair][0] @ world[pair][1].T).ravel())
        probes = np.quantile(raw, [0.001, 0.1, 0.5, 0.9, 0.999])
        np.testing.assert_allclose(quantile(*pair, probes), [0.001, 0.1, 0.5, 0.9, 0.999], atol=2 / 1024)
        assert quantile(*pair, raw[-1:]) == pytest.approx(1 - 0.5 / len(raw), abs=1e-9)  # the largest: half a rank


def test_scores_of_modalities_are_comparable(world):
    """By z-score and quantile the two have one scale."""
    raw = {pair: world[pair][0] @ world[pair][1].T for pair in world}
    assert abs(np.median(raw[IMAGE]) - np.median(raw[TEXT])) > 0.02
    for method in ("z-score", "quantile"):
        scores = fit_scores(world, method=method)
        one, other = (np.median(scores(*pair, raw[pair])) for pair in world)
        assert one == pytest.approx(other, abs=0.1)


@pytest.mark.parametrize("method", SCORE_METHODS)
def test_rising_of_any_shape_saved_and_loaded(world, method, tmp_path):
    scores = fit_scores(world, method=method, labels=LABELS)
    grid = np.linspace(-1.001, 1.001, 4001).astype(np.float32)
    scores.save(tmp_path / "s.safetensors")
    backs = fr.retrieval.Scores.load(tmp_path / "s.safetensors"), pickle.loads(pickle.dumps(scores))
    for pair in world:
        values = scores(*pair, grid)
        assert values.dtype == np.float64 and np.isfinite(values).all()
        steps = np.diff(scores(*pair, np.linspace(-1, 1, 4001)))
        assert (steps >= 0).all() if method in ("isotonic", "logistic") else (steps > 0).all()
        assert np.array_equal(scores(*pair, grid[:4000].reshape(40, 100)).ravel(), values[:4000])
        for back in backs:
            assert np.array_equal(back(*pair, grid), values) and repr(back) == repr(scores)
            assert back.threshold(*pair, precision=0.5) == scores.threshold(*pair, precision=0.5)
            assert back.threshold(precision=0.5) == scores.threshold(precision=0.5)
    with pytest.raises(InputError, match="holds scores, expected an alignment"):
        fr.load(tmp_path / "s.safetensors")


def test_a_constant_that_many_pairs_share():
    """Equal scores share the mean of their ranks, also those at cosine 1."""
    rows = np.repeat(np.eye(2), 10, axis=0)
    scores = fit_scores({IMAGE: (rows, rows)}, method="quantile")
    assert scores(*IMAGE, np.array([0.0, 0.5])).tolist() == [0.25, pytest.approx(0.625)]
    with pytest.raises(InputError, match="all 100 scores of random pairs are equal"):
        fit_scores({IMAGE: (np.ones((10, 3)), np.ones((10, 3)))})


@pytest.mark.parametrize("method", ["isotonic", "logistic"])
def test_probabilities_have_the_rate_of_the_collection(world, method):
    """The mean over all pairs is the share of relevant ones; in a collection five times as large, a fifth of it."""
    for times in (1, 5):
        scores = fit_scores(world, method=method, labels=LABELS, collection={IMAGE: times * N})
        p = all_scores(scores, world, IMAGE)
        relevant = np.eye(N, dtype=bool)
        others = (times * N * N - N) / (N * N - N)
        mean = (p[relevant].sum() + others * p[~relevant].sum()) / (times * N * N)
        assert mean == pytest.approx(1 / (times * N), rel=1e-3)


def test_probabilities_from_drawn_pairs_keep_the_rate(world, monkeypatch):
    monkeypatch.setattr("fastrealign.retrieval.labelled.NEGATIVES", 3000)
    scores = fit_scores(world, method="logistic", labels=LABELS)
    assert all_scores(scores, world, TEXT).mean() == pytest.approx(1 / N, rel=0.15)


@pytest.mark.parametrize("method", ["none", "quantile", "isotonic"])
@pytest.mark.parametrize("pair", [IMAGE, None])
def test_threshold_counts_all_pairs(world, method, pair):
    scores = fit_scores(world, method=method, labels=LABELS)
    found = scores.threshold(*(pair or ()), precision=0.8)
    pairs = [pair] if pair else list(world)
    values = np.concatenate([all_scores(scores, world, one) for one in pairs])
    relevant = np.concatenate([np.eye(N, dtype=bool)] * len(pairs))
    kept = values >= found.value
    assert found.precision == relevant[kept].mean() >= 0.8
    assert (found.kept, found.labelled) == (kept.sum(), relevant.sum())
    assert found.recall == relevant[kept].sum() / relevant.sum()
    assert found.interval[0] < found.precision < found.interval[1]
    for lower in np.unique(values[relevant])[:-1]:  # no lower one that keeps enough pairs is as good
        if lower < found.value - 1e-6:
            assert relevant[values >= lower].mean() < 0.8
    assert f"precision {found.precision:.3f}" in str(found) and float(found) == found.value


def test_precision_falls_with_the_collection(world):
    found = [
        fit_scores(world, method="none", labels=LABELS, collection={IMAGE: size}).threshold(*IMAGE, precision=0.5)
        for size in (N, 20 * N)
    ]
    assert found[1].value > found[0].value and found[1].recall < found[0].recall


def interval(relevant, documents):
    counting = Counting(np.array([0.5]))
    counting.add(np.arange(len(relevant)), np.ones(relevant.shape), relevant, documents)
    return counting.curve().threshold(0.1, "x").interval


def test_interval_by_what_is_sampled():
    """For as many other pairs. Independent results: that of Clopper and Pearson with half as many. Queries that are right or
    wrong throughout: that of half as many queries."""
    rng = np.random.default_rng(0)
    flat = rng.random((200, 50)) < 0.7
    nobody = np.full(50, -1)
    assert interval(flat, nobody) == pytest.approx(clopper_pearson(flat.mean(), flat.size / 2), abs=0.005)
    by_query = np.repeat(rng.random((200, 1)) < 0.7, 50, axis=1)
    assert interval(by_query, nobody) == pytest.approx(clopper_pearson(by_query.mean(), 100), abs=0.015)
    assert clopper_pearson(1.0, 50) == (pytest.approx(0.025 ** (1 / 50)), 1.0)
    assert clopper_pearson(1.0, 50, 4) == (pytest.approx((0.025 / 4) ** (1 / 50)), 1.0)


def test_interval_holds_on_new_documents():
    """Documents in groups of one caption, each wrong for the others' queries: 95 % of intervals hold that of new ones."""
    rng = np.random.default_rng(1)

    def kept():
        groups = rng.choice(60, 150, p=np.arange(1, 61) / 1830)
        alike = groups[:, None] == groups
        return np.eye(150, dtype=bool), alike | np.eye(150, dtype=bool)

    held = []
    for _ in range(200):
        (relevant, found), (_, new) = kept(), kept()
        counting = Counting(np.array([0.5]))
        counting.add(np.arange(150), found.astype(float), relevant, np.arange(150))
        low, high = counting.curve().threshold(0.01, "x").interval
        held.append(low <= relevant[new].mean() <= high)
    assert 0.88 <= np.mean(held) <= 0.995


def test_threshold_holds_on_new_pairs(rng):
    """A precision that is reached by chance alone: the thresholds found hold within their interval on other pairs."""
    held, given = 0, 0
    for _ in range(300):
        samples = []
        for _ in range(2):
            scores = rng.random((1, 400))
            samples.append((scores, rng.random((1, 400)) < 0.85 * scores**0.25))
        counting = Counting(candidates(samples[0][0][samples[0][1]]))
        counting.add(np.zeros(1, np.int64), samples[0][0], samples[0][1], np.full(400, -1))
        try:
            found = counting.curve().threshold(0.9, "x")
        except InputError:
            continue
        scores, relevant = samples[1]
        given += 1
        held += found.interval[0] <= relevant[scores >= found.value].mean() <= found.interval[1]
    assert given > 20 and held / given > 0.84


def test_queries_of_one_document_are_one_unit(world):
    """Each query five times: the interval is as wide as with each once."""
    few = {TEXT: (world[TEXT][0], world[TEXT][1])}
    five = {TEXT: (np.repeat(world[TEXT][0], 5, axis=0), world[TEXT][1])}
    labels = np.stack([np.arange(5 * N), np.repeat(np.arange(N), 5)], axis=1)
    once, often = (
        fit_scores(few, labels={TEXT: own}, method="none"),
        fit_scores(five, labels={TEXT: labels}, method="none"),
    )
    one, five = (scores.threshold(precision=0.8).interval for scores in (once, often))
    assert 0.8 < (five[1] - five[0]) / (one[1] - one[0]) < 1.5


def test_blocks_do_not_matter(world, monkeypatch):
    whole = fit_scores(world, method="none", labels=LABELS)
    monkeypatch.setattr("fastrealign.retrieval.labelled.BLOCK_SCORES", 7 * N)
    parts = fit_scores(world, method="none", labels=LABELS)
    for key, curve in whole.curves.items():
        np.testing.assert_allclose(parts.curves[key].counts, curve.counts, rtol=1e-9, atol=1e-9)
    assert len(candidates(np.arange(10_000.0))) == 256


def test_queries_of_two_pairs_are_the_same_clusters(world):
    """Against texts twice: the interval of all pairs is not that of twice as many queries."""
    once = fit_scores({TEXT: world[TEXT]}, method="none", labels={TEXT: own})
    twice = fit_scores(
        {TEXT: world[TEXT], ("query", "more"): world[TEXT]}, method="none", labels={TEXT: own, ("query", "more"): own}
    )
    one, two = (scores.threshold(precision=0.8).interval for scores in (once, twice))
    assert two[1] - two[0] > 0.85 * (one[1] - one[0])


REFUSED = {
    "no pair": (lambda w: fit_scores({}), "expected a mapping such as"),
    "one name": (lambda w: fit_scores({"image": w[IMAGE]}), "expected two names"),
    "one side": (lambda w: fit_scores({IMAGE: w[IMAGE][0]}), "query to image: expected .query rows, document rows."),
    "method": (lambda w: fit_scores(w, method="zscore"), "did you mean 'z-score'"),
    "few rows": (
        lambda w: fit_scores({IMAGE: (w[IMAGE][0][:9], w[IMAGE][1])}),
        "query to image: 9 rows .* at least 10",
    ),
    "widths": (lambda w: fit_scores({IMAGE: (w[IMAGE][0][:, :8], w[IMAGE][1])}), "queries are 8 wide, documents 16"),
    "no labels": (lambda w: fit_scores(w, method="isotonic", labels={IMAGE: own}), "none of query to text"),
    "their pair": (lambda w: fit_scores(w, labels={("query", "imgae"): own}), "did you mean 'query to image'"),
    "their shape": (
        lambda w: fit_scores(w, labels={IMAGE: own.astype(float)}),
        "labels: element type float64, expected integers",
    ),
    "none of them": (lambda w: fit_scores(w, labels={IMAGE: []}), "query to image: labels: hold no pair; give"),
    "their rows": (
        lambda w: fit_scores(w, labels={IMAGE: own + np.array([0, 1])}),
        r"pair 119 is \(119, 120\), .* documents are rows 0 to 119",
    ),
    "zeros": (
        lambda w: fit_scores({IMAGE: (w[IMAGE][0] * 0, w[IMAGE][1])}),
        "query to image: queries: row 0 is all zeros",
    ),
    "one label": (lambda w: fit_scores(w, labels={IMAGE: own[:1]}), "1 labelled pair is too few; at least 30"),
    "one row": (
        lambda w: fit_scores({IMAGE: (w[IMAGE][0][:1], w[IMAGE][1])}),
        "1 row of queries is too few for a distr",
    ),
    "few": (lambda w: fit_scores(w, labels={IMAGE: own[:29]}), "29 labelled pairs are too few; at least 30"),
    "twice": (lambda w: fit_scores(w, labels={IMAGE: own[[*range(40), 7]]}), r"the pair \(7, 7\) is there twice"),
    "small": (
        lambda w: fit_scores(w, labels=LABELS, collection={IMAGE: 5}),
        "query to image: collection=5: expected .* at least 120",
    ),
    "size alone": (lambda w: fit_scores(w, collection={IMAGE: 500}), "query to image has no labels"),
    "reversed": (
        lambda w: fit_scores({IMAGE: (w[IMAGE][0], -w[TEXT][1])}, method="logistic", labels={IMAGE: own}),
        "query to image: relevant pairs do not score above others",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(world, case):
    call, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as error:
        call(world)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nothing_found(world, dtype):
    """What stands for no result is -inf, without a warning; a number gives a number."""
    scores = fit_scores(world)
    found = scores("query", "image", np.array([0.25, -np.inf], dtype))
    assert found[0] == scores("query", "image", np.array([0.25]))[0] and found[1] == -np.inf
    for one, is_one in ((0.25, found[0]), (-np.inf, -np.inf)):
        score = scores("query", "image", np.dtype(dtype).type(one))
        assert isinstance(score, np.float64) and score == is_one


def test_refused_when_used(world, tmp_path):
    scores = fit_scores(world, labels={IMAGE: own})
    for call, message in (
        (lambda: scores("query", "imge", np.zeros(1)), "did you mean 'query to image'"),
        (lambda: scores("query", "image", np.array([0.1, np.nan])), "entry 1 is nan"),
        (lambda: scores("query", "image", np.array([[0.1], [1.01]])), "entry 1, 0 is 1.01, expected -1 to 1"),
        (lambda: scores("query", "image", np.array([1])), "element type int64, expected floats"),
        (lambda: scores("query", "image", [[0.1], [0.1, 0.2]]), "cosines: no array of floats: setting an array"),
        (lambda: scores.threshold("query", precision=0.9), "name both roles"),
        (lambda: scores.threshold("query", "image", precision=1.0), "between 0 and 1"),
        (lambda: scores.threshold("query", "image", precision=0.99), "120 labelled pairs .* at least 368 are needed"),
        (lambda: scores.threshold("query", "text", precision=0.9), "none of query to text"),
        (lambda: scores.threshold(precision=0.9), "none of query to text"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    shuffled = {IMAGE: np.random.default_rng(0).permutation(own.ravel()).reshape(-1, 2)}
    with pytest.raises(InputError, match=r"no threshold that keeps 36 .* precision of 0.9; the highest is 0\.\d+"):
        fit_scores(world, labels=shuffled).threshold(*IMAGE, precision=0.9)
    bad = world[IMAGE][1].copy()
    bad[3] = 0
    with pytest.raises(BadRowsError, match=r"query to image: .*row 3"):
        fit_scores({IMAGE: (world[IMAGE][0], bad)})


def test_a_damaged_file_is_refused(world, tmp_path):
    path = tmp_path / "s.safetensors"
    fit_scores(world, method="quantile").save(path)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"s\.safetensors: damaged scores"):
        fr.retrieval.Scores.load(path)


def test_queries_that_nobody_judged_are_warned_of(rng):
    query = rng.standard_normal((200, 8))
    own = np.stack([np.arange(60)] * 2, axis=1)
    with pytest.warns(FitWarning, match="140 of 200 queries have no labelled document"):
        fr.retrieval.fit_scores(
            {("query", "image"): (query, query)}, method="z-score", labels={("query", "image"): own}
        )
