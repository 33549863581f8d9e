"""Masks: what they forbid stays as it is, to the last level."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import advimg
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.errors import PhotoError
from advimg.images.decode import photo_from_pixels
from advimg.images.mask import mask_for
from advimg.settings import Settings
from tests.conftest import Cli, linear_classifier, random_photo, weight_of
from tests.referee import judge, pixels

LITE0 = ("-m", "efficientnet_lite0")


def grey(free: npt.NDArray[np.bool_]) -> Image.Image:
    return Image.fromarray(free.astype(np.uint8) * 255)


def halves(width: int, height: int) -> npt.NDArray[np.bool_]:
    """Return a mask whose left half is free."""
    free = np.zeros((height, width), dtype=bool)
    free[:, : width // 2] = True
    return free


@pytest.fixture
def mask(photo: Path, tmp_path: Path) -> Path:
    with Image.open(photo) as image:
        grey(halves(*image.size)).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize("changes", [{}, {"momentum": 0.0}, {"restarts": 3}, {"transfer": True}, {"eps": "auto"}])
def test_the_mask_is_never_crossed(changes: dict[str, Any]) -> None:
    classifier = linear_classifier(classes=4, size=8, scale=0.02)
    for seed in range(4):
        photo = random_photo(12, 9, seed)
        free = np.random.default_rng(seed).random((9, 12)) < 0.4
        mask = mask_for(photo, photo_from_pixels(grey(free)))
        settings = Settings(**{"eps": 20, "confidence": 0.9, "steps": 15} | changes)
        result = Engine(classifier).attack(Job(photo=photo, target=seed % 4, settings=settings, mask=mask))
        changed = (result.levels != photo.levels).any(axis=2)
        assert not changed[~free].any()
        assert changed[free].any()


def test_within_the_mask_the_attack_goes_to_its_optimum() -> None:
    classifier = linear_classifier(size=8, scale=0.0001)
    photo = random_photo(8, 8)
    free = halves(8, 8)
    target = 1 - classifier.judge(photo.levels).top1
    job = Job(
        photo=photo,
        target=target,
        settings=Settings(eps=6, steps=12, confidence=0.99),
        mask=mask_for(photo, photo_from_pixels(grey(free))),
    )
    levels = Engine(classifier).attack(job).levels.astype(int)
    weight = weight_of(classifier)
    towards = (weight[target] - weight[1 - target]).view(3, 8, 8).permute(1, 2, 0).sign().numpy().astype(int)
    expected = np.clip(photo.levels + 6 * towards * free[:, :, None], 0, 255)
    assert np.array_equal(levels, expected)


def test_a_white_mask_changes_nothing_about_the_attack() -> None:
    classifier = linear_classifier(classes=3, size=8, scale=0.02)
    photo = random_photo(10, 8)
    white = mask_for(photo, photo_from_pixels(grey(np.ones((8, 10), dtype=bool))))
    settings = Settings(restarts=1, steps=5)
    with_it, without = (
        Engine(classifier).attack(Job(photo=photo, target=1, settings=settings, mask=mask)) for mask in (white, None)
    )
    assert np.array_equal(with_it.levels, without.levels)


def test_what_is_grey_or_transparent() -> None:
    """Half-way to white is free; what is transparent is not."""
    levels = np.array([[[127] * 3, [128] * 3, [255] * 3]], dtype=np.uint8)
    photo = photo_from_pixels(np.zeros((1, 3, 3), dtype=np.uint8))
    assert mask_for(photo, photo_from_pixels(levels)).free.tolist() == [[False, True, True]]
    rgba = Image.fromarray(np.dstack([levels, np.array([[255, 255, 0]], dtype=np.uint8)]))
    assert mask_for(photo, photo_from_pixels(rgba)).free.tolist() == [[False, True, False]]


def test_a_mask_of_another_size_or_without_white_is_refused() -> None:
    photo = random_photo(10, 8)
    with pytest.raises(PhotoError, match="is 8x10, but the photo is 10x8"):
        mask_for(photo, random_photo(8, 10))
    with pytest.raises(PhotoError, match="has nothing white"):
        mask_for(photo, photo_from_pixels(grey(np.zeros((8, 10), dtype=bool))))


def test_masks_in_python() -> None:
    classifier = linear_classifier(classes=3, size=8, scale=0.05)
    photo = random_photo(10, 8)
    outcome = advimg.attack(photo, 1, model=classifier, eps=40, mask=grey(halves(10, 8)))
    assert np.array_equal(outcome.levels[:, 5:], photo.levels[:, 5:])
    assert outcome.record.mask_sha256 is not None
    found = advimg.verify(outcome.levels, photo, 1, eps=40, model=classifier, mask=grey(halves(10, 8)))
    assert found.mask_kept
    found = advimg.verify(outcome.levels, photo, 1, eps=40, model=classifier, mask=grey(~halves(10, 8)))
    assert (found.mask_kept, found.holds) == (False, False)
    assert advimg.verify(outcome.levels, photo, 1, eps=40, model=classifier).mask_kept is None


def test_the_file_is_changed_only_where_the_mask_is_white(cli: Cli, photo: Path, mask: Path) -> None:
    ran = cli("attack", photo, "-t", "pelican", "--mask", mask, *LITE0, "--json")
    assert ran.code == 0, ran.err
    record = json.loads(ran.out)
    path = Path(record["outputs"]["adversarial"])
    assert judge(path)[0] == 144
    changed = (pixels(path) != pixels(photo)).any(axis=2)
    assert not changed[:, changed.shape[1] // 2 :].any()
    assert changed.any()
    with Image.open(path) as image:
        assert json.loads(image.info["advimg"])["mask_sha256"] == record["mask_sha256"]
    ran = cli("verify", path, "--original", photo, "--mask", mask)
    assert ran.code == 0
    assert "ok  mask" in ran.err
    ran = cli("verify", path, "--original", photo)
    assert ran.code == 0
    assert "names a mask" in ran.err


def test_verify_finds_a_mask_that_is_crossed(cli: Cli, photo: Path, mask: Path) -> None:
    assert cli("attack", photo, "-t", "pelican", *LITE0, "--no-figure").code == 0
    ran = cli("verify", "cat_pelican.png", "--original", photo, "--mask", mask)
    assert ran.code == 3
    assert "NO  mask" in ran.err


@pytest.mark.parametrize(("name", "message"), [("no.png", "does not exist"), ("coffee.png", "but the photo is")])
def test_a_bad_mask_is_one_line(cli: Cli, photo: Path, coffee: Path, name: str, message: str) -> None:
    ran = cli("attack", photo, "-t", "pelican", "--mask", coffee if name == coffee.name else name, *LITE0)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert message in line
