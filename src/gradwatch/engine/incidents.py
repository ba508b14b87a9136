"""An incident from its evidence and the decision taken."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from gradwatch.diagnosis.evidence import affected, first_seen, origin_of
from gradwatch.diagnosis.explanations import explain, explain_from_afar
from gradwatch.records import Incident

if TYPE_CHECKING:
    from gradwatch.diagnosis.evidence import Evidence
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.policy import Decision
    from gradwatch.engine.recording import Position


def build_incident(
    evidence: Evidence, decision: Decision, position: Position, context: RunContext, ranks: list[int]
) -> Incident:
    """Return the incident that ``incident.json`` holds; without a replay the operation stays unnamed."""
    text = explain_from_afar(ranks) if ranks and context.rank not in ranks else explain(evidence)
    return Incident(
        time=time.time(),
        step=position.step,
        epoch=position.epoch,
        batch_idx=position.batch_idx,
        rank=context.rank,
        world_size=context.world_size,
        first_seen=first_seen(evidence),
        origin=origin_of(evidence, ranks),
        reproduced=False,
        affected=affected(evidence),
        explanation=text.explanation,
        advice=text.advice,
        anomaly_traceback=None,
        action=decision.action,
    )
