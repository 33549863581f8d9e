"""The figure: drawn for every kind of record, the same every time, and nothing of it cut off."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import advimg
from advimg.record import Prediction, Record
from advimg.report.figure import draw_figure
from tests.conftest import linear_classifier, random_photo


def attacked(width: int = 60, height: int = 40, classes: int = 6) -> advimg.Outcome:
    return advimg.attack(random_photo(width, height), 1, model=linear_classifier(classes=classes), steps=2)


def drawn(outcome: advimg.Outcome, record: Record | None = None) -> np.ndarray:
    png = draw_figure(record or outcome.record, outcome.photo.levels, outcome.levels)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (50, 50), (1, 1), (400, 30), (30, 400), (1200, 900)], ids=str)
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
