"""`alignment_for`: the alignment that a check or an update takes, or what to give instead of another kind of file."""

from __future__ import annotations

import os

from fastrealign.core.errors import InputError
from fastrealign.core.wording import either
from fastrealign.formats.saved_tensors import OtherKind
from fastrealign.methods.alignment import Alignment
from fastrealign.methods.roles import Roles
from fastrealign.storage.paths import AnyPath, is_path


def alignment_for(given: Alignment | AnyPath, doing: str, one_role: str) -> Alignment:
    """An alignment as it is; the path or URL of a saved one, loaded.

    doing     for messages: what takes the alignment ("check")
    one_role  how to name the alignment of one role of a file of roles, with {role} where its name is

    Raises InputError for what is no alignment; of roles, it names those that have one.
    """
    try:
        return Alignment.of(given)
    except OtherKind as error:
        if error.kind == "roles" and is_path(given):
            raise InputError(_of_roles(os.fspath(given), Roles.load(given), doing, one_role)) from None
        raise InputError(
            f"{given}: holds {error.kind}, and {doing} needs the statistics of an alignment; give what "
            f"{either('fastrealign fit', 'fastrealign.fit')} saves by its usual method, realign"
        ) from None


def _of_roles(path: str, roles: Roles, doing: str, one_role: str) -> str:
    aligned = [role for role, method in roles.maps.items() if isinstance(method, Alignment)]
    head = f"{path}: holds roles of one index, method {roles.method}, and {doing} takes one alignment"
    if aligned:
        return f"{head}: pass {one_role.format(role=aligned[0])} (roles with an alignment: {', '.join(aligned)})"
    fit = either("fastrealign fit TEXT --target IMAGES --out FILE", "fastrealign.fit(text, images)")
    return f"{head}, which none of them is (fastrealign inspect lists them): fit one, {fit}"
