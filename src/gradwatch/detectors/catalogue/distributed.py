"""Rules on what the ranks of a run should have in common."""

from __future__ import annotations

from gradwatch.detectors.catalogue.rule import Rule, Threshold

WEIGHTS = Rule(
    code="rank-weights-differ",
    severity="error",
    meaning="Under data parallelism the ranks no longer hold the same weights: they train different models.",
    formula="(largest - smallest) / largest of a layer's weight norm over the ranks is at least `difference`",
    message="The weights of {layer} differ between the ranks: their norm is {smallest:.9g} on rank {low} and"
    " {largest:.9g} on rank {high}.",
    causes=(
        "weights that are changed on one rank only: an assignment, a rank-dependent initialisation after DDP has begun",
        "a forward pass that goes around the DDP wrapper, so that gradients are not averaged",
        "an optimizer step that is left out on one rank",
    ),
    advice="Make every rank do the same: seed_everything before the model is made, no weight written under"
    " `if rank == 0`, the forward pass through the wrapped module. Checkpoints hold rank 0's weights only.",
    thresholds=(
        Threshold(
            name="difference",
            value=1e-4,
            meaning="relative difference of norms",
            source="fairseq compares gradient norms of workers at 1e-6 (trainer.py); kernels of unlike devices may"
            " differ by more",
        ),
    ),
    silent_when="one rank, or weights that are sharded",
    quantity="difference between ranks, as a multiple of the limit",
)

GRADIENTS = Rule(
    code="rank-gradients-differ",
    severity="error",
    meaning="After the gradients have been averaged the ranks do not hold the same ones.",
    formula="(largest - smallest) / largest of a layer's gradient norm over the ranks is at least `difference`; no"
    " gradient counts as 0",
    message="The gradient of {layer} differs between the ranks after averaging: its norm is {smallest:.6g} on rank"
    " {low} and {largest:.6g} on rank {high}.",
    causes=(
        "a forward pass that goes around the DDP wrapper, or no_sync() at the wrong place",
        "a parameter that takes part on some ranks only",
        "gradients changed after the averaging, on one rank only",
    ),
    advice="Let the loss come from the wrapped module on every rank; use find_unused_parameters=True if ranks take"
    " different paths.",
    thresholds=(
        Threshold(
            name="difference",
            value=1e-3,
            meaning="relative difference of norms",
            source="far above the rounding of an all-reduce, which gives every rank the same bits",
        ),
    ),
    silent_when="one rank, or gradients that are sharded",
    quantity="difference between ranks, as a multiple of the limit",
)

RULES = (WEIGHTS, GRADIENTS)
