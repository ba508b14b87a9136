from __future__ import annotations

import pytest

from gradwatch.diagnosis.evidence import Evidence
from gradwatch.diagnosis.explanations import explain, explain_from_afar
from gradwatch.engine.context import RunContext
from gradwatch.engine.incidents import build_incident
from gradwatch.engine.policy import Decision
from gradwatch.engine.recording import Position

LOSS = Evidence(losses=["NaN"], gradients=["head.weight"], gradients_read=2)
POSITION = Position(step=3, epoch=1, batch_idx=2, log_step=3)


def context(rank: int = 0, world_size: int = 1) -> RunContext:
    return RunContext(dirpath="runs", rank=rank, world_size=world_size)


def test_an_incident_joins_evidence_decision_and_place() -> None:
    incident = build_incident(LOSS, Decision("skipped", drop=True), POSITION, context(), [0])
    assert (incident.step, incident.epoch, incident.batch_idx) == (3, 1, 2)
    assert (incident.rank, incident.world_size, incident.origin.ranks) == (0, 1, [0])
    assert (incident.first_seen, incident.affected, incident.action) == ("loss", ["head.weight"], "skipped")
    assert (incident.explanation, incident.advice) == explain(LOSS)
    assert (incident.reproduced, incident.anomaly_traceback, incident.origin.op) == (False, None, None)


@pytest.mark.parametrize(
    ("rank", "ranks", "far"), [(0, [1], True), (1, [1], False), (0, [0, 1], False), (0, [], False)]
)
def test_a_rank_explains_what_was_born_on_it(rank: int, ranks: list[int], *, far: bool) -> None:
    incident = build_incident(LOSS, Decision("raised", drop=True), POSITION, context(rank, 2), ranks)
    assert (incident.explanation, incident.advice) == (explain_from_afar(ranks) if far else explain(LOSS))
    assert incident.origin.ranks == ranks
