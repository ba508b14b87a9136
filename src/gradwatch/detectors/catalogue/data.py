"""Rules on the data: inputs, targets, batches."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

UNNORMALISED = Rule(
    code="unnormalised-input",
    severity="warning",
    meaning="Data enters the network at a scale for which neither initialisations nor learning rates are made.",
    formula="the root mean square of a floating-point tensor without gradient that enters a trained linear,"
    " convolutional, recurrent or attention layer is at least `rms`",
    message="The data that enters {layer} has a root mean square of {rms:.3g} (mean {mean:.3g}, deviation {std:.3g},"
    " largest {largest:.3g}).",
    causes=(
        "images in 0 to 255",
        "features in physical units, never standardised",
        "a normalisation that validation has and training has not",
    ),
    advice="Bring the data to mean 0 and deviation 1, or into 0 to 1: divide images by 255, standardise features with"
    " the statistics of the training set.",
    thresholds=(
        Threshold(
            name="rms",
            value=20.0,
            meaning="root mean square",
            source="DeepDiagnosis and UMLAUT warn outside of [-1, 1], where standardised data is as well; images in 0"
            " to 255 have 60 to 150, standardised features 1",
        ),
    ),
    records=3,
    silent_when="the data first goes through a normalisation or an embedding, or enters a layer that is not trained",
    quantity="root mean square / limit",
)

CONSTANT = Rule(
    code="constant-input",
    severity="warning",
    meaning="The data that enters the network is one and the same number everywhere.",
    formula="the standard deviation of a floating-point tensor without gradient that enters a trained layer is 0, up to"
    " rounding (1e-6 of the mean)",
    message="All data that enters {layer} has the same value, {mean:.3g}.",
    causes=(
        "a transform that clips or rounds everything away: integer division of images, a range that is wrong",
        "a loader that returns a buffer it never fills",
        "features multiplied by a mask of zeros",
    ),
    advice="Print a batch as the loader returns it, then after each transform.",
    records=3,
    silent_when="fewer than 16 values",
    quantity="1 where the input is constant",
)

NONFINITE = Rule(
    code="nonfinite-input",
    severity="info",
    meaning="The batch holds NaN or inf, which neither the loss nor a gradient has noticed.",
    formula="a tensor of the batch has elements that are NaN or +inf while loss and gradient norm of the step are"
    " finite",
    message="The batch holds {count} value(s) that are NaN or inf, in {names}; loss and gradients are finite all the"
    " same.",
    causes=(
        "missing values that the model masks, as intended",
        "a column or channel that the model does not read",
        "a ReLU, clamp or comparison that swallows NaN",
    ),
    advice="If this is not intended, clean the data in the Dataset: torch.isfinite(x).all() tells there and then.",
    quantity="1 where the batch holds such values",
)

TARGET_DOMAIN = Rule(
    code="target-domain",
    severity="error",
    meaning="What the loss is given lies outside of the domain for which it is defined: its minimum is elsewhere.",
    formula="binary cross entropy (with logits) with a target under 0 or over 1; nll_loss with an input, which should"
    " be a log-probability, over 0",
    message="{outside}: the values lie between {low:.3g} and {high:.3g}.",
    causes=(
        "labels of -1 and 1, or of 0 to 255",
        "probabilities or logits given to nll_loss, which wants log_softmax",
        "label smoothing or mixing with factors that do not add up to one",
    ),
    advice="Binary cross entropy: bring targets to 0 to 1. nll_loss: give it log_softmax(logits), or give the logits to"
    " cross_entropy.",
    quantity="1 where values lie outside",
)

SMALL_BATCH = Rule(
    code="small-batch",
    severity="info",
    meaning="A batch is much smaller than usual: its gradient is as large as any and much noisier.",
    formula="a batch has at most `share` of the samples of the usual one, the median of the last 20 log steps' medians",
    message="The batch at step {at_step} had {size} sample(s), the usual one has {usual}.",
    causes=("the last batch of an epoch, of what is left over", "a sampler or filter that drops most of a batch"),
    advice="Use drop_last=True in the training DataLoader, or weight the loss by the size of the batch.",
    thresholds=(
        Threshold(
            name="share",
            value=0.1,
            meaning="of the usual size",
            source="the standard error of a mean over a tenth of the samples is three times as large",
        ),
    ),
    silent_when="it has been told before: the last batch of each epoch is the same",
    quantity="limit / share of the usual size",
)

RULES = (UNNORMALISED, CONSTANT, NONFINITE, TARGET_DOMAIN, SMALL_BATCH)
