"""What programs see in the picture of a result: they take no part in the attack, and judge files alone."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from advimg.changes import Change
from advimg.classifiers.program import Program, pictures_folder
from advimg.engine.job import Result
from advimg.errors import ClassifierError
from advimg.images.encode import encode_png
from advimg.images.photo import Levels, Photo
from advimg.labels import same_class
from advimg.record import Answer, CheckedRecord, CheckedSurvival, CheckedTarget
from advimg.storage.files import file_sha256
from advimg.transforms.base import changed_picture

Answers = tuple[Answer, ...]


class Stopped(Exception):  # noqa: N818 - it is no error
    """A result was not judged to the end, because that was no longer wanted."""


class ProgramVerdicts:
    """Has programs judge results, one program after another.

    A program is given the photo's own file, if that still holds what was attacked, and else a temporary PNG of its
    pixels. The adversarial picture is a temporary PNG, too: the file that is written, but without the record, so that
    no program can read the target from it. What changes make of it that it is to survive are PNGs like that.
    """

    def __init__(self, programs: Iterable[Program]) -> None:
        self._programs = tuple(programs)
        self._before: WeakKeyDictionary[Photo, dict[Program, Answers]] = WeakKeyDictionary()

    def judge(self, result: Result, stop: Callable[[], bool] = lambda: False) -> tuple[CheckedRecord, ...]:
        """Return what each program sees; of one that gives no answer, why.

        Args:
            result: to judge.
            stop: asked before each start of a program, whether to leave it at that.

        Raises:
            Stopped: ``stop`` said so.
        """
        if not self._programs:
            return ()
        try:
            with _files_of(result) as files:
                return tuple(self._judged(program, result, files, stop) for program in self._programs)
        except OSError as error:
            why = f"there is no temporary file for it: {error.strerror or error}"
            return tuple(_unanswered(program, f"{program.name}: {why}") for program in self._programs)

    def _judged(self, program: Program, result: Result, files: "_Files", stop: Callable[[], bool]) -> CheckedRecord:
        def answers(file: Path) -> Answers:
            if stop():
                raise Stopped
            return program.judge(file)

        known = self._before.setdefault(result.job.photo, {})
        try:
            before = known[program] = known.get(program) or answers(files.photo)
            after = answers(files.adversarial)
            changed = {change: answers(file) for change, file in files.changed.items()}
        except ClassifierError as error:
            return _unanswered(program, str(error))
        if result.job.target == "untargeted":
            return _seen(program, _Criterion(before[0].name, away=True), before, after, changed)
        labels = result.judgements[0].classifier.labels
        return _seen(program, _Criterion(labels[result.target]), before, after, changed)


class _Criterion(NamedTuple):
    """As :class:`advimg.engine.criterion.Criterion`, in words.

    Attributes:
        name: of the class that a program has to see; where it has to leave it, as the program itself names it.
        away: whether the program has to leave it.
    """

    name: str
    away: bool = False

    def met(self, answers: Answers) -> bool:
        """Tell whether the first answer is what is wanted."""
        return self._is(answers[0]) != self.away

    def confidence(self, answers: Answers) -> float | None:
        """Return how sure answers are of what is wanted, 0..1; None where they do not say."""
        own = next((each.confidence for each in answers if self._is(each)), None)
        return round(1 - own, 6) if self.away and own is not None else own

    def target(self, answers: Answers) -> tuple[str | None, float | None]:
        """Return the target class and its confidence, where they are known.

        Of an attack without a target, that is the other class that was reached, or came nearest.
        """
        if not self.away:
            return self.name, self.confidence(answers)
        return next(((each.name, each.confidence) for each in answers if not self._is(each)), (None, None))

    def _is(self, answer: Answer) -> bool:
        # A program's own names are different classes, even if one has a synonym of another.
        return answer.name == self.name if self.away else same_class(answer.name, self.name)


def _seen(
    program: Program, criterion: _Criterion, before: Answers, after: Answers, changed: dict[Change, Answers]
) -> CheckedRecord:
    """Hold a program's answers against the criterion of the attack."""
    survives = tuple(
        CheckedSurvival(str(change), criterion.met(each), each[0], criterion.confidence(each))
        for change, each in changed.items()
    )
    target, confidence = criterion.target(after)
    return CheckedRecord(
        model=program.name,
        weights=None,
        weights_sha256=None,
        view=None,
        target=None if target is None else CheckedTarget(None, target),
        before=before[:5],
        after=after[:5],
        fooled=criterion.met(after) and all(each.fooled for each in survives),
        confidence=confidence,
        survives=survives,
    )


def _unanswered(program: Program, error: str) -> CheckedRecord:
    return CheckedRecord(
        model=program.name,
        weights=None,
        weights_sha256=None,
        view=None,
        target=None,
        before=(),
        after=(),
        fooled=False,
        confidence=None,
        error=error,
    )


class _Files(NamedTuple):
    """The files that programs judge."""

    photo: Path
    adversarial: Path
    changed: dict[Change, Path]


@contextmanager
def _files_of(result: Result) -> Iterator[_Files]:
    """Write the files that programs judge; they last like the context.

    Raises:
        OSError: they cannot be written.
    """
    photo, picture = result.job.photo, Image.fromarray(result.levels)
    with pictures_folder() as folder:

        def written(stem: str, levels: Levels, **kept: Any) -> Path:
            path = folder / f"{stem}.png"
            path.write_bytes(encode_png(levels, **kept))
            return path

        kept: dict[str, Any] = {"alpha": photo.alpha, "icc_profile": photo.icc_profile}
        changed = {
            change: written(f"changed{number}", np.asarray(changed_picture(change, picture)))
            for number, change in enumerate(result.job.settings.cases)
        }
        own = _own_file(photo) or written("photo", photo.levels, **kept)
        yield _Files(own, written("adversarial", result.levels, **kept), changed)


def _own_file(photo: Photo) -> Path | None:
    """Return the absolute path of a photo's file; None where there is none, or it is no longer what was attacked."""
    try:
        path = Path(photo.source).absolute()
        return path if path.is_file() and file_sha256(path) == photo.sha256 else None
    except (OSError, ValueError):
        return None
