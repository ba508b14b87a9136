from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.probes.table import WIDTH, format_check
from gradwatch.records import Culprit, Explanation, GradientCheckReport, ParameterCheck, SourceLine

if TYPE_CHECKING:
    from gradwatch.records import CheckVerdict

LINE = SourceLine(file="model.py", line=12, function="forward", code="return Scale.apply(x)")


def report(verdict: CheckVerdict = "pass", **changes: Any) -> GradientCheckReport:
    parameters = {"body.weight": ParameterCheck(correct=verdict)}
    return GradientCheckReport(**{"verdict": verdict, "reason": "because", "parameters": parameters, **changes})


def test_a_wrong_gradient_as_a_table() -> None:
    parameters = {
        "head.bias": ParameterCheck(correct="pass"),
        "body.weight": ParameterCheck(
            correct="mismatch",
            relative_error=0.5,
            norm_error=0.25,
            sign_agrees=False,
            precision_error=1.5e-7,
            cosine=0.999999,
            reproducible=True,
        ),
        "body.bias": ParameterCheck(correct="mismatch", relative_error=1.0, sign_agrees=True, reproducible=False),
    }
    text = format_check(
        report(
            "mismatch",
            reason="autograd and finite differences disagree for body.weight, body.bias",
            parameters=parameters,
            culprit=Culprit(module="body.act", module_type="Act", function="Scale", source=LINE),
            terms={"kl": "pass"},
            irreproducible="two draws differ",
            notes=["TF32"],
        )
    )
    assert text == (
        "Gradient check: a gradient is WRONG. Autograd and finite differences disagree for body.weight,\n"
        "body.bias.\n"
        "  culprit       Scale in body.act (Act)\n"
        "                model.py:12  return Scale.apply(x)\n"
        "  term          kl: pass\n"
        "  twice         two draws differ\n"
        "  note          TF32\n"
        "  parameter    correct         |a-n|/max     norms  sign  precision    cosine  twice\n"
        "  body.bias    mismatch          1.0e+00         -  ok            -         -  differs\n"
        "  body.weight  mismatch          5.0e-01   2.5e-01  NO      1.5e-07   1.00000  same\n"
        "  head.bias    pass                    -         -  -             -         -  -"
    )


def test_a_stop_is_named_with_its_line() -> None:
    stop = Explanation(kind="detach", source=LINE, message="detach() ends the gradient here")
    text = format_check(
        report("explained", explanations=[stop, Explanation(kind="hook", source=None, message="a hook")])
    )
    assert (
        "  explained by  detach() ends the gradient here:\n"
        "                model.py:12  return Scale.apply(x)\n"
        "  explained by  a hook:\n"
        "                a line that is not known\n"
    ) in text


@pytest.mark.parametrize(
    ("culprit", "words"),
    [
        (Culprit(module="", module_type="", function=None, source=None), "  culprit       the module itself (-)"),
        (Culprit(module="a", module_type="Act", function=None, source=None), "  culprit       a (Act)"),
    ],
)
def test_a_culprit_of_which_little_is_known(culprit: Culprit, words: str) -> None:
    assert words in format_check(report("mismatch", culprit=culprit)).splitlines()


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("pass", "the gradients are correct"),
        ("explained", "gradients differ where they are stopped or changed on purpose"),
        ("kink", "no derivative is defined here"),
        ("not_resolvable", "too small to be resolved"),
        ("not_checkable", "not checkable"),
    ],
)
def test_each_verdict_in_words(verdict: CheckVerdict, words: str) -> None:
    assert format_check(report(verdict)).splitlines()[0] == f"Gradient check: {words}. Because."


def test_many_parameters_fit_on_a_screen_and_the_worst_are_shown() -> None:
    parameters = {f"layers.{i}.weight": ParameterCheck(correct="pass", relative_error=1e-9 * i) for i in range(100)}
    parameters["guilty"] = ParameterCheck(correct="mismatch", relative_error=1e-3)
    lines = format_check(report("mismatch", parameters=parameters)).splitlines()
    assert len(lines) <= 16
    assert lines[2].split()[0] == "guilty"
    assert lines[3].split()[0] == "layers.99.weight"
    assert lines[-1] == "  ... and 89 more"
    assert max(map(len, lines)) <= WIDTH + 20


def test_nothing_to_show_is_a_heading() -> None:
    assert len(format_check(report("not_checkable", parameters={}, reason="")).splitlines()) == 2
