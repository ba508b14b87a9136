"""What the page makes of answers that are lost, and of what it was asked for and there is not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.tensorboard_plugin.samples import sample_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = ["encoder.first", "encoder.second", "head"]


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (r"/matrix\?.*weight_norm", ".card .notice"),
        (r"/curves\?", ".card .problem"),
        (r"/layer\?", ".card .problem"),
        (r"/events\?", ".card .problem"),
    ],
)
def test_an_answer_that_was_lost_is_named_and_asked_for_again(lost: str, said: str, serve: Serve) -> None:
    _, tab = serve(sample_run("ended", LAYERS, 20))
    pattern = re.compile(lost)
    tab.page.route(pattern, lambda route: route.abort())
    tab.open(metric="weight_norm", layer="head")
    assert "TensorBoard does not answer" in tab.text(said)
    tab.page.unroute(pattern)
    tab.page.evaluate("reload()")
    tab.find(said).wait_for(state="detached")
    tab.settle()
    assert tab.pixel(105, 0, rows=3)[3] == 255
    assert tab.find(".readings:visible").count() == 7, "four of the run, three of the layer"
