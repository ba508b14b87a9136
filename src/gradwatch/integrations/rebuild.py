"""Module, optimizers and runner of an incident, rebuilt in another process from what its folder says."""

from __future__ import annotations

import logging
import tempfile
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn.parameter import is_lazy

from gradwatch.integrations.lightning_step import LightningStep
from gradwatch.integrations.making import HINT, RebuildError, imported, made_module, one_line, user_code
from gradwatch.replica.step_runner import LossFunctionRunner

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from gradwatch.replica.bundle import Bundle
    from gradwatch.replica.step_runner import StepRunner

PACKAGES = ("lightning", "pytorch_lightning")
MAX_OPTIMIZERS = 64  # what is read from a file is no reason to make a million of them


class Rebuilt(NamedTuple):
    """What a replay runs on."""

    module: nn.Module
    optimizers: list[Optimizer]
    runner: StepRunner


def rebuild(bundle: Bundle, *, factory: str | None, device: torch.device) -> Rebuilt:
    """Return the module with the state of the failing step, and how to run it.

    Args:
        bundle: what the incident's folder holds.
        factory: ``package.module:function`` that returns the module, where its class and hyperparameters do not do.
        device: where the step is to run.

    Raises:
        RebuildError: something is missing here, or does not fit.
    """
    facts = bundle.facts.get("runner")
    if not isinstance(facts, dict) or facts.get("kind") not in ("lightning", "function"):
        raise RebuildError("replay.json does not say how the step was run")
    if bundle.weights is None:
        raise RebuildError("the weights were left out of this incident: " + "; ".join(bundle.notes))
    module = made_module(factory, facts)
    if facts["kind"] == "lightning":
        return _rebuilt_lightning(module, bundle, facts, device)
    function = imported(str(facts.get("function")), "the loss function")
    _fill(module, bundle)
    return Rebuilt(module.to(device), _any_optimizer(module, bundle), LossFunctionRunner(function))


def _rebuilt_lightning(module: nn.Module, bundle: Bundle, facts: dict[str, Any], device: torch.device) -> Rebuilt:
    package = facts.get("package")
    if package not in PACKAGES:
        raise RebuildError(f"replay.json names {package!r}, expected one of {', '.join(PACKAGES)}")
    with user_code(f"{package} is needed here"):
        lightning: Any = import_module("lightning.pytorch" if package == "lightning" else package)
    if not isinstance(module, lightning.LightningModule):
        raise RebuildError(f"{type(module).__name__} is no LightningModule of {package}")
    trainer = _trainer(lightning, str(facts.get("precision")), device)
    trainer.strategy.connect(module)
    module.trainer = trainer
    _configure(module, trainer, bundle)
    _fill(module, bundle)
    optimizers, schedulers = _optimizers(lightning, module.to(device), bundle)
    _fill(module, bundle)  # once more: configure_optimizers may run the module, and freeze what it likes
    module.to(device)
    names = ("current_epoch", "global_step", "accumulate_grad_batches", "global_rank", "local_rank", "world_size")
    overrides = {name: facts[name] for name in names if name in facts}
    trainer.strategy.optimizers, trainer.strategy.lr_scheduler_configs = optimizers, schedulers
    return Rebuilt(module, optimizers, LightningStep(trainer, overrides))


def _trainer(lightning: Any, precision: str, device: torch.device) -> Any:
    """Return a trainer that only knows precision and device, and says nothing."""
    for name in (lightning.__name__, "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":  # Lightning would take bf16-mixed in its place where there is no GPU
        plugin = import_module(f"{lightning.__name__}.plugins.precision").MixedPrecision
        options = {"plugins": [plugin("16-mixed", device=device.type)]}
    with user_code(f"no Trainer for precision {precision} on {device} here"):
        return lightning.Trainer(
            **options,
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tempfile.gettempdir(),
        )


def _configure(module: Any, trainer: Any, bundle: Bundle) -> None:
    """Call the hooks in which layers are made, in Lightning's order; ``setup`` may fail where it only loads data."""
    name = type(module).__name__
    failed: BaseException | None = None
    try:
        module.setup("fit")
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's
        failed = error
    with user_code(f"{name}.configure_model failed"), trainer.precision_plugin.module_init_context():
        module.configure_model()
    if failed is not None and set(bundle.weights or {}) - set(dict(module.named_parameters())):
        raise RebuildError(f'{name}.setup("fit") failed: {one_line(failed)}; {HINT}') from failed


def _optimizers(lightning: Any, module: Any, bundle: Bundle) -> tuple[list[Optimizer], list[Any]]:
    """Return what ``configure_optimizers`` makes; one over all parameters where it cannot run without the data."""
    try:
        made = import_module(f"{lightning.__name__}.core.optimizer")._init_optimizers_and_lr_schedulers(module)  # noqa: SLF001
    except (Exception, SystemExit) as error:  # schedules of the whole training ask for its data
        if bundle.optimizer_state or not module.automatic_optimization:
            raise RebuildError(
                f"{type(module).__name__}.configure_optimizers failed: {one_line(error)}; {HINT}"
            ) from error
        made = ([], [])
    optimizers = list(made[0]) or _any_optimizer(module, bundle)
    index = bundle.facts.get("optimizer")
    if type(index) is not int or not 0 <= index < len(optimizers):
        raise RebuildError(f"optimizer {index} of the incident is not among the {len(optimizers)} that are made here")
    for state in bundle.optimizer_state or []:
        with user_code("the saved state of the optimizer does not fit"):
            optimizers[index].load_state_dict(state)
    return optimizers, list(made[1])


def _any_optimizer(module: nn.Module, bundle: Bundle) -> list[Optimizer]:
    """Return optimizers that only hold the parameters, as many as the incident's index asks for."""
    index = bundle.facts.get("optimizer")
    if type(index) is not int or not 0 <= index < MAX_OPTIMIZERS:
        raise RebuildError(f"replay.json: optimizer is {str(index)[:40]}, which is no index")
    with user_code("the module has nothing to train"):
        return [torch.optim.SGD(module.parameters(), lr=0.0) for _ in range(index + 1)]


def _fill(module: nn.Module, bundle: Bundle) -> None:
    """Give the module the weights, buffers and flags of the failing step."""
    weights: dict[str, Tensor] = bundle.weights or {}
    parameters: dict[str, Any] = dict(module.named_parameters())
    unlike = sorted(set(weights) ^ set(parameters))
    if unlike:
        raise RebuildError(f"the rebuilt {type(module).__name__} has other parameters: {_some(unlike)}; {HINT}")
    runner = bundle.facts.get("runner")
    untoggled = set(runner.get("untoggled") or ()) if isinstance(runner, dict) else set()
    frozen = set(_names(bundle, "frozen")) - untoggled  # toggle_optimizer had frozen these for a while
    for name, saved in weights.items():
        _set_parameter(parameters[name], name, saved, frozen=name in frozen)
    for name, saved in bundle.buffers.items():
        owner, _, key = name.rpartition(".")
        with user_code(f"the rebuilt {type(module).__name__} has no place for the buffer {name}"):
            module.get_submodule(owner)._buffers[key] = saved.clone()  # noqa: SLF001 - also those that came to be in training
    evaluating = _names(bundle, "evaluating")
    for name, part in module.named_modules():
        part.training = name not in evaluating


def _set_parameter(parameter: Any, name: str, saved: Tensor, *, frozen: bool) -> None:
    with user_code(f"{name} cannot take the value from the incident"):
        if is_lazy(parameter):
            parameter.materialize(saved.shape)
        if parameter.shape != saved.shape:
            here, there = tuple(parameter.shape), tuple(saved.shape)
            raise RebuildError(f"{name} has shape {here} here and {there} in the incident; {HINT}")
        parameter.data = saved.detach()
        parameter.requires_grad_(not frozen)


def _names(bundle: Bundle, fact: str) -> set[str]:
    names = bundle.facts.get(fact, [])
    if not isinstance(names, list):
        raise RebuildError(f"replay.json: {fact} is a {type(names).__name__}, not a list of names")
    return {str(name) for name in names}


def _some(names: list[str]) -> str:
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
