"""Short names for runs and groups, from their paths."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

Parts = tuple[str, ...]


def labels_of(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return the paths without what all of them share at the front and at the back; no two are the same."""
    # Absolute and not resolved: a link is called as the user has called it.
    parts = [Path(path).absolute().parts for path in paths]
    front = len(shared(parts))
    back = len(shared([each[front:][::-1] for each in parts])) if len(parts) > 1 else 0
    labels: list[str] = []
    for each in parts:
        label = str(Path(*(each[front : len(each) - back] or each[-1:])))
        labels.append(f"{label} ({labels.count(label) + 1})" if label in labels else label)
    return labels


def common_label(labels: Sequence[str], folders: Sequence[Path]) -> str:
    """Return what the runs of a group have in common: the front of their labels, else the folder around them all."""
    if len(labels) == 1:
        return labels[0]
    front = shared([Path(label).parts for label in labels]) or shared([folder.absolute().parts for folder in folders])
    return str(Path(*front[-1:])) if len(front) > 1 and front[0] == Path(front[0]).anchor else str(Path(*front))


def shared(parts: Sequence[Parts]) -> Parts:
    """Return the components with which all of the paths begin."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return tuple(column[0] for column in same)
