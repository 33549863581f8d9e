"""The check that a preprocessing's description is true of the function that it describes.

The gradient goes through the description, so an attack with a wrong one would lead nowhere, without a word.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from advimg.changes import parse_changes
from advimg.classifiers.own_preprocessing import name_of
from advimg.classifiers.preprocessing import Channels, Preprocessing
from advimg.errors import ClassifierError
from advimg.transforms.resampling import Interpolation

# Values that differ by no more are the same, as resizes of other libraries round otherwise.
_LEVELS = 2
_SHARE = 0.02
# A codec makes more of a rounding: as much as it makes of one level at one in five values, and half as much again.
_NUDGED = 0.2
_SLACK = 1.5

_SIZES = (640, 480), (300, 400), (97, 131)
_QUALITIES = 75, 80, 85, 90, 95
_MOST_CHANGES = 2


class _Sample(NamedTuple):
    """A picture, and what the function makes of it, [3, crop, crop]."""

    picture: Image.Image
    given: Tensor


def check_description(preprocessing: Preprocessing) -> None:
    """Hold a preprocessing's own function against the rest of it, on pictures like photos and on noise.

    They agree if all but 2% of the values of each picture are the same up to 2 of 255 levels; where a change follows
    the crop, also if they differ by not much more than a rounding before the change would make them.

    Raises:
        ClassifierError: they do not agree, and which other description would if one is found; or the function fails,
            or depends on chance.
    """
    function = preprocessing.preprocess
    assert function is not None
    samples = []
    for picture in sample_pictures():
        given = preprocessing.stock(picture.copy())
        if not torch.equal(given, preprocessing.stock(picture.copy())):
            raise ClassifierError(
                f"the preprocessing function {name_of(function)} depends on chance: it makes different inputs of one "
                "picture"
            )
        samples.append(_Sample(picture, given))
    described = preprocessing.description
    apart = [
        (_apart(described, described.stock(each.picture), each.given), each.picture.size)
        for each in samples
        if not _agree(described, each)
    ]
    if not apart:
        return
    share, (width, height) = max(apart)
    better = _better(described, samples)
    advice = f"it would agree with {better}" if better else "look at then, resize, squash and interpolation"
    raise ClassifierError(
        f"the preprocessing function {name_of(function)} is not as it is described: {share:.0%} of its values for a "
        f"picture of {width}x{height} pixels are more than {_LEVELS} of 255 levels away; {advice}"
    )


def _agree(described: Preprocessing, sample: _Sample) -> bool:
    crop = described.cropped(sample.picture)
    finished = described.finished(crop)
    rounding = _apart(described, finished, described.finished(_nudged(crop)))
    return _apart(described, finished, sample.given) <= _SHARE + _SLACK * rounding


def _apart(described: Preprocessing, one: Tensor, other: Tensor) -> float:
    """Return the share of values of two inputs that are not the same."""
    levels = 255 * torch.tensor(described.std).view(3, 1, 1)
    # A little more than two levels: differences of whole levels are computed in 32 bits.
    return float((((one - other) * levels).abs() > _LEVELS + 0.01).float().mean())


def _nudged(crop: Image.Image) -> Image.Image:
    """Return a crop as another resize might have rounded it."""
    levels = np.asarray(crop).astype(np.int16)
    nudges = np.random.default_rng(0).choice([-1, 0, 1], levels.shape, p=[_NUDGED / 2, 1 - _NUDGED, _NUDGED / 2])
    return Image.fromarray((levels + nudges).clip(0, 255).astype(np.uint8))


def _better(described: Preprocessing, samples: list[_Sample]) -> str:
    """Return the words for what would have to be described otherwise; none if nothing is found that explains it all."""
    for changes in _alternatives(described):
        try:
            changed = replace(described, **changes)
            fitted = _normalised_as(changed, samples[0])
        except ClassifierError:  # a crop larger than the resize; numbers that no mean and std can be
            continue
        if all(_agree(changed, each) for each in samples):
            return _words(changes)
        if all(_agree(fitted, each) for each in samples):
            return _words(changes | {"mean": fitted.mean, "std": fitted.std})
    return ""


def _alternatives(described: Preprocessing) -> Iterator[dict[str, Any]]:
    """Yield changes of a description, the smallest first."""
    values: dict[str, tuple[Any, ...]] = {
        "channels": get_args(Channels),
        "squash": (False, True),
        "then": (None, *parse_changes(f"jpeg:{quality}" for quality in _QUALITIES)),
        "interpolation": get_args(Interpolation),
        "resize": (described.size[0], round(described.size[0] / 0.875)),
    }
    single = [(name, value) for name, others in values.items() for value in others if value != getattr(described, name)]
    for count in range(_MOST_CHANGES + 1):
        for chosen in combinations(single, count):
            if len(dict(chosen)) == count:  # else it is two values for one name
                yield dict(chosen)


def _normalised_as(described: Preprocessing, sample: _Sample) -> Preprocessing:
    """Return a description with the mean and std that explain a sample best.

    Raises:
        ClassifierError: they would be out of range.
    """
    levels = replace(described, mean=(0, 0, 0), std=(1, 1, 1)).stock(sample.picture).flatten(1).double()
    given = sample.given.flatten(1).double()
    centred = levels - levels.mean(1, keepdim=True)
    slope = (centred * given).sum(1) / centred.square().sum(1)
    mean = levels.mean(1) - given.mean(1) / slope
    return replace(described, mean=rounded(mean, 4), std=rounded(1 / slope, 4))


def rounded(values: Tensor, digits: int) -> tuple[float, ...]:
    """Return values to so many significant digits, and 0 without a sign."""
    return tuple(float(f"{value:.{digits}g}") + 0.0 for value in values.tolist())


def _words(changes: dict[str, Any]) -> str:
    named = {name: str(value) if name == "then" and value is not None else value for name, value in changes.items()}
    return ", ".join(f"{name}={value!r}" for name, value in named.items())


def sample_pictures() -> Iterator[Image.Image]:
    """Yield pictures of several shapes: some with what photos have, most of it at low frequencies, and one of noise."""
    chance = np.random.default_rng(0)
    for width, height in _SIZES:
        levels = chance.normal(128, 2, (height, width, 3))
        for cells in (4, 8, 16, 32, 64):
            clouds = chance.normal(0, 240 / cells, (cells, cells, 3)).astype(np.float32)
            planes = [Image.fromarray(plane).resize((width, height)) for plane in np.moveaxis(clouds, 2, 0)]
            levels += np.stack([np.asarray(plane) for plane in planes], axis=2)
        yield Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
    yield Image.fromarray(chance.integers(0, 256, (333, 500, 3), dtype=np.uint8))
