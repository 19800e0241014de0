"""Where a contrastive loss pushes: its gradients with respect to the embeddings, and how they lie in a fixed frame.

arXiv 2602.07026, section 3.2 and appendix C. The gradients are those of the unit rows as free variables, before the
projection to the sphere and the encoders, which is what the paper's span argument is about. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrealign.core import ops
from fastrealign.core.errors import InputError
from fastrealign.diagnostics.frame import Frame, leakage, principal_angles
from fastrealign.diagnostics.spectrum import Covariance, spectral_correlation

if TYPE_CHECKING:
    import torch

# loss(image, text): unit rows (n, d) each, to a tensor of one number
Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
# Spectra of fewer values are correlated by chance, two of them always.
FEWEST_VALUES = 3


@dataclass(frozen=True)
class GradientReading:
    """How the gradients lie in a frame, beside the residual D - m of the pairs.

    leakage               root-mean-square of the gradients in V over that of the whole, 0 to 1
    outside               the same out of U_t, the leading directions of this step: what no turn of U_t away from U explains
    sin_theta             of the largest angle between U and the leading directions of the gradients, as many as U has
    eigen_correlation     rho_eig: Pearson correlation of the eigenvalues of S_U and of the gradients' covariance in U, both
                          descending. Any two spectra that fall correlate so: it says nothing about directions
    spectral_correlation  the same of their logarithms (C_lambda of AnisoAlign), which the largest does not decide alone
    diagonal_correlation  of the variances of residual and gradients along each of U's axes: this one sees directions

    The correlations are None where U has fewer than FEWEST_VALUES directions with a spread.
    """

    leakage: float
    outside: float
    sin_theta: float
    eigen_correlation: float | None
    spectral_correlation: float | None
    diagonal_correlation: float | None


def embedding_gradients(
    image: Any, text: Any, loss: Loss, *, batch: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of loss(image, text) with respect to unit rows: float64 (m, d) for the images, and for the texts.

    image, text  arrays or tensors (n, d), row i of one belonging to row i of the other; made unit rows in float32 (float64
                 if given so), on the device they are on
    batch        pairs that are contrasted with each other, as many as in a training step: m is n less what is left over.
                 None: all n
    Parameters of the loss (temperature, bias) get no gradient. Raises InputError for fewer than `batch` or 2 pairs and for a
    loss that is no single number or does not depend on the rows.
    """
    import torch

    sides = [_unit(rows) for rows in (image, text)]
    n = len(sides[0])
    size = n if batch is None else batch
    if not 2 <= size <= n:
        raise InputError(f"a contrastive batch of {size} pairs out of a probe of {n}: expected 2 to {n}")
    found: list[list[torch.Tensor]] = [[], []]
    for lo in range(0, n - size + 1, size):
        leaves = [rows[lo : lo + size].clone().requires_grad_() for rows in sides]
        with torch.enable_grad():
            value = loss(*leaves)
            if not torch.is_tensor(value) or value.numel() != 1 or not value.requires_grad:
                raise InputError("loss(image, text) must give a tensor of one number that depends on both")
            gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
        if any(g is None for g in gradients):
            raise InputError("loss(image, text) must give a tensor of one number that depends on both")
        for parts, g in zip(found, gradients, strict=True):
            parts.append(g)
    of_image, of_text = (torch.cat(parts).double().cpu().numpy() for parts in found)
    return of_image, of_text


def _unit(rows: Any) -> torch.Tensor:
    import torch

    rows = rows.detach() if torch.is_tensor(rows) else ops.as_tensor(ops.as_rows(rows))
    if rows.dtype != torch.float64:
        rows = rows.float()
    return torch.nn.functional.normalize(rows, dim=1)


def gradient_covariance(of_image: np.ndarray, of_text: np.ndarray) -> Covariance:
    """G of arXiv 2602.07026, section 3.3: Cov of the images' gradients (n, d) plus Cov of the texts', not made unit rows.

    Each side is centred by its own mean, as the residual is that it is compared with: early in SigLIP's training half of the
    gradients' energy is one common push.
    """
    matrix = np.zeros((of_image.shape[1],) * 2)
    for rows in (of_image, of_text):
        centred = rows - rows.mean(axis=0)
        matrix += centred.T @ centred / len(rows)
    return Covariance(of_image.mean(axis=0) + of_text.mean(axis=0), matrix, len(of_image) + len(of_text))


def read_gradients(
    frame: Frame, now: Frame, gradients: tuple[np.ndarray, np.ndarray], difference: Covariance
) -> GradientReading:
    """Of both sides' gradients (n, d) in a frame, beside `spectrum.difference_covariance`; now: the frame of this step.

    If all gradients lie in a subspace of U's dimension, leakage <= sin_theta; what they have outside of it adds to that.
    """
    both = np.concatenate(gradients)
    share, outside = leakage(frame, both), leakage(now, both)
    covariance = gradient_covariance(*gradients)
    theta = principal_angles(covariance.eigenvectors[:, : frame.rank], frame.U)[-1]
    pushed, pushed_values = frame.restrict(covariance)[0], frame.spectra(covariance)[0]
    residual, residual_values = frame.restrict(difference)[0], frame.spectra(difference)[0]
    return GradientReading(
        leakage=share,
        outside=outside,
        sin_theta=float(np.sin(theta)),
        eigen_correlation=_correlation(residual_values, pushed_values),
        spectral_correlation=_of_logarithms(residual_values, pushed_values),
        diagonal_correlation=_correlation(np.diag(residual), np.diag(pushed)),
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    if len(a) < FEWEST_VALUES or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _of_logarithms(a: np.ndarray, b: np.ndarray) -> float | None:
    try:
        return spectral_correlation(a, b)
    except InputError:  # too few values with a spread
        return None
