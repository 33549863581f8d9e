"""What a figure says of the changes that a file survives, and how files are counted by change."""

from dataclasses import replace

import pytest

import advimg
from advimg.record import Prediction, Record, Survival
from advimg.report import figure
from advimg.report.figure import draw_figure
from advimg.report.survival import ALL, NONE, held, matrix_of
from tests.conftest import linear_classifier, random_photo

WEB = ("jpeg:75", "jpeg:50", "webp:80", "resize:0.5", "crop:0.1", "resize:0.5+jpeg:75")


@pytest.fixture(scope="module")
def outcome() -> advimg.Outcome:
    """Return an attack that reached its target."""
    outcome = advimg.attack(random_photo(60, 40), 1, model=linear_classifier(classes=6, scale=0.1))
    assert outcome.record.fooled
    return outcome


def surviving(record: Record, **sure: float) -> Record:
    """Return a record with a verdict after each change; below 0.5 another class is seen."""
    other = Prediction(0, "other", 0.9)
    survives = tuple(
        Survival(change, value >= 0.5, record.after[0] if value >= 0.5 else other, value)
        for change, value in sure.items()
    )
    return replace(record, survives=survives, fooled=all(each.fooled for each in survives))


def lines_of(monkeypatch: pytest.MonkeyPatch, outcome: advimg.Outcome, record: Record) -> list[str]:
    """Return the lines below the perturbation."""
    verdicts: list[list[str]] = []
    drawn = figure._draw_verdict

    def draw(axes: object, lines: list[tuple[float, str, object]]) -> None:
        verdicts.append([text for _, text, _ in lines])
        drawn(axes, lines)  # type: ignore[arg-type]

    monkeypatch.setattr(figure, "_draw_verdict", draw)
    draw_figure(record, outcome.photo.levels, outcome.levels)
    (lines,) = verdicts
    return lines


@pytest.mark.parametrize(
    ("fallen", "line"),
    [
        ((), "survives 6 of 6 changes"),
        (("jpeg:50", "crop:0.1"), "falls after jpeg:50, crop:0.1"),
        (WEB[:5], "falls after 5 of 6 changes"),
    ],
    ids=str,
)
def test_a_figure_has_one_line_of_what_is_survived(
    monkeypatch: pytest.MonkeyPatch, outcome: advimg.Outcome, fallen: tuple[str, ...], line: str
) -> None:
    record = surviving(outcome.record, **{change: 0.1 if change in fallen else 0.9 for change in WEB})
    lines = lines_of(monkeypatch, outcome, record)
    assert line in lines
    assert lines[0] == ("✗ target lost after changes" if fallen else "✓ target reached")
    assert len(lines) == len(lines_of(monkeypatch, outcome, outcome.record)) + 1
    assert not any(text.startswith("seen instead") for text in lines)


def test_one_change_is_one_change(monkeypatch: pytest.MonkeyPatch, outcome: advimg.Outcome) -> None:
    assert "survives 1 of 1 change" in lines_of(monkeypatch, outcome, surviving(outcome.record, **{"jpeg:75": 0.9}))


def test_a_target_that_the_file_does_not_show_is_not_reached(
    monkeypatch: pytest.MonkeyPatch, outcome: advimg.Outcome
) -> None:
    record = replace(surviving(outcome.record, jpeg=0.1), after=tuple(reversed(outcome.record.after)))
    lines = lines_of(monkeypatch, outcome, record)
    assert lines[0] == "✗ target not reached"
    assert f"seen instead: {record.after[0].name}" in lines
    assert "falls after jpeg" in lines


def test_each_of_several_networks_has_to_be_fooled(outcome: advimg.Outcome) -> None:
    (first,) = surviving(outcome.record, jpeg=0.9, crop=0.9).attacked
    (second,) = surviving(outcome.record, jpeg=0.9, crop=0.1).attacked
    assert held([first]) == {NONE: True, "jpeg": True, "crop": True, ALL: True}
    assert held([first, second]) == {NONE: True, "jpeg": True, "crop": False, ALL: False}
    lost = replace(first, after=tuple(reversed(first.after)))
    assert held([lost]) == {NONE: False, "jpeg": True, "crop": True, ALL: False}


def test_files_are_counted_after_the_changes_that_they_were_judged_after(outcome: advimg.Outcome) -> None:
    record = outcome.record
    matrix = matrix_of([record, surviving(record, jpeg=0.9), surviving(record, jpeg=0.2, crop=0.9)])
    assert matrix is not None
    assert [(change, cell.held, cell.files) for change, (cell,) in matrix.rows] == [
        ("the file itself", 2, 2),
        ("jpeg", 1, 2),
        ("crop", 1, 1),
        ("all of these", 1, 2),
    ]
    assert matrix_of([record]) is None
