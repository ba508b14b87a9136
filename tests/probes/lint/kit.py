"""What the snippets are made of, and how the marked lines of a snippet become its expected findings.

A line that carries ``# unsafe: <code>`` must be found under that code, a line without a marker not at all. A marker
says what is true of the line, not what the lint happens to find.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from gradwatch.probes.lint import Unsafe, lint

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    Snippet = Callable[["Kit"], Tensor]

_MARKER = re.compile(r"# unsafe: ([a-z0-9-]+(?:, [a-z0-9-]+)*)")


class Kit(nn.Module):
    """A batch of 8 with 5 features, and a layer whose output is the usual start of a loss."""

    x: Tensor
    label: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.net = nn.Linear(5, 5)
        self.batch = torch.randn(8, 5, generator=generator)
        self.labels = torch.randint(0, 5, (8,), generator=generator)
        self.keep = torch.rand(8, 5, generator=generator) > 0.3
        self.weights = torch.rand(8, 5, generator=generator)
        self.targets = (torch.rand(8, 5, generator=generator) > 0.5).float()
        self.logged = torch.zeros(())

    def out(self) -> Tensor:
        """Numbers of both signs that need a gradient."""
        return self.net(self.batch)

    def forward(self, snippet: Snippet) -> Tensor:
        """Run a snippet inside of a module."""
        return snippet(self)


class Step(LightningModule):
    """A training step that runs a snippet in a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Kit()

    def training_step(self, snippet: Snippet, batch_idx: int) -> Tensor:
        return self.inner(snippet).float().sum()


def snippets(module: ModuleType) -> list[Any]:
    """The public functions that a file defines."""
    functions = [value for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
    return [function for function in functions if function.__module__ == module.__name__]


def expected(snippet: Callable[..., Any] | type) -> set[tuple[str, int]]:
    """The codes and lines that the markers in a function or class name."""
    lines, first = inspect.getsourcelines(snippet)
    found = [(_MARKER.search(text), first + offset) for offset, text in enumerate(lines)]
    return {(code, line) for match, line in found if match is not None for code in match[1].split(", ")}


def places(findings: list[Unsafe]) -> set[tuple[str, int]]:
    """The codes and lines of findings."""
    assert all(finding.source is not None for finding in findings)
    return {(finding.code, finding.source.line) for finding in findings if finding.source is not None}


def lint_plain(snippet: Snippet) -> list[Unsafe]:
    kit = Kit()
    return lint(kit, lambda: snippet(kit))


def lint_step(snippet: Snippet) -> list[Unsafe]:
    step = Step()
    return lint(step, lambda: step.training_step(snippet, 0))


def lint_autocast(snippet: Snippet) -> list[Unsafe]:
    kit = Kit()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return lint(kit, lambda: snippet(kit))
