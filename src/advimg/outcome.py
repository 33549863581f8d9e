"""The outcome of one attack: its record, its picture, and the saving that keeps the promise."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL
import torch
from PIL import Image

from advimg import __version__
from advimg.classifiers.classifier import Identity
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.program import Program
from advimg.engine.criterion import Judgement, criteria_for
from advimg.engine.job import Result
from advimg.engine.verdicts import judge, judgements
from advimg.images.decode import decode_photo
from advimg.images.encode import encode_png
from advimg.images.perturbation import PERTURBATION_KEY, Amplify, Shown, amplified, factor_for, measure_change
from advimg.images.photo import Levels, Photo
from advimg.images.visibility import measure_visibility
from advimg.outputs import png_path
from advimg.record import NOT_JUDGED, SCHEMA, CheckedRecord, Environment, NetworkRecord, Record, Target
from advimg.settings import Settings
from advimg.storage.places import write_whole
from advimg.storage.url import Place, Url


@dataclass(eq=False)
class Outcome:
    """The result of an attack on a photo.

    Attributes:
        record: what was asked, done and seen, and the file that was saved last, if one was.
        photo: the photo that was attacked.
        levels: the adversarial picture, [height, width, 3], uint8: exactly what the record's verdict judged.
        choices: why gradients were computed in the precision they were, for each network; empty where it was given.
    """

    record: Record
    photo: Photo
    levels: Levels
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The result of the attack, in a few lines."""
        record = self.record
        changes = [f"{record.source}: {record.attacked[0].change}"]
        changes += [f"  {other.change}, by {other.model}" for other in record.ensemble]
        file = record.outputs.get("adversarial")
        where = f"saved as {file}" if file else "not saved; outcome.save('NAME.png') writes it"
        return "\n".join([*changes, f"  ε = {record.eps:g}: {record.largest_change}", f"  {where}"])

    def __repr__(self) -> str:
        """The same in one line."""
        return f"<Outcome {'; '.join(line.strip() for line in str(self).splitlines())}>"

    @property
    def picture(self) -> Image.Image:
        """The adversarial picture, with the photo's own alpha if it has one."""
        picture = Image.fromarray(self.levels)
        if self.photo.alpha is not None:
            picture.putalpha(Image.fromarray(self.photo.alpha))
        return picture

    def perturbation(self, amplify: Amplify = "auto") -> Levels:
        """Return the perturbation made visible, mid-grey + factor·δ, [height, width, 3], uint8.

        The factor "auto" lets the largest change span the range; it is never less than 10.
        """
        return amplified(self.photo.levels, self.levels, factor_for(amplify, self.record.linf))

    def perturbation_png(self, amplify: Amplify = "auto", *, metadata: bool = True) -> bytes:
        """Encode the perturbation's picture, with its factor in a text chunk if ``metadata``."""
        shown = Shown(amplify, factor_for(amplify, self.record.linf))
        return encode_png(
            self.perturbation(amplify), chunk=shown.to_chunk() if metadata else None, key=PERTURBATION_KEY
        )

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

    @overload
    def save(self, path: Path, *, metadata: bool = True, overwrite: bool = False) -> Path: ...
    @overload
    def save(self, path: str | Url, *, metadata: bool = True, overwrite: bool = False) -> Place: ...
    def save(self, path: str | Place, *, metadata: bool = True, overwrite: bool = False) -> Place:
        """Write the adversarial PNG, whole or not at all, and check what is on disk before it appears.

        The record's ``outputs`` name it from then on.

        Args:
            path: the file, or a URL of an object; its name must end in ``.png``.
            metadata: whether the PNG's text chunk holds the record.
            overwrite: whether a file that is there may be replaced.

        Returns:
            The path.

        Raises:
            UsageError: the name ends otherwise.
            OutputError: it cannot be written, exists, or does not read back as it was judged.
        """
        where = png_path(path)
        write_whole(where, self.png(metadata=metadata), overwrite=overwrite, check=self.holds)
        self.record = replace(self.record, outputs={"adversarial": str(where)})
        return where


def pixels_sha256(levels: Levels, alpha: Levels | None) -> str:
    """Return the hash of a picture's pixels, to compare it where the picture itself would take too much memory.

    Args:
        levels: [height, width, 3], uint8.
        alpha: [height, width], uint8, if it has one.
    """
    digest = hashlib.sha256(repr((levels.shape, alpha is not None)).encode())
    digest.update(levels.tobytes())
    if alpha is not None:
        digest.update(alpha.tobytes())
    return digest.hexdigest()


def judge_result(result: Result, ensemble: Ensemble) -> tuple[Judgement, ...]:
    """Show a result to classifiers that took no part.

    Raises:
        PhotoError: a photo of this shape cannot be shown to one of them.
        ClassifierError: the output of one is not finite logits.
        UsageError: one has no class of the target's name.
    """
    before = ensemble.judge_photo(result.job.photo)
    target = None if result.job.target == "untargeted" else result.target
    criteria = criteria_for(target, result.judgements[0].classifier.labels, ensemble.classifiers, before)
    return judgements(ensemble, criteria, before, judge(ensemble, result.levels, result.job.settings.cases))


def outcome_of(
    result: Result,
    *,
    checked: Sequence[Judgement] = (),
    answers: Sequence[CheckedRecord] = (),
    choices: tuple[str, ...] = (),
) -> Outcome:
    """Write the record of a result.

    Args:
        result: of a job.
        checked: what classifiers that took no part see.
        answers: what programs see, which never take part.
        choices: as in :class:`Outcome`.
    """
    settings, photo = result.job.settings, result.job.photo
    change = measure_change(photo.levels, result.levels)
    mask = result.job.mask
    if mask is not None and not mask.kept(photo.levels, result.levels):
        raise AssertionError("the perturbation crosses the mask")
    if not change.within(result.eps, settings.norm):
        raise AssertionError(f"the perturbation ({change}) is larger than eps = {result.eps} in {settings.norm}")
    first, *others = result.judgements
    record = Record(
        advimg=__version__,
        **_network(first.classifier),
        ensemble=tuple(map(_seen, others)),
        checked=(*(CheckedRecord.of(_seen(each)) for each in checked), *answers),
        settings=settings.to_record() | {"eps": result.eps},
        eps_tried=result.tried,
        device=first.classifier.device.type,
        precision=result.precision,
        environment=_environment(first.classifier.device),
        source=photo.source,
        source_sha256=photo.sha256,
        size=photo.size,
        target=_target(first),
        target_rule=None if isinstance(result.job.target, int) else result.job.target,
        mask_sha256=None if mask is None else mask.sha256,
        before=first.before.top(5),
        after=first.after.top(5),
        fooled=result.fooled,
        confidence=round(first.confidence, 6),
        survives=first.survives,
        linf=change.linf,
        l2=round(change.l2, 6),
        psnr=change.psnr,
        visibility=measure_visibility(photo.levels, result.levels),
        steps=result.steps,
        gradients=result.gradients,
        seconds=round(result.seconds, 3),
        outputs={},
    )
    return Outcome(record, photo, result.levels, choices)


def known_before(
    settings: Settings,
    classifiers: Sequence[Identity],
    device: str,
    precision: str,
    *,
    check_on: Sequence[Identity | Program] = (),
) -> dict[str, Any]:
    """Return the fields of the record that are known before an attack, as plain JSON values.

    Args:
        settings: of the attack.
        classifiers: that are attacked.
        device: on which.
        precision: of the gradients.
        check_on: those that take no part.
    """
    first, *others = classifiers
    return {
        "advimg": __version__,
        "schema": SCHEMA,
        **_network(first),
        "ensemble": [_network(classifier) | NOT_JUDGED for classifier in others],
        "checked": [
            (_program(judge) if isinstance(judge, Program) else _network(judge)) | NOT_JUDGED | {"error": None}
            for judge in check_on
        ],
        **settings.to_record(),
        "eps_tried": [],
        "device": device,
        "precision": precision,
        "environment": None,
    }


def _network(classifier: Identity) -> dict[str, Any]:
    return {
        "model": classifier.name,
        "weights": classifier.weights,
        "weights_sha256": classifier.weights_sha256,
        "view": classifier.view,
    }


def _program(program: Program) -> dict[str, Any]:
    return {"model": program.name, "weights": None, "weights_sha256": None, "view": None}


def _environment(device: torch.device) -> Environment:
    """Return what decides about the bytes of a file on this machine, besides the photo and the settings."""
    return {
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _seen(judgement: Judgement) -> NetworkRecord:
    return NetworkRecord(
        **_network(judgement.classifier),
        target=_target(judgement),
        before=judgement.before.top(5),
        after=judgement.after.top(5),
        fooled=judgement.fooled,
        confidence=round(judgement.confidence, 6),
        survives=judgement.survives,
    )


def _target(judgement: Judgement) -> Target:
    return Target(judgement.target, judgement.classifier.labels[judgement.target])


def _equal(one: Levels | None, other: Levels | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)
