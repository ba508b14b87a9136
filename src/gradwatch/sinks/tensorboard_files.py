"""Tensors into TensorBoard's event files, through the writer that a logger has already opened.

A second event file in a run's directory would make TensorBoard's Python loader lose what the run itself logs, so there
is none: what cannot be written through the logger's own writer is not written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
from tensorboard.compat.proto.types_pb2 import DT_DOUBLE, DT_FLOAT, DT_STRING

from gradwatch.serialization.tensorboard_rows import PLUGIN_NAME, Series, content

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    Row = np.ndarray | list[str]

_TYPES = {np.float32: DT_FLOAT, np.float64: DT_DOUBLE}


class Channel:
    """A series with its tag and metadata, which take time to put together."""

    __slots__ = ("metadata", "tag")

    def __init__(self, series: Series) -> None:
        self.tag = series.tag
        # Without its data class TensorBoard keeps a tensor and shows it to nobody.
        plugin_data = SummaryMetadata.PluginData(plugin_name=PLUGIN_NAME, content=content(series))
        self.metadata = SummaryMetadata(plugin_data=plugin_data, data_class=DATA_CLASS_TENSOR)


class EventFile:
    """The event file of one logger.

    Args:
        experiment: ``SummaryWriter`` of torch or of tensorboardX.
        name: of the logger, for messages.
    """

    def __init__(self, experiment: Any, name: str) -> None:
        self.experiment, self.name = experiment, name
        self._described: set[str] = set()

    def write(self, rows: Iterable[tuple[Channel, Row]], step: int) -> None:
        """Write rows of one step as one event: numbers in float32 or float64, or ASCII texts."""
        summary = Summary()
        for channel, row in rows:
            value = summary.value.add(tag=channel.tag)
            if channel.tag not in self._described:
                value.metadata.CopyFrom(channel.metadata)
                self._described.add(channel.tag)
            _fill(value.tensor, row)
        # Asked for anew each time: the experiment opens another file after it was closed.
        writer = self.experiment._get_file_writer()  # noqa: SLF001 - Lightning's own loggers use it in the same way
        writer.add_summary(_for_tensorboard_x(summary) if _is_tensorboard_x(writer) else summary, step)

    def flush(self) -> None:
        """See that everything written is in the file."""
        self.experiment.flush()


def find_event_file(logger: Any) -> EventFile | None:
    """Return the event file of a logger, None if it has none: another kind of logger, or a rank above 0."""
    experiment = getattr(logger, "experiment", None)
    file_writer = getattr(experiment, "_get_file_writer", None)
    if not callable(file_writer) or not hasattr(file_writer(), "add_summary"):
        return None
    return EventFile(experiment, type(logger).__name__)


def _fill(tensor: TensorProto, row: Row) -> None:
    """Put a row into a tensor where it is: copies of it would take longer than all the rest."""
    tensor.tensor_shape.dim.add().size = len(row)
    if not isinstance(row, np.ndarray):
        tensor.dtype = DT_STRING
        tensor.string_val.extend([text.encode("ascii") for text in row])
        return
    tensor.dtype = _TYPES[row.dtype.type]
    if row.dtype == np.float32 and len(row) and row[0] == row[-1] and (row == row[0]).all():
        # One number stands for all of them: nothing is non-finite in nearly every row, and each byte costs the writer's
        # thread 80 ns of checksum.
        tensor.float_val.append(float(row[0]))
    else:
        tensor.tensor_content = row.tobytes()


def _is_tensorboard_x(writer: Any) -> bool:
    return type(writer).__module__.partition(".")[0] == "tensorboardX"


def _for_tensorboard_x(summary: Summary) -> Any:
    """Return the same summary as one of tensorboardX, whose protocol buffers are other classes with the same bytes."""
    from tensorboardX.proto.summary_pb2 import Summary as TheirSummary  # noqa: PLC0415 - whoever comes here has it

    return TheirSummary.FromString(summary.SerializeToString())
