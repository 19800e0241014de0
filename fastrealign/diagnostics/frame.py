"""The fixed frame of arXiv 2602.07026 (Fixed-frame Modality Gap Theory): subspaces U and V, and the gap in them.

For pairs of unit rows, D = e_x - e_y and m = E[D]:

    beta  = P_U m         principal mean bias (PMB)             delta = P_U (D - m)
    gamma = P_V m         passive orthogonal bias (POB; the paper's first version calls it COB)
    zeta  = P_V (D - m)   so that E|D|^2 = |beta|^2 + |gamma|^2 + E|delta|^2 + E|zeta|^2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.arrays import unmasked
from fastrealign.core.errors import InputError
from fastrealign.diagnostics.spectrum import FLOOR, Covariance, above


@dataclass(frozen=True, eq=False)
class Frame:
    """Orthonormal basis float64 (d, d), by descending energy; its first `rank` columns span U, the others V.

    energy  share of the trace of S_x + S_y that lies in U
    """

    basis: np.ndarray
    rank: int
    energy: float

    @property
    def U(self) -> np.ndarray:
        """float64 (d, rank)"""
        return self.basis[:, : self.rank]

    @property
    def V(self) -> np.ndarray:
        """float64 (d, d - rank)"""
        return self.basis[:, self.rank :]

    def split(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P_U v, P_V v) of vectors (..., d): m gives beta and gamma, D - m gives delta and zeta."""
        in_u = v @ self.U @ self.U.T
        return in_u, v - in_u

    def restrict(self, of: Covariance) -> tuple[np.ndarray, np.ndarray]:
        """(S_U, S_V): the covariance in the coordinates of U (rank, rank) and of V (d - rank, d - rank)."""
        return self.U.T @ of.matrix @ self.U, self.V.T @ of.matrix @ self.V

    def spectra(self, of: Covariance) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of S_U and S_V, descending, none below zero: what `spectrum.condition_number` takes."""
        in_u, in_v = (np.maximum(np.linalg.eigvalsh(part)[::-1], 0.0) for part in self.restrict(of))
        return in_u, in_v


def fixed_frame(x: Covariance, y: Covariance, *, energy: float = 0.95) -> Frame:
    """The frame of S_x + S_y of a probe set: U is spanned by the fewest leading directions with this share of the trace.

    energy: above 0 and below 1. V keeps at least one direction.
    """
    if not 0.0 < energy < 1.0:
        raise InputError(f"energy={energy}: expected a share between 0 and 1")
    if x.d != y.d:
        raise InputError(f"covariances of width {x.d} and {y.d}: both must come from one encoder pair")
    both = Covariance(x.mean, x.matrix + y.matrix, x.count + y.count)
    above(both.eigenvalues, FLOOR)
    reached = np.cumsum(both.eigenvalues) / both.eigenvalues.sum()
    rank = min(int(np.searchsorted(reached, energy * (1 - 1e-12))) + 1, x.d - 1)
    if rank < 1:
        raise InputError(f"rows of width {x.d} have no two subspaces, expected at least 2")
    return Frame(both.eigenvectors, rank, float(reached[rank - 1]))


@dataclass(frozen=True, eq=False)
class Decomposition:
    """beta, gamma float64 (d,); energies are squared lengths of differences of unit rows, 0 to 4, and add up to `total`."""

    beta: np.ndarray
    gamma: np.ndarray
    bias_u: float
    bias_v: float
    residual_u: float
    residual_v: float

    @property
    def total(self) -> float:
        """E|D|^2"""
        return self.bias_u + self.bias_v + self.residual_u + self.residual_v


def decompose(frame: Frame, difference: Covariance) -> Decomposition:
    """What the gap is made of: |beta|^2, |gamma|^2, E|delta|^2, E|zeta|^2 of pairs (`spectrum.difference_covariance`)."""
    beta, gamma = frame.split(difference.mean)
    in_u, in_v = frame.restrict(difference)
    return Decomposition(
        beta, gamma, float(beta @ beta), float(gamma @ gamma), float(np.trace(in_u)), float(np.trace(in_v))
    )


def principal_angles(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angles in radians, ascending, between the spans of orthonormal columns a (d, p) and b (d, q): (min(p, q),).

    The last one is theta_max of arXiv 2602.07026 for a = U_t and b = U. Small angles come from their sines, which are exact
    where cosines are not (Björck and Golub).
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    cosines = np.linalg.svd(a.T @ b, compute_uv=False)
    sines = np.linalg.svd(b - a @ (a.T @ b), compute_uv=False)[::-1]
    small = cosines**2 > 0.5
    return np.where(small, np.arcsin(np.minimum(sines, 1.0)), np.arccos(np.minimum(cosines, 1.0)))


def leakage(frame: Frame, gradients: np.ndarray) -> float:
    """Root-mean-square of the gradients (n, d) in V over that of the whole: 0 to 1 (arXiv 2602.07026).

    Gradients within U_t have at most sin(theta_max), theta_max = principal_angles(U_t, frame.U)[-1].
    """
    gradients = unmasked(gradients, "gradients").astype(np.float64, copy=False)
    if gradients.ndim != 2 or gradients.shape[1] != len(frame.basis):
        raise InputError(
            f"gradients of shape {gradients.shape}: expected (n, {len(frame.basis)}), the width of the frame"
        )
    total = np.sum(gradients**2)
    if not np.isfinite(total) or total == 0.0:
        raise InputError("the gradients are all zero, or have a NaN or Inf: there is no energy to share out")
    return float(np.sqrt(np.sum((gradients @ frame.V) ** 2) / total))


@dataclass(frozen=True)
class Coupling:
    """norm |L|_2; explained: share of E|zeta|^2 that L delta explains, on the same pairs; ridge: part of tr(S_delta)/rank."""

    norm: float
    explained: float
    ridge: float


def coupling(frame: Frame, difference: Covariance, *, ridge: float = 1e-3) -> Coupling:
    """L: the ridge regression of zeta on delta over pairs, zeta ~ L delta (arXiv 2602.07026)."""
    in_u, in_v = frame.restrict(difference)
    cross = frame.V.T @ difference.matrix @ frame.U
    if np.trace(in_v) <= 0.0 or np.trace(in_u) <= 0.0:
        raise InputError("the pairs' differences have no spread in U or in V: nothing to regress")
    weight = ridge * np.trace(in_u) / frame.rank
    slope = np.linalg.solve(in_u + weight * np.eye(frame.rank), cross.T).T
    left = np.trace(in_v) - 2 * np.sum(slope * cross) + np.sum((slope @ in_u) * slope)
    return Coupling(float(np.linalg.norm(slope, 2)), float(1 - left / np.trace(in_v)), ridge)
