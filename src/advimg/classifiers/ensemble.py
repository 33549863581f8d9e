"""Ensembles: several classifiers of the same pictures, each with its own preprocessing."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from advimg.classifiers.classifier import Classifier, Verdict
from advimg.errors import UsageError
from advimg.images.photo import Levels, Photo


class Ensemble:
    """Classifiers whose verdicts are given together.

    Attributes:
        classifiers: in the order of the verdicts.
        device: of all of them.

    Raises:
        UsageError: there are none, one is there twice, or they are on different devices.
    """

    def __init__(self, classifiers: Iterable[Classifier]) -> None:
        self.classifiers = tuple(classifiers)
        if not self.classifiers:
            raise UsageError("there is no classifier; give at least one")
        if len(set(self.classifiers)) < len(self.classifiers):
            raise UsageError("a classifier is given twice")
        self.device, *others = dict.fromkeys(classifier.device for classifier in self.classifiers)
        if others:
            raise UsageError(f"the classifiers are on different devices, {self.device} and {others[0]}")
        self._verdicts: WeakKeyDictionary[Photo, tuple[Verdict, ...]] = WeakKeyDictionary()

    @property
    def name(self) -> str:
        """The classifiers' names, for messages."""
        return " and ".join(classifier.name for classifier in self.classifiers)

    def judge_photo(self, photo: Photo) -> tuple[Verdict, ...]:
        """Return the verdict of each on a photo; those on the same object are computed once.

        Raises:
            PhotoError, ClassifierError: as :meth:`Classifier.judge_photo`.
        """
        if photo not in self._verdicts:
            self._verdicts[photo] = tuple(classifier.judge_photo(photo) for classifier in self.classifiers)
        return self._verdicts[photo]

    def judge(self, levels: Levels) -> tuple[Verdict, ...]:
        """Return the verdict of each on a picture.

        Raises:
            ClassifierError: as :meth:`Classifier.judge`.
        """
        return tuple(classifier.judge(levels) for classifier in self.classifiers)
