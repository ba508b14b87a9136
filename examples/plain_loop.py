"""A hand-written training loop under watch: the same engine without a Trainer, as for Lightning Fabric."""

from __future__ import annotations

import argparse
import logging

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import HealthMonitor


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross entropy of a batch."""
    x, y = batch
    loss: Tensor = nn.functional.cross_entropy(model(x), y)
    return loss


def main() -> None:
    """Train an MLP on handwritten digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--max-steps", type=int, default=300)
    parser.add_argument("--dir", default="plain_loop", help="where the events and incidents go")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)

    pixels, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels))
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    monitor = HealthMonitor(dirpath=arguments.dir, clip=1.0, on_nonfinite="skip")
    monitor.start(model, optimizer, loss_function=loss_of)  # with it, a bad step is run again and traced
    step = 0
    while step < arguments.max_steps:
        for batch_idx, batch in enumerate(DataLoader(data, batch_size=64, shuffle=True)):
            monitor.begin_batch(batch, batch_idx, step=step)
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            monitor.observe_loss(loss)
            loss.backward()
            if monitor.before_step(optimizer):  # checks the gradients and clips them
                optimizer.step()
            monitor.after_step(optimizer)
            monitor.end_batch()
            step += 1
            if step == arguments.max_steps:
                break
    monitor.end("finished")


if __name__ == "__main__":
    main()
