"""The Python interface: one photo, one call."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from PIL import Image

from advimg.checking import look_on
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine
from advimg.engine.job import Job
from advimg.engine.step_report import Watcher
from advimg.images.decode import decode_photo, photo_from_pixels, read_photo
from advimg.images.mask import mask_for
from advimg.images.photo import Photo
from advimg.outcome import Outcome, outcome_of
from advimg.settings import DEFAULT_MODEL, Norm, Precision, Settings, checked_eps
from advimg.target_names import read_target
from advimg.verification import Verification, verify_photo

Picture = str | Path | bytes | Image.Image | npt.NDArray[Any] | Photo
"""A photo as callers have it: a path, a file's bytes, a PIL image, or levels [height, width, 3], uint8."""

Model = str | Classifier
"""A classifier, or its name as for :func:`advimg.load_classifier`."""


def attack(
    photo: Picture,
    target: str | int,
    *,
    model: Model | Sequence[Model] = DEFAULT_MODEL,
    check_on: Sequence[Model] = (),
    mask: Picture | None = None,
    settings: Settings | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    watch: Watcher | None = None,
    **changes: Any,
) -> Outcome:
    """Turn a photo into a picture that the classifier, or each of several, takes for the target.

    Args:
        photo: what to attack.
        target: the class's name or index; or "random", "least-likely", "runner-up", "untargeted".
        model: a name as for :func:`advimg.load_classifier`, or a classifier; several are fooled by one picture.
        check_on: classifiers that take no part; the record tells what they see.
        mask: where the photo may be changed: a picture of its size, white where it may.
        settings: how to go about it; the defaults if None.
        precision: what gradients are computed in: "auto", "fp32" or "bf16".
        device: where to load a model given by name.
        watch: called at each step with a report of where the attack stands.
        **changes: single settings, such as ``eps=4``, ``confidence=0.99``; see :class:`advimg.Settings`.

    Returns:
        The outcome; ``outcome.record.fooled`` tells whether the target was reached, ``outcome.save()`` writes the PNG.

    Raises:
        AdvimgError: the photo cannot be read, the target is unknown, the model cannot be loaded.
    """
    settings = replace(settings or Settings(), **changes)
    models = [model] if isinstance(model, str | Classifier) else model
    classifiers, checking = ([_classifier(each, device) for each in group] for group in (models, check_on))
    first, *others = Ensemble(classifiers).classifiers
    aim = read_target(target, first.labels, {other.name: other.labels for other in (*others, *checking)})
    engine = Engine(*classifiers, precision=precision)
    photo = open_photo(photo)
    free = None if mask is None else mask_for(photo, open_photo(mask))
    result = engine.attack(Job(photo=photo, target=aim, settings=settings, mask=free), watch=watch)
    checked = look_on(result, Ensemble(checking)) if checking else ()
    return outcome_of(result, checked=checked)


def classify(photo: Picture, *, model: Model = DEFAULT_MODEL, device: str = "auto") -> Verdict:
    """Say what a classifier sees in a photo; ``verdict.top(5)`` lists it.

    Raises:
        AdvimgError: the photo cannot be read, or the model cannot be loaded.
    """
    classifier = _classifier(model, device)
    return classifier.judge_photo(open_photo(photo))


def verify(
    adversarial: Picture,
    original: Picture,
    target: str | int,
    *,
    eps: float,
    norm: Norm = "linf",
    model: Model = DEFAULT_MODEL,
    device: str = "auto",
    mask: Picture | None = None,
) -> Verification:
    """Check the promise on a file, whoever made it: same size, within ε levels, taken for the target.

    Raises:
        AdvimgError: a picture cannot be read, the target is unknown, or the model cannot be loaded.
    """
    classifier = _classifier(model, device)
    photo = open_photo(original)
    return verify_photo(
        open_photo(adversarial),
        photo,
        classifier=classifier,
        target=classifier.labels.find(target),
        eps=checked_eps(eps, norm),
        norm=norm,
        mask=None if mask is None else mask_for(photo, open_photo(mask)),
    )


def open_photo(photo: Picture) -> Photo:
    """Decode a photo as callers have it.

    Raises:
        PhotoError: it cannot be read.
    """
    if isinstance(photo, Photo):
        return photo
    if isinstance(photo, bytes):
        return decode_photo(photo, source="bytes")
    if isinstance(photo, str | Path):
        return read_photo(photo)
    return photo_from_pixels(photo)


def _classifier(model: Model, device: str) -> Classifier:
    return model if isinstance(model, Classifier) else load_classifier(model, device=device)
