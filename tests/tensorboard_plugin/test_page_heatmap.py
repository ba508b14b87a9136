"""The heatmap shows the right values at known cells, in colour and in words."""

from __future__ import annotations

import math
from itertools import pairwise
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gradwatch.serialization.tensorboard_rows import UNKNOWN as NOT_KNOWN
from tests.tensorboard_plugin.samples import SampleRun, put, sample_run, transformer_layers
from tests.tensorboard_plugin.tab import NONFINITE, UNKNOWN, ZERO, scale_colour

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.tensorboard_plugin.stub_server import Stub
    from tests.tensorboard_plugin.tab import Tab

    Serve = Callable[..., tuple[Stub, Tab]]

LAYERS = ["encoder.first", "encoder.second", "encoder.third", "head"]


TITLES = {
    "weight_norm": "Weight norm",
    "update_ratio": "Update ratio",
    "nonfinite": "Non-finite elements of the gradient",
}

# Of a canvas: the first and the last column and row with something drawn.
MARKED = """(canvas) => {
  const all = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  const drawn = [...all.keys()].filter((index) => index % 4 === 3 && all[index]).map((index) => (index - 3) / 4);
  const ends = (places) => [Math.min(...places), Math.max(...places) + 1];
  return {x: ends(drawn.map((at) => at % canvas.width)), y: ends(drawn.map((at) => Math.floor(at / canvas.width)))};
}"""


def powers_of_ten() -> SampleRun:
    """Return a run whose gradient norms are 10^-2 ... 10^1 by layer: the scale spans exactly these decades."""
    run = sample_run("known", LAYERS, 20)
    run.values[0] = 10.0 ** np.arange(-2.0, 2.0)
    return run


def test_colours_and_words_of_known_cells(serve: Serve) -> None:
    _, tab = serve(powers_of_ten())
    tab.open()
    for row, layer in enumerate(LAYERS):
        assert tab.pixel(105, row, rows=4) == pytest.approx(scale_colour(row / 3), abs=1)
        said = tab.point(105, row, rows=4)
        assert said["layer"] == layer
        assert float(said["value"]) == pytest.approx(10.0 ** (row - 2))
        assert "steps 101\N{EN DASH}110" in said["all"]


def test_what_is_on_no_scale_has_a_colour_and_a_word_of_its_own(serve: Serve) -> None:
    run = powers_of_ten()
    for row, value in enumerate((math.nan, math.inf, 0.0, NOT_KNOWN)):
        put(run, "grad_norm", "encoder.second", 2 + 4 * row, value)
    _, tab = serve(run)
    tab.open()
    steps = [25 + 40 * row for row in range(4)]
    assert [tab.pixel(step, 1, rows=4) for step in steps] == [NONFINITE, NONFINITE, ZERO, UNKNOWN]
    said = [tab.point(step, 1, rows=4)["value"] for step in steps]
    assert said == ["NaN", "\N{INFINITY}", "0", "not known (no gradient)"]
    # The neighbours are as they were.
    assert tab.pixel(15, 1, rows=4) == pytest.approx(scale_colour(1 / 3), abs=1)
    assert tab.pixel(25, 2, rows=4) == pytest.approx(scale_colour(2 / 3), abs=1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_value_of_two_and_a_half_million_is_seen(serve: Serve, value: float) -> None:
    run = sample_run("large", transformer_layers(62), 5000)
    assert len(run.layers) == 500
    put(run, "grad_norm", "model.blocks.30.mlp.up", 3000, value)
    _, tab = serve(run)
    tab.open()
    row = run.layers.index("model.blocks.30.mlp.up")
    assert tab.pixel(30_010, row, rows=500) == NONFINITE
    assert tab.pixel(29_000, row, rows=500) != NONFINITE
    # The rims say where to look: at one step, at one layer.
    x, y = tab.place(30_010, row, rows=500)
    across, down = (tab.find(rim).evaluate(MARKED) for rim in ("canvas.above", "canvas.left"))
    assert across["x"][0] <= x <= across["x"][1] < across["x"][0] + 5
    assert down["y"][0] <= y <= down["y"][1] < down["y"][0] + 4


def test_a_large_run_is_drawn_within_a_second_and_a_half(serve: Serve) -> None:
    _, tab = serve(sample_run("large", transformer_layers(62), 5000))
    tab.open()
    took = []
    for metric in ("weight_norm", "update_ratio", "nonfinite"):
        begin = monotonic()
        tab.find(f'[data-metric="{metric}"]').click()
        tab.find(f'.legend[aria-label*="{TITLES[metric]}"]').wait_for()
        tab.settle()
        took.append(monotonic() - begin)
    assert min(took) < 1.5, took  # the others may have had the machine to share


def test_relative_values_are_ratios_to_the_running_median(serve: Serve) -> None:
    run = powers_of_ten()
    put(run, "grad_norm", "head", 15, 1000.0)
    _, tab = serve(run)
    tab.open(mode="relative")
    assert tab.point(155, 3, rows=4)["all"].endswith("100\N{MULTIPLICATION SIGN} its running median")
    assert tab.point(105, 3, rows=4)["all"].endswith("1\N{MULTIPLICATION SIGN} its running median")
    level = [tab.pixel(105, row, rows=4) for row in range(4)]
    assert len(set(level)) == 1, "layers on different levels have the same colour while they are as usual"
    assert min(level[0][:3]) > 230, "and it is the middle of the scale"
    red, _, blue, _ = tab.pixel(155, 3, rows=4)
    assert red > blue, "above: brown"


def test_running_medians_are_those_of_numpy(serve: Serve) -> None:
    _, tab = serve(powers_of_ten())
    tab.open()
    random = np.random.default_rng(0)
    values = np.exp(random.standard_normal(200)).astype(np.float32)
    values[[3, 40, 41, 90]] = [np.nan, 0.0, np.inf, NOT_KNOWN]
    found = tab.call("cells.js", "relativeToMedian", values, 1)
    for index, value in enumerate(values):
        if not (np.isfinite(value) and value > 0):
            assert np.array_equal(found[index], value, equal_nan=True)
            continue
        past = values[: index + 1]
        usual = np.median(past[np.isfinite(past) & (past > 0)][-20:])
        assert found[index] == pytest.approx(float(value / usual), rel=1e-6)


def test_counts_of_what_is_not_finite(serve: Serve) -> None:
    run = powers_of_ten()
    put(run, "nonfinite", "head", 7, 640.0)
    _, tab = serve(run)
    tab.open(metric="nonfinite", mode="relative")  # which a reader had chosen for another metric
    assert tab.point(75, 3, rows=4)["value"] == "640 non-finite values"
    assert tab.point(75, 2, rows=4)["value"] == "0 non-finite values"
    red, green, blue, _ = tab.pixel(75, 3, rows=4)
    assert red > 180 > green
    assert blue > 180
    assert min(tab.pixel(75, 2, rows=4)[:3]) > 220, "none is no news"


def test_the_legend_has_round_numbers_and_no_colour_that_cannot_be(serve: Serve) -> None:
    run = sample_run("counts", LAYERS, 20)
    put(run, "nonfinite", "encoder.second", 3, 20_000)
    _, tab = serve(run)
    tab.open(metric="nonfinite")
    assert tab.texts(".ramp span") == ["1", "10", "100", "1000", "1e4"]
    assert tab.texts(".swatch") == ["none", "not known"]


def test_a_folded_module_is_the_largest_of_its_layers(serve: Serve) -> None:
    run = powers_of_ten()
    put(run, "grad_norm", "encoder.first", 5, math.nan)
    _, tab = serve(run)
    tab.open().button("Fold encoder")
    assert tab.texts(".names .name") == ["encoder 3", "head"]
    said = tab.point(105, 0, rows=2)
    assert said["layer"] == "encoder.third"
    assert "of 3 layers in encoder" in said["all"]
    assert tab.pixel(105, 0, rows=2) == pytest.approx(scale_colour(2 / 3), abs=1)
    assert tab.pixel(55, 0, rows=2) == NONFINITE
    assert tab.point(55, 0, rows=2)["layer"] == "encoder.first"
    tab.button("Unfold encoder")
    assert tab.texts(".names .name") == ["first", "second", "third", "head"]


def test_fold_to_a_depth(serve: Serve) -> None:
    _, tab = serve(sample_run("deep", transformer_layers(3), 30))
    tab.open().button("Fold to depth 1")
    assert tab.texts(".names .name") == ["model 27", "head"]
    tab.button("Fold to depth 2")
    assert tab.texts(".names .name") == ["embed 2", "blocks 24", "norm", "head"]
    tab.button("Fold to depth 3")
    assert tab.texts(".names .name") == ["tokens", "positions", "0 8", "1 8", "2 8", "norm", "head"]
    tab.button("All layers")
    assert len(tab.texts(".names .name")) == 28


def test_modules_with_one_module_inside_are_one(serve: Serve) -> None:
    _, tab = serve(sample_run("nested", ["net.body.block.0", "net.body.block.1", "head.out.linear"], 30))
    tab.open()
    brackets = [one.get_attribute("aria-label") for one in tab.find(".bracket").all()]
    assert brackets == ["Fold net.body.block"]
    assert tab.texts(".names .name") == ["0", "1", "head.out.linear"]


def test_every_layer_of_fifty_is_named_and_what_it_is_of_fifty_one(serve: Serve) -> None:
    layers = [f"a_module_whose_name_is_long.blocks.{i}.{part}" for i in range(17) for part in ("query", "key", "value")]
    _, tab = serve(sample_run("fifty", layers[:50], 30), sample_run("more", layers, 30))
    tab.open(runs="fifty")
    assert len(tab.texts(".names .name")) == 50
    assert tab.texts(".names .name")[-2:] == ["16.query", "16.key"]
    tab.open(runs="more")
    assert tab.texts(".names .name") == [str(i) for i in range(17)]


def test_names_of_modules_are_whole_where_they_fit(serve: Serve) -> None:
    layers = [f"stage{i}.{j}.{part}" for i in range(4) for j in range(4) for part in ("conv1", "bn1", "conv2", "bn2")]
    _, tab = serve(sample_run("wide", layers, 30))
    tab.open()
    assert tab.texts(".names .name") == [f"stage{i}.{j}" for i in range(4) for j in range(4)]
    tops = [float(one.evaluate("(it) => it.offsetTop")) for one in tab.find(".names .name").all()]
    assert tops == sorted(tops)
    assert min(below - above for above, below in pairwise(tops)) >= 11


def test_layers_without_modules_are_named_at_intervals_and_open(serve: Serve) -> None:
    _, tab = serve(sample_run("flat", [f"layer_{i}" for i in range(200)], 30))
    tab.open()
    names = tab.texts(".names .name")
    assert names[0] == "layer_0"
    assert 12 <= len(names) <= 18
    tab.button(f"Curves of {names[3]}")
    assert tab.text(".section h3") == f"Layer {names[3]}"


def test_a_filter_keeps_the_layers_that_match(serve: Serve) -> None:
    _, tab = serve(sample_run("deep", transformer_layers(3), 30))
    tab.open()
    tab.find(".filter").fill(r"blocks\.[02].*QUERY")
    tab.settle()
    assert tab.texts(".names .name") == ["0.attention.query", "2.attention.query"]
    assert tab.find(".problem").is_hidden()


def test_a_filter_that_is_no_expression_is_searched_as_text(serve: Serve) -> None:
    _, tab = serve(sample_run("odd", ["conv(1)", "conv(2)", "head"], 30))
    tab.open()
    tab.find(".filter").fill("conv(")
    tab.settle()
    assert tab.texts(".names .name") == ["conv(1)", "conv(2)"]
    assert tab.text(".problem") == "Not a regular expression (unterminated group): searched as plain text."
