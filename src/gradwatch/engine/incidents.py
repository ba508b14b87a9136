"""An incident from its evidence and the decision taken."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from gradwatch.diagnosis.catalogue import Circumstances, explain_origin
from gradwatch.diagnosis.dynamics import dynamics_text, is_dynamics
from gradwatch.diagnosis.evidence import affected, first_seen, origin_of
from gradwatch.diagnosis.explanations import explain, explain_from_afar
from gradwatch.diagnosis.trace import Record
from gradwatch.diagnosis.wording import Text
from gradwatch.records import Incident

if TYPE_CHECKING:
    from gradwatch.diagnosis.evidence import Evidence
    from gradwatch.engine.context import RunContext
    from gradwatch.engine.policy import Decision
    from gradwatch.engine.recording import Position
    from gradwatch.records import Origin


def build_incident(
    evidence: Evidence, decision: Decision, position: Position, context: RunContext, ranks: list[int]
) -> Incident:
    """Return the incident that ``incident.json`` holds."""
    origin = origin_of(evidence, ranks)
    if is_dynamics(evidence.growth, origin) or (origin.phase == "optimizer" and evidence.growth is not None):
        origin = replace(origin, cause="dynamics")
    text = explain_from_afar(ranks) if ranks and context.rank not in ranks else _text(evidence, origin)
    return Incident(
        time=time.time(),
        step=position.step,
        epoch=position.epoch,
        batch_idx=position.batch_idx,
        rank=context.rank,
        world_size=context.world_size,
        first_seen=first_seen(evidence),
        origin=origin,
        reproduced=evidence.traced is not None and evidence.traced.root is not None,
        affected=affected(evidence),
        explanation=text.explanation,
        advice=text.advice,
        anomaly_traceback=_anomaly(evidence),
        action=decision.action,
    )


def retold(incident: Incident, evidence: Evidence) -> Incident:
    """Return the incident with the verdict of another replay of its step."""
    origin = replace(origin_of(evidence, incident.origin.ranks), cause=incident.origin.cause)
    text = _text(evidence, origin) if origin.cause is None else Text(incident.explanation, incident.advice)
    return replace(
        incident, origin=origin, explanation=text.explanation, advice=text.advice, anomaly_traceback=_anomaly(evidence)
    )


def _anomaly(evidence: Evidence) -> str | None:
    return evidence.traced.anomaly if evidence.traced else None


def _text(evidence: Evidence, origin: Origin) -> Text:
    traced = evidence.traced
    if traced is None or not isinstance(traced.root, Record):
        if origin.cause == "dynamics":
            return dynamics_text(evidence.growth, origin, Circumstances())
        return explain(evidence)
    root = traced.root
    circumstances = Circumstances(
        losses=evidence.losses,
        bad_gradients=len(evidence.gradients),
        gradients=evidence.gradients_read,
        producers=root.producers,
        scalars=root.numbers,
        index=origin.index,
        sample=origin.sample,
        in_derivative=not traced.loss_is_bad and root.identity.derivative,
    )
    if origin.cause == "dynamics":
        return dynamics_text(evidence.growth, origin, circumstances)
    return explain_origin(origin, circumstances)
