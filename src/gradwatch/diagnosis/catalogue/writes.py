"""Forward births that no arithmetic made: values that were written, never written, or received."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.diagnosis.circumstances import Entry, ops
from gradwatch.diagnosis.wording import at

if TYPE_CHECKING:
    from gradwatch.diagnosis.circumstances import Birth

UNINITIALISED = ops("empty empty_like empty_strided new_empty new_empty_strided empty_permuted resize")
FILLS = ops(
    "full full_like new_full fill scalar_tensor masked_fill where copy index_put masked_scatter scatter index_fill"
    " index_copy lift_fresh select_scatter slice_scatter constant_pad_nd tensor nan_to_num"
)
COLLECTIVES = ops(
    "all_reduce all_reduce_coalesced all_gather all_gather_into_tensor all_gather_into_tensor_coalesced"
    " reduce_scatter reduce_scatter_tensor broadcast all_to_all all_to_all_single alltoall alltoall_base"
    " allreduce allgather allgather_base recv recv_any_source reduce gather scatter_collective wait_tensor"
)


def _is_collective(birth: Birth) -> bool:
    return birth.op not in ("gather", "reduce") or not birth.origin.inputs


WRITES = (
    Entry(
        "memory without values",
        UNINITIALISED,
        lambda _: True,
        lambda b: f"{b.op} returns memory as it was left, and what lay there is not finite{at(b)}.",
        "Initialise it: torch.zeros in place of torch.empty, or an nn.init call on the parameter. Such a run may work"
        " today and fail tomorrow; under torch.use_deterministic_algorithms(True) torch.empty holds NaN every time.",
    ),
    Entry(
        "value from another rank",
        COLLECTIVES,
        _is_collective,
        lambda b: f"The value came out of {b.op}{at(b)}: this rank put in finite numbers, so another rank sent it.",
        "Look at the incident files of the other ranks at this step: the one that names an operation of its own is"
        " where it was born. If none does, a sum of finite numbers over the ranks has overflowed.",
    ),
    Entry(
        "NaN written on purpose",
        FILLS,
        lambda b: b.is_nan or b.is_inf,
        lambda b: f"{b.op} wrote a non-finite value{at(b)} that no arithmetic made: it stands in the code.",
        "If it marks missing values, take them out before the loss: loss(x[valid], y[valid]), or torch.where(valid, y,"
        " 0) on the input. Multiplying by a mask keeps the NaN, as 0 * NaN is NaN.",
    ),
)
