"""The CNN of the examples on handwritten digits with several seeds and learning rates: runs for ``gradwatch compare``.

``python benchmarks/seeds.py FOLDER`` trains, in folders named after learning rate and seed:

- 20 seeds at a learning rate of 0.001,
- 5 seeds at 0.003,
- 5 seeds at 0.001 that becomes 0.002 at step 200.

``gradwatch compare FOLDER/lr=0.001/seed=[0-4] FOLDER/lr=0.003/*`` then says where their curves part, and
``python benchmarks/compare.py --runs FOLDER`` how often two groups of the 20 seeds are called different by mistake.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch import Trainer, seed_everything

from gradwatch import NumericalHealthMonitor
from gradwatch.demo.digits import DigitsCNN, digit_loaders

STEADY, HIGH, DOUBLED = "lr=0.001", "lr=0.003", "lr=0.001-doubled-at-200"


class Scheduled(DigitsCNN):
    """The network with a learning rate that may double at a given step."""

    def __init__(self, learning_rate: float, doubles_at: int | None) -> None:
        super().__init__()
        self.learning_rate, self.doubles_at = learning_rate, doubles_at

    def configure_optimizers(self) -> dict[str, object]:  # type: ignore[override]  # Lightning takes a dict as well
        """Use AdamW, with a schedule of at most one jump."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _factor(self, step: int) -> float:
        return 2.0 if self.doubles_at is not None and step >= self.doubles_at else 1.0


def train(folder: Path, seed: int, learning_rate: float, doubles_at: int | None, steps: int) -> None:
    """Train once, with a record at every second step."""
    seed_everything(seed, verbose=False)
    loader, _ = digit_loaders()
    monitor = NumericalHealthMonitor(dirpath=str(folder), log_every_n_steps=2, gradient_check_every_n_steps=None)
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[monitor],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Scheduled(learning_rate, doubles_at), loader)


def main() -> None:
    """Train all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    plan: list[tuple[str, int, float, int | None]]
    plan = [(STEADY, seed, 1e-3, None) for seed in range(20)]
    plan += [(HIGH, seed, 3e-3, None) for seed in range(5)]
    plan += [(DOUBLED, seed, 1e-3, 200) for seed in range(5)]
    for name, seed, learning_rate, doubles_at in plan:
        folder = arguments.folder / name / f"seed={seed}"
        sys.stderr.write(f"{folder}\n")
        train(folder, seed, learning_rate, doubles_at, arguments.steps)


if __name__ == "__main__":
    main()
