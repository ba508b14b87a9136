"""Rules on mixed precision: the loss scale, and numbers near the ends of their format."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

COLLAPSE = Rule(
    code="loss-scale-collapse",
    severity="warning",
    meaning="The loss scale has fallen far below the level that it had: gradients keep overflowing.",
    formula="the scale is at most 1 / `fall` of the largest level that it has held for 20 steps (a level held for 200"
    " steps takes its place), or below `least`",
    message="The loss scale is down to {lowest:.3g}, after it had held {held}: gradients keep overflowing.",
    causes=(
        "a run that diverges",
        "a NaN or infinity that no scale removes: in the data, or of an operation",
        "activations that outgrow fp16",
    ),
    advice="The scale is a symptom: look at incidents and at the loss at this step. bfloat16 needs no loss scale.",
    thresholds=(
        Threshold(
            name="fall",
            value=16.0,
            meaning="times below the level held",
            source="after 2000 good steps GradScaler tries twice its level, which costs one halving, not four",
        ),
        Threshold(
            name="least", value=1.0, meaning="scale", source="below 1 it makes gradients smaller; fairseq stops at 1e-4"
        ),
    ),
    silent_when="the first steps, in which the scale looks for its level",
    quantity="level held / scale, as a multiple of the limit",
)

STUCK = Rule(
    code="loss-scale-stuck",
    severity="warning",
    meaning="The loss scale does not answer to overflows any more.",
    formula="`overflows` skipped steps in a row at the same scale; or a scale of at most `least` for `low` steps",
    message="{overflows} steps in a row overflowed at a loss scale of {scale:.3g}, which has not moved.",
    causes=(
        "scaler.update() is not called, or the scaler is not the one that steps",
        "a NaN that no scale removes",
        "a scaler with a fixed scale",
    ),
    advice="Look whether the loop calls scaler.update() after every scaler.step(); if it does, the gradients are"
    " non-finite at any scale: see the incident.",
    thresholds=(
        Threshold(name="overflows", value=3.0, meaning="in a row", source="GradScaler halves its scale at every one"),
        Threshold(name="least", value=1.0, meaning="scale", source="the loss is then not scaled at all"),
        Threshold(name="low", value=20.0, meaning="steps", source="a scale held for 20 steps has found its level"),
    ),
    quantity="overflows in a row without a change of the scale / 3",
)
STUCK_LOW = "The loss scale has been at {scale:.3g} for {low} steps: it no longer keeps fp16 gradients from underflow."

SKIPPED = Rule(
    code="skipped-steps",
    severity="warning",
    meaning="Many optimizer steps are skipped because gradients overflow.",
    formula="over `share` of the last 200 steps were skipped, after the first 100 of the scaler",
    message="{skipped} of the last {of} steps were skipped because of overflows.",
    causes=(
        "growth_interval is too small",
        "batches whose gradients are far larger than others'",
        "values that are NaN at any scale",
    ),
    advice="Use bfloat16 where the device has it; else raise GradScaler's growth_interval, and look for the batches"
    " that overflow.",
    thresholds=(
        Threshold(
            name="share", value=0.1, meaning="of the last 200 steps", source="GradScaler's own trials cost 1 in 2000"
        ),
    ),
    silent_when="no GradScaler; fewer than 200 steps under it",
    quantity="share of skipped steps / 0.1",
)

UNDERFLOW = Rule(
    code="gradient-underflow",
    severity="warning",
    meaning="Most of a layer's gradient is too small for fp16 and loses its digits.",
    formula="at least `share` of the nonzero gradient elements, times the loss scale, are below 6.1e-5, the smallest"
    " normal fp16 number (IEEE 754), in a layer whose gradient is above a thousandth of its largest",
    message="{share:.0%} of the gradient of {layer} is subnormal in fp16 (loss scale {scale}): digits are lost.",
    causes=("no loss scale, or one that has collapsed", "gradients that vanish on their way to this layer"),
    advice='Use a GradScaler (precision="16-mixed" has one) with a larger init_scale, or bfloat16.',
    thresholds=(
        Threshold(
            name="share",
            value=0.5,
            meaning="of the nonzero elements",
            source="Micikevicius et al. 2018, Mixed Precision Training (section 3.2): with 5 % lost, training suffers",
        ),
    ),
    records=3,
    silent_when="steps that do not compute in fp16; layers that have converged",
    quantity="share of subnormal elements / 0.5",
)

ACTIVATION = Rule(
    code="activation-overflow",
    severity="warning",
    meaning="The output of a module is close to the largest number of its format, or will be soon.",
    formula="the largest output is within `bits` bits of the format's maximum; or above a 256th of that, grown fourfold"
    " without a fall over 4 sampled passes or more, and there within `horizon` steps at this rate, of which a third has"
    " been seen",
    message="The largest output of {layer} is {largest:.3g}; its format ends at {limit:.3g}.",
    causes=(
        "a residual stream or logits that grow without normalisation",
        "a learning rate that is too high",
        "sums over many elements in fp16",
    ),
    advice="Use bfloat16 or float32 for this module, normalise what enters it, or bound its output (logit soft-capping,"
    " QK normalisation).",
    thresholds=(
        Threshold(name="bits", value=2.0, meaning="bits below the maximum", source="another batch may double it twice"),
        Threshold(name="horizon", value=1000.0, meaning="steps", source="long enough to act"),
    ),
    records=2,
    silent_when="values that are bitwise the same from pass to pass: masks are filled with them",
    quantity="largest output, as a multiple of a quarter of the format's maximum",
)

RANGE = Rule(
    code="fp16-range",
    severity="info",
    meaning="fp16 reaches its limits here, and the device has bfloat16, which would not.",
    formula="the step computes in fp16 and, after the scaler's first 100 steps, `overflows` of the last 200 steps"
    " overflowed, or an output is within `bits` bits of 65504",
    message="fp16 is at its limits ({overflows} overflows in the last 200 steps, largest output {largest}); this device"
    " has bfloat16, whose range is that of float32.",
    causes=("activations or gradients that span more than fp16's range",),
    advice='Set precision="bf16-mixed".',
    thresholds=(
        Threshold(
            name="overflows", value=3.0, meaning="in 200 steps", source="GradScaler's own trials cost 1 in 2000 steps"
        ),
        Threshold(name="bits", value=2.0, meaning="bits below 65504", source="as activation-overflow"),
    ),
    records=2,
    silent_when="the device has no bfloat16",
    quantity="overflows / 3, or nearness to 65504",
)

RULES = (COLLAPSE, STUCK, SKIPPED, UNDERFLOW, ACTIVATION, RANGE)
