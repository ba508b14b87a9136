"""Rules on gradients: how large they are, where they are missing, and which layer has all of it."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

EXPLODING = Rule(
    code="exploding-gradient",
    severity="warning",
    meaning="The gradient norm has left its usual range by orders of magnitude, or grows exponentially.",
    formula="the median of the total gradient norm since the last log step is at least `factor` times the median of"
    " the last 20 such medians and `start_factor` times that of the first 5, twice in a row; or, over the last 64"
    " steps, the norm rises `rise` times, at least twofold every `doubling` steps, in more than one leap and without"
    " falling back by a quarter of the rise, while the loss does not fall",
    message="The gradient norm is {norm:.3g}, {factor:.3g} times its usual {usual:.3g}. {layer} has grown most.",
    causes=(
        "a learning rate that is too high, or not warmed up",
        "recurrent weights, or a deep stack without normalisation, whose product grows",
        "an unusual stretch of data",
    ),
    advice="Lower the learning rate, by 10 times to begin with, or warm it up; clip the gradient norm. If it began at"
    " the first steps, look at the initialisation of the layer that is named.",
    thresholds=(
        Threshold(
            name="factor",
            value=100.0,
            meaning="times the usual norm",
            source="Megatron-LM's rerun_state_machine.py has 10 x the largest of 100 samples, which noise reaches",
        ),
        Threshold(
            name="start_factor",
            value=10.0,
            meaning="times the norm of the start",
            source="a return to the level of the start is no explosion",
        ),
        Threshold(
            name="rise",
            value=100.0,
            meaning="times over the last steps",
            source="healthy runs rise some tens of times, from a start at zero above all",
        ),
        Threshold(
            name="doubling",
            value=10.0,
            meaning="steps",
            source="TheDeepChecker: growth of 2 over a period (config/settings.yaml)",
        ),
    ),
    quantity="total gradient norm, as a multiple of the limit",
)

VANISHING = Rule(
    code="vanishing-gradient",
    severity="warning",
    meaning="The gradient dies on its way to the first layers: they do not learn.",
    formula="with r the gradient norm by the square root of the number of elements, over layers with weights of two or"
    " more dimensions: median r of the first quarter is at most `ratio` times that of the last quarter, and at most"
    " `level`",
    message="The gradient of the first layers ({layer}: {first:.3g} an element) is {ratio:.3g} times that of the last"
    " ones ({last:.3g}): they learn next to nothing.",
    causes=(
        "sigmoid or tanh in a deep stack",
        "an initialisation that is too small",
        "no residual connections, no normalisation",
        "long sequences through a plain recurrent network",
    ),
    advice="Use ReLU or GELU, residual connections or normalisation layers; initialise with"
    " torch.nn.init.kaiming_normal_ or xavier_normal_ for the activation in use; for sequences an LSTM or attention.",
    thresholds=(
        Threshold(
            name="ratio",
            value=1e-4,
            meaning="first to last layers",
            source="AutoTrainer: 1e-3 together with an absolute level (monitor.py); healthy residual networks stay"
            " above 1e-2",
        ),
        Threshold(
            name="level",
            value=1e-7,
            meaning="gradient an element",
            source="SageMaker Debugger, rule VanishingGradient: 1e-7",
        ),
    ),
    records=5,
    silent_when="fewer than 4 layers with weights",
    quantity="limit by gradient of the first layers",
)

DEAD = Rule(
    code="dead-layer",
    severity="warning",
    meaning="A layer gets a gradient of exactly zero, step after step.",
    formula="the largest gradient norm since the last log step is 0 while another layer has one that is not",
    message="The gradient of {layer} has been exactly zero at every step since step {since}.",
    causes=(
        "all ReLUs before or after it are dead",
        "its output is multiplied by zero: a gate, a mask, a loss weight",
        "fp16 gradients that underflow",
    ),
    advice="Follow its output to the loss: look for a mask or weight that is zero, for dead ReLUs (a lower learning"
    " rate, leaky ReLU), for a clamp outside of its range.",
    thresholds=(),
    records=3,
    steps=100,
    silent_when="all gradients are zero, or the layer has no gradient (that is unused-parameter)",
    quantity="1 where the gradient is exactly zero",
)

UNUSED = Rule(
    code="unused-parameter",
    severity="warning",
    meaning="A trainable parameter that an optimizer steps never has a gradient: the loss does not depend on it.",
    formula="no gradient (None) at any step so far, for a parameter with requires_grad",
    message="{count} trainable parameter(s) of {layer} never had a gradient: {names}.",
    causes=(
        "a layer that is built and never called, or whose output is not used",
        "detach() or no_grad() between it and the loss",
        "a loss of which a term is left out",
    ),
    advice="Call the layer, remove it, or freeze it with requires_grad_(False). Under DDP such a parameter needs"
    " find_unused_parameters=True.",
    thresholds=(),
    records=3,
    steps=20,
    silent_when="parameters with requires_grad=False",
    quantity="1 where a parameter has no gradient",
)

OUTLIER = Rule(
    code="outlier-layer",
    severity="warning",
    meaning="The gradient is healthy in most layers and enormous in one.",
    formula="the layer's gradient norm is at least `factor` times the median over the layers, and `next` times the"
    " second largest",
    message="The gradient of {layer} has a norm of {norm:.3g}, {factor:.3g} times the median of the layers"
    " ({median:.3g}) and {next:.3g} times that of {second}, the second largest.",
    causes=(
        "an initialisation of this layer that is out of scale",
        "inputs of this layer that are not normalised",
        "a wrong backward of a custom operation in it",
    ),
    advice="Look at this layer alone: its initialisation, the range of what enters it, and its custom operations"
    " (gradwatch.check_gradients compares them with finite differences). Clipping would hide it and starve the rest.",
    thresholds=(
        Threshold(
            name="factor",
            value=1e3,
            meaning="times the median of the layers",
            source="norms of the layers of healthy networks lie within two orders of magnitude of their median"
            " (the trainings in tests/rules/healthy)",
        ),
        Threshold(
            name="next", value=30.0, meaning="times the second largest", source="one layer, not a part of the net"
        ),
    ),
    records=3,
    silent_when="fewer than 4 layers with a gradient",
    quantity="gradient norm of the layer, as a multiple of the limit",
)

HUGE = Rule(
    code="huge-gradient",
    severity="warning",
    meaning="A gradient is finite, but the square of an element overflows float32.",
    formula="the gradient norm exceeds 1.8e19, the root of the largest float32 (IEEE 754), and is finite",
    message="The gradient of {layer} has a norm of {grad_norm:.3g}: finite, but its square overflows float32. {fate}",
    causes=("a run that diverges", "a division by next to nothing in this batch"),
    advice="Look at this batch and at the learning rate; clip the gradients. torch.nn.utils.clip_grad_norm_ alone"
    " would have computed an infinite norm here and set every gradient to zero.",
    quantity="gradient norm / 1.8e19",
)

RULES = (EXPLODING, VANISHING, DEAD, UNUSED, OUTLIER, HUGE)
