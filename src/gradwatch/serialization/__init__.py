"""Records as JSON and back, and the files of a run; standard library only, for machines without torch."""

from gradwatch.serialization.codec import SchemaError, UnknownEvent, from_dict, to_dict, to_json_line
from gradwatch.serialization.files import iter_events, load_events, load_incident, log_name, ring_of
from gradwatch.serialization.last_steps import load_last_steps, load_ring, ring_beside

__all__ = [
    "SchemaError",
    "UnknownEvent",
    "from_dict",
    "iter_events",
    "load_events",
    "load_incident",
    "load_last_steps",
    "load_ring",
    "log_name",
    "ring_beside",
    "ring_of",
    "to_dict",
    "to_json_line",
]
