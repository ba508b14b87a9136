"""Rules on the steps of the optimizer: how far they move the weights of a layer."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

LARGE = Rule(
    code="large-update",
    severity="warning",
    meaning="Every step moves a layer by a large part of its weights: it cannot settle.",
    formula="‖Δw‖ / ‖w‖ of one optimizer step is at least `ratio`. A layer smaller than 0.3·n^¼ (n elements; a usual"
    " start is 0.6 to 1 times n^¼) is measured by that norm, so that what begins at zero may grow",
    message="Each step changes the weights of {layer} by {ratio:.2g} of their norm ({norm:.3g}).",
    causes=(
        "a learning rate that is too high, for this layer or for all",
        "gradients that explode",
        "weights that were initialised far too small for this learning rate",
    ),
    advice="Lower the learning rate, by 10 times to begin with: steps of about 1e-3 of the weights are usual.",
    thresholds=(
        Threshold(
            name="ratio",
            value=0.1,
            meaning="update to weight, a step",
            source="TheDeepChecker: log10 of the ratio outside of [-4, -1] (config/settings.yaml); SageMaker Debugger,"
            " rule WeightUpdateRatio, has 10, far beyond what any training survives",
        ),
    ),
    records=5,
    steps=50,
    quantity="update to weight ratio / 0.1",
)

SMALL = Rule(
    code="small-update",
    severity="warning",
    meaning="The steps of a layer are too small to train it, and always were.",
    formula="the largest ‖Δw‖ / ‖w‖ of all log steps so far is above 0 and at most `ratio`, with a gradient of at least"
    " 1e-6 of the largest layer's (root mean square an element)",
    message="No step has changed the weights of {layer} by more than {ratio:.2g} of their norm, at a learning rate of"
    " {lr:.2g}.",
    causes=(
        "a learning rate that is too low, for all or for this layer's parameter group",
        "SGD on gradients that are tiny here (vanishing, or divided twice by the batch size)",
        "clipping at a limit far below the gradient norm",
    ),
    advice="Raise the learning rate; if only some layers are named, look at their parameter group, or take Adam, which"
    " does without the scale of the gradient.",
    thresholds=(
        Threshold(
            name="ratio",
            value=1e-7,
            meaning="update to weight, a step",
            source="float32 resolves 6e-8 of a weight; SageMaker Debugger, rule WeightUpdateRatio: 1e-8",
        ),
    ),
    records=5,
    steps=50,
    silent_when="while the learning rate rises or is under a thousandth of its maximum, and once a step was larger",
    quantity="1e-7 / largest update to weight ratio so far",
)

LOST = Rule(
    code="lost-update",
    severity="warning",
    meaning="Weights in half precision: most updates are rounded away.",
    formula="the share of the elements with a nonzero gradient that come out of the optimizer step bitwise as they were"
    " is at least `share`; for parameters in bfloat16 and float16",
    message="{share:.0%} of the weights of {layer} with a gradient came out of the optimizer step unchanged: the update"
    " is rounded away.",
    causes=(
        'precision="bf16-true" or "16-true" with steps under 0.2 % (bfloat16) or 0.02 % (float16) of a weight',
        "a learning rate that suits float32 weights",
    ),
    advice='Keep the weights in float32 (precision="bf16-mixed" or "16-mixed"), or use an optimizer with Kahan'
    " summation or stochastic rounding; with one of these, and with float32 master weights elsewhere, drop this rule.",
    thresholds=(
        Threshold(
            name="share",
            value=0.5,
            meaning="of the elements",
            source="Zamirai et al. 2020, Revisiting BFloat16 Training: cancelled updates are what half precision loses",
        ),
    ),
    records=3,
    silent_when="float32 weights; while the learning rate rises or is under a thousandth of its maximum",
    quantity="share of unchanged elements / 0.5",
)

EPSILON = Rule(
    code="adam-epsilon",
    severity="warning",
    meaning="Adam's eps, and not the gradient, sets the size of the steps.",
    formula="sqrt(v) (with bias correction) is under eps for at least `share` of the elements whose v is not 0, at"
    " every log step so far; layers with weights of two or more dimensions",
    message="In {layer}, Adam's sqrt(v) is below its eps for {share:.0%} of the elements (gradient {rms:.2g} an"
    " element): steps are smaller than the learning rate says.",
    causes=(
        "gradients that are tiny from the start: a loss with a small weight, a mean over very many elements",
        "an eps that is too large for this training",
        "fp16 gradients that underflow",
    ),
    advice="Lower eps (1e-10, or 1e-15 with gradients of 1e-9), or scale the loss up. An eps that is large on purpose"
    " makes Adam a kind of SGD: then drop this rule.",
    thresholds=(
        Threshold(
            name="share",
            value=0.5,
            meaning="of the elements",
            source="Wortsman et al. 2023, Small-scale proxies (section 3.4): updates vanish as the gradient nears eps",
        ),
    ),
    records=5,
    steps=20,
    silent_when="optimizers without second moments; gradients that fall below eps later, as in a run that converges",
    quantity="smallest share below eps so far / 0.5",
)

GROWTH = Rule(
    code="weight-growth",
    severity="warning",
    meaning="The weights of a layer grow without bound.",
    formula="‖w‖ is at least `factor` times its start (0.3·n^¼ at least, n elements), and `recent` times the least of"
    " the last 10 log steps",
    message="The weights of {layer} have grown to a norm of {norm:.3g}, {factor:.3g} times their start, and double"
    " within ten log steps.",
    causes=("a learning rate that is too high", "a run that diverges", "a loss that a larger scale always lowers"),
    advice="Lower the learning rate or add weight decay; look whether the loss has a minimum at all.",
    thresholds=(
        Threshold(
            name="factor",
            value=10.0,
            meaning="times the norm of the start",
            source="weights of healthy networks grow a few times (the trainings in tests/rules/healthy)",
        ),
        Threshold(
            name="recent",
            value=2.0,
            meaning="times the least of the last 10 log steps",
            source="TheDeepChecker: growth of 2 over a period (config/settings.yaml)",
        ),
    ),
    records=2,
    release=0.6,  # weights that have stopped growing show the sign at half its strength
    quantity="weight norm, as a multiple of the limit",
)

FROZEN = Rule(
    code="frozen-weights",
    severity="warning",
    meaning="A layer has a gradient, but its weights do not move.",
    formula="the optimizer step leaves every weight bitwise as it was, and the norm is that of the log step before,"
    " with a gradient of at least 1e-6 of the largest layer's (rms an element) and 1e-3 of its own largest; or no"
    " optimizer steps the layer, although it needs and gets a gradient; info where its learning rate is 0",
    message="The weights of {layer} have not changed since step {since}, at a gradient norm of {grad_norm:.3g} and a"
    " learning rate of {lr:.2g}.",
    causes=(
        "a layer whose parameters no optimizer was given",
        "a parameter group with a learning rate of 0",
        "a step that the loop leaves out, or weights that something writes back",
        "an update that is rounded away",
    ),
    advice="Look at this layer's parameter group, and at code that writes weights (averages, tying, loading). If it is"
    " to be frozen, requires_grad_(False) says so and saves its gradient.",
    records=3,
    steps=20,
    silent_when="skipped steps, converged layers, LBFGS; while the rate rises or is under a thousandth of its maximum",
    quantity="1 where no weight has changed",
)

FROZEN_ORPHAN = "No optimizer steps {layer}, which needs and gets a gradient: its weights do not change."
ORPHAN_ADVICE = (
    "Give its parameters to an optimizer, or freeze it with requires_grad_(False), which saves its gradient."
)

RULES = (LARGE, SMALL, LOST, EPSILON, GROWTH, FROZEN)
