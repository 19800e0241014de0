"""Gradients of a contrastive loss with respect to the embeddings, and how they lie in a fixed frame.

arXiv 2602.07026, section 3.2 and appendix C. The unit rows are free variables, before the projection to the sphere and the
encoders, as in the paper's span argument. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from fastrealign.core.checks import whole
from fastrealign.core.errors import InputError
from fastrealign.core.libraries import torch
from fastrealign.core.row_argument import unmasked
from fastrealign.core.rows import as_rows
from fastrealign.core.tensors import as_tensor
from fastrealign.data.row_source import RowsLike
from fastrealign.diagnostics.frame import Frame, leakage
from fastrealign.diagnostics.second_moments import Covariance
from fastrealign.diagnostics.spectrum import spectral_correlation
from fastrealign.diagnostics.subspaces import principal_angles

# loss(image, text): from unit rows (n, d) of both sides to a tensor of one number.
Loss: TypeAlias = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
# Spectra of fewer values correlate by chance, those of two always.
FEWEST_VALUES = 3


@dataclass(frozen=True)
class GradientReading:
    """How the gradients lie in a frame, compared with the residual D - m of the pairs.

    The correlations are None where U has fewer than FEWEST_VALUES directions with a spread.

    Attributes
    ----------
    leakage : float
        Root mean square of the gradients in V over that of the whole, 0 to 1.
    outside : float
        The same outside U_t, the leading directions of this step: the part that no rotation of U_t away from U explains.
    sin_theta : float
        Sine of the largest angle between U and the leading directions of the gradients, as many as U has.
    eigen_correlation : float or None
        rho_eig: Pearson correlation of the eigenvalues of S_U and of the gradients' covariance in U, both descending. Any two
        decreasing spectra correlate: it says nothing about directions.
    spectral_correlation : float or None
        The same of their logarithms (C_lambda of AnisoAlign), which the largest eigenvalue does not dominate.
    diagonal_correlation : float or None
        Of the variances of residual and gradients along each axis of U; depends on directions.
    concentration_image, concentration_text : float or None
        `vmf_concentration` of the gradients of each side.
    """

    leakage: float
    outside: float
    sin_theta: float
    eigen_correlation: float | None
    spectral_correlation: float | None
    diagonal_correlation: float | None
    concentration_image: float | None = None
    concentration_text: float | None = None


def embedding_gradients(
    image: RowsLike, text: RowsLike, loss: Loss, *, batch: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of a contrastive loss with respect to the unit rows of both sides.

    Parameters of the loss (temperature, bias) get no gradient.

    Parameters
    ----------
    image, text : array or tensor
        (n, d), row i of one belonging to row i of the other; normalised in float32 (in float64 if given so), on their device.
    loss : callable
        loss(image, text) of two tensors of unit rows gives a tensor of one number.
    batch : int, optional
        Pairs contrasted with each other, as many as in a training step; pairs left over are not used. By default all.

    Returns
    -------
    tuple of ndarray
        Gradients of the images and of the texts, float64 (m, d), m the largest multiple of `batch` up to n.

    Raises
    ------
    InputError
        Fewer pairs than `batch`, or than 2; a loss that is not one number or does not depend on the rows.

    Examples
    --------
    >>> import numpy as np
    >>> image, text = np.tile([1.0, 0.0], (10, 1)), np.tile([0.0, 1.0], (10, 1))
    >>> of_image, of_text = embedding_gradients(image, text, lambda a, b: -(a * b).sum(), batch=4)
    >>> of_image.shape, of_image[0].tolist()
    ((8, 2), [-0.0, -1.0])
    """
    sides = [_unit(rows) for rows in (image, text)]
    n = len(sides[0])
    size = n if batch is None else whole("batch", batch, 2)
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
    rows = rows.detach() if torch.is_tensor(rows) else as_tensor(as_rows(rows))
    if rows.dtype != torch.float64:
        rows = rows.float()
    return torch.nn.functional.normalize(rows, dim=1)


def gradient_covariance(of_image: np.ndarray, of_text: np.ndarray) -> Covariance:
    """Covariance of the images' gradients plus that of the texts' (G of arXiv 2602.07026, section 3.3), not normalised.

    Each side is centred by its own mean, as is the residual that it is compared with: early in SigLIP's training half of the
    gradients' energy is one common direction.

    Parameters
    ----------
    of_image, of_text : ndarray
        float64 (n, d), as `embedding_gradients` gives them.

    Returns
    -------
    Covariance

    Examples
    --------
    >>> import numpy as np
    >>> of_image, of_text = np.tile(np.eye(2), (5, 1)), np.zeros((10, 2))
    >>> gradient_covariance(of_image, of_text).trace
    0.5
    """
    matrix = np.zeros((of_image.shape[1],) * 2)
    for rows in (of_image, of_text):
        centred = rows - rows.mean(axis=0)
        matrix += centred.T @ centred / len(rows)
    return Covariance(of_image.mean(axis=0) + of_text.mean(axis=0), matrix, len(of_image) + len(of_text))


def vmf_concentration(vectors: np.ndarray) -> float | None:
    """Concentration kappa of the directions of vectors, as a von Mises-Fisher distribution (arXiv 2602.07026, figure 1d).

    R (d - R^2) / (1 - R^2), R the length of the mean direction: the estimate of Banerjee et al. (JMLR 2005), within a few per
    cent of maximum likelihood. n vectors without a common direction have about d / sqrt(n).

    Parameters
    ----------
    vectors : ndarray
        (n, d); vectors of length zero are left out.

    Returns
    -------
    float or None
        0 and more; None where no vector has a length, or all have one direction and kappa is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> vmf_concentration(np.array([[2.0, 0.0], [0.0, 1.0]])).__round__(3)
    2.121
    """
    vectors = unmasked(vectors, "vectors")
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu" or not np.isfinite(vectors).all():
        raise InputError(f"vectors of shape {vectors.shape} ({vectors.dtype}): expected finite numbers (n, d)")
    lengths = np.linalg.norm(vectors, axis=1)
    if not lengths.any():
        return None
    mean = (vectors[lengths > 0] / lengths[lengths > 0, None]).mean(axis=0)
    r2 = float(mean @ mean)
    return None if r2 > 1 - 1e-12 else float(np.sqrt(r2) * (vectors.shape[1] - r2) / (1 - r2))


def read_gradients(
    frame: Frame, now: Frame, gradients: tuple[np.ndarray, np.ndarray], difference: Covariance
) -> GradientReading:
    """How the gradients of both sides lie in a frame (arXiv 2602.07026, sections 3.2 and 3.3).

    If all gradients lie in a subspace of the dimension of U, leakage <= sin_theta; their part outside of it adds to that.

    Parameters
    ----------
    frame : Frame
        The fixed frame.
    now : Frame
        That of this step, with the same rank.
    gradients : tuple of ndarray
        float64 (n, d) each, as `embedding_gradients` gives them.
    difference : Covariance
        `difference_covariance` of the pairs.

    Returns
    -------
    GradientReading

    Examples
    --------
    >>> import numpy as np
    >>> frame = Frame(np.eye(2), 1, 0.9)
    >>> gradients = np.tile([[1.0, 0.0], [-1.0, 0.0]], (5, 1))
    >>> read_gradients(frame, frame, (gradients, gradients), gradient_covariance(gradients, gradients)).leakage
    0.0
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
        concentration_image=vmf_concentration(gradients[0]),
        concentration_text=vmf_concentration(gradients[1]),
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
