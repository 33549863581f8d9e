"""Where the attacks of a batch are made: the interface, and the executor in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from advimg.batches.pipeline import Pipeline, Run
from advimg.batches.plan import Item, by_photo
from advimg.classifiers.classifier import Classifier, Identity
from advimg.classifiers.program import Program


class Executor(Protocol):
    """Makes the attacks of a batch."""

    @property
    def classifiers(self) -> Sequence[Identity]:
        """The classifiers to attack: one, or several at once."""

    @property
    def check_on(self) -> Sequence[Identity | Program]:
        """Classifiers and programs that are not attacked, and whose predictions are recorded."""

    @property
    def devices(self) -> Sequence[torch.device]:
        """The devices of the attacks."""

    def attack(self, items: Sequence[Item], run: Run) -> None:
        """Attack items and keep the journal of a run; those of one photo follow each other.

        Raises:
            DiskError: the disk is full.
            ClassifierError: the network does not behave like a classifier.
            DeviceError: a device cannot be used, or none is left.
        """


@dataclass(frozen=True, eq=False)
class InProcess:
    """Attacks in this process, on the device of the classifiers."""

    classifiers: Sequence[Classifier]
    check_on: Sequence[Classifier | Program] = ()

    @property
    def devices(self) -> Sequence[torch.device]:
        """The device of the classifiers."""
        return (self.classifiers[0].device,)

    def attack(self, items: Sequence[Item], run: Run) -> None:
        """Attack items; see :meth:`Executor.attack`."""
        pipeline = Pipeline(self.classifiers, self.check_on, run)
        run.began()
        pipeline.run(by_photo(items))
