"""What ``gradwatch compare`` does, from the paths that a user names to tables, JSON and a page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gradwatch.report.compare.comparison import Comparison, compare
from gradwatch.report.compare.members import grouped, named, read_members

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from pathlib import Path


def compare_runs(
    paths: Sequence[Path], against: Sequence[Path], *, output: Path | None, force: bool, as_json: bool
) -> None:
    """Compare runs and tell it: tables or JSON on standard output, and a page at ``output``.

    Raises:
        SchemaError: a log holds something else than events.
        ValueError: fewer than two runs, or several folders below a path hold runs.
        OSError: something cannot be read or written; nothing of what stands at ``output`` is lost then.
    """
    if output is not None:
        _check_output(output, force=force)
    comparison = compare_paths(paths, against)
    if as_json:
        from gradwatch.report.compare.as_json import to_json  # noqa: PLC0415 - what is not asked for is not imported

        sys.stdout.write(f"{to_json(comparison)}\n")
    else:
        from rich.console import Console  # noqa: PLC0415 - as above

        from gradwatch.report.compare.terminal import print_comparison  # noqa: PLC0415 - as above

        print_comparison(Console(highlight=False), comparison)
    if output is not None:
        from gradwatch.report.compare.html import comparison_page  # noqa: PLC0415 - as above
        from gradwatch.report.html.page import write_page  # noqa: PLC0415 - as above

        length = write_page(output, comparison_page(comparison))
        sys.stderr.write(f"wrote {output} ({length / 1000:.0f} kB)\n")


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


def _check_output(path: Path, *, force: bool) -> None:
    """Refuse to write over what is not ours, before anything is read."""
    from gradwatch.report.compare.html import GENERATOR  # noqa: PLC0415 - as above
    from gradwatch.report.html.page import is_ours  # noqa: PLC0415 - as above

    if path.is_dir():
        raise ValueError(f"{path}: a directory; name a file")
    if not path.parent.is_dir():
        raise ValueError(f"{path}: there is no directory {path.parent}")
    if path.exists() and not force and not is_ours(path, GENERATOR):
        raise ValueError(f"{path}: there is a file that gradwatch compare has not written; name another or add --force")
