"""Modules that commands use, imported on first use: `--help` and a misspelt option do without NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastrealign.core.optional import Lazy

if TYPE_CHECKING:
    from fastrealign.core import cpu, dtypes
    from fastrealign.data import process_group
    from fastrealign.formats import saved_tensors
    from fastrealign.gap_report import figures, result
    from fastrealign.jobs import inspection, map_text, protected_inputs
    from fastrealign.methods import loading, roles
    from fastrealign.retrieval import documents, evaluation, index_job
    from fastrealign.revision import config_file
    from fastrealign.revision import paths as revision_paths
    from fastrealign.storage import paths as storage_paths
    from fastrealign.storage import yaml_file
else:
    cpu = Lazy("fastrealign.core.cpu")
    dtypes = Lazy("fastrealign.core.dtypes")
    process_group = Lazy("fastrealign.data.process_group")
    saved_tensors = Lazy("fastrealign.formats.saved_tensors")
    figures = Lazy("fastrealign.gap_report.figures", "report", "a report")
    result = Lazy("fastrealign.gap_report.result", "report", "a report")
    inspection = Lazy("fastrealign.jobs.inspection")
    map_text = Lazy("fastrealign.jobs.map_text")
    protected_inputs = Lazy("fastrealign.jobs.protected_inputs")
    loading = Lazy("fastrealign.methods.loading")
    roles = Lazy("fastrealign.methods.roles")
    documents = Lazy("fastrealign.retrieval.documents")
    evaluation = Lazy("fastrealign.retrieval.evaluation")
    index_job = Lazy("fastrealign.retrieval.index_job")
    config_file = Lazy("fastrealign.revision.config_file", "revision", "train")
    revision_paths = Lazy("fastrealign.revision.paths", "revision", "train")
    storage_paths = Lazy("fastrealign.storage.paths")
    yaml_file = Lazy("fastrealign.storage.yaml_file")

__all__ = [
    "config_file", "cpu", "documents", "dtypes", "evaluation", "figures", "index_job", "inspection", "loading",
    "map_text", "process_group", "protected_inputs", "result", "revision_paths", "roles", "saved_tensors",
    "storage_paths", "yaml_file",
]  # fmt: skip
