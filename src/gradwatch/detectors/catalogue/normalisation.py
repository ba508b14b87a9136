"""Rules on batch normalisation."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

SMALL_BATCH = Rule(
    code="small-batch-normalisation",
    severity="warning",
    meaning="Batch normalisation takes its statistics from so few samples that they are mostly noise.",
    formula="a BatchNorm in training mode gets at most `samples` samples a device; SyncBatchNorm counts those of all",
    message="{layer} normalises over {samples} sample(s): mean and variance are mostly noise, and the running ones that"
    " evaluation uses will not fit.",
    causes=("a small batch, or a large one cut up over many devices or accumulation steps",),
    advice="Use GroupNorm or LayerNorm, which know no batch; a larger batch a device; SyncBatchNorm"
    " (Trainer(sync_batchnorm=True)) with several devices; or freeze pretrained statistics with eval().",
    thresholds=(
        Threshold(
            name="samples",
            value=4.0,
            meaning="samples a device",
            source="Wu and He, Group Normalization, 2018: ResNet-50 with BatchNorm errs on 23.6 % of ImageNet with 32"
            " samples a device, on 27.3 % with 4, on 34.7 % with 2",
        ),
    ),
    records=3,
    silent_when="the BatchNorm is in evaluation mode",
    quantity="limit / samples",
)

NONFINITE = Rule(
    code="nonfinite-running-statistics",
    severity="error",
    meaning="The running statistics of a BatchNorm hold NaN or inf: training goes on, evaluation returns NaN.",
    formula="an element of running_mean or running_var is not finite",
    message="The running mean or variance of {layer} is not finite. Training does not use them, but evaluation and"
    " every checkpoint do.",
    causes=(
        "one batch with NaN or inf, whose step was skipped: the statistics took it in all the same",
        "activations that overflowed in fp16",
    ),
    advice="Call reset_running_stats() on the layer and let it see some batches, or go back to a checkpoint from before"
    " this step; then find the batch that did it.",
    quantity="1 where a statistic is not finite",
)

FROZEN = Rule(
    code="frozen-running-statistics",
    severity="warning",
    meaning="The running statistics of a BatchNorm in use are those of a new one: they have never been updated.",
    formula="running_mean is all 0 and running_var all 1, before the forward passes of two log steps that lie 50 steps"
    " or more apart and of all between",
    message="The running statistics of {layer}, which is in {mode} mode, are still those it was built with: it does not"
    " normalise in evaluation.",
    causes=(
        "eval() on a module that was not pretrained, or a train() that is missing after validation",
        "momentum=0",
        "a copy (a teacher, an average of weights) that took over parameters and not buffers",
    ),
    advice="Call train() on the module before training, copy buffers along with parameters, or set"
    " track_running_stats=False if batch statistics are wanted in evaluation as well.",
    records=2,
    steps=50,
    quantity="1 where the statistics are those of a new layer",
)

RULES = (SMALL_BATCH, NONFINITE, FROZEN)
