"""Rules on the learning rate: what the schedule does."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

JUMP = Rule(
    code="learning-rate-jump",
    severity="warning",
    meaning="The learning rate has risen by orders of magnitude from one step to the next.",
    formula="after step `start`, the rate of a parameter group rises `factor` times or more in one step, above all"
    " that it had before; 100 times (the square) where the first epoch ends, where a warm-up by epochs jumps",
    message="The learning rate rose {factor:.3g} times in one step, from {before:.3g} to {now:.3g}, at step"
    " {jump_step}.",
    causes=(
        "a scheduler that multiplies where it should divide (gamma > 1)",
        "a LambdaLR that returns a rate where a factor is expected",
        "a schedule in epochs that is stepped in batches, or the other way round",
        "a rate that code or a callback has set",
    ),
    advice="Look at the scheduler and at what sets the rate at this step.",
    thresholds=(
        Threshold(
            name="factor",
            value=10.0,
            meaning="times in one step",
            source="schedules step down by 10 (torchvision's references), not up; trainpulse: a change of 10",
        ),
        Threshold(name="start", value=10.0, meaning="steps", source="a linear warm-up starts with large factors"),
    ),
    silent_when="the first rise of a warm-up from 0; a return to a rate that was there before (learning-rate-restart)",
    quantity="rise of the rate in one step / 10",
)

RESTART = Rule(
    code="learning-rate-restart",
    severity="info",
    meaning="The learning rate has jumped back up to a level that it had before.",
    formula="the rate of a parameter group rises `factor` times or more in one step, or from 0, to no more than its"
    " largest so far",
    message="The learning rate jumped back up from {before:.3g} to {now:.3g} at step {restart_step}.",
    causes=(
        "a schedule with warm restarts",
        "a schedule that ended and began anew: T_max or total_steps is below the number of steps",
        "a run that resumed without the state of its scheduler",
    ),
    advice="If no restart is meant, compare the length of the schedule with that of the run. The loss may rise for a"
    " while.",
    thresholds=(
        Threshold(
            name="factor",
            value=3.0,
            meaning="times in one step",
            source="a cyclic schedule without restarts changes by a few per cent a step",
        ),
    ),
    quantity="rise of the rate in one step / 3",
)

ZERO = Rule(
    code="zero-learning-rate",
    severity="warning",
    meaning="The learning rate is zero: training stands still.",
    formula="the rates of all parameter groups are at most `share` times the largest so far for `zeros` steps in a row",
    message="The learning rate has been 0, or next to it, for {zeros} steps: nothing is trained any more.",
    causes=(
        "a schedule that is shorter than the run",
        "a warm-up by epochs, whose first epoch has rate 0",
        "integer division in a LambdaLR",
        "a schedule meant for epochs that is stepped at every batch",
    ),
    advice="Let the schedule end where the run does (trainer.estimated_stepping_batches), or stop the run there.",
    thresholds=(
        Threshold(
            name="share", value=1e-8, meaning="of the largest rate", source="below it no float32 weight moves any more"
        ),
        Threshold(name="zeros", value=20.0, meaning="steps in a row", source="the end of a schedule is one step at 0"),
    ),
    quantity="steps at rate 0 / 20",
)

WARMUP = Rule(
    code="missing-warmup",
    severity="info",
    meaning="The run starts at its full learning rate, and the loss rises before it falls.",
    formula="over the first 200 steps: the rate is at its maximum from the first step; the loss (median over 5 steps)"
    " rises to `rise` times its start and by 4 robust deviations, and comes down to its start again",
    message="The loss first rose from {start:.3g} to {peak:.3g} (step {peak_step}) and then came down: the learning"
    " rate is at its maximum from the first step.",
    causes=(
        "Adam's first steps, whose second moments rest on few gradients",
        "a transformer without normalisation before each block",
        "a rate that only a trained network stands",
    ),
    advice="Warm the learning rate up over some hundreds of steps"
    " (torch.optim.lr_scheduler.LinearLR, interval='step').",
    thresholds=(
        Threshold(
            name="rise",
            value=1.5,
            meaning="times the loss of the start",
            source="Liu et al. 2020, On the Variance of the Adaptive Learning Rate: first steps harm",
        ),
    ),
    silent_when="several optimizers; after the first 200 steps; a run that was not seen from its start",
    quantity="largest early loss, as a multiple of the limit",
)

RULES = (JUMP, RESTART, ZERO, WARMUP)
