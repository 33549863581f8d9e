"""The outcome of one attack: its record, its picture, and the saving that keeps the promise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from advimg import __version__
from advimg.classifiers.classifier import Classifier
from advimg.engine.slot import Result
from advimg.images.decode import decode_photo
from advimg.images.encode import encode_png
from advimg.images.files import write_whole
from advimg.images.perturbation import amplified, measure_change
from advimg.images.photo import Levels, Photo
from advimg.outputs import png_path
from advimg.record import Record, Target
from advimg.settings import Settings


@dataclass(frozen=True, eq=False)
class Outcome:
    """What an attack made of a photo.

    Attributes:
        record: what was asked, done and seen.
        photo: the photo that was attacked.
        levels: the adversarial picture, [height, width, 3], uint8: exactly what the record's verdict judged.
    """

    record: Record
    photo: Photo
    levels: Levels

    @property
    def picture(self) -> Image.Image:
        """The adversarial picture, with the photo's own alpha if it has one."""
        picture = Image.fromarray(self.levels)
        if self.photo.alpha is not None:
            picture.putalpha(Image.fromarray(self.photo.alpha))
        return picture

    def perturbation(self, amplify: float = 10) -> Levels:
        """Return the perturbation made visible, mid-grey + amplify·δ, [height, width, 3], uint8."""
        return amplified(self.photo.levels, self.levels, amplify)

    def png(self, *, metadata: bool = True) -> bytes:
        """Encode the adversarial picture, with the record in its text chunk if ``metadata``."""
        return encode_png(
            self.levels,
            alpha=self.photo.alpha,
            icc_profile=self.photo.icc_profile,
            chunk=self.record.to_chunk() if metadata else None,
        )

    def holds(self, png: bytes) -> bool:
        """Open a PNG anew and tell whether it is the picture that was judged, pixel for pixel, alpha included."""
        width, height = self.photo.size
        reopened = decode_photo(png, source="the PNG", max_pixels=width * height)
        return np.array_equal(reopened.levels, self.levels) and _equal(reopened.alpha, self.photo.alpha)

    def save(self, path: str | Path, *, metadata: bool = True, overwrite: bool = False) -> Path:
        """Write the adversarial PNG, whole or not at all, and check what is on disk before it appears.

        Args:
            path: the file; its name must end in ``.png``.
            metadata: whether the PNG's text chunk holds the record.
            overwrite: whether a file that is there may be replaced.

        Returns:
            The path.

        Raises:
            UsageError: the name ends otherwise.
            OutputError: it cannot be written, exists, or does not read back as it was judged.
        """
        path = png_path(path)
        write_whole(path, self.png(metadata=metadata), overwrite=overwrite, check=self.holds)
        return path


def outcome_of(result: Result, classifier: Classifier, precision: str) -> Outcome:
    """Write the record of a result."""
    settings, photo = result.job.settings, result.job.photo
    change = measure_change(photo.levels, result.levels)
    if change.linf > settings.eps:
        raise AssertionError(f"the perturbation reaches {change.linf} levels, more than eps = {settings.eps}")
    record = Record(
        **asked_of(result.job.settings, classifier, precision),
        source=photo.source,
        source_sha256=photo.sha256,
        size=photo.size,
        target=Target(result.target, classifier.labels[result.target]),
        target_rule=None if isinstance(result.job.target, int) else result.job.target,
        before=result.before.top(5),
        after=result.after.top(5),
        fooled=result.fooled,
        confidence=round(result.after.confidence(result.target), 6),
        linf=change.linf,
        psnr=change.psnr,
        steps=result.steps,
        gradients=result.gradients,
        seconds=round(result.seconds, 3),
        outputs={},
    )
    return Outcome(record, photo, result.levels)


def asked_of(settings: Settings, classifier: Classifier, precision: str) -> dict[str, Any]:
    """Return the fields of the record that say what was asked, of whom, and with what."""
    return {
        "advimg": __version__,
        "model": classifier.name,
        "weights": classifier.weights,
        "weights_sha256": classifier.weights_sha256,
        "view": classifier.view.to_dict(),
        "eps": settings.eps,
        "seed": settings.seed,
        "min_confidence": settings.confidence,
        "max_steps": settings.steps,
        "step_size": settings.alpha,
        "momentum": settings.momentum,
        "loss": settings.loss,
        "restarts": settings.restarts,
        "device": classifier.device.type,
        "precision": precision,
    }


def _equal(one: Levels | None, other: Levels | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
