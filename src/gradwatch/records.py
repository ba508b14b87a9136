"""What gradwatch writes down: frozen records of plain Python values.

Sinks, detectors, the report and the tests share these classes. None of them holds a tensor, so a record can be
written to disk, pickled, compared and read on a machine without torch. A field named here is a key in
``events.jsonl`` or ``incident.json``; norms are L2 norms, steps are the Trainer's ``global_step`` before the
optimizer step, times are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

SCHEMA_VERSION = 1

Action = Literal["raised", "stopped", "skipped", "warned"]
Cause = Literal["dynamics"]
FirstSeen = Literal["batch", "loss", "gradient", "parameter", "buffer", "optimizer"]
Phase = Literal["input", "parameter", "buffer", "forward", "backward", "optimizer", "not_reproduced"]
Transition = Literal["finite->nan", "finite->inf", "inf->nan"]
Severity = Literal["info", "warning", "error"]
RunStatus = Literal["finished", "stopped", "interrupted", "nonfinite", "exception"]
FindingStatus = Literal["opened", "updated", "closed"]
CheckVerdict = Literal["pass", "mismatch", "explained", "kink", "not_resolvable", "not_checkable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every line of ``events.jsonl`` has: when, and at which step of which rank."""

    type: ClassVar[str]

    time: float
    step: int
    epoch: int
    batch_idx: int | None
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRule:
    """The limit on the total gradient norm, and where it comes from.

    ``max_norm`` is None when gradwatch does not clip; ``source`` is a citation or the argument that set it.
    """

    max_norm: float | None
    family: str | None
    reason: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterRow:
    """One row of the parameter table. ``optimizer`` is an index, or None for a parameter that no optimizer steps."""

    name: str
    layer: str
    shape: tuple[int, ...]
    dtype: str
    device: str
    requires_grad: bool
    optimizer: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(Event):
    """The setting of a run, written once at its start.

    ``model`` is the class of the module; ``script`` the name of the program, without its arguments, which may hold
    secrets. ``git`` has commit, branch and whether tracked files were changed (None: not known), of the repository that
    the run was started in. ``steps_before`` is what had been counted until then: counts go on over a resume, and over
    the fits of one monitor, whatever it watches (None in older logs).
    """

    type: ClassVar[str] = "run_start"

    run_id: str
    resumed_from: str | None
    steps_before: int | None = None
    model: str | None = None
    versions: dict[str, str]
    hardware: dict[str, Any]
    precision: dict[str, Any]
    strategy: str
    world_size: int
    optimizers: list[dict[str, Any]]
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    script: str | None = None
    git: dict[str, Any] | None = None
    seeds: dict[str, Any]
    determinism: dict[str, Any]
    clip: ClipRule
    settings: dict[str, Any]
    parameters: list[ParameterRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd(Event):
    """How a run ended: ``status`` is finished, stopped, interrupted, nonfinite or exception.

    ``dropped_events`` counts the events that could not be written to this log, as on a full disk.
    """

    type: ClassVar[str] = "run_end"

    run_id: str
    status: RunStatus
    reason: str | None
    steps: int
    skipped_steps: int
    incidents: int
    dropped_events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerNorms:
    """One layer at one optimizer step.

    ``grad_norm`` and ``nonfinite`` describe the gradient before clipping; None stands for "no gradient".
    ``update_ratio`` is the norm of the change that the optimizer made, divided by ``weight_norm``. ``grad_norm_max``
    is the largest finite gradient norm at any step since the last record, 0 where there was none.
    """

    grad_norm: float | None
    weight_norm: float | None
    update_ratio: float | None
    nonfinite: int
    grad_norm_max: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipState:
    """What clipping did at one step: gradients were multiplied by ``coefficient`` (1.0 when nothing was done)."""

    max_norm: float | None
    coefficient: float
    clipped: bool
    rate: float
    largest_layer: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Every optimizer step since the last record, this one included, so that no spike falls between two records."""

    steps: int
    grad_norm_max: float | None
    grad_norm_max_step: int | None
    loss_max: float | None
    clipped_steps: int
    skipped_steps: int
    nonfinite_steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """What thinning of a long log has put together: a record that stands for ``records`` log steps, the last of them.

    Ranges are the least and the largest finite value at those log steps, None where there was none. Those of layers,
    and the number of non-finite gradient elements, are lists in the order of the record's ``layers``.
    """

    records: int
    first_step: int
    first_log_step: int
    loss: list[float] | None
    grad_norm: list[float] | None
    layer_nonfinite: list[int]
    layer_grad_norm: list[list[float] | None]
    layer_weight_norm: list[list[float] | None]
    layer_update_ratio: list[list[float] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord(Event):
    """One optimizer step on a log step, over the parameters of that optimizer.

    ``loss`` is the user's own: the mean of the losses backpropagated since this optimizer's last step, neither
    divided by accumulation nor multiplied by the loss scale. ``log_step`` is the x-axis of the loggers;
    ``skipped_steps`` and ``nonfinite_steps`` count from the start of the run, or of those before it: see ``RunStart``.
    """

    type: ClassVar[str] = "step"

    optimizer: int
    log_step: int
    loss: float | None
    grad_norm: float | None
    clip: ClipState
    lr: float | None
    lr_groups: list[float]
    loss_scale: float | None
    skipped_steps: int
    nonfinite_steps: int
    window: Window
    pooled: Pooled | None = None
    layers: dict[str, LayerNorms]


@dataclass(frozen=True, slots=True, kw_only=True)
class LastSteps(Event):
    """The last optimizer steps at full rate, oldest first, as they were when something happened.

    ``reason`` says what: ``"finding <code>"``, ``"incident"``, ``"end"``, or ``"killed"`` where they were found in the
    ring file of a run that could not say how it ended. All lists have one entry a step; ``layers`` has the gradient
    norms before clipping, None where there was no gradient. ``lr`` is that of the first parameter group.
    """

    type: ClassVar[str] = "last_steps"

    optimizer: int
    reason: str
    steps: list[int]
    epochs: list[int]
    batches: list[int | None]
    loss: list[float | None]
    grad_norm: list[float | None]
    coefficient: list[float]
    lr: list[float | None]
    loss_scale: list[float | None]
    skipped: list[bool]
    layers: dict[str, list[float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(Event):
    """Something a rule noticed, with its evidence and what to try."""

    type: ClassVar[str] = "finding"

    code: str
    status: FindingStatus
    since_step: int
    severity: Severity
    layer: str | None
    message: str
    evidence: dict[str, Any]
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLine:
    """The innermost frame of the user's own code."""

    file: str
    line: int
    function: str
    code: str


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSummary:
    """Range and special values of a tensor; ``min`` and ``max`` are over its finite elements."""

    shape: tuple[int, ...]
    dtype: str
    min: float | None
    max: float | None
    nan: int
    posinf: int
    neginf: int
    zeros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a non-finite value was born, as far as it is known.

    ``index`` is that of the first bad element of ``output``, or of the tensor that ``tensor`` names; ``sample`` its
    position along dimension 0 of the batch.
    """

    phase: Phase
    op: str | None = None
    module: str | None = None
    module_type: str | None = None
    tensor: str | None = None
    index: list[int] | None = None
    sample: int | None = None
    source: SourceLine | None = None
    transition: Transition | None = None
    ranks: list[int] = field(default_factory=list)
    cause: Cause | None = None
    inputs: list[TensorSummary] = field(default_factory=list)
    output: TensorSummary | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident(Event):
    """The first sight of a non-finite value, and what was done about it."""

    type: ClassVar[str] = "incident"

    world_size: int
    first_seen: FirstSeen
    origin: Origin
    reproduced: bool
    affected: list[str]
    explanation: str
    advice: str
    anomaly_traceback: str | None
    action: Action
