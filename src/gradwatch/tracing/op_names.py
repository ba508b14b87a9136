"""The names under which a user knows an operation."""

from __future__ import annotations

import re

_PREFIXES = ("foreach_", "native_", "cudnn_", "miopen_", "mkldnn_", "mps_", "thnn_fused_", "fused_")
_SUFFIXES = ("_forward", "_legit", "_legit_no_training", "_with_update", "_no_training", "_no_stats", "_backward")
_SAME = {
    "scaled_dot_product": "scaled_dot_product_attention",
    "convolution": "convolution",
    "batch_norm": "batch_norm",
    "embedding_bag": "embedding_bag",
}


def base_name(schema_name: str) -> str:
    """Return ``log`` for ``aten::log_``, ``nll_loss`` for ``aten::nll_loss_forward``, and the like."""
    name = schema_name.rpartition("::")[2].strip("_")
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return next((known for start, known in _SAME.items() if name.startswith(start)), name).strip("_")


def node_op_name(node_name: str) -> str:
    """Return ``linalg_svd`` for ``LinalgSvdBackward0``: for nodes whose forward operation was not seen."""
    stem = re.sub(r"Backward\d*$", "", node_name.rpartition("::")[2])
    return base_name(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower())
