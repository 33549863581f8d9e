"""The classifiers of one command: those that are attacked, and those that look on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from advimg.classifiers import load
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.spec import ModelSpec
from advimg.cli.options.models import specs_of
from advimg.errors import UsageError
from advimg.labels import Labels


@dataclass(frozen=True, slots=True)
class Networks:
    """What ``--model`` and ``--check-on`` name, not yet loaded: what can be wrong is found out before a download.

    Attributes:
        attacked: at least one.
        watching: those that take no part.
        labels: of each, in this order.
    """

    attacked: tuple[ModelSpec, ...]
    watching: tuple[ModelSpec, ...]
    labels: tuple[Labels, ...]

    @property
    def others(self) -> dict[str, Labels]:
        """The labels of all but the first, by their names."""
        names = [spec.title or spec.model for spec in (*self.attacked, *self.watching)]
        return dict(zip(names[1:], self.labels[1:], strict=True))

    def load(self, given: Mapping[str, Any]) -> tuple[list[Classifier], list[Classifier]]:
        """Load those that are attacked, and those that are not.

        Raises:
            ClassifierError: one cannot be loaded here.
        """
        attacked, watching = (
            load_all(specs, given["device"], progress=not given["quiet"]) for specs in (self.attacked, self.watching)
        )
        return attacked, watching


def load_all(specs: Iterable[ModelSpec], device: str, *, progress: bool) -> list[Classifier]:
    """Load classifiers onto a device.

    Raises:
        UsageError: no such device.
        ClassifierError: one cannot be loaded here.
    """
    return [load.load_classifier(spec, device=device, progress=progress) for spec in specs]


def networks_of(given: Mapping[str, Any]) -> Networks:
    """Return what the options name.

    Raises:
        UsageError: no such model, or one is both attacked and to look on.
        ClassifierError: a TOML file, labels or weights cannot be read.
    """
    attacked = tuple(specs_of(given["models"], given))
    watching = tuple(ModelSpec.of(name) for name in dict.fromkeys(given["check_on"]))
    for spec in watching:
        if spec in attacked:
            raise UsageError(f"--check-on {spec.title or spec.model} is attacked itself; leave out one of the two")
    return Networks(attacked, watching, tuple(map(load.labels_of, (*attacked, *watching))))
