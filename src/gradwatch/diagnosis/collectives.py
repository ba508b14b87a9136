"""Collectives run on while Python goes on: whoever looks at their results must wait for them first."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.utils import _pytree as pytree


def wait_for(result: Any) -> None:
    """Let a collective finish; ``result`` is what its operation has returned: work objects, tensors or both."""
    leaves = pytree.tree_leaves(result)
    works = [leaf for leaf in leaves if isinstance(leaf, torch.ScriptObject)]
    for work in works:
        distributed.Work.unbox(work).wait()
    if not works:  # a functional collective: what is not under way is returned as it is
        for tensor in leaves:
            if isinstance(tensor, torch.Tensor):
                torch.ops._c10d_functional.wait_tensor(tensor)  # noqa: SLF001 - the public one returns another tensor
