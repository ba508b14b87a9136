from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gradwatch.records import ClipRule, Origin, SourceLine
from gradwatch.sinks.console import format_end, format_findings, format_incident, format_start, grouped
from tests.sinks.samples import finding, incident, run_end, run_start

SCREEN_LINES, SCREEN_WIDTH = 24, 100


def screen_lines(text: str) -> int:
    return sum(max(1, -(-len(line) // SCREEN_WIDTH)) for line in text.splitlines())


def with_origin(**changes: Any) -> str:
    return format_incident(incident(origin=replace(incident().origin, source=None, **changes)), None)


# -- start ---------------------------------------------------------------------------------------------------------


def test_the_start_names_rule_reason_value_source_and_place() -> None:
    assert format_start(run_start(), "/runs/a/gradwatch") == [
        (
            "gradwatch: gradients are clipped to L2 norm 1 (transformer: 12 MultiheadAttention modules;"
            " source: GPT-3, 2020)."
        ),
        "gradwatch: records go to /runs/a/gradwatch",
    ]


def test_the_start_says_when_nothing_is_clipped() -> None:
    rule = ClipRule(max_norm=None, family=None, reason="clip=None: never clip", source="argument clip")
    assert format_start(run_start(clip=rule)) == [
        "gradwatch: gradients are not clipped (clip=None: never clip; source: argument clip)."
    ]


def test_the_start_names_the_run_that_is_resumed() -> None:
    assert "gradwatch: this run resumes run abc." in format_start(run_start(resumed_from="abc"))


# -- incident ------------------------------------------------------------------------------------------------------


def test_an_incident_in_full() -> None:
    path = Path("/runs/my run/gradwatch/incidents/step=00000012-0")
    assert format_incident(incident(), path) == (
        "Non-finite gradient at step 12 (epoch 1, batch 2, rank 0 of 2): this update was dropped, and training goes"
        " on.\n"
        "  origin       sqrt, in encoder.norm (LayerNorm), the backward pass, finite->inf, rank 0\n"
        "  source       /home/me/model.py:42 in forward\n"
        "               y = x.sqrt()\n"
        "  affected     head.weight, head.bias\n"
        "  explanation  The slope of sqrt at zero is infinite, and 3 of 32 inputs are zero.\n"
        "  advice       Add a small constant under the root.\n"
        "  files        /runs/my run/gradwatch/incidents/step=00000012-0"
    )


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ("raised", "training ends here."),
        ("stopped", "training is being stopped, and updates are dropped until it has."),
        ("skipped", "this update was dropped, and training goes on."),
        ("warned", "training goes on as it is."),
    ],
)
def test_the_first_line_says_what_follows(action: str, words: str) -> None:
    assert format_incident(incident(action=action), None).splitlines()[0].endswith(f": {words}")


def test_outside_a_batch() -> None:
    text = format_incident(incident(batch_idx=None, first_seen="parameter", rank=1), None)
    assert text.startswith("Non-finite parameter at step 12 (epoch 1, outside a batch, rank 1 of 2): ")


def test_without_a_directory_none_is_named() -> None:
    assert "files" not in format_incident(incident(), None)


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        (Origin(phase="input", tensor="batch[0]"), "the batch itself, batch[0]"),
        (Origin(phase="parameter", tensor="head.weight"), "a weight, before the step, head.weight"),
        (Origin(phase="buffer", tensor="bn.running_var"), "a buffer, before the step, bn.running_var"),
        (Origin(phase="forward"), "the forward pass"),
        (Origin(phase="forward", op="log", module=""), "log, in the module itself, the forward pass"),
        (Origin(phase="backward", module="head", module_type="Linear"), "the backward pass, in head (Linear)"),
        (Origin(phase="optimizer", tensor="head.weight"), "the optimizer's step, head.weight"),
        (Origin(phase="not_reproduced"), "not traced to an operation"),
        (
            Origin(phase="forward", cause="dynamics"),
            "the forward pass, the run had been growing for steps, no operation is to blame",
        ),
        (Origin(phase="forward", ranks=[1, 3]), "the forward pass, ranks 1, 3"),
    ],
)
def test_the_origin_in_words(origin: Origin, words: str) -> None:
    lines = format_incident(incident(origin=origin), None).splitlines()
    assert lines[1] == f"  origin       {words}"


def test_ranks_are_not_mentioned_in_a_single_process() -> None:
    text = format_incident(incident(world_size=1, origin=Origin(phase="forward", ranks=[0])), None)
    assert text.splitlines()[1] == "  origin       the forward pass"


def test_affected_layers_beyond_a_few_are_counted() -> None:
    text = format_incident(incident(affected=[f"layer.{i}" for i in range(17)]), None)
    assert "  affected     layer.0, layer.1, layer.2, layer.3, layer.4 and 12 more\n" in text


def test_nothing_affected_is_not_a_line() -> None:
    assert "affected" not in format_incident(incident(affected=[]), None)


def test_the_worst_incident_fits_on_a_screen() -> None:
    long = "word " * 1000
    source = SourceLine(file="/home/me/model.py", line=42, function="forward", code="x = " + "y + " * 500)
    worst = incident(
        step=123_456_789,
        origin=replace(incident().origin, source=source, module="m" * 500, ranks=list(range(512)), cause="dynamics"),
        affected=[f"{'very_long_name.' * 30}{i}" for i in range(2000)],
        explanation=long,
        advice=long,
        anomaly_traceback=long,
    )
    text = format_incident(worst, "/a/directory/of/usual/length/gradwatch/incidents/step=123456789-0")
    assert screen_lines(text) <= SCREEN_LINES
    assert "and 1999 more" in text


def test_text_that_is_cut_says_so() -> None:
    assert " ...\n" in format_incident(incident(explanation="word " * 1000), None)


def test_names_cannot_write_to_the_terminal() -> None:
    evil = "\x1b[2J\u202e\nfake: all is well\ud800"
    origin = replace(incident().origin, module=evil, tensor=evil)
    text = format_incident(incident(affected=[evil], explanation=evil, origin=origin), f"/tmp/{evil}")  # noqa: S108
    assert all(character.isprintable() for line in text.split("\n") for character in line)
    assert "\\x1b[2J\\u202e" in text
    assert not any(line.startswith("fake") for line in text.splitlines())
    rule = replace(run_start().clip, reason=evil)
    assert all(line.isprintable() for line in format_start(run_start(clip=rule), evil))


# -- findings ------------------------------------------------------------------------------------------------------


def test_a_finding_is_its_message_and_advice() -> None:
    assert format_findings([finding()]) == "The gradient of block.0 grows. Lower the learning rate."
    assert format_findings([finding(advice="")]) == "The gradient of block.0 grows."


def test_findings_of_one_code_and_status_stand_together() -> None:
    a, b, c, d = (
        finding(layer="a"),
        finding(layer="b", code="dead-layer"),
        finding(layer="c"),
        finding(layer="d", status="closed"),
    )
    assert grouped([a, b, c, d]) == [[a, c], [b], [d]]
    assert grouped([]) == []


def test_many_layers_are_one_message() -> None:
    text = format_findings([finding(layer=f"block.{i}") for i in range(20)])
    assert text == (
        "The gradient of block.0 grows. The same in block.1, block.2, block.3, block.4, block.5 and 14 more."
        " Lower the learning rate."
    )


def test_two_layers_are_named_both() -> None:
    text = format_findings([finding(), finding(layer="block.1")])
    assert text == "The gradient of block.0 grows. The same in block.1. Lower the learning rate."


def test_findings_cannot_write_to_the_terminal() -> None:
    evil = "\x1b[2J\u202e\nfake: all is well\ud800"
    text = format_findings([finding(message=evil, advice=evil), finding(layer=evil), finding(layer="x" * 5000)])
    assert text.isprintable()
    assert "\\x1b[2J\\u202e" in text
    assert len(text) < 1000


# -- end -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "clip_rate", "line"),
    [
        (
            {},
            0.1234,
            "finished after 1,234 optimizer steps: 3 updates dropped, 12.3% of steps clipped, 1 incident.",
        ),
        (
            {"skipped_steps": 1, "incidents": 0, "steps": 1},
            None,
            "finished after 1 optimizer step: 1 update dropped, 0 incidents.",
        ),
        (
            {"status": "exception", "reason": "ValueError: no"},
            None,
            "ended with an exception (ValueError: no) after 1,234 optimizer steps: 3 updates dropped, 1 incident.",
        ),
    ],
)
def test_the_end_in_one_line(changes: dict[str, Any], clip_rate: float | None, line: str) -> None:
    assert format_end(run_end(**changes), clip_rate=clip_rate) == f"gradwatch: training {line}"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("finished", "training finished after"),
        ("stopped", "training was stopped after"),
        ("interrupted", "training was interrupted after"),
        ("nonfinite", "training ended at a non-finite value after"),
        ("exception", "training ended with an exception after"),
    ],
)
def test_every_way_to_end_has_its_words(status: str, words: str) -> None:
    assert words in format_end(run_end(status=status))
