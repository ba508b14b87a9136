"""Rules on what a side copy shows: gradients that are wrong, stopped, imprecise or irreproducible; mixed samples."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule

MISMATCH = Rule(
    code="gradient-mismatch",
    severity="error",
    meaning="A gradient is wrong: autograd and finite differences disagree in float64.",
    formula="the verdict of a gradient check is mismatch; info where it comes from a custom function that is constant"
    " where it has a gradient, as one that rounds, straight through",
    message="Autograd and finite differences disagree for {names}.{where}",
    causes=(
        "a custom autograd.Function whose backward is not the derivative of its forward",
        "a tensor that is written to in place where autograd does not see it",
        "a hook that changes the gradient",
    ),
    advice="Training goes on with a wrong gradient. Compare the backward with the derivative of the forward;"
    " gradwatch.check_gradients(module, loss_fn) reproduces this in a test.",
    quiet=1,
    silent_when="the point is a kink, or the loss does not move by more than its round-off",
    quantity="1 where the gradient is wrong",
    looks_at="gradient check",
)
STRAIGHT_THROUGH = " {what} is constant where it has a gradient: straight through, and most likely meant."
STRAIGHT_THROUGH_ADVICE = (
    "If that is meant (rounding, binarised weights, spikes), all is well: no difference can confirm such a gradient."
)

STOPPED = Rule(
    code="stopped-gradient",
    severity="info",
    meaning="The loss depends on weights in a way that no gradient follows, as behind a detach().",
    formula="the verdict of a gradient check is explained: autograd agrees with finite differences as soon as what is"
    " detached or computed without gradients stays constant",
    message="The loss depends on {names} in a way that no gradient follows: {what} ({lines}).",
    causes=("a target network or a straight-through estimator: meant", "detach(), .data or no_grad() by accident"),
    advice="If that is meant (a target network, straight-through), all is well; an accidental detach looks the same.",
    quiet=1,
    quantity="1 where gradients are stopped",
    looks_at="gradient check",
)

PRECISION = Rule(
    code="precision-gap",
    severity="warning",
    meaning="A gradient at the precision of the training is further from that in float64 than its format accounts for.",
    formula="the gradient check lists the tensor as imprecise (docs/gradient_checks.md has the limits of each format)",
    message="The gradient of {name} in {precision} is {error:.1%} off the one in float64 (cosine {cosine:.3f}), more"
    " than the format accounts for{others}.",
    causes=(
        "a large sum, or a difference of nearly equal numbers, in a narrow format",
        "gradients below the range of fp16",
    ),
    advice="Look for a large sum or a difference of nearly equal numbers in the layer; compute it in float32"
    " (torch.autocast(device, enabled=False)), or use bf16 where fp16 loses range.",
    quiet=1,
    silent_when="precision was not compared",
    quantity="1 where a gradient is imprecise",
    looks_at="gradient check",
)

IRREPRODUCIBLE = Rule(
    code="irreproducible-gradient",
    severity="info",
    meaning="The same batch, weights and random states give two gradients. A warning where deterministic algorithms"
    " were asked for.",
    formula="two runs of the step as it trains differ in a bit of any gradient",
    message="The same batch and random states gave two gradients, up to {largest_difference:.1e} apart: {why}.",
    causes=("operations that add in any order, as scatter and index_add on a GPU", "kernels that are chosen by speed"),
    advice="Two runs with one seed will differ. torch.use_deterministic_algorithms(True) replaces such"
    " operations or names them.",
    quiet=1,
    quantity="1 where a gradient does not repeat",
    looks_at="gradient check",
)

MIXING = Rule(
    code="batch-mixing",
    severity="warning",
    meaning="The output for one sample depends on the other samples of its batch.",
    formula="in float64 and eval mode, another sample in place of one changes rows of others at the output of a module,"
    " by more than 0.1 % of the largest change, while at its entry it changes none of them",
    message="Samples of a batch influence one another in {what}{line}: with another sample in place of one, its output"
    " changes for others too, by up to {change:.0%} of the largest change.",
    causes=(
        "view or reshape after a permute or transpose, or one that folds the batch into another dimension",
        "softmax, mean, cumsum or a normalisation over dimension 0",
        "attention or a recurrent layer without batch_first=True that is given (batch, time, features)",
    ),
    advice="Look at the dimensions there. In training, batch normalisation mixes samples too, and is not meant here. If"
    " samples are to see one another (attention across the batch), leave the rule out:"
    ' detectors=["default", {"batch-mixing": False}].',
    silent_when="the tensors of the batch do not agree on how many samples there are; the step does not run on a few of"
    " them; the batch is one sequence, or one sample; what mixes is named after a normalisation over the batch, a"
    " mixture of experts or a loss",
    quantity="1 where samples are mixed",
    looks_at="",
)

RULES = (MISMATCH, STOPPED, PRECISION, IRREPRODUCIBLE, MIXING)
