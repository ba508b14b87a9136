from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboardX import SummaryWriter

from gradwatch.sinks import custom_scalars
from gradwatch.sinks.custom_scalars import CATEGORY, add_charts, layout
from gradwatch.sinks.tags import HEALTH_TAGS
from gradwatch.sinks.tensorboard import TensorBoardSink
from tests.sinks.samples import run_start

if TYPE_CHECKING:
    from pathlib import Path

# Dashboards that users have arranged, and links to them, go by these.
TITLES = [
    "Loss and gradient norm",
    "Clipping",
    "Loss scale",
    "Non-finite and skipped steps",
    "Gradient check error",
]


def patterns() -> dict[str, list[str]]:
    return {title: chart[1] for title, chart in layout()[CATEGORY].items()}


def charts_in(folder: str) -> dict[str, list[str]]:
    accumulator = EventAccumulator(folder)
    accumulator.Reload()
    if "custom_scalars__config__" not in accumulator.Tags()["tensors"]:
        return {}
    (event,) = accumulator.Tensors("custom_scalars__config__")
    found = Layout.FromString(event.tensor_proto.string_val[0])
    return {category.title: [chart.title for chart in category.chart] for category in found.category}


def test_there_are_five_charts_with_stable_titles() -> None:
    assert list(patterns()) == TITLES


@pytest.mark.parametrize("prefix", ["", "my-"])
@pytest.mark.parametrize("suffix", ["", "/optimizer_1", "/optimizer_12"])
def test_every_health_tag_is_in_one_chart_and_nothing_else_is(prefix: str, suffix: str) -> None:
    every = [pattern for chart in patterns().values() for pattern in chart]
    for tag in HEALTH_TAGS:
        assert sum(bool(re.match(pattern, f"{prefix}{tag.name}{suffix}")) for pattern in every) == 1
    others = ["grad_norm/fc", "health", "health/grad_norm/fc", "train/health/loss_scale", "health/loss", "val_loss"]
    assert not [other for other in others for pattern in every if re.match(pattern, other)]


def test_the_sink_adds_them_at_the_start(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    TensorBoardSink([logger]).write(run_start())
    logger.experiment.flush()
    assert charts_in(logger.log_dir) == {"gradwatch": TITLES}


def test_many_runs_together_make_five_charts(tmp_path: Path) -> None:
    for optimizers in range(1, 4):
        logger = TensorBoardLogger(tmp_path)
        TensorBoardSink([logger]).write(run_start(optimizers=[{}] * optimizers))
        logger.finalize("success")
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(tmp_path))
    plugin = CustomScalarsPlugin(TBContext(data_provider=provider, plugin_name_to_instance={}))
    merged = json.loads(plugin.layout_impl(RequestContext(), ""))
    assert [[chart["title"] for chart in category["chart"]] for category in merged["category"]] == [TITLES]


def test_a_layout_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["train_loss"]]}})
    add_charts(logger.experiment)
    logger.experiment.flush()
    assert charts_in(logger.log_dir) == {"mine": ["loss"]}


def test_a_resumed_run_gets_no_second_one(tmp_path: Path) -> None:
    for _ in range(2):
        logger = TensorBoardLogger(tmp_path, version=0)
        add_charts(logger.experiment)
        logger.finalize("success")
    assert charts_in(logger.log_dir) == {"gradwatch": TITLES}


def test_where_it_cannot_be_looked_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = TensorBoardLogger(tmp_path)
    monkeypatch.setattr(custom_scalars, "MAX_SEARCHED_BYTES", 10)
    add_charts(logger.experiment)
    logger.experiment.flush()
    assert charts_in(logger.log_dir) == {}


def test_tensorboard_x_has_them_too(tmp_path: Path) -> None:
    writer = SummaryWriter(str(tmp_path))
    add_charts(writer)
    writer.close()
    assert charts_in(str(tmp_path)) == {"gradwatch": TITLES}


def test_a_writer_that_knows_no_layouts_is_none_of_our_business() -> None:
    class Plain:
        def flush(self) -> Any:
            raise AssertionError

    add_charts(Plain())
