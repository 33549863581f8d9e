"""What people may ask for, and how they write it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import advimg
from advimg.batches.journal_entry import differences, folder_settings
from advimg.cli.command import Command
from advimg.cli.options import settings_of, settings_options, stream_options
from advimg.errors import UsageError
from advimg.record_schema import record_of
from advimg.settings import Settings, described, parse_eps, setting
from tests.conftest import linear_classifier, random_photo


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


_NO_EPS: tuple[Any, ...] = (True, "abc", 0.04, np.nan, np.inf, -np.inf, [4], (), {}, b"x", type, 10**400)
_NO_L2: tuple[Any, ...] = ("10/255", 0, "auto", 10**400)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 2.5},
        {"steps": "5"},
        {"steps": True},
        {"restarts": None},
        {"confidence": "high"},
        {"confidence": [0.5]},
        {"momentum": None},
        {"momentum": float("inf")},
        {"norm": "l1"},
        {"norm": 2},
        {"loss": None},
        {"transfer": 1},
        {"seed": np.zeros(2)},
        {"max_eps": "many"},
        *({"eps": value} for value in _NO_EPS),
        *({"eps": value, "norm": "l2"} for value in _NO_L2),
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_nonsense_is_one_line(changes: dict[str, object]) -> None:
    with pytest.raises(UsageError) as raised:
        Settings(**changes)  # type: ignore[arg-type]
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize("eps", [4, "4", "4/255", 4.0, np.int64(4), np.uint8(4), np.float32(4), torch.tensor(4)])
def test_eps_is_read_from_any_kind_of_number(eps: Any) -> None:
    settings = Settings(eps=eps)
    assert (settings.eps, type(settings.eps)) == (4, int)


def test_other_numbers_may_be_numpy_s() -> None:
    settings = Settings(steps=np.int64(5), confidence=np.float32(0.5), transfer=np.True_, max_eps=np.int8(3))  # type: ignore[arg-type]
    assert settings.to_record() == Settings(steps=5, confidence=0.5, transfer=True, max_eps=3).to_record()
    assert [type(value) for value in (settings.steps, settings.confidence, settings.transfer)] == [int, float, bool]


def test_each_norm_has_its_own_default_eps() -> None:
    assert Settings().eps == Settings(eps=None).eps == 10  # type: ignore[arg-type]
    assert Settings(norm="l2").eps == 3
    assert Settings(eps=7).changed(norm="l2").eps == 3
    assert Settings(eps=7).changed(norm="l2", eps=0.5).eps == 0.5
    assert Settings(eps=7).changed(norm="linf", seed=1).eps == 7


# One setting is one line.


@dataclass(frozen=True, slots=True, kw_only=True)
class More(Settings):
    calm: float = setting(0.5, "How calm it is.", at_least=0, at_most=1)


@click.command(cls=Command)
@settings_options(More)
@stream_options
def more(**given: Any) -> None:
    print(settings_of(given, More).to_record()["calm"])


def called(*arguments: str, **environment: str) -> str:
    ran = CliRunner().invoke(more, arguments, env=environment, catch_exceptions=False)
    return ran.output.strip()


def test_a_new_setting_is_an_option_with_its_help_in_its_group(tmp_path: Path) -> None:
    lines = [line.strip() for line in called("--help").splitlines()]
    (line,) = (line for line in lines if line.startswith("--calm FLOAT"))
    assert "How calm it is." in line
    assert lines.index("The attack:") < lines.index(line) < lines.index("What is said:")
    assert called() == "0.5"
    (tmp_path / "my.toml").write_text("calm = 0.1\n")
    config = str(tmp_path / "my.toml")
    assert called("--config", config) == "0.1"
    assert called("--config", config, ADVIMG_CALM="0.2") == "0.2"
    assert called("--config", config, "--calm", "0.3", ADVIMG_CALM="0.2") == "0.3"


def test_a_new_setting_is_in_the_record_the_journal_and_python() -> None:
    photo, classifier = random_photo(8, 8), linear_classifier()
    records = [
        advimg.attack(photo, 1, model=classifier, steps=1, settings=More(), calm=calm).record for calm in (0.5, 0.25)
    ]
    assert [record.calm for record in records] == [0.5, 0.25]
    values = [record.to_dict() for record in records]
    assert list(values[0])[list(values[0]).index("transfer") + 1] == "calm"
    assert record_of(values[1], More).to_dict() == values[1]
    there, here = (folder_settings(value, More) for value in values)
    assert differences(there, here, kind=More) == ["calm 0.5 there, 0.25 here"]
    with pytest.raises(UsageError, match=r"calm 2\.0: give a value at least 0 and at most 1"):
        More(calm=2)


def test_every_setting_but_eps_is_compared_when_a_folder_is_gone_on_with() -> None:
    record = advimg.attack(random_photo(8, 8), 1, model=linear_classifier(), steps=1).record.to_dict()
    assert {each.recorded for each in described()} - set(folder_settings(record)) == {"eps"}
    for each in described():
        if each.name != "eps":
            changed = folder_settings(record | {each.recorded: "other"})
            assert len(differences(folder_settings(record), changed)) == 1
