"""``gradwatch report``: from a folder to a page, without torch."""

from __future__ import annotations

from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from gradwatch.report.html.formats import size
from gradwatch.report.html.page import page_file, write_page
from gradwatch.report.html.run_page import run_page
from gradwatch.report.run import choose, read_runs
from gradwatch.report.text import clean, shorten

if TYPE_CHECKING:
    import os
    from types import TracebackType

NAME = "report.html"
PATIENCE = 1.0  # seconds until it is shown that something is going on


def write_report(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    run_id: str | None = None,
    force: bool = False,
) -> tuple[Path, int, str | None]:
    """Write the page of a run.

    Args:
        path: what ``read_runs`` takes.
        output: the file to write. Default: ``report.html`` in the folder of the run.
        run_id: the beginning of the id of the run to show. Default: the last one.
        force: overwrite a file that is no report.

    Returns:
        The file, its size in bytes, and what to say of other runs in the folder, if there are any.

    Raises:
        FileExistsError: the file is there and is no report of ours.
        OSError: something cannot be read or written.
        ValueError: what was read is no run, or there is no such run.
    """
    with _Patience() as patience:
        patience.now("reading the event log")
        runs = read_runs(path)
        run = choose(runs, run_id)
        file = run.folder / NAME if output is None else Path(output)
        file = page_file(file, NAME, " is there and is no report of ours", force=force)
        patience.now("drawing the page")
        text = run_page(run)
        patience.now("writing")
        return file, write_page(file, text), _others([one.run_id for one in runs], run.run_id)


def summary(file: Path, length: int) -> str:
    """Return what to print of a page that was written. Names of files are data, here too."""
    return f"{clean(file)} ({size(length)})"


def _others(ids: list[str], shown: str) -> str | None:
    others = [run_id for run_id in ids if run_id != shown]
    if not others:
        return None
    names = ", ".join(shorten(clean(run_id), 40) for run_id in others[-3:]) + (", ..." if len(others) > 3 else "")  # noqa: PLR2004 - as many as fit in a line
    return f"the run {shorten(clean(shown), 40)}; the folder has {len(others)} more (--run {names})"


class _Patience:
    """Shows on standard error what is being done, once it has taken a second; nothing where nobody looks."""

    def __init__(self) -> None:
        columns = (BarColumn(24), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task("", total=3)
        self._timer = Timer(PATIENCE, self._progress.start)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        if self._progress.console.is_terminal:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._progress.live.is_started:
            self._progress.stop()

    def now(self, what: str) -> None:
        """Say what is done now."""
        done = 0 if not self._progress.tasks[0].description else 1
        self._progress.update(self._task, advance=done, description=what)
