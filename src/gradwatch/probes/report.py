"""From slopes, precision and repetition to the report of a check."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from gradwatch.probes.investigation import SUSPECT
from gradwatch.probes.objectives import LOSS
from gradwatch.records import GradientCheckReport, ParameterCheck

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from gradwatch.probes.investigation import Answer, Outcome
    from gradwatch.probes.precision import Precision
    from gradwatch.probes.reproducibility import Repeated
    from gradwatch.records import CheckVerdict


def not_checkable(reason: str, names: Collection[str]) -> GradientCheckReport:
    """Return the report of a check that cannot be made."""
    parameters = {name: ParameterCheck(correct="not_checkable") for name in names}
    return GradientCheckReport(verdict="not_checkable", reason=reason, parameters=parameters)


def of_correctness(outcome: Outcome) -> dict[str, Any]:
    """Return the fields of a report that say whether gradients are correct."""
    verdict, reason = verdict_of(outcome)
    whole = outcome.whole
    return {
        "verdict": verdict,
        "reason": reason,
        "explanations": outcome.explanations,
        "terms": {name: said for name, said in whole.by_objective.items() if name != LOSS},
        "relative_error": _finite(whole.worst_slope.error) if whole.slopes else None,
        "h": whole.worst_slope.ladder if whole.slopes else {},
    }


def verdict_of(outcome: Outcome) -> tuple[CheckVerdict, str]:
    """Return the verdict on a step, and its reason."""
    verdicts = {name: answer.verdict for name, answer in outcome.tensors.items()}
    wrong = [name for name, verdict in verdicts.items() if verdict == "mismatch"]
    whole = outcome.whole.verdict
    if wrong or whole == "mismatch":
        return "mismatch", f"autograd and finite differences disagree for {_listed(wrong) or 'all weights together'}"
    explained = [name for name, verdict in verdicts.items() if verdict == "explained"]
    if explained or whole == "explained":
        return "explained", f"gradients are stopped or changed on purpose: {_listed(explained) or 'all weights'}"
    return whole, _REASONS[whole]


_REASONS: dict[CheckVerdict, str] = {
    "pass": "autograd and finite differences agree",
    "kink": "the loss has a kink here in every direction that was tried: a derivative is not defined",
    "not_resolvable": "the loss changes too little along the weights to be told from its round-off",
    "not_checkable": "the loss is not finite at weights close by",
}


def of_parameter(name: str, outcome: Outcome, precision: Mapping[str, Precision], repeated: Repeated) -> ParameterCheck:
    """Return what is known of one parameter tensor."""
    answer: Answer | None = outcome.tensors.get(name)
    precise = precision.get(name)
    difference = repeated.differences.get(name)
    known = {
        "precision_error": precise.error if precise else None,
        "cosine": precise.cosine if precise else None,
        "reproducible": None if difference is None else difference == 0,
        "difference": difference,
    }
    if answer is None or not answer.slopes:
        # After a mismatch, a tensor that was not asked has not been told from those that are wrong.
        unasked: CheckVerdict = "not_resolvable" if outcome.whole.verdict in SUSPECT else outcome.whole.verdict
        return ParameterCheck(correct=answer.verdict if answer else unasked, **known)  # type: ignore[arg-type]
    slopes = [slope for slope in answer.slopes if slope.rungs]
    products = sum((s.autograd - s.numeric) ** 2 for s in slopes) ** 0.5
    norms = sum(s.autograd**2 for s in slopes) ** 0.5 + sum(s.numeric**2 for s in slopes) ** 0.5
    return ParameterCheck(
        correct=answer.verdict,
        relative_error=_finite(answer.worst_slope.error),
        norm_error=products / norms if norms else 0.0,
        sign_agrees=all(s.autograd * s.numeric >= 0 or abs(s.numeric) < s.tolerance * s.scale for s in slopes),
        h=answer.worst_slope.ladder,
        **known,  # type: ignore[arg-type]
    )


def _listed(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
