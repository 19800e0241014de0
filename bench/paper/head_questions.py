"""python -m bench.paper.head_questions [--real DIR]: losses, frames, and U, V, L across encoders and domains.

Heads over frozen features, each loss with several seeds. Of every head: gap, mixing and retrieval before and after ReAlign; the
gap in two frozen frames and in the rolling one while it trains; its frame, leakage and coupling at the end. Frames of different
heads have no common coordinates: U of one and U of another are compared by what they say of the same pictures, by the principal
angles between the columns of (rows - mean) U. Frames of domains of one head are compared directly.
"""

from __future__ import annotations

import math
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

import fastrealign as fr
from bench.paper.common import Reproduction, Results, Setting, main, percent, plus_minus, small, table
from bench.paper.heads import BATCH, OBJECTIVES, STEPS, Embedded, Features, Objective, trained
from bench.paper.two_worlds import features
from fastrealign.core.errors import FitWarning
from fastrealign.diagnostics import (
    Frame,
    GapMonitor,
    coupling,
    covariance,
    difference_covariance,
    effective_rank,
    fixed_frame,
    gap,
    mixing,
    overlap,
    principal_angles,
)

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure

SEEDS, EVERY = 3, 25
# Frozen after this share of the steps; the rolling frame is that of each step.
FRAMES = {"a sixth": 1 / 6, "late": 3 / 4, "rolling": math.inf}
DOMAINS = 4
FEWEST = 150  # rows of a domain, half of it for each of two frames


def measure(setting: Setting) -> Results:
    seeds, steps = (2, 2) if setting.quick else (SEEDS, STEPS)
    objectives = dict(list(OBJECTIVES.items())[: 2 if setting.quick else None])
    found: dict[str, Any] = {}
    for name, of in features(setting).items():
        runs: dict[str, list[dict[str, Any]]] = {}
        last: dict[str, list[Embedded]] = {}
        for loss, objective in objectives.items():
            for seed in range(seeds):
                run, embedded = _watched(of, objective, seed, steps)
                runs.setdefault(loss, []).append(run)
                last.setdefault(loss, []).append(embedded)
                setting.say(f"{name}, {loss}, seed {seed}: gap {run['before']['gap']:.3f}, leakage {run['leakage']}")
        found[name] = {
            "runs": runs,
            "pairs": len(of.held),
            "between": _between_heads(of, last),
            "domains": [_between_domains(of, embedded) for embedded in last["InfoNCE"]],
        }
    return {"worlds": found, "steps": steps}


def _watched(of: Features, objective: Objective, seed: int, steps: int) -> tuple[dict[str, Any], Embedded]:
    import torch

    held = of.held
    scale, bias = (torch.tensor(float(value)) for value in (objective.scale, objective.bias))

    def loss(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return objective.loss(image, text, scale, bias)

    batch = min(BATCH, len(held) // 2)
    monitors = {
        name: GapMonitor(every=1, loss=loss, batch=batch, frame_at=10**9 if share == math.inf else round(share * steps))
        for name, share in FRAMES.items()
    }

    def look(step: int, now: Embedded) -> None:
        if objective.learned:
            scale.fill_(now.scale)
        for monitor in monitors.values():
            monitor.measure(step, now.short[held], now.image[held])

    last = trained(of, objective, seed, steps=steps, every=min(EVERY, steps), look=look)
    image, text = last.image[held], last.short[held]
    half = len(held) // 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FitWarning)
        # Fitted on texts of one half and images of the other; measured on a third part would leave few rows: on both halves.
        align = fr.fit(text[:half], image[half:])
    aligned = align(text, dtype=np.float64)
    run = {
        "scale": last.scale,
        "before": _reading(image, text) | {"gap, long": gap(image, last.long[held])},
        "after": _reading(image, aligned) | {"kept": overlap(text, aligned, rows=500).value},
        "rank": [effective_rank(covariance(rows).eigenvalues) for rows in (image, text)],
        "frames": {
            name: [
                {
                    "step": record.step,
                    "leakage": record.gradient.leakage,
                    "beta": record.beta,
                    "gamma": record.gamma,
                    "rms_sin": record.rms_sin,
                    "explained": record.coupling.explained,
                    "rank": record.rank,
                }
                for record in monitor.records
                if record.gradient is not None
            ]
            for name, monitor in monitors.items()
        },
    }
    frame = fixed_frame(covariance(image), covariance(text))
    difference = difference_covariance(image[:half], text[:half])
    mine = coupling(frame, difference)
    run["leakage"] = {name: round(rows[-1]["leakage"], 4) for name, rows in run["frames"].items()}
    run["frame"] = {
        "rank": frame.rank,
        "energy": frame.energy,
        "norm": mine.norm,
        "explained": mine.explained,
        "explained, held out": _held_out(frame, image, text, half),
    }
    return run, last


def _reading(image: np.ndarray, text: np.ndarray) -> dict[str, float]:
    cosines = text @ image.T
    return {
        "gap": gap(image, text),
        "mixing": mixing(image, text, rows=500).rate.value,
        "recall": float(np.mean(cosines.argmax(1) == np.arange(len(text)))),
    }


def _held_out(frame: Frame, image: np.ndarray, text: np.ndarray, half: int) -> float:
    """Share of E|zeta|^2 on the second half of the pairs that L, fitted on the first half, explains."""
    parts = []
    mean = (image[:half].astype(np.float64) - text[:half]).mean(axis=0)
    for rows in (slice(None, half), slice(half, None)):
        delta = image[rows].astype(np.float64) - text[rows] - mean
        parts.append((delta @ frame.U, delta @ frame.V))
    (u, v), (u2, v2) = parts
    weight = 1e-3 * np.sum(u**2) / frame.rank
    slope = np.linalg.solve(u.T @ u + weight * np.eye(frame.rank), u.T @ v)
    return float(1 - np.sum((v2 - u2 @ slope) ** 2) / np.sum(v2**2))


def _between_heads(of: Features, last: dict[str, list[Embedded]]) -> dict[str, dict[str, float]]:
    """Mean squared cosine of the principal angles between what U (and V) of two heads say of the same held-out pictures."""
    scores: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for loss, heads in last.items():
        for head in heads:
            image = head.image[of.held].astype(np.float64)
            frame = fixed_frame(covariance(image), covariance(head.short[of.held]))
            centred = image - image.mean(axis=0)
            scores.setdefault(loss, []).append((_span(centred @ frame.U), _span(centred @ frame.V)))
    found = {}
    names = list(scores)
    for i, a in enumerate(names):
        for b in names[i:]:
            pairs = [
                (one, other)
                for p, one in enumerate(scores[a])
                for q, other in enumerate(scores[b])
                if p < q or (a != b and p > q)  # one seed gives all losses the same first weights
            ]
            if pairs:
                found[f"{a} / {b}"] = {
                    "U, U": float(np.mean([_overlap(one[0], other[0]) for one, other in pairs])),
                    "V, V": float(np.mean([_overlap(one[1], other[1]) for one, other in pairs])),
                    "V in U": float(np.mean([_overlap(one[1], other[0]) for one, other in pairs])),
                    "by chance": float(np.mean([max(o[0].shape[1], t[0].shape[1]) / len(o[0]) for o, t in pairs])),
                }
    return found


def _span(rows: np.ndarray) -> np.ndarray:
    return np.linalg.svd(rows, full_matrices=False)[0]


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared cosine over min(p, q) angles: 1 where the smaller span lies in the larger one."""
    return float(np.mean(np.cos(principal_angles(a, b)) ** 2))


def _between_domains(of: Features, head: Embedded) -> dict[str, float]:
    """U of one domain against U of another, and against U of other rows of the same domain; of equal rank and rows."""
    names, counts = np.unique(of.label[of.held], return_counts=True)
    chosen = [name for name in names[np.argsort(-counts)][:DOMAINS] if counts[names == name] >= FEWEST]
    rows = min((counts[names == name][0] for name in chosen), default=0) // 2
    if len(chosen) < 2:
        return {}
    frames: dict[str, list[np.ndarray]] = {}
    energy = []
    for name in chosen:
        here = of.held[of.label[of.held] == name]
        for part in (here[:rows], here[rows : 2 * rows]):
            x, y = covariance(head.image[part]), covariance(head.short[part])
            frames.setdefault(name, []).append(np.linalg.eigh(x.matrix + y.matrix)[1][:, ::-1])
    d = head.image.shape[1]
    q = 16
    same = [_overlap(a[:, :q], b[:, :q]) for a, b in frames.values()]
    other = [_overlap(frames[a][0][:, :q], frames[b][0][:, :q]) for a in chosen for b in chosen if str(a) < str(b)]
    # The energy of one domain that the frame of another leaves in V, and its own frame of other rows.
    for name in chosen:
        here = of.held[of.label[of.held] == name][:rows]
        both = covariance(head.image[here]).matrix + covariance(head.short[here]).matrix
        for frame_of in chosen:
            u = frames[frame_of][1][:, :q]
            energy.append((name == frame_of, float(np.trace(u.T @ both @ u) / np.trace(both))))
    return {
        "domains": len(chosen),
        "rows": int(rows),
        "directions": q,
        "same domain": float(np.mean(same)),
        "other domain": float(np.mean(other)),
        "by chance": q / d,
        "energy, same domain": float(np.mean([value for own, value in energy if own])),
        "energy, other domain": float(np.mean([value for own, value in energy if not own])),
    }


def tell(results: Results) -> str:
    parts = []
    figure = "{:.3f}".format
    for name, of in results["worlds"].items():
        runs = of["runs"]
        seeds = len(next(iter(runs.values())))

        def cell(values: list[float], shown: Any = figure) -> str:
            return plus_minus(values, shown)

        parts.append(
            f"### {name.capitalize()} world: losses\n\nHeads of {results['steps']} steps, {of['pairs']:,} held-out pairs, "
            f"short captions; mean ± standard deviation over {seeds} seeds. ReAlign is fitted on texts of one half and images "
            "of the other."
        )
        parts.append(
            table(
                [
                    "loss",
                    "final scale",
                    "gap",
                    "after",
                    "mixing",
                    "after",
                    "R@1",
                    "after",
                    "neighbours kept",
                    "effective rank, image / text",
                ],
                [
                    [
                        loss,
                        cell([run["scale"] for run in of_loss], "{:.1f}".format),
                        cell([run["before"]["gap"] for run in of_loss], small),
                        cell([run["after"]["gap"] for run in of_loss], small),
                        cell([run["before"]["mixing"] for run in of_loss], percent),
                        cell([run["after"]["mixing"] for run in of_loss], percent),
                        cell([run["before"]["recall"] for run in of_loss], percent),
                        cell([run["after"]["recall"] for run in of_loss], percent),
                        cell([run["after"]["kept"] for run in of_loss], percent),
                        " / ".join(cell([run["rank"][i] for run in of_loss], "{:.1f}".format) for i in (0, 1)),
                    ]
                    for loss, of_loss in runs.items()
                ],
            )
        )
        parts.append(f"### {name.capitalize()} world: frozen and rolling frame")
        parts.append(
            "Share of the gradients' energy in V (leakage) over the last quarter of training, share of the gap in V, and, of "
            "the frozen frames, the root mean square sine of the angles to the frame of the moment at the end."
        )
        head = ["loss"]
        for frame in FRAMES:
            head += [f"leakage, {frame}", f"gap in V, {frame}"]
        rows = []
        for loss, of_loss in runs.items():
            row = [loss]
            for frame in FRAMES:
                late = [_late(run["frames"][frame], results["steps"]) for run in of_loss]
                row += [cell([np.mean([r["leakage"] for r in part]) for part in late])]
                row += [cell([np.mean([r["gamma"] / np.hypot(r["beta"], r["gamma"]) for r in part]) for part in late])]
            row += [cell([run["frames"][frame][-1]["rms_sin"] for run in of_loss]) for frame in ("a sixth", "late")]
            rows.append(row)
        parts.append(table([*head, "rms sine, a sixth", "rms sine, late"], rows))
        parts.append(f"### {name.capitalize()} world: U, V and L")
        parts.append(
            table(
                ["loss", "dimension of U", "‖L‖", "explained by L", "on other pairs"],
                [
                    [
                        loss,
                        *(
                            cell([run["frame"][key] for run in of_loss], shown)
                            for key, shown in (
                                ("rank", "{:.1f}".format),
                                ("norm", figure),
                                ("explained", figure),
                                ("explained, held out", figure),
                            )
                        ),
                    ]
                    for loss, of_loss in runs.items()
                ],
            )
        )
        parts.append(
            "Heads compared by what they say of the same pictures: mean squared cosine of the principal angles between spans."
        )
        parts.append(
            table(
                ["heads", "U, U", "V, V", "V in the other's U", "by chance, U"],
                [
                    [pair, *(figure(found[key]) for key in ("U, U", "V, V", "V in U", "by chance"))]
                    for pair, found in of["between"].items()
                ],
            )
        )
        across = [found for found in of["domains"] if found]
        if across:
            one = across[0]
            parts.append(
                f"Domains of one InfoNCE head ({one['domains']} largest, {one['rows']} rows a frame, its leading "
                f"{one['directions']} directions): overlap with other rows of the same domain "
                f"{cell([a['same domain'] for a in across])}, with another domain "
                f"{cell([a['other domain'] for a in across])}, by chance {one['by chance']:.3f}. Energy of a domain in the "
                f"frame of other rows of it {cell([a['energy, same domain'] for a in across])}, in that of another domain "
                f"{cell([a['energy, other domain'] for a in across])}."
            )
    return "\n\n".join(parts)


def _late(records: list[dict[str, float]], steps: int) -> list[dict[str, float]]:
    return [record for record in records if record["step"] >= 0.75 * steps]


def draw(results: Results) -> Figure:
    """Leakage by step: a row a world, a column a frame."""
    from bench.drawing import canvas, heads, legend_above, look

    worlds = results["worlds"]
    looks = dict(zip(OBJECTIVES, ("realign", "realign-exact", "bca", "c3", "anchor"), strict=True))
    figure = canvas(1.9 * len(worlds) + 0.9)
    grid = figure.subplots(len(worlds), len(FRAMES), squeeze=False, sharey="row", sharex=True)
    for row, of in zip(grid, worlds.values(), strict=True):
        for axes, frame in zip(row, FRAMES, strict=True):
            for loss, runs in of["runs"].items():
                steps = [record["step"] for record in runs[0]["frames"][frame]]
                values = np.mean([[record["leakage"] for record in run["frames"][frame]] for run in runs], axis=0)
                axes.plot(steps, values, **look(looks[loss]) | {"markersize": 3.5, "markevery": 2}, label=loss)
        row[0].set_ylabel("gradients in V")
        row[0].set_ylim(bottom=0)
    for axes in grid[-1]:
        axes.set_xlabel("step")
    heads(grid, [f"frame: {frame}" for frame in FRAMES], list(worlds))
    legend_above(figure, grid[0][0], 3)
    return figure


REPRODUCTION = Reproduction(
    "head_questions",
    "open questions: losses, frames, and U, V, L across encoders and domains",
    measure,
    tell,
    draw,
    "docs/open-questions.md",
)

if __name__ == "__main__":
    sys.exit(main(REPRODUCTION))
