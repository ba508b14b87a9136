"""The module of an incident, made anew: its class or a factory is imported and called."""

from __future__ import annotations

import ast
import contextlib
import inspect
import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCRIPT = "__gradwatch_script__"
HINT = "give the module by --factory package.module:function"

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class RebuildError(ValueError):
    """The module of an incident cannot be rebuilt here; the message says why, in one line."""


class Arguments(dict[str, Any]):
    """Hyperparameters that one argument takes together: read as a dictionary or by attribute."""

    def __getattr__(self, name: str) -> Any:
        """Return the value of that name."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def made_module(factory: str | None, facts: dict[str, Any]) -> nn.Module:
    """Return a module of the incident's class, or the one that the factory returns.

    Args:
        factory: ``package.module:function``, or None.
        facts: what the runner has told of itself.

    Raises:
        RebuildError: the class is not to be found here, or cannot be called.
    """
    if factory is not None:
        path = factory
        module = _called(imported(factory, "--factory"), f"--factory {factory}", {})
    else:
        path, saved = str(facts.get("module")), facts.get("hyperparameters") or {}
        if not isinstance(saved, dict):
            raise RebuildError("replay.json: the hyperparameters are no dictionary")
        module = _called(_found(path, facts.get("file")), path, saved)
    if not isinstance(module, nn.Module):
        raise RebuildError(f"{path} gave a {type(module).__name__}, which is no torch module")
    return module


def imported(path: str, what: str) -> Callable[..., Any]:
    """Return what ``package.module:name`` stands for.

    Raises:
        RebuildError: it cannot be imported; the message begins with ``what`` it is.
    """
    name, _, attribute = path.partition(":")
    if not name or not attribute or "<" in path:
        raise RebuildError(f"{what} is {path!r}, which cannot be imported: expected package.module:name")
    if name == "__main__":
        raise RebuildError(
            f"{what} {path} stands in the script that was run: put it into a module that can be imported"
        )
    with user_code(f"{what} {path} cannot be imported here"):
        module = import_module(name)
    return _attribute(module, attribute, f"{what} {path}")


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn whatever a user's code raises into one line that begins with ``what`` has not worked."""
    try:
        yield
    except RebuildError:
        raise
    except (Exception, SystemExit) as error:
        raise RebuildError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return type and first line of an error."""
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _found(path: str, file: Any) -> Callable[..., Any]:
    if "<" in path:
        raise RebuildError(f"{path} stands inside a function and cannot be imported; {HINT}")
    module, _, name = path.partition(":")
    if module == "__main__":
        return _attribute(_script(file), name, path)
    return imported(path, "the class")


def _called(make: Callable[..., Any], name: str, saved: dict[str, Any]) -> Any:
    arguments = _arguments(make, name, saved)
    with user_code(f"{name} failed"):
        return make(**arguments)


def _arguments(make: Callable[..., Any], name: str, saved: dict[str, Any]) -> dict[str, Any]:
    """Return those of the saved hyperparameters that ``make`` takes, as Lightning does for a checkpoint.

    Raises:
        RebuildError: arguments are missing; the message names them.
    """
    try:
        parameters = inspect.signature(make).parameters.values()
    except (TypeError, ValueError):  # a class that is not written in Python
        return saved
    named = {p.name for p in parameters if p.kind in _NAMED}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    known = saved if takes_all else {key: value for key, value in saved.items() if key in named}
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    missing = [key for key in needed if key not in known]
    if saved and len(missing) == 1 and not known and missing[0] in named:
        return {missing[0]: Arguments(saved)}  # save_hyperparameters(config)
    if missing:
        raise RebuildError(
            f"{name} needs the argument{'s' * (len(missing) > 1)} {', '.join(missing)}, not among the saved"
            f" hyperparameters (save_hyperparameters() in the constructor records plain values); {HINT}"
        )
    return known


def _attribute(module: Any, name: str, path: str) -> Callable[..., Any]:
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None:
        raise RebuildError(f"{path} is not there (any more); {HINT}")
    if not callable(found):
        raise RebuildError(f"{path} is a {type(found).__name__}, which cannot be called")
    return found  # type: ignore[no-any-return]


def _script(file: Any) -> Any:
    """Import the script that the run was started with, provided that an import does not start it again."""
    if not isinstance(file, str):
        raise RebuildError(f"the class stands in a script or notebook that is not known here; {HINT}")
    path = Path(file)
    with user_code(f"the script {path} cannot be read here ({HINT})"):
        tree = ast.parse(path.read_bytes())
    if not any(isinstance(node, ast.If) and _asks_for_name(node.test) for node in tree.body):
        raise RebuildError(f'the script {path} has no `if __name__ == "__main__":` and would start again; {HINT}')
    spec = spec_from_file_location(SCRIPT, path)
    if spec is None or spec.loader is None:
        raise RebuildError(f"the script {path} cannot be imported; {HINT}")
    module = module_from_spec(spec)
    sys.modules[SCRIPT] = module
    sys.path.insert(0, str(path.parent))  # as the interpreter does for a script
    with user_code(f"the script {path} failed"):
        spec.loader.exec_module(module)
    return module


def _asks_for_name(test: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(test))
