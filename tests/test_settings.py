"""What people may ask for, and how they write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advimg.errors import UsageError
from advimg.settings import Settings, parse_eps


@given(st.integers(1, 255), st.sampled_from(["{}", "{}/255", " {} / 255 ", "{}.0"]))
def test_eps_is_levels_of_255(eps: int, form: str) -> None:
    assert parse_eps(form.format(eps)) == eps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0", "out of range"),
        ("-3", "out of range"),
        ("256", "out of range"),
        ("nan", "out of range"),
        ("inf", "out of range"),
        ("0.04", "looks like a fraction; .* write 10"),
        ("0.001", "write 1"),
        ("ten", "not a number"),
        ("", "not a number"),
        ("8/256", "levels of 255"),
        ("2.5", "give 2 or 3"),
    ],
)
def test_other_eps_are_refused_with_a_hint(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_eps(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"eps": 0},
        {"eps": 10 / 255},
        {"confidence": 1.0},
        {"confidence": -0.1},
        {"steps": 0},
        {"step_size": 0.0},
        {"step_size": float("nan")},
        {"momentum": 1.0},
        {"loss": "mse"},
        {"restarts": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Settings(**changes)  # type: ignore[arg-type]
