"""The Python interface."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.errors import AdvimgError, OutputError, UsageError
from tests import referee
from tests.conftest import linear_classifier, random_photo

if TYPE_CHECKING:
    from advimg.api import Picture


def test_attack_and_save(coffee: Path, lite0: Classifier, tmp_path: Path) -> None:
    outcome = advimg.attack(str(coffee), target="pelican", model=lite0)
    assert outcome.record.fooled
    assert outcome.record.target.name == "pelican"
    assert outcome.picture.size == (600, 400)
    before = outcome.record
    path = outcome.save(tmp_path / "pelican.png")
    assert outcome.record == replace(before, outputs={"adversarial": str(path)})
    assert referee.judge(path)[0] == 144
    assert referee.linf(path, coffee) <= 10
    found = advimg.verify(path, coffee, "pelican", eps=10, model=lite0)
    assert found.holds
    assert advimg.classify(path, model=lite0).top(1)[0].name == "pelican"


def test_every_form_of_a_photo_gives_the_same_picture(coffee: Path) -> None:
    classifier = linear_classifier(size=32)
    with Image.open(coffee) as image:
        image.load()
        forms: list[Picture] = [coffee, str(coffee), coffee.read_bytes(), image, np.asarray(image)]
    pictures = [advimg.attack(form, 1, model=classifier, eps=2).levels for form in forms]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


def test_single_settings_can_be_changed() -> None:
    classifier = linear_classifier()
    settings = advimg.Settings(eps=7, steps=3)
    record = advimg.attack(random_photo(8, 8), 1, model=classifier, settings=settings, seed=9).record
    assert (record.eps, record.max_steps, record.seed) == (7, 3, 9)
    with pytest.raises(TypeError):
        advimg.attack(random_photo(8, 8), 1, model=classifier, epsilon=3)


def test_errors_are_advimg_errors() -> None:
    with pytest.raises(AdvimgError, match="does not exist"):
        advimg.attack("no.jpg", 1, model=linear_classifier())
    with pytest.raises(ValueError, match="looks like a fraction"):
        advimg.attack(random_photo(8, 8), 1, model=linear_classifier(), eps=10 / 255)


def test_save_refuses_what_would_change_the_pixels(tmp_path: Path) -> None:
    outcome = advimg.attack(random_photo(8, 8), 1, model=linear_classifier())
    with pytest.raises(UsageError, match=r"must be a \.png"):
        outcome.save(tmp_path / "x.jpg")
    assert outcome.record.outputs == {}
    outcome.save(tmp_path / "x.png")
    with pytest.raises(OutputError):
        outcome.save(tmp_path / "x.png")


def test_save_notices_pixels_that_are_not_those_that_were_judged(tmp_path: Path) -> None:
    outcome = advimg.attack(random_photo(8, 8), 1, model=linear_classifier())
    other = replace(outcome, levels=255 - outcome.levels)
    assert outcome.holds(outcome.png())
    assert not outcome.holds(other.png())


def test_any_network_can_be_wrapped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(3600, 3)
    )
    classifier = advimg.Classifier.wrap(
        network, labels=["cat", "dog", "owl"], mean=(0.5, 0.5, 0.5), std=(0.3, 0.3, 0.3), resize=36, crop=32
    )
    photo = random_photo(60, 50)
    present = advimg.classify(photo, model=classifier).top1
    target = classifier.labels[(present + 1) % 3]
    outcome = advimg.attack(photo, target, model=classifier, eps=20)
    assert outcome.record.fooled
    assert outcome.record.model == "Sequential"
    outcome.save(tmp_path / "x.png")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError):
        advimg.nothing  # noqa: B018
    assert set(advimg.__all__) <= set(dir(advimg))
    assert all(hasattr(advimg, name) for name in advimg.__all__)


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_the_caller_may_have_switched_gradients_off(switch: type[torch.no_grad]) -> None:
    classifier = linear_classifier()
    expected = advimg.attack(random_photo(8, 8), 1, model=classifier).levels
    with switch():
        assert np.array_equal(advimg.attack(random_photo(8, 8), 1, model=classifier).levels, expected)
        assert not torch.is_grad_enabled()
