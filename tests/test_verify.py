"""``advimg verify`` against files and records that someone has made up."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import advimg
from advimg.classifiers.classifier import Classifier
from advimg.images.decode import read_photo
from advimg.images.encode import encode_png
from tests.batches import assert_one_line
from tests.conftest import Cli, Ran, linear_classifier, random_photo

LITE0 = "efficientnet_lite0"
CAT = 285  # Egyptian cat, the top-1 of the photo

Forge = Callable[..., Ran]


@pytest.fixture
def forge(cli: Cli, photo: Path, lite0: Classifier) -> Forge:
    """Verify the unchanged photo, with a record that claims what is given besides."""
    levels = read_photo(photo).levels
    top1 = lite0.judge(levels).top1
    made = advimg.attack(levels, top1, model=lite0, steps=1, confidence=0, eps=1).record
    values = json.loads(made.to_chunk()) | {"source_sha256": read_photo(photo).sha256}

    def verify(*options: object, text: str | None = None, **claims: Any) -> Ran:
        chunk = json.dumps(values | claims) if text is None else text
        Path("forged.png").write_bytes(encode_png(levels, chunk=chunk, icc_profile=read_photo(photo).icc_profile))
        return cli("verify", "forged.png", "--original", photo, *options)

    return verify


VIEW = {
    "resize": 256,
    "crop": 224,
    "interpolation": "bicubic",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "squash": False,
}


def test_an_honest_record_holds(forge: Forge, lite0: Classifier) -> None:
    ran = forge(view=lite0.preprocessing.to_dict())
    assert (ran.code, "the promise holds" in ran.err) == (0, True)


def test_a_record_does_not_choose_the_preprocessing(forge: Forge, lite0: Classifier) -> None:
    view = lite0.preprocessing.to_dict() | {"mean": [5, 5, 5]}
    for options in ((), ("-m", LITE0)):
        ran = forge(*options, "--json", view=view)
        assert ran.code == 3
        assert "NO  record" in ran.err
        assert "mean [5.0, 5.0, 5.0] in the record" in ran.err
        found = json.loads(ran.out)
        assert found["holds"] is False
        assert found["view"] == lite0.preprocessing.to_dict()
        assert len(found["record_differs"]) == 1


def test_python_judges_by_the_model_too(photo: Path, lite0: Classifier, tmp_path: Path) -> None:
    levels = read_photo(photo).levels
    record = advimg.attack(levels, lite0.judge(levels).top1, model=lite0, steps=1, confidence=0, eps=1).record
    chunk = json.dumps(json.loads(record.to_chunk()) | {"view": {**record.view, "std": [9, 9, 9]}})
    path = tmp_path / "forged.png"
    path.write_bytes(encode_png(levels, chunk=chunk))
    found = advimg.verify(path, photo, record.target.index, eps=1, model=lite0)
    assert (found.within_eps, found.holds) == (True, False)
    assert found.record_differs == (f"std [9.0, 9.0, 9.0] in the record, {record.view['std']} here",)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"model": "own.toml"}, "was made with own.toml; give it with -m"),
        ({"model": "resnext101_64x4d:IMAGENET1K_V1"}, "whose weights are not on disk; give it with -m"),
        ({"model": "nothing"}, "give it with -m"),
        ({"model": "../own.TOML"}, "give it with -m"),
        ({"weights": "mine.pt"}, "give it with --weights"),
        ({"target": {"index": 99999, "name": ""}}, "out of range"),
        ({"target": {"index": math.inf, "name": ""}}, "Infinity is no JSON"),
        ({"view": VIEW | {"crop": math.inf}}, "Infinity is no JSON"),
        ({"view": VIEW | {"resize": 10**400}}, "$.view.resize"),
        ({"steps": 10**24}, "$.steps"),
        ({"ensemble": [{}] * 200}, "$.ensemble"),
        ({"eps": 3.5}, "is not whole"),
        ({"text": "[" * 100_000}, "too deep"),
        ({"text": '{"a": ' * 100_000}, "too deep"),
        ({"text": "9" * 10_000}, "is not one"),
        ({"text": "x" * 1_000_000}, "is not one"),
    ],
)
def test_a_record_that_was_made_up_is_one_line(forge: Forge, claims: dict[str, Any], message: str) -> None:
    Path("own.toml").write_text(f'model = "{LITE0}"\n', encoding="ascii")
    assert_one_line(forge(**claims), 2, message)


def test_a_record_names_no_model_twice(forge: Forge, lite0: Classifier, photo: Path) -> None:
    record = advimg.attack(photo, CAT, model=lite0, steps=1, confidence=0, eps=1).record
    network = json.loads(record.to_json())
    assert_one_line(forge(ensemble=[network]), 2, "names a model twice")


def test_what_the_options_say_is_enough_beside_a_record_that_is_none(forge: Forge, lite0: Classifier) -> None:
    ran = forge("-t", "hen", "-e", "1", "-m", LITE0, text="[" * 100_000)
    assert ran.code == 3
    assert "note: the PNG's record is not one that advimg wrote (it is too deep)" in ran.err


def _promise(adversarial: Path, original: Path, lite0: Classifier) -> dict[str, Any]:
    top1 = lite0.judge(read_photo(original).levels).top1
    return advimg.verify(adversarial, original, top1, eps=1, model=lite0).to_dict()


@pytest.mark.parametrize("opacity", [0, 254])
def test_a_file_with_another_transparency_does_not_hold(
    cli: Cli, photo: Path, lite0: Classifier, opacity: int, tmp_path: Path
) -> None:
    path = tmp_path / "clear.png"
    with Image.open(photo) as image:
        picture = image.convert("RGB")
        picture.putalpha(opacity)
        picture.save(path)
        picture.putalpha(255)
        picture.save(tmp_path / "opaque.png")
    found = _promise(path, photo, lite0)
    assert (found["linf"], found["alpha_kept"], found["holds"]) == (0, False, False)
    assert _promise(tmp_path / "opaque.png", photo, lite0)["holds"] is True
    assert _promise(photo, path, lite0)["alpha_kept"] is False
    top1 = lite0.judge(read_photo(photo).levels).top1
    ran = cli("verify", path, "--original", photo, "-t", top1, "-e", 1, "-m", LITE0)
    assert ran.code == 3
    assert "NO  transparency" in ran.err


def test_a_file_with_another_colour_profile_does_not_hold(photo: Path, lite0: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "profile.png"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path.write_bytes(encode_png(read_photo(photo).levels, icc_profile=profile))
    for one, other in ((path, photo), (photo, path)):
        found = _promise(one, other, lite0)
        assert (found["linf"], found["profile_kept"], found["holds"]) == (0, False, False)
    assert _promise(path, path, lite0)["holds"] is True


def test_levels_alone_have_neither() -> None:
    photo, classifier = random_photo(8, 8), linear_classifier()
    found = advimg.verify(np.array(photo.levels), photo, 0, eps=1, model=classifier)
    assert (found.alpha_kept, found.profile_kept) == (None, None)
