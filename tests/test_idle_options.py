"""Options that would change nothing, or that mean something else than they seem to."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.errors import UsageError
from advimg.images.decode import read_photo
from tests.batches import assert_one_line, save_photo
from tests.conftest import Cli, linear_classifier, random_photo


@pytest.fixture(autouse=True)
def p(quick: Classifier, cli: Cli) -> Path:
    return save_photo(Path("p.png"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("attack", "p.png", "-t", ""), "-t is empty"),
        (("attack", "p.png", "-t", " "), "-t is empty"),
        (("batch", "p.png", "-t", "3", "-t", "", "-O", "out"), "-t is empty"),
        (("sweep", "p.png", "-t", "", "-O", "out"), "-t is empty"),
        (("verify", "p.png", "--original", "p.png", "-e", "1", "-t", ""), "-t is empty"),
        (("attack", "p.png", "-t", "3", "-t", "2"), "attack takes one target and 2 were given: 3, 2"),
        (("verify", "p.png", "--original", "p.png", "-t", "3", "-t", "2"), "verify takes one target and 2 were given"),
        (("attack", "p.png", "-t", "3", "--max-eps", "4"), "--max-eps bounds --eps auto"),
        (("batch", "p.png", "-t", "3", "--max-eps", "4", "-O", "out"), "--max-eps bounds --eps auto"),
        (("attack", "p.png", "-t", "3", "--amplify", "4", "--no-figure", "--no-perturbation"), "--amplify is"),
        (("batch", "p.png", "-t", "3", "--amplify", "4", "--no-perturbation", "-O", "out"), "--amplify is"),
    ],
)
def test_what_would_change_nothing_is_refused(cli: Cli, command: tuple[str, ...], message: str) -> None:
    assert_one_line(cli(*command), 2, message)
    assert [path.name for path in Path().iterdir()] == ["p.png"]


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_target_is_none_in_python(quick: Classifier, empty: str) -> None:
    with pytest.raises(UsageError, match="the target is empty"):
        advimg.attack(random_photo(24, 16), empty, model=quick)


def test_the_same_options_are_no_error_where_they_are_set_for_all_commands(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVIMG_MAX_EPS", "4")
    monkeypatch.setenv("ADVIMG_AMPLIFY", "4")
    monkeypatch.setenv("ADVIMG_TARGET", "class 3")
    assert cli("attack", "p.png", "--no-figure", "--no-perturbation").code == 0
    assert Path("p_class_3.png").exists()


def test_a_confidence_without_a_target_is_explained(cli: Cli) -> None:
    ran = cli("attack", "p.png", "--untargeted", "--confidence", "0.75", "--no-figure")
    assert ran.code == 0
    assert "keeps at most 25.0 %; the class that is reached may have any confidence" in ran.err
    assert "keeps at most" not in cli("attack", "p.png", "--untargeted", "-f").err


def test_a_class_that_keeps_more_than_was_asked_for_is_told(cli: Cli) -> None:
    ran = cli("attack", "p.png", "--untargeted", "--confidence", "0.999999", "--steps", "5", "--no-figure")
    assert ran.code == 0
    assert "note: the class that the photo shows keeps " in ran.err


def test_a_photo_that_shows_the_target_already_is_told(cli: Cli, quick: Classifier) -> None:
    present = quick.judge(read_photo("p.png").levels).top1
    other = (present + 1) % len(quick.labels)
    said = f"the photo shows class {present} already"
    assert said in cli("attack", "p.png", "-t", present).err
    assert said not in cli("attack", "p.png", "-t", other).err
    ran = cli("batch", "p.png", "-t", present, "-t", other, "-O", "out")
    assert ran.code == 0
    assert "note: 1 of the photos showed their target already" in ran.err


def test_a_mask_outside_of_the_crop_is_refused(cli: Cli, quick: Classifier) -> None:
    save_photo(Path("wide.png"), size=(60, 16))
    mask = np.zeros((16, 60), dtype=np.uint8)
    mask[:, :8] = 255
    Image.fromarray(mask).save("mask.png")
    ran = cli("attack", "wide.png", "-t", "3", "--mask", "mask.png")
    assert_one_line(ran, 2, "the mask is white only where linear does not look")
    mask[:, 30] = 255
    Image.fromarray(mask).save("mask.png")
    assert cli("attack", "wide.png", "-t", "3", "--mask", "mask.png", "--steps", "1", "-e", "1").code == 3


def test_the_mask_is_never_overwritten(cli: Cli) -> None:
    Image.new("L", (24, 16), 255).save("mask.png")
    before = Path("mask.png").read_bytes()
    ran = cli("attack", "p.png", "-t", "3", "-o", "./mask.png", "--mask", "mask.png", "-f")
    assert_one_line(ran, 1, "mask.png is the mask itself")
    assert Path("mask.png").read_bytes() == before


def test_no_record_holds_more_networks_than_it_may() -> None:
    networks = [linear_classifier(seed=seed) for seed in range(34)]
    with pytest.raises(UsageError, match="at most 32 classifiers"):
        advimg.attack(random_photo(8, 8), 1, model=networks)
