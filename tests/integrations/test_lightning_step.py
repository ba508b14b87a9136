from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional

from gradwatch import NonFiniteError
from tests.integrations.again import Again
from tests.integrations.fits import Classifier, Manual, data, equal, events, fit, monitor, seeded, weights

if TYPE_CHECKING:
    from pathlib import Path

NAN = math.nan


def again(path: Path, module: Any, callback: Again | None = None, **trainer: Any) -> Again:
    """Fit with one step run twice; what the real run ends with must be what it ends with alone."""
    callback = callback or Again()
    alone = fit(path / "alone", module(), max_epochs=1, **trainer)
    fitted = fit(path, module(), callback, max_epochs=1, **trainer)
    assert equal(weights(fitted.module), weights(alone.module))
    return callback


# -- automatic optimization ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trainer",
    [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}],
    ids=["plain", "bf16-mixed", "accumulating"],
)
def test_a_step_has_the_same_gradients_the_second_time(trainer: dict[str, Any], tmp_path: Path) -> None:
    callback = Again(0, with_step=False) if "accumulate_grad_batches" in trainer else Again()
    found = again(tmp_path, seeded, callback, train=data(1) if not callback.at else None, **trainer)
    assert found.real_gradients
    assert equal(found.gradients, found.real_gradients)
    assert found.steps == ([0] if callback.with_step else [])
    assert len(found.losses) == 1


def test_under_a_loss_scale_the_gradients_are_unscaled_before_the_step(tmp_path: Path) -> None:
    found = again(tmp_path, seeded, Again(loss_scale=1024.0))
    assert equal(found.gradients, found.real_gradients)
    without = again(tmp_path / "without", seeded, Again(loss_scale=1024.0, with_step=False))
    assert equal(without.gradients, {name: gradient * 1024.0 for name, gradient in found.gradients.items()})
    assert torch.equal(without.losses[0], found.losses[0])


def test_a_step_may_return_a_dictionary(tmp_path: Path) -> None:
    module = partial(seeded, fault=lambda _module, loss, _batch: {"loss": loss, "extra": 1})
    found = again(tmp_path, module)
    assert equal(found.gradients, found.real_gradients)


def test_a_step_that_returns_nothing_has_no_loss_and_no_gradient(tmp_path: Path) -> None:
    found = again(tmp_path, partial(seeded, fault=lambda _module, loss, batch: None if batch == 1 else loss))
    assert (found.losses, found.steps, found.gradients) == ([], [], {})
    assert found.module is not None


def test_a_step_may_take_the_batch_alone(tmp_path: Path) -> None:
    class Short(Classifier):
        def training_step(self, batch: Any) -> Any:  # type: ignore[override]
            return super().training_step(batch, 0)

    found = again(tmp_path, partial(seeded, Short))
    assert equal(found.gradients, found.real_gradients)


def test_a_batch_that_the_module_leaves_out_is_left_out(tmp_path: Path) -> None:
    class Leaving(Classifier):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 1 else None

    found = again(tmp_path, partial(seeded, Leaving))
    assert found.module is not None
    assert (found.losses, found.steps) == ([], [])


class Telling(Classifier):
    """Notes which of its hooks run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.calls.append("training_step")
        return super().training_step(batch, batch_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.calls = ["on_train_batch_start"]

    def on_before_zero_grad(self, optimizer: Any) -> None:
        self.calls.append("on_before_zero_grad")

    def on_before_backward(self, loss: Tensor) -> None:
        self.calls.append("on_before_backward")

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.calls.append("backward")
        super().backward(loss, *args, **kwargs)

    def on_after_backward(self) -> None:
        self.calls.append("on_after_backward")

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.calls.append("on_before_optimizer_step")


def test_the_modules_hooks_run_in_their_order_on_the_copy_alone(tmp_path: Path) -> None:
    class Counting(Again):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            before = list(pl_module.calls)
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
            assert pl_module.calls == before

    callback = Counting()
    fitted = fit(tmp_path, seeded(Telling), callback, max_epochs=1, limit_train_batches=2)
    assert callback.module.calls == fitted.module.calls
    assert fitted.module.calls[-1] == "on_before_optimizer_step"


def test_gradients_that_a_hook_changes_are_changed_in_the_copy(tmp_path: Path) -> None:
    def spoil(module: Any, batch: int) -> None:
        if batch == 1:
            module.body.weight.grad.mul_(3.0)

    found = again(tmp_path, partial(seeded, spoil=spoil))
    # Callbacks come before the module's own hook in the real step, and see what it has not changed yet.
    changed = {n: g * 3.0 if n == "body.weight" else g for n, g in found.real_gradients.items()}
    assert equal(found.gradients, changed)


# -- what a step may do besides --------------------------------------------------------------------------------------


class Busy(Classifier):
    """Logs, prints, saves, and asks its trainer."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log_dict({"double": 2 * loss})
        self.print(f"batch {batch_idx}")
        self.trainer.save_checkpoint(self.trainer.default_root_dir + f"/{batch_idx}-{id(self)}.ckpt")
        if self.logger is not None:
            logger: Any = self.logger
            logger.experiment.add_image("image", batch[0])
            self.logger.log_metrics({"own": float(loss)}, step=batch_idx)
            self.logger.log_hyperparams({"a": 1})
        self.seen = [self.global_step, self.current_epoch, self.trainer.max_epochs, len(self.trainer.callback_metrics)]
        return loss


class Images:
    """Stands for the experiment of a logger."""

    def __init__(self) -> None:
        self.added = 0

    def add_image(self, *_: Any) -> None:
        self.added += 1


class Logger(CSVLogger):
    """Takes images too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.images, self.metrics = Images(), 0

    @property
    def experiment(self) -> Any:
        return self.images

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.metrics += "own" in metrics

    def log_hyperparams(self, params: Any = None) -> None:
        pass

    def save(self) -> None:
        pass


@pytest.mark.parametrize("with_logger", [False, True])
def test_logging_printing_and_saving_happen_once(
    *, with_logger: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger: Any = Logger(tmp_path) if with_logger else False
    callback = Again(1)
    fitted = fit(tmp_path, seeded(Busy), callback, max_epochs=1, limit_train_batches=3, logger=logger)
    assert callback.module is not None
    assert len(callback.losses) == 1
    assert capsys.readouterr().out.split() == ["batch", "0", "batch", "1", "batch", "2"]
    assert len(list(tmp_path.glob("*.ckpt"))) == 3
    if with_logger:
        assert (logger.images.added, logger.metrics) == (3, 3)
    assert callback.module.seen[:3] == [1, 0, 1]
    assert fitted.module.seen[0] == 2
    assert set(fitted.trainer.callback_metrics) >= {"train_loss", "double"}


# -- manual optimization ---------------------------------------------------------------------------------------------


class Gan(LightningModule):
    """Two networks, two optimizers, and a schedule that the step itself moves.

    ``bad`` is the batch in which the generator's loss breaks, after the discriminator has stepped.
    """

    def __init__(self, bad: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(4, 4), nn.Linear(4, 1)
        self.bad = bad

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, _ = batch
        optimizers: Any = self.optimizers()
        first, second = optimizers
        schedules: Any = self.lr_schedulers()
        fake = self.generator(x)
        self.toggle_optimizer(first)
        loss = functional.softplus(self.discriminator(fake.detach()) - self.discriminator(x)).mean()
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        self.untoggle_optimizer(first)
        with second.toggle_model():
            verdict = torch.sigmoid(self.discriminator(fake))
            if batch_idx == self.bad:
                verdict = verdict * 0.0
            loss = -verdict.log().mean()  # the generator's
            second.zero_grad()
            self.manual_backward(loss)
            second.step()
        for schedule in schedules:
            schedule.step()
        self.rates = [schedule.get_last_lr() for schedule in schedules], first.param_groups[0]["lr"]

    def configure_optimizers(self) -> Any:
        first = torch.optim.Adam(self.discriminator.parameters(), lr=0.1)
        second = torch.optim.Adam(self.generator.parameters(), lr=0.01)
        schedules = [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5) for optimizer in (first, second)]
        return [first, second], schedules


def gan(bad: int | None = None) -> Gan:
    torch.manual_seed(0)
    return Gan(bad)


def test_a_gan_runs_again_through_both_of_its_steps(tmp_path: Path) -> None:
    found = again(tmp_path, gan)
    assert found.steps == [0, 1]
    assert len(found.losses) == 2
    assert found.module.rates == ([[0.05], [0.005]], 0.05)
    assert all(parameter.requires_grad for parameter in found.module.parameters())


def test_a_step_that_is_toggled_gives_gradients_to_its_own_network(tmp_path: Path) -> None:
    found = again(tmp_path, gan, Again(1, until=1))
    assert found.steps == [0]
    assert {name.partition(".")[0] for name in found.gradients} == {"discriminator"}


def test_a_schedule_that_the_step_moves_stays_where_it_was(tmp_path: Path) -> None:
    fitted = fit(tmp_path, gan(), Again(), max_epochs=1)
    assert [config.scheduler.last_epoch for config in fitted.trainer.lr_scheduler_configs] == [5, 5]


def test_a_generator_that_breaks_after_the_discriminators_step_is_blamed(tmp_path: Path) -> None:
    fitted = fit(tmp_path, gan(bad=2), monitor(tmp_path, on_nonfinite="raise"), max_epochs=1, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    [incident] = events(tmp_path, "incident")
    origin = incident["origin"]
    assert (origin["phase"], origin["op"], origin["transition"]) == ("forward", "log", "finite->inf")
    assert origin["source"]["code"].endswith("# the generator's")
    assert (incident["batch_idx"], incident["reproduced"]) == (2, True)
    short = fit(tmp_path / "short", gan(), max_epochs=1, limit_train_batches=2)
    assert equal(weights(fitted.module.generator), weights(short.module.generator))


class Several(Manual):
    """Three steps a batch, of which the last gradient of batch 2 is bad."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        for turn in range(3):
            loss = Classifier.training_step(self, batch, batch_idx)
            if (batch_idx, turn) == (2, 2):
                loss = loss + (loss * 0.0).sqrt()  # turn 2 of batch 2
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()


def test_the_guilty_one_of_several_steps_in_a_batch_is_found(tmp_path: Path) -> None:
    assert again(tmp_path / "again", partial(seeded, Several), Again(1), limit_train_batches=2).steps == [0, 0, 0]
    fit(tmp_path, seeded(Several), monitor(tmp_path), max_epochs=1, expect=NonFiniteError)
    [incident] = events(tmp_path, "incident")
    origin = incident["origin"]
    assert (origin["phase"], origin["op"]) == ("backward", "sqrt")
    assert origin["source"]["code"].endswith("# turn 2 of batch 2")
    assert (incident["batch_idx"], incident["step"]) == (2, 8)


def test_one_optimizer_comes_alone_and_several_in_a_list(tmp_path: Path) -> None:
    class Asking(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            unwrapped: Any = self.optimizers(use_pl_optimizer=False)
            self.asked = [isinstance(optimizer, list), isinstance(unwrapped, list), self.lr_schedulers()]
            super().training_step(batch, batch_idx)

    assert again(tmp_path, partial(seeded, Asking)).module.asked == [False, False, None]


def test_a_closure_of_manual_optimization_is_evaluated(tmp_path: Path) -> None:
    class Closing(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()

            def closure() -> Tensor:
                loss = Classifier.training_step(self, batch, batch_idx)
                optimizer.zero_grad()
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

    found = again(tmp_path, partial(seeded, Closing))
    assert (found.steps, len(found.losses)) == ([0], 1)
    assert equal(found.gradients, found.real_gradients)


# -- an optimizer that evaluates its loss several times --------------------------------------------------------------

LBFGS = partial(torch.optim.LBFGS, lr=0.1, max_iter=3)


def test_lbfgs_evaluates_its_closure_on_the_copy(tmp_path: Path) -> None:
    found = again(tmp_path, partial(seeded, optimizer=LBFGS))
    assert found.steps == [0] * len(found.losses)
    assert len(found.losses) == 3
    assert len({float(loss) for loss in found.losses}) == 3


def test_a_bad_evaluation_of_lbfgs_is_blamed_on_its_operation(tmp_path: Path) -> None:
    evaluations = 0

    def fault(module: Any, loss: Tensor, batch: int) -> Tensor:
        nonlocal evaluations
        evaluations = evaluations + 1 if batch == 2 else 0
        far = module.start is not None and not torch.equal(module.body.weight, module.start)
        module.start = module.body.weight.detach().clone() if evaluations == 1 else module.start
        return loss + (loss * 0.0).log() if batch == 2 and far else loss  # the birth

    class Moving(Classifier):
        start: Tensor | None = None

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.start = self.body.weight.detach().clone()

    module = seeded(Moving, optimizer=LBFGS, fault=fault)
    fit(tmp_path, module, monitor(tmp_path), max_epochs=1, expect=NonFiniteError)
    origin = events(tmp_path, "incident")[0]["origin"]
    assert (origin["phase"], origin["op"]) == ("forward", "log")
    assert origin["source"]["code"].endswith("# the birth")
