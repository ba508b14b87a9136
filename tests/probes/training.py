"""A probed module, trained for a few steps."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from tests.probes.probed import seed_all

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import Callback, LightningModule

    from tests.probes.probed import Probed

STEPS = 4


def train(case: Probed, folder: Path, *callbacks: Callback) -> tuple[Trainer, LightningModule]:
    """Train for ``STEPS`` steps, from the same seeds each time."""
    module = case.build()
    seed_all()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")  # what it says of tiny loaders is of no interest here
        trainer = Trainer(
            max_steps=STEPS,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=list(callbacks),
            **case.trainer_arguments,
        )
        trainer.fit(module, case.loader())
    assert trainer.global_step == STEPS
    return trainer, module
