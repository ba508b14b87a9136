from __future__ import annotations

import dataclasses
import inspect
import json
import linecache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

import gradwatch
from gradwatch.tracing import source
from gradwatch.tracing.source import MAX_FRAMES, Place, user_place

if TYPE_CHECKING:
    from collections.abc import Callable

OWN = Path(gradwatch.__file__).parent


def code_from(text: str, filename: str) -> Callable[..., Any]:
    """The function or class ``f`` of code that claims to stand in ``filename``."""
    names: dict[str, Any] = {}
    exec(compile(text, filename, "exec"), names)  # noqa: S102 - the test's own code
    function: Callable[..., Any] = names["f"]
    return function


# What asks is gradwatch's own file, or claims to be one.
asked = code_from(
    "from gradwatch.tracing.source import user_place\ndef f(**options):\n    return user_place(**options)\n",
    str(OWN / "diagnosis" / "asking.py"),
)


asking_at_every_operation = code_from(
    """
from gradwatch.tracing.source import user_place
from torch.utils._python_dispatch import TorchDispatchMode

class f(TorchDispatchMode):
    def __init__(self, **options):
        super().__init__()
        self.options, self.places = options, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.places.append(user_place(**self.options))
        return func(*args, **(kwargs or {}))
""",
    str(OWN / "diagnosis" / "asking.py"),
)


def code_of(place: Place | None) -> str:
    assert place is not None
    return place.source_line().code


def test_the_line_that_is_being_executed_is_named() -> None:
    place = asked()  # this line
    assert code_of(place) == "place = asked()  # this line"
    assert place is not None
    assert Path(place.file) == Path(__file__)
    assert place.function == "test_the_line_that_is_being_executed_is_named"


def test_what_stands_between_the_line_and_the_operation_is_passed_over() -> None:
    with asking_at_every_operation() as mode:
        nn.functional.layer_norm(torch.ones(2, 2), (2,))  # the user's line
    assert {code_of(place).rpartition("# ")[2] for place in mode.places} == {"the user's line"}


def test_of_nested_calls_the_innermost_line_is_named() -> None:
    def inner() -> Place | None:
        return asked()  # inner

    assert code_of(inner()) == "return asked()  # inner"


def test_lambdas_comprehensions_and_generators_are_the_users_own() -> None:
    lambdas = [lambda: asked(in_backward=False)]
    from_lambda = lambdas[0]()
    [from_list] = [asked() for _ in range(1)]
    from_generator = next(asked() for _ in range(1))
    for place in (from_lambda, from_list, from_generator):
        assert Path(place.file) == Path(__file__)
    assert from_lambda.function.endswith("<locals>.<lambda>")
    assert code_of(from_list).startswith("[from_list] =")


def test_a_notebook_cell_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    name, text = "<ipython-input-3-0123456789ab>", "def f(ask):\n    return ask()\n"
    monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
    place = code_from(text, name)(asked)
    assert (place.file, place.line, code_of(place)) == (name, 2, "return ask()")


def test_a_cell_in_a_temporary_file_is_the_users_own() -> None:
    """Newer notebooks compile their cells under such a name."""
    name = "/tmp/ipykernel_123/456.py"  # noqa: S108 - a name, no file
    place = code_from("def f(ask):\n    return ask()\n", name)(asked)
    assert place.file == name


def test_generated_code_is_passed_over() -> None:
    @dataclasses.dataclass
    class Asks:
        value: Any = dataclasses.field(default_factory=lambda: code_from("def f(a): return a()", "<string>")(asked))

    place = Asks().value
    assert place.file == __file__


def test_an_installed_package_is_named_only_where_the_user_is_not_on_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    package = code_from("def f(ask):\n    return ask()\n", "/opt/python/site-packages/theirs/layers.py")
    assert package(asked).file == __file__
    monkeypatch.setattr(source, "_kind", lambda name: "machinery" if name == __file__ else KIND(name))
    others = [name for name in {frame.filename for frame in inspect.stack()} if KIND(name) == "user"]
    assert others == [__file__]
    place = package(asked)
    assert (Path(place.file).name, place.line) == ("layers.py", 2)


KIND = source._kind


@pytest.mark.parametrize(
    ("filename", "kind"),
    [
        (str(Path(torch.__file__).parent / "nn" / "functional.py"), "machinery"),
        (str(OWN / "engine" / "replay.py"), "starter"),
        (str(OWN / "diagnosis" / "trace.py"), "machinery"),
        (str(OWN / "demo" / "text.py"), "user"),
        (str(Path(json.__file__)), "machinery"),
        ("<frozen importlib._bootstrap>", "machinery"),
        ("<string>", "machinery"),
        ("<eval_with_key>.3", "machinery"),
        ("<ipython-input-1-abc>", "user"),
        ("/opt/python/site-packages/timm/layers.py", "installed"),
        ("/usr/lib/python3/dist-packages/theirs.py", "installed"),
        ("/home/somebody/train.py", "user"),
        ("train.py", "user"),
    ],
)
def test_files_are_told_apart(filename: str, kind: str) -> None:
    assert source._kind(filename) == kind


def test_a_place_outside_of_the_backward_pass_is_not_the_place_of_its_operations() -> None:
    x = torch.zeros(2, requires_grad=True)

    one = torch.ones(())
    y: Any = x.sqrt().sum()
    with asking_at_every_operation(in_backward=True) as mode:
        y.backward(one)
    assert mode.places
    assert set(mode.places) == {None}
    y = x.sqrt()
    y.register_hook(lambda gradient: gradient * 2.0)  # the hook
    y = y.sum()
    with asking_at_every_operation(in_backward=True) as mode:
        y.backward(one)
    assert {code_of(place) for place in mode.places if place} == {
        "y.register_hook(lambda gradient: gradient * 2.0)  # the hook"
    }


def test_a_very_deep_stack_is_searched_so_far_and_no_further() -> None:
    below = code_from(
        "def f(ask, depth):\n    return f(ask, depth - 1) if depth else ask()\n", str(OWN / "capture" / "deep.py")
    )
    assert below(asked, MAX_FRAMES // 2) is not None
    assert below(asked, MAX_FRAMES) is None


def test_a_line_that_cannot_be_read_is_empty() -> None:
    line = Place("/nowhere/train.py", 7, "step").source_line()
    assert (line.file, line.line, line.function, line.code) == ("/nowhere/train.py", 7, "step", "")


def test_a_folder_reached_by_a_link_is_the_same_folder(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(Path(torch.__file__).parent)
    assert source._kind(str(link / "functional.py")) == "machinery"


def test_without_a_user_frame_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_kind", lambda _: "machinery")
    assert user_place() is None


def test_what_has_started_the_replay_is_not_searched() -> None:
    starter = code_from("def f(ask):\n    return ask()\n", str(OWN / "engine" / "replay.py"))
    assert starter(asked) is None
