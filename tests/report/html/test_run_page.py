"""What the page of a run says, read back from its HTML."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from gradwatch.records import LayerNorms
from gradwatch.report.html import colours
from gradwatch.report.html.embed import unpacked
from gradwatch.report.html.markup import plain
from gradwatch.report.html.run_page import run_page
from gradwatch.report.run import Run, read_runs
from tests.report.html.runs import HOSTILE, full_run, hostile_run
from tests.report.html.test_heatmap import pixels
from tests.report.html.test_markup import Reader
from tests.report.logs import at, last_steps, run_end, run_start, told, write_log
from tests.report.synthetic import layer_names, write_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return full_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    return run_page(run)


def section(page: str, name: str) -> str:
    return page.split(f'<section id="{name}"')[1].split("</section>", maxsplit=1)[0]


def pictures(page: str) -> list[np.ndarray]:
    return [pixels(uri) for uri in re.findall(r'<img src="([^"]*)"', page)]


def test_sections_in_the_order_in_which_they_are_needed(page: str) -> None:
    names = ["findings", "curves", "layers", "single", "checks", "clipping", "last", "environment"]
    assert re.findall(r'<section id="(\w+)"', page) == names


def test_the_verdict_comes_first(page: str) -> None:
    head = page.split("<section", maxsplit=1)[0]
    assert head.index("<h1>") < head.index("What to do next") < head.index('class="tiles"')
    assert "gradwatch replay" not in head  # its folder has nothing to replay


def test_what_can_be_replayed_is_told_with_its_command(tmp_path: Path) -> None:
    run = full_run(tmp_path)
    (tmp_path / "incidents" / "step=00000809-0" / "weights.pt").touch()
    (run,) = read_runs(tmp_path)
    command = f"gradwatch replay {tmp_path}/incidents/step=00000809-0"
    page = run_page(run)
    assert command in page.split("<section")[0]
    assert command in section(page, "findings")


def test_findings_are_told_by_code_in_the_order_in_which_they_began(page: str) -> None:
    timeline = section(page, "findings")
    codes = ["vanishing-gradient", "dead-units", "loss-plateau", "non-finite gradient, skipped"]
    places = [timeline.index(f"<b>{code}</b>") for code in codes]
    assert places == sorted(places)
    assert "step 100 until step 150" in timeline
    assert "30 layers" in timeline
    assert "The same 10 more times" in timeline


def test_an_incident_opens_to_all_that_is_known(page: str) -> None:
    told_of_it = section(page, "findings").split('id="incident-0"')[1]
    for text in ("The slope of sqrt", "Add a small constant", "model.py:42", "y = x.sqrt()", "sqrt, backward", "8 x 4"):
        assert text in told_of_it
    assert "finite-&gt;inf" in told_of_it
    assert "head.weight, head.bias" in told_of_it


def test_marks_stand_at_their_steps_and_lead_to_what_they_mean(page: str, run: Run) -> None:
    whole = float(run.last_step)
    signs = re.findall(r'class="mark (\w+)" href="#([\w-]+)" style="left:([\d.]+)%"', section(page, "curves"))
    found = {(kind, link): float(left) for kind, link, left in signs}
    assert found["incident", "incident-0"] == pytest.approx(100 * 809 / whole, abs=0.01)
    assert found["warning", "finding-0"] == pytest.approx(100 * 100 / whole, abs=0.01)
    assert found["info", "finding-2"] == pytest.approx(100 * 300 / whole, abs=0.01)
    for link in {link for _, link in found}:
        assert f'id="{link}"' in page


def test_the_curves_of_the_run(page: str) -> None:
    curves = section(page, "curves")
    titles = re.findall(r"<figcaption><strong>([^<]*)", curves)
    assert titles == ["Loss", "Gradient norm", "Learning rate", "Loss scale", "Clip coefficient"]
    assert "clipped above 1" in curves
    norm = curves.split("<figcaption>")[2]
    assert norm.count('class="line infinite"') == curves.count('class="line infinite"') == 1


def test_six_heatmaps_with_the_spike_and_the_nan(page: str, run: Run) -> None:
    shown = pictures(page)
    assert [picture.shape[:2] for picture in shown] == [(20, 100)] * 6
    absolute, relative = shown[0], shown[1]
    assert tuple(absolute[3, 80, :3]) == tuple(relative[3, 80, :3]) == colours.NONFINITE_COLOUR
    assert relative[7, 60, :3].tolist() == colours.diverging()[-1].tolist()
    others = np.delete(relative[7, :, :3].astype(int), 60, axis=0)
    assert np.abs(others - colours.diverging()[-1]).sum(axis=1).min() > 100
    assert 'class="bad" style="left:' in page
    assert run.steps[0].layers.nonfinite[80, 3] > 0


def test_weights_that_became_nan_are_not_taken_for_unknown(tmp_path: Path) -> None:
    names = ("a", "b")
    nan = math.nan
    lost = dict.fromkeys(names, LayerNorms(grad_norm=nan, weight_norm=nan, update_ratio=nan, nonfinite=4))
    frozen = dict.fromkeys(names, LayerNorms(grad_norm=None, weight_norm=None, update_ratio=None, nonfinite=0))
    sound = dict.fromkeys(names, LayerNorms(grad_norm=1.0, weight_norm=2.0, update_ratio=1e-3, nonfinite=0))
    write_log(tmp_path, *(at(step, layers=layers) for step, layers in enumerate([frozen, sound, frozen, lost])))
    shown = pictures(run_page(read_runs(tmp_path)[0]))
    for picture in shown:
        assert picture[0, :, 3].tolist() == [0, 255, 0, 255]
        assert tuple(picture[0, 3, :3]) == colours.NONFINITE_COLOUR


def test_weights_that_are_nan_from_the_first_record_or_without_a_gradient_are_not_unknown(tmp_path: Path) -> None:
    nan = math.nan
    lost = {"a": LayerNorms(grad_norm=None, weight_norm=nan, update_ratio=math.inf, nonfinite=0)}
    sound = {"a": LayerNorms(grad_norm=1.0, weight_norm=2.0, update_ratio=1e-3, nonfinite=0)}
    write_log(tmp_path, *(at(step, layers=layers) for step, layers in enumerate([lost, sound, lost])))
    page = run_page(read_runs(tmp_path)[0])
    (block,) = re.findall(r'<script type="application/json" id="layer-data">(.*?)</script>', page)
    for name in ("weight_norm", "update_ratio"):
        values = unpacked(json.loads(block)["optimizers"]["0"][name], 3)
        assert np.isinf(values[:, 0]).tolist() == [True, False, True]
    row = section(page, "single").split("</thead>")[1]
    assert row.count("not finite") == 2  # the weight norm, first and last


def test_the_values_behind_the_heatmaps_are_those_of_the_log(page: str, run: Run) -> None:
    (block,) = re.findall(r'<script type="application/json" id="layer-data">(.*?)</script>', page)
    data = json.loads(block)["optimizers"]["0"]
    assert data["layers"] == layer_names(20)
    values = unpacked(data["grad_norm"], 100)
    assert np.isinf(values[80, 3])
    true = run.steps[0].layers.grad_norm_high
    finite = np.isfinite(values) & np.isfinite(true)
    assert finite.sum() == true.size - 1
    np.testing.assert_allclose(values[finite], true[finite], rtol=5e-4)


def test_layers_that_stand_out_are_named(page: str) -> None:
    rises = re.findall(r"<li><b[^>]*>([^<]*)</b> rose to \d+ times its median, step (\d+)", section(page, "single"))
    assert rises == [("blocks.1.attention.qkv", "609")]


def test_checks_clipping_and_last_steps(page: str, run: Run) -> None:
    checks = section(page, "checks")
    assert checks.count("<tr>") == 2 + 1 + 1 + 1  # heads and checks, head and parameter
    assert '<span class="error">mismatch</span>' in checks
    clipping = section(page, "clipping")
    clipped = int(run.steps[0].window_clipped.sum())
    assert 0 < clipped < 1000
    assert f"{clipped} of 1,000 steps ({clipped / 10:.3g} %)" in clipping
    assert "karpathy/nanoGPT@3adf61e" in clipping
    assert re.search(r"a limit of [\d.]+: one step in ten", clipping)
    last = section(page, "last")
    assert last.count("<tr>") == 65
    assert "written at the end" in last


def test_the_environment(page: str) -> None:
    environment = section(page, "environment")
    for title in ("Versions", "Hardware", "Precision", "Optimizers", "Seeds", "Determinism", "Parameters (40)"):
        assert f"<summary>{title}</summary>" in environment
    assert "embedding.weight" in environment


def test_where_the_run_came_from(tmp_path: Path) -> None:
    git = {"commit": "0f62d53", "branch": "main", "dirty": True}
    write_log(tmp_path, run_start(git=git, script="train.py", schedulers=[{"class": "StepLR", "gamma": 0.5}]))
    environment = section(run_page(read_runs(tmp_path)[0]), "environment")
    for text in ("train.py", "0f62d53 on main, with changes that are not in it", "StepLR", "gamma"):
        assert text in environment


def test_what_only_a_script_can_do_is_hidden_until_it_runs(page: str) -> None:
    fields = re.findall(r"<(?:input|span|div)[^>]*scripted[^>]*>", page)
    assert len(fields) == 4
    assert all(field.endswith(" hidden>") for field in fields)


@pytest.mark.parametrize("text", [HOSTILE, "a\nb", "x" * 20_000])
def test_no_word_of_a_run_is_markup(tmp_path: Path, text: str) -> None:
    page = run_page(hostile_run(tmp_path, text))
    page.encode("utf-8")
    seen = Reader(page)
    assert seen.tags.count("script") == 2
    assert seen.tags.count("title") == 1
    assert seen.tags.count("img") == 6
    assert not {name for name in seen.attributes if name.startswith("on")}
    if text == HOSTILE:
        assert plain(text)[:40] in seen.text


def test_a_run_with_a_start_alone(tmp_path: Path) -> None:
    write_log(tmp_path, run_start())
    (run,) = read_runs(tmp_path)
    page = run_page(run)
    assert re.findall(r'<section id="(\w+)"', page) == ["findings", "environment"]


def test_a_run_whose_start_was_lost(tmp_path: Path) -> None:
    write_log(tmp_path, told(5))
    (run,) = read_runs(tmp_path)
    assert "has been lost" in section(run_page(run), "environment")


def test_several_optimizers_have_curves_and_heatmaps_each(tmp_path: Path) -> None:
    write_run(tmp_path, layers=4, records=20)
    (run,) = read_runs(tmp_path)
    steps = run.steps[0]
    page = run_page(replace(run, steps=[steps, replace(steps, optimizer=1)]))
    assert len(pictures(page)) == 12
    assert 'class="key s1"' in section(page, "curves")
    assert "optimizer 0, AdamW" in section(page, "layers")
    (block,) = re.findall(r'<script type="application/json" id="layer-data">(.*?)</script>', page)
    assert set(json.loads(block)["optimizers"]) == {"0", "1"}


def test_a_run_in_which_nothing_is_known(tmp_path: Path) -> None:
    write_run(tmp_path, layers=3, records=5)
    (run,) = read_runs(tmp_path)
    steps = run.steps[0]
    unknown = {name: np.full_like(getattr(steps, name), np.nan) for name in ("loss", "loss_high", "grad_norm", "lr")}
    layers = replace(
        steps.layers,
        grad_norm_high=np.full((5, 3), np.nan),
        weight_norm_high=np.zeros((5, 3)),
        update_ratio_high=np.full((5, 3), np.inf),
    )
    page = run_page(replace(run, steps=[replace(steps, **unknown, layers=layers)]))
    assert len(pictures(page)) == 6
    assert "not known" in page
    assert not re.search(r"\bnan\b", re.sub(r"data:image[^\"]*|<script.*?</script>", "", page, flags=re.DOTALL))


@pytest.mark.parametrize(
    ("pid", "words"), [(os.getpid(), "so far; the run goes on"), (0, "did not write its end")], ids=["alive", "gone"]
)
def test_steps_of_a_ring_file_are_told_as_what_they_are(pid: int, words: str, tmp_path: Path) -> None:
    hardware = {"hostname": platform.node(), "pid": pid}
    write_log(tmp_path, run_start(hardware=hardware, time=2**40), last_steps(10, reason="killed"))
    (run,) = read_runs(tmp_path)
    assert words in section(run_page(run), "last")


def test_a_run_that_never_stepped_says_so(tmp_path: Path) -> None:
    write_log(tmp_path, run_start())
    (run,) = read_runs(tmp_path)
    head = run_page(run).split("<section", maxsplit=1)[0]
    assert "none was written" in head
    assert "step 12" not in head


def test_a_run_that_resumes_another_tells_its_own_steps_beside_all(tmp_path: Path) -> None:
    write_log(tmp_path, run_start(step=50, resumed_from="run-before"), at(120), run_end(step=129, steps=130))
    (run,) = read_runs(tmp_path)
    assert "80 steps<small>130 with those before, 1 record</small>" in run_page(run)
