"""What is said of each kind of birth, on origins that real computations have given."""

from __future__ import annotations

from collections import Counter

import pytest

from gradwatch.diagnosis.catalogue import BACKWARD, FORWARD, entry_of, explain_origin
from gradwatch.diagnosis.circumstances import Birth, Circumstances
from gradwatch.records import Origin, TensorSummary
from tests.diagnosis.catalogue.backward_cases import BACKWARD_CASES
from tests.diagnosis.catalogue.births import Case, birth_of
from tests.diagnosis.catalogue.forward_cases import FORWARD_CASES
from tests.diagnosis.catalogue.grammar import BAD_GRAMMAR, SCREEN, TWO_PLACES
from tests.diagnosis.catalogue.traced_cases import TRACED_CASES

CASES = [*FORWARD_CASES, *BACKWARD_CASES]
HAND_MADE = {
    # Uninitialised memory may be finite, collectives take several ranks, and torch has no other mean of nothing.
    "memory without values": (Origin(phase="forward", op="new_empty", transition="finite->nan"), "torch.zeros"),
    "value from another rank": (Origin(phase="forward", op="all_reduce", transition="finite->inf"), "other ranks"),
    # No derivative of torch's own writes an infinity on purpose.
    "mask in a gradient": (
        Origin(
            phase="backward",
            op="mul",
            inputs=[TensorSummary(shape=(2,), dtype="float32", min=1.0, max=1.0, nan=0, posinf=0, neginf=1, zeros=0)],
        ),
        "right before a softmax",
    ),
    "anything of nothing": (
        Origin(
            phase="forward",
            op="my_mean",
            transition="finite->nan",
            inputs=[
                TensorSummary(shape=(0, 3), dtype="float32", min=None, max=None, nan=0, posinf=0, neginf=0, zeros=0)
            ],
        ),
        "empty selection",
    ),
}


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case.entry}-{case.op}" for number, case in enumerate(CASES)])
def test_a_real_birth_is_told_in_its_own_numbers(case: Case) -> None:
    birth = birth_of(case)
    text = explain_origin(birth.origin, birth.circumstances)
    assert entry_of(birth).name == case.entry
    assert [words for words in case.says if words not in text.explanation] == []
    assert [words for words in case.advises if words not in text.advice] == []
    for sentence in text:
        assert len(sentence) <= SCREEN
        assert sentence.endswith(".")
        assert not BAD_GRAMMAR.search(sentence)


@pytest.mark.parametrize("name", HAND_MADE)
def test_what_one_process_cannot_make(name: str) -> None:
    origin, advice = HAND_MADE[name]
    known = Circumstances(losses=["NaN"])
    assert entry_of(Birth(origin, known)).name == name
    assert advice in explain_origin(origin, known).advice


def test_every_entry_is_reached_and_has_a_name_of_its_own() -> None:
    names = Counter(entry.name for entry in (*FORWARD, *BACKWARD))
    assert max(names.values()) == 1
    traced = {case.entry for case in TRACED_CASES}
    assert set(names) == {case.entry for case in CASES} | traced | set(HAND_MADE)


LOG_OF_ZERO = Origin(
    phase="forward",
    op="log",
    transition="finite->inf",
    inputs=[TensorSummary(shape=(2, 4), dtype="float32", min=0.0, max=1.0, nan=0, posinf=0, neginf=0, zeros=2)],
)


@pytest.mark.parametrize(
    ("known", "end"),
    [
        (
            Circumstances(losses=["+inf"], bad_gradients=3, gradients=12),
            "is +inf and 3 of 12 gradients are non-finite.",
        ),
        (Circumstances(losses=["NaN"], bad_gradients=1, gradients=12), "is NaN and 1 of 12 gradients is non-finite."),
        (Circumstances(losses=["NaN"], bad_gradients=1, gradients=1), "is NaN and the only gradient is non-finite."),
        (
            Circumstances(losses=["NaN"], gradients=12),
            "The loss is NaN, but all gradients are finite: this step would not harm the weights.",
        ),
        (Circumstances(losses=["NaN"]), "and log(0) is -inf. The loss is NaN."),
        (Circumstances(bad_gradients=2, gradients=12), "its derivative comes back: 2 of 12 gradients are not."),
        (Circumstances(), "and log(0) is -inf."),
    ],
    ids=["both", "one gradient", "the only gradient", "harmless", "loss", "hidden", "unknown"],
)
def test_the_explanation_ends_with_what_came_of_it(known: Circumstances, end: str) -> None:
    assert explain_origin(LOG_OF_ZERO, known).explanation.endswith(end)


@pytest.mark.parametrize(
    ("index", "sample", "place"),
    [
        ([1, 3], None, " at [1, 3]:"),
        ([1, 3], 1, " at [1, 3] (sample 1):"),
        (None, 5, " (sample 5):"),
        (None, None, ":"),
    ],
)
def test_the_place_is_named_as_far_as_it_is_known(index: list[int] | None, sample: int | None, place: str) -> None:
    text = explain_origin(LOG_OF_ZERO, Circumstances(losses=["NaN"], index=index, sample=sample))
    assert text.explanation.startswith(f"log of 0{place} 2 of 8 values are 0")


def test_a_masked_attention_row_is_named_by_sample_and_row() -> None:
    scores = TensorSummary(shape=(2, 2, 4, 4), dtype="float32", min=-1.0, max=1.0, nan=0, posinf=0, neginf=16, zeros=0)
    origin = Origin(phase="forward", op="softmax", transition="inf->nan", inputs=[scores])
    text = explain_origin(origin, Circumstances(bad_gradients=1, gradients=3, index=[1, 0, 2, 0], sample=1))
    assert "nothing but -inf (row [1, 0, 2], sample 1)" in text.explanation


def test_a_forward_value_that_only_gradients_show_is_told_as_a_forward_operation() -> None:
    origin = Origin(
        phase="backward",
        op="sqrt",
        transition="finite->nan",
        inputs=[TensorSummary(shape=(2,), dtype="float32", min=-4.0, max=-1.0, nan=0, posinf=0, neginf=0, zeros=0)],
    )
    text = explain_origin(origin, Circumstances(bad_gradients=1, gradients=1, in_derivative=False))
    assert text.explanation.startswith("sqrt of a negative number is NaN")
    assert text.advice.startswith("If a mask hides it, mask the input of sqrt, not its output.")


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("transition", ["finite->nan", "finite->inf", "inf->nan", None])
def test_an_operation_of_which_nothing_is_known_has_a_text(phase: str, transition: str | None) -> None:
    for op in ("brand_new_op", None, "log", "div", "softmax", "nll_loss", "layer_norm", "mm", "sqrt", "pow", "sum"):
        origin = Origin(phase=phase, op=op, transition=transition)  # type: ignore[arg-type]
        text = explain_origin(origin, Circumstances())
        assert text.explanation.endswith(".")
        assert text.advice.endswith(".")


def test_a_growing_run_blames_no_operation() -> None:
    origin = Origin(phase="forward", op="mse_loss", transition="finite->inf", cause="dynamics")
    text = explain_origin(origin, Circumstances(losses=["+inf"], bad_gradients=2, gradients=2))
    assert "no module or operation is to blame" in text.explanation
    assert text.explanation.endswith("The loss is +inf and 2 of 2 gradients are non-finite.")


def test_the_longest_places_and_numbers_still_fit_a_screen() -> None:
    """A place and a count as long as they get, on top of the real births."""
    for case in CASES:
        birth = birth_of(case)
        known = birth.circumstances
        long = Circumstances(
            losses=known.losses,
            bad_gradients=known.bad_gradients and 1234,
            gradients=1234,
            producers=known.producers,
            scalars=known.scalars,
            loss_scale=known.loss_scale,
            index=[1234, 12, 512, 512],
            sample=1234,
        )
        text = explain_origin(birth.origin, long)
        assert max(map(len, text)) <= SCREEN, case.entry
        assert not TWO_PLACES.search(text.explanation), case.entry
