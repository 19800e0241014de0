"""Metrics of the gap between two sets of embeddings, and of what a map does to it.

Every metric is a function of rows or of statistics of them. Rows (`RowsLike`) are arrays, tensors, files, folders, or chunks
that can be read again; they are normalised first. Everything is computed in float64 unless it says otherwise.

    rows            unit rows in blocks, samples, `Estimate`
    mean_gap        gap, phantom drift
    second_moments  covariances of rows and of pairs; spectrum: metrics of their eigenvalues
    subspaces       angles between two subspaces, and their overlap
    frame           the fixed frame: biases and residuals in U and V, leakage, coupling
    gradients       gradients of a contrastive loss, in that frame
    monitor         all of it every k steps while an encoder trains; gap_record: one measurement, and the log
    topology        densities of angles, and how a map preserves them
    higher_moments  skewness and kurtosis along directions
    neighbours      mixing, overlap; search: exact nearest neighbours

A metric over all rows is a number. One that samples rows takes `rows` and `seed` and returns an `Estimate` with its error.
"""

from fastrealign.diagnostics.frame import Coupling, Decomposition, Frame, coupling, decompose, fixed_frame, leakage
from fastrealign.diagnostics.gap_record import GapRecord, read_log
from fastrealign.diagnostics.gradients import (
    GradientReading,
    embedding_gradients,
    gradient_covariance,
    read_gradients,
    vmf_concentration,
)
from fastrealign.diagnostics.higher_moments import Shape, shape
from fastrealign.diagnostics.mean_gap import Drift, gap, phantom_drift, predicted_drift
from fastrealign.diagnostics.monitor import GapMonitor, trainer_callback
from fastrealign.diagnostics.neighbours import Mixing, mixing, overlap
from fastrealign.diagnostics.search import Nearest, nearest
from fastrealign.diagnostics.second_moments import Covariance, covariance, difference_covariance
from fastrealign.diagnostics.spectrum import (
    Condition,
    PowerLaw,
    anisotropy,
    condition_number,
    effective_dimension,
    effective_rank,
    power_law,
    sigma_gap,
    spectral_correlation,
)
from fastrealign.diagnostics.subspaces import Overlap, principal_angles, subspace_overlap
from fastrealign.diagnostics.topology import Topology, angular_topology, instance_cosine, pairwise_correlation
from fastrealign.diagnostics.unit_rows import Estimate

__all__ = [
    "Condition", "Coupling", "Covariance", "Decomposition", "Drift", "Estimate", "Frame", "GapMonitor",
    "GapRecord", "GradientReading", "Mixing", "Nearest", "Overlap", "PowerLaw", "Shape", "Topology",
    "angular_topology", "anisotropy", "condition_number", "coupling", "covariance", "decompose",
    "difference_covariance", "effective_dimension", "effective_rank", "embedding_gradients", "fixed_frame",
    "gap", "gradient_covariance", "instance_cosine", "leakage", "mixing", "nearest", "overlap",
    "pairwise_correlation", "phantom_drift", "power_law", "predicted_drift", "principal_angles",
    "read_gradients", "read_log", "shape", "sigma_gap", "spectral_correlation", "subspace_overlap",
    "trainer_callback", "vmf_concentration",
]  # fmt: skip
