"""What is seen while the demo trains: live bars on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

from lightning.pytorch import Callback
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from lightning.pytorch import LightningModule, Trainer
    from rich.console import Console

    from gradwatch.demo.trainings import Training

LINES_PER_TRAINING = 5
NOTE_WIDTH = 28  # of "loss 12.345 grad norm 12.345"
SECONDS_BETWEEN_UPDATES = 0.1


class Display(Protocol):
    """Shows how far each training is; a context manager around all of them."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def start(self, training: Training, steps: int) -> None:
        """Begin to train for at most ``steps`` optimizer steps."""

    def update(self, step: int, loss: float, grad_norm: float | None) -> None:
        """Show the state after ``step`` steps."""

    def finish(self, step: int, note: str) -> None:
        """End the training that was started last, after ``step`` steps."""


class _TimeColumn(ProgressColumn):
    """How long a training still takes; once it has ended, how long it took."""

    def render(self, task: Task) -> Text:
        """Return a text of constant width, so that the bars do not jump."""
        if task.stop_time is not None:
            text = f"{task.elapsed:.0f} s"
        else:
            text = "" if task.time_remaining is None else f"{task.time_remaining:.0f} s left"
        return Text(text.rjust(10))


class LiveDisplay:
    """One bar per training (with its number of steps), all of them on the screen from the start."""

    def __init__(self, console: Console, trainings: Sequence[tuple[Training, int]]) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None, style="dim", complete_style="green", finished_style="green"),
            TextColumn("{task.completed:>4.0f}/{task.total:<4.0f}"),
            _TimeColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            expand=True,
        )
        self._tasks = {
            training.name: self._progress.add_task(training.title, total=steps, note=_padded("waiting"))
            for training, steps in trainings
        }
        self._current = TaskID(0)

    def __enter__(self) -> Self:
        """Start to draw."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the bars as they are on the screen."""
        self._progress.stop()

    def start(self, training: Training, steps: int) -> None:
        """Start the clock of this training's bar."""
        del steps
        self._current = self._tasks[training.name]
        # The clocks of all tasks run from the start: rich lets the bar of a stopped one pulse.
        self._progress.reset(self._current, note=_padded("starting"))

    def update(self, step: int, loss: float, grad_norm: float | None) -> None:
        """Move the bar."""
        self._progress.update(self._current, completed=step, note=_state(loss, grad_norm))

    def finish(self, step: int, note: str) -> None:
        """Stop the clock of this bar; an empty ``note`` keeps the last state beside it."""
        self._progress.update(self._current, completed=step)
        if note:
            self._progress.update(self._current, note=_padded(note))
        self._progress.stop_task(self._current)


class LineDisplay:
    """A few plain lines per training, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._title, self._steps, self._began, self._due = "", 0, 0.0, 0

    def __enter__(self) -> Self:
        """Nothing has to be set up."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing has to be undone."""

    def start(self, training: Training, steps: int) -> None:
        """Print what begins."""
        self._title, self._steps, self._began = training.title, steps, time.monotonic()
        self._due = steps // LINES_PER_TRAINING
        self._print(f"at most {steps} steps" if training.bug else f"{steps} steps")

    def update(self, step: int, loss: float, grad_norm: float | None) -> None:
        """Print every fifth of the training."""
        if step >= self._due:
            every = max(1, self._steps // LINES_PER_TRAINING)
            self._due = min(self._steps, (step // every + 1) * every)
            seconds = time.monotonic() - self._began
            self._print(f"{step}/{self._steps}  {_state(loss, grad_norm)}  {seconds:.0f} s")

    def finish(self, step: int, note: str) -> None:
        """Print how it ended, if there is something to say."""
        del step
        if note:
            self._print(note)

    def _print(self, text: str) -> None:
        self._console.print(f"{self._title}: {text}", soft_wrap=True)


class ProgressCallback(Callback):
    """Tells a display what happens in a training."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._shown_at = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show loss and gradient norm, at most ten times a second."""
        del pl_module, batch, batch_idx
        now = time.monotonic()
        # Reading the loss waits for the step to be computed; do not do that more often than an eye can follow.
        if now - self._shown_at >= SECONDS_BETWEEN_UPDATES or trainer.global_step == trainer.max_steps:
            self._shown_at = now
            self._display.update(trainer.global_step, float(outputs["loss"]), _grad_norm(trainer.callback_metrics))


def _grad_norm(metrics: Mapping[str, Any]) -> float | None:
    value = metrics.get("health/grad_norm")
    return None if value is None else float(value)


def _padded(note: str) -> str:
    return note.ljust(NOTE_WIDTH)


def _state(loss: float, grad_norm: float | None) -> str:
    norm = "-" if grad_norm is None else f"{grad_norm:.3f}"
    return f"loss {loss:<6.3f} grad norm {norm:<6}"
