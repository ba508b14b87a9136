from __future__ import annotations

from gradwatch.sinks.memory import MemorySink
from gradwatch.sinks.protocol import Sink
from tests.sinks.samples import finding, incident, run_end, run_start, step_record


def test_events_are_kept_in_order_and_by_kind() -> None:
    sink = MemorySink()
    events = [run_start(), step_record(step=1), finding(), step_record(step=2), incident(), run_end()]
    for event in events:
        sink.write(event)
    assert sink.events == events
    assert [record.step for record in sink.steps] == [1, 2]
    assert sink.findings == [finding()]
    assert sink.incidents == [incident()]


def test_it_is_a_sink_that_knows_when_it_was_closed() -> None:
    sink = MemorySink()
    assert isinstance(sink, Sink)
    assert not sink.closed
    sink.close()
    assert sink.closed
