"""Rules on the loss."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

_ADVERSARIAL = "several optimizers (adversarial losses need not fall)"

SPIKE = Rule(
    code="loss-spike",
    severity="warning",
    meaning="The loss of one step is far outside of what the steps before it had.",
    formula="the loss exceeds the median of the 64 before it by `deviations` times the robust standard deviation of"
    " such excesses, by `factor` - 1 times the median itself, and by `record` times the largest of the last 256"
    " excesses; info where it stays below twice the largest of the first 20 losses",
    message="The loss of step {step} (epoch {epoch}, batch {batch_idx}) was {loss:.4g}, {deviations:.3g} standard"
    " deviations above the median {median:.4g} of the steps before.",
    causes=(
        "an unusual batch: wrong labels, an outlier, a sample without content",
        "a learning rate at the edge of stability",
        "Adam's second moment lagging behind a sudden gradient (betas[1] too high)",
    ),
    advice="Look at that batch. If spikes come back, lower the learning rate, clip the gradient norm, or lower"
    " Adam's betas[1] to 0.95.",
    thresholds=(
        Threshold(
            name="deviations",
            value=10.0,
            meaning="robust standard deviations",
            source="beyond the 5 sigma of SageMaker's StepOutlier: losses have heavy tails",
        ),
        Threshold(
            name="factor",
            value=3.0,
            meaning="times the median",
            source="Lightning's SpikeDetection and llm-foundry's KillLossSpike use 2, and fire on noise",
        ),
        Threshold(
            name="record",
            value=2.0,
            meaning="times the largest excess of the last 256 steps",
            source="an own heavy tail is no spike; Megatron-LM has 10 x the largest of the first 100",
        ),
    ),
    silent_when="the first 50 steps",
    quantity="largest loss since the last log step, as a multiple of the limit",
)

DIVERGENCE = Rule(
    code="loss-divergence",
    severity="warning",
    meaning="The loss is above that of the untrained model, or all that was gained has been lost.",
    formula="with now = median of the last 20 losses (or of all since the last log step, if more) and start = that of"
    " the first 20: now - start is at least `rise` times |start| and `deviations` times the noise (at the start, or"
    " three log steps ago); or now has come back from the best such median to start, where the gain was beyond a fifth"
    " of |start| and `deviations` times the noise. Info where the best such median is below 0, as that of a policy"
    " gradient, while now - start is under 10 times the gain and |start|",
    message="The loss has risen to {loss:.4g}, from {start:.4g} at the start and {best:.4g} at its best (medians of 20"
    " steps).",
    causes=(
        "a learning rate that is too high",
        "a sign error in the loss, or a loss that is maximised",
        "data that changes in mid-run",
        "reinforcement learning, where the loss of the value grows with the returns: drop the rule there",
    ),
    advice="Lower the learning rate, by 10 times to begin with; go back to the checkpoint before the rise.",
    thresholds=(
        Threshold(
            name="rise",
            value=0.5,
            meaning="of the loss of the untrained model",
            source="llm-foundry's KillLossSpike: the whole window at 2 x; TheDeepChecker: x 2",
        ),
        Threshold(
            name="deviations",
            value=4.0,
            meaning="times the noise of a loss",
            source="a median of 20 has a quarter of it",
        ),
    ),
    records=2,
    silent_when=f"{_ADVERSARIAL}; a loss that was negative at the start and is not above 0 by half of that",
    quantity="rise of the loss, as a multiple of the limit",
)

PLATEAU = Rule(
    code="loss-plateau",
    severity="info",
    meaning="The loss has not improved for a long time.",
    formula="no median of 20 losses was below the best one by `improvement` of it for `patience` steps",
    message="The loss has not come down from {best:.4g} for {stalled} steps.",
    causes=("training has converged", "a learning rate that is too low, or too high to settle", "a dead network"),
    advice="If it is good enough, the run can end. If not, lower the learning rate, and see whether the layers have"
    " gradients.",
    thresholds=(
        Threshold(
            name="improvement",
            value=1e-3,
            meaning="of the best loss",
            source="SageMaker Debugger, rule LossNotDecreasing: 0.1 %",
        ),
        Threshold(
            name="patience",
            value=1000.0,
            meaning="steps",
            source="ten times trainpulse's 100, which is less than an epoch of most runs",
        ),
    ),
    silent_when=f"{_ADVERSARIAL}; a loss of exactly 0",
    quantity="steps without improvement, as a multiple of the limit",
)

NEGATIVE = Rule(
    code="negative-loss",
    severity="warning",
    meaning="A loss is below zero whose function cannot be negative.",
    formula="the loss is below -1e-6 while its graph ends in a function without negative values (mean squared error,"
    " cross entropy, ...) with nothing but positive factors after it",
    message="The loss was {loss:.4g} at step {step}, although {function} cannot be negative.",
    causes=(
        "nll_loss of probabilities instead of log-probabilities",
        "targets outside [0, 1] in a binary cross entropy",
        "class weights or a factor below zero",
    ),
    advice="Look at what enters the loss: log-probabilities for nll_loss, targets in [0, 1] for a binary cross"
    " entropy, weights above zero.",
    quantity="1 where the loss is negative",
)

CONSTANT = Rule(
    code="constant-loss",
    severity="warning",
    meaning="The loss has the very same value at every step: it does not depend on weights or data.",
    formula="`count` losses in a row are bitwise equal; info at the best level so far, 5 % below the first loss",
    message="The loss has been exactly {loss:.6g} for {count} steps.",
    causes=(
        "a loss that is cut off (clamp, hinge, min or max with a constant)",
        "an output that is saturated, or a network that is dead",
        "no weight changes: learning rate 0, nothing needs a gradient",
    ),
    advice="Follow the loss back to the weights: is anything cut off, detached or saturated on the way?",
    thresholds=(
        Threshold(
            name="count",
            value=20.0,
            meaning="steps",
            source="no two batches of a working model agree to the last bit twenty times",
        ),
    ),
    quiet=10,
    quantity="equal losses in a row, as a multiple of the limit",
)

VALIDATION = Rule(
    code="validation-divergence",
    severity="info",
    meaning="The validation loss rises while the training loss goes on falling: not a numerical problem.",
    formula="the validation loss is `rise` above its best, while the training loss is no higher than it was then",
    message="{name} has risen to {loss:.4g} from its best {best:.4g} at step {best_step}, while the training loss fell"
    " from {train_then:.4g} to {train_now:.4g}.",
    causes=(
        "overfitting",
        "validation data that is prepared in another way than training data",
        "samples of the validation set in the training set, or of the future in the past (leakage)",
    ),
    advice="Nothing is numerically wrong. Compare how the two sets are normalised and augmented, look for leakage;"
    " stop early, or regularise.",
    thresholds=(
        Threshold(
            name="rise",
            value=0.3,
            meaning="of the best validation loss",
            source="SageMaker Debugger, rule Overfit: ratio 0.1, once; three times in a row here",
        ),
    ),
    records=3,
    silent_when="no logged metric has val and loss in its name",
    quantity="rise of the validation loss, as a multiple of the limit",
    looks_at="validation",
)

RULES = (SPIKE, DIVERGENCE, PLATEAU, NEGATIVE, CONSTANT, VALIDATION)
