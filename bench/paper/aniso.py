"""A learned refinement of ReAlign in the spirit of AnisoAlign (arXiv 2605.07825), whose networks and weights are not published.

Unpaired. The frame is the span of the largest eigenvalues of Cov(images) + Cov(aligned captions); its coordinates, taken two
by two, are planes, in which a row has a radius and a phase. Stage 1 learns the images' prior: a network predicts phases
(von Mises) and radii of hidden planes from the others. Stage 2 learns a bounded correction of the phases and radii of captions
that makes them likely under the prior and equal in distribution, and leaves rows and their angles where they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import nn

RANK, WIDTH, BATCH, RATE = 64, 256, 512, 1e-3
STEPS = 600  # of each stage
HIDDEN = 0.3  # share of the planes that the prior predicts
MOST_PHASE, MOST_RADIUS = math.pi / 4, 0.5  # of a correction: radians, logarithm
PRIOR, DISTRIBUTION, ROWS, ANGLES = 0.1, 1.0, 1.0, 1.0  # weights of the losses of stage 2
SLICES = 64
TINY = 1e-3


class Refinement:
    """Fit on aligned captions (n, d) and images (m, d), unit rows, not paired; a call refines aligned captions, float64."""

    def __init__(self, aligned: np.ndarray, image: np.ndarray, seed: int = 0, steps: int = STEPS) -> None:
        import torch

        torch.manual_seed(seed)
        self._generator = torch.Generator().manual_seed(seed)
        self._centre = torch.as_tensor(image.mean(0), dtype=torch.float32)
        self._frame = torch.as_tensor(_frame(aligned, image), dtype=torch.float32)
        self._planes = self._frame.shape[1] // 2
        z, x = (torch.as_tensor(rows, dtype=torch.float32) for rows in (aligned, image))
        radius, phase = self._polar(x)
        self._radius = radius.median(0).values
        self._prior = self._learned(
            _network(self._planes, 3), steps, lambda net: self._nll(net, *_of(radius, phase, self._draw(len(x))))
        )
        self._prior.requires_grad_(False)
        self._net = _network(self._planes, 2)
        self._net[-1].weight.data.zero_()  # begins as no correction
        self._net[-1].bias.data.zero_()
        deviation = ((x - self._centre) @ self._frame).std(0)
        self._learned(self._net, steps, lambda net: self._loss(z[self._draw(len(z))], x[self._draw(len(x))], deviation))

    def __call__(self, aligned: np.ndarray) -> np.ndarray:
        import torch

        with torch.no_grad():
            return self._moved(torch.as_tensor(aligned, dtype=torch.float32))[0].numpy().astype(np.float64)

    def _draw(self, n: int) -> torch.Tensor:
        import torch

        return torch.randint(n, (BATCH,), generator=self._generator)

    def _learned(self, net: nn.Module, steps: int, loss_of: Callable[[nn.Module], torch.Tensor]) -> nn.Module:
        import torch

        optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            optimizer.zero_grad()
            loss_of(net).backward()
            optimizer.step()
            schedule.step()
        return net

    def _polar(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Radii and phases (n, planes)."""
        pairs = ((rows - self._centre) @ self._frame).unflatten(1, (self._planes, 2))
        return pairs.norm(dim=-1), pairs[..., 1].atan2(pairs[..., 0])

    def _features(self, radius: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        import torch

        return torch.stack([phase.cos(), phase.sin(), self._log(radius)], 1)

    def _log(self, radius: torch.Tensor) -> torch.Tensor:
        return (radius / self._radius + TINY).log()

    def _nll(self, net: nn.Module, radius: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Of hidden planes given the others: von Mises of the phases, Gaussian of the logarithms of the radii."""
        import torch

        seen = (torch.rand(radius.shape, generator=self._generator) > HIDDEN).float()
        predicted = net((self._features(radius, phase) * seen[:, None]).flatten(1)).unflatten(1, (3, self._planes))
        along, across, log_radius = predicted.unbind(1)
        kappa = (along**2 + across**2 + 1e-6).sqrt()
        of_phase = torch.special.i0e(kappa).log() + kappa - along * phase.cos() - across * phase.sin()
        of_radius = (self._log(radius) - log_radius) ** 2 / 2
        return ((of_phase + of_radius) * (1 - seen)).sum() / (1 - seen).sum()

    def _moved(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Refined rows, and their radii and phases."""
        import torch

        radius, phase = self._polar(z)
        turn, stretch = self._net(self._features(radius, phase).flatten(1)).tanh().unflatten(1, (2, -1)).unbind(1)
        new_radius, new_phase = radius * (MOST_RADIUS * stretch).exp(), phase + MOST_PHASE * turn
        moved = new_radius[..., None] * torch.stack([new_phase.cos(), new_phase.sin()], -1)
        kept = radius[..., None] * torch.stack([phase.cos(), phase.sin()], -1)
        rows = z + (moved - kept).flatten(1) @ self._frame.T
        return torch.nn.functional.normalize(rows, dim=1), new_radius, new_phase

    def _loss(self, z: torch.Tensor, x: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        import torch

        moved, radius, phase = self._moved(z)
        slices = torch.nn.functional.normalize(torch.randn(len(deviation), SLICES, generator=self._generator), dim=0)
        mine, theirs = (
            ((((rows - self._centre) @ self._frame) / deviation) @ slices).sort(0).values for rows in (moved, x)
        )
        angles = z @ z.T
        return (
            PRIOR * self._nll(self._prior, radius, phase)
            + DISTRIBUTION * ((mine - theirs) ** 2).mean()  # sliced Wasserstein distance
            + ROWS * (1 - (moved * z).sum(1)).mean()
            + ANGLES * ((moved @ moved.T - angles) ** 2).mean() / angles.var()
        )


def _of(radius: torch.Tensor, phase: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return radius[rows], phase[rows]


def _network(planes: int, outputs: int) -> nn.Sequential:
    from torch import nn

    layers = (
        nn.Linear(3 * planes, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, outputs * planes),
    )
    return nn.Sequential(*layers)


def _frame(aligned: np.ndarray, image: np.ndarray) -> np.ndarray:
    """float64 (d, RANK): orthonormal columns."""
    _, axes = np.linalg.eigh(np.cov(image.T) + np.cov(aligned.T))
    return np.ascontiguousarray(axes[:, ::-1][:, :RANK])


class Rotation:
    """A closed-form rival: the rotation about the images' mean that fits captions to images that are mutual nearest neighbours.

    A rotation is a phase in each of its planes, and keeps all angles about that mean. Neighbours by CSLS (arXiv 1710.04087).
    """

    def __init__(self, aligned: np.ndarray, image: np.ndarray, rounds: int = 3) -> None:
        self._centre, self._turn = image.mean(0), np.eye(image.shape[1])
        for _ in range(rounds):
            mine, theirs = _mutual(self(aligned), image)
            left, _, right = np.linalg.svd((image[theirs] - self._centre).T @ (aligned[mine] - self._centre))
            self._turn = left @ right

    def __call__(self, aligned: np.ndarray) -> np.ndarray:
        rows = (aligned - self._centre) @ self._turn.T + self._centre
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _mutual(text: np.ndarray, image: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Rows of both sides that are each other's nearest, by cosine less the mean cosine of the k nearest of each."""
    cosines = text @ image.T
    of_text, of_image = np.sort(cosines, 1)[:, -k:].mean(1), np.sort(cosines, 0)[-k:].mean(0)
    scores = 2 * cosines - of_text[:, None] - of_image
    nearest, back = scores.argmax(1), scores.argmax(0)
    mine = np.flatnonzero(back[nearest] == np.arange(len(text)))
    return mine, nearest[mine]
