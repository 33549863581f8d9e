"""The Python interface."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.errors import AdvimgError, OutputError, UsageError
from tests import referee
from tests.batches import assert_kept, key_of, quick_classifier, records_of, save_photos
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


def test_python_and_the_command_line_have_the_same_defaults() -> None:
    photo, classifier = random_photo(8, 8), linear_classifier()
    for norm, eps in (("linf", 10), ("l2", 3)):
        assert advimg.attack(photo, 1, model=classifier, norm=norm).record.eps == eps
        settings = advimg.Settings(steps=2)
        assert advimg.attack(photo, 1, model=classifier, settings=settings, norm=norm).record.eps == eps


@pytest.mark.parametrize("eps", ["10/255", "10", np.int64(10), np.float64(10)])
def test_eps_may_be_written_as_on_the_command_line(eps: object, tmp_path: Path) -> None:
    photo, classifier = random_photo(8, 8), linear_classifier()
    outcome = advimg.attack(photo, 1, model=classifier, eps=eps)
    assert outcome.record.eps == 10
    path = outcome.save(str(tmp_path / "x.png"))
    assert advimg.verify(str(path), photo, 1, eps=eps, model=classifier).eps == 10  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            torch.nn.Sequential(torch.nn.Flatten()),
            r"bare network.*advimg\.Classifier\.wrap\(network, labels=",
        ),
        (torch.nn.Linear, "give a name like 'resnet50'"),
        (3, "model 3: give a name"),
        ([], "at least one"),
        ([linear_classifier(), None], "model None"),
    ],
)
def test_a_model_of_another_kind_is_one_line(model: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        advimg.attack(random_photo(8, 8), 1, model=model)
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(UsageError):
        advimg.attack(random_photo(8, 8), 1, model=linear_classifier(), check_on=[model])


def test_an_outcome_is_printed_in_a_few_lines(tmp_path: Path) -> None:
    outcome = advimg.attack(random_photo(300, 200), 1, model=linear_classifier(), eps=4)
    assert str(outcome).splitlines()[0] == f"noise0.png: {outcome.record.attacked[0].change}"
    assert "  ε = 4: no channel moved more than 4 of 255 levels" in str(outcome)
    assert "not saved" in str(outcome)
    path = outcome.save(tmp_path / "x.png")
    assert str(outcome).splitlines()[-1] == f"  saved as {path}"
    assert str(path) in repr(outcome)
    assert len(repr(outcome).splitlines()) == 1
    assert len(repr(outcome)) < 400


def test_a_batch_in_python_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    classifier = quick_classifier()
    photos = save_photos(tmp_path / "photos", 3)
    ended: list[dict[str, Any]] = []
    stop = threading.Event()

    def first(record: dict[str, Any]) -> None:
        ended.append(record)
        stop.set()

    folder = str(tmp_path / "out")
    options: dict[str, Any] = {"out_dir": folder, "model": classifier, "eps": "8/255", "perturbation": False}
    stats = advimg.batch(str(tmp_path / "photos"), [2, "class 3"], ended=first, stop=stop, batch_size=1, **options)
    assert 0 < len(ended) == stats.done < stats.total == 6
    stats = advimg.batch(photos, [2, "class 3"], ended=ended.append, **options)
    assert (stats.done, stats.total) == (6, 6)
    assert stats.earlier + stats.fresh == 6
    assert stats.verified == sum(record["fooled"] for record in records_of(tmp_path / "out"))
    assert sorted(map(key_of, ended)) == sorted(map(key_of, records_of(tmp_path / "out")))
    assert_kept(tmp_path / "out", classifier)
    with pytest.raises(OutputError, match="seed 0 there, 1 here"):
        advimg.batch(photos, 2, seed=1, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": []}, "no target"),
        ({"targets": "class 99"}, "unknown class"),
        ({"photos": []}, "none of the paths"),
        ({"batch_size": 0}, "batch size 0"),
        ({"amplify": 0}, "amplify 0"),
        ({"eps": "x"}, "not a number"),
        ({"device": ["cpu", "cpu"]}, "give models by name"),
    ],
)
def test_what_is_wrong_with_a_batch_is_found_before_it_begins(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    save_photos(tmp_path / "photos", 1)
    given: dict[str, Any] = {"photos": tmp_path / "photos", "targets": 1, "model": quick_classifier()}
    with pytest.raises(AdvimgError, match=message):
        advimg.batch(**{"out_dir": tmp_path / "out"} | given | changes)
    assert not (tmp_path / "out").exists()
