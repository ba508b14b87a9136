"""What the engine needs to know of the loop that it watches, and cannot see in a module and its optimizers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch import Tensor
    from torch.amp import GradScaler

    from gradwatch.observations import Format
    from gradwatch.records import ClipRule
    from gradwatch.replica.step_runner import StepRunner


_FORMATS: dict[torch.dtype, Format] = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}


def _alone(value: int) -> int:
    return value


def _only_rank_zero(_born_here: bool) -> list[int]:  # noqa: FBT001 - one flag, the whole message
    return [0]  # there is no other rank from which a gradient could have come


@dataclass(frozen=True, slots=True, kw_only=True)
class RunContext:
    """The loop's setting.

    Attributes:
        run_id: the same on every rank, so that readers can join their files; drawn by the engine if not given.
        agree: the largest value of an integer over all ranks; one all-reduce. Called on every rank once an
            optimizer step, and more often at an incident, so that all take the same decision.
        ranks_where: the ranks whose flag is true; called on all ranks together, after they agreed on a failure.
        clip_rule: the rule that is in force when the loop clips by itself, else None.
            Its ``max_norm`` is None where the loop clips by other means than the norm, or not at all.
        gather: the same list of floats of every rank, one row each, where all ranks hold the same weights (data
            parallelism); None elsewhere. Called on all ranks together on log steps.
        runner: how to run a training step again, on a copy of the module; None if the loop cannot.
        clips_by_user_code: whether it is code of the user that clips, which may do anything.
        schedulers: the learning rate schedulers, as ``environment.describe_scheduler`` describes them.
        step: optimizer steps done before the run, where it does not begin at none; likewise ``epoch``.
        write: False for runs that leave nothing behind (``fast_dev_run``).
    """

    dirpath: str
    log_every_n_steps: int = 50
    rank: int = 0
    world_size: int = 1
    strategy: str = "single process"
    precision: dict[str, Any] = field(default_factory=dict)
    scaler: GradScaler | None = None
    loggers: Sequence[Any] = ()
    clip_rule: ClipRule | None = None
    clips_by_user_code: bool = False
    manual_optimization: bool = False
    schedulers: Sequence[dict[str, Any]] = ()
    step: int | None = None
    epoch: int = 0
    write: bool = True
    run_id: str | None = None
    agree: Callable[[int], int] = _alone
    ranks_where: Callable[[bool], list[int]] = _only_rank_zero
    gather: Callable[[list[float]], list[list[float]]] | None = None
    runner: StepRunner | None = None

    def compute_format(self, parameters: Iterable[Tensor]) -> Format:
        """Return the narrowest format that a step over these parameters computes in."""
        precision = str(self.precision.get("precision", ""))
        if precision.startswith("16"):
            return "fp16"
        if precision.startswith("bf16"):
            return "bf16"
        formats = {parameter.dtype for parameter in parameters}
        return next((name for dtype, name in _FORMATS.items() if dtype in formats), "fp32")

    @property
    def clips_by_other_means(self) -> bool:
        """Whether the loop may change the gradients in a way that no norm rule foretells."""
        return self.clip_rule is not None and self.clip_rule.max_norm is None
