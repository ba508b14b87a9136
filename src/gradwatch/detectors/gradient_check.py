"""What a gradient check finds: a wrong backward, too little precision, a gradient that does not come out twice."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradwatch.records import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradwatch.records import FindingStatus, GradientCheck, ParameterCheck, Severity

SHOWN = 5
NAMED = 3


class GradientCheckFindings:
    """Opens, updates and closes findings from one check to the next."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str | None], int] = {}

    def update(self, check: GradientCheck, *, deterministic: bool) -> list[Finding]:
        """Return the findings that a check opens, updates or closes.

        Args:
            check: the newest.
            deterministic: whether the user has asked PyTorch for deterministic algorithms.
        """
        if check.verdict == "not_checkable":
            return []
        present = {
            (finding.code, finding.layer): finding
            for finding in (
                _mismatch(check),
                _explained(check),
                _precision(check),
                _irreproducible(check, deterministic),
            )
            if finding is not None
        }
        found = []
        for key, finding in present.items():
            status: FindingStatus = "updated" if key in self._since else "opened"
            since = self._since.setdefault(key, check.step)
            if status == "opened" or finding.severity == "error":
                found.append(replace(finding, status=status, since_step=since))
        gone = [key for key in self._since if key not in present]
        return [*found, *(_closed(check, key, self._since.pop(key)) for key in gone)]


def _mismatch(check: GradientCheck) -> Finding | None:
    if check.verdict != "mismatch":
        return None
    wrong = {name: parameter for name, parameter in check.parameters.items() if parameter.correct == "mismatch"}
    culprit = check.culprit
    where = ""
    if culprit is not None:
        what = f"{culprit.function} in {culprit.module or culprit.module_type}" if culprit.function else culprit.module
        line = f" ({culprit.source.file}:{culprit.source.line})" if culprit.source else ""
        where = f" The backward of {what or 'the module itself'}{line} is wrong."
    return _finding(
        check,
        "gradient-mismatch",
        "error",
        layer=culprit.module if culprit else None,
        message=f"Autograd and finite differences disagree for {_listed(wrong) or 'the weights together'}.{where}",
        evidence={"relative_error": {name: found.relative_error for name, found in _worst(wrong)}, "h": check.h},
        advice="Training goes on with a wrong gradient. Compare the backward with the derivative of the forward;"
        " gradwatch.check_gradients(module, loss_fn) reproduces this in a test.",
    )


def _explained(check: GradientCheck) -> Finding | None:
    if check.verdict != "explained":
        return None
    stopped = {name: parameter for name, parameter in check.parameters.items() if parameter.correct == "explained"}
    lines = [f"{e.source.file}:{e.source.line}" for e in check.explanations if e.source is not None]
    what = "; ".join(dict.fromkeys(explanation.message for explanation in check.explanations))
    return _finding(
        check,
        "stopped-gradient",
        "info",
        layer=None,
        message=f"The loss depends on {_listed(stopped) or 'the weights'} in a way that no gradient follows: {what}"
        f" ({', '.join(dict.fromkeys(lines)) or 'no line known'}).",
        evidence={"parameters": len(stopped), "lines": lines},
        advice="If that is meant (a target network, straight-through), all is well;"
        " an accidental detach looks the same.",
    )


def _precision(check: GradientCheck) -> Finding | None:
    if not check.imprecise:
        return None
    name = check.imprecise[0]
    worst = check.parameters[name]
    return _finding(
        check,
        "precision-gap",
        "warning",
        layer=name,
        message=f"The gradient of {name} in {check.precision} is {worst.precision_error:.1%} off the one in float64"
        f" (cosine {worst.cosine or 0.0:.3f}), more than the format accounts for{_others(len(check.imprecise) - 1)}.",
        evidence={"precision_error": {key: check.parameters[key].precision_error for key in check.imprecise[:SHOWN]}},
        advice="Look for a large sum or a difference of nearly equal numbers in the layer; compute it in float32"
        " (torch.autocast(device, enabled=False)), or use bf16 where fp16 loses range.",
    )


def _others(count: int) -> str:
    if not count:
        return ""
    return "; so is that of 1 other tensor" if count == 1 else f"; so are those of {count} other tensors"


def _irreproducible(check: GradientCheck, deterministic: bool) -> Finding | None:  # noqa: FBT001 - told by its caller
    if check.irreproducible is None:
        return None
    differing = [p.difference for p in check.parameters.values() if p.difference]
    severity: Severity = "warning" if deterministic else "info"
    return _finding(
        check,
        "irreproducible-gradient",
        severity,
        layer=None,
        message=f"The same batch and random states gave two gradients, up to {max(differing, default=0.0):.1e} apart:"
        f" {check.irreproducible}.",
        evidence={"tensors": len(differing), "largest_difference": max(differing, default=0.0)},
        advice="Two runs with one seed will differ. torch.use_deterministic_algorithms(True) replaces such"
        " operations or names them.",
    )


def _finding(check: GradientCheck, code: str, severity: Severity, **texts: Any) -> Finding:
    return Finding(**_header(check), code=code, status="opened", since_step=check.step, severity=severity, **texts)


def _closed(check: GradientCheck, key: tuple[str, str | None], since: int) -> Finding:
    code, layer = key
    return Finding(
        **_header(check),
        code=code,
        status="closed",
        since_step=since,
        severity="info",
        layer=layer,
        message=f"{code}: the gradient check of step {check.step} no longer finds it.",
        evidence={},
        advice="",
    )


def _header(check: GradientCheck) -> dict[str, Any]:
    return {name: getattr(check, name) for name in ("time", "step", "epoch", "batch_idx", "rank")}


def _worst(parameters: Mapping[str, ParameterCheck]) -> list[tuple[str, ParameterCheck]]:
    return sorted(parameters.items(), key=lambda item: -(item[1].relative_error or 0.0))[:SHOWN]


def _listed(parameters: Mapping[str, ParameterCheck]) -> str:
    names = [name for name, _ in _worst(parameters)][:NAMED]
    return ", ".join(names) + (f" and {len(parameters) - NAMED} more" if len(parameters) > NAMED else "")
