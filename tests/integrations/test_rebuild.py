"""What a folder holds becomes the module of the failing step again, bit by bit, and the step fails in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from gradwatch import load_incident
from gradwatch.engine.incident_bundle import failure_of
from gradwatch.engine.replay import Replayer
from gradwatch.integrations.making import RebuildError
from gradwatch.integrations.rebuild import rebuild
from gradwatch.replica.bundle import load
from tests.integrations import replay_modules as modules
from tests.integrations.replay_modules import BAD, WIDTH, breaking
from tests.integrations.replays import edit, incident_of, incident_of_loop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from gradwatch.integrations.rebuild import Rebuilt

CPU = torch.device("cpu")
HERE = modules.__name__


def rebuilt(folder: Path, factory: str | None = None) -> Rebuilt:
    return rebuild(load(folder), factory=factory, device=CPU)


def operation(folder: Path, parts: Rebuilt) -> str:
    """The operation that another replay of the step blames."""
    root: Any = Replayer(parts.module, parts.optimizers, parts.runner).trace(failure_of(load(folder))).root
    return root.identity.op


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Whether parameters, buffers, ties and flags are the same."""
    pairs = zip(a.named_modules(), b.named_modules(), strict=True)
    return _tensors(a) == _tensors(b) and all(
        (n, p.training) == (m, q.training) for (n, p), (m, q) in pairs if "score" not in n
    )


def _tensors(module: nn.Module) -> dict[str, Any]:
    named = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: (value.dtype, value.requires_grad, value.tolist()) for name, value in named}


STATEFUL: list[Callable[[], Any]] = [
    modules.Plain,
    lambda: modules.Sized(WIDTH, {"heads": {"count": 2}, "bias": False}, factor=2.0),
    lambda: modules.Together({"width": WIDTH, "heads": 2}),
    modules.TwinPackage,
    modules.Configured,
    modules.Lazy,
    modules.Parametrized,
    modules.Tied,
    modules.HalfFrozen,
    modules.Random,
    modules.OneCycle,
    modules.TwoOptimizers,
]
NAMES = ["no argument", "nested", "one argument", "pytorch_lightning", "configured", "lazy"]
NAMES += ["parametrized", "tied", "half frozen", "random", "one cycle", "two optimizers"]


@pytest.mark.parametrize("make", STATEFUL, ids=NAMES)
def test_state_and_verdict_are_the_same_again(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = make()
    folder = incident_of(tmp_path, module)
    torch.manual_seed(1)  # what is drawn here must not matter
    parts = rebuilt(folder)
    assert same_state(parts.module, module)
    assert type(parts.module).__name__ == type(module).__name__
    assert operation(folder, parts) == load_incident(folder).origin.op == "log"


def test_hyperparameters_reach_the_constructor(tmp_path: Path) -> None:
    module = modules.Sized(WIDTH, {"heads": {"count": 2}, "bias": False, "rates": [0.1, None]}, torch.half, 3.0)
    folder = incident_of(tmp_path, module)
    again: Any = rebuilt(folder).module
    assert again.factor == 3.0
    assert again.hparams["options"] == {"heads": {"count": 2}, "bias": False, "rates": [0.1, None]}
    assert again.activation is None
    assert load(folder).notes == ["fact runner.hyperparameters.activation is a dtype, no plain value: left out"]


def test_buffers_are_those_from_before_the_step(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.Buffers())
    again: Any = rebuilt(folder).module
    assert again.steps.item() == again.late.item() == BAD
    assert operation(folder, rebuilt(folder)) == "log"


@pytest.mark.parametrize("kind", ["torch", "numpy", "python"])
def test_random_numbers_are_those_of_the_step(kind: str, tmp_path: Path) -> None:
    module: Any = modules.Random()
    folder = incident_of(tmp_path, module)
    parts = rebuilt(folder)
    again: Any = parts.module
    bundle = load(folder)
    again.expected = module.drawn
    good = [bundle.batches[0].abs()]
    failure = failure_of(bundle)
    failure = failure._replace(moments=[failure.moments[0]._replace(batch=good[0])])
    replayer = Replayer(again, parts.optimizers, parts.runner)
    assert not replayer.trace(failure).is_bad  # the very same numbers were drawn
    states = bundle.random_states[0]
    states.update({"torch": {"cpu": torch.Generator().manual_seed(9).get_state()}}.get(kind, {kind: None}))
    other = failure_of(bundle)
    other = other._replace(moments=[other.moments[0]._replace(batch=good[0])])
    assert replayer.trace(other).is_bad


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true", "16-true", "bf16-true"])
def test_precisions(precision: Any, tmp_path: Path) -> None:
    module = modules.Plain()
    folder = incident_of(tmp_path, module, precision=precision)
    parts = rebuilt(folder)
    assert same_state(parts.module, module)
    assert operation(folder, parts) == load_incident(folder).origin.op == "log"
    root: Any = Replayer(parts.module, parts.optimizers, parts.runner).trace(failure_of(load(folder))).root
    assert [s.dtype for s in root.inputs] == [s.dtype for s in load_incident(folder).origin.inputs]


def test_fp16_with_a_scaler_on_the_cpu(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    folder = incident_of(tmp_path, modules.Plain(), plugins=[MixedPrecision("16-mixed", "cpu", scaler)])
    parts = rebuilt(folder)
    assert failure_of(load(folder)).loss_scale == 64.0
    assert operation(folder, parts) == load_incident(folder).origin.op == "log"


def test_the_guilty_micro_batch_in_the_middle_of_a_window(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.Plain(), batches=breaking(bad=1), accumulate_grad_batches=4)
    failure = failure_of(load(folder))
    assert [moment.batch_idx for moment in failure.moments] == [0, 1]
    assert not failure.with_step
    assert operation(folder, rebuilt(folder)) == "log"


def test_an_overflow_of_the_sum_over_the_window(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.LargeSum(), batches=breaking(bad=None), accumulate_grad_batches=4)
    recorded = load_incident(folder)
    parts = rebuilt(folder)
    traced = Replayer(parts.module, parts.optimizers, parts.runner).trace(failure_of(load(folder)))
    root: Any = traced.root
    assert traced.bad_gradients == 1
    assert root.identity.op == recorded.origin.op


def test_the_state_of_lbfgs_comes_back(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.Quadratic(), batches=breaking(bad=None, batches=20))
    bundle = load(folder)
    parts = rebuilt(folder)
    assert isinstance(parts.optimizers[0], torch.optim.LBFGS)
    saved: Any = bundle.optimizer_state
    (state,) = parts.optimizers[0].state.values()
    assert state["func_evals"] == saved[0]["state"][0]["func_evals"]
    assert operation(folder, parts) == load_incident(folder).origin.op == "log"


@pytest.mark.parametrize("make", [modules.Plain, modules.Sized], ids=["good", "missing arguments"])
def test_a_factory_stands_in_for_the_class(make: Any, tmp_path: Path) -> None:
    module = modules.Plain()
    folder = incident_of(tmp_path, module)
    parts = rebuilt(folder, f"{HERE}:plain")
    assert same_state(parts.module, module)
    assert operation(folder, parts) == "log"


@pytest.mark.parametrize(
    ("factory", "reason"),
    [
        ("no_such_package.nowhere:make", "ModuleNotFoundError: No module named 'no_such_package'"),
        (f"{HERE}:nobody", "is not there"),
        (f"{HERE}:NOT_CALLABLE", "is a int, which cannot be called"),
        (f"{HERE}:raising", "failed: KeyError: 'first line"),
        (f"{HERE}:leaving", "failed: SystemExit: 3"),
        (f"{HERE}:endless", "failed: RecursionError"),
        (f"{HERE}:a_number", "gave a int, which is no torch module"),
        (f"{HERE}:needy", "needs the argument width"),
        (f"{HERE}:Net", "Net is no LightningModule of lightning"),
        (f"{HERE}:TwinPackage", "TwinPackage is no LightningModule of lightning"),
        (HERE, "expected package.module:name"),
        (f"{HERE}:", "expected package.module:name"),
        (":plain", "expected package.module:name"),
        ("..:plain", "cannot be imported here"),
        ("", "expected package.module:name"),
    ],
)
def test_a_factory_that_does_not_do(factory: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RebuildError) as raised:
        rebuilt(incident_of(tmp_path, modules.Plain()), factory)
    assert reason in str(raised.value)
    assert "--factory" in str(raised.value) or "LightningModule" in str(raised.value) or factory in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_argument_is_named(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.Forgetful(WIDTH, 2))
    with pytest.raises(RebuildError, match=r"Forgetful needs the argument width, .*--factory package.module:function"):
        rebuilt(folder)


def test_a_required_argument_that_was_left_out_is_named(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.Sized(WIDTH, {"heads": {"count": 1}, "bias": False}))
    edit(folder, lambda index: index["facts"]["runner"]["hyperparameters"].pop("options"))
    with pytest.raises(RebuildError, match="needs the argument options,"):
        rebuilt(folder)


def test_a_class_inside_a_function_needs_a_factory(tmp_path: Path) -> None:
    class Local(modules.Plain):
        pass

    folder = incident_of(tmp_path, Local())
    with pytest.raises(RebuildError, match=r"<locals>.Local stands inside a function .*--factory"):
        rebuilt(folder)
    assert operation(folder, rebuilt(folder, f"{HERE}:plain")) == "log"


@pytest.mark.parametrize(
    "error", [RuntimeError("no\nlicence"), SystemExit(1), KeyError("x"), RecursionError(), MemoryError()]
)
def test_a_constructor_that_fails_is_one_line(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = incident_of(tmp_path, modules.Grumpy())
    monkeypatch.setattr(modules.Grumpy, "now", error, raising=False)
    with pytest.raises(RebuildError, match=f"Grumpy failed: {type(error).__name__}") as raised:
        rebuilt(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("hook", ["configure_model", "configure_optimizers"])
def test_a_hook_that_fails_is_named(hook: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = incident_of(tmp_path, modules.TwoOptimizers())

    def fail(self: Any) -> None:
        message = "not here"
        raise LookupError(message)

    monkeypatch.setattr(modules.TwoOptimizers, hook, fail)
    with pytest.raises(RebuildError, match=f"TwoOptimizers.{hook} failed: LookupError: not here"):
        rebuilt(folder)


def test_a_setup_that_needs_data_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = incident_of(tmp_path, modules.DataInSetup())
    monkeypatch.setattr(modules.DataInSetup, "data_are_here", False)
    assert operation(folder, rebuilt(folder)) == "log"


def test_a_setup_that_needs_data_to_make_layers_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = incident_of(tmp_path, modules.LayersFromData())
    assert operation(folder, rebuilt(folder)) == "log"
    monkeypatch.setattr(modules.DataInSetup, "data_are_here", False)
    with pytest.raises(RebuildError, match=r'setup\("fit"\) failed: FileNotFoundError: no data here.*--factory'):
        rebuilt(folder)


@pytest.mark.parametrize(
    ("fact", "value", "reason"),
    [
        ("runner", None, "how the step was run"),
        ("runner.kind", "magic", "how the step was run"),
        ("runner.package", "os", "'os', expected one of lightning, pytorch_lightning"),
        ("runner.precision", "7-bit", "no Trainer for precision 7-bit"),
        ("runner.hyperparameters", [1], "hyperparameters are no dictionary"),
        ("runner.module", None, "the class is 'None', which cannot be imported"),
        ("runner.module", "os:sep", "os:sep is a str, which cannot be called"),
        ("runner.module", "datetime:date", "datetime:date failed: TypeError"),
        ("runner.module", "__main__:Net", "has no `if __name__"),
        ("frozen", 3, "frozen is a int"),
        ("optimizer", 10**9, "optimizer 1000000000 of the incident is not among the 1"),
        ("optimizer", -1, "optimizer -1 of the incident is not among the 1"),
    ],
)
def test_facts_of_another_shape(fact: str, value: Any, reason: str, tmp_path: Path) -> None:
    def change(index: dict[str, Any]) -> None:
        *path, name = fact.split(".")
        (index["facts"][path[0]] if path else index["facts"])[name] = value

    folder = incident_of(tmp_path, modules.Plain())
    edit(folder, change)
    with pytest.raises(RebuildError) as raised:
        rebuilt(folder)
    assert reason in str(raised.value)


@pytest.mark.parametrize(("file", "reason"), [(None, "not known here"), ("/no/where.py", "cannot be read here")])
def test_a_script_that_is_not_here(file: str | None, reason: str, tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.Plain())
    edit(folder, lambda index: index["facts"]["runner"].update(module="__main__:Net", file=file))
    with pytest.raises(RebuildError) as raised:
        rebuilt(folder)
    assert reason in str(raised.value)
    assert "--factory" in str(raised.value)


def test_weights_of_another_model(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.Plain())
    torch.save({"layer.weight": torch.ones(1, WIDTH), "other": torch.ones(1)}, folder / "weights.pt")
    with pytest.raises(RebuildError, match=r"has other parameters: other; "):
        rebuilt(folder)
    torch.save({"layer.weight": torch.ones(5, WIDTH)}, folder / "weights.pt")
    with pytest.raises(RebuildError, match=r"layer.weight has shape \(1, 3\) here and \(5, 3\) in the incident"):
        rebuilt(folder)
    torch.save({"layer.weight": torch.ones(1, WIDTH).to_sparse()}, folder / "weights.pt")
    with pytest.raises(RebuildError, match=r"layer\.weight cannot take the value"):
        rebuilt(folder)


def test_a_buffer_without_a_place(tmp_path: Path) -> None:
    folder = incident_of(tmp_path, modules.HalfFrozen())
    with pytest.raises(RebuildError, match=r"other parameters|no place for the buffer"):
        rebuilt(folder, f"{HERE}:plain")
    bundle = load(folder)
    bundle.buffers["gone.running_mean"] = torch.ones(1)
    with pytest.raises(RebuildError, match=r"no place for the buffer gone.running_mean: AttributeError"):
        rebuild(bundle, factory=None, device=CPU)


def test_a_loop_written_by_hand(tmp_path: Path) -> None:
    module = modules.Net()
    folder = incident_of_loop(tmp_path, module)
    parts = rebuilt(folder)
    assert torch.equal(parts.module.layer.weight, module.layer.weight)  # type: ignore[union-attr,arg-type]
    assert parts.module.norm.num_batches_tracked.item() == BAD  # type: ignore[union-attr,operator]
    assert operation(folder, parts) == load_incident(folder).origin.op == "log"


def test_a_loss_function_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    folder = incident_of_loop(tmp_path, loss=lambda module, batch: modules.loss_of(module, batch))  # noqa: PLW0108
    assert load_incident(folder).origin.op == "log"  # in the run itself it does
    with pytest.raises(RebuildError, match=r"the loss function is .*<lambda>', which cannot be imported"):
        rebuilt(folder)
    edit(folder, lambda index: index["facts"]["runner"].update(function="__main__:loss"))
    with pytest.raises(RebuildError, match="the loss function __main__:loss stands in the script that was run"):
        rebuilt(folder)
