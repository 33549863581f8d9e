"""The Python interface: one photo, one call."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
from PIL import Image

from advimg.classifiers.classifier import Classifier, Verdict
from advimg.classifiers.load import load_classifier
from advimg.engine.engine import Engine, Watcher
from advimg.engine.slot import Job
from advimg.images.decode import decode_photo, photo_from_pixels, read_photo
from advimg.images.photo import Photo
from advimg.outcome import Outcome, outcome_of
from advimg.settings import DEFAULT_MODEL, Precision, Settings, whole_eps
from advimg.targets import read_target
from advimg.verification import Verification, verify_photo

Picture = str | Path | bytes | Image.Image | npt.NDArray[Any] | Photo
"""A photo as callers have it: a path, a file's bytes, a PIL image, or levels [height, width, 3], uint8."""


def attack(
    photo: Picture,
    target: str | int,
    *,
    model: str | Classifier = DEFAULT_MODEL,
    settings: Settings | None = None,
    precision: Precision = "auto",
    device: str = "auto",
    watch: Watcher | None = None,
    **changes: Any,
) -> Outcome:
    """Turn a photo into a picture that the classifier takes for the target.

    Args:
        photo: what to attack.
        target: the class's name or index; or "random", "least-likely", "runner-up", "untargeted".
        model: a name as for :func:`advimg.load_classifier`, or a classifier.
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
    classifier = _classifier(model, device)
    job = Job(photo=open_photo(photo), target=read_target(target, classifier.labels), settings=settings)
    engine = Engine(classifier, precision=precision)
    return outcome_of(engine.attack(job, watch=watch), classifier, engine.precision)


def classify(photo: Picture, *, model: str | Classifier = DEFAULT_MODEL, device: str = "auto") -> Verdict:
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
    eps: int,
    model: str | Classifier = DEFAULT_MODEL,
    device: str = "auto",
) -> Verification:
    """Check the promise on a file, whoever made it: same size, within ε levels, taken for the target.

    Raises:
        AdvimgError: a picture cannot be read, the target is unknown, or the model cannot be loaded.
    """
    classifier = _classifier(model, device)
    return verify_photo(
        open_photo(adversarial),
        open_photo(original),
        classifier=classifier,
        target=classifier.labels.find(target),
        eps=whole_eps(eps),
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


def _classifier(model: str | Classifier, device: str) -> Classifier:
    return model if isinstance(model, Classifier) else load_classifier(model, device=device)
