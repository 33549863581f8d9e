"""Several classifiers that look at the same pictures, each through its own preprocessing."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from advimg.classifiers.classifier import Classifier, Verdict
from advimg.errors import UsageError
from advimg.images.photo import Levels, Photo


class Ensemble:
    """Classifiers that judge together.

    Attributes:
        classifiers: in the order in which verdicts are given.
        device: where all of them are.

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
        self._seen: WeakKeyDictionary[Photo, tuple[Verdict, ...]] = WeakKeyDictionary()

    @property
    def name(self) -> str:
        """The classifiers' names, for messages."""
        return " and ".join(classifier.name for classifier in self.classifiers)

    def judge_photo(self, photo: Photo) -> tuple[Verdict, ...]:
        """Say what each sees in a photo; asked again for the same photo, it does not look again.

        Raises:
            PhotoError, ClassifierError: as :meth:`Classifier.judge_photo`.
        """
        if photo not in self._seen:
            self._seen[photo] = tuple(classifier.judge_photo(photo) for classifier in self.classifiers)
        return self._seen[photo]

    def judge(self, levels: Levels) -> tuple[Verdict, ...]:
        """Say what each sees in a picture.

        Raises:
            ClassifierError: as :meth:`Classifier.judge`.
        """
        return tuple(classifier.judge(levels) for classifier in self.classifiers)
