"""Trains one case without gradwatch, with a callback that looks on."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from tests.zoo.case import BF16, SCALER

if TYPE_CHECKING:
    from typing import Any

    from lightning.pytorch import Callback

    from tests.zoo.case import Case

SCALE = 1024.0


def fit(case: Case, precision: str, callback: Callback) -> None:
    """Train on the case's batches once."""
    options = dict(case.trainer)
    scale = options.pop("scaler_init_scale", SCALE)
    if precision == SCALER:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        options["plugins"] = [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]
    elif precision == BF16:
        options["precision"] = BF16
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.manual_seed(0)
    module = case.module()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            **{"max_epochs": 1, **options},
            accelerator="cpu",
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader: DataLoader[Any] = DataLoader(case.batches(), batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
        trainer.fit(module, loader)
