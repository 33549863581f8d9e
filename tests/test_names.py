"""Names of files and classes that are very long, or that hold commands to a terminal or to rich."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console as RichConsole

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.cli.console import Console
from advimg.errors import UsageError
from advimg.formatting import bounded, printable
from advimg.labels import Labels
from advimg.outputs import default_name
from advimg.record import Prediction, Target
from advimg.report.figure import draw_figure
from tests.batches import assert_one_line, save_photo
from tests.conftest import Cli, EveryModel, linear_classifier, random_photo

MARKUP, COMMAND = "cat [/indoor]", "cat \x1b[2J\u202e"


@pytest.fixture
def named(every_model: EveryModel) -> Classifier:
    """A quick classifier with classes that are called like commands; every command loads it."""
    classifier = linear_classifier(classes=3, size=16, scale=0.05)
    classifier = replace(classifier, name="net [/bold]\x1b[2J", labels=Labels([MARKUP, COMMAND, "line\nadvimg: fake"]))
    every_model(classifier)
    return classifier


@pytest.mark.parametrize("target", ["0", "1", "2"])
@pytest.mark.parametrize("terminal", ["1", "0"])
def test_no_name_means_anything_to_a_terminal(
    cli: Cli, named: Classifier, monkeypatch: pytest.MonkeyPatch, target: str, terminal: str
) -> None:
    if terminal == "1":
        monkeypatch.setattr(RichConsole, "is_terminal", True)
        monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    name = "photo [/red]\x1b[2J\nadvimg: fake.png"
    save_photo(Path(name))
    ran = cli("attack", name, "-t", target, "-v", "--no-figure")
    assert ran.code == 0, ran.err
    assert "\x1b[2J" not in ran.err
    assert "\u202e" not in ran.err
    assert not any(line.startswith("advimg: ") for line in ran.err.splitlines())
    assert "[/red]" in ran.err
    for command in (("classify", name, "-m", "a", "-m", "b"), ("classify", name)):
        seen = cli(*command)
        assert seen.code == 0
        assert MARKUP in seen.err
        assert "\x1b[2J" not in seen.err


def test_a_bar_shows_a_class_by_its_letters(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(RichConsole, "is_terminal", True)
    monkeypatch.setenv("TERM", "xterm")
    with Console().watching(f"{MARKUP}{COMMAND}{'x' * 10_000}", 3) as watch:
        assert watch is not None
    err = capfd.readouterr().err
    assert MARKUP in err
    assert "\x1b[2J" not in err
    assert len(err) < 3000


def test_what_is_long_is_cut_in_the_middle() -> None:
    assert printable("a" * 20_000_000) == "a" * 500 + "…" + "a" * 499
    assert printable("abcdefgh", 5) == "ab…gh"
    assert printable("a\nb\x07") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}"


_LONG = "x" * 200_000


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (2, ("attack", "p.png", "-t", _LONG)),
        (1, ("attack", _LONG, "-t", "1")),
        (2, ("attack", "p.png", "-t", "1", "-e", _LONG)),
        (2, ("attack", "p.png", "-t", "1", "--config", "long.toml")),
        (2, ("batch", "p.png", "-t", _LONG, "-O", "out")),
        (2, ("labels", _LONG)),
        (1, ("verify", "p.png", "--original", _LONG)),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_message_is_short_whatever_it_names(cli: Cli, named: Classifier, code: int, command: tuple[str, ...]) -> None:
    save_photo(Path("p.png"))
    Path("long.toml").write_text(f"{_LONG} = 1\n", encoding="ascii")
    ran = cli(*command)
    assert ran.code == code
    (line,) = ran.err.splitlines()
    assert len(line) < 1100


def test_a_class_has_a_name_that_a_record_can_hold() -> None:
    assert len(Labels(["x" * 1000])) == 1
    with pytest.raises(UsageError, match=r"class 1 has a name of 1,001 characters; the most is 1,000"):
        Labels(["a", "x" * 1001])


@pytest.mark.parametrize("name", ["x" * 1_000_000, "word " * 200_000])
def test_the_longest_names_fit_into_a_figure(name: str) -> None:
    photo = random_photo(30, 20)
    record: Any = advimg.attack(photo, 1, model=linear_classifier(classes=3), steps=1).record
    seen = (Prediction(1, name, 0.75), Prediction(0, name, 0.25))
    record = replace(record, before=seen, after=seen, target=Target(1, name), source=name, model=name)
    assert draw_figure(record, photo.levels, np.array(photo.levels))


@pytest.mark.parametrize("letter", ["x", "ф", "\udcff", "🐱"])
def test_a_file_s_name_is_bounded(letter: str) -> None:
    names = [bounded(letter * count, 200) for count in (50, 300, 301)]
    assert names[0] == letter * 50
    assert all(len(name.encode("utf-8", "surrogateescape")) <= 200 for name in names)
    assert len(set(names)) == 3
    name = default_name(f"{letter * 60}.jpg", Labels([letter * 900]).slug(0))
    assert len(name.encode("utf-8", "surrogateescape")) <= 204


def test_photos_and_classes_with_long_names_are_attacked(cli: Cli, every_model: EveryModel) -> None:
    classifier = linear_classifier(classes=2, size=16, scale=0.05)
    every_model(replace(classifier, labels=Labels(["a" * 1000, "b" * 1000])))
    for end in ("1", "2"):
        save_photo(Path("photos") / f"{'ф' * 120}{end}.png")
    assert cli("attack", f"photos/{'ф' * 120}1.png", "-t", "1").code == 0
    ran = cli("batch", "photos", "-t", "0", "-t", "1", "--figure", "-O", "out", "--amplify", "0.123456", "--json")
    assert ran.code == 0, ran.err
    records = [json.loads(line) for line in ran.out.splitlines()]
    assert len({path for record in records for path in record["outputs"].values()}) == 4 * 3


def test_an_expected_error_of_a_report_is_short(cli: Cli) -> None:
    assert_one_line(cli("report", "x" * 5000), 1)
