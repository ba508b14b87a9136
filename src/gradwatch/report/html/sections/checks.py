"""Gradient checks: a line for each, with what the parameters say beneath."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradwatch.report.html.formats import UNKNOWN, count, duration, number
from gradwatch.report.html.markup import Child, Markup, element, join, short
from gradwatch.report.html.page import Section, folded, table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.records import GradientCheck, ParameterCheck
    from gradwatch.report.html.sections.view import View

MOST_CHECKS = 200
MOST_PARAMETERS = 300
MOST_TEXT = 2000
_ORDER = ("mismatch", "explained", "kink", "not_resolvable", "not_checkable", "pass")


def checks_section(view: View) -> Section | None:
    """Return the section of the gradient checks, or None for a run without one."""
    checks = view.run.checks
    if not checks:
        return None
    shown = _chosen(checks)
    heads = ["step", "verdict", "relative error", "parameters", "samples", "precision", "took", "reason"]
    body: list[Child] = [table(heads, (_row(check) for check in shown), numeric=(0, 2, 3, 4, 6))]
    if len(shown) < len(checks):
        body.append(element("p", f"{count(len(checks) - len(shown), 'more check')} passed.", class_="note"))
    worst = next((check for check in checks if check.verdict == "mismatch"), checks[-1])
    body.append(_details(worst))
    lead = "Directional derivatives by backward passes, against finite differences in float64."
    return Section(name="checks", title="Gradient checks", body=join(body), lead=lead)


def _chosen(checks: Sequence[GradientCheck]) -> list[GradientCheck]:
    """Return all checks, or, where there are too many, those that did not pass and the newest."""
    if len(checks) <= MOST_CHECKS:
        return list(checks)
    telling = [check for check in checks if check.verdict != "pass"][:MOST_CHECKS]
    passed = [check for check in checks if check.verdict == "pass"]
    room = MOST_CHECKS - len(telling)
    return sorted([*telling, *(passed[-room:] if room else [])], key=lambda check: check.step)


def _row(check: GradientCheck) -> list[Child]:
    counts: dict[str, int] = {}
    for one in check.parameters.values():
        counts[one.correct] = counts.get(one.correct, 0) + 1
    of_parameters = ", ".join(f"{counts[verdict]} {_words(verdict)}" for verdict in _ORDER if verdict in counts)
    return [
        count(check.step),
        _verdict(check.verdict),
        number(check.largest_error),
        of_parameters or UNKNOWN,
        UNKNOWN if check.samples is None else count(check.samples),
        check.precision or UNKNOWN,
        duration(check.seconds),
        short(check.reason, 400),
    ]


def _details(check: GradientCheck) -> Markup:
    told: list[Child] = [element("p", explanation.message[:MOST_TEXT]) for explanation in check.explanations]
    if check.culprit is not None:
        culprit = check.culprit
        kind = culprit.function or culprit.module_type
        told.append(element("p", f"The backward of {kind} in {culprit.module or 'the model itself'} is to blame."))
        if culprit.source is not None:
            place = short(f"{culprit.source.file}:{culprit.source.line}", 400)
            told.append(element("pre", element("span", place, class_="at"), "\n", culprit.source.code[:MOST_TEXT]))
    told += [element("p", note[:MOST_TEXT], class_="note") for note in check.notes]
    heads = [
        "parameter",
        "verdict",
        "relative error",
        "norm error",
        "sign",
        "precision error",
        "cosine",
        "twice the same",
    ]
    rows = sorted(check.parameters.items(), key=lambda item: (_rank(item[1].correct), -(item[1].relative_error or 0.0)))
    told.append(table(heads, (_parameter(name, one) for name, one in rows[:MOST_PARAMETERS]), numeric=(2, 3, 5, 6)))
    if len(rows) > MOST_PARAMETERS:
        told.append(element("p", f"and {count(len(rows) - MOST_PARAMETERS, 'more')}", class_="note"))
    summary = f"Parameters of the check at step {count(check.step)}"
    return folded(summary, *told, class_="fold", opened=check.verdict == "mismatch")


def _parameter(name: str, one: ParameterCheck) -> list[Child]:
    return [
        short(name, 200),
        _verdict(one.correct),
        number(one.relative_error),
        number(one.norm_error),
        _yes(one.sign_agrees),
        number(one.precision_error),
        number(one.cosine),
        _yes(one.reproducible),
    ]


def _verdict(verdict: str) -> Markup:
    kind = {"pass": "healthy", "mismatch": "error"}.get(verdict, "soft")
    return element("span", _words(verdict), class_=kind)


def _words(verdict: str) -> str:
    return verdict.replace("_", " ")


def _rank(verdict: str) -> int:
    return _ORDER.index(verdict) if verdict in _ORDER else 0


def _yes(value: bool | None) -> str:  # noqa: FBT001 - the answer itself
    return UNKNOWN if value is None else "yes" if value else "no"
