"""Gradient checks: verdict, the numbers behind it, and what is to blame."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from gradwatch.records.shared import Event, SourceLine

CheckVerdict = Literal["pass", "mismatch", "explained", "kink", "not_resolvable", "not_checkable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCheck:
    """What a gradient check says of one parameter tensor; None stands for "not asked".

    With a the directional derivatives that autograd gives and n the numerical ones, both in float64:
    ``relative_error`` is the largest |a-n| / max(s, |n|), s being the typical size of a for a random direction;
    ``norm_error`` is ‖a-n‖ / (‖a‖+‖n‖); ``h`` has the relative error of each step that was tried, by step.
    ``precision_error`` and ``cosine`` compare the gradient at the precision of the training with float64;
    ``reproducible``: the same batch and random states gave it twice, bitwise; ``difference`` is how far apart the two
    were, relative to their norm.
    """

    correct: CheckVerdict
    relative_error: float | None = None
    norm_error: float | None = None
    sign_agrees: bool | None = None
    h: dict[str, float] = field(default_factory=dict)
    precision_error: float | None = None
    cosine: float | None = None
    reproducible: bool | None = None
    difference: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Culprit:
    """Whose backward is wrong: a module, and in it a custom ``autograd.Function`` where there is one.

    ``surrogate``: the function is constant where it has a gradient, as rounding with a straight-through derivative.
    """

    module: str
    module_type: str
    function: str | None
    source: SourceLine | None
    surrogate: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What makes autograd differ from the numerical derivative on purpose, or by an accident that looks the same."""

    kind: Literal["detach", "data", "no_grad", "grad", "sample", "frozen", "number", "hook"]
    source: SourceLine | None
    message: str


@dataclass(frozen=True, kw_only=True)
class GradientCheckReport:
    """Whether the gradients of one step are correct, precise and reproducible.

    ``relative_error`` and ``h`` are those of the whole-model directions. ``terms`` has the verdict on every scalar with
    a graph that the step has returned beside its loss. ``samples`` is how many samples of the batch were used, None
    where it was not cut; ``precision`` the narrowest format that the step computes in, as it trains, and
    ``imprecise`` names the tensors whose gradient is worse than that accounts for. ``irreproducible``
    says why two runs differed, None if they did not. ``notes`` are facts that a reader of the numbers should know.
    """

    verdict: CheckVerdict
    reason: str
    parameters: dict[str, ParameterCheck]
    culprit: Culprit | None = None
    explanations: list[Explanation] = field(default_factory=list)
    terms: dict[str, CheckVerdict] = field(default_factory=dict)
    relative_error: float | None = None
    h: dict[str, float] = field(default_factory=dict)
    samples: int | None = None
    precision: str | None = None
    imprecise: list[str] = field(default_factory=list)
    irreproducible: str | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def largest_error(self) -> float | None:
        """The largest relative error that says something: of what passes or mismatches, in whole or in part."""
        judged = [(self.verdict, self.relative_error)]
        judged += [(found.correct, found.relative_error) for found in self.parameters.values()]
        errors = [error for verdict, error in judged if error is not None and verdict in ("pass", "mismatch")]
        return max(errors, default=None)


@dataclass(frozen=True, kw_only=True)
class GradientCheck(GradientCheckReport, Event):
    """A gradient check in a training run; ``log_step`` is the x-axis of the loggers.

    ``deterministic``: whether PyTorch was asked for deterministic algorithms.
    """

    type: ClassVar[str] = "gradient_check"

    log_step: int
    deterministic: bool = False
