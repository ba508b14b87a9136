"""What a wrong backward is: a network with one wrong derivative, its clean twin, and the truth about both.

The truth is written down before any check runs. The line that calls the wrong derivative carries a comment
``# culprit: <marker>``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.probes.hosts import Host, Problem, problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn


class WrongBackward(NamedTuple):
    """One wrong derivative in one block of a network.

    Attributes:
        name: unique.
        build: makes the module and its loss from a seed, both float32.
        build_clean: the same with the right derivative; the forward pass is bitwise the same.
        culprit: path of the module in which the derivative is wrong.
        marker: what stands behind ``# culprit: `` at the end of the guilty line. Blocks are shared by bugs, so several
            cases may name the same line.
        wrong_prefixes: the parameters whose gradients are wrong are those with one of these names, or below them.
    """

    name: str
    build: Callable[[int], Problem]
    build_clean: Callable[[int], Problem]
    culprit: str
    marker: str
    wrong_prefixes: tuple[str, ...]

    @property
    def wrong_parameters(self) -> frozenset[str]:
        """Names of the parameters whose gradients are wrong."""
        names = (name for name, _ in self.build(0).module.named_parameters())
        return frozenset(name for name in names if any(f"{name}.".startswith(f"{p}.") for p in self.wrong_prefixes))

    @property
    def line(self) -> tuple[Path, int]:
        """File and number of the guilty line."""
        return marked_lines()[self.marker]


def wrong(
    name: str,
    host: type[Host],
    slot: str,
    block: Callable[[], nn.Module],
    twin: Callable[[], nn.Module],
    *,
    marker: str,
    wrong_prefixes: tuple[str, ...],
    culprit: str | None = None,
) -> WrongBackward:
    """Describe the bug of ``block`` at ``slot``; the culprit is the slot itself unless a module inside it is named."""
    build, build_clean = partial(problem, host, slot, block), partial(problem, host, slot, twin)
    return WrongBackward(name, build, build_clean, culprit or slot, marker, wrong_prefixes)


def marked_lines(word: str = "culprit") -> dict[str, tuple[Path, int]]:
    """Return file and line number of every ``# <word>: <marker>`` in this folder, by marker.

    Raises:
        ValueError: A marker stands twice.
    """
    found: dict[str, tuple[Path, int]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            _, comment, marker = text.rpartition(f"  # {word}: ")
            if comment and found.setdefault(marker.strip(), (path, number)) != (path, number):
                raise ValueError(f"the marker {marker!r} stands at {found[marker.strip()]} and at {path}:{number}")
    return found
