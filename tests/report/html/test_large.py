"""The page of a long training of a large model: 2,000 layers over 100,000 steps."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.report.html.browser import opened
from tests.report.synthetic import Spike, write_run

if TYPE_CHECKING:
    from pathlib import Path

PAINT = "performance.getEntriesByName('first-contentful-paint')[0]"
LOADED = "performance.getEntriesByType('navigation')[0].loadEventStart"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 143 MB."""
    folder = tmp_path_factory.mktemp("large")
    spike = Spike(record=160, layer=150, factor=1e4)
    write_run(folder, layers=2000, records=400, steps=100_000, spikes=[spike], bad=[(300, 240)], pooled=False)
    return folder


@pytest.mark.long
@pytest.mark.timeout(600)
def test_built_in_5_seconds_with_8_megabytes_and_opened_in_2(browser: Any, folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "gradwatch.cli", "report", str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    file = folder / "report.html"
    assert done.stdout == f"{file} ({file.stat().st_size / 1e6:.1f} MB)\n"
    # Of the processor: other work on the machine is no fault of the report's.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 5.0
    assert file.stat().st_size < 8e6
    with opened(browser, file) as visit:
        visit.page.wait_for_function(f"{PAINT} !== undefined")  # it may come after the load event
        assert visit.page.evaluate(f"{PAINT}.startTime") < 2000
        assert visit.page.evaluate(LOADED) < 2000
        assert visit.page.locator("#single li").inner_text().startswith("blocks.24.norm2 rose to 8")
        visit.page.locator("#single li button").click()
        visit.page.locator("#layer").wait_for()
        assert visit.noise == []
