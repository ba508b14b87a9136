"""The table of families: complete, in the documented order, and the same in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gradwatch.clipping import Family, families, families_markdown

PAGE = Path(__file__).parents[2] / "docs" / "clipping.md"
LIMITS = {family.name: family.max_norm for family in families()}


def test_the_textbook_rule() -> None:
    assert LIMITS["transformer"] == 1.0
    assert LIMITS["recurrent"] == 0.25


@pytest.mark.parametrize(
    ("name", "max_norm"),
    [
        ("vision-transformer", 1.0),
        ("windowed-vision-transformer", 5.0),
        ("detection-transformer", 0.1),
        ("conv-net", None),
        ("normalizer-free-net", None),
        ("diffusion-unet", 1.0),
        ("gan", None),
        ("wav2vec", None),
        ("hubert-base", 10.0),
        ("hubert-large", 1.0),
        ("conformer", None),
        ("graph-transformer", 1.0),
        ("tacotron", 1.0),
        ("actor-critic", 0.5),
        ("structure-prediction", 0.1),
        ("yolo", 10.0),
        ("nnunet", 12.0),
        ("mlp", None),
    ],
)
def test_the_values_that_reference_implementations_ship(name: str, max_norm: float | None) -> None:
    assert LIMITS[name] == max_norm


def test_names_are_unique() -> None:
    assert len(LIMITS) == len(families())


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_every_source_names_a_repository_and_a_place_in_it(family: Family) -> None:
    pinned = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{7} \S+\.(py|yaml|json)(:\d+)?")
    assert pinned.match(family.source)


def test_normalizer_free_nets_say_that_agc_is_missing() -> None:
    (family,) = (family for family in families() if family.name == "normalizer-free-net")
    assert "gradwatch has no AGC" in family.source


# Who stands before whom, and why: the composite before its parts, then the smaller limit.
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("detection-transformer", "transformer"),
        ("structure-prediction", "transformer"),
        ("tacotron", "recurrent"),
        ("actor-critic", "recurrent"),
        ("windowed-vision-transformer", "vision-transformer"),
        ("vision-transformer", "transformer"),
        ("graph-transformer", "transformer"),
        ("wav2vec", "transformer"),
        ("hubert-base", "wav2vec"),
        ("conformer", "wav2vec"),
        ("diffusion-unet", "transformer"),
        ("gan", "transformer"),
        ("recurrent", "gan"),
        ("recurrent", "transformer"),
        ("recurrent", "windowed-vision-transformer"),
        ("recurrent", "conformer"),
        ("transformer", "conv-net"),
        ("normalizer-free-net", "conv-net"),
        ("nnunet", "conv-net"),
        ("graph-net", "conv-net"),
        ("conv-net", "mlp"),
    ],
)
def test_precedence(first: str, then: str) -> None:
    order = list(LIMITS)
    assert order.index(first) < order.index(then)


def test_the_table_has_a_row_for_every_family_in_order() -> None:
    rows = families_markdown().splitlines()[2:]
    assert [re.split(r" \| ", row)[1] for row in rows] == [f"`{name}`" for name in LIMITS]
    assert rows[0].startswith("| 1 | `structure-prediction` | 0.1 | ")
    assert {row.count("|") for row in rows} == {6}


def test_the_page_contains_exactly_this_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    start, end = "<!-- families: begin -->\n", "<!-- families: end -->"
    assert text.count(start) == text.count(end) == 1
    assert text.split(start)[1].split(end)[0] == families_markdown()
