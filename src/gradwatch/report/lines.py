"""The lines of one event log as JSON objects, and what had to be left out of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gradwatch.serialization import SchemaError
from gradwatch.serialization.files import LINE_START, is_torn, raw_lines

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEP_START = LINE_START + b'1, "type": "step"'


def read_log(path: Path, take: Callable[[dict[str, Any]], None], *, steps: bool = True) -> list[str]:
    """Hand every event of a log to ``take``; return what a reader should know of lines that were left out.

    Args:
        path: the log.
        take: gets the JSON object of each line in order; a SchemaError that it raises is given file and line.
        steps: whether step records are wanted. Those that are not are passed over without a look at them.

    Raises:
        SchemaError: a line is something else than an event, or longer than any event.
    """
    torn = []
    for number, line in raw_lines(path):
        if not line.strip() or (not steps and line.startswith(STEP_START)):
            continue
        try:
            take(_object(line))
        except RecursionError:
            raise SchemaError(f"{path}:{number}: nested too deeply") from None
        except SchemaError as error:
            raise SchemaError(f"{path}:{number}: {error}") from None
        except ValueError as error:
            if not is_torn(line, number):
                raise SchemaError(f"{path}:{number}: not a line of JSON: {error}") from None
            torn.append(number)
    return [_torn_note(path, torn)] if torn else []


def _object(line: bytes) -> dict[str, Any]:
    data = json.loads(line.decode("utf-8"))
    if not isinstance(data, dict):
        raise SchemaError(f"expected an object, got a JSON {type(data).__name__}")
    return data


def _torn_note(path: Path, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{path.name}:{numbers[0]}: a line that was cut off while it was written is left out"
    return f"{path.name}: {len(numbers)} lines that were cut off while they were written are left out"
