"""What a side copy shows: a wrong backward, too little precision, a gradient that does not repeat, mixed samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from gradwatch.detectors.catalogue import probes as rules
from gradwatch.detectors.detector import Limits, Reading, Sign, detector, whole_run
from gradwatch.observations import BatchMixing
from gradwatch.records import GradientCheck

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gradwatch.records import Culprit, ParameterCheck, SourceLine

SHOWN = 5
NAMED = 3
ROOT = "(root)"
# Of the other verdicts, some say that nothing can be told at this point.
TELLING = frozenset({"pass", "mismatch", "explained"})


def _mismatch(check: GradientCheck, _limits: Limits) -> Reading:
    strength = float(check.verdict == "mismatch") if check.verdict in TELLING else math.nan
    return whole_run(strength, lambda: _of_mismatch(check))


def _of_mismatch(check: GradientCheck) -> Sign:
    wrong = {name: parameter for name, parameter in check.parameters.items() if parameter.correct == "mismatch"}
    culprit = check.culprit
    meant = culprit is not None and culprit.surrogate
    template = rules.STRAIGHT_THROUGH if meant else " The backward of {what} is wrong."
    where = "" if culprit is None else template.format(what=_described(culprit))
    return Sign(
        {"relative_error": {name: found.relative_error for name, found in _worst(wrong)}, "h": check.h},
        layer=None if culprit is None else culprit.module or ROOT,
        severity="info" if meant else None,
        message=rules.MISMATCH.message.format(names=_listed(wrong) or "the weights together", where=where),
        advice=rules.STRAIGHT_THROUGH_ADVICE if meant else None,
    )


def _described(culprit: Culprit) -> str:
    what = f"{culprit.function} in {culprit.module or culprit.module_type}" if culprit.function else culprit.module
    return f"{what or 'the module itself'}{_place(culprit.source)}"


def _stopped(check: GradientCheck, _limits: Limits) -> Reading:
    # Beside a wrong gradient, nobody knows what else is stopped.
    known = check.verdict in TELLING and check.verdict != "mismatch"
    return whole_run(float(check.verdict == "explained") if known else math.nan, lambda: _of_stops(check))


def _of_stops(check: GradientCheck) -> Sign:
    stopped = {name: parameter for name, parameter in check.parameters.items() if parameter.correct == "explained"}
    lines = [f"{e.source.file}:{e.source.line}" for e in check.explanations if e.source is not None]
    message = rules.STOPPED.message.format(
        names=_listed(stopped) or "the weights",
        what="; ".join(dict.fromkeys(explanation.message for explanation in check.explanations)),
        lines=", ".join(dict.fromkeys(lines)) or "no line known",
    )
    return Sign({"parameters": len(stopped), "lines": lines}, message=message)


def _precision(check: GradientCheck, _limits: Limits) -> Reading:
    compared = any(parameter.precision_error is not None for parameter in check.parameters.values())
    known = check.verdict != "not_checkable" and compared
    return whole_run(float(bool(check.imprecise)) if known else math.nan, lambda: _of_precision(check))


def _of_precision(check: GradientCheck) -> Sign:
    name = check.imprecise[0]
    worst, count = check.parameters[name], len(check.imprecise) - 1
    others = "; so is that of 1 other tensor" if count == 1 else f"; so are those of {count} other tensors"
    message = rules.PRECISION.message.format(
        name=name,
        precision=check.precision,
        error=worst.precision_error or 0.0,
        cosine=worst.cosine or 0.0,
        others=others if count else "",
    )
    errors = {key: check.parameters[key].precision_error for key in check.imprecise[:SHOWN]}
    return Sign({"precision_error": errors}, layer=name, message=message)


def _irreproducible(check: GradientCheck, _limits: Limits) -> Reading:
    strength = math.nan if check.verdict == "not_checkable" else float(check.irreproducible is not None)
    return whole_run(strength, lambda: _of_repetition(check))


def _of_repetition(check: GradientCheck) -> Sign:
    differing = [parameter.difference for parameter in check.parameters.values() if parameter.difference]
    largest = max(differing, default=0.0)
    return Sign(
        {"tensors": len(differing), "largest_difference": largest},
        severity="warning" if check.deterministic else "info",
        message=rules.IRREPRODUCIBLE.message.format(largest_difference=largest, why=check.irreproducible),
    )


def _mixing(seen: BatchMixing, _limits: Limits) -> Reading:
    strength = math.nan if seen.reason is not None else float(seen.module is not None)
    return whole_run(strength, lambda: _of_mixing(seen))


def _of_mixing(seen: BatchMixing) -> Sign:
    what = f"{seen.module} ({seen.module_type})" if seen.module else f"the module itself ({seen.module_type})"
    source = seen.source
    return Sign(
        {
            "change": seen.change,
            "rows": seen.rows,
            "samples": seen.samples,
            "line": None if source is None else f"{source.file}:{source.line}",
            "code": None if source is None else source.code,
        },
        layer=seen.module or ROOT,
        message=rules.MIXING.message.format(what=what, line=_place(source), change=seen.change),
    )


def _place(source: SourceLine | None) -> str:
    return f" ({source.file}:{source.line})" if source else ""


def _worst(parameters: Mapping[str, ParameterCheck]) -> list[tuple[str, ParameterCheck]]:
    return sorted(parameters.items(), key=lambda item: -(item[1].relative_error or 0.0))[:SHOWN]


def _listed(parameters: Mapping[str, ParameterCheck]) -> str:
    names = [name for name, _ in _worst(parameters)][:NAMED]
    return ", ".join(names) + (f" and {len(parameters) - NAMED} more" if len(parameters) > NAMED else "")


DETECTORS = (
    detector(rules.MISMATCH, _mismatch, reads=GradientCheck),
    detector(rules.STOPPED, _stopped, reads=GradientCheck),
    detector(rules.PRECISION, _precision, reads=GradientCheck),
    detector(rules.IRREPRODUCIBLE, _irreproducible, reads=GradientCheck),
    detector(rules.MIXING, _mixing, reads=BatchMixing),
)
