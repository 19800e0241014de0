"""A module for sentence-transformers that follows a CLIP model, and maps its embeddings by role."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from fastrealign.core.errors import InputError
from fastrealign.methods.roles import Roles
from fastrealign.nn import as_module
from fastrealign.retrieval.role_maps import RoleMaps

_ROLES, _CONFIG = "roles.safetensors", "config.json"
_OUTPUT = "sentence_embedding"


class RoleAlign(torch.nn.Module):
    """Maps `sentence_embedding` by role: SentenceTransformer(modules=[clip, RoleAlign("roles.safetensors")]).

    `model.encode_query` gives rows of the role "query", where the roles have one; otherwise a text is of the role "text" and a
    picture of the role "image", as sentence-transformers names what it was given.

    Parameters
    ----------
    roles : Roles or path
        What `fit_roles` made, or the file that it was saved to.
    role : str, optional
        The role of all rows, whatever they are.

    Raises
    ------
    InputError
        For an unknown role, and, when it is called, for rows whose modality names no role, or of another width.
    """

    forward_kwargs = frozenset({"task"})  # what sentence-transformers hands on

    def __init__(self, roles: Roles | str | os.PathLike[str], role: str | None = None) -> None:
        super().__init__()
        self.roles = roles if isinstance(roles, Roles) else Roles.load(roles)
        self.role = None if role is None else RoleMaps.of(self.roles).known(role)
        self.maps = torch.nn.ModuleDict({f"role_{name}": as_module(self.roles[name]) for name in self.roles})

    def forward(self, features: dict[str, Any], task: str | None = None, **_: Any) -> dict[str, Any]:
        """Replace `sentence_embedding` (n, dim) by the mapped rows."""
        if self.role is not None:
            role = self.role
        elif (task or features.get("task")) == "query" and "query" in self.roles:
            role = "query"
        else:
            role = features.get("modality", "text")
        if role not in self.roles:
            raise InputError(
                f"there is no role {role!r} for these inputs; the roles are {', '.join(self.roles)}; give role="
            )
        rows = features[_OUTPUT]
        if rows.shape[-1] != self.roles.dim:
            raise InputError(f"embeddings are {rows.shape[-1]} wide, the roles were fitted on {self.roles.dim}")
        return {**features, _OUTPUT: self.maps[f"role_{role}"](rows)}

    def get_embedding_dimension(self) -> int:
        """Width of the rows."""
        return self.roles.dim

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the roles and the configuration to a folder."""
        self.roles.save(Path(output_path, _ROLES))
        Path(output_path, _CONFIG).write_text(json.dumps({"role": self.role}))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> RoleAlign:
        """Read what `save` wrote, from a folder."""
        folder = Path(model_name_or_path, subfolder)
        return cls(folder / _ROLES, **json.loads((folder / _CONFIG).read_text()))
