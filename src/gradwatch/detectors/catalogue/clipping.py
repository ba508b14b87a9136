"""Rules on gradient clipping: whether the limit fits the norms."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

ALWAYS = Rule(
    code="clips-always",
    severity="info",
    meaning="Nearly every gradient is clipped: the limit, not the gradient, sets the length of the step.",
    formula="at least `share` of the last 200 steps were clipped; a warning where the median norm is `far` times the"
    " limit",
    message="{share:.0%} of the last 200 steps were clipped: the limit {limit:.3g} is the {percentile:.0f}th percentile"
    " of the gradient norms, their median {median:.3g}. About {suggested:.3g} would clip one step in ten.",
    causes=(
        "a limit from another model, batch size or loss (a sum in place of a mean)",
        "gradients that have grown since the limit was set",
        "clipping as normalisation, on purpose",
    ),
    advice="If clipping is to catch outliers only, raise the limit to the suggested value and lower the learning rate"
    " for SGD accordingly. Adam does not care for the scale of gradients that are always clipped alike.",
    thresholds=(
        Threshold(
            name="share",
            value=0.95,
            meaning="of the last 200 steps",
            source="AutoClip (Seetharaman et al. 2020) clips 90 % of the steps (10th percentile) and trains well",
        ),
        Threshold(
            name="far",
            value=10.0,
            meaning="times the limit: a warning",
            source="with 90 % of every gradient cut off, SGD runs at a tenth of its learning rate",
        ),
    ),
    silent_when="fewer than 200 steps, nothing clips",
    quantity="share of clipped steps / 0.95",
)

NEVER = Rule(
    code="clips-never",
    severity="info",
    meaning="Clipping has no effect: no norm comes near the limit.",
    formula="`unclipped` steps in a row were not clipped, and all their norms are under `below` times the limit",
    message="None of the last {unclipped} steps was clipped: the largest gradient norm was {largest:.3g}, the limit is"
    " {limit:.3g}.",
    causes=("a limit from another model or loss", "gradients that have fallen since the limit was set"),
    advice="Nothing is wrong. To be guarded against outliers, set the limit to a few times the usual norm.",
    thresholds=(
        Threshold(name="unclipped", value=1000.0, meaning="steps", source="an outlier in a thousand steps is rare"),
        Threshold(
            name="below", value=0.1, meaning="times the limit", source="a limit that even 10 times the norm would pass"
        ),
    ),
    silent_when="nothing clips by norm",
    quantity="steps far below the limit / 1000",
)

ONE_LAYER = Rule(
    code="clips-one-layer",
    severity="info",
    meaning="One layer has nearly all of the gradient norm, and clipping scales all others down for its sake.",
    formula="the layer's gradient norm is at least `part` of the total, and at least `share` of the last 200 steps were"
    " clipped",
    message="{layer} has {part:.0%} of the gradient norm, for which {share:.0%} of the last 200 steps were clipped:"
    " the steps of all other layers shrink with it.",
    causes=(
        "an initialisation or input scale that is out of line in this layer",
        "an output layer on targets of large scale",
        "clipping by the total norm where layers differ by nature",
    ),
    advice="Look at the scale of this layer's inputs and weights; or clip by layer (adaptive gradient clipping, or"
    " clip_grad_norm_ on each part).",
    thresholds=(
        Threshold(
            name="part",
            value=0.9,
            meaning="of the total norm",
            source="the norm of all other layers together is then under half of the total",
        ),
        Threshold(name="share", value=0.5, meaning="of the last 200 steps", source="at most steps clipping acts"),
    ),
    records=5,
    steps=190,
    silent_when="fewer than 4 layers with a gradient, fewer than 200 steps",
    quantity="part of the norm, and of the steps that are clipped, as multiples of the limits",
)

RULES = (ALWAYS, NEVER, ONE_LAYER)
