"""Options from the environment and from a TOML file."""

import json
from pathlib import Path
from typing import Any

import pytest

from advimg.classifiers.classifier import Classifier
from tests.batches import code_of, quick_classifier, records_of, save_photos
from tests.conftest import Cli, EveryModel

ATTACK = ("attack", "photos/p00.jpg", "-t", "3", "--json", "-q", "--no-figure", "-f")


@pytest.fixture(autouse=True)
def quick(every_model: EveryModel, tmp_path: Path) -> Classifier:
    """Let every model be a quick linear one, and have two photos."""
    classifier = quick_classifier()
    every_model(classifier)
    save_photos(tmp_path / "photos", 2)
    return classifier


def record(cli: Cli, *arguments: str) -> dict[str, Any]:
    ran = cli(*ATTACK, *arguments)
    values: dict[str, Any] = json.loads(ran.out)
    assert ran.code == code_of([values]), ran.err
    return values


def test_the_command_line_overrules_the_environment_and_that_the_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my.toml").write_text("eps = 3\nstep_size = 2\nmomentum = 0.25\n")
    config = ("--config", "my.toml")
    assert record(cli)["eps"] == 10
    assert record(cli, *config)["eps"] == 3
    monkeypatch.setenv("ADVIMG_EPS", "4/255")
    assert record(cli)["eps"] == record(cli, *config)["eps"] == 4
    found = record(cli, *config, "-e", "5", "--step-size", "1")
    assert (found["eps"], found["step_size"], found["momentum"]) == (5, 1, 0.25)
    monkeypatch.delenv("ADVIMG_EPS")
    monkeypatch.setenv("ADVIMG_CONFIG", "my.toml")
    assert record(cli)["eps"] == 3
    monkeypatch.delenv("ADVIMG_CONFIG")
    ran = cli(*config, *ATTACK)  # before the command
    assert json.loads(ran.out)["eps"] == 3, ran.err


def test_flags_lists_and_several_values(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: Classifier, every_model: EveryModel
) -> None:
    every_model(quick, **{name: quick_classifier(seed=number) for number, name in enumerate("abc")})
    (tmp_path / "my.toml").write_text(
        'transfer = true\nperturbation = false\ncheck-on = ["a", "b"]\nmean = [0.5, 0.5, 0.5]\nsteps = 3\n'
    )
    found = record(cli, "--config", "my.toml")
    assert (found["transfer"], list(found["outputs"]), len(found["checked"])) == (True, ["adversarial"], 2)
    monkeypatch.setenv("ADVIMG_TRANSFER", "false")
    monkeypatch.setenv("ADVIMG_CHECK_ON", "a b c")
    found = record(cli, "--config", "my.toml")
    assert (found["transfer"], len(found["checked"])) == (False, 3)


def test_a_table_is_for_its_command_and_goes_before_what_is_for_all(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        'eps = 7\nretry-failed = true\nout-dir = "out"\n'
        '[attack]\nout_dir = "."\n'
        '[batch]\neps = 2\ntarget = [3, "class 1"]\n'
    )
    assert record(cli, "--config", "my.toml")["eps"] == 7
    ran = cli("batch", "photos", "--config", "my.toml", "--json")
    assert ran.code == code_of(records_of(Path("out"))), ran.err
    assert [json.loads(line)["eps"] for line in ran.out.splitlines()] == [2] * 4
    assert Path("out/results.jsonl").exists()
    (tmp_path / "sweep.toml").write_text('eps = [1, 2]\nout-dir = "swept"\n')
    ran = cli("sweep", "photos", "-t", "3", "--config", "sweep.toml", "--json")
    assert [point["eps"] for point in json.loads(ran.out)] == [1, 2]


def test_what_is_on_the_command_line_replaces_what_it_excludes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVIMG_TARGET", "3")
    monkeypatch.setenv("ADVIMG_OUT_DIR", "nowhere")
    ran = cli("attack", "photos/p00.jpg", "--untargeted", "-o", "mine.png", "--json", "-q")
    assert json.loads(ran.out)["target_rule"] == "untargeted", ran.err
    assert Path("mine.png").exists()
    (tmp_path / "pairs.csv").write_text("path,target\nphotos/p00.jpg,2\n")
    ran = cli("batch", "--targets", "pairs.csv", "-O", "out", "--json")
    assert json.loads(ran.out)["target"]["index"] == 2, ran.err


def test_debug_can_be_set_in_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVIMG_DEBUG", "1")
    with pytest.raises(ValueError, match="out of range"):
        cli("attack", "photos/p00.jpg", "-t", "99")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "my.toml: unknown key 'stepz'; did you mean steps?"),
        ("zzz = 3", "my.toml: unknown key 'zzz'; keys are the names of options"),
        ("[attack]\noriginal = 'x'", "my.toml, [attack]: unknown key 'original'"),
        ("[attak]\neps = 3", "my.toml: there is no command 'attak'"),
        ("config = 'other.toml'", "unknown key 'config'"),
        ("steps = 2.5", "steps in my.toml: '2.5' is not a valid integer"),
        ("steps = true", "steps cannot be True"),
        ("steps = [1, 2]", "steps in my.toml: '1,2' is not a valid integer"),
        ("transfer = 1", "transfer cannot be 1; give true or false"),
        ("transfer = [true]", "transfer cannot be [True]; give true or false"),
        ("loss = 'mse'", "loss in my.toml: 'mse' is not one of"),
        ("eps = 'ten'", "eps 'ten' is not a number"),
        ("seed = 1979-05-27", "seed cannot be"),
        ("steps =", "my.toml is not TOML"),
        ("steps = " + "[" * 5000, "my.toml is not TOML: it is too deep"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "my.toml").write_text(text + "\n")
    ran = cli(*ATTACK, "--config", "my.toml")
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (2, "", 1)
    assert message in ran.err


def test_a_file_that_is_not_there_and_an_odd_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = cli(*ATTACK, "--config", "no.toml")
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "no.toml cannot be read" in ran.err
    monkeypatch.setenv("ADVIMG_STEPS", "many")
    ran = cli(*ATTACK)
    assert (ran.code, len(ran.err.splitlines())) == (2, 1)
    assert "ADVIMG_STEPS in the environment: 'many' is not a valid integer" in ran.err


def test_every_command_takes_a_config(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("json = true\n")
    assert json.loads(cli("labels", "pelican", "--config", "my.toml").out)[0]["name"] == "pelican"
    assert "ADVIMG_" not in cli("attack", "--help").out
    assert "ADVIMG_<OPTION>" in cli("--help").out
    assert "--config" in cli("--help").out
