"""The models of an attack, as callers name them: those that are attacked, and those that only see the file."""

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from torch import nn

from advimg.classifiers import load
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.program import PREFIX, Program, no_network
from advimg.classifiers.sources.base import takes_words
from advimg.classifiers.spec import ModelSpec
from advimg.errors import UsageError
from advimg.labels import Labels, each_once
from advimg.record import MOST_NETWORKS
from advimg.settings import TargetRule
from advimg.target_names import is_new_word, read_target

Model = str | Path | ModelSpec | Classifier
"""A classifier, or its name as for :func:`advimg.load_classifier`."""
Judge = Model | Program
"""What can take no part and judge the file: a classifier, or a program, such as ``exec:./predict``."""


@dataclass(frozen=True, slots=True)
class Models:
    """Models that are perhaps not loaded yet: what can be wrong is found out before a download.

    Attributes:
        attacked: at least one.
        check_on: those that take no part; programs are the last.
        labels: of each but the programs, in this order.
    """

    attacked: tuple[ModelSpec | Classifier, ...]
    check_on: tuple[ModelSpec | Classifier | Program, ...]
    labels: tuple[Labels, ...]

    @classmethod
    def of(cls, model: Model | Sequence[Model], check_on: Judge | Sequence[Judge] = ()) -> Self:
        """Take models as callers give them, one or several.

        Raises:
            UsageError: there is none or no such model, it is of a wrong type, is both attacked and to be checked on, or
                is attacked and a program.
            ClassifierError: a TOML file, labels or weights cannot be read, or there is no such program.
        """
        attacked = tuple(map(_known, _several(model)))
        judges = tuple(map(_judge, _several(check_on)))
        programs = tuple(each for each in judges if isinstance(each, Program))
        watching = tuple(each for each in judges if not isinstance(each, Program))
        if not attacked:
            raise UsageError("there is no classifier; give at least one")
        if max(len(attacked) - 1, len(judges)) > MOST_NETWORKS:
            raise UsageError(f"a record holds at most {MOST_NETWORKS} classifiers; give fewer")
        for each in watching:
            if each in attacked:
                raise UsageError(f"{_name(each)} is both attacked and checked on; leave out one of the two")
        if len(set(programs)) < len(programs):
            raise UsageError("a program to check on is given twice")
        specs = iter(told_apart([each for each in (*attacked, *watching) if isinstance(each, ModelSpec)]))
        named = [next(specs) if isinstance(each, ModelSpec) else each for each in (*attacked, *watching)]
        check = (*named[len(attacked) :], *programs)
        return cls(tuple(named[: len(attacked)]), check, tuple(map(_labels, named)))

    def joined_by(self, targets: Iterable[str | int]) -> Self:
        """Add the targets that are no classes to the words of those models that see words typed by hand.

        Each is added once, with spaces for its underscores.

        Raises:
            ClassifierError: the source of a model cannot be used here.
        """
        targets = list(targets)
        own = [each for each in (*self.attacked, *self.check_on) if not isinstance(each, Program)]
        changed = tuple(_joined(model, names, targets) for model, names in zip(own, self.labels, strict=True))
        labels = tuple(
            names if new is old else _labels(new) for old, new, names in zip(own, changed, self.labels, strict=True)
        )
        count = len(self.attacked)
        programs = (each for each in self.check_on if isinstance(each, Program))
        return type(self)(changed[:count], (*changed[count:], *programs), labels)

    def read_target(self, target: str | int) -> int | TargetRule:
        """Read a target as :func:`advimg.target_names.read_target` does, for all of them.

        Raises:
            UsageError: one of them has no such class.
        """
        return read_target(target, self.labels[0], self.other_labels)

    @property
    def other_labels(self) -> dict[str, Labels]:
        """The labels of all but the first, by their names."""
        names = (_name(each) for each in (*self.attacked, *self.check_on) if not isinstance(each, Program))
        return dict(list(zip(names, self.labels, strict=True))[1:])

    def load(
        self, device: str = "auto", *, progress: bool = True
    ) -> tuple[list[Classifier], list[Classifier | Program]]:
        """Load those that are attacked and those that are not, where they are not loaded yet.

        Args:
            device: where to load them.
            progress: whether a download shows a progress bar on stderr.

        Raises:
            UsageError: no such device.
            ClassifierError: one cannot be loaded here.
        """

        def loaded(model: ModelSpec | Classifier) -> Classifier:
            if isinstance(model, Classifier):
                return model
            return load.load_classifier(model, device=device, progress=progress)

        attacked = [loaded(each) for each in self.attacked]
        return attacked, [each if isinstance(each, Program) else loaded(each) for each in self.check_on]


def told_apart(specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """Return specs of which no two TOML files have one title: ``a/mine.toml`` and ``b/mine.toml``."""
    files = dict.fromkeys(spec.file for spec in specs if spec.file)
    return [_titled(spec, spec.file, files) if spec.file else spec for spec in specs]


def _titled(spec: ModelSpec, own: Path, files: Iterable[Path]) -> ModelSpec:
    others = [file.parts for file in files if file.name == own.name and file != own]
    if not others:
        return spec
    parts = own.parts
    length = next(n for n in range(1, len(parts) + 1) if all(other[-n:] != parts[-n:] for other in others))
    return replace(spec, title="/".join(parts[-length:]))


def _joined(model: ModelSpec | Classifier, labels: Labels, targets: Iterable[str | int]) -> ModelSpec | Classifier:
    """Return a model with the targets that it lacks among its words, if it sees words typed by hand."""
    words = (str(target).replace("_", " ") for target in targets if is_new_word(target, labels))
    added = each_once(" ".join(word.split()) for word in words)
    if not added or isinstance(model, Classifier) or not takes_words(model.model):
        return model
    return replace(model, labels=(*labels.names, *added))


def _several(model: Judge | Sequence[Judge]) -> Iterable[object]:
    return model if isinstance(model, Sequence) and not isinstance(model, str) else [model]


def _judge(model: object) -> ModelSpec | Classifier | Program:
    if isinstance(model, Program):
        return model
    return Program.of(str(model)) if isinstance(model, str | Path) and str(model).startswith(PREFIX) else _known(model)


def _known(model: object) -> ModelSpec | Classifier:
    if isinstance(model, ModelSpec | Classifier):
        return model
    if isinstance(model, str | Path):
        return ModelSpec.of(str(model))
    if isinstance(model, Program):
        raise no_network(model.name)
    if isinstance(model, nn.Module):
        raise UsageError(
            f"model {type(model).__name__} is a bare network; wrap it, so that its classes and its preprocessing are "
            "known: advimg.Classifier.wrap(network, labels=..., mean=..., std=...)"
        )
    shown = " ".join(reprlib.repr(model).split())
    raise UsageError(f"model {shown}: give a name like 'resnet50', a TOML file, or an advimg.Classifier")


def _name(model: ModelSpec | Classifier) -> str:
    return model.name if isinstance(model, Classifier) else model.title or model.model


def _labels(model: ModelSpec | Classifier) -> Labels:
    return model.labels if isinstance(model, Classifier) else load.labels_of(model)
