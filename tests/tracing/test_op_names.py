from __future__ import annotations

import pytest

from gradwatch.tracing.op_names import base_name, node_op_name


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("aten::log", "log"),
        ("aten::log_", "log"),
        ("aten::_softmax", "softmax"),
        ("aten::_log_softmax_backward_data", "log_softmax_backward_data"),
        ("aten::nll_loss_forward", "nll_loss"),
        ("aten::nll_loss_backward", "nll_loss"),
        ("aten::native_layer_norm", "layer_norm"),
        ("aten::native_batch_norm", "batch_norm"),
        ("aten::_native_batch_norm_legit", "batch_norm"),
        ("aten::_native_batch_norm_legit_no_training", "batch_norm"),
        ("aten::cudnn_batch_norm", "batch_norm"),
        ("aten::_foreach_add_", "add"),
        ("aten::_fused_adam_", "adam"),
        ("aten::convolution_overrideable", "convolution"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_attention"),
        ("aten::_scaled_dot_product_efficient_attention", "scaled_dot_product_attention"),
        ("aten::_embedding_bag_forward_only", "embedding_bag"),
        ("aten::_to_copy", "to_copy"),
        ("mylib::norm_of_two", "norm_of_two"),
    ],
)
def test_an_operation_has_the_name_that_a_user_knows(schema: str, name: str) -> None:
    assert base_name(schema) == name


@pytest.mark.parametrize(
    ("node", "name"),
    [
        ("SqrtBackward0", "sqrt"),
        ("torch::autograd::SqrtBackward0", "sqrt"),
        ("LinalgSvdBackward0", "linalg_svd"),
        ("NllLossBackward0", "nll_loss"),
        ("LogSoftmaxBackward0", "log_softmax"),
        ("NativeLayerNormBackward0", "layer_norm"),
        ("CudnnBatchNormBackward0", "batch_norm"),
        ("ScaledDotProductFlashAttentionForCpuBackward0", "scaled_dot_product_attention"),
        ("torch::autograd::AccumulateGrad", "accumulate_grad"),
    ],
)
def test_a_node_has_the_name_of_its_forward_operation(node: str, name: str) -> None:
    assert node_op_name(node) == name
