"""What users write with the public API, as the pages show it. It is never run; `make lint` checks it with `mypy --strict`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import transformers

import fastrealign as fr
from fastrealign.diagnostics import GapMonitor, trainer_callback
from fastrealign.embed import Embedded, OpenClip, Transformers, embed_files

Rows = npt.NDArray[np.float32]


def arrays(texts: Rows, images: Rows) -> tuple[float, float]:
    alignment = fr.fit(texts, images)
    aligned: Rows = alignment(texts)
    noisy: Rows = alignment(texts, noise=1.0, seed=7)
    alignment.save("text2image.safetensors")
    url: str = alignment.push_to_hub("org/text2image", private=True)
    print(aligned.shape, noisy.dtype, url, alignment.centroid, alignment.sampling)
    sampled = fr.fit(texts, images, tol=0.05, centroid="exact")
    if sampled.sampling is not None:
        print(sampled.sampling.bound)
    streamed = fr.fit(iter([texts[:500], texts[500:]]), images)
    other = fr.fit(texts, images, method="c3")
    print(other.name, other(texts).shape, streamed.count_source)
    loaded = fr.load(Path("text2image.safetensors"))
    print(loaded.name, loaded.dim)
    return alignment.gap_before, alignment.gap_left


def new_data(alignment: fr.Alignment, texts: Rows) -> fr.Alignment:
    found = fr.check(alignment, texts, tol=0.2)
    print(found.holds, found.gap_left, found.bound)
    statistics = fr.Moments(dim=texts.shape[1])
    statistics.update(texts[:100])
    statistics += fr.Moments(dim=texts.shape[1]).update(texts[100:])
    print(statistics.count, statistics.mean.shape, statistics.trace)
    return fr.update(alignment, texts[:200], decay=0.5)


def files() -> None:
    try:
        report = fr.align("text_emb/", target=Path("img_emb"), out="aligned/", noise=1.0, resume=True, dtype="float16")
    except fr.InputError as error:
        raise SystemExit(str(error)) from error
    print(report.rows_out, report.gap_left)
    fr.apply_files("text2image.safetensors", ["a.npy", "b.npy"], "more/", dtype=np.float32)
    fr.convert("text_emb/", "text_parquet/", to="parquet")


def maps(texts: Rows, images: Rows) -> None:
    found = fr.fit_map(texts, images, method="ridge", queries=images)
    if found.kept is not None:
        print(found.kept.advice)
    found.save("map.safetensors")
    roles = fr.fit_roles({"query": texts, "text": texts, "image": images}, anchor="image", method="auto")
    roles.save("roles.safetensors")
    print(fr.Roles.load("roles.safetensors")["query"](texts).shape)


def report(texts: Rows, images: Rows) -> list[Path]:
    page = fr.report(texts, images, pairs=True, methods=["none", "realign"])
    print(fr.diagnostics.gap(images, texts), fr.diagnostics.mixing(images, texts, k=20).rate)
    print(fr.diagnostics.effective_rank(fr.diagnostics.covariance(texts).eigenvalues))
    return page.save("report.html")


def search(texts: Rows, images: Rows) -> None:
    pairs = {("query", "image"): (texts, images)}
    scores = fr.retrieval.fit_scores(pairs, method="z-score", labels={("query", "image"): [(0, 0), (1, 1)]})
    print(scores.threshold("query", "image", precision=0.5))
    best = fr.retrieval.top_k(texts, images, 10)
    fused: npt.NDArray[np.float32] = fr.retrieval.fuse(images, texts, has_text=[True] * len(texts))
    print(best.numbers, scores("query", "image", [0.2, 0.3]), fused.shape)
    judged = {"q1": {"p1": 2, "p2": 0}}
    report = fr.retrieval.evaluate(
        "queries/",
        text=Path("text_emb"),
        images=[images[:5], images[5:]],
        qrels=judged,
        ids={"query": ["q1"], "image": "ids.txt"},
    )
    fr.retrieval.evaluate(texts, images=images, pairs=True, roles={"old": "roles.safetensors"}, methods=["none"])
    print(report.choice, report.advice, fr.retrieval.judged_pairs(texts, images=images, qrels="qrels.tsv").keys())
    merged = fr.retrieval.merge([(["a", "b"], [0.9, 0.1], "image"), (np.array([1]), np.array([0.5]))], 10)
    print(merged.ids, merged.scores, merged.roles)


def stores(roles: fr.Roles, alignment: fr.Alignment, texts: torch.Tensor) -> int:
    done = fr.retrieval.index("data/lancedb", roles, table="docs", role_column="modality")
    fr.retrieval.index(Path("wiki.faiss"), alignment)
    fr.retrieval.index("wiki.faiss", Path("roles.safetensors"), role="image", drop_old=True)
    with fr.retrieval.searcher("data/lancedb", roles, id_column="id") as search:
        found = search.search(texts, k=10)
        print(found.ids.shape, found.scores.dtype, found.roles, search.search([0.1, 0.2]).ids)
    return done.rows


def modules(alignment: fr.Alignment, texts: Rows, images: Rows) -> torch.Tensor:
    layer = fr.nn.ReAlign(alignment)
    out: torch.Tensor = layer(torch.randn(2, 7, texts.shape[1], requires_grad=True))
    module: torch.nn.Module = fr.nn.as_module(alignment)
    model = fr.ReAlign(target=images).fit(texts)
    print(model.transform(texts).shape, model.alignment_.gap_before, module)
    return out


def held_out() -> tuple[Rows, Rows]:
    return np.zeros((4, 8), np.float32), np.zeros((4, 8), np.float32)


def training() -> Iterator[float]:
    from fastrealign.revision.config_file import read_config
    from fastrealign.revision.train import train

    monitor = GapMonitor(held_out, every=20, log="gap.jsonl")
    for step in range(41):
        monitor.step(step)
    yield from (record.gap for record in monitor.records)
    result = train(read_config("stage1.yaml", "stage1"), resume=True)
    print(result)


def spectra(texts: Rows, images: Rows, other: Rows) -> tuple[float, ...]:
    of = fr.diagnostics
    x, y, difference = of.covariance(images), of.covariance(texts), of.difference_covariance(images, texts)
    frame = of.fixed_frame(x, y, energy=0.9)
    parts, angles = of.decompose(frame, difference), of.principal_angles(frame.basis, frame.basis)
    law, condition = of.power_law(x.eigenvalues, last=50), of.condition_number(x.eigenvalues)
    print(law.alpha, condition.value, of.coupling(frame, difference).norm, parts.beta, angles.shape, parts.bias_u)
    print(of.effective_dimension(x), of.anisotropy(x), of.sigma_gap(x, y), of.subspace_overlap(x, y, 8).value)
    kept, nearest = of.overlap(texts, other, k=5), of.nearest(texts, images, 5)
    print(kept.value, kept.error, nearest.numbers.shape, nearest.cosines.dtype, of.instance_cosine(texts, other))
    print(of.pairwise_correlation(texts, other).value, of.angular_topology(images, texts).divergence)
    concentration: float | None = of.vmf_concentration(texts)
    records: list[of.GapRecord] = of.read_log("gap.jsonl")
    return (concentration or 0.0, *(record.gap for record in records))


def contrastive(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    return -torch.log_softmax(100 * image @ text.T, dim=1).diagonal().mean()


def pushes(texts: Rows, images: Rows) -> float:
    of = fr.diagnostics
    x, y = of.covariance(images), of.covariance(texts)
    frame = of.fixed_frame(x, y)
    of_image, of_text = of.embedding_gradients(images, texts, contrastive, batch=256)
    reading = of.read_gradients(frame, frame, (of_image, of_text), of.difference_covariance(images, texts))
    print(reading.sin_theta, of.gradient_covariance(of_image, of_text).trace, of.leakage(frame, of_image))
    correlation: float = of.spectral_correlation(x.eigenvalues, y.eigenvalues)
    return correlation


def drifts(alignment: fr.Alignment, texts: Rows) -> npt.NDArray[np.float64]:
    y = fr.diagnostics.covariance(texts)
    drift = fr.diagnostics.phantom_drift(texts, alignment.s, alignment.b, y)
    print(drift.measured.shape, drift.ratio, drift.predicted)
    predicted: npt.NDArray[np.float64] = fr.diagnostics.predicted_drift(y.mean, y.matrix)
    return predicted


def trained_by_the_trainer(model: transformers.PreTrainedModel) -> transformers.Trainer:
    trainer = transformers.Trainer(model)
    trainer.add_callback(trainer_callback(GapMonitor(held_out, every=100, loss=contrastive, log="gap.jsonl")))
    return trainer


def errors_and_embeddings(path: Path) -> fr.PairedMap | None:
    encoder = OpenClip("ViT-B-32", pretrained="weights.safetensors", precision="bf16")
    done: Embedded = embed_files("photos/", "img_emb/", encoder, resume=True, bad_items="skip")
    print(done.rows, done.dim, Transformers("siglip/", device="cpu").pooling)
    warnings.simplefilter("error", fr.FitWarning)
    try:
        found = fr.load(path)
    except fr.BadRowsError as error:
        print(error)
    except fr.FastRealignError:
        raise
    else:
        return found if isinstance(found, fr.PairedMap) else None
    return None


def scores(image_scores: Rows, text_scores: Rows) -> npt.NDArray[np.float32]:
    fused: npt.NDArray[np.float32] = fr.retrieval.fuse_scores(image_scores, text_scores, weight=0.4)
    known: fr.retrieval.Scores = fr.retrieval.Scores.load("scores.safetensors")
    print(known("query", "image", [0.2]), fr.__version__)
    return fused
