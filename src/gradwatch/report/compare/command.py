"""What ``gradwatch compare`` does, from the paths that a user names to tables, JSON and a page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gradwatch.report import stdout
from gradwatch.report.compare.as_json import to_json
from gradwatch.report.compare.comparison import Comparison, compare
from gradwatch.report.compare.html import GENERATOR, comparison_page
from gradwatch.report.compare.members import grouped, named, read_members
from gradwatch.report.compare.terminal import print_comparison
from gradwatch.report.html.formats import size
from gradwatch.report.html.page import page_file, write_page
from gradwatch.report.text import clean

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path

NAME = "compare.html"


def compare_runs(
    paths: Sequence[Path], against: Sequence[Path], *, output: Path | None, force: bool, as_json: bool
) -> None:
    """Compare runs and tell it: tables or JSON on standard output, and a page at ``output``.

    Raises:
        SchemaError: a log holds something else than events.
        ValueError: fewer than two runs, or several folders below a path hold runs.
        OSError: something cannot be read or written; nothing of what stands at ``output`` is lost then.
    """
    file = None
    if output is not None:  # before anything is read
        file = page_file(output, NAME, ": no page of gradwatch compare", generator=GENERATOR, force=force)
    comparison = compare_paths(paths, against)
    if as_json:
        stdout.write(f"{to_json(comparison)}\n")
    else:
        print_comparison(stdout.PatientConsole(), comparison)
    if file is not None:
        length = write_page(file, comparison_page(comparison))
        sys.stderr.write(f"{clean(file)} ({size(length)})\n")


def compare_paths(
    paths: Sequence[str | os.PathLike[str]], against: Sequence[str | os.PathLike[str]] = ()
) -> Comparison:
    """Compare the runs at ``paths``: by their settings, or as one group against those at ``against``.

    Args:
        paths: folders of runs, or logs; a single folder may hold several runs.
        against: those of a second group. The runs at ``paths`` are then the first, whatever their settings.

    Raises:
        FileNotFoundError: there is no event log at a path.
        SchemaError: a log holds something else than events.
        ValueError: fewer than two runs, or several folders below a path hold runs.
        OSError: something cannot be read.
    """
    members = read_members([*paths, *against])
    if len(members) < 2:  # noqa: PLR2004 - what comparing takes
        raise ValueError(f"{paths[0]}: one run alone; name at least two runs to compare")
    if against:
        return compare(named([members[: len(paths)], members[len(paths) :]]))
    return compare(grouped(members))
