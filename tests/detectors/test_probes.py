"""Findings of gradient checks and of mixed samples: when they open and close, and what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gradwatch.detectors.catalogue import probes as rules
from gradwatch.detectors.panel import Panel
from gradwatch.detectors.probes import DETECTORS
from gradwatch.observations import BatchMixing
from gradwatch.records import Culprit, Explanation, GradientCheck, ParameterCheck, SourceLine
from gradwatch.serialization import from_dict, to_json_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gradwatch.records import CheckVerdict, Finding

LINE = SourceLine(file="model.py", line=12, function="forward", code="return Scale.apply(x)")
CULPRIT = Culprit(module="block.act", module_type="Act", function="Scale", source=LINE)
STOP = Explanation(kind="detach", source=LINE, message="detach() ends the gradient here")


def check(step: int = 4, **changes: Any) -> GradientCheck:
    """A check that passes, but for the changes."""
    healthy = GradientCheck(
        time=1.5,
        step=step,
        epoch=1,
        batch_idx=2,
        rank=0,
        log_step=step,
        verdict="pass",
        reason="autograd and finite differences agree",
        parameters={"a": ParameterCheck(correct="pass", relative_error=1e-8, precision_error=1e-7)},
        precision="float32",
    )
    return replace(healthy, **changes)


def wrong(step: int = 4, count: int = 1, **changes: Any) -> GradientCheck:
    parameters = {f"w{i}": ParameterCheck(correct="mismatch", relative_error=0.5 - 0.1 * i) for i in range(count)}
    good = {"a": ParameterCheck(correct="pass", relative_error=1e-8)}
    return check(
        step,
        verdict="mismatch",
        parameters={**good, **parameters},
        culprit=CULPRIT,
        h={"1e-06": 0.5},
        **changes,
    )


def one(found: Sequence[Finding]) -> Finding:
    (finding,) = found
    return finding


def update(*records: GradientCheck | BatchMixing) -> list[Finding]:
    """Return what the last of several records finds."""
    panel = Panel(DETECTORS)
    return [panel.observe(each) for each in records][-1]


EXPLAINED = check(verdict="explained", parameters={"a": ParameterCheck(correct="explained")}, explanations=[STOP, STOP])
IMPRECISE = check(
    imprecise=["a"],
    precision="bfloat16",
    parameters={"a": ParameterCheck(correct="pass", precision_error=0.5, cosine=0.9)},
)
IRREPRODUCIBLE = check(
    irreproducible="index_put is not deterministic: the same input gave another output",
    parameters={"a": ParameterCheck(correct="pass", difference=1e-7), "b": ParameterCheck(correct="pass")},
)


def test_a_check_that_passes_finds_nothing() -> None:
    assert update(check()) == []


def test_a_wrong_gradient_is_an_error_with_module_line_and_numbers() -> None:
    finding = one(update(wrong()))
    assert (finding.code, finding.status, finding.severity, finding.layer) == (
        "gradient-mismatch",
        "opened",
        "error",
        "block.act",
    )
    assert (finding.time, finding.step, finding.since_step, finding.epoch, finding.batch_idx) == (1.5, 4, 4, 1, 2)
    assert finding.message == (
        "Autograd and finite differences disagree for w0. The backward of Scale in block.act (model.py:12) is wrong."
    )
    assert finding.evidence == {"relative_error": {"w0": 0.5}, "h": {"1e-06": 0.5}}
    assert finding.advice == (
        "Training goes on with a wrong gradient. Compare the backward with the derivative of the forward;"
        " gradwatch.check_gradients(module, loss_fn) reproduces this in a test."
    )


@pytest.mark.parametrize(
    ("culprit", "words", "layer"),
    [
        (None, "", None),
        (replace(CULPRIT, function=None), " The backward of block.act (model.py:12) is wrong.", "block.act"),
        (replace(CULPRIT, source=None), " The backward of Scale in block.act is wrong.", "block.act"),
        (replace(CULPRIT, module=""), " The backward of Scale in Act (model.py:12) is wrong.", "(root)"),
        (
            replace(CULPRIT, module="", function=None, source=None),
            " The backward of the module itself is wrong.",
            "(root)",
        ),
    ],
)
def test_the_message_says_as_much_of_the_culprit_as_is_known(
    culprit: Culprit | None, words: str, layer: str | None
) -> None:
    finding = one(update(replace(wrong(), culprit=culprit)))
    assert finding.message == f"Autograd and finite differences disagree for w0.{words}"
    assert finding.layer == layer


def test_of_many_wrong_tensors_the_worst_are_named() -> None:
    finding = one(update(wrong(count=7)))
    assert finding.message.startswith("Autograd and finite differences disagree for w0, w1, w2 and 4 more.")
    assert list(finding.evidence["relative_error"]) == ["w0", "w1", "w2", "w3", "w4"]


def test_a_straight_through_function_is_a_remark() -> None:
    finding = one(update(replace(wrong(), culprit=replace(CULPRIT, surrogate=True))))
    assert finding.severity == "info"
    assert finding.layer == "block.act"
    assert finding.message.endswith(
        " Scale in block.act (model.py:12) is constant where it has a gradient: straight through, and most likely"
        " meant."
    )
    assert finding.advice == rules.STRAIGHT_THROUGH_ADVICE


def test_a_wrong_backward_beside_a_straight_through_function_is_an_error() -> None:
    finding = one(update(replace(wrong(), culprit=replace(CULPRIT, surrogate=True)), wrong(8)))
    assert (finding.status, finding.severity) == ("updated", "error")
    assert finding.message.endswith(" The backward of Scale in block.act (model.py:12) is wrong.")


def test_a_mismatch_of_the_whole_alone_names_no_tensor() -> None:
    finding = one(update(check(verdict="mismatch")))
    assert finding.message == "Autograd and finite differences disagree for the weights together."


def test_a_stopped_gradient_is_information_with_its_lines() -> None:
    finding = one(update(EXPLAINED))
    assert (finding.code, finding.severity, finding.layer) == ("stopped-gradient", "info", None)
    assert finding.message == (
        "The loss depends on a in a way that no gradient follows: detach() ends the gradient here (model.py:12)."
    )
    assert "an accidental detach looks the same" in finding.advice


def test_a_stop_without_a_line_says_so() -> None:
    finding = one(update(replace(EXPLAINED, explanations=[replace(STOP, source=None)])))
    assert finding.message.endswith("detach() ends the gradient here (no line known).")


def test_an_imprecise_gradient_is_a_warning_with_its_numbers() -> None:
    finding = one(update(IMPRECISE))
    assert (finding.code, finding.severity, finding.layer) == ("precision-gap", "warning", "a")
    assert finding.message == (
        "The gradient of a in bfloat16 is 50.0% off the one in float64 (cosine 0.900),"
        " more than the format accounts for."
    )
    assert finding.evidence == {"precision_error": {"a": 0.5}}


@pytest.mark.parametrize(
    ("others", "words"),
    [(1, "; so is that of 1 other tensor."), (6, "; so are those of 6 other tensors.")],
)
def test_of_several_imprecise_gradients_the_worst_is_named(others: int, words: str) -> None:
    names = ["a", *(f"b{i}" for i in range(others))]
    poor = ParameterCheck(correct="pass", precision_error=0.5, cosine=0.9)
    finding = one(update(replace(IMPRECISE, imprecise=names, parameters=dict.fromkeys(names, poor))))
    assert finding.message.endswith(f"more than the format accounts for{words}")
    assert list(finding.evidence["precision_error"]) == names[:5]


@pytest.mark.parametrize(("deterministic", "severity"), [(False, "info"), (True, "warning")])
def test_a_gradient_that_does_not_repeat_matters_to_who_asked_for_it(deterministic: bool, severity: str) -> None:  # noqa: FBT001 - one row of a table
    finding = one(update(replace(IRREPRODUCIBLE, deterministic=deterministic)))
    assert (finding.code, finding.severity) == ("irreproducible-gradient", severity)
    assert finding.message == (
        "The same batch and random states gave two gradients, up to 1.0e-07 apart:"
        " index_put is not deterministic: the same input gave another output."
    )
    assert finding.evidence == {"tensors": 1, "largest_difference": 1e-7}


@pytest.mark.parametrize("event", [wrong(), EXPLAINED, IMPRECISE, IRREPRODUCIBLE])
def test_what_lasts_is_said_once(event: GradientCheck) -> None:
    assert update(event, replace(event, step=9)) == []


@pytest.mark.parametrize("event", [wrong(), EXPLAINED, IMPRECISE, IRREPRODUCIBLE])
def test_what_is_gone_is_closed_once(event: GradientCheck) -> None:
    code = one(update(event)).code
    closed = one(update(event, check(9)))
    assert (closed.code, closed.status, closed.severity) == (code, "closed", "info")
    assert (closed.step, closed.since_step) == (9, 4)
    assert closed.message.startswith(code)
    assert closed.message.endswith(": no longer seen.")
    assert update(event, check(9), check(10)) == []


def test_what_comes_back_is_opened_again() -> None:
    finding = one(update(wrong(4), check(6), wrong(8)))
    assert (finding.status, finding.since_step) == ("opened", 8)


@pytest.mark.parametrize("event", [wrong(), EXPLAINED, IMPRECISE, IRREPRODUCIBLE])
def test_a_check_that_could_not_be_made_neither_opens_nor_closes(event: GradientCheck) -> None:
    blind = check(8, verdict="not_checkable", reason="memory", parameters={})
    assert update(blind) == []
    assert update(event, blind) == []
    assert one(update(event, blind, check(9))).status == "closed"
    assert update(replace(event, verdict="not_checkable")) == []


@pytest.mark.parametrize("event", [wrong(), EXPLAINED])
@pytest.mark.parametrize("verdict", ["kink", "not_resolvable"])
def test_a_point_that_tells_nothing_neither_opens_nor_closes(event: GradientCheck, verdict: CheckVerdict) -> None:
    assert update(check(verdict=verdict)) == []
    assert update(event, check(8, verdict=verdict)) == []


def test_a_precision_that_was_not_compared_closes_nothing() -> None:
    assert update(IMPRECISE, check(8, parameters={"a": ParameterCheck(correct="pass")})) == []


def test_several_findings_of_one_check_are_kept_apart() -> None:
    both = replace(wrong(), irreproducible="why")
    assert {finding.code for finding in update(both)} == {"gradient-mismatch", "irreproducible-gradient"}
    gone = one(update(both, wrong(8)))
    assert (gone.code, gone.status) == ("irreproducible-gradient", "closed")


def test_beside_a_wrong_gradient_nobody_knows_what_is_stopped() -> None:
    assert {finding.code for finding in update(EXPLAINED, wrong(8))} == {"gradient-mismatch"}


# -- samples that are mixed --------------------------------------------------------------------------------------------

MIXED = BatchMixing(
    time=1.5,
    step=4,
    epoch=1,
    batch_idx=2,
    rank=0,
    module="net.body",
    module_type="Body",
    source=LINE,
    change=0.25,
    rows=7,
    samples=8,
)


def test_mixed_samples_are_a_warning_with_module_and_line() -> None:
    finding = one(update(MIXED))
    assert (finding.code, finding.status, finding.severity, finding.layer) == (
        "batch-mixing",
        "opened",
        "warning",
        "net.body",
    )
    assert (finding.step, finding.since_step, finding.epoch, finding.batch_idx) == (4, 4, 1, 2)
    assert finding.message == (
        "Samples of a batch influence one another in net.body (Body) (model.py:12): with another sample in place of"
        " one, its output changes for others too, by up to 25% of the largest change."
    )
    assert finding.evidence == {
        "change": 0.25,
        "rows": 7,
        "samples": 8,
        "line": "model.py:12",
        "code": "return Scale.apply(x)",
    }


def test_the_watched_module_itself_is_the_root() -> None:
    finding = one(update(replace(MIXED, module="", source=None)))
    assert finding.layer == "(root)"
    assert finding.message.startswith("Samples of a batch influence one another in the module itself (Body): with")
    assert (finding.evidence["line"], finding.evidence["code"]) == (None, None)


def test_what_is_unmixed_or_cannot_be_told_is_no_finding() -> None:
    unmixed = replace(MIXED, module=None)
    assert update(unmixed) == []
    assert update(replace(unmixed, reason="one sample")) == []
    assert update(MIXED, replace(unmixed, reason="one sample")) == []


def test_records_are_read_by_the_rules_on_them_alone() -> None:
    assert {finding.code for finding in update(MIXED, wrong(8))} == {"gradient-mismatch"}


# -- the catalogue and the event log -----------------------------------------------------------------------------------


def test_every_rule_has_its_detector() -> None:
    assert tuple(each.rule for each in DETECTORS) == rules.RULES


@pytest.mark.parametrize("event", [check(), wrong(count=3), EXPLAINED, IMPRECISE, IRREPRODUCIBLE])
def test_a_check_comes_back_from_the_event_log_as_it_was(event: GradientCheck) -> None:
    assert from_dict(json.loads(to_json_line(event))) == event
