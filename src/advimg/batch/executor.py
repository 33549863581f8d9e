"""Who does the attacks of a batch."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from advimg.batch.journal import Journal
from advimg.batch.options import Options
from advimg.batch.pipeline import Pipeline
from advimg.batch.plan import Files, Item, by_photo
from advimg.classifiers.classifier import Classifier, Identity

Ended = Callable[[dict[str, Any]], None]
"""Called with the record of each attack after it is in the journal, in any thread, one at a time."""


class Executor(Protocol):
    """Who does the attacks of a batch."""

    @property
    def classifiers(self) -> Sequence[Identity]:
        """What is attacked: one classifier, or several at once."""

    @property
    def check_on(self) -> Sequence[Identity]:
        """Classifiers that take no part, whose opinion is recorded."""

    @property
    def devices(self) -> Sequence[torch.device]:
        """Where the attacks are made."""

    def attack(
        self,
        items: Sequence[Item],
        files: Files,
        journal: Journal,
        options: Options,
        *,
        began: Callable[[], None],
        ended: Ended,
        stop: threading.Event,
    ) -> None:
        """Attack items and keep the journal.

        Args:
            items: those of one photo stand together.
            files: which files are written.
            journal: of the output folder.
            options: how to go about it.
            began: called once the networks are loaded, before the first photo is read.
            ended: called with each record.
            stop: once it is set, what is complete is written and the rest is dropped.

        Raises:
            DiskError: the disk takes no more.
            ClassifierError: the network does not behave like a classifier.
            DeviceError: a device cannot be used, or none is left.
        """


@dataclass(frozen=True, eq=False)
class InProcess:
    """Attacks in this process, on the device of the classifiers."""

    classifiers: Sequence[Classifier]
    check_on: Sequence[Classifier] = ()

    @property
    def devices(self) -> Sequence[torch.device]:
        """Where the classifiers are."""
        return (self.classifiers[0].device,)

    def attack(
        self,
        items: Sequence[Item],
        files: Files,
        journal: Journal,
        options: Options,
        *,
        began: Callable[[], None],
        ended: Ended,
        stop: threading.Event,
    ) -> None:
        """Attack items, as :class:`Executor` has it."""
        stream = Pipeline(self.classifiers, files, journal, options, check_on=self.check_on, ended=ended, stop=stop)
        began()
        stream.run(by_photo(items))
