"""The callback in Lightning: where it acts, what it publishes, what it leaves alone."""

from __future__ import annotations

import copy
import logging
import math
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradwatch import NonFiniteError, NumericalHealthMonitor
from tests.integrations.fits import (
    Classifier,
    Manual,
    data,
    equal,
    events,
    failures,
    fit,
    monitor,
    seeded,
    watched_nowhere,
    weights,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAN = math.nan
MODULES = pytest.mark.parametrize("kind", [Classifier, Manual], ids=["automatic", "manual"])


def nan_loss(*batches: int, epoch: int = 0) -> Any:
    """A fault that makes the loss NaN in these batches."""
    return lambda module, loss, batch: loss * NAN if batch in batches and module.current_epoch == epoch else loss


@pytest.fixture(autouse=True)
def _no_failure_of_its_own(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A test that passes although the monitor has failed inside shows nothing."""
    yield
    assert failures(caplog.messages) == []


# -- gradients and clipping ------------------------------------------------------------------------------------------


@MODULES
def test_the_modules_own_hook_sees_unclipped_gradients_and_what_it_changes_is_clipped_after_it(
    kind: type[Classifier], tmp_path: Path
) -> None:
    seen: list[float] = []

    def double(module: Any, _: int) -> None:
        seen.append(float(torch.stack([p.grad.norm() for p in module.parameters()]).norm()))
        for parameter in module.parameters():
            parameter.grad.mul_(2)

    fitted = fit(tmp_path, seeded(kind, spoil=double), monitor(tmp_path, clip=0.01), max_epochs=1)
    assert fitted.error is None
    assert min(seen) > 0.02
    for event, own in zip(events(tmp_path, "step"), seen, strict=True):
        assert event["grad_norm"] == pytest.approx(2 * own, rel=1e-5)
        assert event["clip"]["clipped"]
        assert event["clip"]["coefficient"] == pytest.approx(0.01 / (2 * own), rel=1e-3)


@MODULES
@pytest.mark.parametrize("limit", [0.5, 0.1])
def test_clipping_ends_as_with_clip_grad_norm(limit: float, kind: type[Classifier], tmp_path: Path) -> None:
    def clip(module: Any, _: int) -> None:
        nn.utils.clip_grad_norm_(module.parameters(), limit)

    # Not Adam: the bias before a normalisation has a gradient of nothing but rounding, which Adam makes a full step of.
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    plain = fit(tmp_path / "plain", seeded(kind, optimizer=sgd, spoil=clip))
    ours = fit(tmp_path, seeded(kind, optimizer=sgd), monitor(tmp_path, clip=limit))
    assert events(tmp_path, "step")[-1]["clip"]["rate"] > 0
    for name, tensor in weights(ours.module).items():
        torch.testing.assert_close(tensor, weights(plain.module)[name], rtol=1e-5, atol=1e-6)


def test_the_trainers_own_clipping_wins_and_is_recorded(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(), gradient_clip_val=0.1)
    ours = fit(tmp_path, seeded(), monitor(tmp_path, clip=1e-9), gradient_clip_val=0.1)
    assert equal(weights(plain.module), weights(ours.module))
    assert events(tmp_path, "run_start")[0]["clip"]["max_norm"] == 0.1
    for event in events(tmp_path, "step"):
        assert event["clip"]["clipped"] == (event["grad_norm"] > 0.1)


def test_clipping_by_value_is_measured(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(), gradient_clip_val=0.001, gradient_clip_algorithm="value")
    ours = fit(
        tmp_path, seeded(), monitor(tmp_path, clip=1e-9), gradient_clip_val=0.001, gradient_clip_algorithm="value"
    )
    assert equal(weights(plain.module), weights(ours.module))
    for event in events(tmp_path, "step"):
        assert 0 < event["clip"]["coefficient"] < 0.5
        assert event["clip"]["max_norm"] is None
        assert event["grad_norm"] * event["clip"]["coefficient"] <= 0.001 * math.sqrt(66) * (1 + 1e-5)


def test_auto_clips_by_the_architecture(tmp_path: Path) -> None:
    class Recurrent(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 2)

    fit(tmp_path, Recurrent, NumericalHealthMonitor(dirpath=tmp_path), max_epochs=1)
    assert events(tmp_path, "run_start")[0]["clip"]["max_norm"] == 0.25


# -- decisions -------------------------------------------------------------------------------------------------------


@MODULES
def test_raise_ends_the_fit_with_the_weights_of_before(kind: type[Classifier], tmp_path: Path) -> None:
    short = fit(tmp_path / "short", seeded(kind), limit_train_batches=3, max_epochs=1)
    fitted = fit(tmp_path, seeded(kind, fault=nan_loss(3)), monitor(tmp_path), expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert equal(weights(fitted.module), weights(short.module))
    assert (fitted.error.incident.step, fitted.error.incident.batch_idx) == (3, 3)
    assert [event["status"] for event in events(tmp_path, "run_end")] == ["nonfinite"]


@MODULES
@pytest.mark.parametrize("bad", [0, 3])
def test_skip_is_as_if_the_batch_had_not_been_there(kind: type[Classifier], bad: int, tmp_path: Path) -> None:
    x, y = data().dataset.tensors  # type: ignore[attr-defined]
    keep = torch.ones(40, dtype=torch.bool)
    keep[8 * bad : 8 * bad + 8] = False
    without = DataLoader(TensorDataset(x[keep], y[keep]), batch_size=8)
    plain = fit(tmp_path / "plain", seeded(kind), train=without, max_epochs=1)
    fitted = fit(tmp_path, seeded(kind), monitor(tmp_path, on_nonfinite="skip"), train=data(bad=bad), max_epochs=1)
    assert equal(weights(fitted.module), weights(plain.module))
    assert [event["action"] for event in events(tmp_path, "incident")] == ["skipped"]
    assert events(tmp_path, "incident")[0]["first_seen"] == "batch"


def test_skip_gives_up_after_max_skips(tmp_path: Path) -> None:
    bad = monitor(tmp_path, on_nonfinite="skip", max_skips=2)
    fitted = fit(tmp_path, seeded(fault=nan_loss(1, 2, 3)), bad, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert [event["action"] for event in events(tmp_path, "incident")] == ["skipped", "skipped", "raised"]
    assert fitted.error.incident.batch_idx == 3


@MODULES
def test_stop_ends_the_fit_gracefully(kind: type[Classifier], tmp_path: Path) -> None:
    short = fit(tmp_path / "short", seeded(kind), limit_train_batches=2, max_epochs=1)
    fitted = fit(tmp_path, seeded(kind, fault=nan_loss(2)), monitor(tmp_path, on_nonfinite="stop"))
    assert fitted.trainer.global_step == 3
    assert equal(weights(fitted.module), weights(short.module))
    assert [event["status"] for event in events(tmp_path, "run_end")] == ["stopped"]


def test_stop_keeps_dropping_while_min_steps_keeps_the_loop_alive(tmp_path: Path) -> None:
    short = fit(tmp_path / "short", seeded(), limit_train_batches=2, max_epochs=1)
    bad = monitor(tmp_path, on_nonfinite="stop", max_skips=1)
    fitted = fit(tmp_path, seeded(fault=nan_loss(2, 3, 4)), bad, min_steps=5, max_epochs=1)
    assert fitted.trainer.global_step == 5
    assert equal(weights(fitted.module), weights(short.module))
    assert [event["action"] for event in events(tmp_path, "incident")] == ["stopped"]  # one for the streak
    assert [(event["status"], event["skipped_steps"]) for event in events(tmp_path, "run_end")] == [("stopped", 3)]


@MODULES
def test_warn_ends_as_without_the_monitor(kind: type[Classifier], tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", seeded(kind, fault=nan_loss(2)))
    fitted = fit(tmp_path, seeded(kind, fault=nan_loss(2)), monitor(tmp_path, on_nonfinite="warn"))
    a, b = weights(plain.module), weights(fitted.module)
    assert bool(a["head.weight"].isnan().all())
    assert str(a) == str(b)
    assert len(events(tmp_path, "incident")) == 1
    assert events(tmp_path, "run_end")[0]["status"] == "finished"


@pytest.mark.parametrize("guilty", [2, 3])
def test_accumulation_names_the_micro_batch(guilty: int, tmp_path: Path) -> None:
    fit(
        tmp_path,
        seeded(fault=nan_loss(guilty)),
        monitor(tmp_path, on_nonfinite="skip"),
        accumulate_grad_batches=2,
        max_epochs=1,
    )
    incident = events(tmp_path, "incident")[0]
    assert (incident["step"], incident["batch_idx"], incident["first_seen"]) == (1, guilty, "loss")
    assert [event["step"] for event in events(tmp_path, "step")] == [0, 1, 2]


def test_the_logged_loss_is_the_users_under_accumulation(tmp_path: Path) -> None:
    losses: list[float] = []

    def note(_module: Any, loss: Tensor, _: int) -> Tensor:
        losses.append(float(loss.detach()))
        return loss

    fit(tmp_path, seeded(fault=note), monitor(tmp_path), accumulate_grad_batches=2, max_epochs=1)
    expected = [sum(losses[:2]) / 2, sum(losses[2:4]) / 2, losses[4]]
    assert [event["loss"] for event in events(tmp_path, "step")] == pytest.approx(expected, rel=1e-6)


def test_what_adam_makes_in_float16_is_named_at_the_step_of_its_birth(tmp_path: Path) -> None:
    class Half(Classifier):
        def __init__(self) -> None:
            super().__init__(partial(torch.optim.Adam, lr=1e-3))
            self.scale = nn.Parameter(torch.ones(3, dtype=torch.float16))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + (1e-4 * self.scale).float().sum()

    fitted = fit(tmp_path, Half, monitor(tmp_path), log_every_n_steps=50, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    incident = fitted.error.incident
    assert (incident.step, incident.batch_idx, incident.first_seen) == (0, 0, "optimizer")
    assert incident.origin.phase == "optimizer"
    assert incident.affected[0] == "scale"


# -- what others can read --------------------------------------------------------------------------------------------


class Reader(Callback):
    """Reads the metrics as ``ModelCheckpoint`` and ``EarlyStopping`` do."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append({name: float(value) for name, value in trainer.callback_metrics.items()})


@pytest.mark.parametrize("order", [1, -1])
def test_early_stopping_works_in_an_epoch_shorter_than_log_every_n_steps(order: int, tmp_path: Path) -> None:
    stopping = EarlyStopping(monitor="health/grad_norm", patience=0, min_delta=1e9)
    callbacks = [monitor(tmp_path), stopping][::order]
    fitted = fit(tmp_path, seeded(), *callbacks, max_epochs=9, log_every_n_steps=50)
    assert fitted.trainer.current_epoch == 2
    assert stopping.stopped_epoch == 1


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("validation", [False, True])
def test_model_checkpoint_works_in_an_epoch_shorter_than_log_every_n_steps(
    order: int, tmp_path: Path, *, validation: bool
) -> None:
    keep = ModelCheckpoint(tmp_path / "ckpt", monitor="health/grad_norm", mode="min", save_top_k=1)
    callbacks = [monitor(tmp_path), keep][::order]
    fit(tmp_path, seeded(), *callbacks, log_every_n_steps=50, validation=data(2) if validation else None)
    assert keep.best_model_score is not None
    assert float(keep.best_model_score) > 0


def test_model_checkpoint_by_steps_reads_the_value_of_its_step(tmp_path: Path) -> None:
    keep = ModelCheckpoint(
        tmp_path / "ckpt", monitor="health/grad_norm", every_n_train_steps=1, save_top_k=-1, filename="{step}"
    )
    fit(tmp_path, seeded(), monitor(tmp_path), keep, log_every_n_steps=50, max_epochs=1)
    assert len({float(score) for score in keep.best_k_models.values()}) == 5


def test_the_metrics_are_all_there_and_the_users_own_too(tmp_path: Path) -> None:
    class Logging(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            self.log("mine", float(batch_idx), on_step=False, on_epoch=True)
            return loss

    reader = Reader()
    fit(tmp_path, Logging, monitor(tmp_path, clip=0.01, on_nonfinite="skip"), reader, train=data(bad=1))
    for epoch, seen in enumerate(reader.seen):
        assert seen["mine"] == 2.0
        assert seen["health/skipped_steps"] == seen["health/nonfinite"] == epoch + 1
        assert 0 < seen["health/clip_coefficient"] < 1
        assert seen["health/grad_norm_clipped"] == pytest.approx(0.01, rel=1e-3)
        assert seen["health/clip_rate"] == pytest.approx(0.8)


def test_loggers_get_scalars_on_their_own_axis(tmp_path: Path) -> None:
    table, board = CSVLogger(tmp_path, name="csv"), TensorBoardLogger(tmp_path, name="board")
    fit(tmp_path, seeded(), monitor(tmp_path), logger=[table, board], log_every_n_steps=2)
    rows = (tmp_path / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    header = rows[0].split(",")
    steps = [int(row.split(",")[header.index("step")]) for row in rows[1:]]
    assert steps == [1, 3, 5, 7, 9]
    assert {"grad_norm/body", "weight_norm/head", "update_ratio/norm", "health/grad_norm"} <= set(header)
    assert list((tmp_path / "board" / "version_0").glob("events.out.tfevents*"))


def test_no_logger_is_fine(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(), logger=False)
    assert len(events(tmp_path / "gradwatch", "step")) == 10


def test_the_place_is_the_loggers_folder_unless_told_otherwise(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(), logger=CSVLogger(tmp_path, name="csv"), max_epochs=1)
    assert len(events(tmp_path / "csv" / "version_0" / "gradwatch", "step")) == 5


# -- resuming --------------------------------------------------------------------------------------------------------


def checkpointed(path: Path, *callbacks: Any, **arguments: Any) -> Path:
    """Fit for an epoch and save; return the checkpoint."""
    fitted = fit(path, seeded(), *callbacks, max_epochs=1, **arguments)
    fitted.trainer.save_checkpoint(path / "end.ckpt")
    return path / "end.ckpt"


def test_a_resumed_run_counts_on_and_names_the_run_before(tmp_path: Path) -> None:
    first = checkpointed(tmp_path / "a", monitor(tmp_path / "a", on_nonfinite="skip", clip=0.01), train=data(bad=1))
    fit(tmp_path / "b", seeded(), monitor(tmp_path / "b", clip=0.01), ckpt_path=first)
    start = events(tmp_path / "b", "run_start")[0]
    assert start["resumed_from"] == events(tmp_path / "a", "run_start")[0]["run_id"]
    assert (start["step"], start["epoch"]) == (5, 1)
    assert [event["step"] for event in events(tmp_path / "b", "step")] == [5, 6, 7, 8, 9]
    end = events(tmp_path / "b", "run_end")[0]
    assert (end["steps"], end["skipped_steps"], end["incidents"]) == (10, 1, 1)
    assert events(tmp_path / "b", "step")[-1]["clip"]["rate"] == pytest.approx(0.9)


def test_a_checkpoint_from_before_the_monitor_loads(tmp_path: Path) -> None:
    old = checkpointed(tmp_path / "a")
    fit(tmp_path / "b", seeded(), monitor(tmp_path / "b"), ckpt_path=old)
    start, end = events(tmp_path / "b", "run_start")[0], events(tmp_path / "b", "run_end")[0]
    assert (start["resumed_from"], start["step"], end["steps"]) == (None, 5, 5)


def test_a_checkpoint_opens_with_weights_only(tmp_path: Path) -> None:
    path = checkpointed(tmp_path, monitor(tmp_path, on_nonfinite="skip"), train=data(bad=1))
    loaded = torch.load(path, weights_only=True)
    assert loaded["callbacks"]["NumericalHealthMonitor"]["counters"]["skipped"] == 1


def test_the_key_of_the_state_is_fixed_whatever_the_arguments() -> None:
    keys = {monitor().state_key, monitor(clip=3.0, on_nonfinite="warn").state_key}
    assert keys == {"NumericalHealthMonitor"}


def test_a_checkpoint_of_the_twin_package_resumes_too() -> None:
    from gradwatch.integrations.pytorch_lightning import NumericalHealthMonitor as Twin  # noqa: PLC0415

    assert Twin().state_key == monitor().state_key


def test_a_second_fit_with_the_same_callback_is_a_run_of_its_own(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    fit(tmp_path, seeded(), watch, max_epochs=1)
    fit(tmp_path, seeded(), watch, max_epochs=1)
    starts, ends = events(tmp_path, "run_start"), events(tmp_path, "run_end")
    assert len({start["run_id"] for start in starts}) == 2
    assert sorted(end["steps"] for end in ends) == [5, 10]
    assert len(events(tmp_path, "step")) == 10


# -- loops that are not a plain fit ----------------------------------------------------------------------------------


def test_the_sanity_check_does_not_count(tmp_path: Path) -> None:
    watch = monitor(tmp_path)
    fit(tmp_path, seeded(), watch, validation=data(2), num_sanity_val_steps=2, max_epochs=1)
    assert events(tmp_path, "run_start")[0]["step"] == 0
    assert events(tmp_path)[0]["type"] == "run_start"
    assert events(tmp_path, "run_end")[0]["steps"] == 5


def test_fast_dev_run_writes_nothing_and_still_protects(tmp_path: Path) -> None:
    fit(tmp_path, seeded(), monitor(), fast_dev_run=True)
    watch = monitor(tmp_path / "here")
    fitted = fit(tmp_path, seeded(fault=nan_loss(0)), watch, fast_dev_run=2, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("used_before", [False, True])
def test_barebones_is_left_alone(tmp_path: Path, *, used_before: bool) -> None:
    watch = monitor(tmp_path / "here")
    if used_before:
        fit(tmp_path, seeded(), watch, max_epochs=1)
    before = len(events(tmp_path))
    torch.manual_seed(0)
    module = seeded(fault=nan_loss(1))
    trainer = Trainer(barebones=True, callbacks=[watch], max_epochs=1, accelerator="cpu", default_root_dir=tmp_path)
    trainer.fit(module, data())
    assert bool(module.head.weight.isnan().any())
    assert len(events(tmp_path)) == before
    assert "_clip_gradients" not in vars(trainer.precision_plugin)


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("after_fit", [False, True])
def test_validating_and_testing_alone_leave_nothing(stage: str, tmp_path: Path, *, after_fit: bool) -> None:
    watch = monitor(tmp_path / "here")
    module = seeded()
    if after_fit:
        fit(tmp_path, module, watch, max_epochs=1)
    before = len(events(tmp_path))
    with torch.no_grad():
        module.head.weight[0] = NAN
    trainer = Trainer(callbacks=[watch], accelerator="cpu", logger=False, default_root_dir=tmp_path)
    getattr(trainer, stage)(module, data(2), verbose=False)
    assert len(events(tmp_path)) == before


def test_an_empty_loader(tmp_path: Path) -> None:
    empty = DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)), batch_size=8)
    fitted = fit(tmp_path, seeded(), monitor(tmp_path), train=empty)
    assert fitted.error is None
    assert events(tmp_path, "step") == []


def test_batches_without_a_loss(tmp_path: Path) -> None:
    def some(_module: Any, loss: Tensor, batch: int) -> Any:
        return None if batch % 2 else loss

    plain = fit(tmp_path / "plain", seeded(fault=some))
    fitted = fit(tmp_path, seeded(fault=some), monitor(tmp_path))
    assert equal(weights(fitted.module), weights(plain.module))
    found = {event["step"]: event["loss"] for event in events(tmp_path, "step")}
    assert [step for step, loss in found.items() if loss is None] == [1, 3, 6, 8]


class Odd(LightningModule):
    """Any network on pairs of numbers, with a loss that any output can be put into."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if not any(True for _ in self.parameters()):
            return None
        weight: Any = next(self.parameters())
        value = self.network(batch[0] if nn.parameter.is_lazy(weight) else batch[0].to(weight.dtype))
        return value.abs().square().mean().float()

    def configure_optimizers(self) -> Any:
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.SGD(parameters, lr=0.1) if parameters else None


class Times(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Partly(nn.Module):
    """Of its parameters one is frozen, one unused, one used."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.frozen = nn.Linear(4, 2), nn.Linear(4, 2), nn.Linear(4, 2)
        self.frozen.requires_grad_(requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x) + self.frozen(x)


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (partial(Times, torch.complex64), {"network"}),
        (partial(Times, torch.float64), {"network"}),
        (partial(Times, torch.bfloat16), {"network"}),
        (partial(nn.LazyLinear, 2), {"network"}),
        (lambda: nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.Linear(3, 1)), None),
        (Partly, {"network.used", "network.unused"}),
        (nn.Identity, set()),
    ],
    ids=["complex", "float64", "bfloat16", "lazy", "lazy-norm", "partly", "none"],
)
def test_parameters_of_every_kind(network: Any, layers: set[str] | None, tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = fit(tmp_path / "plain", Odd(network()))
    torch.manual_seed(0)
    fitted = fit(tmp_path, Odd(network()), monitor(tmp_path))
    assert equal(weights(fitted.module), weights(plain.module))
    assert [event["status"] for event in events(tmp_path, "run_end")] == ["finished"]
    found = events(tmp_path, "step")
    if layers:
        assert {frozenset(event["layers"]) for event in found} == {frozenset(layers)}
        assert all(event["grad_norm"] > 0 for event in found)
    if layers is None:
        assert all(event["grad_norm"] > 0 for event in found)


def test_a_layer_that_is_never_used_has_no_norm(tmp_path: Path) -> None:
    fit(tmp_path, Odd(Partly()), monitor(tmp_path))
    assert {event["layers"]["network.unused"]["grad_norm"] for event in events(tmp_path, "step")} == {None}


def test_parameters_that_are_unfrozen_during_training(tmp_path: Path) -> None:
    class Unfreeze(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.optimizers[0].add_param_group({"params": list(pl_module.body.parameters())})

    def head(parameters: Any) -> Any:
        return torch.optim.SGD(list(parameters)[2:], lr=0.1)

    plain = fit(tmp_path / "plain", seeded(optimizer=head), Unfreeze())
    fitted = fit(tmp_path, seeded(optimizer=head), Unfreeze(), monitor(tmp_path))
    assert equal(weights(fitted.module), weights(plain.module))
    layers = [set(event["layers"]) for event in events(tmp_path, "step")]
    assert layers == [{"norm", "head"}] * 5 + [{"body", "norm", "head"}] * 5


# -- when something breaks -------------------------------------------------------------------------------------------


def test_a_fit_leaves_no_hook_behind(tmp_path: Path) -> None:
    assert watched_nowhere(fit(tmp_path, seeded(), monitor(tmp_path)).trainer)


@pytest.mark.parametrize(
    ("error", "raised", "status"),
    [
        (ArithmeticError("first line\nsecond"), ArithmeticError, "exception"),
        (KeyboardInterrupt(), (SystemExit, KeyboardInterrupt), "interrupted"),
        (SIGTERMException(), SIGTERMException, "interrupted"),
    ],
    ids=["error", "keyboard", "sigterm"],
)
def test_an_exception_of_the_users_closes_the_run(
    error: BaseException, raised: Any, status: str, tmp_path: Path
) -> None:
    def fault(_module: Any, loss: Tensor, batch: int) -> Tensor:
        if batch == 3:
            raise error
        return loss * NAN if batch == 1 else loss

    fitted = fit(tmp_path, seeded(fault=fault), monitor(tmp_path, on_nonfinite="skip"), expect=raised)
    assert fitted.error is not None
    assert watched_nowhere(fitted.trainer)
    assert not torch.is_anomaly_enabled()  # armed by the skip, and switched on when the error came
    end = events(tmp_path, "run_end")
    assert [(event["status"], event["steps"]) for event in end] == [(status, 3)]
    assert end[0]["reason"].startswith(type(error).__name__)
    assert "second" not in end[0]["reason"]


def test_an_exception_in_validation_closes_the_run_outside_of_a_batch(tmp_path: Path) -> None:
    class Failing(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            raise ArithmeticError

    fit(tmp_path, Failing, monitor(tmp_path), validation=data(2), expect=ArithmeticError)
    end = events(tmp_path, "run_end")[0]
    assert (end["status"], end["steps"], end["batch_idx"], end["reason"]) == ("exception", 5, None, "ArithmeticError")


@pytest.mark.parametrize("limit", [{"max_steps": 0}, {"max_epochs": 0}, {"limit_train_batches": 0}])
def test_a_fit_without_steps(limit: dict[str, Any], tmp_path: Path) -> None:
    assert fit(tmp_path, seeded(), monitor(tmp_path), **limit).error is None
    assert events(tmp_path, "step") == []


@pytest.mark.parametrize("mode", [True, False])
def test_the_trainers_anomaly_mode_is_not_weakened(tmp_path: Path, *, mode: bool) -> None:
    seen: list[tuple[bool, bool]] = []

    def note(_module: Any, loss: Tensor, batch: int) -> Tensor:
        seen.append((torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()))
        if batch == 1 and len(seen) == 2:  # an infinite gradient: the checking mode looks for NaN only
            return loss * math.inf
        return loss

    before = torch.is_anomaly_check_nan_enabled()
    watch = monitor(tmp_path, on_nonfinite="skip", anomaly_steps=3)
    fit(tmp_path, seeded(fault=note), watch, detect_anomaly=mode, expect=RuntimeError)
    if mode:
        assert set(seen) == {(True, True)}
    else:
        assert [on for on, _ in seen] == [False] * 2 + [True] * 3 + [False] * 5
        assert seen[2] == (True, False)
    assert not torch.is_anomaly_enabled()
    assert torch.is_anomaly_check_nan_enabled() == before


@pytest.mark.parametrize("mode", ["skip", "warn"])
def test_anomaly_mode_does_not_change_the_outcome(mode: str, tmp_path: Path) -> None:
    ends = []
    for steps in (0, 100):
        path = tmp_path / str(steps)
        fitted = fit(path, seeded(fault=nan_loss(1, 3)), monitor(path, on_nonfinite=mode, anomaly_steps=steps))
        ends.append(weights(fitted.module))
    assert str(ends[0]) == str(ends[1])


@pytest.mark.parametrize("order", [1, -1])
def test_a_logger_that_raises_is_a_warning(order: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(CSVLogger):
        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if any(name.startswith("health/") for name in metrics):
                message = "server is gone"
                raise ConnectionError(message)

    fine = CSVLogger(tmp_path, name="fine")
    fit(tmp_path, seeded(), monitor(tmp_path), logger=[Broken(tmp_path, name="broken"), fine][::order])
    assert len([message for message in caplog.messages if "server is gone" in message]) == 1
    assert len(events(tmp_path, "step")) == 10
    assert "health/grad_norm" in (tmp_path / "fine" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize("fault", [None, 2])
def test_a_file_in_the_place_of_dirpath_is_a_warning(
    fault: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "file"
    place.write_text("in the way")
    module = seeded() if fault is None else seeded(fault=nan_loss(fault))
    fitted = fit(tmp_path, module, monitor(place), expect=NonFiniteError)
    assert (fitted.error is None) == (fault is None)
    assert place.read_text() == "in the way"
    assert any("cannot be written" in message for message in caplog.messages)


# -- copies of the module --------------------------------------------------------------------------------------------


def test_copies_of_the_module_carry_nothing_of_the_monitor(tmp_path: Path) -> None:
    copies: list[Any] = []

    class Copying(Callback):
        """After the monitor's own hooks, in the middle of a batch."""

        def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            text = pickle.dumps(pl_module)
            assert b"gradwatch" not in text
            copies.extend([copy.deepcopy(pl_module), pickle.loads(text)])
            assert b"gradwatch" not in pickle.dumps(optimizer)

    fit(tmp_path, Odd(Partly()), monitor(tmp_path), Copying(), max_epochs=1)
    assert len(copies) == 10
    for module in copies:
        assert "gradwatch" not in repr([vars(child) for child in module.modules()])
        assert all(
            not getattr(child, name)
            for child in module.modules()
            for name in vars(child)
            if name.endswith("_hooks") and not name.startswith("_load_state_dict")
        )


# -- state before checkpoints ----------------------------------------------------------------------------------------


class Spoiler(Callback):
    """Writes a NaN into a weight after a batch, as a broken weight average does."""

    def __init__(self, batch_idx: int) -> None:
        self.batch_idx = batch_idx

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.batch_idx:
            with torch.no_grad():
                pl_module.head.bias[0] = NAN


@pytest.mark.parametrize("weights_only", [False, True])
@MODULES
def test_a_checkpoint_after_the_weights_turned_bad_is_preceded_by_a_scan(
    kind: type[Classifier], tmp_path: Path, *, weights_only: bool
) -> None:
    keep = ModelCheckpoint(
        tmp_path / "ckpt",
        every_n_train_steps=1,
        save_weights_only=weights_only,
        save_top_k=-1,
        filename="{step}",
        auto_insert_metric_name=False,
    )
    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(tmp_path, seeded(kind), Spoiler(2), watch, keep, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert (fitted.error.incident.first_seen, fitted.error.incident.affected) == ("parameter", ["head.bias"])
    assert fitted.error.incident.step == 2
    saved = sorted(path.stem for path in (tmp_path / "ckpt").glob("*.ckpt"))
    assert saved == ["1", "2"]


@pytest.mark.parametrize("validation", [False, True])
@pytest.mark.parametrize("weights_only", [False, True])
def test_the_checkpoint_of_an_epoch_is_preceded_by_a_scan(
    tmp_path: Path, *, validation: bool, weights_only: bool
) -> None:
    keep = ModelCheckpoint(tmp_path / "ckpt", save_weights_only=weights_only)
    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(
        tmp_path,
        seeded(),
        Spoiler(4),
        watch,
        keep,
        validation=data(2) if validation else None,
        expect=NonFiniteError,
    )
    assert isinstance(fitted.error, NonFiniteError)
    assert not list((tmp_path / "ckpt").glob("*.ckpt"))


def test_a_checkpoint_that_the_user_saves_is_preceded_by_a_scan(tmp_path: Path) -> None:
    class Saver(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "mine.ckpt")

    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(tmp_path, seeded(), Spoiler(2), Saver(), watch, expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert not (tmp_path / "mine.ckpt").exists()


def test_weights_that_validation_spoils_are_found_before_training_goes_on(tmp_path: Path) -> None:
    class Average(Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            with torch.no_grad():
                pl_module.body.weight[0, 0] = math.inf

    watch = monitor(tmp_path, log_every_n_steps=50)
    fitted = fit(tmp_path, seeded(), Average(), watch, validation=data(2), expect=NonFiniteError)
    assert isinstance(fitted.error, NonFiniteError)
    assert fitted.error.incident.affected == ["body.weight"]
    assert fitted.error.incident.batch_idx is None


def test_weights_that_turn_bad_with_the_last_batch_are_found_at_the_end(tmp_path: Path) -> None:
    watch = monitor(tmp_path, log_every_n_steps=50, on_nonfinite="warn")
    fit(tmp_path, seeded(), Spoiler(4), watch, max_epochs=1)
    assert [event["affected"] for event in events(tmp_path, "incident")] == [["head.bias"]]


# -- the start -------------------------------------------------------------------------------------------------------


def test_the_start_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="gradwatch")
    fit(tmp_path, seeded(), monitor(tmp_path, clip=0.5), max_epochs=1)
    assert len([message for message in caplog.messages if "gradients are clipped to L2 norm 0.5" in message]) == 1
    assert len([message for message in caplog.messages if "training finished" in message]) == 1


def test_two_monitors_in_one_trainer_are_refused_by_lightning(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="state_key"):
        Trainer(callbacks=[monitor(tmp_path), monitor(tmp_path)], accelerator="cpu", logger=False)
