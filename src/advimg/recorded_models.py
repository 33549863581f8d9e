"""The models that a record names: which of them may be loaded for it, and what its target is to them.

Anyone can write a record, so for one alone nothing is loaded but published weights that are on disk.
"""

from collections.abc import Sequence

from advimg.classifiers.load import listed
from advimg.classifiers.sources.base import takes_words
from advimg.classifiers.spec import ModelSpec
from advimg.errors import UsageError
from advimg.labels import Labels
from advimg.record import NetworkRecord, Target, View


def check_once(networks: Sequence[NetworkRecord], *, called: str) -> None:
    """Refuse a record that names a model twice.

    Args:
        networks: that the record names.
        called: what the message calls the file.

    Raises:
        UsageError: it does.
    """
    names = [each.model for each in networks]
    if len(set(names)) < len(names):
        raise UsageError(f"{called}: its record names a model twice; give each with -m")


def check_published(network: NetworkRecord, *, called: str, own_weights: bool = False) -> None:
    """Refuse to load for a record more than published weights that are on disk.

    Args:
        network: that the record names.
        called: what the message calls the file.
        own_weights: whether a person gives the weights.

    Raises:
        UsageError: it names something else.
    """
    model = network.model
    if model.lower().endswith((".toml", ".onnx")):
        raise UsageError(f"{called} was made with {model}; give it with -m")
    if network.weights and not own_weights:
        raise UsageError(f"{called} was made with the weights file {network.weights}; give it with --weights")
    if not own_weights and not any(own.on_disk for own in listed(model) if own.name == model):
        raise UsageError(f"{called} was made with {model}, whose weights are not on disk; give it with -m")


def with_words(spec: ModelSpec, view: View | None) -> ModelSpec:
    """Return a spec; of a model that sees words typed by hand with those of a record, if it has none."""
    if view is not None and "words" in view and spec.labels is None and takes_words(spec.model):
        return spec.changed(labels=tuple(view["words"]), prompt=spec.prompt or view.get("prompt"))
    return spec


def class_of(target: Target, labels: Labels) -> int:
    """Return the index of a recorded target; by its name, where a model has other classes.

    Raises:
        UsageError: there is no such class.
    """
    if not target.name and not 0 <= target.index < len(labels):
        raise UsageError(f"class {target.index} is out of range: 0 to {len(labels) - 1}")
    return labels.counterpart(target.index, target.name) if target.name else target.index
