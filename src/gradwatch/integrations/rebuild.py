"""Module, optimizers and runner of an incident, rebuilt in another process from what its folder says."""

from __future__ import annotations

import ast
import inspect
import logging
import sys
import tempfile
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gradwatch.engine.step_runner import LossFunctionRunner
from gradwatch.integrations.lightning_step import LightningStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from gradwatch.engine.step_runner import StepRunner
    from gradwatch.replica.bundle import Bundle

PACKAGES = ("lightning", "pytorch_lightning")
SCRIPT = "__gradwatch_script__"


class RebuildError(ValueError):
    """The module of an incident cannot be rebuilt here; the message says why, in one line."""


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
    module = _made(factory, facts)
    if facts["kind"] == "function":
        _fill(module, bundle)
        function = _imported(str(facts.get("function")), "the loss function")
        optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
        return Rebuilt(module.to(device), [optimizer], LossFunctionRunner(function))
    return _rebuilt_lightning(module, bundle, facts, device)


def _made(factory: str | None, facts: dict[str, Any]) -> nn.Module:
    if factory is not None:
        module = _called(_imported(factory, "--factory"), f"--factory {factory}", {})
    else:
        module = _called(_class_of(facts), str(facts.get("module")), dict(facts.get("hyperparameters") or {}))
    if not isinstance(module, nn.Module):
        raise RebuildError(f"{factory or facts.get('module')} gave a {type(module).__name__}, which is no torch module")
    return module


def _class_of(facts: dict[str, Any]) -> Callable[..., Any]:
    path = str(facts.get("module"))
    if "<" in path:
        raise RebuildError(f"{path} stands inside a function and cannot be imported; {_HINT}")
    module, _, name = path.partition(":")
    if module == "__main__":
        return _attribute(_script(facts.get("file")), name, path)
    return _imported(path, "the module's class")


_HINT = "give the module by --factory package.module:function"


def _called(make: Callable[..., Any], name: str, arguments: dict[str, Any]) -> Any:
    try:
        signature = inspect.signature(make)
        accepts_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
        known = arguments if accepts_all else {k: v for k, v in arguments.items() if k in signature.parameters}
        signature.bind(**known)
    except (TypeError, ValueError) as error:
        raise RebuildError(
            f"{name} cannot be called with the saved hyperparameters ({error}; save_hyperparameters() in the"
            f" constructor records them); {_HINT}"
        ) from None
    try:
        return make(**known)
    except Exception as error:
        raise RebuildError(f"{name} failed with {type(error).__name__}: {_line(error)}") from error


def _imported(path: str, what: str) -> Callable[..., Any]:
    name, colon, attribute = path.partition(":")
    if not colon or not name or not attribute or "<" in path:
        raise RebuildError(f"{what} is {path!r}, which cannot be imported: expected package.module:name; {_HINT}")
    try:
        module = import_module(name)
    except Exception as error:
        raise RebuildError(
            f"{path} cannot be imported here ({type(error).__name__}: {_line(error)}); {_HINT}"
        ) from error
    return _attribute(module, attribute, path)


def _attribute(module: Any, name: str, path: str) -> Callable[..., Any]:
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise RebuildError(f"{path} is not there any more; {_HINT}")
    return found  # type: ignore[no-any-return]


def _script(file: Any) -> Any:
    """Import the script that the run was started with, provided that an import starts nothing."""
    path = Path(str(file))
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise RebuildError(f"the script {file} cannot be read here ({_line(error)}); {_HINT}") from None
    harmless = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    if not all(isinstance(node, harmless) or _is_docstring(node) for node in tree.body):
        raise RebuildError(f'the script {path} has no `if __name__ == "__main__":` and would start again; {_HINT}')
    spec = spec_from_file_location(SCRIPT, path)
    if spec is None or spec.loader is None:
        raise RebuildError(f"the script {path} cannot be imported; {_HINT}")
    module = module_from_spec(spec)
    sys.modules[SCRIPT] = module
    sys.path.insert(0, str(path.parent))  # as the interpreter does for a script
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RebuildError(f"the script {path} failed with {type(error).__name__}: {_line(error)}") from error
    return module


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _rebuilt_lightning(module: nn.Module, bundle: Bundle, facts: dict[str, Any], device: torch.device) -> Rebuilt:
    package = facts.get("package")
    if package not in PACKAGES:
        raise RebuildError(f"replay.json names {package!r}, expected one of {', '.join(PACKAGES)}")
    lightning = import_module("lightning.pytorch" if package == "lightning" else package)
    if not isinstance(module, lightning.LightningModule):
        raise RebuildError(f"{type(module).__name__} is no LightningModule of {package}")
    trainer = _trainer(lightning, str(facts.get("precision")), device)
    trainer.strategy.connect(module)
    module.trainer = trainer
    module.configure_model()
    _fill(module, bundle)
    optimizers, schedulers = _optimizers(lightning, module.to(device))
    for optimizer, state in zip(optimizers, bundle.optimizer_state or [], strict=False):
        optimizer.load_state_dict(state)
    names = ("current_epoch", "global_step", "accumulate_grad_batches", "global_rank", "local_rank", "world_size")
    overrides = {name: facts[name] for name in names if name in facts}
    return Rebuilt(module, optimizers, LightningStep(trainer, {**overrides, "lr_scheduler_configs": schedulers}))


def _trainer(lightning: Any, precision: str, device: torch.device) -> Any:
    """Return a trainer that only knows precision and device, and says nothing."""
    for name in (lightning.__name__, "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    options: dict[str, Any] = {"precision": precision}
    if precision == "16-mixed":  # Lightning would take bf16-mixed in its place where there is no GPU
        plugin = import_module(f"{lightning.__name__}.plugins.precision").MixedPrecision
        options = {"plugins": [plugin("16-mixed", device=device.type)]}
    try:
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
    except Exception as error:
        raise RebuildError(f"no Trainer for precision {precision} on {device} here: {_line(error)}") from error


def _optimizers(lightning: Any, module: Any) -> tuple[list[Optimizer], list[Any]]:
    """Return what ``configure_optimizers`` makes; one over all parameters where it cannot run without the data."""
    try:
        made = import_module(f"{lightning.__name__}.core.optimizer")._init_optimizers_and_lr_schedulers(module)  # noqa: SLF001
    except Exception:  # noqa: BLE001 - schedules of the whole training ask for its data
        made = ([], [])
    return list(made[0]) or [torch.optim.SGD(module.parameters(), lr=0.0)], list(made[1])


def _fill(module: nn.Module, bundle: Bundle) -> None:
    """Give the module the weights, buffers and flags of the failing step."""
    if bundle.weights is None:
        raise RebuildError("the weights were left out of this incident: " + "; ".join(bundle.notes))
    missing = set(bundle.weights) - set(dict(module.named_parameters()))
    setup: Any = getattr(module, "setup", None)
    if missing and callable(setup):
        setup("fit")  # layers whose sizes depend on the data are made there
    parameters = dict(module.named_parameters())
    unlike = sorted(set(bundle.weights) ^ set(parameters))
    if unlike:
        raise RebuildError(
            f"the rebuilt {type(module).__name__} has other parameters: {', '.join(unlike[:3])}; {_HINT}"
        )
    frozen, evaluating = set(bundle.facts.get("frozen") or ()), set(bundle.facts.get("evaluating") or ())
    for name, saved in bundle.weights.items():
        parameter: Any = parameters[name]
        if is_lazy(parameter):
            parameter.materialize(saved.shape)
        if parameter.shape != saved.shape:
            raise RebuildError(
                f"{name} has shape {tuple(parameter.shape)} here and {tuple(saved.shape)} in the incident"
            )
        parameter.data = saved
        parameter.requires_grad_(name not in frozen)
    for name, saved in bundle.buffers.items():
        owner, _, key = name.rpartition(".")
        module.get_submodule(owner)._buffers[key] = saved  # noqa: SLF001 - also buffers that came to be in training
    for name, part in module.named_modules():
        part.training = name not in evaluating


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
