"""The family and limit of every small model, and of models that are wrapped, adapted, frozen, lazy or quantized."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradwatch.clipping import choose_clip_rule, families
from tests.clipping import architectures as zoo
from tests.clipping.expectations import FAMILIES, LOOK_ALIKES, PRECEDENCE, Architecture

if TYPE_CHECKING:
    from collections.abc import Callable

ARCHITECTURES = (*FAMILIES, *PRECEDENCE, *LOOK_ALIKES)


class LitLSTMTransformer(LightningModule):
    """A LightningModule whose name promises what its modules do not keep."""

    def __init__(self, **members: nn.Module) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, member)


def compiled(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own imports use what torch has deprecated
        return torch.compile(module)  # type: ignore[return-value]


class NoOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails on the first tensor operation."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(func)


@pytest.mark.parametrize("case", ARCHITECTURES, ids=[case.name for case in ARCHITECTURES])
def test_family_and_limit(case: Architecture) -> None:
    rule = choose_clip_rule(case.build())
    assert (rule.family, rule.max_norm) == (case.family, case.max_norm), rule.reason
    assert rule.reason
    assert rule.source


def test_every_family_has_an_example() -> None:
    assert {case.family for case in FAMILIES} == {None, *(family.name for family in families())}


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: zoo.encoder(12), "12 MultiheadAttention modules"),
        (zoo.lstm, "1 LSTM module"),
        (zoo.parametrized_lstm, "1 LSTM module"),
        (lambda: zoo.language_model(zoo.bert_attention, 3), "3 BertSelfAttention modules"),
        (zoo.cnn, "3 Conv2d modules"),
        (lambda: zoo.block("N", generator=zoo.cnn(), critic=zoo.cnn()), "generator and critic in one N"),
        (
            lambda: zoo.block("N", a=nn.Embedding(2, 2), b=nn.PReLU()),
            "no family recognised: 1 Embedding and 1 PReLU modules",
        ),
        (lambda: zoo.block("N"), "no family recognised: no modules"),
    ],
)
def test_the_reason_counts_what_was_seen(build: Callable[[], nn.Module], reason: str) -> None:
    assert choose_clip_rule(build()).reason == reason


def test_a_shared_module_counts_once() -> None:
    cell = nn.LSTM(8, 8)
    assert choose_clip_rule(zoo.block("N", a=cell, b=zoo.block("M", again=cell))).reason == "1 LSTM module"


def test_a_module_registered_under_itself() -> None:
    model = zoo.block("N", body=zoo.encoder())
    model.add_module("owner", model)
    assert choose_clip_rule(model).family == "transformer"


def test_a_wrapper_of_itself() -> None:
    model = zoo.block("N")
    model.add_module("module", model)
    assert choose_clip_rule(model).family is None


# ---- names that users give -----------------------------------------------------------------------------------------


def test_the_name_of_the_lightning_module_says_nothing() -> None:
    assert choose_clip_rule(LitLSTMTransformer(net=zoo.mlp())).family == "mlp"


def test_nor_does_that_of_a_nested_one() -> None:
    inner = type("CharRNN", (LightningModule,), {})()
    inner.fc = zoo.linear()
    assert choose_clip_rule(LitLSTMTransformer(net=inner)).family == "mlp"


def test_the_modules_inside_a_lightning_module_do() -> None:
    assert choose_clip_rule(LitLSTMTransformer(net=zoo.block("ConvGRU", gates=zoo.conv()))).family == "recurrent"


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled])
def test_nor_does_the_name_of_a_wrapped_root(wrap: Callable[[nn.Module], nn.Module]) -> None:
    assert choose_clip_rule(wrap(zoo.block("ConvLSTM", fc=zoo.linear()))).family == "mlp"


# ---- wrappers and adapters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [nn.DataParallel, compiled])
@pytest.mark.parametrize(
    ("build", "family"),
    [
        (lambda: zoo.language_model(zoo.llama_attention), "transformer"),
        (zoo.lstm_language_model, "recurrent"),
        (zoo.swin, "windowed-vision-transformer"),
        (zoo.detr, "detection-transformer"),
    ],
)
def test_wrapped_models(wrap: Callable[[nn.Module], nn.Module], build: Callable[[], nn.Module], family: str) -> None:
    assert choose_clip_rule(wrap(build())).family == family


def test_distributed_data_parallel(tmp_path: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.LSTM(8, 8))
        assert choose_clip_rule(wrapped).reason == "1 LSTM module"
    finally:
        torch.distributed.destroy_process_group()


def test_compiled_parts_of_a_gan() -> None:
    model = zoo.block("N", generator=compiled(zoo.cnn()), discriminator=compiled(zoo.cnn()))
    assert choose_clip_rule(model).family == "gan"


def test_compiled_projections() -> None:
    head = zoo.block("Head", query=compiled(zoo.linear()), key=zoo.linear(), value=zoo.linear())
    assert choose_clip_rule(zoo.block("N", head=head)).family == "transformer"


def test_adapted_projections() -> None:
    model = zoo.freeze(zoo.language_model(zoo.llama_attention, 3))
    for layer in model.get_submodule("h").children():
        layer.attn = zoo.lora_attention()
    assert choose_clip_rule(model).reason == "3 LlamaAttention modules"


def test_a_traced_transformer_keeps_its_attribute_names() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = zoo.linear(), zoo.linear(), zoo.linear()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.query(x) @ self.key(x).mT).softmax(-1) @ self.value(x)

    traced = torch.fx.symbolic_trace(nn.Sequential(Attention()))
    assert choose_clip_rule(traced).family == "transformer"


# ---- frozen parts --------------------------------------------------------------------------------------------------


def bert() -> nn.Module:
    return zoo.language_model(zoo.bert_attention)


@pytest.mark.parametrize(
    ("build", "family", "max_norm"),
    [
        pytest.param(lambda: zoo.block("N", a=bert(), head=zoo.lstm()), "recurrent", 0.25, id="both trained"),
        pytest.param(lambda: zoo.block("N", a=zoo.freeze(bert()), head=zoo.lstm()), "recurrent", 0.25, id="lstm head"),
        pytest.param(lambda: zoo.block("N", a=zoo.freeze(zoo.lstm()), b=bert()), "transformer", 1.0, id="frozen lstm"),
        pytest.param(
            lambda: zoo.block("N", s=zoo.cnn(), t=zoo.freeze(zoo.vit())), "conv-net", None, id="frozen teacher"
        ),
        pytest.param(lambda: zoo.block("N", m=bert(), loss=zoo.freeze(zoo.cnn())), "transformer", 1.0, id="frozen vgg"),
        pytest.param(
            lambda: zoo.block("SD", unet=zoo.diffusion_unet(), text=zoo.freeze(bert())),
            "diffusion-unet",
            1.0,
            id="latent",
        ),
        pytest.param(
            lambda: zoo.block("N", generator=zoo.cnn(), discriminator=zoo.freeze(zoo.cnn())),
            "conv-net",
            None,
            id="fixed D",
        ),
        pytest.param(
            lambda: zoo.block("N", a=zoo.freeze(zoo.cnn()), head=zoo.linear()), "mlp", None, id="probe on cnn"
        ),
    ],
)
def test_what_is_trained_decides(build: Callable[[], nn.Module], family: str, max_norm: float | None) -> None:
    rule = choose_clip_rule(build())
    assert (rule.family, rule.max_norm) == (family, max_norm)
    assert "frozen" not in rule.reason


@pytest.mark.parametrize(
    ("build", "trained"),
    [
        pytest.param(lambda: zoo.block("N", body=zoo.freeze(bert()), head=zoo.linear()), "1 Linear module", id="head"),
        pytest.param(lambda: zoo.block("N", prompt=zoo.weight(), body=zoo.freeze(bert())), "1 N module", id="prompt"),
        pytest.param(
            lambda: zoo.block("N", prompts=nn.Embedding(4, 8), body=zoo.freeze(bert())),
            "1 Embedding module",
            id="soft prompt",
        ),
    ],
)
def test_a_frozen_part_with_a_limit_decides_for_trained_parts_without_a_family(
    build: Callable[[], nn.Module], trained: str
) -> None:
    rule = choose_clip_rule(build())
    assert (rule.family, rule.max_norm) == ("transformer", 1.0)
    assert rule.reason == (f"2 BertSelfAttention modules, frozen; what is trained has no family of its own ({trained})")


def test_a_model_with_nothing_to_train_is_judged_as_a_whole() -> None:
    rule = choose_clip_rule(zoo.freeze(bert()))
    assert (rule.family, rule.reason) == ("transformer", "2 BertSelfAttention modules, none trained")


# ---- lazy, quantized, scripted, meta -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "family"),
    [
        pytest.param(lambda: zoo.block("N", fc=nn.LazyLinear(4)), "mlp", id="lazy linear"),
        pytest.param(lambda: zoo.block("N", c=nn.LazyConv2d(4, 3), n=nn.LazyBatchNorm2d()), "conv-net", id="lazy conv"),
        pytest.param(lambda: zoo.block("A", q_proj=nn.LazyLinear(4), k_proj=nn.LazyLinear(4), v_proj=nn.LazyLinear(4)),
                     "transformer", id="lazy attention"),
        pytest.param(lambda: torch.jit.script(nn.LSTM(8, 8)), "recurrent", id="scripted lstm"),
        pytest.param(lambda: zoo.block("N", body=torch.jit.script(zoo.cnn())), "conv-net", id="scripted cnn"),
        pytest.param(lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True, device="meta"), "transformer", id="meta"),
        pytest.param(lambda: zoo.cnn().to(torch.float64).half(), "conv-net", id="half"),
    ],
)  # fmt: skip
def test_modules_that_are_not_ordinary(build: Callable[[], nn.Module], family: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy modules and TorchScript announce themselves
        model = build()
    assert choose_clip_rule(model).family == family


@pytest.mark.parametrize(("module", "family"), [(nn.LSTM(8, 8), "recurrent"), (nn.Linear(8, 8), "mlp")])
def test_quantized_modules(module: nn.Module, family: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao.quantization is deprecated, and still in use
        quantized = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            zoo.block("N", body=module), {type(module)}, dtype=torch.qint8
        )
    assert choose_clip_rule(quantized).family == family


def test_no_tensor_operation_takes_place() -> None:
    models = [case.build() for case in ARCHITECTURES]
    with NoOperations():  # type: ignore[no-untyped-call]
        rules = [choose_clip_rule(model) for model in models]
    assert len(rules) == len(models)


def test_the_model_is_left_as_it_was() -> None:
    model = zoo.block("N", body=zoo.freeze(bert()), head=zoo.linear()).eval()
    before = [(name, p.requires_grad, p._version) for name, p in model.named_parameters()]
    modes = [module.training for module in model.modules()]
    choose_clip_rule(model)
    assert [(name, p.requires_grad, p._version) for name, p in model.named_parameters()] == before
    assert [module.training for module in model.modules()] == modes
