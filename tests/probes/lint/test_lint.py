from __future__ import annotations

import gc
import json
import logging
import sys
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import _get_current_function_mode
from torch.utils.checkpoint import checkpoint

from gradwatch.probes.lint import Unsafe, lint
from gradwatch.probes.lint import recorder as recorder_file
from gradwatch.probes.lint.rules import CHECKS
from tests.probes.lint import snippets_precision, snippets_probability, snippets_zero
from tests.probes.lint.kit import Kit, expected, places, snippets


def codes(findings: list[Unsafe]) -> list[str]:
    return [finding.code for finding in findings]


def found(step: Any, module: nn.Module | None = None) -> list[str]:
    return codes(lint(module or nn.Identity(), step))


@pytest.fixture
def kit() -> Kit:
    return Kit()


# -- what comes back ---------------------------------------------------------------------------------------------------


def test_a_finding_names_file_line_function_and_code(kit: Kit) -> None:
    def step() -> Tensor:
        return torch.log(kit.out().softmax(-1))  # unsafe: log-of-softmax

    (finding,) = lint(kit, step)
    assert finding.source is not None
    assert Path(finding.source.file) == Path(__file__)
    assert finding.source.code.startswith("return torch.log(")
    assert finding.source.function.endswith("step")
    assert places([finding]) == expected(step)
    assert "softmax is 0 where a logit is -inf or 104 below the largest" in finding.message
    assert finding.advice.startswith("F.log_softmax(x, dim)")
    assert finding.severity == "warning"


def test_the_evidence_is_plain_json(kit: Kit) -> None:
    (finding,) = lint(kit, lambda: functional.relu(kit.out()).log())
    assert json.loads(json.dumps(finding.evidence)) == finding.evidence
    assert finding.evidence["op"] == "log"
    assert finding.evidence["dtype"] == "float32"
    assert finding.evidence["shape"] == [8, 5]
    assert finding.evidence["min"] == 0.0 < finding.evidence["max"]
    assert finding.evidence["zeros"] == int((kit.out() <= 0).sum())


def test_one_finding_for_each_code_and_line_in_the_order_of_execution(kit: Kit) -> None:
    def step() -> Tensor:
        total = torch.zeros(())
        for _ in range(3):
            total = total + functional.relu(kit.out()).sqrt().sum()
            total = total + kit.out().softmax(-1).log().sum()
        return total

    assert found(step, kit) == ["sqrt-at-zero", "log-of-softmax"]


def test_the_module_whose_forward_ran_is_named() -> None:
    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.log(x)

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Softmax(-1), Log()))
    (finding,) = lint(model, lambda: model(torch.randn(2, 4)))
    assert (finding.code, finding.module) == ("log-of-softmax", "1.1")


# -- what the loss depends on ------------------------------------------------------------------------------------------


def test_a_metric_that_is_only_logged_is_no_finding(kit: Kit) -> None:
    def step() -> dict[str, Tensor]:
        loss = kit.out().square().mean()
        return {"loss": loss, "rmse": loss.sqrt(), "perplexity": kit.out().softmax(-1).log()}

    assert found(step, kit) == []


def test_everything_counts_where_nothing_is_returned(kit: Kit) -> None:
    def step() -> None:
        kit.out().softmax(-1).log()

    assert found(step, kit) == ["log-of-softmax"]


def test_what_was_backpropagated_counts_in_manual_optimization(kit: Kit) -> None:
    def step() -> dict[str, Tensor]:
        loss = kit.out().softmax(-1).log().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return {"logged": functional.relu(kit.out()).log()}

    assert found(step, kit) == ["log-of-softmax"]


def test_what_a_buffer_is_made_from_counts() -> None:
    class Running(nn.Module):
        mean: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * torch.log(functional.relu(x)).mean(0)
            return x

    module = Running()
    assert found(lambda: module(torch.randn(3, 4)), module) == ["log-of-zero"]


def test_a_comparison_passes_no_nan_on(kit: Kit) -> None:
    def step() -> Tensor:
        recall = kit.keep.sum() / (kit.labels == 9).sum()
        return kit.out().mean() * torch.where(recall < 0.5, 2.0, 1.0)

    assert found(step, kit) == []


def test_a_root_whose_derivative_nobody_takes_is_no_finding(kit: Kit) -> None:
    def detached() -> Tensor:
        return kit.out() * (kit.out().square().sum().detach().sqrt())

    def passed_by() -> Tensor:
        return kit.out() * kit.out().square().sum().sqrt().detach()

    assert found(detached, kit) == []
    assert found(passed_by, kit) == []


def test_a_repaired_value_without_derivative_is_no_finding(kit: Kit) -> None:
    def step() -> Tensor:
        count = torch.bincount(kit.labels, minlength=9).float()
        weight = (1 / count).nan_to_num(posinf=0.0)
        return kit.out().mean() * weight.sum()

    assert found(step, kit) == []


# -- whose code it is --------------------------------------------------------------------------------------------------


def test_the_inside_of_the_framework_is_not_looked_at(kit: Kit) -> None:
    def step() -> Tensor:
        z = kit.out()
        p = z.sigmoid()
        density: Any = torch.distributions.Bernoulli(probs=p)
        beta: Any = torch.distributions.Beta(z.exp(), z.exp())
        total = density.entropy().sum() + beta.rsample().sum()
        total = total + functional.normalize(z).sum() + functional.cosine_similarity(z, kit.batch).sum()
        total = (
            total + functional.gaussian_nll_loss(z, kit.batch, z.exp()) + functional.poisson_nll_loss(z, kit.weights)
        )
        total = total + functional.scaled_dot_product_attention(z[None], z[None], z[None], is_causal=True).sum()
        total = total + functional.pairwise_distance(z, kit.batch).sum() + functional.gumbel_softmax(z).sum()
        return total + functional.instance_norm(z[None]).sum() + functional.local_response_norm(z[None], 2).sum()

    assert found(step, kit) == []


def test_an_unsafe_line_of_an_installed_package_is_not_the_users(kit: Kit, tmp_path: Path, monkeypatch: Any) -> None:
    package = tmp_path / "site-packages" / "unsafe_package.py"
    package.parent.mkdir()
    package.write_text("def log_of(x):\n    return x.softmax(-1).log()\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(package.parent))
    import unsafe_package  # type: ignore[import-not-found]  # noqa: PLC0415 - it has just been written

    assert found(lambda: unsafe_package.log_of(kit.out()), kit) == []
    sys.modules.pop("unsafe_package")


# -- autograd ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_forward_is_looked_at_once(kit: Kit, *, reentrant: bool) -> None:
    def part(x: Tensor) -> Tensor:
        return functional.relu(x).sqrt()  # unsafe: sqrt-at-zero

    def step() -> Tensor:
        x = kit.batch.clone().requires_grad_()
        loss = checkpoint(part, kit.net(x), use_reentrant=reentrant).sum()
        loss.backward()
        return loss

    assert places(lint(kit, step)) == expected(part)


class OwnRoot(torch.autograd.Function):
    """A root with a derivative that is finite everywhere."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        root = x.clamp(min=0).sqrt()
        ctx.save_for_backward(root)
        return root

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (root,) = ctx.saved_tensors
        return grad / (2 * root).clamp(min=1e-3)


class OwnLog(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.set_materialize_grads(False)
        return x.softmax(-1).log()  # unsafe: log-of-softmax

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        assert ctx.needs_input_grad == (True,)
        return grad


own_root: Any = OwnRoot.apply
own_log: Any = OwnLog.apply


def test_a_custom_function_has_its_own_derivative(kit: Kit) -> None:
    assert found(lambda: own_root(kit.out()), kit) == []


def test_the_forward_of_a_custom_function_is_the_users_code(kit: Kit) -> None:
    assert places(lint(kit, lambda: own_log(kit.out()))) == expected(OwnLog)


def test_gradients_are_followed_through_a_custom_function(kit: Kit) -> None:
    assert found(lambda: own_log(functional.relu(kit.out()).sqrt()), kit) == ["sqrt-at-zero", "log-of-softmax"]


def test_the_backward_of_the_step_is_not_looked_at(kit: Kit) -> None:
    def step() -> Tensor:
        z = kit.out()
        z.register_hook(lambda grad: grad / grad.norm())  # type: ignore[no-untyped-call]
        loss = z.square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    assert found(step, kit) == []


def test_a_penalty_on_gradients_is_looked_at(kit: Kit) -> None:
    def step() -> Tensor:
        x = kit.batch.clone().requires_grad_()
        slope = torch.autograd.grad(kit.net(x).tanh().sum(), x, create_graph=True)[0]
        return (slope.square().sum(1).sqrt() - 1).square().mean()

    assert found(step, kit) == ["sqrt-at-zero"]


# -- tensors of every kind ---------------------------------------------------------------------------------------------


def test_a_value_that_was_changed_in_place_is_no_longer_what_it_was(kit: Kit) -> None:
    def guarded() -> Tensor:
        h = functional.relu(kit.out())
        h += 1e-6
        return h.log()

    def guarded_through_a_view() -> Tensor:
        h = functional.relu(kit.out())
        h.view(-1).clamp_(min=1e-6)
        return h.log()

    def guarded_at_the_elements() -> Tensor:
        h = functional.relu(kit.batch)
        h[h == 0] = 1.0
        return kit.out() * h.log()

    def unguarded() -> Tensor:
        h = kit.out()
        h.relu_()
        return h.log()

    assert [found(step, kit) for step in (guarded, guarded_through_a_view, guarded_at_the_elements)] == [[], [], []]
    assert found(unguarded, kit) == ["log-of-zero"]


def test_complex_tensors(kit: Kit) -> None:
    def step() -> Tensor:
        spectrum = torch.fft.rfft(kit.out())
        return spectrum.abs() + spectrum.angle() + (spectrum.abs() ** 2 + 1e-6).log()

    assert found(step, kit) == []
    assert found(lambda: torch.fft.rfft(kit.out()).abs().log(), kit) == ["log-of-zero"]


def test_sparse_and_nested_tensors(kit: Kit) -> None:
    def step() -> Tensor:
        sparse = kit.keep.float().T.to_sparse()
        nested = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(4, 3)], layout=torch.jagged)
        return torch.sparse.mm(sparse, kit.out()).sum() + (nested * 2).values().sum()

    assert found(step, kit) == []


def test_functions_under_vmap(kit: Kit) -> None:
    assert found(lambda: torch.vmap(lambda row: row.softmax(-1).log())(kit.out()), kit) == ["log-of-softmax"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_every_floating_dtype(dtype: torch.dtype, caplog: Any) -> None:
    net = nn.Linear(5, 5).to(dtype)
    x = torch.randn(8, 5, dtype=dtype)

    def step() -> Tensor:
        p = net(x).sigmoid()
        guarded = (functional.softplus(net(x)) + 1e-3).log() + (functional.elu(net(x)) + 1.5).sqrt()
        return p / (1 - p) + net(x).softmax(-1).log() + net(x).exp().sum(-1, keepdim=True).log() + guarded

    with caplog.at_level(logging.DEBUG, logger="gradwatch.probes.lint"):
        assert sorted(found(step, net)) == ["division-by-zero", "log-of-softmax", "logsumexp-by-hand"]
    assert caplog.records == []


def test_lists_and_dictionaries_of_tensors(kit: Kit) -> None:
    def step() -> Any:
        parts = [functional.relu(kit.out()) for _ in range(2)]
        return {"all": [torch.stack(parts).log(), {"more": torch.cat(parts)}]}

    assert found(step, kit) == ["log-of-zero"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_code_is_not_seen_and_does_no_harm(kit: Kit) -> None:
    scripted: Any = torch.jit.trace(nn.Softmax(-1), torch.ones(2, 5))  # type: ignore[no-untyped-call]
    assert found(lambda: scripted(kit.out()) * 2, kit) == []


def test_a_lazy_module() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Softmax(-1))
    assert found(lambda: model(torch.randn(2, 3)).log(), model) == ["log-of-softmax"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Using `torch.compile.* when there are global hooks:UserWarning")
def test_a_compiled_module_that_runs_eagerly(kit: Kit) -> None:
    compiled: Any = torch.compile(nn.Sequential(nn.Linear(5, 4), nn.Softmax(-1)))
    with torch.compiler.set_stance("force_eager"):
        assert found(lambda: compiled(kit.batch).log(), compiled) == ["log-of-softmax"]


def test_factors_that_are_0_for_two_reasons(kit: Kit) -> None:
    def step() -> Tensor:
        key = (functional.elu(kit.out()) + 1) * kit.keep
        return kit.out() / key.sum(-1, keepdim=True)

    assert found(step, kit) == ["division-by-sum"]


# -- what must not happen ----------------------------------------------------------------------------------------------


def test_an_exception_of_the_step_passes_through_and_leaves_nothing_behind(kit: Kit) -> None:
    def step() -> Tensor:
        kit.out().softmax(-1).log()
        raise KeyError("the step's own")

    with pytest.raises(KeyError, match="the step's own"):
        lint(kit, step)
    assert _get_current_function_mode() is None  # type: ignore[no-untyped-call]


def test_a_check_that_fails_is_skipped(kit: Kit, monkeypatch: Any, caplog: Any) -> None:
    def failing(_: Any) -> None:
        raise ZeroDivisionError

    checks = {**CHECKS, "log": (failing, *CHECKS["log"])}
    monkeypatch.setattr(recorder_file, "CHECKS", checks)
    with caplog.at_level(logging.DEBUG, logger=recorder_file.__name__):
        assert found(lambda: kit.out().softmax(-1).log(), kit) == ["log-of-softmax"]
    assert "a check of the graph lint failed at log" in caplog.text


def test_no_check_fails_silently(kit: Kit, caplog: Any) -> None:
    with caplog.at_level(logging.DEBUG, logger="gradwatch.probes.lint"):
        for file in (snippets_probability, snippets_zero, snippets_precision):
            for snippet in snippets(file):
                if snippet.__name__ != "spread_of_one_sample":  # PyTorch warns of it
                    lint(kit, partial(snippet, kit))
    assert caplog.records == []


def test_the_result_is_bitwise_the_same_and_no_random_number_is_drawn(kit: Kit) -> None:
    def step() -> Tensor:
        return functional.dropout(kit.out(), 0.5).softmax(-1).log().nan_to_num().mean()

    torch.manual_seed(1)
    plain = step()
    state = torch.get_rng_state()
    torch.manual_seed(1)
    results: list[Tensor] = []
    lint(kit, lambda: results.append(step()))
    assert torch.equal(results[0], plain)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_tensor_is_kept_alive(kit: Kit) -> None:
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def step() -> None:
        for _ in range(50):
            with torch.no_grad():
                h = kit.out().softmax(-1).log() * torch.tensor(2.0)
            seen.append(weakref.ref(h))
        del h
        gc.collect()
        alive.append(sum(reference() is not None for reference in seen))

    lint(kit, step)
    assert alive == [0]


def test_a_long_step_is_recorded_up_to_a_limit(kit: Kit, monkeypatch: Any) -> None:
    monkeypatch.setattr(recorder_file, "MAX_NODES", 20)

    def step() -> Tensor:
        first = kit.out().softmax(-1).log()
        for _ in range(30):
            first = first + 1
        return first + functional.relu(kit.out()).log()

    assert "log-of-softmax" in found(step, kit)
