"""Rules on activations: units that are silent, flat ends of sigmoid and tanh, and the scale through the layers."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

# Inputs of layers that make a depth.
MIN_INPUTS = 2

DEAD_RELU = Rule(
    code="dead-relu",
    severity="warning",
    meaning="Most units behind a ReLU are zero whatever the input is: they have no gradient and do not come back.",
    formula="at least `share` of the units (channels of a convolution, features elsewhere) are zero at every position"
    " of the last 4 sampled batches, and of as many more as it takes to 64 positions; of n units, also at least half"
    " and `deviations` / (2 sqrt(n)) more (at most all)",
    message="{share:.0%} of the units of {layer} are dead behind their ReLU: zero for every sample of the last batches"
    " (seen in what enters {enters}).",
    causes=(
        "a learning rate that is too high: one large step has pushed the biases far below zero",
        "an initialisation with negative biases or of too large a scale",
        "inputs that are not normalised",
    ),
    advice="Lower the learning rate or warm it up; initialise with torch.nn.init.kaiming_normal_ and zero biases;"
    " normalise before the ReLU; use leaky ReLU, GELU or SiLU. Units that are dead already must be initialised anew.",
    thresholds=(
        Threshold(
            name="share",
            value=0.7,
            meaning="of the units",
            source="AutoTrainer (monitor.py) and DeepDiagnosis (callbacks.py): 70 %; SageMaker Debugger's DeadRelu:"
            " 50 %",
        ),
        Threshold(
            name="deviations",
            value=2.0,
            meaning="standard deviations over one half",
            source="in deep networks with PyTorch's initialisation a unit is on or off for all inputs with even odds:"
            " up to 66 % of 32 units were off at depths of 20 and 50",
        ),
    ),
    silent_when="the ReLU's output goes elsewhere than, through views, dropout and pooling, into a layer with weights,"
    " or the layer before it is not trained",
    quantity="share of dead units / limit",
)

SATURATED = Rule(
    code="saturated-activation",
    severity="warning",
    meaning="A hidden sigmoid or tanh works at its flat ends, where next to no gradient passes.",
    formula="for at least `share` of the values the derivative is under 1 % of its largest: 1 - y² < 0.01 for tanh,"
    " 4 y (1 - y) < 0.01 for the sigmoid",
    message="{share:.0%} of the values of the {activation} behind {layer} are saturated (seen in what"
    " enters {enters}).",
    causes=(
        "an initialisation of too large a scale",
        "inputs that are not normalised",
        "a learning rate that has driven the weights up",
    ),
    advice="Normalise the inputs; initialise with torch.nn.init.xavier_normal_ and its gain for this activation; put a"
    " normalisation layer before it, or use ReLU or GELU; lower the learning rate.",
    thresholds=(
        Threshold(
            name="share",
            value=0.5,
            meaning="of the values",
            source="DeepDiagnosis (callbacks.py): |x| >= 5 in over 50 %; TheDeepChecker and SageMaker Debugger: 50 % of"
            " a layer",
        ),
    ),
    records=3,
    silent_when="the activation is the output of a network, or feeds a layer that is not trained",
    quantity="share of saturated values / limit",
)

SCALE = Rule(
    code="activation-scale",
    severity="warning",
    meaning="As it was initialised, the network amplifies or damps its signal from layer to layer.",
    formula="at the first step, the standard deviation of what enters the deepest layer with weights is `factor` times,"
    " or 1 / `factor` times, that of what enters the second one",
    message="What enters {layer} at the first step has a standard deviation of {std:.3g}, {factor:.3g} times that of"
    " what enters {second} ({first:.3g}).",
    causes=(
        "an initialisation with a gain per layer far from 1",
        "a deep stack without normalisation",
        "a factor in the forward pass that is repeated in every layer",
    ),
    advice="Initialise with torch.nn.init.kaiming_normal_ (ReLU) or xavier_normal_ (tanh), or put a normalisation layer"
    " into every block.",
    thresholds=(
        Threshold(
            name="factor",
            value=1000.0,
            meaning="times, or one in so many",
            source="SageMaker Debugger's PoorWeightInitialization: a variance ratio of 10 between layers; networks with"
            " PyTorch's defaults lose up to 50 times without harm, their biases setting a floor",
        ),
    ),
    silent_when="fewer than three layers, or an input that is exactly zero (layers that are meant to begin at zero);"
    " a run that resumes",
    quantity="factor or its inverse / limit",
    looks_at="",
)

RULES = (DEAD_RELU, SATURATED, SCALE)
