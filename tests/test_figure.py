"""The figure: drawn for every kind of record, the same every time, and nothing of it cut off."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import advimg
from advimg.record import Prediction, Record
from advimg.report.drawing import fitted, text_width, wrapped
from advimg.report.figure import draw_figure
from advimg.report.layout import NAME
from tests.conftest import linear_classifier, random_photo


def attacked(width: int = 60, height: int = 40, classes: int = 6) -> advimg.Outcome:
    return advimg.attack(random_photo(width, height), 1, model=linear_classifier(classes=classes), steps=2)


def drawn(outcome: advimg.Outcome, record: Record | None = None) -> np.ndarray:
    png = draw_figure(record or outcome.record, outcome.photo.levels, outcome.levels)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize(
    "size", [(60, 40), (40, 60), (50, 50), (1, 1), (400, 30), (30, 400), (1200, 900), (300, 70)], ids=str
)
def test_every_shape_is_drawn_with_a_white_margin(size: tuple[int, int]) -> None:
    figure = drawn(attacked(*size))
    assert figure.shape[1] >= 1500
    for edge in (figure[:8], figure[-8:], figure[:, :8], figure[:, -8:]):
        assert (edge == 255).all()
    assert (figure != 255).any()


def test_names_are_drawn_as_they_are() -> None:
    outcome = attacked()
    odd = tuple(Prediction(index, name, 0.2) for index, name in enumerate(["$x$", "a_b^c", "x" * 300, "", "{\\frac"]))
    figure = drawn(outcome, replace(outcome.record, before=odd, after=odd, source="$a_b$.png", model="m" * 200))
    assert (figure[:, -8:] == 255).all()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("pelican", ["pelican"]),
        ("", [""]),
        ("soft-coated wheaten terrier", ["soft-coated wheaten", "terrier"]),
        (
            "one two three four five six seven eight nine ten",
            ["one two three four", "five six seven eight", "nine ten"],
        ),
    ],
)
def test_long_names_take_several_lines(text: str, lines: list[str]) -> None:
    assert wrapped(text, NAME, 90) == lines


def test_what_is_too_long_is_shortened_at_its_end_or_in_its_middle() -> None:
    for text in ("x" * 300, "word " * 60):
        assert all(text_width(line, NAME) <= 90 for line in wrapped(text, NAME, 90))
        assert wrapped(text, NAME, 90)[-1].endswith("…")
    short = fitted(f"{'a' * 300}.jpg", NAME, 90, middle=True)
    assert short.startswith("a")
    assert short.endswith(".jpg")
    assert "…" in short
    assert 75 < text_width(short, NAME) <= 90


@pytest.mark.parametrize("fooled", [True, False])
def test_the_verdict_shows(fooled: bool) -> None:
    outcome = attacked()
    other = drawn(outcome, replace(outcome.record, fooled=not outcome.record.fooled))
    assert not np.array_equal(drawn(outcome), other)


@pytest.mark.parametrize("confidence", [0.0, 1e-9, 0.9999999, 1.0])
def test_few_classes_and_extreme_confidences(confidence: float) -> None:
    outcome = attacked(classes=2)
    sure = (Prediction(1, "one", confidence), Prediction(0, "zero", 1 - confidence))
    drawn(outcome, replace(outcome.record, before=sure, after=sure, confidence=confidence))


def test_the_same_record_gives_the_same_bytes() -> None:
    outcome = attacked()
    figures = [draw_figure(outcome.record, outcome.photo.levels, outcome.levels) for _ in range(2)]
    assert figures[0] == figures[1]
