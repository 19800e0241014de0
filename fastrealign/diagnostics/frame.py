"""The fixed frame of arXiv 2602.07026 (Fixed-frame Modality Gap Theory): subspaces U and V, and the gap within them.

For pairs of unit rows, D = e_x - e_y and m = E[D]:

    beta  = P_U m         principal mean bias (PMB)             delta = P_U (D - m)
    gamma = P_V m         passive orthogonal bias (POB; the paper's first version calls it COB)
    zeta  = P_V (D - m)   so that E|D|^2 = |beta|^2 + |gamma|^2 + E|delta|^2 + E|zeta|^2
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastrealign.core.checks import number
from fastrealign.core.errors import InputError
from fastrealign.core.row_argument import unmasked
from fastrealign.core.wording import option
from fastrealign.diagnostics.second_moments import FLOOR, Covariance, above, check_widths


@dataclass(frozen=True, eq=False)
class Frame:
    """Two orthogonal subspaces U and V of R^d.

    Attributes
    ----------
    basis : ndarray
        float64 (d, d), orthonormal columns by descending energy; the first `rank` span U, the others V.
    rank : int
        Dimension of U, 1 to d - 1.
    energy : float
        Share of the trace of S_x + S_y that lies in U.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.diagnostics import covariance, fixed_frame
    >>> images, text = np.random.default_rng(0).normal(size=(2, 10, 4)) * [4, 1, 1, 0.1] + [0, 0, 0, 8]
    >>> frame = fixed_frame(covariance(images), covariance(text), energy=0.9)
    >>> frame.U.shape, frame.V.shape
    ((4, 3), (4, 1))
    >>> in_u, in_v = frame.split(np.ones(4))  # two parts at right angles
    >>> bool(abs(in_u @ in_v) < 1e-12), np.allclose(in_u + in_v, 1.0)
    (True, True)
    """

    basis: np.ndarray
    rank: int
    energy: float

    @property
    def U(self) -> np.ndarray:
        """The basis of U, float64 (d, rank)."""
        return self.basis[:, : self.rank]

    @property
    def V(self) -> np.ndarray:
        """The basis of V, float64 (d, d - rank)."""
        return self.basis[:, self.rank :]

    def split(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(P_U v, P_V v) of vectors (..., d): of m beta and gamma, of D - m delta and zeta."""
        in_u = v @ self.U @ self.U.T
        return in_u, v - in_u

    def restrict(self, of: Covariance) -> tuple[np.ndarray, np.ndarray]:
        """(S_U, S_V): the covariance in the coordinates of U, (rank, rank), and of V, (d - rank, d - rank)."""
        check_widths(len(self.basis), of.d)
        return self.U.T @ of.matrix @ self.U, self.V.T @ of.matrix @ self.V

    def spectra(self, of: Covariance) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of S_U and of S_V, descending, none below zero, as `condition_number` takes them."""
        in_u, in_v = (np.maximum(np.linalg.eigvalsh(part)[::-1], 0.0) for part in self.restrict(of))
        return in_u, in_v


def is_orthonormal(basis: np.ndarray) -> bool:
    """Whether the columns are those of a frame: d finite ones of length 1 at right angles."""
    if basis.ndim != 2 or basis.shape[0] != basis.shape[1]:
        return False
    return bool(np.isfinite(basis).all() and np.abs(basis.T @ basis - np.eye(len(basis))).max() < 1e-6)


def check_energy(energy: float) -> float:
    """The share of the trace that U holds; InputError if it is none."""
    return number("energy", energy, lambda share: 0.0 < share < 1.0, "between 0 and 1, a share")


def fixed_frame(x: Covariance, y: Covariance, *, energy: float = 0.95) -> Frame:
    """The fixed frame of a probe set: U is spanned by the fewest leading eigenvectors of S_x + S_y with a share of its trace.

    arXiv 2602.07026, section 3.1.

    Parameters
    ----------
    x, y : Covariance
        `covariance` of both sides.
    energy : float
        The share of the trace, above 0 and below 1. V keeps at least one direction.

    Returns
    -------
    Frame

    Raises
    ------
    InputError
        The widths differ, the rows have no spread, or the width is 1.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.diagnostics import covariance
    >>> rng = np.random.default_rng(0)
    >>> images, text = rng.normal(size=(2, 10, 4)) * [4, 1, 1, 0.1] + [0, 0, 0, 8]
    >>> fixed_frame(covariance(images), covariance(text), energy=0.9).rank
    3
    """
    energy = check_energy(energy)
    check_widths(x.d, y.d)
    both = Covariance(x.mean, x.matrix + y.matrix, x.count + y.count)
    above(both.eigenvalues, FLOOR)
    reached = np.cumsum(both.eigenvalues) / both.eigenvalues.sum()
    rank = min(int(np.searchsorted(reached, energy * (1 - 1e-12))) + 1, x.d - 1)
    if rank < 1:
        raise InputError(f"rows of width {x.d} have no two subspaces, expected at least 2")
    return Frame(both.eigenvectors, rank, float(reached[rank - 1]))


@dataclass(frozen=True, eq=False)
class Decomposition:
    """What the gap between pairs is made of. The energies are squared lengths, 0 to 4, and add up to `total`.

    Attributes
    ----------
    beta, gamma : ndarray
        float64 (d,): principal mean bias P_U m and passive orthogonal bias P_V m.
    bias_u, bias_v : float
        |beta|^2 and |gamma|^2.
    residual_u, residual_v : float
        E|delta|^2 and E|zeta|^2.
    """

    beta: np.ndarray
    gamma: np.ndarray
    bias_u: float
    bias_v: float
    residual_u: float
    residual_v: float

    @property
    def total(self) -> float:
        """E|D|^2, the mean squared distance of pairs."""
        return self.bias_u + self.bias_v + self.residual_u + self.residual_v

    @property
    def eta_u(self) -> float | None:
        """eta_U = tr(P_U S) / tr(S): the share of the residual that lies in U, S its covariance; None without a residual."""
        residual = self.residual_u + self.residual_v
        return self.residual_u / residual if residual else None

    @property
    def r_res(self) -> float | None:
        """R_res = E|D - m|^2 / E|D|^2: what no translation removes of the distance of pairs (published: 0.89); None at 0."""
        return (self.residual_u + self.residual_v) / self.total if self.total else None


def decompose(frame: Frame, difference: Covariance) -> Decomposition:
    """Split the gap between pairs into bias and residual, in U and in V (arXiv 2602.07026, section 3.1).

    Parameters
    ----------
    frame : Frame
    difference : Covariance
        `difference_covariance` of the pairs.

    Returns
    -------
    Decomposition

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.diagnostics import covariance, difference_covariance
    >>> rng = np.random.default_rng(0)
    >>> images, text = rng.normal(size=(2, 10, 4)) + [[[4, 0, 0, 0]], [[0, 4, 0, 0]]]
    >>> frame = fixed_frame(covariance(images), covariance(text))
    >>> parts = decompose(frame, difference_covariance(images, text))
    >>> distance = parts.bias_u + parts.bias_v + parts.residual_u + parts.residual_v
    >>> distance == parts.total
    True
    """
    in_u, in_v = frame.restrict(difference)
    beta, gamma = frame.split(difference.mean)
    return Decomposition(
        beta, gamma, float(beta @ beta), float(gamma @ gamma), float(np.trace(in_u)), float(np.trace(in_v))
    )


def leakage(frame: Frame, gradients: np.ndarray) -> float:
    """The share of gradients that lies in V: their root mean square in V over that of the whole.

    arXiv 2602.07026, section 3.2. Gradients within a subspace U_t have at most sin(theta_max), theta_max the last of
    `principal_angles(U_t, frame.U)`.

    Parameters
    ----------
    frame : Frame
    gradients : ndarray
        (n, d).

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    InputError
        Another width than the frame's; gradients that are all zero, or have a NaN or Inf.

    Examples
    --------
    >>> import numpy as np
    >>> leakage(Frame(np.eye(2), 1, 0.9), np.tile([3.0, 4.0], (10, 1)))
    0.8
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
    """How much of the residual in V follows from the residual in U: zeta ~ L delta.

    Attributes
    ----------
    norm : float
        Spectral norm |L|_2.
    explained : float
        Share of E|zeta|^2 that L delta explains, on the same pairs.
    ridge : float
        Weight of the ridge penalty, relative to tr(S_delta) / rank.
    """

    norm: float
    explained: float
    ridge: float


def coupling(frame: Frame, difference: Covariance, *, ridge: float = 1e-3) -> Coupling:
    """Ridge regression L of the residual zeta in V on the residual delta in U, over pairs (arXiv 2602.07026, appendix C).

    Parameters
    ----------
    frame : Frame
    difference : Covariance
        `difference_covariance` of the pairs.
    ridge : float
        Weight of the penalty, relative to tr(S_delta) / rank; 0 or more.

    Returns
    -------
    Coupling

    Raises
    ------
    InputError
        The differences have no spread in U or in V.

    Examples
    --------
    >>> import numpy as np
    >>> from fastrealign.diagnostics import Covariance
    >>> difference = Covariance(np.zeros(2), np.array([[1.0, 0.5], [0.5, 1.0]]), 10)
    >>> round(coupling(Frame(np.eye(2), 1, 0.5), difference, ridge=0.0).explained, 3)
    0.25
    """
    ridge = number("ridge", ridge, lambda weight: weight >= 0.0, "of 0 or more")
    in_u, in_v = frame.restrict(difference)
    cross = frame.V.T @ difference.matrix @ frame.U
    if np.trace(in_v) <= 0.0 or np.trace(in_u) <= 0.0:
        raise InputError("the pairs' differences have no spread in U or in V: nothing to regress")
    weight = ridge * np.trace(in_u) / frame.rank
    try:
        slope = np.linalg.solve(in_u + weight * np.eye(frame.rank), cross.T).T
    except np.linalg.LinAlgError:
        raise InputError(
            f"{option('ridge', ridge)}: the pairs' differences span fewer directions than U; give a ridge above 0"
        ) from None
    left = np.trace(in_v) - 2 * np.sum(slope * cross) + np.sum((slope @ in_u) * slope)
    return Coupling(float(np.linalg.norm(slope, 2)), float(1 - left / np.trace(in_v)), ridge)
