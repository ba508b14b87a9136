"""A gradient check as text that fits on a screen."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradwatch.records import GradientCheckReport, ParameterCheck

WIDTH = 100
ROWS = 12
_SAYS = {
    "pass": "the gradients are correct",
    "mismatch": "a gradient is WRONG",
    "explained": "gradients differ where they are stopped or changed on purpose",
    "kink": "no derivative is defined here",
    "not_resolvable": "too small to be resolved",
    "not_checkable": "not checkable",
}
_ORDER = ("mismatch", "kink", "explained", "not_checkable", "not_resolvable", "pass")


def format_check(report: GradientCheckReport) -> str:
    """Return verdict, culprit, explanations, and the tensors with the worst of them first."""
    lines = [f"Gradient check: {_SAYS[report.verdict]}. {_sentence(report.reason)}"]
    lines = [part for line in lines for part in textwrap.wrap(line, WIDTH)]
    if report.culprit is not None:
        culprit = report.culprit
        what = f"{culprit.function} in " if culprit.function else ""
        lines.append(f"  culprit       {what}{culprit.module or 'the module itself'} ({culprit.module_type or '-'})")
        if culprit.source is not None:
            lines.append(f"                {culprit.source.file}:{culprit.source.line}  {culprit.source.code}")
        if culprit.surrogate:
            lines.append(
                "                constant where it has a gradient: a straight-through derivative is no mistake"
            )
    for explanation in report.explanations:
        source = explanation.source
        where = f"{source.file}:{source.line}  {source.code}" if source else "a line that is not known"
        lines += [f"  explained by  {explanation.message}:", f"                {where}"]
    lines += [f"  term          {name}: {verdict}" for name, verdict in report.terms.items()]
    if report.irreproducible:
        lines.append(f"  twice         {report.irreproducible}")
    lines += [f"  note          {note}" for note in report.notes]
    return "\n".join([*lines, *_table(report.parameters)])


def _table(parameters: dict[str, ParameterCheck]) -> list[str]:
    rows = sorted(parameters.items(), key=lambda item: (_ORDER.index(item[1].correct), -(item[1].relative_error or 0)))
    width = max([len("parameter"), *(len(name) for name, _ in rows[:ROWS])])
    lines = [_row(width, ("parameter", "correct", "|a-n|/max", "norms", "sign", "precision", "cosine", "twice"))]
    lines += [_row(width, _cells(name, check)) for name, check in rows[:ROWS]]
    if len(rows) > ROWS:
        lines.append(f"  ... and {len(rows) - ROWS} more")
    return lines


def _cells(name: str, check: ParameterCheck) -> tuple[str, ...]:
    return (
        name,
        check.correct,
        _number(check.relative_error),
        _number(check.norm_error),
        _flag(check.sign_agrees, "ok", "NO"),
        _number(check.precision_error),
        "-" if check.cosine is None else f"{check.cosine:.5f}",
        _flag(check.reproducible, "same", "differs"),
    )


def _row(width: int, cells: tuple[str, ...]) -> str:
    name, correct, error, norms, sign, precision, cosine, twice = cells
    return f"  {name:<{width}}  {correct:<14}  {error:>9}  {norms:>8}  {sign:<4}  {precision:>9}  {cosine:>8}  {twice}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _flag(value: bool | None, yes: str, no: str) -> str:  # noqa: FBT001 - three states of one answer
    return "-" if value is None else yes if value else no


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""
