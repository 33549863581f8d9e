"""The networks that the records of a folder name, as judges of its files."""

from collections.abc import Callable, Collection, Sequence

from advimg.classifiers import load
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.sources.base import takes_words
from advimg.classifiers.spec import ModelSpec
from advimg.errors import AdvimgError, UsageError
from advimg.models import Models, told_apart
from advimg.record import NetworkRecord
from advimg.recorded_models import check_published, with_words


class RecordedNetworks:
    """The networks that judge, each loaded once, when it is first needed, and dropped when it no longer is.

    Args:
        given: by a person.
        named: what records name.
        device: where they are loaded.
        progress: whether a download shows a progress bar on stderr.
        warn: called with a line for a person.

    Raises:
        UsageError: no record names one that was given.
        ClassifierError: one that was given cannot be loaded.
    """

    def __init__(
        self,
        given: Sequence[ModelSpec | Classifier],
        named: Collection[str],
        *,
        device: str,
        progress: bool,
        warn: Callable[[str], None],
    ) -> None:
        self._device = device
        self._progress = progress
        self._warn = warn
        self._told: set[str] = set()
        self._loaded: dict[object, Ensemble | AdvimgError] = {}
        self._given: dict[str, Ensemble] = {}
        self._of_words: list[ModelSpec] = []  # whose words, and so whose names, only a record tells
        specs = iter(told_apart([each for each in given if isinstance(each, ModelSpec)]))
        for model in (next(specs) if isinstance(each, ModelSpec) else each for each in given):
            if isinstance(model, ModelSpec) and model.labels is None and takes_words(model.model):
                self._of_words.append(model)
                continue
            name = model.name if isinstance(model, Classifier) else load.recorded_name(model)
            if name not in named:  # before a download
                raise UsageError(f"no record names {name}; they name {', '.join(named)}")
            self._given[name] = self._load(model)

    def of(self, network: NetworkRecord) -> Ensemble:
        """Return the one that a record names.

        Raises:
            AdvimgError: it cannot be loaded, or is not loaded for a record alone.
        """
        ensemble = self._given.get(network.model)
        view = network.view
        key = (network.model, network.weights, tuple(view.get("words", ())), view.get("prompt"))
        if ensemble is None:
            if key not in self._loaded:
                try:
                    self._loaded[key] = self._find(network)
                except AdvimgError as error:
                    self._loaded[key] = error.with_traceback(None)
            known = self._loaded[key]
            if isinstance(known, AdvimgError):
                raise known
            ensemble = known
        if network.weights_sha256 not in (None, ensemble.classifiers[0].weights_sha256):
            self._tell(f"the weights of {network.model} are not those that the records name")
        return ensemble

    def keep(self, names: Collection[str]) -> None:
        """Drop all others."""
        self._given = {name: each for name, each in self._given.items() if name in names}
        self._loaded = {
            key: each for key, each in self._loaded.items() if isinstance(each, AdvimgError) or each.name in names
        }

    def _find(self, network: NetworkRecord) -> Ensemble:
        for spec in self._of_words:
            ensemble = self._load(with_words(spec, network.view))
            if ensemble.name == network.model:
                return ensemble
        check_published(network, called="the file")
        return self._load(with_words(ModelSpec.of(network.model), network.view))

    def _load(self, model: ModelSpec | Classifier) -> Ensemble:
        (classifier,), _ = Models.of(model).load(self._device, progress=self._progress)
        return Ensemble([classifier])

    def _tell(self, line: str) -> None:
        """Warn once."""
        if line not in self._told:
            self._told.add(line)
            self._warn(line)
