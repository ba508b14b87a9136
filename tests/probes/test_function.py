"""``check_gradients`` and ``assert_gradients`` as a user calls them, on modules of every kind."""

from __future__ import annotations

import doctest
import pickle
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

import gradwatch.probes.function
from gradwatch import GradientMismatchError, assert_gradients, check_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gradwatch.records import GradientCheckReport

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
SYSTEM = random.SystemRandom()  # nobody can rewind it
WORDS = torch.tensor([[1, 2, 0], [3, 1, 0]])


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class Wrong(Function):
    """A square with three times x for a derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x * grads[0]


def wrong_square(x: Tensor) -> Tensor:
    return Wrong.apply(x)  # type: ignore[no-untyped-call]


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return wrong_square(x)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


def faulty() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), Squares(), nn.Linear(5, 2))


def squared(module: nn.Module) -> Tensor:
    return module(X).square().mean()


def verdicts(report: GradientCheckReport) -> dict[str, str]:
    return {name: found.correct for name, found in report.parameters.items()}


def test_the_example_of_the_docstring_is_true() -> None:
    result = doctest.testmod(gradwatch.probes.function)
    assert result.attempted >= 3
    assert result.failed == 0


def test_a_right_gradient_passes() -> None:
    report = check_gradients(perceptron(), squared)
    assert report.verdict == "pass"
    assert report.reason == "autograd and finite differences agree"
    assert set(verdicts(report).values()) == {"pass"}
    assert report.relative_error is not None
    assert report.relative_error < 1e-6
    assert (report.precision, report.samples, report.irreproducible, report.notes) == ("float32", None, None, [])
    assert all(found.reproducible for found in report.parameters.values())
    assert all(found.sign_agrees for found in report.parameters.values())
    assert report.seconds > 0
    assert_gradients(perceptron(), squared)


def test_a_wrong_one_raises_with_the_table_and_the_report() -> None:
    with pytest.raises(GradientMismatchError) as caught:
        assert_gradients(faulty(), squared)
    text, report = str(caught.value), caught.value.report
    assert text.startswith("Gradient check: a gradient is WRONG. Autograd and finite differences disagree for 0.")
    assert "Wrong in 1 (Squares)" in text
    assert "return Wrong.apply(x)" in text
    assert verdicts(report) == {
        "0.weight": "mismatch",
        "0.bias": "mismatch",
        "2.weight": "pass",
        "2.bias": "pass",
    }
    assert report.culprit is not None
    assert (report.culprit.module, report.culprit.function) == ("1", "Wrong")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.report) == (text, report)


def test_the_numbers_of_a_wrong_gradient_are_those_of_the_mathematics() -> None:
    """Three halves of the derivative: |a-n|/max(s, |n|) with the sizes of a, which are never far from half of n."""
    module = nn.Sequential(nn.Linear(4, 1, bias=False), Squares())
    found = check_gradients(module, lambda m: m(X).sum()).parameters["0.weight"]
    assert found.norm_error == pytest.approx(0.5 / 2.5, rel=1e-6)
    assert found.sign_agrees
    assert set(found.h) == {"1e-06", "1e-07", "1e-08"}


def test_each_term_has_a_verdict_of_its_own() -> None:
    def terms(module: nn.Module) -> dict[str, Tensor]:
        out = module(X)
        good, bad = out.square().mean(), wrong_square(out).mean()
        return {"loss": good + bad, "good": good, "bad": bad}

    report = check_gradients(perceptron(), terms)  # type: ignore[arg-type]
    assert report.verdict == "mismatch"
    assert report.terms == {"good": "pass", "bad": "mismatch"}


def test_the_loss_itself_and_what_has_no_graph_are_no_terms() -> None:
    def terms(module: nn.Module) -> dict[str, Any]:
        loss = squared(module)
        return {"loss": loss, "same": loss, "logged": loss.detach(), "number": 1.0, "vector": module(X)}

    report = check_gradients(perceptron(), terms)  # type: ignore[arg-type]
    assert (report.verdict, report.terms) == ("pass", {})


# -- what cannot be checked, and why -----------------------------------------------------------------------------------


def raising(_module: nn.Module) -> Tensor:
    raise KeyError("target")


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        pytest.param(raising, "KeyError: 'target'", id="raises"),
        pytest.param(lambda m: m(X), "the loss has the shape (6, 2), and must be a scalar", id="no scalar"),
        pytest.param(lambda m: squared(m) * float("nan"), "the loss is nan", id="NaN"),
        pytest.param(lambda m: squared(m) * float("inf"), "the loss is inf", id="infinite"),
        pytest.param(
            lambda _: torch.ones(()),
            "the loss depends on no weight, or has been detached: no gradient can flow from it",
            id="ignores its module",
        ),
        pytest.param(lambda m: squared(m).item(), "the loss is a float, and must be a tensor", id="a number"),
        pytest.param(lambda m: squared(m) * SYSTEM.random(), "the step does not repeat", id="draws elsewhere"),
        pytest.param(
            lambda m: m.get_parameter("0.weight").data.mul_(0.5).sum() + squared(m),
            "the step writes into its own weights (0.weight)",
            id="writes weights",
        ),
    ],
)
def test_what_hinders_the_check_is_its_reason(loss: Callable[[nn.Module], Tensor], reason: str) -> None:
    module = perceptron()
    report = check_gradients(module, loss)
    assert report.verdict == "not_checkable"
    assert reason in report.reason
    assert set(verdicts(report).values()) == {"not_checkable"}
    with pytest.raises(ValueError, match="the gradients cannot be checked: "):
        assert_gradients(module, loss)


def test_a_scalar_in_a_vector_is_a_loss() -> None:
    assert check_gradients(perceptron(), lambda m: squared(m)[None]).verdict == "pass"


@pytest.mark.parametrize("module", [nn.Identity(), nn.Linear(4, 2).requires_grad_(requires_grad=False)])
def test_a_module_without_trainable_weights_has_nothing_to_check(module: nn.Module) -> None:
    report = check_gradients(module, squared)
    assert (report.verdict, report.reason) == ("not_checkable", "no parameter takes a gradient")
    assert report.parameters == {}


def test_a_module_without_weights_but_with_a_graph_says_so() -> None:
    x = X.clone().requires_grad_()
    report = check_gradients(nn.Tanh(), lambda m: m(x).mean())
    assert (report.verdict, report.reason) == ("not_checkable", "no parameter takes a gradient")
    assert x.grad is None


def test_a_lazy_module_cannot_be_checked_before_its_weights_exist() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Tanh())
    report = check_gradients(lazy, squared)
    assert report.verdict == "not_checkable"
    assert isinstance(lazy[0].weight, nn.UninitializedParameter)
    lazy(X)
    assert check_gradients(lazy, squared).verdict == "pass"


def test_a_module_on_the_meta_device_has_no_values_to_check() -> None:
    report = check_gradients(nn.Linear(4, 2, device="meta"), lambda m: m(X.to("meta")).square().mean())
    assert report.verdict == "not_checkable"


# -- modules of every kind ---------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.head(self.embed(words).tanh())


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.weight.dtype) @ self.weight).abs()


class Checkpointed(nn.Module):
    """Makes a tensor inside of what is computed twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def block(self, x: Tensor) -> Tensor:
        return self.inner(x).tanh() * torch.full((4,), 0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = checkpoint(self.block, x, use_reentrant=False)
        return out


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop = nn.Linear(4, 4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.inner(x)) + 0.1 * torch.randn(4)


def narrow(dtype: torch.dtype) -> Callable[[], nn.Module]:
    return lambda: perceptron().to(dtype)


def own_dtype(module: nn.Module) -> Tensor:
    return module(X.to(next(module.parameters()).dtype)).square().mean()


def autocast(module: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return squared(module)


def penalty(module: nn.Module) -> Tensor:
    """The norm of a gradient with respect to the input."""
    x = X.to(next(module.parameters()).dtype).clone().requires_grad_()
    (slope,) = torch.autograd.grad(module(x).square().sum(), x, create_graph=True)
    return slope.square().mean()


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Tensor]]] = {
    "perceptron": (perceptron, squared),
    "float64": (narrow(torch.float64), own_dtype),
    "bfloat16": (narrow(torch.bfloat16), own_dtype),
    "bfloat16, by a constant type": (narrow(torch.bfloat16), lambda m: m(X.bfloat16()).float().square().mean()),
    "float16": (narrow(torch.float16), own_dtype),
    "autocast": (perceptron, autocast),
    "complex": (Complex, squared),
    "tied weights": (Tied, lambda m: functional.cross_entropy(m(WORDS).flatten(0, 1), WORDS.flatten())),
    "padding": (lambda: nn.Embedding(5, 4, padding_idx=0), lambda m: m(WORDS).tanh().square().sum()),
    "padding in a bag": (lambda: nn.EmbeddingBag(5, 4, padding_idx=0), lambda m: m(WORDS).tanh().square().sum()),
    "sparse": (lambda: nn.Embedding(5, 4, sparse=True), lambda m: m(WORDS).tanh().square().sum()),
    "batch norm": (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Tanh()), squared),
    "dropout": (Dropped, squared),
    "checkpoint": (Checkpointed, squared),
    "recurrent": (lambda: nn.GRU(4, 3, batch_first=True), lambda m: m(X[None])[0].square().mean()),
    "second order": (perceptron, penalty),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_any_kind_passes(name: str) -> None:
    build, loss = MODULES[name]
    report = check_gradients(build(), loss)
    assert report.verdict == "pass", report.reason
    assert set(verdicts(report).values()) <= {"pass", "not_resolvable"}
    assert report.imprecise == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_of_any_kind_with_a_wrong_loss_does_not(name: str) -> None:
    build, loss = MODULES[name]
    report = check_gradients(build(), lambda module: wrong_square(1 + loss(module)))
    assert report.verdict == "mismatch", report.reason


def test_a_shared_weight_is_one_parameter() -> None:
    build, loss = MODULES["tied weights"]
    assert list(check_gradients(build(), loss).parameters) == ["embed.weight"]


@pytest.mark.parametrize("gradient", [None, torch.ones_like(X)])
def test_an_input_that_requires_a_gradient_keeps_the_one_it_had(gradient: Tensor | None) -> None:
    x = X.clone().requires_grad_()
    x.grad = None if gradient is None else gradient.clone()
    assert check_gradients(perceptron(), lambda m: m(x).square().mean()).verdict == "pass"
    assert same(x.grad, gradient)


def test_a_loss_of_another_module_than_the_one_it_is_given_leaves_that_alone() -> None:
    module = perceptron()
    report = check_gradients(module, lambda _copy: squared(module))
    assert report.verdict == "not_checkable"
    assert report.reason == "no gradient reaches any weight of the module: does the loss use the one it is given?"
    with pytest.raises(ValueError, match="does the loss use the one it is given"):
        assert_gradients(module, lambda _copy: squared(module))
    assert all(parameter.grad is None for parameter in module.parameters())


def test_a_seed_chooses_other_directions() -> None:
    module = perceptron()
    first, again, other = (check_gradients(module, squared, seed=seed) for seed in (0, 0, 1))
    assert first.h == again.h
    assert first.h != other.h


# -- nothing is left behind --------------------------------------------------------------------------------------------


def random_states() -> tuple[Any, ...]:
    numpy = np.random.get_state()  # noqa: NPY002 - user code draws from the global one
    return torch.get_rng_state().tolist(), [str(part) for part in numpy], random.getstate()


def drawing(module: nn.Module) -> Tensor:
    """A loss that draws from every generator."""
    noise = random.random() + float(np.random.rand())  # noqa: NPY002 - as above
    return (module(X) + torch.randn(2) + noise).square().mean()


def failing_late(module: nn.Module) -> Tensor:
    drawing(module)
    raise ValueError("after drawing")


def state_of(module: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found |= {f"grad {n}": None if p.grad is None else p.grad.clone() for n, p in module.named_parameters()}
    found |= {f"id {name}": torch.tensor(id(p)) for name, p in module.named_parameters()}
    return found


def hooks_of(module: nn.Module) -> list[Any]:
    tables = [vars(m)[key] for m in module.modules() for key in sorted(vars(m)) if key.endswith("_hooks")]
    tables += [parameter._backward_hooks for parameter in module.parameters()]
    return [len(table or ()) for table in tables]


@pytest.mark.parametrize("loss", [drawing, failing_late, raising])
@pytest.mark.parametrize("build", [perceptron, faulty])
def test_module_and_random_states_stay_as_they_were(
    build: Callable[[], nn.Module], loss: Callable[[nn.Module], Tensor]
) -> None:
    module = nn.Sequential(build(), nn.BatchNorm1d(2))
    module[0].register_forward_hook(lambda *_: None)
    squared(module).backward()  # type: ignore[no-untyped-call]
    graph = squared(module)  # of a step that is under way
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - as above
    states, before, hooks = random_states(), state_of(module), hooks_of(module)
    check_gradients(module, loss)
    assert random_states() == states
    after = state_of(module)
    assert all(same(before[name], after[name]) for name in before | after)
    assert hooks_of(module) == hooks
    assert module.training
    assert torch.is_grad_enabled()
    graph.backward()  # type: ignore[no-untyped-call]


def same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other is None or (one is not None and other is not None and torch.equal(one, other))


@pytest.mark.parametrize("loss", [squared, raising])
def test_no_mode_and_no_file_is_left(
    loss: Callable[[nn.Module], Tensor], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    apply, engine = Function.apply, torch.autograd._engine_run_backward  # type: ignore[attr-defined]
    check_gradients(faulty(), loss)
    assert Function.apply == apply
    assert torch.autograd._engine_run_backward is engine  # type: ignore[attr-defined]
    assert torch.overrides._get_current_function_mode_stack() == []  # type: ignore[no-untyped-call]
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert list(tmp_path.iterdir()) == []
